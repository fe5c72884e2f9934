#include "replicator/cluster/promotion.h"

#include "lib/http/client.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/cluster/discover.h"
#include "lib/filter.h"
#include "replicator/stream/follower.h"
#include "replicator/capture/hooks.h"
#include "replicator/cluster/lease.h"
#include "replicator/cluster/lease_etcd.h"
#include "replicator/stream/position_server.h"
#include "replicator/stream/replicas.h"
#include "replicator/cluster/takeover.h"
#include <errno.h>
#include <inttypes.h>
#include <openssl/rand.h>
#include <stdarg.h>
#include <stdio.h>

#define HOLD_NS 1000000000u /* how long the node's proxy lets new requests that write wait for those under way to end */
#define LOOK_NS 200000000u  /* how often a wait looks whether this process is to end */

/* One promotion at a time, from either side. */
static struct {
    pthread_mutex_t lock; /* guards all below */
    bool running;
    const char *phase;
    char target[128];
    uint64_t cancelled[16]; /* ids of hand-overs that this node must not accept any more */
    unsigned n_cancelled;
    uint64_t accepted; /* id of the last one it did accept */
} state = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct promotion {
    struct node *n;
    char target[128], url[256];
    uint64_t deadline_ns, fenced_ns, id;
    bool at_once; /* requests under way may meet the fence */
    bool unknown; /* stopped before it was known whether the target took over: not a write more */
    void (*done)(void *ctx, const struct promotion_result *r);
    void *ctx;
    struct promotion_result result;
};

static void phase(const char *what)
{
    pthread_mutex_lock(&state.lock);
    state.phase = what;
    pthread_mutex_unlock(&state.lock);
}

static int fail(struct promotion *p, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int fail(struct promotion *p, int status, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p->result.text, sizeof p->result.text, fmt, ap);
    va_end(ap);
    p->result.status = status;
    return -1;
}

static void undo(struct promotion *p)
{
    log_warn("promotion", "undone: %s; this node goes on as primary", p->result.text);
    takeover_writable(p->n);
    /* The application's next write must not meet a file system that still says replica. */
    if (hooks_wait_role(p->n->hooks, now_ns() + 2000000000u))
        log_warn("promotion", "edgefs-fs has not confirmed that this node is primary again");
}

static int fence_and_drain(struct promotion *p)
{
    struct err e;
    phase("fencing");
    p->fenced_ns = now_ns();
    return takeover_fence(p->n, p->deadline_ns, &e) ? fail(p, 504, "%s", e.text) : 0;
}

/* ---- the old primary ---- */

static int post(struct promotion *p, const char *path, json_t *body, int *status, json_t **answer, struct err *e)
{
    char url[300];
    struct http_response r;
    struct http_client *c = http_client_new(
        &(struct http_client_options){.token = p->n->token, .connect_ms = 2000, .idle_ms = 10000, .total_ms = 15000, .max_body = 65536});
    char *text = json_dumps(body, JSON_COMPACT);
    snprintf(url, sizeof url, "%s%s", p->url, path);
    int rc = c && text ? http_client_request(c, "POST", url, NULL, text, strlen(text), &r, e) : err_errno(e, ENOMEM, "promotion");
    if (!rc) {
        *status = r.status;
        *answer = json_loadb(r.body, r.body_len, JSON_REJECT_DUPLICATES, NULL);
        http_response_free(&r);
    }
    free(text);
    json_decref(body);
    http_client_free(c);
    return rc;
}

/* The answer to the hand-over was lost: nobody may write before it is known whether the target took it. */
static bool find_out(struct promotion *p)
{
    phase("asking whether the target took over");
    while (!atomic_load(&p->n->stopping)) {
        struct discovered d;
        struct err e = {0};
        int status = 0;
        json_t *answer = NULL;
        if (!discover_ask(p->n, p->url, &d, &e) && d.role == NODE_PRIMARY)
            return true;
        int rc = post(p, "/v1/handover/cancel", json_pack("{s:I}", "id", (json_int_t)p->id), &status, &answer, &e);
        bool accepted = json_is_true(json_object_get(answer, "accepted"));
        json_decref(answer);
        if (!rc && status == 200)
            return accepted;
        node_warn(p->n, "promotion: %s does not answer (%s); no node accepts writes until it does", p->target, e.text);
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    }
    p->unknown = true;
    return false;
}

static int hand_over(struct promotion *p)
{
    struct err e;
    struct position last = rlog_last(p->n->rlog);
    int status = 0;
    json_t *answer = NULL;
    phase("handing over");
    int rc = post(p, "/v1/handover",
                  json_pack("{s:s,s:I,s:I,s:I}", "from", p->n->config->node, "epoch", (json_int_t)last.epoch, "lsn",
                            (json_int_t)last.lsn, "id", (json_int_t)p->id),
                  &status, &answer, &e);
    if (!rc && status == 200) {
        p->result.pos.epoch = (uint64_t)json_integer_value(json_object_get(answer, "epoch"));
        p->result.pos.lsn = (uint64_t)json_integer_value(json_object_get(answer, "lsn"));
    } else if (!rc && status / 100 == 4) {
        const char *why = json_string_value(json_object_get(answer, "error"));
        rc = fail(p, 409, "%s refused: %.300s", p->target, why ? why : "no reason given");
    } else {
        rc = find_out(p) ? 0 : fail(p, 504, "%s did not take over: %.300s", p->target, rc ? e.text : "it answered with an error");
        p->result.pos = (struct position){lease_next_epoch(p->n, p->target, last.epoch), last.lsn + 1};
    }
    json_decref(answer);
    return rc;
}

/* With etcd the lease moves first: what the target then does not take up by request it takes up by itself, when it sees that the lease is its. */
static int move_lease(struct promotion *p, int64_t *moved)
{
    struct err e;
    struct position last = rlog_last(p->n->rlog);
    phase("moving the lease");
    int rc = lease_etcd_hand_over(p->n->lease, p->target, p->url, (struct position){last.epoch + 1, last.lsn}, moved, &e);
    return rc ? fail(p, 503, "%s", e.text) : 0;
}

/* A target that follows a relay is asked to come here: the last records reach it without a detour, and what it has is known at once. */
static void call_here(struct promotion *p)
{
    struct err e = {0};
    int status = 0;
    json_t *answer = NULL;
    uint64_t now = now_ns();
    const struct config_node *c = config_node(p->n->config, p->target);
    if (replicas_find(p->n->replicas, p->target, p->url) || !c)
        return;
    phase("calling the target");
    snprintf(p->url, sizeof p->url, "%s", c->url);
    int rc = post(p, "/v1/upstream",
                  json_pack("{s:s,s:I}", "url", p->n->config->http.advertise, "for_ms", (json_int_t)(p->deadline_ns > now ? (p->deadline_ns - now) / 1000000u : 0)), &status,
                  &answer, &e);
    const char *why = json_string_value(json_object_get(answer, "error"));
    if (rc || status != 204)
        log_info("promotion", "%s does not come here: %s", p->target, rc ? e.text : why ? why : "it answered with an error");
    json_decref(answer);
}

/* A node that has just changed its role, or was started, connects within moments: writers need not wait for that. */
static int wait_connected(struct promotion *p)
{
    call_here(p);
    phase("waiting for the target to connect");
    while (!replicas_find(p->n->replicas, p->target, p->url)) {
        if (now_ns() >= p->deadline_ns || atomic_load(&p->n->stopping))
            return fail(p, 409, "%s is not connected to this primary; start it and try again", p->target);
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    return 0;
}

/* No client of the node's proxy sees a promotion: the requests that write are answered before the fence comes, new ones wait meanwhile. If one takes
 * longer than others should wait for it (an upload), all go on, and it begins anew when that one is over. Nothing is fenced yet: nothing to undo. */
static int wait_for_requests(struct promotion *p)
{
    struct position_server *s = p->n->positions;
    phase("waiting for requests under way");
    while (position_server_hold(s, MIN(now_ns() + HOLD_NS, p->deadline_ns))) {
        if (p->at_once) {
            log_info("promotion", "requests that write are still under way: they meet the fence");
            return 0;
        }
        position_server_release(s);
        while (position_server_wait_quiet(s, MIN(now_ns() + LOOK_NS, p->deadline_ns)))
            if (now_ns() >= p->deadline_ns || atomic_load(&p->n->stopping))
                return fail(p, 504, "requests that write were under way on %s all the time (an upload?); nothing has changed: give it a longer time-out, "
                            "or do not wait for them (--now)", p->n->config->node);
    }
    return 0;
}

static int run(struct promotion *p)
{
    struct node *n = p->n;
    int rc = wait_connected(p);
    if (rc)
        return rc;
    if ((rc = wait_for_requests(p)))
        return rc;
    rc = fence_and_drain(p);
    uint64_t lsn = rlog_last(n->rlog).lsn;
    if (!rc) {
        phase("waiting for the target");
        rc = replicas_wait_applied(n->replicas, p->target, lsn, p->deadline_ns);
        if (rc)
            rc = fail(p, rc == -ENOTCONN ? 409 : 504, "%s %s", p->target,
                      rc == -ENOTCONN ? "is no longer connected" : "did not catch up in time");
    }
    int64_t moved = 0;
    if (!rc && n->lease)
        rc = move_lease(p, &moved);
    if (!rc)
        rc = hand_over(p);
    if (rc && moved && !p->unknown && lease_etcd_take_back(n->lease, moved)) /* the target has it after all */
        rc = 0;
    p->result.pause_ms = (now_ns() - p->fenced_ns) / 1000000u;
    if (rc && p->unknown) /* this process ends: whoever starts next asks the others who is primary */
        return rc;
    if (rc) {
        undo(p);
        position_server_release(n->positions);
        return rc;
    }
    takeover_follow(n, p->target, p->url, p->result.pos.epoch);
    position_server_release(n->positions);
    log_info("promotion", "%s is primary now, epoch %" PRIu64 "; writes paused for %" PRIu64 " ms", p->target, p->result.pos.epoch,
             p->result.pause_ms);
    p->result.status = 200;
    snprintf(p->result.primary, sizeof p->result.primary, "%s", p->target);
    snprintf(p->result.url, sizeof p->result.url, "%s", p->url);
    return 0;
}

static void *thread(void *arg)
{
    struct promotion *p = arg;
    run(p);
    pthread_mutex_lock(&state.lock);
    state.running = false;
    state.phase = NULL;
    pthread_mutex_unlock(&state.lock);
    p->done(p->ctx, &p->result);
    free(p);
    return NULL;
}

int promotion_start(struct node *n, const char *target, uint64_t timeout_ms, bool at_once,
                    void (*done)(void *ctx, const struct promotion_result *r), void *ctx, struct err *e)
{
    struct promotion *p = calloc(1, sizeof *p);
    if (!p)
        return err_errno(e, ENOMEM, "promotion");
    *p = (struct promotion){.n = n, .done = done, .ctx = ctx, .at_once = at_once, .deadline_ns = now_ns() + timeout_ms * 1000000u};
    snprintf(p->target, sizeof p->target, "%s", target);
    if (!strcmp(target, n->config->node)) {
        p->result = (struct promotion_result){.status = 200, .pos = rlog_last(n->rlog)};
        snprintf(p->result.primary, sizeof p->result.primary, "%s", target);
        snprintf(p->result.url, sizeof p->result.url, "%s", n->config->http.advertise);
        done(ctx, &p->result);
        free(p);
        return 0;
    }
    const struct config_node *c = config_node(n->config, target);
    bool known = replicas_find(n->replicas, target, p->url) || c;
    pthread_mutex_lock(&state.lock);
    bool busy = state.running || node_role(n) != NODE_PRIMARY;
    if (!busy && known) {
        state.running = true;
        state.phase = "starting";
        memcpy(state.target, p->target, sizeof state.target);
    }
    pthread_mutex_unlock(&state.lock);
    int rc = 0;
    if (busy) {
        rc = err_set(e, -EBUSY, "another promotion is going on, or this node is not primary");
    } else if (!known) {
        p->result.status = 404;
        snprintf(p->result.text, sizeof p->result.text, "no node is called %.100s", target);
        done(ctx, &p->result);
        free(p);
        return 0;
    }
    if (!rc && (RAND_bytes((unsigned char *)&p->id, sizeof p->id) != 1))
        p->id = now_ns();
    p->id &= INT64_MAX; /* JSON */
    pthread_t t;
    if (!rc && (rc = pthread_create(&t, NULL, thread, p))) {
        rc = err_errno(e, rc, "start a thread for the promotion");
        pthread_mutex_lock(&state.lock);
        state.running = false;
        pthread_mutex_unlock(&state.lock);
    }
    if (rc)
        free(p);
    else
        pthread_detach(t);
    return rc;
}

/* ---- the target ---- */

struct acceptance {
    struct node *n;
    struct position from; /* last of the old epoch */
    uint64_t id;
    struct position now;
    int status;
    struct err e;
};

static int refuse(struct acceptance *a, int status, const char *text)
{
    a->status = status;
    return err_set(&a->e, -EPERM, "%s", text);
}

/* No record is being received or applied while this runs. */
static void accept_quiesced(void *ctx)
{
    struct acceptance *a = ctx;
    struct node *n = a->n;
    struct position last = rlog_last(n->rlog);
    if (node_role(n) != NODE_REPLICA) {
        refuse(a, 409, "this node is no replica");
        return;
    }
    if (!filter_everything(n->filter)) {
        refuse(a, 409, "it has only some of the databases (databases.include, databases.exclude)");
        return;
    }
    if (last.lsn != a->from.lsn || last.epoch > a->from.epoch || atomic_load(&n->applied) != last.lsn) {
        a->status = 409;
        err_set(&a->e, ERR_AGAIN_LATER, "this node stands at %" PRIu64 "-%" PRIu64 ", applied %" PRIu64 ", not at %" PRIu64 "-%" PRIu64,
                last.epoch, last.lsn, (uint64_t)atomic_load(&n->applied), a->from.epoch, a->from.lsn);
        return;
    }
    pthread_mutex_lock(&state.lock);
    bool cancelled = false;
    for (unsigned i = 0; i < MIN(state.n_cancelled, (unsigned)ARRAY_SIZE(state.cancelled)); i++)
        cancelled |= state.cancelled[i] == a->id;
    if (!cancelled)
        state.accepted = a->id;
    pthread_mutex_unlock(&state.lock);
    if (cancelled) {
        refuse(a, 409, "this hand-over was cancelled");
        return;
    }
    uint64_t epoch = lease_next_epoch(n, n->config->node, a->from.epoch), lsn = 0;
    if (n->lease && !lease_etcd_is_ours(n->lease)) {
        a->status = 409;
        err_set(&a->e, ERR_AGAIN_LATER, "etcd does not say that the lease is this node's");
        return;
    }
    if (takeover_begin_epoch(n, epoch, &lsn, &a->e)) {
        pthread_mutex_lock(&state.lock);
        state.accepted = 0;
        pthread_mutex_unlock(&state.lock);
        a->status = 500;
        return;
    }
    a->now = (struct position){epoch, lsn};
    a->status = 200;
    takeover_commit_prepared(n);
    takeover_writable(n);
}

void promotion_accept(struct node *n, const json_t *body, int *status, json_t **answer)
{
    json_int_t epoch = json_integer_value(json_object_get(body, "epoch")), lsn = json_integer_value(json_object_get(body, "lsn"));
    const char *from = json_string_value(json_object_get(body, "from"));
    struct acceptance a = {.n = n, .from = {(uint64_t)epoch, (uint64_t)lsn}, .status = 400};
    a.id = (uint64_t)json_integer_value(json_object_get(body, "id"));
    char name[128], url[256];
    node_primary(n, name, url);
    if (epoch < 0 || lsn < 0 || !from || !a.id)
        err_set(&a.e, -EINVAL, "a hand-over needs from, epoch, lsn and id");
    else if (strcmp(from, name) != 0)
        refuse(&a, 409, "the node that hands over is not the primary that this one follows");
    else if (follower_quiesced(n->follower, accept_quiesced, &a)) {
        a.status = 409;
        err_set(&a.e, -EBUSY, "this node is receiving a large record");
    }
    *status = a.status;
    if (a.status != 200) {
        *answer = json_pack("{s:s}", "error", a.e.text);
        return;
    }
    follower_restart(n->follower);
    if (hooks_wait_role(n->hooks, now_ns() + 2000000000u))
        log_warn("promotion", "edgefs-fs has not confirmed yet that this node is primary");
    log_info("promotion", "this node is primary now, epoch %" PRIu64 " from LSN %" PRIu64, a.now.epoch, a.now.lsn);
    *answer = json_pack("{s:I,s:I}", "epoch", (json_int_t)a.now.epoch, "lsn", (json_int_t)a.now.lsn);
}

void promotion_cancel(struct node *n, const json_t *body, int *status, json_t **answer)
{
    uint64_t id = (uint64_t)json_integer_value(json_object_get(body, "id"));
    (void)n;
    pthread_mutex_lock(&state.lock);
    bool accepted = id && state.accepted == id;
    if (!accepted)
        state.cancelled[state.n_cancelled++ % ARRAY_SIZE(state.cancelled)] = id;
    pthread_mutex_unlock(&state.lock);
    *status = 200;
    *answer = json_pack("{s:b}", "accepted", accepted);
}

bool promotion_running(void)
{
    pthread_mutex_lock(&state.lock);
    bool running = state.running;
    pthread_mutex_unlock(&state.lock);
    return running;
}

json_t *promotion_status(struct node *n)
{
    (void)n;
    pthread_mutex_lock(&state.lock);
    json_t *o = state.running ? json_pack("{s:s,s:s}", "target", state.target, "phase", state.phase ? state.phase : "") : json_null();
    pthread_mutex_unlock(&state.lock);
    return o;
}
