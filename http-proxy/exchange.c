#include "http-proxy/credit.h"
#include "http-proxy/engine.h"

#include "lib/log.h"
#include <errno.h>

#define ROUTE_STEPS_MAX 8   /* decisions without waiting in between */
#define HOLD_STEP_MS 250    /* a hold looks again this often, for what changes without a word from the replicator: the other proxy's coming up */

uint64_t engine_now_us(void)
{
    return now_ns() / 1000;
}

uint64_t engine_now_ms(void)
{
    return now_ns() / 1000000;
}

/* ---- beginning -------------------------------------------------------------------------------------------------------------- */

struct exchange *exchange_new(struct client *c)
{
    struct exchange *ex = SLIST_FIRST(&c->e->spare);
    if (ex)
        SLIST_REMOVE_HEAD(&c->e->spare, spare);
    else if (!(ex = malloc(sizeof *ex)))
        return NULL;
    memset(ex, 0, offsetof(struct exchange, req));
    ex->c = c;
    return ex;
}

static bool is(const struct head *h, const char *method)
{
    return slice_equal(h->method, (struct slice){method, strlen(method)});
}

static bool ends_with(struct slice *v, const char *what)
{
    size_t n = strlen(what);
    if (v->n < n || memcmp(v->p + v->n - n, what, n) != 0)
        return false;
    v->n -= n;
    return true;
}

/* "N", and behind it ";write": whatever the method says (fly-replay); ";relay": from a proxy that does not reach the primary. In this order. */
static unsigned hop_of(const struct head *h, struct decision *d)
{
    const struct head_field *f = head_find(h, HEAD_EDGEFS_HOP);
    struct slice v = f ? head_value(h, f) : SLICE("0");
    d->relayed = ends_with(&v, ";relay");
    d->as_write = ends_with(&v, ";write");
    return v.n == 1 && *v.p >= '0' && *v.p <= '9' ? (unsigned)(*v.p - '0') : HOPS_MAX;
}

static void keep_body(void *arg, const char *p, size_t n)
{
    struct exchange *ex = arg;
    uint64_t limit = ex->app->c->limits.body_size;
    ex->bytes_in += n;
    ex->progress_s = ex->c->e->now_s;
    if (limit && ex->bytes_in > limit)
        ex->up.body.reason = "too large"; /* noticed by the caller of flow_pump */
    if (!ex->kept.on)
        return;
    if (ex->kept.n + n > ex->app->c->replay_body) {
        ex->kept.on = false;
    } else if (ex->kept.n + n > ex->kept.cap) {
        size_t cap = MAX(ex->kept.n + n, MIN(ex->kept.cap * 2, (size_t)ex->app->c->replay_body));
        char *more = realloc(ex->kept.data, cap);
        ex->kept.on = more;
        if (more) {
            ex->kept.data = more;
            ex->kept.cap = cap;
        }
    }
    if (!ex->kept.on) {
        free(ex->kept.data);
        ex->kept.data = NULL;
        return;
    }
    memcpy(ex->kept.data + ex->kept.n, p, n);
    ex->kept.n += n;
}

/* The body as far as it came with the head. false: it is no body. */
static bool begin_body(struct exchange *ex)
{
    struct flow *f = &ex->up;
    body_begin(&f->body, ex->req.body, ex->req.content_length);
    ex->kept.on = true;
    if (f->end < f->len && !f->body.done) {
        size_t used, out;
        if (body_take(&f->body, f->buf->data + f->end, f->len - f->end, &used, &out))
            return false;
        if (f->body.done) { /* all of it is here and stays here with the head */
            ex->kept.in_place = f->buf->data + f->end;
            ex->kept.n = out;
            ex->bytes_in += out;
        } else {
            keep_body(ex, f->buf->data + f->end, out);
        }
        f->end += (uint32_t)out;
    }
    ex->kept.complete = f->body.done;
    return true;
}

void exchange_begin(struct exchange *ex)
{
    struct client *c = ex->c;
    struct engine *e = c->e;
    c->ex = ex;
    e->gauges->clients_idle--;
    ex->app = app_ref(c->l->app);
    ex->began_us = engine_now_us();
    ex->progress_s = e->now_s;
    ex->bytes_in = ex->req.len;
    ex->outcome = PROXY_OUTCOME_LOCAL;
    ex->hop = head_find(&ex->req, HEAD_EDGEFS_HOP) ? hop_of(&ex->req, &ex->decision) : 0;
    ex->want_close = !ex->req.keep_alive || e->draining;
    ex->continued = !ex->req.minor || !head_find(&ex->req, HEAD_EXPECT);
    /* HTTP/2 over an upgrade would carry requests past every check: the field is dropped, the client goes on with HTTP/1.1. */
    ex->upgrade = ex->req.upgrade && ex->req.body == HEAD_BODY_NONE &&
                  !head_list_has(head_value(&ex->req, head_find(&ex->req, HEAD_UPGRADE)), "h2c", NULL);
    /* The input becomes the flow's; the head stays where it is for as long as the exchange lasts. */
    ex->up.buf = c->in;
    ex->up.pos = ex->up.end = c->in_pos + ex->req.len;
    ex->up.len = c->in_len;
    ex->req_buf = buf_ref(c->in);
    c->in = NULL;
    c->in_pos = c->in_len = 0;
    if (!begin_body(ex)) {
        answer(ex, 400, ex->up.body.reason);
        return;
    }
    if (ex->app->c->limits.body_size && ex->req.body == HEAD_BODY_LENGTH && ex->req.content_length > ex->app->c->limits.body_size) {
        answer(ex, 413, "the body is larger than is accepted here");
        return;
    }
    if (ex->hop >= HOPS_MAX) {
        answer(ex, 508, "forwarded too often: the nodes do not agree on the primary");
        return;
    }
    if (ex->req.path.n >= 8 && !memcmp(ex->req.path.p, "/edgefs/", 8) && answer_own(ex))
        return;
    ex->decision.client = credit_client((const struct sockaddr *)&c->peer);
    decide_request(ex->app->decide, &ex->req, ex->hop, &ex->decision);
    exchange_route(ex);
}

/* ---- where to --------------------------------------------------------------------------------------------------------------- */

static void parked(struct position_wait *w, enum position_outcome outcome, struct position pos)
{
    struct exchange *ex = (struct exchange *)((char *)w - offsetof(struct exchange, wait));
    struct client *c = ex->c;
    (void)pos;
    ex->wait_us += engine_now_us() - ex->parked_us;
    ex->route_steps = 0;
    if (ex->holding) {
        ex->holding = false;
        c->e->gauges->parked--;
        uint64_t now = engine_now_ms();
        bool over = now >= ex->decision.began_ms + ex->decision.hold_ms;
        exchange_event(ex, outcome == POSITION_TIMEOUT && over ? DECIDE_EV_TIMEOUT : DECIDE_EV_CHANGED);
    } else {
        c->e->gauges->parked--;
        exchange_event(ex, outcome == POSITION_REACHED ? DECIDE_EV_REACHED : DECIDE_EV_TIMEOUT);
    }
}

/* 503 with Retry-After. */
static void refuse(struct exchange *ex, const char *reason, const char *text)
{
    ex->decision.verdict = DECIDE_REFUSE;
    ex->decision.status = 503;
    ex->decision.reason = reason;
    ex->outcome = PROXY_OUTCOME_REFUSED;
    answer(ex, 503, text);
}

static void park(struct exchange *ex, bool hold)
{
    struct engine *e = ex->c->e;
    uint64_t now = engine_now_ms();
    if (hold && !ex->queued && e->queued >= ex->app->c->failover_queue) {
        refuse(ex, "failover-queue", "too many requests wait for a primary");
        return;
    }
    ex->state = EX_PARKED;
    ex->parked_us = engine_now_us();
    ex->wait.done = parked;
    e->gauges->parked++;
    if (hold) {
        ex->holding = true;
        e->queued += !ex->queued;
        ex->queued = true;
        position_wait_change(e->positions, &ex->wait, MIN(ex->decision.began_ms + ex->decision.hold_ms, now + HOLD_STEP_MS));
    } else {
        position_wait_reached(e->positions, &ex->wait, ex->decision.want, now + ex->decision.wait_ms);
    }
    client_probe(ex->c);
}

static void unpark(struct exchange *ex)
{
    struct engine *e = ex->c->e;
    position_wait_cancel(e->positions, &ex->wait);
    if (ex->state == EX_PARKED)
        e->gauges->parked--;
    ex->holding = false;
}

static void leave_queue(struct exchange *ex)
{
    ex->c->e->queued -= ex->queued;
    ex->queued = false;
}

/* Where a decision to forward leads: to the primary's proxy, or a neighbour's. */
static struct pool *peer_pool(struct exchange *ex)
{
    struct app *a = ex->app;
    const struct position_state *s = position_state(ex->c->e->positions);
    bool via = ex->decision.relays;
    const char *node = via ? ex->decision.via : s->primary;
    char url[256];
    if (!*node || !strcmp(node, a->of->config->node) || config_proxy_peer(a->of->config, a->c, node, via ? NULL : s->primary_url, url))
        return NULL;
    return pool_for_peer(ex->c->e, a, url);
}

static void dispatch(struct exchange *ex, struct pool *p)
{
    ex->state = EX_CONNECT;
    ex->pool = p;
    ex->forwarded = p->peer;
    ex->any_sent = ex->response_head = false;
    if (!p->peer && ex->decision.kind == DECIDE_WRITE)
        exchange_write_begin(ex, false);
    struct upstream *u = pool_get(p, ex);
    if (u)
        exchange_connected(ex, u);
}

void exchange_write_begin(struct exchange *ex, bool before_hold)
{
    struct position_tracker *t = ex->c->e->positions;
    if (!ex->writing)
        ex->write_era = before_hold ? position_write_before(t) : position_write_begin(t);
    ex->writing = true;
}

void exchange_write_end(struct exchange *ex)
{
    degrade_write_end(ex->c->e->degrade, &ex->slow);
    if (ex->writing)
        position_write_end(ex->c->e->positions, ex->write_era);
    ex->writing = false;
}

/* ---- the response cache ---- */

static void cache_turn(struct position_wait *w, enum position_outcome outcome, struct position pos)
{
    struct exchange *ex = (struct exchange *)((char *)w - offsetof(struct exchange, wait));
    (void)outcome;
    (void)pos;
    ex->wait_us += engine_now_us() - ex->parked_us;
    ex->c->e->gauges->parked--;
    ex->route_steps = 0;
    exchange_route(ex);
}

/* Called in the middle of somebody else's exchange: goes on in the loop's next turn. */
static void cache_ready(struct cache_wait *w)
{
    struct exchange *ex = (struct exchange *)((char *)w - offsetof(struct exchange, cache_wait));
    ex->state = EX_PARKED;
    ex->c->e->gauges->parked++;
    ex->wait.done = cache_turn;
    position_wait_reached(ex->c->e->positions, &ex->wait, (struct position){0}, UINT64_MAX);
}

/* True: the request is answered, or waits for somebody else's response. */
static bool from_cache(struct exchange *ex)
{
    if (!ex->app->cache || ex->decision.kind != DECIDE_READ || ex->decision.stale || !ex->req.minor || ex->flight || ex->any_sent)
        return false;
    switch (cache_lookup(ex->app->cache, &ex->req, engine_now_ms(), &ex->cache_wait, &ex->entry, &ex->flight)) {
    case CACHE_HIT:
        response_from_cache(ex);
        return true;
    case CACHE_WAIT:
        ex->state = EX_CACHE_WAIT;
        ex->parked_us = engine_now_us();
        ex->cache_wait.done = cache_ready;
        return true;
    default:
        return false;
    }
}

void exchange_route(struct exchange *ex)
{
    ex->state = EX_ROUTE;
    for (;;) {
        struct pool *p;
        if (++ex->route_steps > ROUTE_STEPS_MAX) {
            answer(ex, 503, "no way to the primary");
            return;
        }
        switch (ex->decision.verdict) {
        case DECIDE_LOCAL:
            if (from_cache(ex))
                return;
            dispatch(ex, ex->app->target);
            return;
        case DECIDE_FORWARD:
            if ((p = peer_pool(ex))) {
                dispatch(ex, p);
                return;
            }
            decide_again(ex->app->decide, &ex->req, DECIDE_EV_NO_ROUTE, &ex->decision);
            break;
        case DECIDE_WAIT:
        case DECIDE_HOLD:
            park(ex, ex->decision.verdict == DECIDE_HOLD);
            return;
        case DECIDE_REFUSE:
            ex->outcome = PROXY_OUTCOME_REFUSED;
            answer(ex, ex->decision.status, ex->decision.reason);
            return;
        }
    }
}

void exchange_event(struct exchange *ex, enum decide_event event)
{
    decide_again(ex->app->decide, &ex->req, event, &ex->decision);
    exchange_route(ex);
}

/* ---- sending ---------------------------------------------------------------------------------------------------------------- */

void exchange_connected(struct exchange *ex, struct upstream *u)
{
    leave_queue(ex);
    ex->pool = NULL;
    ex->u = u;
    u->ex = ex;
    ex->state = EX_RELAY;
    ex->upstream_reused = u->reused;
    ex->up.head = buf_get(BUF_SMALL);
    ex->up.head_pos = 0;
    ex->up.head_len = ex->up.head ? fields_request(ex, ex->up.head) : 0;
    if (!ex->up.head_len) {
        exchange_drop_upstream(ex, false);
        answer(ex, ex->up.head ? 431 : 503, ex->up.head ? "header block too large" : "out of memory");
        return;
    }
    ex->sent_us = engine_now_us();
    exchange_pump(ex);
}

void exchange_unconnected(struct exchange *ex, int error)
{
    bool peer = ex->forwarded;
    ex->pool = NULL;
    if (peer) {
        exchange_event(ex, DECIDE_EV_NO_ROUTE);
        return;
    }
    log_debug("exchange", "%s: no connection to the application: %s", ex->app->c->name, err_name(error));
    ex->outcome = PROXY_OUTCOME_UPSTREAM_ERROR;
    answer(ex, error == -ETIMEDOUT ? 504 : 502, "the application cannot be reached");
}

void exchange_drop_upstream(struct exchange *ex, bool reset)
{
    exchange_write_end(ex);
    if (ex->pool)
        pool_cancel(ex->pool, ex);
    ex->pool = NULL;
    if (ex->u) {
        ex->u->ex = NULL;
        upstream_close(ex->u, reset);
    }
    ex->u = NULL;
}

bool exchange_can_resend(const struct exchange *ex)
{
    return ex->kept.on && ex->status == 0;
}

/* The flows as if nothing had been sent. */
static void rewind_flows(struct exchange *ex)
{
    flow_clear(&ex->down);
    buf_put(ex->up.head);
    ex->up.head = NULL;
    ex->up.pos = ex->up.end; /* it is among what was kept */
    ex->up.mid = ex->kept.in_place ? ex->kept.in_place : ex->kept.data;
    ex->up.mid_n = ex->kept.n;
    ex->request_sent = ex->any_sent = ex->response_head = false;
}

void exchange_resend(struct exchange *ex)
{
    exchange_drop_upstream(ex, true);
    rewind_flows(ex);
    exchange_route(ex);
}

static bool idempotent(const struct head *h)
{
    return is(h, "GET") || is(h, "HEAD") || is(h, "OPTIONS") || is(h, "PUT") || is(h, "DELETE") || is(h, "TRACE");
}

void exchange_upstream_failed(struct exchange *ex, const char *why)
{
    bool again = exchange_can_resend(ex) && !ex->response_head && !ex->retried &&
                 (!ex->any_sent || (idempotent(&ex->req) && (ex->upstream_reused || ex->forwarded)));
    log_debug("exchange", "%s: %.*s: %s%s", ex->app->c->name, (int)MIN(ex->req.path.n, (size_t)200), ex->req.path.p, why,
              again ? "; once more" : "");
    if (again) {
        bool peer_anew = ex->forwarded && !ex->upstream_reused;
        ex->retried = !peer_anew; /* a peer that is not there is held for, not counted */
        ex->c->e->gauges->retries++;
        exchange_drop_upstream(ex, true);
        rewind_flows(ex);
        if (peer_anew)
            exchange_event(ex, DECIDE_EV_NO_ROUTE);
        else
            exchange_route(ex);
        return;
    }
    exchange_drop_upstream(ex, true);
    ex->outcome = PROXY_OUTCOME_UPSTREAM_ERROR;
    if (ex->status) /* the client has seen a part of the response: it must see that it is one */
        exchange_end(ex, false);
    else
        answer(ex, 502, why);
}

/* ---- going on --------------------------------------------------------------------------------------------------------------- */

/* false: ex is over, or waits elsewhere. */
static bool pump_up(struct exchange *ex)
{
    struct client *c = ex->c;
    struct upstream *u = ex->u;
    if (ex->request_sent || u->t.shut || u->t.broken)
        return true;
    uint64_t before = ex->up.bytes;
    enum flow_result r = flow_pump(&ex->up, &c->t, &u->t, keep_body, ex);
    ex->any_sent = ex->any_sent || ex->up.bytes != before;
    ex->kept.complete = ex->up.body.done;
    if (ex->up.body.reason && r != FLOW_DONE) {
        bool large = r != FLOW_BAD;
        exchange_drop_upstream(ex, true);
        if (ex->status)
            exchange_end(ex, false);
        else
            answer(ex, large ? 413 : 400, large ? "the body is larger than is accepted here" : ex->up.body.reason);
        return false;
    }
    switch (r) {
    case FLOW_DONE:
        ex->request_sent = true;
        ex->sent_us = engine_now_us();
        if (ex->writing)
            degrade_write_begin(ex->c->e->degrade, &ex->slow);
        if (ex->up.end == ex->up.len) {
            buf_put(ex->up.buf);
            ex->up.buf = NULL;
            ex->up.pos = ex->up.end = ex->up.len = 0;
        }
        return true;
    case FLOW_AGAIN:
        event_active(&c->t.ev, EV_READ, 1);
        return true;
    case FLOW_TRUNCATED:
    case FLOW_SOURCE_BROKEN:
        client_close(c, true); /* the application sees a request that breaks off */
        return false;
    default: /* the sink: what it said before may still be there to be read */
        return true;
    }
}

void exchange_pump(struct exchange *ex)
{
    struct client *c = ex->c;
    switch (ex->state) {
    case EX_RELAY:
        if (!pump_up(ex))
            return;
        if (c->t.peer_closed && ex->request_sent && !ex->client_half_closed) {
            ex->client_half_closed = true; /* the application is told, and does as it would without us */
            transport_shutdown(&ex->u->t);
        }
        response_pump(ex);
        return;
    case EX_TUNNEL:
        tunnel_pump(ex);
        return;
    case EX_ANSWER: {
        enum flow_result r = flow_flush(&ex->down, &c->t, false);
        if (r == FLOW_SINK_BROKEN)
            client_close(c, true);
        else if (r == FLOW_DONE)
            exchange_end(ex, true);
        return;
    }
    default: /* waits for something else */
        return;
    }
}

/* ---- the end ---------------------------------------------------------------------------------------------------------------- */

static void record(struct exchange *ex)
{
    const struct head_field *host = head_find(&ex->req, HEAD_HOST);
    const struct head_field *agent = ex->app->log ? head_find_name(&ex->req, "user-agent") : NULL;
    const struct head_field *referer = ex->app->log ? head_find_name(&ex->req, "referer") : NULL;
    uint64_t now = engine_now_us();
    struct proxy_exchange x = {
        .app = ex->app->c,
        .peer = (const struct sockaddr *)&ex->c->peer,
        .method = ex->req.method,
        .target = ex->req.target,
        .host = host ? head_value(&ex->req, host) : SLICE(""),
        .user_agent = agent ? head_value(&ex->req, agent) : SLICE(""),
        .referer = referer ? head_value(&ex->req, referer) : SLICE(""),
        .status = ex->status,
        .outcome = ex->outcome,
        .decision = ex->decision.began_ms ? &ex->decision : NULL,
        .bytes_in = ex->bytes_in,
        .bytes_out = ex->down.bytes,
        .total_us = now - ex->began_us,
        .wait_us = ex->wait_us,
        .upstream_us = ex->head_us > ex->sent_us ? ex->head_us - ex->sent_us : 0,
        .upstream_reused = ex->upstream_reused,
    };
    proxy_metrics_record(ex->c->e->metrics, &x);
    if (ex->app->log)
        accesslog_write(ex->app->log, &x);
}

/* The upstream connection goes back to its pool if everything on it came to its end. */
static void return_upstream(struct exchange *ex)
{
    struct upstream *u = ex->u;
    if (!u)
        return;
    bool whole = ex->request_sent && ex->response_sent && ex->resp.keep_alive && ex->down.body.kind != HEAD_BODY_TO_EOF &&
                 ex->down.end == ex->down.len && !ex->client_half_closed && ex->state != EX_TUNNEL;
    u->ex = NULL;
    ex->u = NULL;
    if (whole)
        pool_put(u);
    else
        upstream_close(u, !ex->response_sent);
}

static void release(struct exchange *ex)
{
    struct engine *e = ex->c->e;
    exchange_write_end(ex);
    unpark(ex);
    leave_queue(ex);
    if (ex->state == EX_CACHE_WAIT)
        cache_wait_cancel(ex->app->cache, &ex->cache_wait);
    if (ex->flight)
        cache_flight_abandon(ex->flight);
    if (ex->entry)
        cache_release(ex->app->cache, ex->entry);
    if (ex->state == EX_TUNNEL)
        e->gauges->tunnels--;
    if (ex->pool)
        pool_cancel(ex->pool, ex);
    return_upstream(ex);
    record(ex);
    flow_clear(&ex->down);
    flow_clear(&ex->up);
    buf_put(ex->req_buf);
    free(ex->kept.data);
    app_unref(ex->app);
    SLIST_INSERT_HEAD(&e->spare, ex, spare);
}

void exchange_abort(struct exchange *ex)
{
    ex->c->ex = NULL;
    if (ex->outcome != PROXY_OUTCOME_UPGRADED && !ex->response_sent)
        ex->outcome = PROXY_OUTCOME_CLIENT_ABORT;
    release(ex);
}

void exchange_end(struct exchange *ex, bool ok)
{
    struct client *c = ex->c;
    bool close = ex->want_close || !ex->up.body.done || (!ex->request_sent && ex->up.head);
    ok = ok && !c->t.broken;
    if (!ok) {
        c->ex = NULL;
        c->e->gauges->clients_idle++;
        release(ex);
        client_close(c, true);
        return;
    }
    if (ex->up.buf && ex->up.end < ex->up.len) { /* the next request came right behind this one */
        c->in = buf_ref(ex->up.buf);
        c->in_pos = ex->up.end;
        c->in_len = ex->up.len;
    }
    c->ex = NULL;
    c->e->gauges->clients_idle++;
    c->deadline_s = c->e->now_s + (uint32_t)(ex->app->c->limits.idle_ms / 1000) + 1;
    release(ex);
    if (close)
        client_finish(c);
    else
        client_run(c);
}

/* ---- time ------------------------------------------------------------------------------------------------------------------- */

static bool over(uint32_t since_s, uint64_t limit_ms, uint32_t now_s)
{
    return (uint64_t)(now_s - since_s) * 1000 > limit_ms + 1000;
}

void exchange_tick(struct exchange *ex, uint32_t now_s)
{
    const struct config_proxy *c = ex->app->c;
    if (ex->state == EX_CONNECT && ex->pool_waiting && over(ex->progress_s, c->limits.queue_ms, now_s)) {
        pool_cancel(ex->pool, ex);
        refuse(ex, "queue-time", "all connections to the application are in use");
    } else if (ex->state == EX_ANSWER || (ex->state == EX_RELAY && flow_pending(&ex->down))) {
        if (over(ex->progress_s, c->limits.body_ms, now_s))
            client_close(ex->c, true); /* it does not read */
    } else if (ex->state == EX_RELAY && !ex->request_sent && !flow_pending(&ex->up) && ex->continued) {
        if (!over(ex->progress_s, c->limits.body_ms, now_s))
            return;
        exchange_drop_upstream(ex, true);
        if (ex->status)
            exchange_end(ex, false);
        else
            answer(ex, 408, "the body did not arrive in time");
    } else if (ex->state == EX_RELAY && !ex->response_head && over(ex->progress_s, c->limits.response_ms, now_s)) {
        exchange_drop_upstream(ex, true);
        ex->outcome = PROXY_OUTCOME_UPSTREAM_ERROR;
        answer(ex, 504, "the application did not answer in time");
    }
}
