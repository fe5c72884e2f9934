/* Opening a log directory: which files are trusted, which are scanned, and where the log is cut.
 *
 * A sealed (read-only) segment was durable when it was sealed, so a crash cannot have hurt it; only its first
 * header is looked at. The others may have lost any of their blocks if the power went: they are scanned from
 * the oldest on, and the log ends at the first record that does not check, even if later segments hold
 * records that do (there would be a gap). The newest is scanned always; if all that were scanned hold no
 * record, so is the one before them, because the position of the last record, its epoch included, must come
 * from somewhere. */
#include "replicator/log/rlog_private.h"

#include "lib/durable.h"
#include "lib/log.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#define BASE "base"
#define BASE_FORMAT "edgefs-log 1\n"
#define BASE_MAX 4096

/* ---- base ---- */

/* "edgefs-log 1\nEPOCH LSN STATE\n"; STATE: "ready", or "resetting" while the segments of before may still be
 * there. */
int rlog_base_write(struct rlog *l, struct position pos, bool resetting, struct err *e)
{
    char text[128];
    int n = snprintf(text, sizeof text, BASE_FORMAT "%" PRIu64 " %" PRIu64 " %s\n", pos.epoch, pos.lsn,
                     resetting ? "resetting" : "ready");
    int rc = durable_replace(l->dirfd, BASE, text, (size_t)n, 0600, e);
    if (rc < 0)
        err_wrap(e, "%s", l->dir);
    return rc;
}

/* 1 if there is one, 0 if not, or an error. */
static int base_read(struct rlog *l, struct position *pos, bool *resetting, struct err *e)
{
    _cleanup_free_ char *text = NULL;
    size_t n;
    int rc = durable_read(l->dirfd, BASE, BASE_MAX, &text, &n, e);
    if (rc == -ENOENT)
        return 0;
    if (rc < 0) {
        err_wrap(e, "%s", l->dir);
        return rc;
    }

    const size_t head = sizeof BASE_FORMAT - 1;
    int used = 0;
    char state[16];
    bool good =
        n > head && strlen(text) == n && memcmp(text, BASE_FORMAT, head) == 0 &&
        sscanf(text + head, "%" SCNu64 " %" SCNu64 " %15[a-z]%n", &pos->epoch, &pos->lsn, state, &used) == 3;
    if (good) {
        *resetting = strcmp(state, "resetting") == 0;
        good = (*resetting || strcmp(state, "ready") == 0) && strcmp(text + head + used, "\n") == 0;
    }
    return good ? 1
                : err_set(e, ERR_CORRUPT,
                          "%s/" BASE ": not two lines \"edgefs-log 1\" and \"EPOCH LSN ready\"", l->dir);
}

/* ---- the directory ---- */

struct found {
    uint64_t first;
    int64_t size;
    bool sealed;
};

static int found_compare(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* Lists segment files, ascending. *list is the caller's, also on failure. */
static int list_segments(struct rlog *l, struct found **list, size_t *n, struct err *e)
{
    size_t room = 0;
    int fd =
        openat(l->dirfd, ".",
               O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* a descriptor of its own: readdir moves the offset */
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        int saved = errno;
        cleanup_fd(&fd);
        return err_errno(e, saved, "%s", l->dir);
    }
    int rc = 0;
    struct dirent *de;
    while (errno = 0, (de = readdir(d)) != NULL) {
        struct found f;
        struct stat st;
        if (!rlog_segment_parse(de->d_name, &f.first))
            continue;
        if (fstatat(l->dirfd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode)) {
            rc = err_set(e, ERR_CORRUPT, "%s/%s: not a regular file", l->dir, de->d_name);
            break;
        }
        f.size = st.st_size;
        f.sealed = (st.st_mode & (S_IWUSR | S_IWGRP | S_IWOTH)) == 0;
        if (*n == room) {
            room = room ? 2 * room : 32;
            struct found *bigger = reallocarray(*list, room, sizeof f);
            if (!bigger) {
                rc = err_errno(e, ENOMEM, "%s", l->dir);
                break;
            }
            *list = bigger;
        }
        (*list)[(*n)++] = f;
    }
    if (rc == 0 && errno != 0)
        rc = err_errno(e, errno, "%s", l->dir);
    closedir(d);
    if (rc == 0 && *n > 1)
        qsort(*list, *n, sizeof **list, found_compare);
    return rc;
}

static int delete_file(struct rlog *l, uint64_t first, struct err *e)
{
    char name[RLOG_SEGMENT_NAME_SIZE];
    rlog_segment_name(first, name);
    if (rlog_io->unlink_at(l->dirfd, name, 0) < 0 && errno != ENOENT)
        return err_errno(e, errno, "deleting %s/%s", l->dir, name);
    return 0;
}

int rlog_reset_finish(struct rlog *l, struct err *e)
{
    _cleanup_free_ struct found *list = NULL;
    size_t n = 0;
    int rc = list_segments(l, &list, &n, e);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = delete_file(l, list[i].first, e);
    if (rc == 0 && n > 0 && rlog_io->sync_all(l->dirfd) < 0)
        rc = err_errno(e, errno, "%s", l->dir);
    if (rc == 0)
        rc = rlog_base_write(l, l->last, false, e);
    if (rc == 0)
        l->resetting = false;
    return rc;
}

/* ---- segments ---- */

/* Trusts a sealed segment, but for its first header. */
static int load_sealed(struct rlog *l, struct rlog_segment *s, int64_t size, struct err *e)
{
    _cleanup_fd_ int fd = -1;
    struct rlog_scan scan;
    struct record_head h;
    int64_t start;
    int rc = rlog_segment_open(l, s->first, O_RDONLY, &fd, e);
    if (rc < 0)
        return rc;
    rc = rlog_scan_init(&scan, fd, 0, size, s->first, e);
    if (rc < 0)
        return rc;
    rc = rlog_scan_next(&scan, false, &h, &start);
    rlog_scan_free(&scan);
    if (rc == 1) {
        s->end = s->synced_end = size;
        s->first_us = h.timestamp;
        return 0;
    }
    if (rc < 0 && rc != ERR_CORRUPT)
        return err_errno(e, -rc, "reading %s/%016" PRIx64 ".log", l->dir, s->first);
    return err_set(e, ERR_CORRUPT, "%s/%016" PRIx64 ".log: offset 0: %s", l->dir, s->first,
                   rc == 0 ? "the file is empty" : scan.damage);
}

/* Whether file bytes from..size are all zero; holes and blocks that were never written are skipped. On a
 * doubt false. */
static bool rest_is_zero(int fd, int64_t from, int64_t size)
{
    static const char zeros[4096];
    char buf[4096];
    while (from < size) {
        off_t data = lseek(fd, from, SEEK_DATA);
        if (data < 0)
            return errno == ENXIO;
        from = data;
        ssize_t k = rlog_pread(fd, buf, (size_t)MIN((int64_t)sizeof buf, size - from), from);
        if (k <= 0 || memcmp(buf, zeros, (size_t)k) != 0)
            return false;
        from += k;
    }
    return true;
}

static int open_unsealed(struct rlog *l, struct rlog_segment *s, bool sealed, struct err *e)
{
    char name[RLOG_SEGMENT_NAME_SIZE];
    rlog_segment_name(s->first, name);
    if (sealed && fchmodat(l->dirfd, name, 0600, 0) < 0)
        return err_errno(e, errno, "%s/%s", l->dir, name);
    return rlog_segment_open(l, s->first, O_RDWR, &s->fd, e);
}

/* Where the last group of a segment ends that is whole. */
struct whole {
    struct position pos;
    uint64_t next; /* LSN */
    int64_t offset;
};

/* Scans a segment's records, payloads included, and cuts its file behind the last whole one. Sets *last and
 * *any if there is one. *cut: what was behind it was not just unused space. */
static int scan_segment(struct rlog *l, struct rlog_segment *s, int64_t size, bool newest, bool *cut, struct err *e)
{
    struct rlog_scan scan;
    struct record_head h;
    int64_t start;
    int rc = rlog_scan_init(&scan, s->fd, 0, size, s->first, e);
    if (rc < 0)
        return rc;
    struct whole whole = {.pos = l->last, .next = s->first};
    while ((rc = rlog_scan_next(&scan, true, &h, &start)) == 1) {
        if (start == 0)
            s->first_us = h.timestamp;
        rlog_index_note(&s->index, h.pos.lsn, start);
        l->last = h.pos;
        l->in_group = h.flags & RECORD_MORE;
        if (!l->in_group)
            whole = (struct whole){.pos = h.pos, .next = scan.lsn, .offset = scan.offset};
    }
    rlog_scan_free(&scan);
    if (rc < 0 && rc != ERR_CORRUPT)
        return err_errno(e, -rc, "reading %s/%016" PRIx64 ".log", l->dir, s->first);
    if (l->in_group && l->o.whole_groups && newest) {
        log_warn("log", "%s/%016" PRIx64 ".log: LSN %" PRIu64 " to %" PRIu64 " are part of a group of records whose rest is missing: dropped", l->dir, s->first, whole.next, scan.lsn - 1);
        l->last = whole.pos;
        l->in_group = false;
        rlog_index_cut(&s->index, whole.next);
        scan.lsn = whole.next;
        scan.offset = whole.offset;
    }
    s->last = scan.lsn - 1;
    s->end = scan.offset;
    s->indexed = true;
    *cut = rc == ERR_CORRUPT && !(scan.blank && rest_is_zero(s->fd, scan.offset, size));
    if (*cut)
        log_warn("log",
                 "%s/%016" PRIx64 ".log: cut at offset %" PRId64 ", before LSN %" PRIu64 ": %s; %" PRId64
                 " bytes of the file are dropped (an unclean stop leaves such a tail)",
                 l->dir, s->first, s->end, scan.lsn, scan.damage, size - s->end);
    if (size > s->end && rlog_io->truncate_to(s->fd, s->end) < 0)
        return err_errno(e, errno, "cutting %s/%016" PRIx64 ".log", l->dir, s->first);
    return 0;
}

/* Deletes the files list[i..n): their records would not follow l->last. */
static int drop_later(struct rlog *l, const struct found *list, size_t i, size_t n, struct err *e)
{
    int rc = 0;
    for (size_t k = n; rc == 0 && k > i; k--) { /* newest first: what is left stays without gaps */
        log_warn("log",
                 "%s/%016" PRIx64 ".log (%" PRId64
                 " bytes) is deleted: it does not continue the log, which ends with LSN %" PRIu64,
                 l->dir, list[k - 1].first, list[k - 1].size, l->last.lsn);
        rc = delete_file(l, list[k - 1].first, e);
        l->dir_dirty = true;
    }
    return rc;
}

/* Scans list[from..*n), which are no segments of l yet, and adds them. Lowers *n to what is kept. */
static int scan_from(struct rlog *l, const struct found *list, size_t from, size_t *n, struct err *e)
{
    for (size_t i = from; i < *n; i++) {
        struct rlog_segment *s = rlog_segment_new(l, list[i].first);
        if (!s || rlog_segments_add(l, s) < 0) {
            rlog_segment_free(s);
            return err_errno(e, ENOMEM, "%s", l->dir);
        }
        bool cut = false;
        int rc = open_unsealed(l, s, list[i].sealed, e);
        if (rc == 0)
            rc = scan_segment(l, s, list[i].size, i + 1 == *n, &cut, e);
        if (rc < 0)
            return rc;
        if (i + 1 < *n && (cut || list[i + 1].first != s->last + 1)) {
            rc = drop_later(l, list, i + 1, *n, e);
            *n = i + 1;
            return rc;
        }
    }
    return 0;
}

static void pop_segments(struct rlog *l, size_t down_to)
{
    while (l->n_segments > down_to)
        rlog_segment_free(l->segments[--l->n_segments]);
}

static int load_segments(struct rlog *l, const struct found *list, size_t n, struct err *e)
{
    size_t from = 0;
    while (from + 1 < n && list[from].sealed)
        from++;
    for (size_t i = 0; i < from; i++) {
        struct rlog_segment *s = rlog_segment_new(l, list[i].first);
        if (!s || rlog_segments_add(l, s) < 0) {
            rlog_segment_free(s);
            return err_errno(e, ENOMEM, "%s", l->dir);
        }
        s->last = list[i + 1].first - 1;
        int rc = load_sealed(l, s, list[i].size, e);
        if (rc < 0)
            return rc;
    }
    const struct position before = l->last;
    for (;; from--) {
        l->last = before;
        int rc = scan_from(l, list, from, &n, e);
        if (rc < 0)
            return rc;
        if (from == 0 || l->segments[from]->end > 0)
            return 0;
        pop_segments(l, from - 1);
    }
}

/* Where a log without any record stands: where its first segment, or base, says. */
static void empty_position(struct rlog *l, bool have_base, struct position base)
{
    const struct rlog_segment *s = rlog_newest(l);
    l->last = have_base ? base : (struct position){0, 0};
    if (s && s->first != l->last.lsn + 1) {
        l->last = (struct position){.epoch = 0, .lsn = s->first - 1};
        log_warn("log", "%s: no record is left; the epoch of LSN %" PRIu64 " is not known any more", l->dir,
                 l->last.lsn);
    }
}

/* A clean start: everything that was scanned is made durable, and closed segments sealed. */
static int settle(struct rlog *l, struct err *e)
{
    for (size_t i = 0; i < l->n_segments; i++) {
        struct rlog_segment *s = l->segments[i];
        l->bytes += (uint64_t)s->end;
        if (s->fd < 0)
            continue;
        if (rlog_io->sync_data(s->fd) < 0)
            return err_errno(e, errno, "%s/%016" PRIx64 ".log", l->dir, s->first);
        s->synced_end = s->end;
        int rc = i + 1 < l->n_segments ? rlog_seal(l, s, e) : 0;
        if (rc < 0)
            return rc;
    }
    if (rlog_io->sync_all(l->dirfd) < 0)
        return err_errno(e, errno, "%s", l->dir);
    l->dir_dirty = false;
    l->durable = l->last.lsn;
    rlog_index_evict(l);
    if (l->n_segments > 0) {
        l->tail_dirty = true; /* not dirty, but cut to its length: preallocated again at the first append */
        l->zeroed = rlog_newest(l)->end;
    }
    return 0;
}

int rlog_recover(struct rlog *l, struct err *e)
{
    _cleanup_free_ struct found *list = NULL;
    struct position base = {0, 0};
    size_t n = 0;
    int have_base = base_read(l, &base, &l->resetting, e);
    if (have_base < 0)
        return have_base;
    if (l->resetting) {
        l->last = base;
        int rc = rlog_reset_finish(l, e);
        if (rc < 0)
            return rc;
    }
    int rc = list_segments(l, &list, &n, e);
    if (rc < 0)
        return rc;
    if (have_base && n > 0 && list[0].first <= base.lsn)
        return err_set(e, ERR_CORRUPT,
                       "%s: segment %016" PRIx64 ".log is from before LSN %" PRIu64 ", where " BASE
                       " says the log begins",
                       l->dir, list[0].first, base.lsn + 1);
    if (n > 0) {
        rc = load_segments(l, list, n, e);
        if (rc < 0)
            return rc;
    }
    if (l->last.lsn == 0 || n == 0)
        empty_position(l, have_base == 1, base);
    return settle(l, e);
}
