/* A connected socket, plain or TLS, behind one interface: non-blocking, edge-triggered, armed once for its whole life. What the kernel said
 * last is remembered (can_read, can_write), so that work is tried before it is waited for.
 *
 * The event loop's thread. `ready` is called when something changed; it must look at all that interests it. A transport belongs to a larger
 * object and dies with it: transport_close, and no callback comes any more. */
#ifndef EDGEFS_PROXY_TRANSPORT_H
#define EDGEFS_PROXY_TRANSPORT_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct transport {
    int fd; /* -1: closed */
    bool can_read, can_write;
    bool peer_closed; /* it sends no more (FIN was seen); what it sent before may still wait to be read */
    bool broken;      /* reset or another error: nothing goes in either direction */
    bool connecting;  /* connect(2), then, with TLS, the handshake is under way */
    bool shut;        /* our side has said that it sends no more */
    SSL *ssl;         /* NULL: plain */
    struct event ev;
    void (*ready)(struct transport *t);
};

/* Takes fd over (non-blocking) and begins to watch it. ssl: taken over, set to accept or connect, or NULL. 0 or -errno, fd and ssl closed. */
int transport_open(struct transport *t, struct event_base *base, int fd, SSL *ssl, bool connecting, void (*ready)(struct transport *t));
/* reset: the other side sees a connection that broke, not one that ended. */
void transport_close(struct transport *t, bool reset);

/* Goes on with connecting: 0: connected; -EAGAIN: not yet; else -errno. */
int transport_connect(struct transport *t);

/* Bytes read, 0 at the end, -EAGAIN, or -errno (broken). */
ssize_t transport_recv(struct transport *t, void *p, size_t n);
/* Bytes written (possibly fewer than given), -EAGAIN, or -errno (broken). more: further bytes follow at once. */
ssize_t transport_send(struct transport *t, const struct iovec *iov, int n, bool more);
/* The same into and out of a pipe (pipe.h), without copying; n: at most so many. Not with TLS. -EINVAL: this socket cannot. */
ssize_t transport_splice_in(struct transport *t, int pipe, size_t n);
ssize_t transport_splice_out(struct transport *t, int pipe, size_t n);
/* Tells the other side that no more comes. */
void transport_shutdown(struct transport *t);

#endif
