#include "replicator/image/image_client.h"
#include "replicator/image/image_fetch.h"

#include "lib/crc.h"
#include "lib/http/client.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/apply/apply_records.h"
#include "replicator/image/difference_client.h"
#include "replicator/stream/follower.h"
#include "replicator/image/image_gone.h"
#include "replicator/image/incoming.h"
#include "replicator/metrics.h"
#include "replicator/database/resum.h"
#include "replicator/apply/stray.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#define BUFFER_BYTES (256u << 10)
#define DIRECT_MIN (64u << 10) /* bytes: from here on a piece is large */
#define LOG_WAIT_NS 30000000000u
#define RETRY_MS 200u

static int set_sum(struct fetch *f, uint32_t pgno, const uint8_t *page, uint32_t page_size, struct err *e)
{
    if (pgno > f->sums_size) {
        uint32_t size = MAX(pgno + pgno / 8, 1024u);
        uint64_t *p = realloc(f->sums, (size_t)size * sizeof *p);
        if (!p)
            return err_errno(e, ENOMEM, "checksums of %u pages", size);
        memset(p + f->sums_size, 0, (size_t)(size - f->sums_size) * sizeof *p);
        f->sums = p;
        f->sums_size = size;
    }
    f->sums[pgno - 1] = pgno == lock_pgno(page_size) ? 0 : page_checksum(pgno, page, page_size);
    return 0;
}

static bool all_zero(const uint8_t *p, size_t n)
{
    return n > 0 && p[0] == 0 && !memcmp(p, p + 1, n - 1);
}

/* Writes whole pages, the next ones of the chunk. */
static int write_pages(struct fetch *f, const uint8_t *p, size_t len)
{
    uint32_t first = f->chunk.pgno + f->chunk_done, n = (uint32_t)(len / f->h.page_size);
    bool hole = f->holes && all_zero(p, len);
    f->pages += n;
    for (uint32_t i = 0; i < n; i++) {
        hole = hole && (first + i > f->sums_size || !f->sums[first + i - 1]); /* nothing was written there before */
        int rc = set_sum(f, first + i, p + (size_t)i * f->h.page_size, f->h.page_size, &f->error);
        if (rc)
            return rc;
    }
    ssize_t k = hole ? (ssize_t)len : pwrite(f->data_fd, p, len, (off_t)(first - 1) * f->h.page_size);
    if (k != (ssize_t)len)
        return err_errno(&f->error, k < 0 ? errno : ENOSPC, "write the image of %s", f->db->name);
    f->chunk_done += n;
    return 0;
}

static int take_header(struct fetch *f)
{
    uint32_t expected = f->h.page_size;
    if (image_header_decode(f->head, &f->h))
        return err_set(&f->error, ERR_CORRUPT, "what arrives is no image");
    f->have_header = true;
    if (f->buf) /* the pages of a difference */
        return f->h.page_size == expected ? 0 : err_set(&f->error, ERR_AGAIN_LATER, "%s has another page size now", f->db->name);
    if (!f->h.page_size)
        return 0; /* an empty database */
    f->buf_size = BUFFER_BYTES / f->h.page_size * f->h.page_size;
    f->buf = malloc(f->buf_size);
    return f->buf ? 0 : err_errno(&f->error, ENOMEM, "image");
}

/* Header, chunk header and end are collected in head; 0, or 1 when `want` bytes are there. */
static int collect(struct fetch *f, const uint8_t **p, size_t *n, size_t want)
{
    size_t k = MIN(*n, want - f->head_len);
    memcpy(f->head + f->head_len, *p, k);
    f->head_len += k;
    *p += k;
    *n -= k;
    return f->head_len == want;
}

static int take_chunk_head(struct fetch *f, const uint8_t **p, size_t *n)
{
    if (f->head_len < IMAGE_CHUNK_SIZE && !collect(f, p, n, IMAGE_CHUNK_SIZE))
        return 0;
    int kind = image_chunk_decode(f->head, &f->chunk);
    if (kind < 0 || (kind == 0 && (!f->h.page_size || f->chunk.pgno > UINT32_MAX - f->chunk.pages)))
        return err_set(&f->error, ERR_CORRUPT, "the image is damaged");
    if (kind == 1) {
        if (!collect(f, p, n, IMAGE_END_SIZE))
            return 0;
        if (image_end_decode(f->head, &f->end))
            return err_set(&f->error, ERR_CORRUPT, "the end of the image is damaged");
        f->have_end = true;
        return *n ? err_set(&f->error, ERR_CORRUPT, "something follows the end of the image") : 0;
    }
    f->in_chunk = true;
    f->chunk_done = 0;
    f->chunk_crc = 0;
    f->head_len = 0;
    return 0;
}

/* A large piece is written from where it lies, small ones are collected in buf. */
static int take_pages(struct fetch *f, const uint8_t **p, size_t *n)
{
    uint64_t left = (uint64_t)(f->chunk.pages - f->chunk_done) * f->h.page_size - f->buf_len;
    size_t here = (size_t)MIN((uint64_t)*n, left), begun = f->buf_len % f->h.page_size, k;
    bool large = here >= DIRECT_MIN, direct = large && f->buf_len == 0;
    if (direct)
        k = here / f->h.page_size * f->h.page_size;
    else if (large) /* ends the page that was begun; the next ones are written directly */
        k = begun ? f->h.page_size - begun : 0;
    else
        k = MIN(here, f->buf_size - f->buf_len);
    f->chunk_crc = crc32c(f->chunk_crc, *p, k);
    int rc = 0;
    if (direct) {
        rc = write_pages(f, *p, k);
    } else {
        memcpy(f->buf + f->buf_len, *p, k);
        f->buf_len += k;
    }
    *p += k;
    *n -= k;
    if (!large && f->buf_len < f->buf_size && k < left)
        return 0;
    if (!direct) {
        rc = write_pages(f, f->buf, f->buf_len);
        f->buf_len = 0;
    }
    if (!rc && f->chunk_done == f->chunk.pages) {
        f->in_chunk = false;
        if (f->chunk_crc != f->chunk.crc)
            rc = err_set(&f->error, ERR_CORRUPT, "a piece of the image arrived damaged");
    }
    return rc;
}

static int on_data(void *ctx, const void *data, size_t n)
{
    struct fetch *f = ctx;
    const uint8_t *p = data;
    int rc = 0;
    if (node_role(f->c->node) != NODE_REPLICA)
        rc = err_set(&f->error, -ECANCELED, "no longer wanted");
    while (n && !rc) {
        if (f->have_end)
            rc = err_set(&f->error, ERR_CORRUPT, "something follows the end of the image");
        else if (!f->have_header)
            rc = collect(f, &p, &n, IMAGE_HEADER_SIZE) ? (f->head_len = 0, take_header(f)) : 0;
        else
            rc = f->in_chunk ? take_pages(f, &p, &n) : take_chunk_head(f, &p, &n);
    }
    return rc;
}

/* Pages of the records between start and end of the image go over it. */
static int overlay(void *ctx, uint32_t page_size, uint32_t pgno, const uint8_t *page, struct err *e)
{
    struct fetch *f = ctx;
    if (page_size != f->h.page_size)
        return err_set(e, ERR_GONE, "%s changed its page size meanwhile", f->db->name);
    int rc = set_sum(f, pgno, page, page_size, e);
    if (rc)
        return rc;
    ssize_t k = pwrite(f->data_fd, page, page_size, (off_t)(pgno - 1) * page_size);
    return k == (ssize_t)page_size ? 0 : err_errno(e, k < 0 ? errno : ENOSPC, "write the image of %s", f->db->name);
}

static int complete(struct fetch *f, struct err *e)
{
    struct node *n = f->c->node;
    uint32_t commit = f->h.commit;
    if (!f->have_end)
        return err_set(e, ERR_CORRUPT, "the image of %s has no end", f->db->name);
    if (sequencer_wait(n->sequencer, f->end.lsn, now_ns() + LOG_WAIT_NS))
        return err_set(e, ERR_AGAIN_LATER, "the log up to LSN %llu, which belongs to the image, does not come",
                       (unsigned long long)f->end.lsn);
    int rc = apply_each_page(n, f->db->name, f->h.lsn + 1, f->end.lsn, overlay, f, &commit, e);
    if (rc)
        return rc;
    uint64_t x = 0;
    for (uint32_t i = 0; i < MIN(f->end.commit, f->sums_size); i++)
        x ^= f->sums[i];
    if ((x | CHECKSUM_FLAG) != f->end.checksum || (f->end.commit && f->end.page_size != f->h.page_size))
        return err_set(e, ERR_CHECKSUM, "%s: the image's checksum is %016llx, the sender says %016llx", f->db->name,
                       (unsigned long long)(x | CHECKSUM_FLAG), (unsigned long long)f->end.checksum);
    return 0;
}

/* ---- where it comes to lie ---- */

static void temp_name(const struct database *db, char *temp, size_t size)
{
    const char *slash = strrchr(db->name, '/');
    snprintf(temp, size, "%.*s%simage-%llx", slash ? (int)(slash - db->name + 1) : 0, db->name, LAYOUT_PRIVATE_PREFIX,
             (unsigned long long)crc64_iso(0, db->name, strlen(db->name)));
}

/* The private file has a name of the database's, so that what an interrupted fetch left is found. anew: nothing of that is wanted. */
static int open_temp(struct fetch *f, bool anew, struct err *e)
{
    struct node *n = f->c->node;
    int rc = apply_make_parents(n, f->db->name, &f->parent, e);
    if (rc)
        return rc;
    temp_name(f->db, f->temp, sizeof f->temp);
    f->fd = openat(n->mount_fd, f->temp, O_RDWR | O_CREAT | (anew ? O_TRUNC : 0) | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (f->fd < 0)
        return err_errno(e, errno, "create %s", f->temp);
    f->data_fd = openat(n->db_fd, f->temp, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    return f->data_fd < 0 ? err_errno(e, errno, "open %s", f->temp) : 0;
}

/* ---- what is here already ---- */

/* Makes known what the database here is: f->base. A file of which nothing is known is read first. */
static int take_base(struct fetch *f, struct err *e)
{
    struct node *n = f->c->node;
    struct database *db = f->db;
    unsigned failures = f->c->failed == db ? f->c->failures : 0;
    int stray = db->stray ? stray_keep(n, db, e) : 0;
    if (stray)
        return stray;
    bool here = faccessat(n->db_fd, db->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    pthread_mutex_lock(&db->lock);
    struct dbstate st = *database_dbstate(db);
    if (here && st.torn) /* a change was being written into it, and its locks are still held: what it is does not matter, it is written anew */
        resum_needed(n, db);
    pthread_mutex_unlock(&db->lock);
    if (!here || st.torn || failures > 1 || f->c->whole == db)
        return 0;
    if (!st.page_size || failures) {
        int rc = resum(n, db, e);
        if (rc == ERR_AGAIN_LATER || rc == -ECANCELED)
            return rc;
        if (rc)
            log_info("resync", "%s: all its pages will be fetched: %s", db->name, e->text);
    }
    pthread_mutex_lock(&db->lock);
    int rc = database_load(n->databases, db, e);
    st = *database_dbstate(db);
    uint32_t size = 0;
    const uint64_t *sums = rc || !st.page_size ? NULL : sums_array(db->sums, &size);
    f->base_size = MIN(size, st.commit);
    if (sums && !(f->base = malloc(MAX((size_t)f->base_size, 1u) * sizeof *f->base)))
        rc = err_errno(e, ENOMEM, "checksums of %s", db->name);
    if (f->base)
        memcpy(f->base, sums, (size_t)f->base_size * sizeof *f->base);
    pthread_mutex_unlock(&db->lock);
    return rc;
}

/* Checksums of what an interrupted fetch left in the private file. */
static int sum_temp(struct fetch *f, struct err *e)
{
    uint32_t size = f->h.page_size;
    off_t at = 0, hole;
    _cleanup_fd_ int fd = openat(f->c->node->db_fd, f->temp, O_RDONLY | O_CLOEXEC | O_NOFOLLOW); /* which knows where holes are */
    if (fd < 0)
        return err_errno(e, errno, "open %s", f->temp);
    while ((at = lseek(fd, at, SEEK_DATA)) >= 0 && (hole = lseek(fd, at, SEEK_HOLE)) >= 0) {
        uint64_t from = (uint64_t)at / size, end = ((uint64_t)hole + size - 1) / size;
        for (uint64_t p = from; p < MIN(end, (uint64_t)f->sums_size); p++) {
            ssize_t k = pread(fd, f->buf, size, (off_t)(p * size));
            if (k < 0)
                return err_errno(e, errno, "read %s", f->temp);
            if (k == (ssize_t)size && !(f->base && all_zero(f->buf, size))) /* zeroes may be no page, but what surrounds one that was written */
                f->sums[p] = page_checksum((uint32_t)p + 1, f->buf, size);
        }
        at = hole;
        if (atomic_load(&f->c->node->stopping))
            return err_set(e, -ECANCELED, "this node stops");
    }
    return at < 0 && errno != ENXIO ? err_errno(e, errno, "read %s", f->temp) : 0;
}

/* The resource of db on the node that we follow. */
static void url_of(struct node *n, const struct database *db, char *url, size_t size)
{
    char name[128], base[256];
    node_upstream(n, name, base, NULL);
    if (!*base)
        node_primary(n, name, base);
    size_t k = (size_t)snprintf(url, size, "%s/v1/databases/", base);
    (void)database_url_name(db, url + k, size - k);
}

/* ranges: NULL: all pages. */
static int download(struct fetch *f, const char *url, const uint8_t *ranges, size_t len, int *status, struct err *e)
{
    char image[LAYOUT_NAME_MAX * 3 + 440];
    snprintf(image, sizeof image, "%s/image?format=pages&lsn=%llu", url, (unsigned long long)f->least);
    f->have_header = false;
    f->head_len = 0;
    int rc = http_client_stream(f->c->http, ranges ? "POST" : "GET", image, "application/octet-stream", ranges, len, on_data, f, status, e);
    if (rc && f->error.code == rc)
        *e = f->error;
    return rc;
}

/* What is here will be replaced as a whole (must_replace): nothing of it can be used. */
static void drop_base(struct fetch *f, const struct difference_head *head)
{
    pthread_mutex_lock(&f->db->lock);
    const struct dbstate *st = database_dbstate(f->db);
    bool other = f->db->apps_open && (st->born != head->born || st->page_size != head->page_size);
    pthread_mutex_unlock(&f->db->lock);
    if (!other)
        return;
    free(f->base);
    f->base = NULL;
    f->base_size = 0;
}

/* Fetches what is not here yet. */
static int fetch_difference(struct fetch *f, const char *url, int *status, struct err *e)
{
    unsigned failures = f->c->failed == f->db ? f->c->failures : 0;
    struct difference d = {.http = f->c->http, .url = url, .least = f->least, .wide = failures > 0};
    int rc = difference_begin(&d, status, e);
    f->h = (struct image_header){.page_size = d.head.page_size, .commit = d.head.commit, .epoch = d.head.epoch, .lsn = d.head.from};
    f->sums_size = d.head.commit;
    f->buf_size = f->h.page_size ? BUFFER_BYTES / f->h.page_size * f->h.page_size : 1;
    f->sums = rc ? NULL : calloc(MAX(f->sums_size, 1u), sizeof *f->sums);
    f->buf = rc ? NULL : malloc(f->buf_size);
    if (!rc && (!f->sums || !f->buf))
        rc = err_errno(e, ENOMEM, "checksums of %u pages", f->sums_size);
    if (!rc && f->h.page_size)
        rc = sum_temp(f, e);
    if (!rc)
        drop_base(f, &d.head);
    struct difference_have have = {.base = f->base, .n_base = f->base_size, .sums = f->sums, .n = f->sums_size};
    if (!rc)
        rc = difference_find(&d, &have, e);
    if (!rc && d.wanted)
        rc = download(f, url, d.ranges, d.ranges_len, status, e);
    else if (!rc)
        f->end = (struct image_end){d.head.commit, d.head.page_size, d.head.lsn, d.head.txid, d.head.checksum, d.head.born}, f->have_end = true;
    if (!rc && (f->h.page_size != d.head.page_size || f->h.epoch != d.head.epoch || f->h.lsn < d.head.from))
        rc = err_set(e, ERR_AGAIN_LATER, "%s was replaced while it was being compared", f->db->name);
    f->h.lsn = d.head.from; /* what has changed since then is in the log */
    if (!rc && d.more)
        rc = err_set(e, ERR_AGAIN_LATER, "%s: the first %llu of the pages that differ are here", f->db->name, (unsigned long long)d.wanted);
    difference_end(&d);
    return rc;
}

static int fetch_from(struct fetch *f, struct err *e)
{
    char url[LAYOUT_NAME_MAX * 3 + 400];
    struct image_client *c = f->c;
    uint64_t began = now_ns();
    int status = 0;
    url_of(c->node, f->db, url, sizeof url);
    pthread_mutex_lock(&f->db->lock);
    f->least = MAX(f->db->pending, rlog_first(c->node->rlog) - 1);
    pthread_mutex_unlock(&f->db->lock);
    struct stat st;
    bool part = f->base || (!fstat(f->data_fd, &st) && st.st_size > 0);
    f->holes = !part;
    int rc = part ? fetch_difference(f, url, &status, e) : download(f, url, NULL, 0, &status, e);
    if (status == 404)
        return image_gone(c->node, f->db, e);
    if (!rc)
        rc = complete(f, e);
    if (!rc)
        rc = image_install(f, e);
    metrics_add(METRIC_IMAGE_PAGES_FETCHED, f->pages);
    if (rc)
        return rc;
    metrics_add(METRIC_IMAGES_FETCHED, 1);
    log_info("image", "%s: %u of %u pages of %u bytes fetched in %llu ms, LSN %llu", f->db->name, f->pages, f->end.commit, f->end.page_size,
             (unsigned long long)(now_ns() - began) / 1000000u, (unsigned long long)f->end.lsn);
    return 0;
}

/* What has come stays for the next try, unless it is wrong, no longer wanted, or takes room that there is not. */
static bool keeps_temp(struct fetch *f, int rc)
{
    return rc && rc != ERR_CHECKSUM && rc != -ENOSPC && rc != -EDQUOT && image_wanted(f->db);
}

/* Has it come in already (incoming.h)? 1: f is as after a download; 0: no; ERR_AGAIN_LATER: it is coming. */
static int take_incoming(struct fetch *f)
{
    struct node *n = f->c->node;
    struct incoming_file in;
    struct err e;
    int rc = incoming_take(n, f->db, &in);
    if (rc <= 0)
        return rc;
    f->fd = in.fd;
    f->data_fd = in.data_fd;
    f->sums = in.sums;
    f->sums_size = in.commit;
    f->h = (struct image_header){.page_size = in.page_size, .commit = in.commit, .lsn = in.lsn};
    f->end = (struct image_end){.commit = in.commit, .page_size = in.page_size, .lsn = in.lsn, .txid = in.txid, .checksum = in.checksum};
    f->have_header = f->have_end = true;
    snprintf(f->temp, sizeof f->temp, "%s", in.temp);
    return apply_make_parents(n, f->db->name, &f->parent, &e) ? 0 : 1;
}

static void close_fetch(struct fetch *f, bool keep)
{
    pthread_mutex_lock(&f->db->sqlite); /* it may be the database by now: see database.h */
    if (f->fd >= 0)
        close(f->fd);
    if (f->data_fd >= 0)
        close(f->data_fd);
    pthread_mutex_unlock(&f->db->sqlite);
    if (f->temp[0] && !keep && unlinkat(f->c->node->mount_fd, f->temp, 0) && errno != ENOENT)
        log_warn("image", "cannot remove %s: %s", f->temp, err_name(errno));
    free(f->buf);
    free(f->sums);
    free(f->base);
}

/* An import that has come in already: 0, it is in place. -ENODATA: there is none, or it cannot be used. ERR_AGAIN_LATER without a text: it is coming, and
 * this thread will be kicked. */
static int use_incoming(struct image_client *c, struct database *db, struct err *e)
{
    struct fetch f = {.c = c, .db = db, .fd = -1, .data_fd = -1};
    int rc = take_incoming(&f);
    if (rc < 0)
        return rc;
    rc = rc ? image_install(&f, e) : -ENODATA;
    if (!rc) {
        metrics_add(METRIC_IMPORTS_TAKEN, 1);
        log_info("image", "%s: %u pages of %u bytes had come in already, LSN %llu", db->name, f.end.commit, f.end.page_size, (unsigned long long)f.end.lsn);
    }
    close_fetch(&f, false);
    return rc;
}

static int fetch_image(struct image_client *c, struct database *db, struct err *e)
{
    struct fetch f = {.c = c, .db = db, .fd = -1, .data_fd = -1};
    int rc = use_incoming(c, db, e);
    if (rc != -ENODATA)
        return rc;
    rc = take_base(&f, e);
    if (!rc)
        rc = open_temp(&f, c->failed == db, e);
    if (!rc)
        rc = fetch_from(&f, e);
    close_fetch(&f, f.temp[0] && keeps_temp(&f, rc));
    if (rc == ERR_CHECKSUM) { /* next time more is compared, and then nothing is taken for granted */
        c->failures = c->failed == db ? c->failures + 1 : 1;
        c->failed = db;
    }
    if (!rc && c->whole == db)
        c->whole = NULL;
    if (!rc && c->failed == db) {
        c->failed = NULL;
        c->failures = 0;
    }
    return rc;
}

/* ---- the thread ---- */

/* Fetches what is wanted now, one after the other. One that fails does not keep the others waiting. Number of images that came; *failed: some did not. */
static unsigned fetch_all(struct image_client *c, bool *failed)
{
    size_t n;
    unsigned came = 0;
    struct database **list = databases_pending(c->node->databases, &n);
    for (size_t i = 0; i < n && node_role(c->node) == NODE_REPLICA && !atomic_load(&c->node->stopping); i++) {
        struct err e = {0};
        if (!image_wanted(list[i]))
            continue;
        int rc = fetch_image(c, list[i], &e);
        if (rc == ERR_AGAIN_LATER && !e.code)
            continue;
        if (rc && rc != -ECANCELED)
            log_warn("image", "%s: %s; trying again", list[i]->name, e.text);
        *failed |= rc != 0;
        came += rc == 0;
    }
    free(list);
    return came;
}

static bool wait_for_work(struct image_client *c, bool retry)
{
    uint64_t until = now_ns() + (retry ? RETRY_MS : 2000u) * 1000000u;
    struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
    pthread_mutex_lock(&c->lock);
    while (!c->stop && !c->kicked && pthread_cond_timedwait(&c->changed, &c->lock, &t) == 0)
        continue;
    c->kicked = false;
    bool go_on = !c->stop;
    pthread_mutex_unlock(&c->lock);
    return go_on;
}

/* What was fetched for a database that needs it no longer: this node was killed, and has got on in another way. */
static int remove_leftover(void *ctx, struct database *db)
{
    struct node *n = ctx;
    char temp[LAYOUT_NAME_MAX + 64];
    temp_name(db, temp, sizeof temp);
    if (!image_wanted(db) && faccessat(n->db_fd, temp, F_OK, AT_SYMLINK_NOFOLLOW) == 0 && unlinkat(n->mount_fd, temp, 0) == 0)
        log_info("image", "removed %s, left by a fetch that did not end", temp);
    return 0;
}

static void *run(void *arg)
{
    struct image_client *c = arg;
    bool failed = false, first = true;
    prctl(PR_SET_NAME, "image");
    while (wait_for_work(c, failed)) {
        if (first)
            databases_each(c->node->databases, remove_leftover, c->node);
        first = false;
        incoming_trim(c->node);
        do
            failed = false;
        while (fetch_all(c, &failed));
    }
    return NULL;
}

int image_client_open(struct node *n, struct err *e)
{
    struct image_client *c = calloc(1, sizeof *c);
    if (!c)
        return err_errno(e, ENOMEM, "image client");
    c->node = n;
    c->http = http_client_new(&(struct http_client_options){.token = n->token, .connect_ms = 2000, .idle_ms = 30000});
    if (!c->http)
        return err_errno(e, ENOMEM, "image client");
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &a);
    pthread_condattr_destroy(&a);
    n->image_client = c;
    int rc = pthread_create(&c->thread, NULL, run, c);
    return rc ? err_errno(e, rc, "start the image thread") : 0;
}

void image_client_kick(struct node *n)
{
    struct image_client *c = n->image_client;
    pthread_mutex_lock(&c->lock);
    c->kicked = true;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

void image_client_stop(struct node *n)
{
    struct image_client *c = n->image_client;
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->lock);
    http_client_abort(c->http);
    pthread_join(c->thread, NULL);
}

void image_client_close(struct node *n)
{
    struct image_client *c = n->image_client;
    if (!c)
        return;
    http_client_free(c->http);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
    n->image_client = NULL;
}
