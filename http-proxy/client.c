#include "http-proxy/engine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>

static void client_ready(struct transport *t);

static void set_address(struct client *c)
{
    const struct sockaddr *sa = (const struct sockaddr *)&c->peer;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&c->peer;
    if (sa->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)&c->peer)->sin_addr, c->addr, sizeof c->addr);
    else if (sa->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
        inet_ntop(AF_INET, v6->sin6_addr.s6_addr + 12, c->addr, sizeof c->addr);
    else if (sa->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &v6->sin6_addr, c->addr, sizeof c->addr);
    else
        memcpy(c->addr, "unknown", 8);
    c->addr_len = (uint8_t)strlen(c->addr);
}

static uint32_t seconds(uint64_t ms)
{
    return (uint32_t)((ms + 999) / 1000);
}

void client_accept(struct listener *l, int fd, const struct sockaddr_storage *peer)
{
    struct engine *e = l->e;
    struct client *c = calloc(1, sizeof *c);
    SSL *ssl = c && l->app->tls ? SSL_new(l->app->tls) : NULL;
    if (!c || (l->app->tls && !ssl)) {
        free(c);
        close(fd);
        return;
    }
    if (ssl)
        SSL_set_accept_state(ssl);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)); /* of TCP only; slower without */
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
    if (transport_open(&c->t, e->base, fd, ssl, false, client_ready)) {
        free(c);
        return;
    }
    c->e = e;
    c->l = l;
    c->peer = *peer;
    set_address(c);
    c->trusted = trust_has(l->app->trust, &c->peer);
    c->deadline_s = e->now_s + seconds(l->app->c->limits.header_ms) + 1;
    TAILQ_INSERT_TAIL(&l->clients, c, link);
    l->n_clients++;
    e->gauges->clients++;
    e->gauges->clients_idle++;
    e->gauges->accepted++;
    c->t.can_read = true; /* the first request has often arrived */
    client_run(c);
}

void client_close(struct client *c, bool reset)
{
    if (c->dead)
        return;
    c->dead = true;
    transport_close(&c->t, reset);
    buf_put(c->in);
    c->in = NULL;
    TAILQ_REMOVE(&c->l->clients, c, link);
    c->l->n_clients--;
    c->e->gauges->clients--;
    if (!c->ex)
        c->e->gauges->clients_idle--;
    struct exchange *ex = c->ex;
    if (ex)
        exchange_abort(ex);
    listener_freed(c->l);
    SLIST_INSERT_HEAD(&c->e->client_graves, c, grave);
    engine_reap_soon(c->e);
}

/* Reads and drops, so that what the client still sends does not make the kernel throw away our last response with a reset. */
static void linger(struct client *c)
{
    char scratch[4096];
    while (c->t.can_read && c->linger_left) {
        ssize_t n = transport_recv(&c->t, scratch, sizeof scratch);
        if (n == -EAGAIN)
            return;
        if (n <= 0)
            break;
        c->linger_left -= MIN((uint32_t)n, c->linger_left);
    }
    if (!c->linger_left || c->t.broken || c->t.peer_closed)
        client_close(c, false);
}

void client_finish(struct client *c)
{
    c->closing = true;
    bool unread = (c->in && c->in_pos < c->in_len) || c->t.can_read;
    buf_put(c->in);
    c->in = NULL;
    if (!unread || c->t.broken || c->t.peer_closed) {
        client_close(c, false);
        return;
    }
    transport_shutdown(&c->t);
    c->lingering = true;
    c->linger_left = LINGER_BYTES;
    c->deadline_s = c->e->now_s + LINGER_S + 1;
    linger(c);
}

/* Room behind what is there. */
static bool make_room(struct client *c)
{
    if (!c->in && !(c->in = buf_get(BUF_SMALL)))
        return false;
    if (c->in_pos == c->in_len)
        c->in_pos = c->in_len = 0;
    if (c->in->refs > 1 || c->in_pos) { /* somebody else's head lies in it, or there is room in front */
        struct buf *b = c->in->refs > 1 ? buf_get(BUF_SMALL) : c->in;
        if (!b)
            return false;
        memmove(b->data, c->in->data + c->in_pos, c->in_len - c->in_pos);
        c->in_len -= c->in_pos;
        c->in_pos = 0;
        if (b != c->in) {
            buf_put(c->in);
            c->in = b;
        }
    }
    return true;
}

/* false: nothing came, and nothing will before the next event. */
static bool read_more(struct client *c)
{
    if (c->t.broken || (c->t.can_read && !make_room(c)))
        client_close(c, true);
    if (c->dead || !c->t.can_read)
        return false;
    bool first = c->in_len == 0;
    ssize_t n = transport_recv(&c->t, c->in->data + c->in_len, BUF_READ_HEAD - c->in_len);
    if (n > 0) {
        c->in_len += (uint32_t)n;
        if (first && !c->closing)
            c->deadline_s = c->e->now_s + seconds(c->l->app ? c->l->app->c->limits.header_ms : 10000) + 1;
        return true;
    }
    if (n != -EAGAIN)
        client_close(c, false);
    return false;
}

/* What lies in the input, as far as it is a request. false: more is needed, or it is over. */
static bool next_request(struct client *c)
{
    const struct config_proxy *limits = c->l->app->c;
    struct exchange *ex = exchange_new(c);
    struct head_error he = {503, "out of memory"};
    if (!ex) {
        answer_bad_request(c, he.status, he.reason);
        return false;
    }
    switch (head_parse_request(&ex->req, c->in->data + c->in_pos, c->in_len - c->in_pos, limits->limits.header_size,
                               (unsigned)limits->limits.header_count, &he)) {
    case HEAD_DONE:
        exchange_begin(ex);
        return true;
    case HEAD_MORE:
        SLIST_INSERT_HEAD(&c->e->spare, ex, spare);
        return read_more(c);
    default:
        SLIST_INSERT_HEAD(&c->e->spare, ex, spare);
        answer_bad_request(c, he.status, he.reason);
        return false;
    }
}

static void go_on(struct client *c)
{
    for (int turn = 0; !c->dead && !c->ex && !c->closing; turn++) {
        bool bytes = c->in && c->in_pos < c->in_len;
        if (!c->l->app || (c->e->draining && !c->e->patient && !bytes)) {
            client_close(c, false);
            return;
        }
        if (turn == TURN_REQUESTS) {
            event_active(&c->t.ev, EV_READ, 1);
            return;
        }
        if (!(bytes ? next_request(c) : read_more(c)))
            break;
    }
}

void client_run(struct client *c)
{
    if (c->running) {
        c->again = true;
        return;
    }
    c->running = true;
    do {
        c->again = false;
        go_on(c);
    } while (c->again && !c->dead);
    c->running = false;
    if (c->dead || c->ex || c->closing || !c->in || c->in_pos < c->in_len)
        return;
    buf_put(c->in); /* idle: holds nothing */
    c->in = NULL;
    c->in_pos = c->in_len = 0;
}

/* In the middle of an exchange: is the client still there? */
static bool gone(struct client *c)
{
    struct pollfd p = {.fd = c->t.fd, .events = POLLRDHUP};
    if (c->t.broken || (poll(&p, 1, 0) > 0 && (p.revents & (POLLERR | POLLHUP | POLLNVAL))))
        return true;
    if (p.revents & POLLRDHUP)
        c->t.peer_closed = true;
    return false;
}

/* Who has only half-closed its connection reads the interim response and drops it, as everybody must (RFC 9110 §15.2.1); the system of who is gone answers
 * with a reset, and the request gives up its place. */
void client_probe(struct client *c)
{
    struct exchange *ex = c->ex;
    bool waits = ex->state == EX_PARKED || ex->state == EX_CACHE_WAIT || ex->state == EX_CONNECT;
    if (!waits || !c->t.peer_closed || ex->probed || !ex->req.minor || ex->status)
        return;
    ex->probed = true;
    static char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    (void)transport_send(&c->t, &(struct iovec){interim, sizeof interim - 1}, 1, false); /* an error shows as the event that is waited for */
}

static void client_ready(struct transport *t)
{
    struct client *c = (struct client *)t;
    if (t->connecting) {
        int rc = transport_connect(t);
        if (rc == -EAGAIN)
            return;
        if (rc) {
            client_close(c, true);
            return;
        }
    }
    if (c->lingering) {
        linger(c);
    } else if (c->ex) {
        if (t->can_read && gone(c)) {
            client_close(c, true);
        } else {
            client_probe(c);
            exchange_pump(c->ex);
        }
    } else {
        client_run(c);
    }
}

void client_tick(struct client *c, uint32_t now_s)
{
    if (c->dead)
        return;
    if (c->ex)
        exchange_tick(c->ex, now_s);
    else if (now_s >= c->deadline_s && c->in && c->in_pos < c->in_len && !c->closing)
        answer_bad_request(c, 408, "the request did not arrive in time");
    else if (now_s >= c->deadline_s)
        client_close(c, false);
}
