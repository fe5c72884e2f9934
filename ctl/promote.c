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

static int promote(struct cluster *c, char **url, const char *node, uint64_t timeout_ms, bool now)
{
    json_t *body = json_pack("{s:s, s:I, s:b}", "node", node, "timeout_ms", (json_int_t)timeout_ms, "now", now);
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

/* Asks the node itself: the primary does not answer. */
static int force(struct cluster *c, const char *node, bool yes)
{
    struct err e;
    struct nodes ns;
    int status, rc, i = 0;
    json_t *answer = NULL;
    if (cluster_nodes(c, &ns, &e))
        return ctl_fail_err(&e);
    while (i < ns.n && strcmp(ns.items[i].name, node) != 0)
        i++;
    json_t *body = json_pack("{s:s, s:b, s:b}", "node", node, "force", 1, "yes", yes);
    if (i == ns.n || !ns.items[i].status || !body) {
        rc = ctl_fail(i == ns.n ? CTL_USAGE : CTL_UNREACHABLE, i == ns.n ? "promote: no node is called %s" : "promote: %s does not answer", node);
    } else {
        struct request r = {.method = "POST", .url = ns.items[i].url, .path = "/v1/promote", .body = body};
        rc = cluster_ask(c, &r, &status, &answer, &e);
        rc = rc ? ctl_fail_err(&e) : report(answer, node);
    }
    json_decref(answer);
    json_decref(body);
    nodes_free(&ns);
    return rc;
}

static int run(struct cluster *c, int argc, char **argv)
{
    uint64_t timeout = 10000;
    bool forced = false, yes = false, now = false;
    const struct option options[] = {
        {"--timeout", OPTION_DURATION, &timeout, 1, 3600000}, {"--now", OPTION_FLAG, &now, 0, 0}, {"--force", OPTION_FLAG, &forced, 0, 0},
        {"--yes", OPTION_FLAG, &yes, 0, 0}};
    int n, rc = options_parse(&cmd_promote, options, ARRAY_SIZE(options), argc, argv, 1, 1, &n);
    if (rc)
        return rc;
    if (yes && !forced)
        return ctl_fail(CTL_USAGE, "promote: --yes goes with --force");
    if (now && forced)
        return ctl_fail(CTL_USAGE, "promote: --now is for a primary that is there, --force for one that is gone");
    if (forced)
        return force(c, argv[1], yes);
    struct err e;
    _cleanup_free_ char *url = NULL;
    if (cluster_primary(c, &url, &e))
        return ctl_fail_err(&e);
    return promote(c, &url, argv[1], timeout, now);
}

const struct command cmd_promote = {
    .name = "promote",
    .usage = "NODE [--timeout 10s] [--now] | NODE --force [--yes]",
    .summary = "make another node the primary",
    .help = "The primary stops writes, waits until NODE has everything, and hands over. No transaction is lost; writers with a busy\n"
            "time-out see a pause, clients of the proxy too: requests that write are answered first, an upload however long it takes.\n"
            "If that, or NODE's catching up, takes too long, all is undone, the old primary goes on, and the exit code is 1.\n"
            "Promoting the node that is primary already does nothing and succeeds.\n\n"
            "  --timeout TIME  how long NODE may take (default 10s)\n"
            "  --now           do not wait for requests that take longer than a second: their clients may see an error\n"
            "  --force         the primary is gone: NODE takes over without it. Says what may be lost, and does nothing more …\n"
            "  --yes           … unless this is given. What only the old primary had goes into its quarantine when it is back\n",
    .run = run,
};
