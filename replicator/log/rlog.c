/* The log as a whole: opening, positions, reset, retention. See rlog_private.h for the files and the locks.
 */
#include "replicator/log/rlog_private.h"

#include "lib/log.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

/* Creates dir if it is not there, durably, and opens it. */
static int open_dir(const char *dir, struct err *e)
{
    _cleanup_free_ char *parent = NULL;
    if (mkdir(dir, 0700) == 0) {
        const char *slash = strrchr(dir, '/');
        parent = !slash ? strdup(".") : slash == dir ? strdup("/") : strndup(dir, (size_t)(slash - dir));
        if (!parent)
            return err_errno(e, ENOMEM, "%s", dir);
        _cleanup_fd_ int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fsync(fd) < 0)
            return err_errno(e, errno, "%s", parent);
    } else if (errno != EEXIST) {
        return err_errno(e, errno, "creating %s", dir);
    }
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? err_errno(e, errno, "%s", dir) : fd;
}

static void free_log(struct rlog *l)
{
    for (size_t i = 0; i < l->n_segments; i++)
        rlog_segment_free(l->segments[i]);
    free(l->segments);
    cleanup_fd(&l->dirfd);
    free(l->buf);
    free(l->dir);
    pthread_mutex_destroy(&l->files);
    pthread_mutex_destroy(&l->trim);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

int rlog_open(const char *dir, const struct rlog_options *o, struct rlog **out, struct err *e)
{
    if (o->segment_size == 0 || o->segment_size > INT64_MAX / 2)
        return err_set(e, -EINVAL, "%s: a segment size of %" PRIu64 " bytes", dir, o->segment_size);
    struct rlog *l = calloc(1, sizeof *l);
    if (!l)
        return err_errno(e, ENOMEM, "%s", dir);
    l->o = *o;
    l->dirfd = -1;
    l->generation = 1; /* a zeroed cursor belongs to none */
    pthread_mutex_init(&l->files, NULL);
    pthread_mutex_init(&l->trim, NULL);
    pthread_mutex_init(&l->lock, NULL);
    l->dir = strdup(dir);
    l->buf = malloc(RECORD_HEAD_MAX + RLOG_BUFFER);
    int rc = l->dir && l->buf ? open_dir(dir, e) : err_errno(e, ENOMEM, "%s", dir);
    if (rc >= 0) {
        l->dirfd = rc;
        rc = rlog_recover(l, e);
    }
    if (rc < 0) {
        free_log(l);
        return rc;
    }
    *out = l;
    return 0;
}

void rlog_close(struct rlog *l)
{
    struct err e;
    if (!l)
        return;
    rlog_abort(l);
    const struct rlog_segment *s = rlog_newest(l);
    if (s && rlog_io->truncate_to(s->fd, s->end) < 0) /* the next opening cuts it, too */
        log_warn("log", "%s/%016" PRIx64 ".log: %s", l->dir, s->first, err_name(errno));
    if (rlog_sync(l, &e) < 0)
        log_warn("log", "%s; what is not durable is checked when the log is opened again", e.text);
    free_log(l);
}

struct position rlog_last(struct rlog *l)
{
    pthread_mutex_lock(&l->lock);
    struct position p = l->last;
    pthread_mutex_unlock(&l->lock);
    return p;
}

uint64_t rlog_first(struct rlog *l)
{
    pthread_mutex_lock(&l->lock);
    uint64_t first = l->n_segments ? l->segments[0]->first : l->last.lsn + 1;
    pthread_mutex_unlock(&l->lock);
    return first;
}

uint64_t rlog_bytes(struct rlog *l)
{
    pthread_mutex_lock(&l->lock);
    uint64_t bytes = l->bytes;
    pthread_mutex_unlock(&l->lock);
    return bytes;
}

/* The file `base` is what makes it one step: once it says "resetting", the segments count for nothing, and
 * whoever opens the log next finishes what a crash interrupts. */
int rlog_reset(struct rlog *l, struct position pos, struct err *e)
{
    rlog_abort(l);
    pthread_mutex_lock(&l->files);
    pthread_mutex_lock(&l->trim);
    /* On a full disk what is preallocated is the room for `base`. Should it fail, the next append preallocates again. */
    const struct rlog_segment *newest = rlog_newest(l);
    l->tail_dirty = l->tail_dirty || newest;
    if (newest && rlog_io->truncate_to(newest->fd, newest->end) < 0)
        log_debug("log", "%s/%016" PRIx64 ".log: %s", l->dir, newest->first, err_name(errno));
    int rc = rlog_base_write(l, pos, true, e);
    if (rc == 0) {
        pthread_mutex_lock(&l->lock);
        struct rlog_segment **old = l->segments;
        size_t n = l->n_segments;
        l->segments = NULL;
        l->n_segments = l->room = 0;
        l->generation++;
        l->last = pos;
        l->durable = pos.lsn;
        l->bytes = 0;
        l->dir_dirty = false;
        pthread_mutex_unlock(&l->lock);
        l->in_group = false;

        l->resetting = true;
        l->tail_dirty = false;
        for (size_t i = 0; i < n; i++)
            rlog_segment_free(old[i]);
        free(old);
        rc = rlog_reset_finish(l, e);
    }
    pthread_mutex_unlock(&l->trim);
    pthread_mutex_unlock(&l->files);
    return rc;
}

/* Whether the oldest segment can go at all; `lock` held. It must be sealed, and must not hold the last record, from
 * which the log knows its position. */
static bool can_trim(const struct rlog *l, uint64_t keep_from)
{
    const struct rlog_segment *s = l->n_segments < 2 ? NULL : l->segments[0];
    return s && s->fd < 0 && s->last < keep_from && s->last < l->last.lsn;
}

/* Whether the retention lets it go, too. */
static bool expired(const struct rlog *l)
{
    const struct rlog_segment *next = l->segments[1];
    uint64_t now_us = wall_us();
    if (l->o.retention_bytes && l->bytes > l->o.retention_bytes)
        return true;
    /* the newest record in the oldest one is older than the first of the next */
    return l->o.retention_age_ms && next->first_us && next->first_us < now_us &&
           (now_us - next->first_us) / 1000 > l->o.retention_age_ms;
}

/* Deletes the oldest segment if it may go. 1; 0: it may not; -errno. `trim` held. */
static int trim_oldest(struct rlog *l, uint64_t keep_from, bool whatever_age, struct err *e)
{
    char name[RLOG_SEGMENT_NAME_SIZE];
    pthread_mutex_lock(&l->lock);
    struct rlog_segment *s = can_trim(l, keep_from) && (whatever_age || expired(l)) ? l->segments[0] : NULL;
    pthread_mutex_unlock(&l->lock);
    if (!s)
        return 0;
    rlog_segment_name(s->first, name);
    if (rlog_io->unlink_at(l->dirfd, name, 0) < 0 && errno != ENOENT)
        return err_errno(e, errno, "deleting %s/%s", l->dir, name);
    pthread_mutex_lock(&l->lock);
    l->bytes -= (uint64_t)s->end;
    memmove(l->segments, l->segments + 1, --l->n_segments * sizeof l->segments[0]);
    pthread_mutex_unlock(&l->lock);
    rlog_segment_free(s);
    return 1;
}

int rlog_trim(struct rlog *l, uint64_t keep_from, struct err *e)
{
    int rc;
    pthread_mutex_lock(&l->trim);
    while ((rc = trim_oldest(l, keep_from, false, e)) > 0)
        continue;
    pthread_mutex_unlock(&l->trim);
    return rc;
}

int rlog_make_room(struct rlog *l, uint64_t keep_from, struct err *e)
{
    pthread_mutex_lock(&l->trim);
    int rc = trim_oldest(l, keep_from, true, e);
    pthread_mutex_unlock(&l->trim);
    return rc;
}
