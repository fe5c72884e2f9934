/* The writer's side of the log: begin, write, commit or abort, and the change of segments.
 *
 * Bytes of a record that is being written lie behind the end of the newest segment, where no reader looks;
 * rlog_commit writes the header (of a small record: header and payload in one pwrite) and only then moves the
 * end, under the lock. Whatever fails before that, the end has not moved. What is left behind it is given
 * back by rlog_tail_clean, at once or, should that fail too, before the next record: a payload may look like
 * records, so recovery must never find its remains behind a later, shorter record. */
#include "replicator/log/rlog_private.h"

#include "lib/crc.h"
#include "lib/log.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>

static const uint8_t zeros[RLOG_ZERO_AHEAD];

static int file_error(const struct rlog *l, const struct rlog_segment *s, int rc, struct err *e)
{
    return err_errno(e, -rc, "%s/%016" PRIx64 ".log", l->dir, s->first);
}

/* The newest segment, as the writer sees it: the array needs the lock (trimming moves it), the pointer stays
 * good until the writer itself changes segments. */
static struct rlog_segment *current(struct rlog *l)
{
    pthread_mutex_lock(&l->lock);
    struct rlog_segment *s = rlog_newest(l);
    pthread_mutex_unlock(&l->lock);
    return s;
}

/* Reserves the segment's space, so that a full disk is met here and fdatasync has no allocation to write. It
 * is no failure when that is refused (no room for a whole segment; a file system without it): pwrite then
 * finds out what there is room for. */
static void preallocate(struct rlog *l, struct rlog_segment *s)
{
    l->allocated = 0;
    l->zeroed = s->end;
    if (s->end >= (int64_t)l->o.segment_size)
        return;
    if (rlog_io->allocate(s->fd, 0, s->end, (off_t)l->o.segment_size - s->end) == 0)
        l->allocated = (int64_t)l->o.segment_size;
    else if (rlog_io->truncate_to(s->fd, s->end) < 0) /* blocks it did reserve are given back */
        l->tail_dirty = true;
}

int rlog_tail_clean(struct rlog *l, struct err *e)
{
    struct rlog_segment *s = l->tail_dirty ? current(l) : NULL;
    if (!s)
        return 0;
    if (rlog_io->truncate_to(s->fd, s->end) < 0)
        return file_error(l, s, -errno, e);
    l->tail_dirty = false;
    preallocate(l, s);
    return 0;
}

/* Makes a new newest segment, for the record last + 1. On failure there is none. */
static int add_segment(struct rlog *l, struct err *e)
{
    struct rlog_segment *s = rlog_segment_new(l, l->last.lsn + 1);
    char name[RLOG_SEGMENT_NAME_SIZE];
    if (!s)
        return err_errno(e, ENOMEM, "%s", l->dir);
    rlog_segment_name(s->first, name);
    const int flags = O_RDWR | O_CREAT | O_EXCL;
    int rc = rlog_segment_open(l, s->first, flags, &s->fd, e);
    if (rc == -EEXIST) { /* nothing of the log: left by a failure below whose unlink failed too */
        rc = rlog_io->unlink_at(l->dirfd, name, 0) < 0 ? file_error(l, s, -errno, e) : 0;
        rc = rc < 0 ? rc : rlog_segment_open(l, s->first, flags, &s->fd, e);
    }
    if (rc < 0) {
        rlog_segment_free(s);
        return rc;
    }
    s->indexed = true;
    pthread_mutex_lock(&l->lock);
    rc = rlog_segments_add(l, s);
    if (rc == 0)
        l->dir_dirty = true;
    pthread_mutex_unlock(&l->lock);
    if (rc < 0) {
        rc = file_error(l, s, rc, e);
        rlog_segment_free(s);
        (void)rlog_io->unlink_at(l->dirfd, name, 0); /* see -EEXIST */
        return rc;
    }
    preallocate(l, s);
    return 0;
}

static unsigned count_unsealed(struct rlog *l)
{
    unsigned n = 0;
    pthread_mutex_lock(&l->lock);
    for (size_t i = 0; i < l->n_segments; i++)
        n += l->segments[i]->fd >= 0;
    pthread_mutex_unlock(&l->lock);
    return n;
}

/* Sees to it that the newest segment is the one for a record of at least size bytes. */
static int choose_segment(struct rlog *l, int64_t size, struct err *e)
{
    int rc = rlog_tail_clean(l, e);
    if (rc < 0)
        return rc;
    const struct rlog_segment *s = current(l);
    if (s && (s->end == 0 || s->end + size <= (int64_t)l->o.segment_size))
        return 0;
    /* Recovery scans what is not sealed, and a reader's trust in old segments needs them sealed: the disk may
     * lag so far. */
    if (s && count_unsealed(l) > RLOG_UNSEALED_MAX) {
        rc = rlog_sync(l, e);
        if (rc < 0)
            return rc;
    }
    if (l->o.segment_begins)
        l->o.segment_begins(l->o.ctx, MAX((uint64_t)size, l->o.segment_size));
    return add_segment(l, e);
}

/* May a record with this header be the next one? */
static int may_follow(struct rlog *l, const struct record_head *h, struct err *e)
{
    if (l->begun)
        return err_set(e, -EINVAL, "%s: a record is being written already", l->dir);
    if (l->resetting) {
        int rc = rlog_reset_finish(l, e);
        if (rc < 0)
            return rc;
    }
    if (h->pos.lsn != l->last.lsn + 1 || h->pos.epoch < l->last.epoch)
        return err_set(e, -EINVAL, "%s: record %" PRIu64 "-%" PRIu64 " does not follow %" PRIu64 "-%" PRIu64,
                       l->dir, h->pos.epoch, h->pos.lsn, l->last.epoch, l->last.lsn);
    return 0;
}

int rlog_begin(struct rlog *l, const struct record_head *h, struct err *e)
{
    struct record_head decoded;
    int rc = may_follow(l, h, e);
    if (rc)
        return rc;
    if (h->type >= RECORD_CONTROL || h->name_len > LAYOUT_NAME_MAX)
        return err_set(e, -EINVAL, "%s: a record of type %u with a name of %u bytes does not belong in a log",
                       l->dir, h->type, h->name_len);
    /* A header that cannot be read again would end the log there. */
    l->head = *h;
    l->head_size = record_head_encode(h, l->buf);
    if (record_head_decode(l->buf, l->head_size, &decoded) != (long)l->head_size)
        return err_set(e, -EINVAL, "%s: a record of type %u must not have the name \"%.*s\"", l->dir, h->type,
                       (int)h->name_len, h->name);
    l->begun = true;
    l->streaming = false;
    l->payload_len = 0;
    l->payload_crc = 0;
    l->buffered = 0;
    return 0;
}

/* Writes the next n bytes of the payload of a large record behind the space for its header. */
static int stream_out(struct rlog *l, const void *p, size_t n, struct err *e)
{
    if (!l->streaming) {
        int rc = choose_segment(l, (int64_t)(l->head_size + n), e);
        if (rc < 0)
            return rc;
        l->streaming = true;
    }
    struct rlog_segment *s = current(l);
    /* payload_len counts what is in the buffer, or about to be written, too */
    int64_t at = s->end + (int64_t)l->head_size + (int64_t)(l->payload_len - l->buffered);
    l->tail_dirty = true;
    int rc = rlog_pwrite(s->fd, p, n, at);
    if (rc < 0)
        return file_error(l, s, rc, e);
    l->zeroed = MAX(l->zeroed, at + (int64_t)n);
    return 0;
}

static int flush_buffer(struct rlog *l, struct err *e)
{
    int rc = stream_out(l, l->buf + l->head_size, l->buffered, e);
    if (rc == 0)
        l->buffered = 0;
    return rc;
}

static int write_payload(struct rlog *l, const uint8_t *p, size_t n, struct err *e)
{
    if (!l->begun)
        return err_set(e, -EINVAL, "%s: no record is being written", l->dir);
    if (n > UINT32_MAX - l->payload_len)
        return err_set(e, -EFBIG, "%s: the payload of a record would exceed 4 GiB", l->dir);
    l->payload_crc = crc32c(l->payload_crc, p, n);
    while (n > 0) {
        int rc;
        size_t piece = MIN(n, RLOG_BUFFER - l->buffered);
        if (l->buffered == 0 && n >= RLOG_BUFFER && l->streaming) { /* past the buffer */
            rc = stream_out(l, p, n, e);
            if (rc < 0)
                return rc;
            l->payload_len += n;
            return 0;
        }
        memcpy(l->buf + l->head_size + l->buffered, p, piece);
        l->buffered += piece;
        l->payload_len += piece;
        p += piece;
        n -= piece;
        if (n > 0) { /* full, and more to come: the record is a large one */
            rc = flush_buffer(l, e);
            if (rc < 0)
                return rc;
        }
    }
    return 0;
}

int rlog_write(struct rlog *l, const void *p, size_t n, struct err *e)
{
    int rc = write_payload(l, p, n, e);
    if (rc < 0)
        rlog_abort(l);
    return rc;
}

/* Writes zeros over preallocated blocks that a small record is about to use for the first time; see
 * RLOG_ZERO_AHEAD. Only an optimisation: what cannot be written here the record's own pwrite reports. */
static void zero_ahead(struct rlog *l, const struct rlog_segment *s, int64_t size)
{
    int64_t n = MIN((int64_t)RLOG_ZERO_AHEAD, l->allocated - l->zeroed);
    if (s->end + size <= l->zeroed || size > (int64_t)RLOG_ZERO_AHEAD / 2 || n <= 0)
        return;
    if (rlog_pwrite(s->fd, zeros, (size_t)n, l->zeroed) == 0)
        l->zeroed += n;
}

/* Writes header and what is buffered; the record is whole in the file then. */
static int write_out(struct rlog *l, struct err *e)
{
    int rc = 0;
    if (l->streaming && l->buffered > 0)
        rc = flush_buffer(l, e);
    else if (!l->streaming)
        rc = choose_segment(l, (int64_t)(l->head_size + l->buffered), e);
    if (rc < 0)
        return rc;
    struct rlog_segment *s = current(l);
    size_t n = l->head_size + (l->streaming ? 0 : l->buffered);
    l->head.payload_len = (uint32_t)l->payload_len;
    l->head.payload_crc = l->payload_crc;
    record_head_encode(&l->head, l->buf);
    if (!l->streaming)
        zero_ahead(l, s, (int64_t)n);
    l->tail_dirty = true;
    rc = rlog_pwrite(s->fd, l->buf, n, s->end);
    if (rc < 0)
        return file_error(l, s, rc, e);
    l->zeroed = MAX(l->zeroed, s->end + (int64_t)n);
    l->tail_dirty = false;
    return 0;
}

/* The records from first to last, size bytes with their headers, are whole in the newest segment: readers may have them. */
static void publish(struct rlog *l, const struct record_head *first, const struct record_head *last, int64_t size)
{
    pthread_mutex_lock(&l->lock);
    struct rlog_segment *s = rlog_newest(l);
    if (s->end == 0)
        s->first_us = first->timestamp;
    else
        rlog_index_note(&s->index, first->pos.lsn, s->end);
    s->end += size;
    s->last = last->pos.lsn;
    l->last = last->pos;
    l->bytes += (uint64_t)size;
    pthread_mutex_unlock(&l->lock);
    l->in_group = last->flags & RECORD_MORE;
}

int rlog_commit(struct rlog *l, struct err *e)
{
    if (!l->begun)
        return err_set(e, -EINVAL, "%s: no record is being written", l->dir);
    int rc = write_out(l, e);
    if (rc < 0) {
        rlog_abort(l);
        return rc;
    }
    publish(l, &l->head, &l->head, (int64_t)(l->head_size + l->payload_len));
    l->begun = false;
    return 0;
}

int rlog_commit_expect(struct rlog *l, uint32_t payload_len, uint32_t payload_crc, struct err *e)
{
    if (l->begun && (l->payload_len != payload_len || l->payload_crc != payload_crc)) {
        err_set(e, ERR_CORRUPT,
                "record %" PRIu64 ": its payload of %" PRIu64 " bytes has checksum %08" PRIx32
                ", its header says %" PRIu32 " bytes with %08" PRIx32,
                l->head.pos.lsn, l->payload_len, l->payload_crc, payload_len, payload_crc);
        rlog_abort(l);
        return ERR_CORRUPT;
    }
    return rlog_commit(l, e);
}

void rlog_abort(struct rlog *l)
{
    if (!l->begun)
        return;
    l->begun = false;
    struct err e;
    if (rlog_tail_clean(l, &e) < 0)
        log_warn("log", "%s; tried again before the next record", e.text);
}

bool rlog_in_group(const struct rlog *l)
{
    return l->in_group;
}

/* The bytes are whole records that follow each other: the first header and its size, the last one. */
static int check_group(const struct rlog *l, const uint8_t *bytes, size_t n, struct record_head *first, size_t *first_size, struct record_head *last, struct err *e)
{
    for (size_t at = 0; at < n;) {
        struct record_head h;
        long size = record_head_decode(bytes + at, n - at, &h);
        if (size <= 0 || h.payload_len > n - at - (size_t)size || h.type >= RECORD_CONTROL || (at && (h.pos.lsn != last->pos.lsn + 1 || h.pos.epoch < last->pos.epoch)))
            return err_set(e, ERR_CORRUPT, "%s: what belongs together is not records that follow each other", l->dir);
        if (!at) {
            *first = h;
            *first_size = (size_t)size;
        }
        *last = h;
        at += (size_t)size + h.payload_len;
    }
    return n ? 0 : err_set(e, ERR_CORRUPT, "%s: no record", l->dir);
}

/* The first header last: until it is there recovery ends the log before it. */
static int write_group(struct rlog *l, const uint8_t *bytes, size_t n, size_t first_size, struct err *e)
{
    int rc = choose_segment(l, (int64_t)n, e);
    if (rc < 0)
        return rc;
    struct rlog_segment *s = current(l);
    zero_ahead(l, s, (int64_t)n);
    l->tail_dirty = true;
    rc = rlog_pwrite(s->fd, bytes + first_size, n - first_size, s->end + (int64_t)first_size);
    if (rc == 0)
        rc = rlog_pwrite(s->fd, bytes, first_size, s->end);
    if (rc < 0)
        return file_error(l, s, rc, e);
    l->zeroed = MAX(l->zeroed, s->end + (int64_t)n);
    l->tail_dirty = false;
    return 0;
}

int rlog_append_group(struct rlog *l, const uint8_t *bytes, size_t n, struct err *e)
{
    struct record_head first = {0}, last = {0};
    size_t first_size = 0;
    int rc = check_group(l, bytes, n, &first, &first_size, &last, e);
    if (rc == 0)
        rc = may_follow(l, &first, e);
    if (rc)
        return rc;
    rc = write_group(l, bytes, n, first_size, e);
    if (rc < 0) {
        struct err ignored; /* tried again before the next record */
        (void)rlog_tail_clean(l, &ignored);
        return rc;
    }
    publish(l, &first, &last, (int64_t)n);
    return 0;
}
