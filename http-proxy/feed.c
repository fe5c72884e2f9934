#include "http-proxy/feed.h"

#include "lib/localsock.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <event2/event.h>

#define RETRY_FIRST_MS 20
#define RETRY_MAX_MS 500
#define READ_BUDGET 64 /* messages before other events have their turn */

struct feed {
    struct event_base *base;
    char *path;
    struct feed_handler handler;
    int fd; /* -1: no connection */
    struct event *readable, *retry;
    unsigned retry_ms;
    bool said; /* that there is nobody, once */
};

/* ---- decoding ---- */

static bool take(const uint8_t **p, size_t *n, void *to, size_t k)
{
    if (*n < k)
        return false;
    memcpy(to, *p, k);
    *p += k;
    *n -= k;
    return true;
}

static bool take_text(const uint8_t **p, size_t *n, char *to, size_t size, size_t k)
{
    if (*n < k)
        return false;
    size_t kept = MIN(k, size - 1);
    memcpy(to, *p, kept);
    to[kept] = 0;
    *p += k;
    *n -= k;
    return true;
}

bool feed_decode_state(const uint8_t *tail, size_t n, struct feed_state *out)
{
    memset(out, 0, sizeof *out);
    if (!take(&tail, &n, &out->head, sizeof out->head) || out->head.n_epochs > POSITION_FEED_EPOCHS ||
        out->head.n_neighbours > POSITION_FEED_NODES ||
        !take(&tail, &n, out->epochs, out->head.n_epochs * sizeof out->epochs[0]) ||
        !take_text(&tail, &n, out->primary, sizeof out->primary, out->head.primary_len) ||
        !take_text(&tail, &n, out->primary_url, sizeof out->primary_url, out->head.primary_url_len))
        return false;
    for (unsigned i = 1; i < out->head.n_epochs; i++)
        if (out->epochs[i].epoch <= out->epochs[i - 1].epoch || out->epochs[i].first_lsn < out->epochs[i - 1].first_lsn)
            return false;
    for (unsigned i = 0; i < out->head.n_neighbours; i++) {
        uint8_t h[2];
        if (!take(&tail, &n, h, sizeof h) || !take_text(&tail, &n, out->neighbours[i].name, sizeof out->neighbours[i].name, h[1]))
            return false;
        out->neighbours[i].reached = h[0];
        out->unreachable += !h[0];
    }
    return true; /* what follows is of a later version */
}

/* ---- the connection ---- */

static void retry_later(struct feed *f)
{
    struct timeval t = {.tv_sec = f->retry_ms / 1000, .tv_usec = (suseconds_t)(f->retry_ms % 1000) * 1000};
    event_add(f->retry, &t);
    f->retry_ms = MIN(f->retry_ms * 2, RETRY_MAX_MS);
}

static void drop(struct feed *f, const char *why)
{
    if (f->readable)
        event_free(f->readable);
    f->readable = NULL;
    close(f->fd);
    f->fd = -1;
    log_info("position", "the replicator's position feed is gone: %s", why);
    f->handler.lost(f->handler.ctx);
    retry_later(f);
}

/* False: the connection is of no use any more. */
static bool on_message(struct feed *f, const uint8_t *buf, size_t n)
{
    static struct feed_state state; /* large; one thread */
    struct position_feed_msg m;
    if (n < sizeof m)
        return false;
    memcpy(&m, buf, sizeof m);
    if (m.version != POSITION_FEED_VERSION)
        return false;
    if (m.kind == POSITION_FEED_STATE) {
        if (!feed_decode_state(buf + sizeof m, n - sizeof m, &state))
            return false;
        f->retry_ms = RETRY_FIRST_MS;
        f->handler.message(f->handler.ctx, &m, &state);
    } else {
        f->handler.message(f->handler.ctx, &m, NULL);
    }
    return true;
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct feed *f = arg;
    uint8_t buf[POSITION_FEED_PACKET_MAX];
    (void)what;
    for (int budget = READ_BUDGET; budget > 0 && f->fd >= 0; budget--) {
        ssize_t n = localsock_recv(fd, buf, sizeof buf, NULL, NULL);
        if (n == -EAGAIN)
            return;
        if (n <= 0) {
            drop(f, n ? err_name((int)n) : "it was closed");
            return;
        }
        if (!on_message(f, buf, (size_t)n)) {
            drop(f, "what it sends is not understood; is it of another version?");
            return;
        }
    }
}

static void connect_now(struct feed *f)
{
    struct err e;
    int fd = localsock_connect(f->path, &e);
    if (fd < 0) {
        if (!f->said)
            log_info("position", "%s; trying again until the replicator is there", e.text);
        f->said = true;
        retry_later(f);
        return;
    }
    f->said = false;
    f->fd = fd;
    f->readable = event_new(f->base, fd, EV_READ | EV_PERSIST, on_readable, f);
    if (evutil_make_socket_nonblocking(fd) || !f->readable || event_add(f->readable, NULL))
        drop(f, "no memory");
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
    struct feed *f = arg;
    (void)fd;
    (void)what;
    if (f->fd < 0)
        connect_now(f);
    else
        drop(f, "it does not take what is sent to it");
}

bool feed_send(struct feed *f, enum position_feed_kind kind, uint64_t id, const void *tail, size_t tail_len)
{
    struct position_feed_msg m = {.kind = (uint16_t)kind, .version = POSITION_FEED_VERSION, .id = id};
    if (f->fd < 0)
        return false;
    int rc = localsock_send(f->fd, &m, sizeof m, tail, tail_len, NULL, 0);
    if (rc && rc != -EPIPE && rc != -ECONNRESET) /* a connection that ended is seen by reading it */
        event_active(f->retry, EV_TIMEOUT, 0);
    return rc == 0;
}

int feed_open(struct event_base *base, const char *path, const struct feed_handler *handler, struct feed **out, struct err *e)
{
    struct feed *f = calloc(1, sizeof *f);
    if (!f)
        return err_errno(e, ENOMEM, "position feed");
    *f = (struct feed){.base = base, .path = strdup(path), .handler = *handler, .fd = -1, .retry_ms = RETRY_FIRST_MS};
    f->retry = evtimer_new(base, on_retry, f);
    if (!f->path || !f->retry) {
        feed_close(f);
        return err_errno(e, ENOMEM, "position feed");
    }
    event_active(f->retry, EV_TIMEOUT, 0); /* from the loop: the handler is not called from inside */
    *out = f;
    return 0;
}

void feed_close(struct feed *f)
{
    if (!f)
        return;
    if (f->readable)
        event_free(f->readable);
    if (f->retry)
        event_free(f->retry);
    if (f->fd >= 0)
        close(f->fd);
    free(f->path);
    free(f);
}
