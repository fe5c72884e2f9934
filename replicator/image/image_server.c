/* Sends a database as an image, page by page, while it is being written. image.h says why that is right.
 *
 *   PREPARE ──► SENDING ──nothing missing──────────────► END
 *   (pool)         │ some pages did not match their checksums
 *                  ▼
 *               BARRIER ──► AGAIN ──still some, not the last pass──► BARRIER
 *               (pool)        └────────────────────────────────────► END
 *
 * A page is taken from the database file, and if that is not what the tracked checksum says, from the WAL: then its newest frame usually
 * is. A page that fits neither is changing right now, or was overwritten while we looked. The first is no loss: the change
 * will be captured, after our start, as a whole page. For the second there are more passes. The barrier makes capture catch up, so
 * that the end we name comes after every change that we may have met. No lock is held while bytes are read or sent. */
#include "replicator/image/image_server.h"

#include "lib/crc.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/api/api_private.h"
#include "replicator/capture/capture.h"
#include "replicator/image/difference.h"
#include "replicator/image/image.h"
#include "replicator/metrics.h"
#include "replicator/database/walmap.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#define SLICE (256u << 10) /* bytes of pages that are read at once */
#define HIGH_WATER (512u << 10)
#define LOW_WATER (128u << 10)
#define PASSES 3
#define STEP_SLICES 64u /* in one turn of the loop, if they are small */
#define BARRIER_NS UINT64_C(30000000000)
#define IMAGES_MAX 64u

static unsigned images_open; /* the loop's thread */

struct image {
    struct job job; /* first member */
    struct api *api;
    struct node *node;
    struct database *db;
    struct http_request *req; /* NULL once the client is gone */
    struct http_wake *wake;
    bool working; /* the job is with the pool: nothing below is touched by the loop */
    bool done;    /* ended or aborted: only the closed callback is to come */
    struct err e; /* of the job; code 0: none */
    int fd;       /* backing file; -1 */
    struct walmap *wal;
    struct image_header start;
    uint64_t start_txid;
    bool some;          /* only these pages were asked for: `missing` has them from the start */
    int pass;           /* 1.. */
    uint64_t next;      /* page */
    uint64_t *missing;  /* one bit a page, [0] bit 0: page 1; of the first commit's pages */
    uint32_t n_missing;
    uint64_t bytes;
    uint8_t *buf; /* IMAGE_CHUNK_SIZE + SLICE */
    uint64_t *sums; /* of one slice: SLICE / 512 */
};

/* ---- what the database is now ---- */

/* LSN at which the tracked state of db stands exactly. db->lock is held. On a primary records of a database enter the log under its
 * lock, so the log's end is such an LSN. On a replica the log is ahead of the state. */
static uint64_t state_lsn(struct node *n, const struct dbstate *st)
{
    enum node_role r = node_role(n);
    if (r == NODE_PRIMARY || r == NODE_HANDING_OVER)
        return rlog_last(n->rlog).lsn;
    return MAX(st->lsn, node_applied(n).lsn);
}

int image_look(struct node *n, struct database *db, struct dbstate *st, uint64_t *lsn, struct err *e)
{
    pthread_mutex_lock(&db->lock);
    enum database_state s = db->state;
    int rc = s == DATABASE_OK || s == DATABASE_WAITING ? database_load(n->databases, db, e) : 0;
    *st = *database_dbstate(db);
    *lsn = state_lsn(n, st);
    pthread_mutex_unlock(&db->lock);
    if (rc)
        return rc;
    if (s == DATABASE_ABSENT)
        return err_set(e, -ENOENT, "there is no database %s", db->name);
    if (s == DATABASE_OTHER)
        return err_set(e, -ENOENT, "%s is not an SQLite database", db->name);
    if (s != DATABASE_OK && s != DATABASE_WAITING)
        return err_set(e, ERR_AGAIN_LATER, "%s: this node does not have it in a good state yet (%s)", db->name,
                       database_state_name(s));
    if (st->page_size == 0 && st->commit != 0)
        return err_set(e, ERR_AGAIN_LATER, "%s: its state is not known yet", db->name);
    return 0;
}

/* ---- life ---- */

static void image_free(struct image *im)
{
    images_open--;
    http_wake_free(im->wake);
    walmap_close(im->wal);
    if (im->fd >= 0)
        close(im->fd);
    free(im->missing);
    free(im->buf);
    free(im->sums);
    free(im);
}

static void on_closed(struct http_request *req, enum http_closed why, void *arg)
{
    struct image *im = arg;
    (void)req;
    im->req = NULL;
    metrics_add(METRIC_IMAGE_BYTES, im->bytes);
    if (why == HTTP_FINISHED)
        metrics_add(METRIC_IMAGES, 1);
    if (!im->working)
        image_free(im);
}

/* Cuts the connection: the client must not take what it has for an image. */
static void give_up(struct image *im, const char *why)
{
    if (im->done)
        return;
    im->done = true;
    log_warn("image", "%s: image for %s broken off: %s", im->db->name, http_peer(im->req), why);
    http_abort(im->req);
}

static bool put(struct image *im, const void *p, size_t n)
{
    if (http_write(im->req, p, n)) {
        im->done = true;
        http_abort(im->req);
        return false;
    }
    im->bytes += n;
    return true;
}

/* ---- pages ---- */

static void set_missing(struct image *im, uint32_t pgno, bool missing)
{
    uint64_t *word = &im->missing[(pgno - 1) / 64], bit = UINT64_C(1) << ((pgno - 1) % 64);
    if (missing == ((*word & bit) != 0))
        return;
    *word ^= bit;
    im->n_missing += missing ? 1u : UINT32_MAX;
}

static bool is_missing(const struct image *im, uint32_t pgno)
{
    return (im->missing[(pgno - 1) / 64] >> ((pgno - 1) % 64)) & 1;
}

/* The next run of pages to look at, from im->next on: all (or those that were asked for) in the first pass, the missing ones later. Number of pages, 0: none. */
static uint32_t next_run(struct image *im, uint32_t *first)
{
    uint32_t max = MIN(SLICE / im->start.page_size, IMAGE_CHUNK_PAGES_MAX), commit = im->start.commit, n = 0;
    uint64_t p = im->next;
    if (im->pass > 1 || im->some) {
        while (p <= commit && !is_missing(im, (uint32_t)p))
            p += (p - 1) % 64 == 0 && im->missing[(p - 1) / 64] == 0 ? 64 : 1;
        while (n < max && p + n <= commit && is_missing(im, (uint32_t)p + n))
            n++;
    } else if (p <= commit) {
        n = (uint32_t)MIN(max, commit - p + 1);
    }
    *first = (uint32_t)p;
    im->next = p + n;
    return n;
}

/* Copies the checksums of n pages from first on; false if the database is another one by now. */
static bool copy_sums(struct image *im, uint32_t first, uint32_t n, uint32_t *commit)
{
    struct database *db = im->db;
    pthread_mutex_lock(&db->lock);
    const struct dbstate *st = database_dbstate(db);
    struct err e;
    bool same = st->page_size == im->start.page_size && st->txid >= im->start_txid && db->state != DATABASE_ABSENT &&
                !database_load(im->node->databases, db, &e);
    *commit = st->commit;
    for (uint32_t i = 0; same && i < n; i++)
        im->sums[i] = sums_get(db->sums, first + i);
    pthread_mutex_unlock(&db->lock);
    return same;
}

static int read_pages(struct image *im, uint32_t first, uint32_t n)
{
    size_t size = (size_t)n * im->start.page_size, got = 0;
    uint8_t *p = im->buf + IMAGE_CHUNK_SIZE;
    while (got < size) {
        ssize_t k = pread(im->fd, p + got, size - got, (off_t)(first - 1) * im->start.page_size + (off_t)got);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -errno;
        if (k == 0)
            break;
        got += (size_t)k;
    }
    memset(p + got, 0, size - got); /* pages that are only in the WAL yet */
    return 0;
}

/* Whether page pgno, at p, is what it should be, if need be taken from the WAL. */
static bool page_good(struct image *im, uint32_t pgno, uint8_t *p, uint64_t sum)
{
    if (page_checksum(pgno, p, im->start.page_size) == sum)
        return true;
    return walmap_fit(im->wal, pgno, sum, p);
}

/* Sends pages [first + from, first + to) of the buffer as one chunk. Its header goes right before them, over the end of a page that
 * was left out or sent already. */
static bool put_chunk(struct image *im, uint32_t first, uint32_t from, uint32_t to)
{
    if (from == to)
        return true;
    size_t size = (size_t)(to - from) * im->start.page_size;
    uint8_t *p = im->buf + IMAGE_CHUNK_SIZE + (size_t)from * im->start.page_size;
    struct image_chunk c = {.pgno = first + from, .pages = to - from, .crc = crc32c(0, p, size)};
    image_chunk_encode(&c, p - IMAGE_CHUNK_SIZE);
    return put(im, p - IMAGE_CHUNK_SIZE, IMAGE_CHUNK_SIZE + size);
}

/* One slice. False when the pass is at its end, or the image. */
static bool send_slice(struct image *im)
{
    uint32_t first, commit, from = 0;
    uint32_t n = im->start.commit ? next_run(im, &first) : 0;
    if (n == 0)
        return false;
    const uint32_t lock = lock_pgno(im->start.page_size);
    if (!copy_sums(im, first, n, &commit)) {
        give_up(im, "the database was replaced meanwhile");
        return false;
    }
    int rc = read_pages(im, first, n);
    if (rc) {
        give_up(im, strerror(-rc));
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t pgno = first + i;
        /* Beyond the end by now: should it come back, it comes in a record. */
        bool skip = pgno == lock || pgno > commit;
        bool good = !skip && page_good(im, pgno, im->buf + IMAGE_CHUNK_SIZE + (size_t)i * im->start.page_size, im->sums[i]);
        set_missing(im, pgno, !skip && !good);
        if (good)
            continue;
        if (!put_chunk(im, first, from, i))
            return false;
        from = i + 1;
    }
    return put_chunk(im, first, from, n);
}

static void send_end(struct image *im)
{
    struct dbstate st;
    struct err e = {0};
    uint64_t lsn;
    uint8_t buf[IMAGE_END_SIZE];
    if (image_look(im->node, im->db, &st, &lsn, &e) || st.page_size != im->start.page_size || st.txid < im->start_txid) {
        give_up(im, e.code ? e.text : "the database was replaced meanwhile");
        return;
    }
    struct image_end end = {
        .commit = st.commit,
        .page_size = st.page_size,
        .lsn = MAX(lsn, im->start.lsn),
        .txid = st.txid,
        .checksum = st.checksum,
        .born = st.born,
    };
    image_end_encode(&end, buf);
    metrics_add(METRIC_IMAGE_PAGES_LEFT, im->n_missing);
    if (!put(im, buf, sizeof buf))
        return;
    im->done = true;
    log_info("image", "%s: %u pages for %s, state of LSN %" PRIu64 " to %" PRIu64 "%s", im->db->name, im->start.commit,
             http_peer(im->req), im->start.lsn, end.lsn, im->n_missing ? ", the newest in the log" : "");
    http_end(im->req);
}

static void submit(struct image *im, void (*work)(struct job *), void (*done)(struct job *));
static void barrier_work(struct job *job);
static void barrier_done(struct job *job);

/* Goes on for one slice; from the loop. */
static void step(void *arg)
{
    struct image *im = arg;
    if (!im->req || im->working || im->done || http_pending(im->req) >= HIGH_WATER)
        return;
    bool more = true;
    uint64_t until = im->bytes + SLICE / 2;
    for (unsigned i = 0; more && i < STEP_SLICES && im->bytes < until && http_pending(im->req) < HIGH_WATER; i++)
        more = send_slice(im);
    if (more) {
        if (http_pending(im->req) < HIGH_WATER)
            http_wake(im->wake); /* streams get their turn between two slices */
        return;
    }
    if (im->done)
        return;
    if (im->n_missing && im->pass < PASSES)
        submit(im, barrier_work, barrier_done);
    else
        send_end(im);
}

static void on_drain(struct http_request *req, void *arg)
{
    (void)req;
    step(arg);
}

/* ---- the pool's part ---- */

static void open_wal(struct image *im)
{
    char name[LAYOUT_NAME_MAX + 8];
    snprintf(name, sizeof name, "%s%s", im->db->name, LAYOUT_WAL);
    walmap_close(im->wal);
    im->wal = NULL;
    if (im->start.page_size)
        (void)walmap_open(im->node->db_fd, name, im->start.page_size, &im->wal, NULL); /* without it more pages are left out */
}

static void prepare_work(struct job *job)
{
    struct image *im = (struct image *)job;
    open_wal(im);
}

static void barrier_work(struct job *job)
{
    struct image *im = (struct image *)job;
    struct node *n = im->node;
    uint64_t end = now_ns() + BARRIER_NS;
    int rc = -ETIMEDOUT;
    while (rc == -ETIMEDOUT && node_role(n) == NODE_PRIMARY && now_ns() < end && !atomic_load(&n->stopping))
        rc = capture_now(n->capture, im->db, now_ns() + 1000000000u, &im->e);
    if (node_role(n) != NODE_PRIMARY || rc == 0)
        im->e.code = 0;
    open_wal(im);
}

static bool came_back(struct image *im)
{
    im->working = false;
    if (!im->req) {
        image_free(im);
        return false;
    }
    return true;
}

static void barrier_done(struct job *job)
{
    struct image *im = (struct image *)job;
    if (!came_back(im))
        return;
    if (job->cancelled || im->e.code) {
        give_up(im, job->cancelled ? "this node stops" : im->e.text);
        return;
    }
    im->pass++;
    im->next = 1;
    step(im);
}

static void prepare_done(struct job *job)
{
    struct image *im = (struct image *)job;
    uint8_t buf[IMAGE_HEADER_SIZE];
    if (!came_back(im))
        return;
    if (job->cancelled) {
        im->done = true;
        request_busy(im->req, "this node stops");
        return;
    }
    http_set_drain(im->req, LOW_WATER, on_drain, im);
    image_header_encode(&im->start, buf);
    if (http_start(im->req, 200, "application/x-edgefs-image", HTTP_CHUNKED)) {
        im->done = true;
        http_abort(im->req);
    } else if (put(im, buf, sizeof buf)) {
        step(im);
    }
}

static void submit(struct image *im, void (*work)(struct job *), void (*done)(struct job *))
{
    im->job.work = work;
    im->job.done = done;
    im->e.code = 0;
    im->working = true;
    if (jobs_submit(im->api->jobs, &im->job) == 0)
        return;
    metrics_add(METRIC_JOBS_REFUSED, 1);
    im->working = false;
    if (im->pass == 1 && im->bytes == 0) {
        im->done = true;
        request_busy(im->req, "this node has too much to do already, try again");
    } else {
        give_up(im, "too many jobs");
    }
}

/* ---- the request ---- */

/* Notes the pages that the body of the request names. */
static int choose(struct image *im, struct err *e)
{
    size_t len;
    const uint8_t *body = (const uint8_t *)http_body(im->req, &len);
    uint64_t at = 0;
    uint32_t first, n;
    int rc;
    metrics_add(METRIC_DIFFERENCE_BYTES, len);
    while ((rc = difference_range(body, len, &at, &first, &n)) > 0)
        for (uint64_t p = first; p < (uint64_t)first + n && p <= im->start.commit; p++)
            set_missing(im, (uint32_t)p, true);
    return rc ? err_set(e, -EINVAL, "the body is a list of ranges of pages: first and number, 4 bytes each, ascending") : 0;
}

static int begin(struct image *im, struct err *e)
{
    struct dbstate st;
    int rc = image_look(im->node, im->db, &st, &im->start.lsn, e);
    if (rc)
        return rc;
    im->start_txid = st.txid;
    im->start.page_size = st.page_size;
    im->start.commit = st.commit;
    im->start.epoch = node_applied(im->node).epoch;
    im->pass = 1;
    im->next = 1;
    im->fd = openat(im->node->db_fd, im->db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (im->fd < 0 && errno == ENOENT) /* 404 is for what the log has no more: to the replica that is the end of it, and another file may take this one's place unseen */
        return err_set(e, ERR_AGAIN_LATER, "%s: its file is not there at the moment", im->db->name);
    if (im->fd < 0)
        return err_errno(e, errno, "%s", im->db->name);
    im->missing = calloc((size_t)st.commit / 64 + 1, sizeof *im->missing);
    im->buf = malloc(IMAGE_CHUNK_SIZE + SLICE);
    im->sums = malloc(SLICE / 512 * sizeof *im->sums);
    im->wake = http_wake_new(im->api->http, step, im);
    if (!im->missing || !im->buf || !im->sums || !im->wake)
        return err_errno(e, ENOMEM, "image of %s", im->db->name);
    im->some = http_method(im->req) == HTTP_M_POST;
    return im->some ? choose(im, e) : 0;
}

static void pages_get(struct api *a, struct http_request *req, const char *name)
{
    struct err e = {0};
    struct database *db = databases_find(a->node->databases, name);
    if (!db) {
        http_reply_error(req, 404, "there is no database %s", name);
        return;
    }
    struct image *im = images_open < IMAGES_MAX ? calloc(1, sizeof *im) : NULL;
    if (!im) {
        request_busy(req, "%u images are being sent already", images_open);
        return;
    }
    images_open++;
    *im = (struct image){.api = a, .node = a->node, .db = db, .req = req, .fd = -1};
    int rc = begin(im, &e);
    if (rc) {
        image_free(im);
        if (request_status(rc) == 503)
            http_set_header(req, "Retry-After", "1");
        http_reply_error(req, request_status(rc), "%s", e.text);
        return;
    }
    http_set_closed(req, on_closed, im);
    submit(im, prepare_work, prepare_done);
}

void image_server_get(struct api *a, struct http_request *req, const char *name)
{
    const char *format = http_query(req, "format");
    if ((!format || strcmp(format, "sqlite") == 0) && http_method(req) != HTTP_M_POST)
        image_copy_get(a, req, name);
    else if (format && strcmp(format, "pages") == 0)
        pages_get(a, req, name);
    else
        http_reply_error(req, 400, "format is sqlite or pages (POST: pages only)");
}
