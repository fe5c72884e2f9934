/* One client's socket: reading, events, time-outs, birth and death. What the bytes mean is exchange.c's. */
#include "lib/http/internal.h"
#include "lib/util.h"

#include <errno.h>

static void on_readable(evutil_socket_t fd, short what, void *arg);
static void on_writable(evutil_socket_t fd, short what, void *arg);
static void on_timer(evutil_socket_t fd, short what, void *arg);
static void on_kick(evutil_socket_t fd, short what, void *arg);
static void settle(struct http_conn *c);

int http_conn_open(struct http_server *s, int fd, const struct sockaddr *peer, int peer_len)
{
    struct http_conn *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->out = evbuffer_new();
    if (!c->out) {
        free(c);
        return -ENOMEM;
    }
    evbuffer_set_flags(c->out, EVBUFFER_FLAG_DRAINS_TO_FD); /* file segments by sendfile */
    c->magic = HTTP_CONN_MAGIC;
    c->fd = fd;
    c->server = s;
    c->fresh = true;
    memcpy(&c->peer, peer, MIN((size_t)peer_len, sizeof c->peer));
    http_guard_init(&c->guard, (uint32_t)s->o.max_head, (uint32_t)s->o.max_target);
    event_assign(&c->ev_read, s->base, fd, EV_READ | EV_PERSIST, on_readable, c);
    event_assign(&c->ev_write, s->base, fd, EV_WRITE | EV_PERSIST, on_writable, c);
    event_assign(&c->ev_timer, s->base, -1, 0, on_timer, c);
    event_assign(&c->ev_kick, s->base, -1, 0, on_kick, c);
    TAILQ_INSERT_TAIL(&s->conns, c, all);
    s->stats.connections++;
    s->stats.accepted++;
    c->in_deadline = http_now_ms() + s->o.head_ms;
    http_conn_arm(c);
    settle(c);
    return 0;
}

static void stop_events(struct http_conn *c)
{
    event_del(&c->ev_read);
    event_del(&c->ev_write);
    event_del(&c->ev_timer);
    c->reading = c->writing = false;
}

static void set_idle(struct http_conn *c, bool idle)
{
    if (c->idle == idle)
        return;
    if (idle)
        TAILQ_INSERT_TAIL(&c->server->idle, c, idle_link);
    else
        TAILQ_REMOVE(&c->server->idle, c, idle_link);
    c->idle = idle;
}

void http_conn_destroy(struct http_conn *c)
{
    struct http_server *s = c->server;
    c->state = CONN_DEAD;
    stop_events(c);
    event_del(&c->ev_kick);
    set_idle(c, false);
    if (c->req)
        http_conn_drop_request(c, c->why);
    if (c->reset) {
        struct linger now = {.l_onoff = 1, .l_linger = 0};
        /* If it fails the client sees an orderly end: no worse than what TCP can always do. */
        (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    close(c->fd);
    evbuffer_free(c->out);
    free(c->in.buf);
    TAILQ_REMOVE(&s->conns, c, all);
    s->stats.connections--;
    c->magic = 0;
    free(c);
    http_server_lost(s);
}

void http_conn_fail(struct http_conn *c, enum http_closed why, bool reset)
{
    if (c->state == CONN_DEAD)
        return;
    c->state = CONN_DEAD;
    c->why = why;
    c->reset = reset;
    stop_events(c);
    http_conn_kick(c);
}

void http_conn_kick(struct http_conn *c)
{
    if (c->kicked)
        return;
    static const struct timeval now = {0, 0};
    c->kicked = true;
    /* A timer of zero runs in the loop's next turn. event_active would run in this one, and a connection that has reason to be kicked again
     * and again would keep the loop from all others. */
    if (event_add(&c->ev_kick, &now) < 0)
        event_active(&c->ev_kick, EV_TIMEOUT, 0); /* out of memory: unfair, but it comes */
}

/* One timer a connection, moved only forward: an event that fires too early looks at the deadlines and is set again. So a busy
 * connection, whose deadlines change with every request, hardly ever touches the loop's heap. */
void http_conn_arm(struct http_conn *c)
{
    uint64_t want = c->in_deadline;
    if (c->state == CONN_DEAD)
        return;
    if (c->out_deadline && (!want || c->out_deadline < want))
        want = c->out_deadline;
    if (!want || (c->timer_at && c->timer_at <= want))
        return;
    uint64_t now = http_now_ms(), ms = want > now ? want - now : 0;
    struct timeval tv = {.tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000 * 1000)};
    if (event_add(&c->ev_timer, &tv) < 0) {
        http_conn_fail(c, HTTP_GONE, false); /* a connection without time-outs is not to be had */
        return;
    }
    c->timer_at = want;
}

/* How much more input is wanted now. While a request is being answered, what comes is kept for its turn, up to a limit: reading on is how
 * a client that leaves is noticed. */
static size_t input_room(const struct http_conn *c)
{
    size_t waiting = c->in.len - c->in.pos;
    if (c->eof || c->state == CONN_DEAD || c->state == CONN_CLOSING)
        return 0;
    if (c->state == CONN_BODY && c->req && c->req->body_paused)
        return 0;
    return waiting < HTTP_INPUT_MAX ? HTTP_INPUT_MAX - waiting : 0;
}

/* Makes events and lists agree with the state, after anything that may have changed it. */
static void settle(struct http_conn *c)
{
    if (c->state == CONN_DEAD)
        return;
    bool idle = c->state == CONN_HEAD && !c->guard.length && !c->req && !http_conn_pending(c);
    if (idle && c->server->stopping) {
        http_conn_fail(c, HTTP_GONE, false);
        return;
    }
    set_idle(c, idle);
    bool want = input_room(c) > 0;
    if (want && !c->reading) {
        if (event_add(&c->ev_read, NULL) < 0) {
            http_conn_fail(c, HTTP_GONE, false);
            return;
        }
    } else if (!want && c->reading)
        event_del(&c->ev_read);
    c->reading = want;
}

/* Keeps the bytes of v for later. v may already lie in the buffer. */
static int keep(struct http_conn *c, const struct http_view *v)
{
    if (!v->n) {
        /* Nothing waits: an idle connection keeps no buffer. */
        free(c->in.buf);
        c->in.buf = NULL;
        c->in.pos = c->in.len = c->in.cap = 0;
        return 0;
    }
    if (c->in.buf && v->p >= c->in.buf && v->p < c->in.buf + c->in.cap) {
        c->in.pos = (size_t)(v->p - c->in.buf);
        return 0;
    }
    size_t waiting = c->in.len - c->in.pos, need = waiting + v->n;
    if (c->in.pos && waiting)
        memmove(c->in.buf, c->in.buf + c->in.pos, waiting);
    c->in.pos = 0;
    c->in.len = waiting;
    if (need > c->in.cap) {
        size_t cap = MAX(need, MIN(2 * c->in.cap, (size_t)HTTP_INPUT_MAX));
        uint8_t *buf = realloc(c->in.buf, cap);
        if (!buf) {
            http_conn_fail(c, HTTP_GONE, false);
            return -ENOMEM;
        }
        c->in.buf = buf;
        c->in.cap = cap;
    }
    memcpy(c->in.buf + waiting, v->p, v->n);
    c->in.len = need;
    return 0;
}

/* Goes as far as the input at hand allows, then puts the rest away. */
static void run(struct http_conn *c, struct http_view v)
{
    http_conn_process(c, &v);
    if (c->state != CONN_DEAD)
        (void)keep(c, &v); /* on failure the connection is DEAD and the kick comes */
    settle(c);
}

static struct http_view waiting_input(const struct http_conn *c)
{
    return (struct http_view){c->in.buf ? c->in.buf + c->in.pos : NULL, c->in.len - c->in.pos};
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct http_conn *c = arg;
    (void)what;
    size_t room = input_room(c);
    if (!room) {
        settle(c);
        return;
    }
    ssize_t n = recv(fd, c->server->scratch, room, MSG_DONTWAIT);
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR)
            http_conn_fail(c, HTTP_GONE, false);
        return;
    }
    struct http_view v = {c->server->scratch, (size_t)n};
    if (n == 0) {
        c->eof = true;
        if (c->req && c->req->dispatched && c->req->route && (c->req->route->flags & HTTP_EOF_IS_GONE)) {
            http_conn_fail(c, HTTP_GONE, false);
            return;
        }
    }
    if (c->in.len > c->in.pos || n == 0) {
        if (n && keep(c, &v) < 0)
            return;
        v = waiting_input(c);
    }
    run(c, v);
}

/* Output went down: maybe the handler that was told to wait may go on. */
static void tell_drained(struct http_conn *c)
{
    if (!http_conn_drained(c))
        return;
    c->req->above_low = false;
    c->req->on_drain(c->req, c->req->drain_arg);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct http_conn *c = arg;
    (void)fd;
    (void)what;
    if (http_conn_flush(c) < 0)
        return;
    tell_drained(c);
    run(c, waiting_input(c));
}

static void on_kick(evutil_socket_t fd, short what, void *arg)
{
    struct http_conn *c = arg;
    (void)fd;
    (void)what;
    c->kicked = false;
    if (c->state == CONN_DEAD) {
        http_conn_destroy(c);
        return;
    }
    tell_drained(c);
    run(c, waiting_input(c));
}

static void input_late(struct http_conn *c)
{
    c->in_deadline = 0;
    if (c->state != CONN_LINGER) /* there it is how waiting ends */
        c->server->stats.timed_out++;
    bool answer = (c->state == CONN_HEAD && c->guard.length) || (c->state == CONN_BODY && !(c->req && c->req->started));
    if (answer)
        http_conn_refuse(c, 408, c->state == CONN_HEAD ? "the request's header did not arrive in time"
                                                       : "the request's body did not arrive in time");
    else
        http_conn_fail(c, HTTP_GONE, false);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct http_conn *c = arg;
    (void)fd;
    (void)what;
    uint64_t now = http_now_ms();
    c->timer_at = 0;
    if (c->out_deadline && now >= c->out_deadline) {
        c->server->stats.timed_out++;
        http_conn_fail(c, HTTP_GONE, true);
        return;
    }
    if (c->in_deadline && now >= c->in_deadline) {
        input_late(c);
        run(c, waiting_input(c));
    }
    http_conn_arm(c);
}
