#include "replicator/image/lent.h"

#include "edgefs/layout.h"
#include "edgefs/lend.h"
#include "lib/localsock.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <openssl/rand.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define LENT_MAX 32u /* connections */
#define HELLO_S 10   /* a client that says nothing for so long is cut off */

/* WAITING ──a file came──► LENT ──lent_take──► TAKEN ──lent_return──► freed
 *     └──── client gone ──┴──► freed             └── client gone: on_gone; freed by lent_return */
struct lent {
    LIST_ENTRY(lent) link;
    struct lent_server *server;
    struct event *event; /* NULL: the client is gone */
    int sock, fd;        /* -1: none (yet), or given away */
    int64_t size;
    bool taken;
    void (*on_gone)(void *arg);
    void *arg;
    char number[LEND_NUMBER_LEN + 1]; /* "": no file has come */
};

struct lent_server {
    struct event *accepting;
    int listen_fd;
    unsigned n;
    LIST_HEAD(, lent) list;
    char *path;
};

static void hang_up(struct lent *l)
{
    if (l->event)
        event_free(l->event);
    l->event = NULL;
    if (l->sock >= 0)
        close(l->sock);
    l->sock = -1;
}

static void free_lent(struct lent *l)
{
    hang_up(l);
    if (l->fd >= 0)
        close(l->fd);
    LIST_REMOVE(l, link);
    l->server->n--;
    free(l);
}

static void client_gone(struct lent *l)
{
    if (!l->taken) {
        free_lent(l);
        return;
    }
    hang_up(l);
    l->on_gone(l->arg);
}

/* A file of a FUSE mount may be one of our own databases: our closing would drop the locks that libsqlite3 has on it in this process (database.h), and
 * to read it may take as long as whoever serves it likes. edgefs-ctl lends no such file. */
static int check_file(int fd, int64_t *size)
{
    struct stat st;
    struct statfs fs;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fstat(fd, &st) || fstatfs(fd, &fs))
        return -errno;
    *size = st.st_size;
    bool readable = (flags & O_ACCMODE) != O_WRONLY && !(flags & O_PATH);
    return S_ISREG(st.st_mode) && st.st_size > 0 && readable && fs.f_type != FUSE_SUPER_MAGIC ? 0 : -EINVAL;
}

/* 0: it is lent. Otherwise the client is to be dropped. */
static int take_hello(struct lent *l)
{
    char hello[sizeof LEND_HELLO - 1];
    unsigned char random[LEND_NUMBER_LEN / 2];
    int fds[LOCALSOCK_FDS_MAX], n = 0;
    ssize_t len = localsock_recv(l->sock, hello, sizeof hello, fds, &n);
    if (len == -EAGAIN)
        return -EAGAIN;
    for (int i = 1; i < n; i++)
        close(fds[i]);
    if (len >= 0 && n > 0)
        l->fd = fds[0];
    if (len != sizeof hello || memcmp(hello, LEND_HELLO, sizeof hello) != 0 || n != 1 || check_file(l->fd, &l->size))
        return -EPROTO;
    if (RAND_bytes(random, sizeof random) != 1)
        return -EIO;
    for (size_t i = 0; i < sizeof random; i++)
        sprintf(l->number + 2 * i, "%02x", random[i]);
    return localsock_send(l->sock, l->number, LEND_NUMBER_LEN, NULL, 0, NULL, 0);
}

/* The first thing that comes is the file; after that nothing may come but the end. */
static void on_readable(evutil_socket_t sock, short what, void *arg)
{
    struct lent *l = arg;
    (void)sock;
    if ((what & EV_TIMEOUT) || l->number[0]) {
        client_gone(l);
        return;
    }
    int rc = take_hello(l);
    if (rc == -EAGAIN)
        return;
    if (rc)
        free_lent(l);
    else
        event_remove_timer(l->event); /* it may take as long as it takes */
}

static void on_accept(evutil_socket_t listen_fd, short what, void *arg)
{
    struct lent_server *s = arg;
    (void)what;
    int sock = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (sock < 0)
        return;
    struct lent *l = s->n < LENT_MAX ? calloc(1, sizeof *l) : NULL;
    if (!l) {
        close(sock); /* then the file comes by HTTP */
        return;
    }
    *l = (struct lent){.server = s, .sock = sock, .fd = -1};
    LIST_INSERT_HEAD(&s->list, l, link);
    s->n++;
    l->event = event_new(event_get_base(s->accepting), sock, EV_READ | EV_PERSIST, on_readable, l);
    if (!l->event || event_add(l->event, &(struct timeval){.tv_sec = HELLO_S}))
        free_lent(l);
}

int lent_open(const char *data, struct event_base *base, struct lent_server **out, struct err *e)
{
    struct lent_server *s = calloc(1, sizeof *s);
    _cleanup_free_ char *real = realpath(data, NULL);
    if (!s || !real || asprintf(&s->path, "%s/" LAYOUT_FILES_SOCK, real) < 0) {
        free(s);
        return err_errno(e, real ? ENOMEM : errno, "%s", data);
    }
    LIST_INIT(&s->list);
    s->listen_fd = localsock_listen(s->path, e);
    if (s->listen_fd >= 0 && fcntl(s->listen_fd, F_SETFL, O_NONBLOCK) == 0)
        s->accepting = event_new(base, s->listen_fd, EV_READ | EV_PERSIST, on_accept, s);
    int rc = s->listen_fd < 0 ? s->listen_fd : s->accepting && !event_add(s->accepting, NULL) ? 0 : err_errno(e, ENOMEM, "%s", s->path);
    if (rc) {
        lent_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void lent_close(struct lent_server *s)
{
    struct lent *l;
    if (!s)
        return;
    while ((l = LIST_FIRST(&s->list)))
        free_lent(l);
    if (s->accepting)
        event_free(s->accepting);
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    free(s->path);
    free(s);
}

const char *lent_path(const struct lent_server *s)
{
    return s->path;
}

struct lent *lent_take(struct lent_server *s, const char *number, void (*on_gone)(void *arg), void *arg, int *fd, int64_t *size)
{
    struct lent *l = NULL;
    if (s && strlen(number) == LEND_NUMBER_LEN)
        LIST_FOREACH(l, &s->list, link)
        if (!l->taken && strcmp(l->number, number) == 0)
            break;
    if (!l)
        return NULL;
    l->taken = true;
    l->on_gone = on_gone;
    l->arg = arg;
    *fd = l->fd;
    *size = l->size;
    l->fd = -1;
    return l;
}

void lent_return(struct lent *l)
{
    if (l)
        free_lent(l);
}
