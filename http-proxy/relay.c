#include "http-proxy/busy.h"
#include "http-proxy/engine.h"

#include <errno.h>

#define SPLICE_MIN (64u << 10) /* bytes that are left of a body: below that the calls cost more than the copying */

void flow_clear(struct flow *f)
{
    buf_put(f->head);
    buf_put(f->buf);
    pipe_put(f->pipe);
    f->pipe = NULL;
    f->head = f->buf = NULL;
    f->mid_n = 0;
    f->head_pos = f->head_len = f->pos = f->end = f->len = 0;
    f->eof = f->big = f->copy = false;
}

static void sent(struct flow *f, size_t n)
{
    f->bytes += n;
    if (f->head) {
        size_t part = MIN(n, (size_t)(f->head_len - f->head_pos));
        f->head_pos += (uint32_t)part;
        n -= part;
        if (f->head_pos == f->head_len) {
            buf_put(f->head);
            f->head = NULL;
        }
    }
    size_t part = MIN(n, f->mid_n);
    f->mid += part;
    f->mid_n -= part;
    f->pos += (uint32_t)(n - part);
}

enum flow_result flow_flush(struct flow *f, struct transport *to, bool more)
{
    while (flow_pending(f)) {
        if (!to->can_write && !to->broken)
            return FLOW_WAIT;
        if (f->pipe && f->pipe->n) {
            ssize_t out = transport_splice_out(to, f->pipe->out, f->pipe->n);
            if (out <= 0)
                return out == -EAGAIN ? FLOW_WAIT : FLOW_SINK_BROKEN;
            f->pipe->n -= (size_t)out;
            f->bytes += (uint64_t)out;
            continue;
        }
        struct iovec iov[3];
        int n = 0;
        if (f->head)
            iov[n++] = (struct iovec){f->head->data + f->head_pos, f->head_len - f->head_pos};
        if (f->mid_n)
            iov[n++] = (struct iovec){(char *)(uintptr_t)f->mid, f->mid_n};
        if (f->pos < f->end)
            iov[n++] = (struct iovec){f->buf->data + f->pos, f->end - f->pos};
        ssize_t rc = transport_send(to, iov, n, more);
        if (rc == -EAGAIN)
            return FLOW_WAIT;
        if (rc < 0)
            return FLOW_SINK_BROKEN;
        sent(f, (size_t)rc);
    }
    return FLOW_DONE;
}

/* Looks at what was read: which of it belongs to the message. */
static bool scan(struct flow *f, void (*keep)(void *arg, const char *p, size_t n), void *arg)
{
    if (f->end == f->len || f->body.done)
        return true;
    size_t used, out;
    char *p = f->buf->data + f->end;
    if (body_take(&f->body, p, f->len - f->end, &used, &out))
        return false;
    if (out < used) {
        memmove(p + out, p + used, f->len - f->end - used);
        f->len -= (uint32_t)(used - out);
    }
    if (keep && out)
        keep(arg, p, out);
    f->end += (uint32_t)out;
    return true;
}

/* An empty buffer to read into. */
static bool make_room(struct flow *f)
{
    bool large = f->big || (f->body.kind == HEAD_BODY_LENGTH && f->body.left > BUF_SMALL);
    if (f->buf && (f->buf->refs > 1 || (large && f->buf->size < BUF_LARGE))) {
        buf_put(f->buf);
        f->buf = NULL;
    }
    if (!f->buf)
        f->buf = buf_get(large ? BUF_LARGE : BUF_SMALL);
    f->pos = f->end = f->len = 0;
    return f->buf;
}

/* Whether the next bytes do not pass through this process: it is a long way to the end of the body, nobody looks at them, and it has no time to copy them. */
static bool can_splice(struct flow *f, const struct transport *from, const struct transport *to, bool keep)
{
    if (f->splice == CONFIG_SPLICE_OFF || (f->splice == CONFIG_SPLICE_AUTO && !busy_short()))
        return false;
    if (keep || f->copy || from->ssl || to->ssl || f->body.kind != HEAD_BODY_LENGTH || f->body.left < SPLICE_MIN)
        return false;
    if (!f->pipe && !(f->pipe = pipe_get()))
        return false;
    buf_put(f->buf);
    f->buf = NULL;
    f->pos = f->end = f->len = 0;
    return true;
}

/* As transport_recv. */
static ssize_t splice_in(struct flow *f, struct transport *from)
{
    ssize_t n = transport_splice_in(from, f->pipe->in, (size_t)MIN(f->body.left, (uint64_t)PIPE_BYTES));
    if (n > 0) {
        f->pipe->n = (size_t)n;
        f->body.left -= (uint64_t)n;
        f->body.done = !f->body.left;
    }
    return n;
}

/* As transport_recv, into f->buf. */
static ssize_t copy_in(struct flow *f, struct transport *from)
{
    pipe_put(f->pipe);
    f->pipe = NULL;
    if (!make_room(f))
        return -ENOMEM;
    ssize_t n = transport_recv(from, f->buf->data, f->buf->size);
    if (n > 0) {
        f->len = (uint32_t)n;
        f->big = (size_t)n == f->buf->size;
    }
    return n;
}

/* Whoever waits for a long time holds nothing. */
static void hold_nothing(struct flow *f)
{
    buf_put(f->buf);
    pipe_put(f->pipe);
    f->buf = NULL;
    f->pipe = NULL;
    f->pos = f->end = f->len = 0;
}

enum flow_result flow_pump(struct flow *f, struct transport *from, struct transport *to, void (*keep)(void *arg, const char *p, size_t n),
                           void *arg)
{
    for (size_t turn = 0;;) {
        if (!scan(f, keep, arg))
            return FLOW_BAD;
        enum flow_result r = flow_flush(f, to, false);
        if (r != FLOW_DONE)
            return r;
        if (f->body.done)
            return FLOW_DONE;
        if (f->eof)
            return FLOW_TRUNCATED;
        if (!from->can_read) {
            hold_nothing(f);
            return from->broken ? FLOW_SOURCE_BROKEN : FLOW_WAIT;
        }
        if (turn >= TURN_BYTES)
            return FLOW_AGAIN;
        ssize_t n = can_splice(f, from, to, keep) ? splice_in(f, from) : copy_in(f, from);
        if (n > 0) {
            turn += (size_t)n;
        } else if (n == -EINVAL) {
            f->copy = true;
        } else if (n == 0) {
            f->eof = true;
            f->body.done = f->body.kind == HEAD_BODY_TO_EOF;
        } else if (n != -EAGAIN) {
            return FLOW_SOURCE_BROKEN;
        }
    }
}
