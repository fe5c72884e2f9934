/* POST /v1/promote on the primary, /v1/handover and /v1/handover/cancel on the target. */
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/api/api_private.h"
#include "replicator/cluster/promotion.h"
#include <errno.h>

#define TIMEOUT_DEFAULT_MS 10000u
#define TIMEOUT_MAX_MS 600000u

struct promoting {
    struct call *call;
    struct promotion_result result;
};

static void promoted(void *arg)
{
    struct promoting *p = arg;
    struct call *c = p->call;
    const struct promotion_result *r = &p->result;
    c->status = r->status;
    if (r->status == 200)
        c->answer = json_pack("{s:s,s:s,s:I,s:I,s:I}", "primary", r->primary, "url", r->url, "epoch", (json_int_t)r->pos.epoch, "lsn",
                              (json_int_t)r->pos.lsn, "pause_ms", (json_int_t)r->pause_ms);
    else
        err_set(&c->e, -EIO, "%s", r->text);
    call_finish(c);
    free(p);
}

/* In the promotion's thread. */
static void on_done(void *ctx, const struct promotion_result *r)
{
    struct promoting *p = ctx;
    p->result = *r;
    if (api_post(p->call->api, promoted, p)) { /* this node stops: nobody is left to be answered */
        log_info("api", "a promotion ended when nobody could be told any more (status %d %s)", r->status, r->text);
        free(p);
    }
}

static void already_primary(struct http_request *req, struct node *n)
{
    char url[256];
    struct position last = rlog_last(n->rlog);
    api_own_url(n, url);
    http_reply_json(req, 200,
                    json_pack("{s:s,s:s,s:I,s:I,s:i}", "primary", n->config->node, "url", url, "epoch", (json_int_t)last.epoch, "lsn",
                              (json_int_t)last.lsn, "pause_ms", 0));
}

static void start(struct api *a, struct http_request *req, const char *target, uint64_t timeout_ms, bool at_once)
{
    struct err e = {0};
    struct promoting *p = calloc(1, sizeof *p);
    if (!p) {
        request_busy(req, "no memory");
        return;
    }
    p->call = call_new(a, req, NULL);
    if (!p->call) {
        free(p);
        return;
    }
    int rc = promotion_start(a->node, target, timeout_ms, at_once, on_done, p, &e);
    if (!rc)
        return; /* a client that does not wait for the end changes nothing */
    p->call->status = rc == -EBUSY ? 409 : request_status(rc);
    p->call->e = e;
    call_finish(p->call);
    free(p);
}

static void force_work(struct call *c)
{
    struct promotion_result r;
    promotion_force(c->api->node, json_is_true(json_object_get(c->body, "yes")), &r);
    c->status = r.status;
    if (r.status == 200)
        c->answer = json_pack("{s:s,s:s,s:I,s:I}", "primary", r.primary, "url", r.url, "epoch", (json_int_t)r.pos.epoch, "lsn", (json_int_t)r.pos.lsn);
    else
        err_set(&c->e, -EPERM, "%s", r.text);
}

/* Takes o. */
static void start_forced(struct api *a, struct http_request *req, const char *target, json_t *o)
{
    struct call *c = NULL;
    if (!target || strcmp(target, a->node->config->node) != 0)
        http_reply_error(req, 400, "force is for the node itself: ask that node, with its own name");
    else
        c = call_new(a, req, force_work);
    if (!c) {
        json_decref(o);
        return;
    }
    c->body = o;
    call_submit(c, a->urgent);
}

void api_promote(struct http_request *req, void *arg)
{
    struct api *a = arg;
    uint64_t ms;
    json_t *o = request_json(req);
    if (!o)
        return;
    const char *target = request_string(o, "node", 64);
    if (json_is_true(json_object_get(o, "force"))) {
        start_forced(a, req, target, o);
        return;
    }
    if (!target || request_number(o, "timeout_ms", TIMEOUT_DEFAULT_MS, &ms) || ms < 1 || ms > TIMEOUT_MAX_MS)
        http_reply_error(req, 400, "needed: {\"node\": name, \"timeout_ms\": 1…%u}", TIMEOUT_MAX_MS);
    else if (!request_needs_primary(req, a->node))
        ; /* answered */
    else if (strcmp(target, a->node->config->node) == 0)
        already_primary(req, a->node);
    else
        start(a, req, target, ms, json_is_true(json_object_get(o, "now")));
    json_decref(o);
}

static void handover_work(struct call *c)
{
    promotion_accept(c->api->node, c->body, &c->status, &c->answer);
}

static void cancel_work(struct call *c)
{
    promotion_cancel(c->api->node, c->body, &c->status, &c->answer);
}

static void submit(struct http_request *req, struct api *a, void (*work)(struct call *c))
{
    json_t *o = request_json(req);
    struct call *c = o ? call_new(a, req, work) : NULL;
    if (!c) {
        json_decref(o);
        return;
    }
    c->body = o;
    call_submit(c, a->urgent);
}

void api_handover(struct http_request *req, void *arg)
{
    submit(req, arg, handover_work);
}

void api_handover_cancel(struct http_request *req, void *arg)
{
    submit(req, arg, cancel_work);
}
