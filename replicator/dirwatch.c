#include "replicator/dirwatch.h"

#include "lib/util.h"
#include <errno.h>
#include <stdio.h>
#include <sys/inotify.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

struct watch {
    int wd;
    UT_hash_handle hh;
    char path[]; /* "" or "dir/" */
};

struct dirwatch {
    struct node *node;
    int fd;
    pthread_mutex_t lock; /* guards watches; never held across a call into the mount */
    struct watch *watches;
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

void dirwatch_close(struct dirwatch *d)
{
    struct watch *w, *next;
    if (!d)
        return;
    HASH_ITER(hh, d->watches, w, next)
    {
        HASH_DEL(d->watches, w);
        free(w);
    }
    close(d->fd);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

int dirwatch_fd(const struct dirwatch *d)
{
    return d->fd;
}

int dirwatch_add(struct dirwatch *d, const char *path, struct err *e)
{
    _cleanup_free_ char *full = node_mount_path(d->node, path);
    size_t n = strlen(path);
    struct watch *w = calloc(1, sizeof *w + n + 2), *old;
    if (!full || !w) {
        free(w);
        return err_errno(e, ENOMEM, "watch %s", path);
    }
    int wd = inotify_add_watch(d->fd, full, IN_MODIFY | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR);
    if (wd < 0) {
        int rc = err_errno(e, errno, "watch directory %s (see fs.inotify.max_user_watches)", full);
        free(w);
        return rc;
    }
    w->wd = wd;
    memcpy(w->path, path, n);
    if (n)
        w->path[n] = '/';
    pthread_mutex_lock(&d->lock);
    HASH_FIND_INT(d->watches, &wd, old);
    if (old) { /* watched before, perhaps under another name */
        HASH_DEL(d->watches, old);
        free(old);
    }
    HASH_ADD_INT(d->watches, wd, w);
    pthread_mutex_unlock(&d->lock);
    return 0;
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
    HASH_FIND_INT(d->watches, &ev->wd, w);
    bool known = w != NULL;
    if (known && (size_t)snprintf(path, sizeof path, "%s%s", w->path, ev->len ? ev->name : "") >= sizeof path)
        known = false;
    if (w && (ev->mask & IN_IGNORED)) { /* the directory is gone */
        HASH_DEL(d->watches, w);
        free(w);
    }
    pthread_mutex_unlock(&d->lock);
    if (ev->mask & IN_IGNORED)
        return;
    fn(ctx, known ? path : NULL, ev->mask);
}

void dirwatch_read(struct dirwatch *d, void (*fn)(void *ctx, const char *path, uint32_t mask), void *ctx)
{
    _Alignas(struct inotify_event) char buf[32768];
    for (;;) {
        ssize_t n = read(d->fd, buf, sizeof buf);
        if (n <= 0)
            return; /* EAGAIN: that was all */
        for (char *p = buf; p < buf + n;) {
            const struct inotify_event *ev = (const void *)p;
            report(d, ev, fn, ctx);
            p += sizeof *ev + ev->len;
        }
        if (n < (ssize_t)(sizeof buf / 2))
            return; /* drained; a further read would only cost its EAGAIN */
    }
}
