/* Readers of the log: seek, one record at a time, whole ranges.
 *
 * A reader copies what it needs to know about a segment (struct view) under the lock and then reads the file
 * without any. This is safe because bytes in front of a segment's `end` never change once the lock was let go
 * with that end, and because a cursor holds a descriptor of its own: trimming unlinks the file and the data
 * stays until the cursor lets go. A name may only come to mean another file after rlog_reset, which first
 * counts the generation up; so whoever finds the generation unchanged after opening has opened the right
 * file. */
#include "replicator/log/rlog_private.h"

#include "lib/crc.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

/* A segment as it stood under the lock. */
struct view {
    uint64_t first, last;
    int64_t end;
    bool trimmed; /* no longer in the log; last is not known (UINT64_MAX) */
};

void rlog_cursor_close(struct rlog_cursor *c)
{
    if (c->segment != 0)
        close(c->fd);
    c->segment = 0;
    c->fd = -1;
    c->offset = 0;
}

static int gone(const struct rlog *l, uint64_t lsn, struct err *e)
{
    return err_set(e, ERR_GONE, "%s: record %" PRIu64 " is no longer kept", l->dir, lsn);
}

static int corrupt(const struct rlog *l, uint64_t segment, int64_t offset, const char *how, struct err *e)
{
    return err_set(e, ERR_CORRUPT, "%s/%016" PRIx64 ".log: offset %" PRId64 ": %s", l->dir, segment, offset,
                   how);
}

static int read_error(const struct rlog *l, uint64_t segment, int rc, struct err *e)
{
    return err_errno(e, -rc, "reading %s/%016" PRIx64 ".log", l->dir, segment);
}

/* ---- sparse indexes ---- */

void rlog_index_evict(struct rlog *l)
{
    for (;;) {
        struct rlog_segment *oldest = NULL;
        size_t n = 0;
        for (size_t i = 0; i + 1 < l->n_segments; i++) { /* the newest keeps its own: the writer adds to it */
            struct rlog_segment *s = l->segments[i];
            if (!s->indexed || s->index.n == 0)
                continue;
            n++;
            if (!oldest || s->index_used < oldest->index_used)
                oldest = s;
        }
        if (n <= RLOG_INDEXED_MAX)
            return;
        free(oldest->index.entries);
        rlog_index_init(&oldest->index, l->o.segment_size);
        oldest->indexed = false;
    }
}

/* Builds the index of a closed segment from its headers, through fd. */
static int build_index(struct rlog *l, const struct view *v, uint64_t generation, int fd, struct err *e)
{
    struct rlog_index x;
    struct rlog_scan scan;
    struct record_head h;
    int64_t start;
    int rc = rlog_scan_init(&scan, fd, 0, v->end, v->first, e);
    if (rc < 0)
        return rc;
    rlog_index_init(&x, l->o.segment_size);
    while ((rc = rlog_scan_next(&scan, false, &h, &start)) == 1)
        rlog_index_note(&x, h.pos.lsn, start);
    rlog_scan_free(&scan);
    if (rc < 0 && rc != ERR_CORRUPT) {
        free(x.entries);
        return read_error(l, v->first, rc, e);
    }
    /* Damage ends the index, not the reading of what lies before it: whoever gets there reports it. */
    pthread_mutex_lock(&l->lock);
    struct rlog_segment *s = rlog_segments_find(l, v->first);
    if (l->generation == generation && s && s->first == v->first && !s->indexed) {
        s->index = x;
        x.entries = NULL;
        s->indexed = true;
        s->index_used = ++l->index_clock;
        rlog_index_evict(l);
    }
    pthread_mutex_unlock(&l->lock);
    free(x.entries);
    return 0;
}

/* Looks into the index of a segment: by LSN if offset is negative, otherwise by offset. True with an entry.
 * *missing: it has no index yet. */
static bool look_up(struct rlog *l, const struct view *v, uint64_t generation, uint64_t lsn, int64_t offset,
                    struct rlog_index_entry *entry, bool *missing)
{
    const struct rlog_index_entry *found = NULL;
    *missing = false;
    pthread_mutex_lock(&l->lock);
    struct rlog_segment *s = rlog_segments_find(l, v->first);
    if (l->generation == generation && s && s->first == v->first) {
        *missing = !s->indexed;
        s->index_used = ++l->index_clock;
        found = offset < 0 ? rlog_index_by_lsn(&s->index, lsn) : rlog_index_by_offset(&s->index, offset);
        if (found)
            *entry = *found;
    }
    pthread_mutex_unlock(&l->lock);
    return found != NULL;
}

/* look_up, after building the index if it was missing. 1 with an entry, 0 without, or an error. */
static int index_find(struct rlog *l, const struct view *v, const struct rlog_cursor *c, uint64_t lsn,
                      int64_t offset, struct rlog_index_entry *entry, int fd, struct err *e)
{
    bool missing;
    bool found = look_up(l, v, c->generation, lsn, offset, entry, &missing);
    if (missing) {
        int rc = build_index(l, v, c->generation, fd, e);
        if (rc < 0)
            return rc;
        found = look_up(l, v, c->generation, lsn, offset, entry, &missing);
    }
    return found;
}

/* ---- positions ---- */

/* Byte offset of record lsn in the segment v, open as fd; v->last + 1 gives its end. */
static int offset_of(struct rlog *l, const struct view *v, const struct rlog_cursor *c, uint64_t lsn, int fd,
                     int64_t *offset, struct err *e)
{
    struct rlog_index_entry entry = {.lsn = v->first, .offset = 0};
    struct rlog_scan scan;
    struct record_head h;
    int64_t start;
    *offset = lsn == v->first ? 0 : v->end;
    if (lsn == v->first || lsn > v->last)
        return 0;
    int rc = index_find(l, v, c, lsn, -1, &entry, fd, e);
    if (rc >= 0)
        rc = rlog_scan_init(&scan, fd, entry.offset, v->end, entry.lsn, e);
    if (rc < 0)
        return rc;
    rc = 1;
    while (rc == 1 && scan.lsn < lsn)
        rc = rlog_scan_next(&scan, false, &h, &start);
    *offset = scan.offset;
    rlog_scan_free(&scan);
    if (rc == 1)
        return 0;
    if (rc == 0 || rc == ERR_CORRUPT)
        return corrupt(l, v->first, *offset,
                       rc == 0 ? "records are missing at the end of the segment" : scan.damage, e);
    return read_error(l, v->first, rc, e);
}

/* Opens the segment v for c, before record lsn of it. On failure c is as it was. */
static int cursor_open(struct rlog *l, struct rlog_cursor *c, const struct view *v, uint64_t lsn,
                       struct err *e)
{
    _cleanup_fd_ int fd = -1;
    int64_t offset;
    int rc = rlog_segment_open(l, v->first, O_RDONLY, &fd, e);
    if (rc == -ENOENT)
        return gone(l, lsn, e);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&l->lock);
    bool same = l->generation == c->generation;
    pthread_mutex_unlock(&l->lock);
    if (!same)
        return gone(l, lsn, e);
    rc = offset_of(l, v, c, lsn, fd, &offset, e);
    if (rc < 0)
        return rc;
    rlog_cursor_close(c);
    c->segment = v->first;
    c->fd = steal_fd(&fd);
    c->offset = offset;
    c->lsn = lsn;
    return 0;
}

int rlog_seek(struct rlog *l, uint64_t lsn, struct rlog_cursor *c, struct err *e)
{
    struct view v = {0};
    pthread_mutex_lock(&l->lock);
    const uint64_t generation = l->generation,
                   first = l->n_segments ? l->segments[0]->first : l->last.lsn + 1;
    const uint64_t last = l->last.lsn;
    const struct rlog_segment *s = rlog_segments_find(l, MIN(lsn, last));
    if (s)
        v = (struct view){.first = s->first, .last = s->last, .end = s->end};
    pthread_mutex_unlock(&l->lock);
    if (lsn < first)
        return gone(l, lsn, e);
    if (lsn > last + 1)
        return err_set(e, ERR_GONE, "%s: record %" PRIu64 " does not exist yet; the last one is %" PRIu64,
                       l->dir, lsn, last);

    struct rlog_cursor at = {.lsn = lsn, .fd = -1, .generation = generation};
    int rc = s ? cursor_open(l, &at, &v, lsn, e) : 0; /* without any record there is nothing to open */
    if (rc < 0)
        return rc;
    rlog_cursor_close(c);
    *c = at;
    return 0;
}

/* Gets c to the segment that its next record is in. 1 with *v; 0: that record is not there yet; or an error.
 */
static int cursor_arrive(struct rlog *l, struct rlog_cursor *c, struct view *v, struct err *e)
{
    pthread_mutex_lock(&l->lock);
    const bool same = l->generation == c->generation, at_end = c->lsn > l->last.lsn;
    const struct rlog_segment *s = rlog_segments_find(l, c->lsn);
    if (s)
        *v = (struct view){.first = s->first, .last = s->last, .end = s->end};
    pthread_mutex_unlock(&l->lock);
    if (!same)
        return gone(l, c->lsn, e);
    if (at_end)
        return 0;
    if (s) {
        int rc = c->segment == v->first ? 0 : cursor_open(l, c, v, c->lsn, e);
        if (rc == 0 && c->offset >= v->end)
            rc = corrupt(l, c->segment, c->offset, "records are missing at the end of the segment", e);
        return rc < 0 ? rc : 1;
    }
    /* Trimmed, but the cursor still has the file: closed, durable and cut to its length long ago. */
    struct stat st;
    if (c->segment == 0)
        return gone(l, c->lsn, e);
    if (fstat(c->fd, &st) < 0)
        return read_error(l, c->segment, -errno, e);
    if (c->offset >= st.st_size)
        return gone(l, c->lsn, e);
    *v = (struct view){.first = c->segment, .last = UINT64_MAX, .end = st.st_size, .trimmed = true};
    return 1;
}

/* ---- reading ---- */

/* Reads the header of the record before which c stands, and checks its payload. Payload bytes that came with
 * the header are checked where they are. */
static int read_record(struct rlog *l, struct rlog_cursor *c, const struct view *v, struct record_head *h,
                       long *size, struct err *e)
{
    uint8_t buf[16 * 1024];
    const int64_t first_read = 4096; /* most records fit */
    ssize_t n = rlog_pread(c->fd, buf, (size_t)MIN(first_read, v->end - c->offset), c->offset);
    if (n < 0)
        return read_error(l, c->segment, (int)n, e);
    *size = record_head_decode(buf, (size_t)n, h);
    if (*size <= 0)
        return corrupt(l, c->segment, c->offset,
                       *size ? "the header of the record is damaged" : "the segment ends inside a record", e);
    if (h->pos.lsn != c->lsn || h->type >= RECORD_CONTROL)
        return corrupt(l, c->segment, c->offset,
                       "the record has another LSN, or type, than the one expected here", e);
    if (v->end - c->offset - *size < (int64_t)h->payload_len)
        return corrupt(l, c->segment, c->offset, "the segment ends inside a record", e);
    /* crc32c of the payload's first bytes, then of the rest as read into the same buffer */
    size_t have = MIN((size_t)n - (size_t)*size, (size_t)h->payload_len);
    uint32_t crc = crc32c(0, buf + *size, have);
    int rc = rlog_payload_check(c->fd, c->offset + *size + (int64_t)have, h->payload_len - (uint32_t)have,
                                crc, h->payload_crc, buf, sizeof buf);
    if (rc == ERR_CORRUPT)
        return corrupt(l, c->segment, c->offset, "the checksum of the payload is wrong", e);
    return rc < 0 ? read_error(l, c->segment, rc, e) : 0;
}

int rlog_next(struct rlog *l, struct rlog_cursor *c, struct record_head *h, int64_t *payload_offset,
              struct err *e)
{
    struct view v;
    long size;
    int rc = cursor_arrive(l, c, &v, e);
    if (rc <= 0)
        return rc;
    rc = read_record(l, c, &v, h, &size, e);
    if (rc < 0)
        return rc;
    *payload_offset = c->offset + size;
    c->offset = *payload_offset + (int64_t)h->payload_len;
    c->lsn++;
    return 1;
}

/* Finds the end of the longest run of records from c on that has at most max bytes, or is one record, by
 * their headers. */
static int walk_span(struct rlog *l, const struct rlog_cursor *c, const struct view *v, int64_t max,
                     int64_t *end, uint64_t *last, struct err *e)
{
    struct rlog_scan scan;
    struct record_head h;
    int64_t start;
    int rc = rlog_scan_init(&scan, c->fd, c->offset, v->end, c->lsn, e);
    if (rc < 0)
        return rc;
    *end = c->offset;
    while ((rc = rlog_scan_next(&scan, false, &h, &start)) == 1) {
        if (*end > c->offset && scan.offset - c->offset > max)
            break;
        *end = scan.offset;
        *last = h.pos.lsn;
    }
    rlog_scan_free(&scan);
    if (*end > c->offset) /* what follows, damage too, is for the next call */
        return 0;
    if (rc == ERR_CORRUPT || rc == 0)
        return corrupt(l, c->segment, c->offset,
                       rc == 0 ? "records are missing at the end of the segment" : scan.damage, e);
    return read_error(l, c->segment, rc, e);
}

int rlog_span(struct rlog *l, struct rlog_cursor *c, uint64_t max, int64_t *offset, int64_t *length,
              uint64_t *last_lsn, struct err *e)
{
    struct view v;
    struct rlog_index_entry entry;
    int64_t end;
    int rc = cursor_arrive(l, c, &v, e);
    if (rc <= 0)
        return rc;
    const int64_t limit = (int64_t)MIN(max, (uint64_t)INT64_MAX / 2);
    if (!v.trimmed && v.end - c->offset <= limit) {
        end = v.end;
        *last_lsn = v.last;
    } else {
        rc = v.trimmed ? 0 : index_find(l, &v, c, 0, c->offset + limit, &entry, c->fd, e);
        if (rc == 1 && entry.offset > c->offset) { /* a boundary near enough: no header has to be read */
            end = entry.offset;
            *last_lsn = entry.lsn - 1;
            rc = 0;
        } else if (rc >= 0) {
            rc = walk_span(l, c, &v, limit, &end, last_lsn, e);
        }
        if (rc < 0)
            return rc;
    }
    *offset = c->offset;
    *length = end - c->offset;
    c->offset = end;
    c->lsn = *last_lsn + 1;
    return 1;
}
