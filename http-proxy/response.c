#include "http-proxy/engine.h"

#include <errno.h>
#include <netinet/tcp.h>

#define RESPONSE_FIELDS_MAX HEAD_FIELDS_MAX

/* Reads what may be a head. 1: there is more of it; 0: nothing now; -1: the end, or an error. */
static int read_head(struct exchange *ex)
{
    struct flow *f = &ex->down;
    struct transport *t = &ex->u->t;
    if (!t->can_read)
        return t->broken ? -1 : 0;
    if (!f->buf && !(f->buf = buf_get(BUF_SMALL)))
        return -1;
    if (f->end && f->end < f->len) { /* behind an interim response */
        memmove(f->buf->data, f->buf->data + f->end, f->len - f->end);
        f->len -= f->end;
    } else if (f->end) {
        f->len = 0;
    }
    f->pos = f->end = 0;
    ssize_t n = transport_recv(t, f->buf->data + f->len, f->buf->size - f->len);
    if (n > 0)
        f->len += (uint32_t)n;
    if (n == -EAGAIN && !f->len) {
        buf_put(f->buf);
        f->buf = NULL;
    }
    return n > 0 ? 1 : n == -EAGAIN ? 0 : -1;
}

/* Whether the application asked for a replay at the primary, and it is on its way there. */
static bool replay(struct exchange *ex)
{
    if (!head_find(&ex->resp, HEAD_FLY_REPLAY) || ex->decision.replayed || ex->forwarded || !exchange_can_resend(ex) || !ex->kept.complete)
        return false;
    struct decision d = ex->decision;
    decide_again(ex->app->decide, &ex->req, DECIDE_EV_REPLAY, &d);
    if (d.verdict == DECIDE_LOCAL)
        return false; /* this is the primary: the application's own answer stands */
    ex->decision = d;
    ex->decision.replayed = true;
    ex->retried = false;
    exchange_resend(ex);
    return true;
}

void response_from_cache(struct exchange *ex)
{
    static struct extra x;
    struct flow *f = &ex->down;
    struct slice head = cache_entry_head(ex->entry), body = cache_entry_body(ex->entry), status = SLICE("");
    bool unmodified = cache_entry_unmodified(ex->entry, &ex->req);
    if (unmodified) { /* another status line in front of the same fields */
        const char *fields = (const char *)memmem(head.p, head.n, "\r\n", 2) + 2;
        head = (struct slice){fields, head.n - (size_t)(fields - head.p)};
        status = SLICE("HTTP/1.1 304 Not Modified\r\n");
    }
    if (unmodified || slice_equal(ex->req.method, SLICE("HEAD")))
        body.n = 0;
    const char *tail = ex->want_close ? "Via: 1.1 edgefs\r\nConnection: close\r\n\r\n" : "Via: 1.1 edgefs\r\n\r\n";
    extra_clear(&x);
    cache_entry_fields(ex->entry, engine_now_ms(), &x);
    decide_response(ex->app->decide, &ex->decision, NULL, (struct position){0}, engine_now_us() - ex->began_us, &x);
    f->head = buf_get(BUF_SMALL);
    if (!f->head || status.n + head.n + x.n + strlen(tail) > f->head->size) { /* cannot be: it once fitted with more */
        client_close(ex->c, true);
        return;
    }
    char *p = mempcpy(f->head->data, status.p, status.n);
    p = mempcpy(p, head.p, head.n);
    p = mempcpy(p, x.buf, x.n);
    p = mempcpy(p, tail, strlen(tail));
    f->head_pos = 0;
    f->head_len = (uint32_t)(p - f->head->data);
    f->mid = body.p; /* ex->entry keeps it */
    f->mid_n = body.n;
    ex->outcome = PROXY_OUTCOME_CACHED;
    ex->status = unmodified ? 304 : cache_entry_status(ex->entry);
    ex->state = EX_ANSWER;
    ex->response_sent = true;
    exchange_pump(ex);
}

/* Only one turn of capture at a time: from the loop. */
static void captured(struct position_wait *w, enum position_outcome outcome, struct position pos)
{
    struct exchange *ex = (struct exchange *)((char *)w - offsetof(struct exchange, wait));
    ex->wait_us += engine_now_us() - ex->parked_us;
    (void)outcome; /* in time or not: pos is the best there is */
    response_captured(ex, pos);
}

/* Queues the head. false: there is no room for it, ex has been answered. */
static bool send_head(struct exchange *ex)
{
    static struct extra x;
    struct flow *f = &ex->down;
    extra_clear(&x);
    decide_response(ex->app->decide, &ex->decision, &ex->resp, ex->written, engine_now_us() - ex->began_us, &x);
    f->head = buf_get(BUF_SMALL);
    f->head_pos = 0;
    f->head_len = f->head ? fields_response(ex, &x, f->head) : 0;
    if (f->head_len) {
        ex->status = ex->resp.status;
        return true;
    }
    exchange_upstream_failed(ex, "the response's header block is too large");
    return false;
}

static void feed_cache(void *arg, const char *p, size_t n)
{
    struct exchange *ex = arg;
    if (ex->flight && !cache_flight_data(ex->flight, (struct slice){p, n}))
        ex->flight = NULL;
}

static void whole(struct exchange *ex)
{
    ex->response_sent = true;
    if (ex->flight)
        cache_flight_done(ex->flight);
    ex->flight = NULL;
    exchange_end(ex, true);
}

static void relay(struct exchange *ex)
{
    struct client *c = ex->c;
    struct flow *f = &ex->down;
    uint64_t before = f->bytes;
    enum flow_result r = flow_pump(f, &ex->u->t, &c->t, ex->flight ? feed_cache : NULL, ex);
    if (f->bytes != before)
        ex->progress_s = c->e->now_s;
    switch (r) {
    case FLOW_WAIT:
        if (!ex->acked && !flow_pending(f)) {
            /* Many applications write head and body apart, on sockets with Nagle's algorithm: the second waits for the acknowledgement of the first,
             * and the kernel would delay that by 40 ms. Of TCP only; else an error that does not matter. */
            ex->acked = true;
            (void)setsockopt(ex->u->t.fd, IPPROTO_TCP, TCP_QUICKACK, &(int){1}, sizeof(int));
        }
        return;
    case FLOW_AGAIN:
        event_active(&ex->u->t.ev, EV_READ, 1);
        return;
    case FLOW_DONE:
        whole(ex);
        return;
    case FLOW_SINK_BROKEN:
        client_close(c, true);
        return;
    default:
        if (f->head && !f->head_pos) { /* nothing of it went out yet: an answer is better than half of one */
            flow_clear(f);
            ex->status = 0;
            exchange_upstream_failed(ex, "the response broke off, or its body is malformed");
            return;
        }
        /* The client must see that this is not all. */
        ex->outcome = PROXY_OUTCOME_UPSTREAM_ERROR;
        exchange_end(ex, false);
    }
}

void response_captured(struct exchange *ex, struct position written)
{
    ex->state = EX_RELAY;
    ex->written = written;
    exchange_write_end(ex);
    if (!send_head(ex))
        return;
    exchange_pump(ex);
}

static void begin_tunnel(struct exchange *ex)
{
    ex->state = EX_TUNNEL;
    ex->outcome = PROXY_OUTCOME_UPGRADED;
    ex->c->e->gauges->tunnels++;
    ex->want_close = true;
    if (!send_head(ex))
        return;
    /* From here on bytes, in both directions; what came behind either head belongs to them. */
    body_begin(&ex->up.body, HEAD_BODY_TO_EOF, 0);
    body_begin(&ex->down.body, HEAD_BODY_TO_EOF, 0);
    tunnel_begin(ex);
}

static void final_head(struct exchange *ex)
{
    ex->response_head = true;
    ex->head_us = engine_now_us();
    if (replay(ex))
        return;
    bool to_head = slice_equal(ex->req.method, SLICE("HEAD"));
    struct flow *f = &ex->down;
    body_begin(&f->body, body_of_response(&ex->resp, to_head), ex->resp.content_length);
    f->splice = ex->app->c->splice;
    f->body.decode = f->body.kind == HEAD_BODY_CHUNKED && !ex->req.minor;
    ex->outcome = ex->forwarded ? PROXY_OUTCOME_FORWARDED : PROXY_OUTCOME_LOCAL;
    /* A response that ends with the connection, or that came before its request was read: the client's connection cannot go on. */
    ex->want_close = ex->want_close || f->body.kind == HEAD_BODY_TO_EOF || f->body.decode || !ex->request_sent || ex->c->e->draining;
    if (ex->flight && !cache_flight_head(ex->flight, &ex->resp))
        ex->flight = NULL;
    bool write = ex->decision.kind == DECIDE_WRITE;
    /* A reader that says after what it reads wants to read on from here, on any node: it is told what this covers. */
    bool reader = ex->decision.kind == DECIDE_READ && head_find(&ex->req, HEAD_X_READ_AFTER_POSITION);
    if (ex->forwarded || !(write || reader)) {
        if (send_head(ex))
            relay(ex);
        return;
    }
    if (write) {
        decide_wrote(ex->app->decide, ex->head_us - ex->sent_us);
        degrade_write_end(ex->c->e->degrade, &ex->slow);
    }
    ex->state = EX_CAPTURE;
    ex->parked_us = ex->head_us;
    ex->wait.done = captured;
    position_wait_capture(ex->c->e->positions, &ex->wait, engine_now_ms() + ex->app->c->capture_wait_ms);
}

/* 1xx: to clients that know them. false: the client has to take what is there first, or ex is over. */
static bool interim_head(struct exchange *ex)
{
    struct flow *f = &ex->down;
    if (ex->resp.status == 100)
        ex->continued = true;
    if (!ex->req.minor)
        return true;
    f->head = buf_get(BUF_SMALL);
    f->head_pos = 0;
    f->head_len = f->head ? fields_interim(&ex->resp, f->head) : 0;
    enum flow_result r = f->head_len ? flow_flush(f, &ex->c->t, false) : FLOW_SINK_BROKEN;
    if (r == FLOW_SINK_BROKEN)
        client_close(ex->c, true);
    return r == FLOW_DONE;
}

/* One head, if it is there. true: look again. */
static bool take_head(struct exchange *ex)
{
    struct flow *f = &ex->down;
    struct head_error e;
    enum head_result r = HEAD_MORE;
    if (f->end < f->len)
        r = head_parse_response(&ex->resp, f->buf->data + f->end, f->len - f->end, BUF_READ_HEAD, RESPONSE_FIELDS_MAX, &e);
    if (r == HEAD_MORE) {
        int rc = read_head(ex);
        if (rc < 0)
            exchange_upstream_failed(ex, f->len ? "the response broke off" : "the application closed the connection without a response");
        return rc > 0;
    }
    if (r == HEAD_BAD) {
        ex->response_head = true; /* not to be tried again */
        exchange_upstream_failed(ex, e.reason);
        return false;
    }
    f->end += ex->resp.len;
    f->pos = f->end;
    if (ex->resp.status == 101) {
        ex->response_head = true;
        if (ex->upgrade)
            begin_tunnel(ex);
        else
            exchange_upstream_failed(ex, "the application switched protocols without having been asked to");
        return false;
    }
    if (ex->resp.status < 200)
        return interim_head(ex);
    final_head(ex);
    return false;
}

void response_pump(struct exchange *ex)
{
    if (ex->response_head) {
        relay(ex);
        return;
    }
    if (ex->down.head && flow_flush(&ex->down, &ex->c->t, false) != FLOW_DONE) {
        if (ex->c->t.broken)
            client_close(ex->c, true);
        return;
    }
    while (take_head(ex))
        ;
}
