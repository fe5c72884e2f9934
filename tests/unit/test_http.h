/* For the tests of lib/http: a server whose loop runs in a thread of its own, and raw sockets to talk to it. */
#ifndef EDGEFS_TEST_HTTP_H
#define EDGEFS_TEST_HTTP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/http/server.h"
#include "lib/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>

#define UNUSED __attribute__((unused))

struct rig {
    struct event_base *base;
    struct http_server *server;
    pthread_t thread;
    uint16_t port;
};

static void *rig_main(void *arg)
{
    struct rig *r = arg;
    event_base_loop(r->base, EVLOOP_NO_EXIT_ON_EMPTY);
    return NULL;
}

static void rig_break(void *arg)
{
    event_base_loopbreak(arg);
}

UNUSED static void rig_open(struct rig *r, const struct http_server_options *o, const struct http_route *routes, size_t n)
{
    struct err e;
    r->base = event_base_new();
    assert_non_null(r->base);
    if (http_server_open(r->base, o, routes, n, &r->server, &e) != 0)
        fail_msg("%s", e.text);
    r->port = http_server_port(r->server);
    assert_int_equal(pthread_create(&r->thread, NULL, rig_main, r), 0);
}

UNUSED static void rig_close(struct rig *r)
{
    assert_int_equal(http_server_post(r->server, rig_break, r->base), 0);
    pthread_join(r->thread, NULL);
    http_server_close(r->server);
    event_base_free(r->base);
}

/* Runs fn(arg) in the loop's thread and waits for it. */
struct rig_call {
    void (*fn)(void *);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
};
static void rig_call_run(void *p)
{
    struct rig_call *c = p;
    c->fn(c->arg);
    pthread_mutex_lock(&c->lock);
    c->done = true;
    pthread_cond_signal(&c->cond);
    pthread_mutex_unlock(&c->lock);
}
UNUSED static void rig_call(struct rig *r, void (*fn)(void *), void *arg)
{
    struct rig_call c = {.fn = fn, .arg = arg, .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    assert_int_equal(http_server_post(r->server, rig_call_run, &c), 0);
    pthread_mutex_lock(&c.lock);
    while (!c.done)
        pthread_cond_wait(&c.cond, &c.lock);
    pthread_mutex_unlock(&c.lock);
}

struct rig_stats_arg {
    struct http_server *s;
    struct http_server_stats st;
};
static void rig_stats_run(void *p)
{
    struct rig_stats_arg *a = p;
    http_server_stats(a->s, &a->st);
}
UNUSED static struct http_server_stats rig_stats(struct rig *r)
{
    struct rig_stats_arg a = {.s = r->server};
    rig_call(r, rig_stats_run, &a);
    return a.st;
}

UNUSED static int dial(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct timeval limit = {.tv_sec = 20};
    assert_true(fd >= 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

/* False: the other side has closed. */
UNUSED static bool send_bytes(int fd, const void *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        ssize_t k = send(fd, (const char *)p + i, n - i, MSG_NOSIGNAL);
        if (k <= 0)
            return false;
        i += (size_t)k;
    }
    return true;
}
UNUSED static bool send_text(int fd, const char *text)
{
    return send_bytes(fd, text, strlen(text));
}

struct reply {
    int status;
    char *head; /* with its empty line; NUL-terminated */
    char *body;
    size_t len, cap;
    bool eof; /* the body ended with the connection */
};

UNUSED static void reply_free(struct reply *r)
{
    free(r->head);
    free(r->body);
    memset(r, 0, sizeof *r);
}

/* Value of a header field of the reply (static storage), or NULL. */
UNUSED static const char *reply_header(const struct reply *r, const char *name)
{
    static char value[512];
    size_t n = strlen(name);
    for (const char *l = r->head; l && *l; l = strstr(l, "\r\n") ? strstr(l, "\r\n") + 2 : NULL)
        if (!strncasecmp(l, name, n) && l[n] == ':') {
            snprintf(value, sizeof value, "%.*s", (int)strcspn(l + n + 2, "\r"), l + n + 2);
            return value;
        }
    return NULL;
}

static char *read_line(int fd, char *buf, size_t size)
{
    size_t n = 0;
    while (n + 1 < size) {
        if (recv(fd, buf + n, 1, 0) != 1)
            return NULL;
        if (++n >= 2 && buf[n - 2] == '\r' && buf[n - 1] == '\n') {
            buf[n] = 0;
            return buf;
        }
    }
    return NULL;
}

static bool read_exact(int fd, char *buf, size_t n)
{
    for (size_t i = 0; i < n;) {
        ssize_t k = recv(fd, buf + i, n - i, 0);
        if (k <= 0)
            return false;
        i += (size_t)k;
    }
    return true;
}

static void more_body(struct reply *r, size_t n)
{
    if (r->len + n + 1 > r->cap) {
        r->cap = 2 * (r->len + n) + 1;
        r->body = realloc(r->body, r->cap);
        assert_non_null(r->body);
    }
    r->body[r->len + n] = 0;
}

static bool read_chunks(int fd, struct reply *r)
{
    char line[64];
    for (;;) {
        if (!read_line(fd, line, sizeof line))
            return false;
        size_t n = strtoul(line, NULL, 16);
        more_body(r, n);
        if (n && !read_exact(fd, r->body + r->len, n))
            return false;
        r->len += n;
        if (!read_line(fd, line, sizeof line) || strcmp(line, "\r\n") != 0)
            return false;
        if (!n)
            return true;
    }
}

/* Reads one reply; `head` for a HEAD request. False: the connection ended, was reset, or timed out before the reply was complete. */
UNUSED static bool read_reply(int fd, struct reply *r, bool head)
{
    char line[4096];
    memset(r, 0, sizeof *r);
    size_t have = 0;
    do {
        if (!read_line(fd, line, sizeof line))
            return false;
        size_t n = strlen(line);
        r->head = realloc(r->head, have + n + 1);
        assert_non_null(r->head);
        memcpy(r->head + have, line, n + 1);
        have += n;
    } while (strcmp(line, "\r\n") != 0);
    if (strncmp(r->head, "HTTP/1.1 ", 9) != 0)
        return false;
    r->status = atoi(r->head + 9);
    more_body(r, 0);
    const char *length = reply_header(r, "Content-Length");
    if (head || r->status == 204 || r->status == 304 || r->status / 100 == 1)
        return true;
    if (length) {
        size_t n = strtoul(length, NULL, 10);
        more_body(r, n);
        r->len = n;
        return read_exact(fd, r->body, n);
    }
    if (reply_header(r, "Transfer-Encoding"))
        return read_chunks(fd, r);
    r->eof = true;
    for (;;) {
        more_body(r, 65536);
        ssize_t k = recv(fd, r->body + r->len, 65536, 0);
        if (k < 0)
            return false;
        r->len += (size_t)k;
        r->body[r->len] = 0;
        if (k == 0)
            return true;
    }
}

/* Sends text and reads one reply, which must come. */
UNUSED static struct reply ask(int fd, const char *text)
{
    struct reply r;
    send_text(fd, text);
    if (!read_reply(fd, &r, !strncmp(text, "HEAD ", 5)))
        fail_msg("no reply to: %s", text);
    return r;
}

/* Nothing but the end of the connection comes. */
UNUSED static bool is_closed(int fd)
{
    char c;
    return recv(fd, &c, 1, 0) == 0;
}

UNUSED static void wait_for(atomic_int *v, int want)
{
    for (int i = 0; i < 10000 && atomic_load(v) != want; i++)
        usleep(1000);
    assert_int_equal(atomic_load(v), want);
}

#endif
