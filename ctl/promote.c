#include "ctl/cluster.h"
#include "ctl/field.h"
#include "ctl/options.h"
#include "lib/util.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#define HOPS_MAX 3 /* 421 after 421: the role moved while we asked */

static int report(const json_t *answer, const char *node)
{
    uint64_t pause;
    printf("%s is primary: epoch %" PRIu64 ", LSN %" PRIu64, field_text_or(answer, "primary", node),
           field_u64_or(answer, "epoch", 0), field_u64_or(answer, "lsn", 0));
    if (field_u64(answer, "pause_ms", &pause))
        printf("; writes paused for %" PRIu64 " ms", pause);
    putchar('\n');
    return CTL_OK;
}

static int promote(struct cluster *c, char **url, const char *node, uint64_t timeout_ms)
{
    json_t *body = json_pack("{s:s, s:I}", "node", node, "timeout_ms", (json_int_t)timeout_ms);
    if (!body)
        return ctl_fail(CTL_USAGE, "promote: \"%s\" is not the name of a node", node);
    for (int hop = 0;; hop++) {
        struct err e;
        int status;
        json_t *answer = NULL;
        struct request r = {.method = "POST",
                            .url = *url,
                            .path = "/v1/promote",
                            .body = body,
                            .timeout_ms = timeout_ms + CLUSTER_ANSWER_MS};
        int rc = cluster_ask(c, &r, &status, &answer, &e);
        bool again = rc == ERR_REMOTE && status == 421 && hop < HOPS_MAX && cluster_redirect(answer, url);
        if (again) {
            json_decref(answer);
            continue;
        }
        if (!rc)
            rc = report(answer, node);
        else if (rc == ERR_REMOTE && status == 504)
            rc = ctl_fail(CTL_NO, "promotion undone: %s", e.text);
        else if (rc == -EHOSTUNREACH)
            rc = ctl_fail(CTL_UNREACHABLE, "%s; whether %s became primary is not known: `%s status` shows it", e.text, node,
                          CTL_PROGRAM);
        else
            rc = ctl_fail_err(&e);
        json_decref(answer);
        json_decref(body);
        return rc;
    }
}

static int run(struct cluster *c, int argc, char **argv)
{
    uint64_t timeout = 10000;
    const struct option options[] = {{"--timeout", OPTION_DURATION, &timeout, 1, 3600000}};
    int n, rc = options_parse(&cmd_promote, options, ARRAY_SIZE(options), argc, argv, 1, 1, &n);
    if (rc)
        return rc;
    struct err e;
    _cleanup_free_ char *url = NULL;
    if (cluster_primary(c, &url, &e))
        return ctl_fail_err(&e);
    return promote(c, &url, argv[1], timeout);
}

const struct command cmd_promote = {
    .name = "promote",
    .usage = "NODE [--timeout 10s]",
    .summary = "make another node the primary",
    .help = "The primary stops writes, waits until NODE has everything, and hands over. No transaction is lost; writers with a busy\n"
            "time-out see a pause. If NODE does not catch up in time, all is undone, the old primary goes on, and the exit code is 1.\n"
            "Promoting the node that is primary already does nothing and succeeds.\n\n"
            "  --timeout TIME  how long NODE may take (default 10s)\n",
    .run = run,
};
