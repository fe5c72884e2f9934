/* Listening, limits, authorization, and the server's own life. */
#include "lib/http/internal.h"
#include "lib/log.h"
#include "lib/util.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <signal.h>
#include <stdio.h>
#include <strings.h>

#define BACKLOG 512
#define ACCEPT_PAUSE_MS 100 /* out of descriptors: look again after this */

static void fill_defaults(struct http_server_options *o)
{
    if (!o->host)
        o->host = "127.0.0.1";
    if (!o->max_head)
        o->max_head = 16u << 10;
    if (!o->max_target)
        o->max_target = MIN((size_t)8u << 10, o->max_head);
    if (!o->max_body)
        o->max_body = 64u << 10;
    if (!o->max_connections)
        o->max_connections = 1000;
    if (!o->head_ms)
        o->head_ms = 10000;
    if (!o->idle_ms)
        o->idle_ms = 60000;
    if (!o->body_ms)
        o->body_ms = 30000;
    if (!o->send_ms)
        o->send_ms = 60000;
}

/* Options that accepted sockets inherit on Linux, so that an accept costs one system call. */
static void tune(int fd)
{
    int one = 1, idle = 30, interval = 10, count = 3;
    /* None of them is needed to work; none of them fails on a TCP socket. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

static int listen_on(const struct addrinfo *a)
{
    int one = 1, fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one); /* without it bind says what is wrong */
    if (a->ai_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    tune(fd);
    if (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

static int open_socket(struct http_server *s, struct err *e)
{
    char port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list = NULL;
    snprintf(port, sizeof port, "%u", s->o.port);
    int r = getaddrinfo(s->o.host, port, &hints, &list), fd = -EADDRNOTAVAIL;
    if (r)
        return err_set(e, r == EAI_SYSTEM ? -errno : -EINVAL, "listen address %s: %s", s->o.host, gai_strerror(r));
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
        fd = listen_on(a);
    freeaddrinfo(list);
    if (fd < 0)
        return err_errno(e, -fd, "cannot listen on %s port %u", s->o.host, s->o.port);
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &len) < 0) {
        r = errno;
        close(fd);
        return err_errno(e, r, "cannot listen on %s port %u", s->o.host, s->o.port);
    }
    s->port = ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port : ((struct sockaddr_in *)&a)->sin_port);
    return fd;
}

/* Full: the connection that has been idle for longest goes; whoever is busy stays. */
static bool make_room(struct http_server *s)
{
    if (s->stats.connections < s->o.max_connections)
        return true;
    struct http_conn *oldest = TAILQ_FIRST(&s->idle);
    if (!oldest)
        return false;
    s->stats.evicted++;
    http_conn_destroy(oldest); /* nobody is below us on the stack that uses it: we come from the listener's event */
    return true;
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *peer, int len, void *arg)
{
    struct http_server *s = arg;
    (void)l;
    if (make_room(s) && http_conn_open(s, fd, peer, len) == 0)
        return;
    static const char busy[] = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 32\r\n"
                               "Retry-After: 1\r\nConnection: close\r\n\r\n{\"error\":\"too many connections\"}";
    s->stats.refused++;
    /* A courtesy: if it does not go out, the close says the same. */
    (void)send(fd, busy, sizeof busy - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(fd);
}

static void on_accept_again(evutil_socket_t fd, short what, void *arg)
{
    struct http_server *s = arg;
    (void)fd;
    (void)what;
    if (s->listener)
        evconnlistener_enable(s->listener);
}

/* Out of descriptors or memory: an enabled listener would spin. */
static void on_accept_error(struct evconnlistener *l, void *arg)
{
    struct http_server *s = arg;
    struct timeval pause = {.tv_usec = ACCEPT_PAUSE_MS * 1000};
    log_warn("http", "accept: %s", strerror(errno));
    evconnlistener_disable(l);
    event_add(s->ev_accept, &pause);
}

static void on_done(evutil_socket_t fd, short what, void *arg)
{
    struct http_server *s = arg;
    (void)fd;
    (void)what;
    void (*done)(void *) = s->done;
    s->done = NULL;
    if (done)
        done(s->done_arg);
}

static void ignore_sigpipe(void)
{
    struct sigaction old;
    /* evbuffers write without MSG_NOSIGNAL. A program that handles the signal itself keeps its handler. */
    if (sigaction(SIGPIPE, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
        signal(SIGPIPE, SIG_IGN);
}

static int open_parts(struct http_server *s, struct err *e)
{
    int r = http_post_open(s);
    if (r < 0)
        return err_errno(e, -r, "http server");
    int fd = open_socket(s, e);
    if (fd < 0) {
        r = fd;
        goto no_socket;
    }
    s->listener = evconnlistener_new(s->base, on_accept, s, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
    if (!s->listener) {
        close(fd);
        r = err_set(e, -ENOMEM, "http server: out of memory");
        goto no_socket;
    }
    evconnlistener_set_error_cb(s->listener, on_accept_error);
    return 0;
no_socket:
    http_post_close(s);
    return r;
}

int http_server_open(struct event_base *base, const struct http_server_options *options, const struct http_route *routes,
                     size_t n, struct http_server **out, struct err *e)
{
    struct http_server *s = calloc(1, sizeof *s);
    int r = -ENOMEM;
    if (!s)
        return err_set(e, r, "http server: out of memory");
    s->magic = HTTP_SERVER_MAGIC;
    s->base = base;
    s->o = *options;
    fill_defaults(&s->o);
    TAILQ_INIT(&s->conns);
    TAILQ_INIT(&s->idle);
    if (s->o.max_head > HTTP_HEAD_MAX || s->o.max_target > s->o.max_head || s->o.max_body >= SIZE_MAX / 2) {
        r = err_set(e, -EINVAL, "http server: a limit is out of range");
        goto fail;
    }
    if (s->o.token) {
        s->has_token = true;
        SHA256((const uint8_t *)s->o.token, strlen(s->o.token), s->token_digest);
    }
    s->scratch = malloc(HTTP_INPUT_MAX);
    s->ev_accept = evtimer_new(base, on_accept_again, s);
    s->ev_done = evtimer_new(base, on_done, s);
    r = http_router_init(&s->router, routes, n);
    if (r < 0 || !s->scratch || !s->ev_accept || !s->ev_done) {
        r = err_set(e, r < 0 ? r : -ENOMEM, r == -EINVAL ? "http server: bad route" : "http server: out of memory");
        goto fail;
    }
    ignore_sigpipe();
    r = open_parts(s, e);
    if (r < 0)
        goto fail;
    s->o.host = s->o.token = NULL; /* the caller's strings */
    *out = s;
    return 0;
fail:
    if (s->ev_accept)
        event_free(s->ev_accept);
    if (s->ev_done)
        event_free(s->ev_done);
    http_router_free(&s->router);
    free(s->scratch);
    free(s);
    return r;
}

uint16_t http_server_port(const struct http_server *s)
{
    return s->port;
}

void http_server_lost(struct http_server *s)
{
    if (s->stopping && s->done && !s->stats.connections)
        event_active(s->ev_done, EV_TIMEOUT, 0);
}

void http_server_stop_listening(struct http_server *s, void (*done)(void *arg), void *arg)
{
    struct http_conn *c;
    s->stopping = true;
    s->done = done;
    s->done_arg = arg;
    if (s->listener)
        evconnlistener_free(s->listener);
    s->listener = NULL;
    event_del(s->ev_accept);
    TAILQ_FOREACH(c, &s->idle, idle_link) http_conn_fail(c, HTTP_GONE, false);
    http_server_lost(s);
}

void http_server_close(struct http_server *s)
{
    if (!s)
        return;
    if (s->listener)
        evconnlistener_free(s->listener);
    s->listener = NULL;
    s->done = NULL;
    for (struct http_conn *c; (c = TAILQ_FIRST(&s->conns));) {
        if (c->state != CONN_DEAD) {
            c->why = HTTP_ABORTED;
            c->reset = c->req && c->req->started;
        }
        http_conn_destroy(c);
    }
    http_post_close(s);
    event_free(s->ev_accept);
    event_free(s->ev_done);
    http_router_free(&s->router);
    OPENSSL_cleanse(s->token_digest, sizeof s->token_digest);
    free(s->scratch);
    s->magic = 0;
    free(s);
}

void http_server_stats(const struct http_server *s, struct http_server_stats *out)
{
    *out = s->stats;
}

/* Digests are compared, so that neither content nor length of the token shows in the time it takes. A second Authorization field is
 * no authorization: who knows which of them somebody in between looked at. */
bool http_server_authorized(const struct http_server *s, const struct http_request *req)
{
    static const char scheme[] = "Bearer ";
    int i = http_head_find(&req->head, req->block, "authorization", 0);
    uint8_t digest[32];
    if (i < 0 || http_head_find(&req->head, req->block, "authorization", i + 1) >= 0)
        return false;
    const char *v = req->block + req->head.fields[i].value;
    if (strncasecmp(v, scheme, sizeof scheme - 1) != 0)
        return false;
    v += sizeof scheme - 1;
    v += strspn(v, " ");
    SHA256((const uint8_t *)v, strlen(v), digest);
    return CRYPTO_memcmp(digest, s->token_digest, sizeof digest) == 0;
}

const char *http_server_date(struct http_server *s)
{
    static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    time_t now = time(NULL);
    struct tm t;
    if (now != s->date_at && gmtime_r(&now, &t)) { /* not strftime: its names follow the locale */
        snprintf(s->date, sizeof s->date, "%.3s, %02u %.3s %04u %02u:%02u:%02u GMT", days + 3 * t.tm_wday,
                 (unsigned)t.tm_mday % 100, months + 3 * t.tm_mon, (unsigned)(t.tm_year + 1900) % 10000, (unsigned)t.tm_hour % 100,
                 (unsigned)t.tm_min % 100, (unsigned)t.tm_sec % 100);
        s->date_at = now;
    }
    return s->date;
}
