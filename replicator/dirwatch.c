#include "replicator/dirwatch.h"

#include "lib/util.h"
#include <errno.h>
#include <stdio.h>
#include <sys/inotify.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define UNUSED_MAX 64u /* watches that are kept though nobody holds their directory */
#define EVENTS_BYTES 32768u

struct watch {
    int wd; /* -1: not added (yet) */
    bool adding; /* somebody has been told to add it */
    unsigned holds;
    char *path; /* of the directory; "" for the root */
    UT_hash_handle by_path;
    UT_hash_handle by_wd; /* while wd is not -1 */
};

struct dirwatch {
    struct node *node;
    int fd;
    pthread_mutex_t lock; /* guards what follows; never held across a call into the mount */
    struct watch *paths, *wds;
    unsigned n_unused;
    bool fresh;
    /* capture's thread only */
    size_t filled;
    bool more;
    _Alignas(struct inotify_event) char events[EVENTS_BYTES];
};

int dirwatch_open(struct node *n, struct dirwatch **out, struct err *e)
{
    struct dirwatch *d = calloc(1, sizeof *d);
    if (!d)
        return err_errno(e, ENOMEM, "directory watches");
    d->node = n;
    d->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (d->fd < 0) {
        int rc = err_errno(e, errno, "inotify_init (see fs.inotify.max_user_instances)");
        free(d);
        return rc;
    }
    pthread_mutex_init(&d->lock, NULL);
    *out = d;
    return 0;
}

/* The lock is held from here on to the next line of dashes. */

static void forget(struct dirwatch *d, struct watch *w)
{
    if (w->wd >= 0)
        HASH_DELETE(by_wd, d->wds, w);
    HASH_DELETE(by_path, d->paths, w);
    free(w->path);
    free(w);
}

static struct watch *find(struct dirwatch *d, const char *dir)
{
    struct watch *w;
    HASH_FIND(by_path, d->paths, dir, strlen(dir), w);
    return w;
}

static struct watch *make(struct dirwatch *d, const char *dir)
{
    struct watch *w = calloc(1, sizeof *w);
    if (!w || !(w->path = strdup(dir))) {
        free(w);
        return NULL;
    }
    w->wd = -1;
    HASH_ADD_KEYPTR(by_path, d->paths, w->path, strlen(w->path), w);
    if (!w->by_path.tbl) {
        free(w->path);
        free(w);
        return NULL;
    }
    return w;
}

static void trim(struct dirwatch *d)
{
    struct watch *w, *next;
    unsigned unused = 0;
    HASH_ITER(by_path, d->paths, w, next)
    {
        if (w->holds)
            continue;
        if (w->wd >= 0 && unused < UNUSED_MAX / 2) {
            unused++;
            continue;
        }
        if (w->wd >= 0)
            (void)inotify_rm_watch(d->fd, w->wd); /* gone already with its directory: fine */
        forget(d, w);
    }
    d->n_unused = unused;
}

/* ---- */

void dirwatch_close(struct dirwatch *d)
{
    struct watch *w, *next;
    if (!d)
        return;
    HASH_ITER(by_path, d->paths, w, next)
        forget(d, w);
    close(d->fd);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

int dirwatch_fd(const struct dirwatch *d)
{
    return d->fd;
}

static void parent_of(const char *path, char *dir)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? MIN((size_t)(slash - path), (size_t)LAYOUT_NAME_MAX) : 0;
    memcpy(dir, path, n);
    dir[n] = 0;
}

bool dirwatch_hold(struct dirwatch *d, const char *path, char *dir)
{
    parent_of(path, dir);
    pthread_mutex_lock(&d->lock);
    struct watch *w = find(d, dir);
    if (!w)
        w = make(d, dir);
    bool add = w && w->wd < 0 && !w->adding;
    if (add)
        w->adding = true;
    if (w && w->holds++ == 0 && w->wd >= 0)
        d->n_unused--;
    pthread_mutex_unlock(&d->lock);
    return add;
}

void dirwatch_release(struct dirwatch *d, const char *path)
{
    char dir[LAYOUT_NAME_MAX + 1];
    parent_of(path, dir);
    pthread_mutex_lock(&d->lock);
    struct watch *w = find(d, dir);
    if (w && w->holds && --w->holds == 0 && (w->wd < 0 || ++d->n_unused > UNUSED_MAX))
        trim(d);
    pthread_mutex_unlock(&d->lock);
}

void dirwatch_renamed(struct dirwatch *d, const char *from, const char *to)
{
    struct watch *w, *next, *other;
    size_t n = strlen(from);
    pthread_mutex_lock(&d->lock);
    HASH_ITER(by_path, d->paths, w, next)
    {
        char *path;
        if (strncmp(w->path, from, n) != 0 || (w->path[n] && w->path[n] != '/') || asprintf(&path, "%s%s", to, w->path + n) < 0)
            continue;
        other = find(d, path);
        HASH_DELETE(by_path, d->paths, w);
        if (other) /* an empty directory that was renamed over */
            forget(d, other);
        free(w->path);
        w->path = path;
        HASH_ADD_KEYPTR(by_path, d->paths, w->path, strlen(w->path), w);
    }
    pthread_mutex_unlock(&d->lock);
}

int dirwatch_add(struct dirwatch *d, const char *dir, struct err *e)
{
    struct watch *w, *old;
    _cleanup_free_ char *full = node_mount_path(d->node, dir);
    if (!full)
        return err_errno(e, ENOMEM, "watch %s", dir);
    int wd = inotify_add_watch(d->fd, full, IN_MODIFY | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR);
    int rc = wd < 0 ? err_errno(e, errno, "watch directory %s (see fs.inotify.max_user_watches)", full) : 0;
    pthread_mutex_lock(&d->lock);
    w = find(d, dir);
    if (w)
        w->adding = false; /* should it have failed: the next open tries again */
    HASH_FIND(by_wd, d->wds, &wd, sizeof wd, old);
    if (!rc && old && old != w) { /* the same directory under a name that it had before */
        HASH_DELETE(by_wd, d->wds, old);
        old->wd = -1;
    }
    if (!rc && !w) {
        if (!old)
            (void)inotify_rm_watch(d->fd, wd); /* nobody wants it any more */
    } else if (!rc && w->wd != wd) {
        if (w->wd >= 0)
            HASH_DELETE(by_wd, d->wds, w);
        w->wd = wd;
        HASH_ADD(by_wd, d->wds, wd, sizeof w->wd, w);
        d->n_unused += w->holds == 0;
    }
    d->fresh = true;
    pthread_mutex_unlock(&d->lock);
    return rc;
}

bool dirwatch_fresh(struct dirwatch *d)
{
    pthread_mutex_lock(&d->lock);
    bool fresh = d->fresh;
    d->fresh = false;
    pthread_mutex_unlock(&d->lock);
    return fresh;
}

bool dirwatch_active(struct dirwatch *d, const char *path)
{
    char dir[LAYOUT_NAME_MAX + 1];
    parent_of(path, dir);
    pthread_mutex_lock(&d->lock);
    const struct watch *w = find(d, dir);
    bool active = w && w->wd >= 0;
    pthread_mutex_unlock(&d->lock);
    return active;
}

unsigned dirwatch_count(struct dirwatch *d)
{
    pthread_mutex_lock(&d->lock);
    unsigned n = HASH_CNT(by_wd, d->wds);
    pthread_mutex_unlock(&d->lock);
    return n;
}

static void report(struct dirwatch *d, const struct inotify_event *ev, void (*fn)(void *, const char *, uint32_t), void *ctx)
{
    char path[LAYOUT_NAME_MAX + 300] = "";
    struct watch *w;
    if (ev->mask & IN_Q_OVERFLOW) {
        fn(ctx, NULL, ev->mask);
        return;
    }
    pthread_mutex_lock(&d->lock);
    HASH_FIND(by_wd, d->wds, &ev->wd, sizeof ev->wd, w);
    if (w)
        snprintf(path, sizeof path, "%s%s%s", w->path, *w->path ? "/" : "", ev->len ? ev->name : ""); /* one too long is nobody's name */
    if (w && (ev->mask & IN_IGNORED)) { /* the directory is gone */
        if (w->holds) {
            HASH_DELETE(by_wd, d->wds, w);
            w->wd = -1;
        } else {
            d->n_unused--;
            forget(d, w);
        }
    }
    pthread_mutex_unlock(&d->lock);
    if (w && !(ev->mask & IN_IGNORED)) /* an event of a watch that was given up meanwhile: nobody has anything open there */
        fn(ctx, path, ev->mask);
}

bool dirwatch_fill(struct dirwatch *d)
{
    ssize_t n = read(d->fd, d->events, sizeof d->events);
    d->filled = n > 0 ? (size_t)n : 0; /* EAGAIN: that was all */
    d->more = d->filled >= sizeof d->events / 2;
    return d->filled != 0;
}

bool dirwatch_more(const struct dirwatch *d)
{
    return d->more;
}

void dirwatch_report(struct dirwatch *d, void (*fn)(void *ctx, const char *path, uint32_t mask), void *ctx)
{
    for (size_t at = 0; at < d->filled;) {
        const struct inotify_event *ev = (const void *)(d->events + at);
        report(d, ev, fn, ctx);
        at += sizeof *ev + ev->len;
    }
    d->filled = 0;
}
