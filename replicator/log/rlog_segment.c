/* Segment files of the log: names, the scan over their records, the sparse index. */
#include "replicator/log/rlog_private.h"

#include "lib/crc.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

/* open is variadic: it cannot stand in the table itself. */
static int system_open(int dirfd, const char *name, int flags, mode_t mode)
{
    return openat(dirfd, name, flags, mode);
}

const struct rlog_io rlog_io_system = {
    .open_at = system_open,
    .pwrite_at = pwrite,
    .allocate = fallocate,
    .truncate_to = ftruncate,
    .sync_data = fdatasync,
    .sync_all = fsync,
    .unlink_at = unlinkat,
};
const struct rlog_io *rlog_io = &rlog_io_system;

void rlog_segment_name(uint64_t first, char name[RLOG_SEGMENT_NAME_SIZE])
{
    snprintf(name, RLOG_SEGMENT_NAME_SIZE, "%016llx.log", (unsigned long long)first);
}

bool rlog_segment_parse(const char *name, uint64_t *first)
{
    char same[RLOG_SEGMENT_NAME_SIZE];
    if (strlen(name) != RLOG_SEGMENT_NAME_SIZE - 1)
        return false;
    *first = strtoull(name, NULL, 16);
    rlog_segment_name(*first, same);
    return *first > 0 && strcmp(name, same) == 0; /* one spelling only: lower case, no sign, no "0x" */
}

struct rlog_segment *rlog_segment_new(const struct rlog *l, uint64_t first)
{
    struct rlog_segment *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->first = first;
    s->last = first - 1;
    s->fd = -1;
    rlog_index_init(&s->index, l->o.segment_size);
    return s;
}

void rlog_segment_free(struct rlog_segment *s)
{
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    free(s->index.entries);
    free(s);
}

int rlog_segment_open(const struct rlog *l, uint64_t first, int flags, int *fd, struct err *e)
{
    char name[RLOG_SEGMENT_NAME_SIZE];
    rlog_segment_name(first, name);
    *fd = rlog_io->open_at(l->dirfd, name, flags | O_CLOEXEC, 0600);
    return *fd < 0 ? err_errno(e, errno, "%s/%s", l->dir, name) : 0;
}

int rlog_segments_add(struct rlog *l, struct rlog_segment *s)
{
    if (l->n_segments == l->room) {
        size_t room = l->room ? 2 * l->room : 16;
        struct rlog_segment **bigger = reallocarray(l->segments, room, sizeof *bigger);
        if (!bigger)
            return -ENOMEM;
        l->segments = bigger;
        l->room = room;
    }
    l->segments[l->n_segments++] = s;
    return 0;
}

struct rlog_segment *rlog_segments_find(const struct rlog *l, uint64_t lsn)
{
    size_t low = 0,
           high =
               l->n_segments; /* segments before low begin at or before lsn, those from high on behind it */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (l->segments[middle]->first <= lsn)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? l->segments[low - 1] : NULL;
}

/* ---- index ---- */

void rlog_index_init(struct rlog_index *x, uint64_t segment_size)
{
    memset(x, 0, sizeof *x);
    x->stride = (int64_t)MAX((uint64_t)RLOG_INDEX_STRIDE, segment_size / RLOG_INDEX_ENTRIES);
    x->next = x->stride;
}

void rlog_index_note(struct rlog_index *x, uint64_t lsn, int64_t offset)
{
    if (offset < x->next)
        return;
    if (x->n == x->room) {
        size_t room = x->room ? 2 * x->room : 16;
        struct rlog_index_entry *bigger = reallocarray(x->entries, room, sizeof *bigger);
        if (!bigger)
            return;
        x->entries = bigger;
        x->room = room;
    }
    x->entries[x->n++] = (struct rlog_index_entry){.lsn = lsn, .offset = offset};
    x->next = offset + x->stride;
}

void rlog_index_cut(struct rlog_index *x, uint64_t lsn)
{
    while (x->n && x->entries[x->n - 1].lsn >= lsn)
        x->n--;
}

const struct rlog_index_entry *rlog_index_by_lsn(const struct rlog_index *x, uint64_t lsn)
{
    size_t low = 0, high = x->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (x->entries[middle].lsn <= lsn)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? &x->entries[low - 1] : NULL;
}

const struct rlog_index_entry *rlog_index_by_offset(const struct rlog_index *x, int64_t offset)
{
    size_t low = 0, high = x->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (x->entries[middle].offset <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? &x->entries[low - 1] : NULL;
}

/* ---- reading and writing ---- */

ssize_t rlog_pread(int fd, void *p, size_t n, int64_t offset)
{
    size_t got = 0;
    while (got < n) {
        ssize_t k = pread(fd, (char *)p + got, n - got, offset + (int64_t)got);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -errno;
        if (k == 0)
            break;
        got += (size_t)k;
    }
    return (ssize_t)got;
}

int rlog_pwrite(int fd, const void *p, size_t n, int64_t offset)
{
    size_t put = 0;
    while (put < n) {
        ssize_t k = rlog_io->pwrite_at(fd, (const char *)p + put, n - put, offset + (int64_t)put);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return k < 0 ? -errno : -ENOSPC;
        put += (size_t)k;
    }
    return 0;
}

int rlog_payload_check(int fd, int64_t offset, uint32_t len, uint32_t crc, uint32_t want, uint8_t *buf,
                       size_t size)
{
    while (len > 0) {
        size_t piece = MIN(size, (size_t)len);
        ssize_t k = rlog_pread(fd, buf, piece, offset);
        if (k < 0)
            return (int)k;
        if ((size_t)k < piece)
            return ERR_CORRUPT;
        crc = crc32c(crc, buf, piece);
        offset += k;
        len -= (uint32_t)piece;
    }
    return crc == want ? 0 : ERR_CORRUPT;
}

/* ---- scan ---- */

int rlog_scan_init(struct rlog_scan *s, int fd, int64_t offset, int64_t end, uint64_t lsn, struct err *e)
{
    *s = (struct rlog_scan){.fd = fd, .offset = offset, .end = end, .lsn = lsn};
    s->buf = malloc(RLOG_SCAN_BUFFER);
    return s->buf ? 0 : err_errno(e, ENOMEM, "reading the log");
}

void rlog_scan_free(struct rlog_scan *s)
{
    free(s->buf);
    s->buf = NULL;
}

/* Makes *p point to the buffered bytes from s->offset on: at least RECORD_HEAD_MAX unless the end is nearer.
 * Returns how many, or -errno. */
static ssize_t scan_peek(struct rlog_scan *s, const uint8_t **p)
{
    size_t want = (size_t)MIN((int64_t)RECORD_HEAD_MAX, s->end - s->offset);
    bool inside =
        s->offset >= s->buf_offset && s->offset + (int64_t)want <= s->buf_offset + (int64_t)s->buf_len;
    if (!inside) {
        size_t n = (size_t)MIN((int64_t)RLOG_SCAN_BUFFER, s->end - s->offset);
        s->buf_len = 0; /* nothing is in it should reading fail */
        ssize_t k = rlog_pread(s->fd, s->buf, n, s->offset);
        if (k < 0)
            return k;
        s->buf_offset = s->offset;
        s->buf_len = (size_t)k;
    }
    *p = s->buf + (s->offset - s->buf_offset);
    return (ssize_t)(s->buf_len - (size_t)(s->offset - s->buf_offset));
}

static int damaged(struct rlog_scan *s, const char *how)
{
    s->damage = how;
    return ERR_CORRUPT;
}

static int scan_payload(struct rlog_scan *s, const struct record_head *h, int64_t at)
{
    int64_t buffered_end = s->buf_offset + (int64_t)s->buf_len;
    int rc;
    if (at + (int64_t)h->payload_len <= buffered_end) {
        const uint8_t *p = s->buf + (at - s->buf_offset);
        rc = crc32c(0, p, h->payload_len) == h->payload_crc ? 0 : ERR_CORRUPT;
    } else {
        s->buf_len = 0;
        rc = rlog_payload_check(s->fd, at, h->payload_len, 0, h->payload_crc, s->buf, RLOG_SCAN_BUFFER);
    }
    return rc == ERR_CORRUPT ? damaged(s, "the checksum of the payload is wrong") : rc;
}

int rlog_scan_next(struct rlog_scan *s, bool payload, struct record_head *h, int64_t *start)
{
    static const uint8_t zeros[4];
    const uint8_t *p;
    s->blank = false;
    if (s->offset >= s->end)
        return 0;
    ssize_t n = scan_peek(s, &p);
    if (n < 0)
        return (int)n;
    if (n == 0)
        return damaged(s, "the file ends before the record");
    s->blank = memcmp(p, zeros, MIN((size_t)n, sizeof zeros)) == 0;
    if (s->blank)
        return damaged(s, "there is no record, only zeros");
    long size = record_head_decode(p, (size_t)n, h);
    if (size == 0)
        return damaged(s, "the file ends inside the header of a record");
    if (size < 0)
        return damaged(s, "the header of the record is damaged");
    if (h->pos.lsn != s->lsn)
        return damaged(s, "the record has another LSN than the one expected here");
    if (h->type >= RECORD_CONTROL)
        return damaged(s, "the record is of a type that does not belong in a log");
    if (s->end - s->offset - size < (int64_t)h->payload_len)
        return damaged(s, "the file ends inside the payload of a record");
    int rc = payload ? scan_payload(s, h, s->offset + size) : 0;
    if (rc < 0)
        return rc;
    *start = s->offset;
    s->offset += size + (int64_t)h->payload_len;
    s->lsn++;
    return 1;
}
