#include "ctl/launcher/control.h"

#include "lib/localsock.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>

#define ACCEPT_PAUSE_NS UINT64_C(1000000000)

static const char *const words[] = {[CONTROL_UPGRADE] = "upgrade", [CONTROL_STOP] = "stop"};

int control_open(struct control *c, const char *path, struct err *e)
{
    *c = (struct control){.listener = localsock_listen(path, e)};
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++)
        c->clients[i].fd = -1;
    if (c->listener < 0)
        return c->listener;
    return fcntl(c->listener, F_SETFL, O_NONBLOCK) ? err_errno(e, errno, "%s", path) : 0;
}

static void drop(struct control *c, size_t i)
{
    close(c->clients[i].fd);
    c->clients[i].fd = -1;
    c->clients[i].id = 0;
}

void control_close(struct control *c)
{
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++)
        if (c->clients[i].fd >= 0)
            drop(c, i);
    if (c->listener >= 0)
        close(c->listener);
    c->listener = -1;
}

static int free_slot(const struct control *c)
{
    for (int i = 0; i < CONTROL_CLIENTS_MAX; i++)
        if (c->clients[i].fd < 0)
            return i;
    return -1;
}

int control_poll(const struct control *c, struct pollfd *p, uint64_t now)
{
    int n = 0;
    /* While all places are taken, newcomers wait in the kernel's queue. */
    if (c->listener >= 0 && free_slot(c) >= 0 && now >= c->accept_after)
        p[n++] = (struct pollfd){.fd = c->listener, .events = POLLIN};
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++)
        if (c->clients[i].fd >= 0)
            p[n++] = (struct pollfd){.fd = c->clients[i].fd, .events = POLLIN};
    return n;
}

static void accept_one(struct control *c, uint64_t now)
{
    int slot = free_slot(c);
    int fd = slot < 0 ? -1 : accept4(c->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            c->accept_after = now + ACCEPT_PAUSE_NS;
        return;
    }
    struct ucred peer = {.uid = (uid_t)-1};
    socklen_t len = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) || (peer.uid != 0 && peer.uid != geteuid())) {
        log_warn("launcher", "control socket: refusing pid %d of user %d", (int)peer.pid, (int)peer.uid);
        close(fd);
        return;
    }
    c->clients[slot].fd = fd;
    c->clients[slot].id = ++c->last_id;
}

void control_serve(struct control *c, const struct pollfd *p, int n, uint64_t now,
                   void (*obey)(void *context, uint64_t client, enum control_request request), void *context)
{
    for (int k = 0; k < n; k++) {
        if (!p[k].revents)
            continue;
        if (p[k].fd == c->listener) {
            accept_one(c, now);
            continue;
        }
        size_t i = 0;
        while (i < CONTROL_CLIENTS_MAX && c->clients[i].fd != p[k].fd)
            i++;
        if (i == CONTROL_CLIENTS_MAX)
            continue;
        char text[32];
        ssize_t got = localsock_recv(p[k].fd, text, sizeof text, NULL, NULL);
        if (got == -EAGAIN)
            continue;
        size_t w = 0;
        while (got > 0 && w < ARRAY_SIZE(words) && ((size_t)got != strlen(words[w]) || memcmp(text, words[w], (size_t)got) != 0))
            w++;
        if (got > 0 && w < ARRAY_SIZE(words)) {
            obey(context, c->clients[i].id, (enum control_request)w);
            continue;
        }
        if (got != 0)
            log_warn("launcher", "control socket: bad request, closing the connection");
        drop(c, i);
    }
}

void control_say(struct control *c, uint64_t client, char kind, const char *fmt, ...)
{
    char text[CONTROL_TEXT_MAX];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    size_t len = n < 0 ? 0 : MIN((size_t)n, sizeof text - 1);
    for (size_t i = 0; client && i < CONTROL_CLIENTS_MAX; i++)
        if (c->clients[i].id == client && (localsock_send(c->clients[i].fd, &kind, 1, text, len, NULL, 0) || kind != '+'))
            drop(c, i);
}

int control_ask(const char *path, enum control_request request)
{
    struct err e;
    _cleanup_fd_ int fd = localsock_connect(path, &e);
    if (fd == -ENOENT || fd == -ECONNREFUSED) {
        fprintf(stderr, "edgefs: no node runs here (nobody listens on %s)\n", path);
        return 1;
    }
    int rc = fd < 0 ? fd : localsock_send(fd, words[request], strlen(words[request]), NULL, 0, NULL, 0);
    if (rc < 0) {
        fprintf(stderr, "edgefs: %s\n", fd < 0 ? e.text : err_name(rc));
        return 1;
    }
    for (;;) {
        char text[CONTROL_TEXT_MAX + 2];
        ssize_t n = localsock_recv(fd, text, sizeof text - 1, NULL, NULL);
        if (n <= 0) {
            fprintf(stderr, "edgefs: the launcher hung up%s%s\n", n < 0 ? ": " : " without an answer", n < 0 ? err_name((int)n) : "");
            return 1;
        }
        text[n] = 0;
        if (n > 1)
            fprintf(text[0] == '!' ? stderr : stdout, "%s%s\n", text[0] == '!' ? "edgefs: " : "", text + 1);
        (void)fflush(stdout); /* progress is for people; the exit status counts */
        if (text[0] != '+')
            return text[0] != '0';
    }
}
