#include "http-proxy/transport.h"

#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

static void on_event(evutil_socket_t fd, short what, void *arg)
{
    struct transport *t = arg;
    (void)fd;
    if (what & EV_CLOSED)
        t->peer_closed = true;
    if (what & EV_READ)
        t->can_read = true;
    if (what & EV_WRITE)
        t->can_write = true;
    t->ready(t);
}

int transport_open(struct transport *t, struct event_base *base, int fd, SSL *ssl, bool connecting, void (*ready)(struct transport *t))
{
    *t = (struct transport){.fd = fd, .ssl = ssl, .can_write = !connecting, .connecting = connecting || ssl, .ready = ready};
    if (!event_assign(&t->ev, base, fd, EV_READ | EV_WRITE | EV_CLOSED | EV_ET | EV_PERSIST, on_event, t) &&
        (!ssl || SSL_set_fd(ssl, fd) == 1) && !event_add(&t->ev, NULL))
        return 0;
    SSL_free(ssl);
    close(fd);
    t->fd = -1;
    t->ssl = NULL;
    return -ENOMEM;
}

void transport_close(struct transport *t, bool reset)
{
    if (t->fd < 0)
        return;
    event_del(&t->ev);
    if (t->ssl) {
        if (!reset && !t->broken && !t->connecting)
            (void)SSL_shutdown(t->ssl); /* a notice; whether it arrives does not matter */
        SSL_free(t->ssl);
        ERR_clear_error();
        t->ssl = NULL;
    }
    if (reset) /* an unread input would do the same, but only by chance */
        (void)setsockopt(t->fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
    close(t->fd);
    t->fd = -1;
}

static int tls_result(struct transport *t, int rc)
{
    int why = SSL_get_error(t->ssl, rc);
    int saved = errno;
    ERR_clear_error();
    switch (why) {
    case SSL_ERROR_WANT_READ:
        t->can_read = false;
        return -EAGAIN;
    case SSL_ERROR_WANT_WRITE:
        t->can_write = false;
        return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        t->peer_closed = true;
        return 0;
    case SSL_ERROR_SYSCALL:
        t->broken = true;
        return saved ? -saved : -ECONNRESET;
    default:
        t->broken = true;
        return -EPROTO;
    }
}

int transport_connect(struct transport *t)
{
    if (!t->connecting)
        return 0;
    if (!t->ssl || !SSL_in_init(t->ssl) || SSL_get_state(t->ssl) == TLS_ST_BEFORE) {
        int e = 0;
        if (getsockopt(t->fd, SOL_SOCKET, SO_ERROR, &e, &(socklen_t){sizeof e}) || e) {
            t->broken = true;
            return e ? -e : -errno;
        }
        if (!t->can_write)
            return -EAGAIN;
    }
    if (t->ssl) {
        int rc = SSL_do_handshake(t->ssl);
        if (rc != 1) {
            rc = tls_result(t, rc);
            return rc ? rc : -ECONNRESET;
        }
        t->can_read = true; /* what came with the handshake lies in the library already */
    }
    t->connecting = false;
    return 0;
}

ssize_t transport_recv(struct transport *t, void *p, size_t n)
{
    if (t->broken)
        return -ECONNRESET;
    if (t->ssl) {
        errno = 0;
        int got = SSL_read(t->ssl, p, n > INT_MAX ? INT_MAX : (int)n);
        return got > 0 ? got : tls_result(t, got);
    }
    ssize_t got = recv(t->fd, p, n, 0);
    if (got > 0) {
        /* Fewer than asked for: the socket is empty, and the next bytes make a new edge. Not so an end that came with them. */
        if ((size_t)got < n && !t->peer_closed)
            t->can_read = false;
        return got;
    }
    if (got == 0) { /* an end stays readable */
        t->peer_closed = true;
        return 0;
    }
    if (errno == EAGAIN || errno == EINTR) {
        t->can_read = errno == EINTR;
        return -EAGAIN;
    }
    t->broken = true;
    return -errno;
}

static ssize_t tls_send(struct transport *t, const struct iovec *iov, int n)
{
    ssize_t sent = 0;
    for (int i = 0; i < n; i++) {
        if (!iov[i].iov_len)
            continue;
        errno = 0;
        int rc = SSL_write(t->ssl, iov[i].iov_base, iov[i].iov_len > INT_MAX ? INT_MAX : (int)iov[i].iov_len);
        if (rc <= 0) {
            rc = tls_result(t, rc);
            return sent ? sent : rc ? rc : -EPIPE;
        }
        sent += rc;
        if ((size_t)rc < iov[i].iov_len)
            break;
    }
    return sent;
}

ssize_t transport_send(struct transport *t, const struct iovec *iov, int n, bool more)
{
    if (t->broken || t->shut)
        return -EPIPE;
    if (t->ssl)
        return tls_send(t, iov, n);
    struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n};
    ssize_t sent = sendmsg(t->fd, &m, MSG_NOSIGNAL | (more ? MSG_MORE : 0));
    if (sent >= 0)
        return sent;
    if (errno == EAGAIN || errno == EINTR) {
        t->can_write = errno == EINTR;
        return -EAGAIN;
    }
    t->broken = true;
    return -errno;
}

ssize_t transport_splice_in(struct transport *t, int pipe, size_t n)
{
    ssize_t got = splice(t->fd, NULL, pipe, NULL, n, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (got > 0) /* fewer than asked for may be for lack of room in the pipe: no sign that the socket is empty */
        return got;
    if (got == 0) {
        t->peer_closed = true;
        return 0;
    }
    if (errno == EAGAIN || errno == EINTR) {
        t->can_read = errno == EINTR;
        return -EAGAIN;
    }
    if (errno == EINVAL)
        return -EINVAL;
    t->broken = true;
    return -errno;
}

ssize_t transport_splice_out(struct transport *t, int pipe, size_t n)
{
    ssize_t sent = splice(pipe, NULL, t->fd, NULL, n, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (sent >= 0)
        return sent;
    if (errno == EAGAIN || errno == EINTR) {
        t->can_write = errno == EINTR;
        return -EAGAIN;
    }
    t->broken = true;
    return -errno;
}

void transport_shutdown(struct transport *t)
{
    if (t->shut || t->broken || t->fd < 0)
        return;
    t->shut = true;
    if (t->ssl)
        (void)SSL_shutdown(t->ssl);
    (void)shutdown(t->fd, SHUT_WR); /* fails only if the connection is gone, which is noticed elsewhere */
}
