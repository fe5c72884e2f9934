/* Durability of the log: fdatasync of what was appended, and the sealing of closed segments.
 *
 * Any number of threads may ask at once: one does the work for all that was committed before it began, the
 * others wait for `files` and then mostly find theirs done. */
#include "replicator/log/rlog_private.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>

static int file_error(const struct rlog *l, const struct rlog_segment *s, int rc, struct err *e)
{
    return err_errno(e, -rc, "%s/%016" PRIx64 ".log", l->dir, s->first);
}

int rlog_seal(struct rlog *l, struct rlog_segment *s, struct err *e)
{
    if (fchmod(s->fd, 0400) < 0)
        return file_error(l, s, -errno, e);
    pthread_mutex_lock(&l->lock);
    int fd = steal_fd(&s->fd);
    pthread_mutex_unlock(&l->lock);
    close(fd);
    return 0;
}

/* After a failed fdatasync the kernel has forgotten which pages it could not write, and the next fdatasync
 * would say 0. The pages are most likely still in memory: written to the file once more they are dirty again,
 * and the checksums of the records tell whether they were all there. */
static int write_again(const struct rlog *l, const struct rlog_segment *s, int64_t end, struct err *e)
{
    struct rlog_scan scan;
    struct record_head h;
    int64_t start;
    int rc = rlog_scan_init(&scan, s->fd, 0, end, s->first, e);
    if (rc < 0)
        return rc;
    for (int64_t at = s->synced_end; rc == 0 && at < end;) {
        ssize_t k = rlog_pread(s->fd, scan.buf, (size_t)MIN((int64_t)RLOG_SCAN_BUFFER, end - at), at);
        rc = k <= 0 ? (k < 0 ? (int)k : -EIO) : rlog_pwrite(s->fd, scan.buf, (size_t)k, at);
        at += k;
    }
    if (rc < 0)
        rc = file_error(l, s, rc, e);
    while (rc == 0 && (rc = rlog_scan_next(&scan, true, &h, &start)) != 0) {
        if (rc == ERR_CORRUPT)
            err_set(e, rc, "%s/%016" PRIx64 ".log: offset %" PRId64 ": %s, after the disk failed to write it",
                    l->dir, s->first, scan.offset, scan.damage);
        else if (rc < 0)
            file_error(l, s, rc, e);
        else
            rc = 0;
    }
    rlog_scan_free(&scan);
    return rc;
}

/* What rlog_sync has to do for one segment, as it stood under the lock. */
struct job {
    struct rlog_segment *s;
    int64_t end;
    uint64_t last;
    bool closed;
};

static int sync_segment(struct rlog *l, const struct job *j, struct err *e)
{
    struct rlog_segment *s = j->s;
    if (j->closed && rlog_io->truncate_to(s->fd, j->end) < 0)
        return file_error(l, s, -errno, e);
    if (s->suspect) {
        int rc = write_again(l, s, j->end, e);
        if (rc < 0)
            return rc;
    }
    if ((j->closed || s->synced_end < j->end || s->suspect) && rlog_io->sync_data(s->fd) < 0) {
        s->suspect = true;
        return file_error(l, s, -errno, e);
    }
    s->suspect = false;
    s->synced_end = j->end;
    pthread_mutex_lock(&l->lock);
    l->durable = MAX(l->durable, j->last);
    pthread_mutex_unlock(&l->lock);
    return j->closed ? rlog_seal(l, s, e) : 0;
}

int rlog_sync(struct rlog *l, struct err *e)
{
    struct job jobs[RLOG_UNSEALED_MAX + 2];
    size_t n = 0;
    pthread_mutex_lock(&l->lock);
    uint64_t wanted = l->last.lsn;
    pthread_mutex_unlock(&l->lock);

    pthread_mutex_lock(&l->files);
    pthread_mutex_lock(&l->lock);
    for (size_t i = 0; i < l->n_segments && n < ARRAY_SIZE(jobs); i++) {
        struct rlog_segment *s = l->segments[i];
        if (s->fd >= 0)
            jobs[n++] = (struct job){.s = s, .end = s->end, .last = s->last, .closed = s != rlog_newest(l)};
    }
    const bool done =
        l->durable >= wanted && n <= 1; /* somebody else has done it meanwhile, and nothing is to be sealed */
    const bool dir_dirty = !done && l->dir_dirty;
    l->dir_dirty = l->dir_dirty && done;
    pthread_mutex_unlock(&l->lock);

    int rc = 0;
    if (dir_dirty && rlog_io->sync_all(l->dirfd) < 0) {
        rc = err_errno(e, errno, "%s", l->dir);
        pthread_mutex_lock(&l->lock);
        l->dir_dirty = true;
        pthread_mutex_unlock(&l->lock);
    }
    for (size_t i = 0; !done && rc == 0 && i < n; i++)
        rc = sync_segment(l, &jobs[i], e);
    pthread_mutex_unlock(&l->files);
    return rc;
}

uint64_t rlog_durable(struct rlog *l)
{
    pthread_mutex_lock(&l->lock);
    uint64_t lsn = l->durable;
    pthread_mutex_unlock(&l->lock);
    return lsn;
}
