#include "http-proxy/link.h"

#include "edgefs/launch.h"
#include "lib/localsock.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

static void keep_received(struct link *l, const char *name, size_t len, int *fds, int nfds)
{
    bool ok = nfds == 1 && len < sizeof l->kept[0].name && l->n < LINK_KEPT_MAX;
    for (int i = 0; i < nfds && !ok; i++)
        close(fds[i]);
    if (!ok)
        return;
    memcpy(l->kept[l->n].name, name, len);
    l->kept[l->n].name[len] = 0;
    l->kept[l->n++].fd = fds[0];
}

static int fetch(struct link *l)
{
    struct launch_msg m = {.kind = LAUNCH_FENCE_LIST};
    int rc = localsock_send(l->fd, &m, sizeof m, NULL, 0, NULL, 0);
    while (!rc) {
        char buf[LAUNCH_PACKET_MAX];
        int fds[LOCALSOCK_FDS_MAX], nfds = 0;
        ssize_t n = localsock_recv(l->fd, buf, sizeof buf, fds, &nfds);
        if (n < (ssize_t)sizeof m)
            return n < 0 ? (int)n : -EPIPE;
        memcpy(&m, buf, sizeof m);
        if (m.kind == LAUNCH_FENCE_END)
            return 0;
        if (m.kind == LAUNCH_FENCE && (size_t)n == sizeof m + m.name_len)
            keep_received(l, buf + sizeof m, m.name_len, fds, nfds);
    }
    return rc;
}

int link_open(struct link *l, struct err *e)
{
    const char *v = getenv("EDGEFS_LAUNCHER_FD");
    *l = (struct link){.fd = v ? atoi(v) : -1};
    if (l->fd < 0)
        return 0;
    (void)fcntl(l->fd, F_SETFD, FD_CLOEXEC); /* a descriptor of ours: it cannot fail */
    int rc = fetch(l);
    return rc ? err_errno(e, -rc, "ask the launcher for listening sockets") : 0;
}

/* One request that the launcher acknowledges. */
static int ask(struct link *l, enum launch_kind kind, const char *name, int fd)
{
    if (l->fd < 0)
        return 0;
    struct launch_msg m = {.kind = kind, .name_len = (uint16_t)strlen(name)};
    int rc = localsock_send(l->fd, &m, sizeof m, name, m.name_len, &fd, fd >= 0 ? 1 : 0);
    if (rc)
        return rc;
    ssize_t n = localsock_recv(l->fd, &m, sizeof m, NULL, NULL);
    return n < (ssize_t)sizeof m ? (n < 0 ? (int)n : -EPIPE) : m.kind == LAUNCH_FENCE_ACK ? 0 : -EBADMSG;
}

int link_take(struct link *l, const char *name)
{
    for (int i = 0; i < l->n; i++)
        if (!strcmp(l->kept[i].name, name)) {
            int fd = l->kept[i].fd;
            l->kept[i] = l->kept[--l->n];
            return fd;
        }
    return -1;
}

int link_keep(struct link *l, const char *name, int fd)
{
    return ask(l, LAUNCH_FENCE_PUT, name, fd);
}

int link_drop(struct link *l, const char *name)
{
    return ask(l, LAUNCH_FENCE_DROP, name, -1);
}

void link_close_rest(struct link *l)
{
    while (l->n) {
        l->n--;
        close(l->kept[l->n].fd);
        int rc = link_drop(l, l->kept[l->n].name);
        if (rc)
            log_warn("link", "%s: the launcher goes on keeping its socket: %s", l->kept[l->n].name, err_name(rc));
    }
}

void link_close(struct link *l)
{
    while (l->n)
        close(l->kept[--l->n].fd);
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
}

void link_ready(struct link *l)
{
    struct launch_msg m = {.kind = LAUNCH_READY, .name_len = sizeof EDGEFS_VERSION - 1};
    int rc = l->fd < 0 ? 0 : localsock_send(l->fd, &m, sizeof m, EDGEFS_VERSION, m.name_len, NULL, 0);
    if (rc)
        log_warn("link", "cannot tell the launcher that we are ready: %s", err_name(rc));
}
