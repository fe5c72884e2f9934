/* Bytes to the socket. The only file, with connection.c's read, that touches it. */
#include "lib/http/internal.h"
#include "lib/util.h"

#include <errno.h>

static int lost(struct http_conn *c, int errnum)
{
    http_conn_fail(c, HTTP_GONE, false);
    return -errnum;
}

/* Output waits: the socket tells when it takes more, and the time-out runs. */
static int wait_writable(struct http_conn *c, bool progress)
{
    if (!c->writing) {
        if (event_add(&c->ev_write, NULL) < 0)
            return lost(c, ENOMEM);
        c->writing = true;
    }
    if (progress || !c->out_deadline) {
        c->out_deadline = http_now_ms() + c->server->o.send_ms;
        http_conn_arm(c);
    }
    return 0;
}

int http_conn_queue(struct http_conn *c, const void *data, size_t len)
{
    if (c->state == CONN_DEAD)
        return -EPIPE;
    if (len && evbuffer_add(c->out, data, len) < 0)
        return lost(c, ENOMEM);
    if (c->req && http_conn_pending(c) > c->req->low_water)
        c->req->above_low = true;
    return 0;
}

int http_conn_flush(struct http_conn *c)
{
    if (c->state == CONN_DEAD)
        return -EPIPE;
    size_t before = http_conn_pending(c), budget = HTTP_FLUSH_MAX;
    while (http_conn_pending(c)) {
        errno = 0;
        ev_ssize_t n = budget ? evbuffer_write_atmost(c->out, c->fd, (ev_ssize_t)budget) : 0;
        if (n > 0) {
            budget -= MIN((size_t)n, budget);
            continue;
        }
        if (budget && errno == EINTR)
            continue;
        if (budget && errno != EAGAIN) /* errno 0: sendfile met the end of the file before the bytes that were promised */
            return lost(c, errno && n < 0 ? errno : EPIPE);
        return wait_writable(c, http_conn_pending(c) < before);
    }
    if (c->writing) {
        event_del(&c->ev_write);
        c->writing = false;
    }
    c->out_deadline = 0;
    return 0;
}

int http_conn_push(struct http_conn *c)
{
    if (c->state == CONN_DEAD)
        return -EPIPE;
    if (c->writing || (c->corked && http_conn_pending(c) < HTTP_PIPELINE_OUT))
        return 0;
    int r = http_conn_flush(c);
    /* The drain callback never comes from inside http_write. */
    if (http_conn_drained(c))
        http_conn_kick(c);
    return r;
}

/* Straight from the caller's memory when nothing is before it: this is the path of live replication. */
int http_conn_send(struct http_conn *c, const struct iovec *iov, int n)
{
    if (c->state == CONN_DEAD)
        return -EPIPE;
    size_t sent = 0;
    bool direct = !c->writing && !c->corked && !http_conn_pending(c);
    if (direct) {
        struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n};
        ssize_t k;
        do
            k = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (k < 0 && errno == EINTR);
        if (k < 0 && errno != EAGAIN)
            return lost(c, errno == ECONNRESET ? EPIPE : errno);
        sent = k < 0 ? 0 : (size_t)k;
    }
    for (int i = 0; i < n; i++) {
        size_t skip = MIN(sent, iov[i].iov_len);
        sent -= skip;
        int r = http_conn_queue(c, (const char *)iov[i].iov_base + skip, iov[i].iov_len - skip);
        if (r < 0)
            return r;
    }
    if (!http_conn_pending(c))
        return 0;
    return direct ? wait_writable(c, true) : http_conn_push(c);
}
