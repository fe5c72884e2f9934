/* Requests that wait until this node has applied an LSN. While there are any, a timer looks every 5 ms: cheap, and right whichever
 * thread moves the position. */
#include "replicator/api/api_private.h"

#include "lib/util.h"
#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>

#define LOOK_MS 5
#define WAIT_MAX_MS 60000u

struct waiter {
    TAILQ_ENTRY(waiter) link;
    struct call *call;
    uint64_t lsn, deadline_ns;
    void (*fn)(struct call *c);
};

/* True if the waiter's wait is over: its call was handed on. */
static bool look(struct api *a, struct waiter *w, uint64_t now)
{
    struct call *c = w->call;
    struct position p = node_applied(a->node);
    if (p.lsn < w->lsn && c->req && now < w->deadline_ns)
        return false;
    if (p.lsn < w->lsn) {
        c->status = 408;
        err_set(&c->e, -ETIMEDOUT, "this node has applied LSN %" PRIu64 ", not yet %" PRIu64, p.lsn, w->lsn);
    }
    w->fn(c);
    return true;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct api *a = arg;
    struct waiter *w, *next;
    uint64_t now = now_ns();
    (void)fd;
    (void)what;
    for (w = TAILQ_FIRST(&a->waiters); w; w = next) {
        next = TAILQ_NEXT(w, link);
        if (!look(a, w, now))
            continue;
        TAILQ_REMOVE(&a->waiters, w, link);
        free(w);
    }
    if (TAILQ_EMPTY(&a->waiters))
        event_del(a->wait_timer);
}

void api_when_applied(struct call *c, uint64_t lsn, uint64_t wait_ms, void (*fn)(struct call *c))
{
    struct api *a = c->api;
    struct timeval interval = {.tv_usec = LOOK_MS * 1000};
    uint64_t now = now_ns();
    struct waiter first = {.call = c, .lsn = lsn, .deadline_ns = now + wait_ms * 1000000u, .fn = fn};
    if (look(a, &first, now))
        return;
    struct waiter *w = malloc(sizeof *w);
    if (!a->wait_timer)
        a->wait_timer = event_new(a->base, -1, EV_PERSIST, on_timer, a);
    if (!w || !a->wait_timer || (TAILQ_EMPTY(&a->waiters) && event_add(a->wait_timer, &interval))) {
        free(w);
        c->status = 503;
        err_set(&c->e, -ENOMEM, "no memory");
        fn(c);
        return;
    }
    *w = first;
    TAILQ_INSERT_TAIL(&a->waiters, w, link);
}

void api_wait_close(struct api *a)
{
    struct waiter *w;
    while ((w = TAILQ_FIRST(&a->waiters))) {
        TAILQ_REMOVE(&a->waiters, w, link);
        w->call->status = 503;
        err_set(&w->call->e, -EBUSY, "this node stops");
        w->fn(w->call);
        free(w);
    }
    if (a->wait_timer)
        event_free(a->wait_timer);
    a->wait_timer = NULL;
}

static void applied(struct call *c)
{
    if (c->status == 200) {
        struct position p = node_applied(c->api->node);
        c->answer = json_pack("{s:I,s:I}", "epoch", (json_int_t)p.epoch, "lsn", (json_int_t)p.lsn);
    }
    call_finish(c);
}

void api_wait(struct http_request *req, void *arg)
{
    struct api *a = arg;
    uint64_t lsn, ms;
    json_t *o = request_json(req);
    if (!o)
        return;
    int rc = !json_object_get(o, "lsn") || request_number(o, "lsn", 0, &lsn) || request_number(o, "timeout_ms", 0, &ms) ||
             ms > WAIT_MAX_MS;
    json_decref(o);
    if (rc) {
        http_reply_error(req, 400, "needed: {\"lsn\": LSN, \"timeout_ms\": 0…%u}", WAIT_MAX_MS);
        return;
    }
    struct call *c = call_new(a, req, NULL);
    if (c)
        api_when_applied(c, lsn, ms, applied);
}
