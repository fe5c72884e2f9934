/* From bytes to handlers: the state machine of a connection (diagram in internal.h). Each step consumes input or changes the state, and
 * returns false when it has to wait. */
#include "lib/http/internal.h"
#include "lib/log.h"
#include "lib/util.h"

#include <errno.h>

static void deadline_in(struct http_conn *c, unsigned ms)
{
    c->in_deadline = ms ? http_now_ms() + ms : 0;
    if (ms)
        http_conn_arm(c);
}

void http_conn_drop_request(struct http_conn *c, enum http_closed why)
{
    struct http_request *r = c->req;
    if (r->on_closed)
        (void)http_peer(r); /* so that the callback can still say who it was */
    c->req = NULL;
    r->conn = NULL;
    if (r->on_closed)
        r->on_closed(r, why, r->closed_arg);
    else if (r->dispatched && !r->ended)
        return; /* the handler still has it and will end it */
    http_request_free(r);
}

void http_conn_refuse(struct http_conn *c, int status, const char *reason)
{
    if (c->state == CONN_DEAD)
        return;
    c->server->stats.bad++;
    log_debug("http", "refused: %d %s", status, reason);
    if (c->req && c->req->started) { /* too late for an answer */
        http_conn_fail(c, HTTP_GONE, true);
        return;
    }
    c->keep_alive = false;
    http_reply_refusal(c, status, reason);
    if (c->req)
        http_conn_drop_request(c, HTTP_GONE);
    if (c->state == CONN_DEAD)
        return;
    c->state = CONN_CLOSING;
    c->in_deadline = 0;
}

bool http_conn_discardable(const struct http_conn *c)
{
    if (c->body == BODY_NONE)
        return true;
    return c->body == BODY_LENGTH && c->body_left <= HTTP_DISCARD_MAX && !c->continue_due;
}

/* The handler runs; more requests behind this one: its output is gathered and sent with theirs. */
static void dispatch(struct http_conn *c, const struct http_view *v)
{
    struct http_request *r = c->req;
    r->dispatched = true;
    c->corked = v->n > 0 && c->body == BODY_NONE;
    r->route->handler(r, r->route->arg);
    c->corked = false;
}

static bool refuse_route(struct http_conn *c, const struct http_match *m)
{
    struct http_request *r = c->req;
    char allow[64];
    if (c->server->has_token && !m->open && !http_server_authorized(c->server, r)) {
        c->server->stats.unauthorized++;
        (void)http_set_header(r, "WWW-Authenticate", "Bearer realm=\"edgefs\""); /* without memory: still 401 */
        http_reply_error(r, 401, "a valid bearer token is required");
        return true;
    }
    if (m->status == 405 && !m->route) {
        http_methods_format(m->allow, allow);
        (void)http_set_header(r, "Allow", allow); /* without memory: still 405 */
        http_reply_error(r, 405, "this path does not know the method %s", http_method_name(r));
        return true;
    }
    if (!m->route) {
        http_reply_error(r, 404, "no such path");
        return true;
    }
    return false;
}

static size_t body_limit(const struct http_conn *c)
{
    return c->req->route->max_body ? c->req->route->max_body : c->server->o.max_body;
}

/* The head is complete and sound: whose is it, and may it pass? */
static void route_request(struct http_conn *c, const struct http_view *v)
{
    struct http_request *r = c->req;
    struct http_match m = http_router_match(&c->server->router, r->head.method, r->target.path);
    c->state = c->body == BODY_NONE ? CONN_REPLY : CONN_BODY;
    if (refuse_route(c, &m))
        return;
    r->route = m.route;
    bool stream = m.route->flags & HTTP_STREAM_BODY;
    if (!stream && c->body == BODY_LENGTH && c->body_left > body_limit(c)) {
        http_reply_error(r, 413, "the body may have at most %zu bytes", body_limit(c));
        return;
    }
    if (stream) /* with an empty body too: its end is told from BODY */
        c->state = CONN_BODY;
    if (stream || c->body == BODY_NONE)
        dispatch(c, v);
    if (c->body == BODY_NONE || c->state == CONN_DEAD || r->ended)
        return;
    if (c->continue_due && !r->started && !v->n) {
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        struct iovec iov = {(void *)(uintptr_t)go_on, sizeof go_on - 1};
        if (http_conn_send(c, &iov, 1) < 0)
            return;
    }
    c->continue_due = false;
    deadline_in(c, c->server->o.body_ms);
}

/* Takes the head at p into a request. Returns false if it was refused. */
static bool begin_request(struct http_conn *c, const uint8_t *p, size_t n)
{
    size_t room = n + 1 + HTTP_TARGET_ROOM((size_t)c->guard.target);
    struct http_request *r = malloc(sizeof *r + room);
    if (!r) {
        http_conn_refuse(c, 503, "out of memory");
        return false;
    }
    memset(r, 0, offsetof(struct http_request, head));
    r->magic = HTTP_REQUEST_MAGIC;
    r->conn = c;
    r->block = (char *)(r + 1);
    memcpy(r->block, p, n);
    r->block[n] = 0;
    const char *why = NULL;
    struct http_head *h = &r->head;
    if (http_head_parse(h, r->block, n, &c->guard) == 0) {
        why = http_target_parse(&r->target, r->block + h->target, h->target_len, r->block + n + 1);
        if (why)
            h->status = 400, h->reason = why;
    } else
        why = h->reason;
    if (why) {
        http_conn_refuse(c, h->status, why);
        free(r);
        return false;
    }
    for (int i = 0; i < h->n_fields; i++) {
        r->block[h->fields[i].name + h->fields[i].name_len] = 0;
        r->block[h->fields[i].value + h->fields[i].value_len] = 0;
    }
    r->block[h->target + h->target_len] = 0;
    c->req = r;
    c->server->stats.requests++;
    c->fresh = false;
    c->keep_alive = h->keep_alive && !c->server->stopping;
    c->continue_due = h->expect_continue;
    c->body = h->chunked ? BODY_CHUNKED : h->content_length > 0 ? BODY_LENGTH : BODY_NONE;
    c->body_left = h->content_length > 0 ? (uint64_t)h->content_length : 0;
    if (c->body == BODY_NONE)
        c->continue_due = false;
    http_chunked_init(&c->chunked);
    return true;
}

static bool step_head(struct http_conn *c, struct http_view *v)
{
    size_t used = 0, seen = c->guard.length;
    if (v->n <= seen) {
        if (!c->eof)
            return false;
        c->state = CONN_CLOSING; /* nothing, or half a request, and no more to come */
        return true;
    }
    enum http_guard_result g = http_guard_feed(&c->guard, v->p + seen, v->n - seen, &used);
    if (g == HTTP_GUARD_REFUSED) {
        http_conn_refuse(c, c->guard.status, c->guard.reason);
        return true;
    }
    if (g == HTTP_GUARD_MORE) {
        if (!seen && !c->fresh) /* the first bytes of a request; a fresh connection's time began with the accept */
            deadline_in(c, c->server->o.head_ms);
        return c->eof;
    }
    size_t n = c->guard.length;
    c->in_deadline = 0;
    bool ok = begin_request(c, v->p, n);
    http_guard_init(&c->guard, (uint32_t)c->server->o.max_head, (uint32_t)c->server->o.max_target);
    v->p += n;
    v->n -= n;
    if (ok)
        route_request(c, v);
    return true;
}

/* Takes the next piece of the body out of v. 1: a piece (maybe empty), 0: more input needed, -1: refused. */
static int next_piece(struct http_conn *c, struct http_view *v, const uint8_t **data, size_t *len)
{
    size_t used = 0;
    *len = 0;
    if (!v->n)
        return 0;
    if (c->body == BODY_LENGTH) {
        *data = v->p;
        used = *len = MIN(v->n, c->body_left);
        c->body_left -= used;
        if (!c->body_left)
            c->body = BODY_NONE;
    } else {
        enum http_chunked_result r = http_chunked_next(&c->chunked, v->p, v->n, &used, data, len);
        if (r == HTTP_CHUNKED_BAD) {
            http_conn_refuse(c, 400, c->chunked.reason);
            return -1;
        }
        if (r == HTTP_CHUNKED_DONE)
            c->body = BODY_NONE;
    }
    v->p += used;
    v->n -= used;
    return 1;
}

static void collect(struct http_conn *c, const uint8_t *data, size_t len)
{
    struct http_request *r = c->req;
    if (len > body_limit(c) - r->body_len) { /* only chunked: a length was checked at once */
        http_conn_refuse(c, 413, "the body is too large");
        return;
    }
    if (r->body_len + len >= r->body_cap) { /* grows with what came, not with what was announced */
        size_t cap = MAX(r->body_len + len + 1, MIN(2 * r->body_cap, body_limit(c) + 1));
        char *body = realloc(r->body, cap);
        if (!body) {
            http_conn_refuse(c, 503, "out of memory");
            return;
        }
        r->body = body;
        r->body_cap = cap;
    }
    memcpy(r->body + r->body_len, data, len);
    r->body_len += len;
    r->body[r->body_len] = 0;
}

/* The client ended the connection inside a body. Replies to earlier requests still go out. */
static void cut_off(struct http_conn *c)
{
    if (c->req->started) {
        http_conn_fail(c, HTTP_GONE, true);
        return;
    }
    http_conn_drop_request(c, HTTP_GONE);
    if (c->state != CONN_DEAD)
        c->state = CONN_CLOSING;
}

static bool step_body(struct http_conn *c, struct http_view *v)
{
    struct http_request *r = c->req;
    if (r->ended) {
        c->state = CONN_REPLY;
        return true;
    }
    bool stream = r->route->flags & HTTP_STREAM_BODY;
    if (r->body_paused) {
        c->in_deadline = 0;
        return false;
    }
    if (c->body == BODY_NONE) {
        c->in_deadline = 0;
        c->state = CONN_REPLY;
        if (!stream)
            dispatch(c, v);
        else if (r->on_body_end && !r->body_ended) {
            r->body_ended = true;
            r->on_body_end(r, r->body_arg);
        }
        return true;
    }
    const uint8_t *data = NULL;
    size_t len;
    int got = next_piece(c, v, &data, &len);
    if (got < 0)
        return true;
    if (!got) {
        if (c->eof) {
            cut_off(c);
            return true;
        }
        if (stream && !c->in_deadline)
            deadline_in(c, c->server->o.body_ms);
        return false;
    }
    if (!stream && len)
        collect(c, data, len);
    else if (stream) {
        c->in_deadline = 0; /* progress; runs again when there is nothing to read */
        if (len && r->on_data)
            r->on_data(r, data, len, r->body_arg);
    }
    return true;
}

/* The reply has ended. Is it sent far enough to go on? */
static bool step_reply(struct http_conn *c, struct http_view *v)
{
    struct http_request *r = c->req;
    if (!r->ended) {
        if (r->started && r->framing == REPLY_CLOSE)
            v->n = 0; /* this client's further requests will never be answered: do not let them fill memory */
        return false;
    }
    size_t pending = http_conn_pending(c);
    if (r->on_closed ? pending > 0 : pending > HTTP_PIPELINE_OUT)
        return false;
    if (r->on_closed)
        (void)http_peer(r); /* as above */
    c->req = NULL;
    r->conn = NULL;
    if (r->on_closed)
        r->on_closed(r, HTTP_FINISHED, r->closed_arg);
    http_request_free(r);
    if (c->state == CONN_DEAD)
        return true;
    if (!c->keep_alive || !http_conn_discardable(c)) {
        c->state = CONN_CLOSING;
    } else if (c->body != BODY_NONE) {
        c->state = CONN_DISCARD;
        deadline_in(c, c->server->o.body_ms);
    } else {
        c->state = CONN_HEAD;
        deadline_in(c, c->server->o.idle_ms);
    }
    return true;
}

static bool step_discard(struct http_conn *c, struct http_view *v)
{
    size_t take = MIN(v->n, c->body_left);
    v->p += take;
    v->n -= take;
    c->body_left -= take;
    if (!c->body_left) {
        c->body = BODY_NONE;
        c->state = CONN_HEAD;
        deadline_in(c, c->server->o.idle_ms);
        return true;
    }
    if (c->eof)
        c->state = CONN_CLOSING;
    return c->eof;
}

/* Closing a socket with unread input resets it, and the client may lose the reply it has not read yet. So: end our side, read on
 * until the client ends its own, within bounds. */
static bool step_closing(struct http_conn *c, struct http_view *v)
{
    v->n = 0;
    if (http_conn_pending(c))
        return false;
    if (c->eof || shutdown(c->fd, SHUT_WR) < 0) {
        http_conn_fail(c, HTTP_GONE, false);
        return true;
    }
    c->state = CONN_LINGER;
    c->body_left = HTTP_LINGER_MAX;
    deadline_in(c, HTTP_LINGER_MS);
    return true;
}

static bool step_linger(struct http_conn *c, struct http_view *v)
{
    uint64_t n = v->n;
    v->n = 0;
    if (c->eof || n > c->body_left) {
        http_conn_fail(c, HTTP_GONE, false);
        return true;
    }
    c->body_left -= n;
    return false;
}

static bool step(struct http_conn *c, struct http_view *v)
{
    switch (c->state) {
    case CONN_HEAD:
        return step_head(c, v);
    case CONN_BODY:
        return step_body(c, v);
    case CONN_REPLY:
        return step_reply(c, v);
    case CONN_DISCARD:
        return step_discard(c, v);
    case CONN_CLOSING:
        return step_closing(c, v);
    case CONN_LINGER:
        return step_linger(c, v);
    case CONN_DEAD:
        break;
    }
    return false;
}

void http_conn_process(struct http_conn *c, struct http_view *v)
{
    unsigned turns = HTTP_TURN_REQUESTS;
    c->processing = true;
    for (;;) {
        bool was_reply = c->state == CONN_REPLY;
        if (step(c, v)) {
            if (was_reply && !--turns) { /* others wait too */
                http_conn_kick(c);
                break;
            }
            continue;
        }
        /* What was gathered goes out before we wait; that may be what the state waited for. */
        if (c->state == CONN_DEAD || c->writing || !http_conn_pending(c))
            break;
        if (http_conn_flush(c) < 0 || c->writing)
            break;
    }
    if (c->state != CONN_DEAD && !c->writing && http_conn_pending(c))
        (void)http_conn_flush(c); /* on failure DEAD, and the kick comes */
    c->processing = false;
    if (http_conn_drained(c))
        http_conn_kick(c);
}
