#include "replicator/image/import_feed.h"

#include "lib/http/server.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/metrics.h"
#include "replicator/stream/stream_server.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <sys/queue.h>

#define PIECE_MIN (256 << 10) /* bytes that are worth a call, unless they are the last */
#define PIECE_MAX (1 << 20)
#define HIGH_WATER (2u << 20)
#define LOW_WATER (512u << 10)

struct reader {
    LIST_ENTRY(reader) link;
    struct import_feed *feed;
    struct http_request *req;
    int64_t sent;
    bool ended; /* the closed callback is all that comes */
};

struct import_feed {
    LIST_ENTRY(import_feed) link;
    uint64_t id;
    int fd;
    int64_t size, there;
    bool over, whole;
    LIST_HEAD(, reader) readers;
    char name[LAYOUT_NAME_MAX + 1];
};

static LIST_HEAD(, import_feed) feeds = LIST_HEAD_INITIALIZER(feeds); /* the loop's thread; those that are over stay while somebody reads */

static void free_if_unused(struct import_feed *f)
{
    if (!f->over || !LIST_EMPTY(&f->readers))
        return;
    LIST_REMOVE(f, link);
    close(f->fd);
    free(f);
}

/* Gives a reader what there is, as far as its connection takes it. Frees nothing: that is the closed callback's. */
static void pump(struct reader *r)
{
    struct import_feed *f = r->feed;
    while (!r->ended && http_pending(r->req) < HIGH_WATER) {
        int64_t n = MIN(f->there - r->sent, (int64_t)PIECE_MAX);
        if (n > 0 && (n >= PIECE_MIN || f->there == f->size)) {
            if (http_write_file(r->req, f->fd, r->sent, (size_t)n)) {
                r->ended = true;
                http_abort(r->req);
                return;
            }
            r->sent += n;
        } else if (r->sent == f->size || f->over) {
            r->ended = true;
            if (r->sent == f->size && (f->whole || !f->over))
                http_end(r->req);
            else
                http_abort(r->req);
        } else {
            return;
        }
    }
}

static void pump_all(struct import_feed *f)
{
    struct reader *r, *next;
    for (r = LIST_FIRST(&f->readers); r; r = next) {
        next = LIST_NEXT(r, link); /* closed callbacks come from the loop, not from inside */
        pump(r);
    }
}

struct import_feed *import_feed_open(struct stream_server *s, const char *name, int fd, int64_t size)
{
    struct import_feed *f = calloc(1, sizeof *f);
    if (!f || RAND_bytes((unsigned char *)&f->id, sizeof f->id) != 1 || (f->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3)) < 0) {
        free(f);
        return NULL;
    }
    f->size = size;
    snprintf(f->name, sizeof f->name, "%s", name);
    LIST_INIT(&f->readers);
    LIST_INSERT_HEAD(&feeds, f, link);
    stream_server_incoming(s, name, f->id, size);
    return f;
}

void import_feed_grow(struct import_feed *f, int64_t there)
{
    if (!f)
        return;
    f->there = MIN(there, f->size);
    if (!LIST_EMPTY(&f->readers))
        pump_all(f);
}

void import_feed_end(struct import_feed *f, bool whole)
{
    if (!f)
        return;
    f->over = true;
    f->whole = whole && f->there == f->size;
    pump_all(f);
    free_if_unused(f);
}

static void on_closed(struct http_request *req, enum http_closed why, void *arg)
{
    struct reader *r = arg;
    (void)req;
    metrics_add(METRIC_IMAGE_BYTES, (uint64_t)r->sent);
    if (why == HTTP_FINISHED)
        metrics_add(METRIC_IMAGES, 1);
    LIST_REMOVE(r, link);
    free_if_unused(r->feed);
    free(r);
}

static void on_drain(struct http_request *req, void *arg)
{
    (void)req;
    pump(arg);
}

void import_feed_get(struct http_request *req, void *arg)
{
    static const char prefix[] = "/v1/imports/";
    const char *text = http_path(req) + sizeof prefix - 1;
    struct import_feed *f;
    char *end;
    (void)arg;
    uint64_t id = strtoull(text, &end, 16);
    LIST_FOREACH(f, &feeds, link)
    if (f->id == id && end == text + 16 && !*end && !(f->over && !f->whole))
        break;
    struct reader *r = f ? calloc(1, sizeof *r) : NULL;
    if (!r) {
        http_reply_error(req, f ? 503 : 404, f ? "no memory" : "no such import is coming in");
        return;
    }
    r->feed = f;
    r->req = req;
    LIST_INSERT_HEAD(&f->readers, r, link);
    http_set_closed(req, on_closed, r);
    http_set_drain(req, LOW_WATER, on_drain, r);
    if (http_start(req, 200, "application/octet-stream", f->size)) {
        r->ended = true;
        http_abort(req);
        return;
    }
    pump(r);
}
