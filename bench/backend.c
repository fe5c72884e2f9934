/* The application behind the proxies that are compared: as little work as an HTTP/1.1 server can do. One thread.
 *
 *   backend [PORT]
 *
 * Prints the port it listens on (of 127.0.0.1), then serves until it is killed. "GET /big" is answered with 1 MiB, all else with 100 bytes. Requests
 * must have no body. The large answer goes out of a file in memory (sendfile), as a server of files does it: what its core has to do besides the load generator
 * would else be the limit, whichever proxy stands in between. */
#include "bench/bench.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#define SMALL 100
#define BIG (1u << 20)
#define IN_MAX 16384

struct answer {
    char *bytes;
    size_t n;
    int file; /* with the same bytes; -1: none */
};

struct conn {
    int fd;
    size_t in;                /* bytes of an unfinished head */
    const struct answer *out; /* being sent; NULL: none */
    size_t sent;
    char buf[IN_MAX];
};

static struct answer small, big;

static struct answer make_answer(size_t body)
{
    struct answer a = {malloc(body + 200), 0, -1};
    if (!a.bytes)
        die("no memory");
    int n = snprintf(a.bytes, 200, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n", body);
    memset(a.bytes + n, 'x', body);
    a.n = (size_t)n + body;
    return a;
}

static void drop(struct conn *c)
{
    close(c->fd);
    free(c);
}

/* Sends what is left of the answer. 1: all sent; 0: the socket is full; -1: it is gone. */
static int send_out(struct conn *c)
{
    while (c->sent < c->out->n) {
        off_t at = (off_t)c->sent;
        ssize_t n = c->out->file < 0 ? send(c->fd, c->out->bytes + c->sent, c->out->n - c->sent, MSG_NOSIGNAL)
                                     : sendfile(c->fd, c->out->file, &at, c->out->n - c->sent);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        c->sent += (size_t)n;
    }
    c->out = NULL;
    return 1;
}

/* Answers every whole request in the buffer. False: the connection is gone. */
static bool answer_all(struct conn *c)
{
    for (;;) {
        if (c->out && send_out(c) <= 0)
            return c->out != NULL && errno == EAGAIN;
        char *end = memmem(c->buf, c->in, "\r\n\r\n", 4);
        if (!end)
            return c->in < IN_MAX;
        size_t n = (size_t)(end + 4 - c->buf);
        c->out = n > 8 && memcmp(c->buf, "GET /big", 8) == 0 ? &big : &small;
        c->sent = 0;
        memmove(c->buf, c->buf + n, c->in - n);
        c->in -= n;
    }
}

static bool on_event(struct conn *c)
{
    for (;;) {
        ssize_t n = c->in < IN_MAX ? recv(c->fd, c->buf + c->in, IN_MAX - c->in, 0) : 0;
        if (n < 0)
            return errno == EAGAIN && answer_all(c);
        if (n == 0)
            return false;
        c->in += (size_t)n;
        if (!answer_all(c))
            return false;
        if (c->out)
            return true; /* EPOLLOUT goes on */
    }
}

static int listen_on(uint16_t port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 4096) != 0 || getsockname(fd, (struct sockaddr *)&at, &len) != 0)
        die("listen on port %u: %m", port);
    printf("%u\n", ntohs(at.sin_port));
    fflush(stdout);
    return fd;
}

static void accept_all(int epfd, int fd)
{
    int got, on = 1;
    while ((got = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = calloc(1, sizeof *c);
        if (!c)
            die("no memory");
        c->fd = got;
        setsockopt(got, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
        if (epoll_ctl(epfd, EPOLL_CTL_ADD, got, &ev) != 0)
            die("epoll_ctl: %m");
    }
}

int main(int argc, char **argv)
{
    small = make_answer(SMALL);
    big = make_answer(BIG);
    big.file = memfd_create("big", MFD_CLOEXEC);
    if (big.file < 0 || write(big.file, big.bytes, big.n) != (ssize_t)big.n)
        die("a file in memory: %m");
    signal(SIGPIPE, SIG_IGN);
    int fd = listen_on(argc > 1 ? (uint16_t)atoi(argv[1]) : 0), epfd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    if (epfd < 0 || epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev) != 0)
        die("epoll: %m");
    for (;;) {
        int n = epoll_wait(epfd, events, 256, -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c)
                accept_all(epfd, fd);
            else if (!on_event(c))
                drop(c);
        }
    }
}
