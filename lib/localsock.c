#include "lib/localsock.h"

#include "lib/util.h"
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static int address(const char *path, struct sockaddr_un *a, struct err *e)
{
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof a->sun_path)
        return err_set(e, -ENAMETOOLONG, "%s: longer than %zu bytes, the limit for a socket; use a shorter data directory", path,
                       sizeof a->sun_path - 1);
    memcpy(a->sun_path, path, strlen(path) + 1);
    return 0;
}

int localsock_connect(const char *path, struct err *e)
{
    struct sockaddr_un a;
    int rc = address(path, &a, e);
    if (rc)
        return rc;
    _cleanup_fd_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_errno(e, errno, "socket");
    if (connect(fd, (struct sockaddr *)&a, sizeof a))
        return err_errno(e, errno, "connect to %s", path);
    return steal_fd(&fd);
}

int localsock_listen(const char *path, struct err *e)
{
    struct sockaddr_un a;
    int rc = address(path, &a, e);
    if (rc)
        return rc;
    _cleanup_fd_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_errno(e, errno, "socket");
    if (unlink(path) && errno != ENOENT)
        return err_errno(e, errno, "remove old socket %s", path);
    if (bind(fd, (struct sockaddr *)&a, sizeof a))
        return err_errno(e, errno, "bind %s", path);
    if (chmod(path, 0600) || listen(fd, 16))
        return err_errno(e, errno, "listen on %s", path);
    return steal_fd(&fd);
}

int localsock_send(int fd, const void *head, size_t head_len, const void *body, size_t body_len, const int *fds, int nfds)
{
    union {
        char buf[CMSG_SPACE(LOCALSOCK_FDS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov[2] = {{(void *)(uintptr_t)head, head_len}, {(void *)(uintptr_t)body, body_len}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = body_len ? 2 : 1};
    if (nfds > LOCALSOCK_FDS_MAX)
        return -EINVAL;
    if (nfds > 0) {
        m.msg_control = control.buf;
        m.msg_controllen = CMSG_SPACE((size_t)nfds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN((size_t)nfds * sizeof(int));
        memcpy(CMSG_DATA(c), fds, (size_t)nfds * sizeof(int));
    }
    ssize_t n;
    do
        n = sendmsg(fd, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

ssize_t localsock_recv(int fd, void *buf, size_t size, int *fds, int *nfds)
{
    union {
        char buf[CMSG_SPACE(LOCALSOCK_FDS_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {buf, size};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof control.buf};
    ssize_t n;
    do
        n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    int got[LOCALSOCK_FDS_MAX], ngot = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int f;
            memcpy(&f, CMSG_DATA(c) + i * sizeof f, sizeof f);
            if (ngot < LOCALSOCK_FDS_MAX)
                got[ngot++] = f;
            else
                close(f);
        }
    }
    int overlong = (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
    if (!fds || overlong)
        for (int i = 0; i < ngot; i++)
            close(got[i]);
    if (overlong)
        return -EMSGSIZE;
    if (fds) {
        memcpy(fds, got, (size_t)ngot * sizeof(int));
        *nfds = ngot;
    }
    return n;
}
