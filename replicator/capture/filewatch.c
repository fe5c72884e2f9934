#include "replicator/capture/filewatch.h"

#include "lib/util.h"
#include <errno.h>
#include <stdio.h>
#include <sys/inotify.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define EVENTS_BYTES 32768u
#define MUTED_MASK IN_DELETE_SELF /* inotify wants some event to be asked for; this one is not reported */

struct watch {
    int wd;
    enum filewatch_file file;
    struct filewatch_target *target;
    UT_hash_handle hh;
};

struct filewatch {
    const struct node *node;
    int fd;
    struct watch *watches;
    size_t filled;
    bool more;
    _Alignas(struct inotify_event) char events[EVENTS_BYTES];
};

int filewatch_open(const struct node *n, struct filewatch **out, struct err *e)
{
    struct filewatch *w = calloc(1, sizeof *w);
    if (!w)
        return err_errno(e, ENOMEM, "file watches");
    w->node = n;
    w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (w->fd < 0) {
        int rc = err_errno(e, errno, "inotify_init (see fs.inotify.max_user_instances)");
        free(w);
        return rc;
    }
    *out = w;
    return 0;
}

void filewatch_close(struct filewatch *w)
{
    struct watch *one, *next;
    if (!w)
        return;
    HASH_ITER(hh, w->watches, one, next)
    {
        HASH_DEL(w->watches, one);
        free(one);
    }
    close(w->fd);
    free(w);
}

int filewatch_fd(const struct filewatch *w)
{
    return w->fd;
}

static struct watch *find(struct filewatch *w, int wd)
{
    struct watch *one;
    HASH_FIND_INT(w->watches, &wd, one);
    return one;
}

static void forget(struct filewatch *w, struct watch *one)
{
    one->target->wd[one->file] = 0;
    HASH_DEL(w->watches, one);
    free(one);
}

static void drop(struct filewatch *w, struct filewatch_target *t, enum filewatch_file file)
{
    struct watch *one = t->wd[file] ? find(w, t->wd[file]) : NULL;
    if (!one)
        return;
    (void)inotify_rm_watch(w->fd, one->wd); /* gone already with its file: fine */
    forget(w, one);
}

/* wd is the watch of that file of t. */
static int enter(struct filewatch *w, struct filewatch_target *t, enum filewatch_file file, int wd, struct err *e)
{
    if (t->wd[file] == wd)
        return 0;
    drop(w, t, file); /* another file had the name */
    struct watch *one = find(w, wd);
    if (one) { /* this file had another name */
        one->target->wd[one->file] = 0;
    } else {
        one = calloc(1, sizeof *one);
        if (one) {
            one->wd = wd;
            HASH_ADD_INT(w->watches, wd, one);
        }
        if (!one || !one->hh.tbl) {
            (void)inotify_rm_watch(w->fd, wd);
            free(one);
            return err_errno(e, ENOMEM, "file watches");
        }
    }
    one->target = t;
    one->file = file;
    t->wd[file] = wd;
    return 0;
}

int filewatch_set(struct filewatch *w, const char *name, struct filewatch_target *t, bool muted, struct err *e)
{
    static const char *const suffixes[FILEWATCH_FILES] = {[FILEWATCH_MAIN] = "", [FILEWATCH_WAL] = LAYOUT_WAL, [FILEWATCH_SHM] = LAYOUT_SHM};
    int rc = 0;
    t->muted = muted;
    for (enum filewatch_file file = 0; file < FILEWATCH_FILES; file++) {
        char relative[LAYOUT_NAME_MAX + 16];
        snprintf(relative, sizeof relative, "%s%s", name, suffixes[file]);
        _cleanup_free_ char *path = node_backing_path(w->node, relative);
        if (!path)
            return err_errno(e, ENOMEM, "file watches");
        uint32_t mask = muted && file != FILEWATCH_SHM ? MUTED_MASK : IN_MODIFY;
        int wd = inotify_add_watch(w->fd, path, mask | IN_DONT_FOLLOW);
        if (wd >= 0) {
            rc = enter(w, t, file, wd, e) ? e->code : rc;
            continue;
        }
        if (errno != ENOENT && errno != ENOTDIR)
            rc = err_errno(e, errno, "watch %s (see fs.inotify.max_user_watches)", path);
        drop(w, t, file);
    }
    return rc;
}

void filewatch_clear(struct filewatch *w, struct filewatch_target *t)
{
    for (enum filewatch_file file = 0; file < FILEWATCH_FILES; file++)
        drop(w, t, file);
    t->muted = false;
}

bool filewatch_fill(struct filewatch *w)
{
    ssize_t n = read(w->fd, w->events, sizeof w->events);
    w->filled = n > 0 ? (size_t)n : 0; /* EAGAIN: that was all */
    w->more = w->filled >= sizeof w->events / 2;
    return w->filled != 0;
}

bool filewatch_more(const struct filewatch *w)
{
    return w->more;
}

void filewatch_report(struct filewatch *w, void (*fn)(void *ctx, struct filewatch_target *t, enum filewatch_file file), void *ctx)
{
    for (size_t at = 0; at < w->filled;) {
        const struct inotify_event *ev = (const void *)(w->events + at);
        at += sizeof *ev + ev->len;
        if (ev->mask & IN_Q_OVERFLOW) {
            fn(ctx, NULL, FILEWATCH_MAIN);
            continue;
        }
        struct watch *one = find(w, ev->wd); /* NULL: of a watch that was given up meanwhile */
        if (one && (ev->mask & IN_IGNORED))
            forget(w, one); /* the file is gone; who put another one in its place tells */
        else if (one && (ev->mask & IN_MODIFY))
            fn(ctx, one->target, one->file);
    }
    w->filled = 0;
}
