#include "ctl/cluster.h"
#include "ctl/field.h"
#include "ctl/options.h"
#include "lib/util.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#define ONE_REQUEST_MS 55000 /* the API waits for at most 60 s; longer waits are several requests */
#define PAUSE_MS 100         /* between them, should a node answer at once instead of waiting */

/* CTL_OK, CTL_NO once the time is over, or another exit code with its message printed. */
static int wait_for(struct cluster *c, const char *url, uint64_t lsn, uint64_t timeout_ms)
{
    uint64_t end = now_ns() / 1000000 + timeout_ms;
    for (;;) {
        uint64_t now = now_ns() / 1000000, ms = now < end ? MIN(end - now, (uint64_t)ONE_REQUEST_MS) : 0;
        struct err e;
        int status;
        json_t *answer = NULL;
        json_t *body = json_pack("{s:I, s:I}", "lsn", (json_int_t)lsn, "timeout_ms", (json_int_t)ms);
        struct request r = {
            .method = "POST", .url = url, .path = "/v1/wait", .body = body, .timeout_ms = ms + CLUSTER_ANSWER_MS};
        int rc = body ? cluster_ask(c, &r, &status, &answer, &e) : err_set(&e, -ENOMEM, "out of memory");
        json_decref(body);
        if (!rc) {
            printf("LSN %" PRIu64 " applied (epoch %" PRIu64 ", now at %" PRIu64 ")\n", lsn, field_u64_or(answer, "epoch", 0),
                   field_u64_or(answer, "lsn", 0));
            json_decref(answer);
            return CTL_OK;
        }
        json_decref(answer);
        if (rc != ERR_REMOTE || status != 408)
            return ctl_fail_err(&e);
        uint64_t answered = now_ns() / 1000000;
        if (answered >= end)
            return ctl_fail(CTL_NO, "%s has not applied LSN %" PRIu64 " within %" PRIu64 " ms", url, lsn, timeout_ms);
        if (answered < now + ms)
            usleep(1000 * (useconds_t)MIN((uint64_t)PAUSE_MS, end - answered));
    }
}

static int run(struct cluster *c, int argc, char **argv)
{
    uint64_t lsn = UINT64_MAX, timeout = 30000;
    const struct option options[] = {
        {"--lsn", OPTION_NUMBER, &lsn, 0, INT64_MAX},
        {"--timeout", OPTION_DURATION, &timeout, 0, UINT64_C(86400000)},
    };
    int n, rc = options_parse(&cmd_wait, options, ARRAY_SIZE(options), argc, argv, 0, 0, &n);
    if (rc)
        return rc;
    if (lsn == UINT64_MAX)
        return ctl_fail(CTL_USAGE, "wait: --lsn N is missing");
    struct err e;
    _cleanup_free_ char *url = NULL;
    if (cluster_one(c, &url, &e))
        return ctl_fail_err(&e);
    return wait_for(c, url, lsn, timeout);
}

const struct command cmd_wait = {
    .name = "wait",
    .usage = "--lsn N [--timeout 30s]",
    .summary = "until a node has applied LSN N",
    .help = "Exit code 0 as soon as the node (--url) has applied that LSN, 1 if it has not within the time.\n\n"
            "  --lsn N         the LSN; `status` and `import` say which one\n"
            "  --timeout TIME  how long to wait (default 30s, at most 24h)\n",
    .run = run,
};
