#include "ctl/launcher/fences.h"

#include "edgefs/layout.h"
#include "lib/util.h"
#include <errno.h>

#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(element) ((void)(element))
#include <uthash.h>

struct fence {
    UT_hash_handle hh;
    int fds[LAUNCH_FENCE_FDS];
    int nfds;
    size_t len;
    char name[];
};

struct fences {
    struct fence *table; /* by name, in order of arrival */
    unsigned max;
};

struct fences *fences_new(unsigned max)
{
    struct fences *f = calloc(1, sizeof *f);
    if (f)
        f->max = max;
    return f;
}

static void close_fds(const int *fds, int n)
{
    for (int i = 0; i < n; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

static void destroy(struct fences *f, struct fence *at)
{
    HASH_DEL(f->table, at);
    close_fds(at->fds, at->nfds);
    free(at);
}

void fences_close_all(struct fences *f)
{
    struct fence *at, *next;
    HASH_ITER(hh, f->table, at, next)
        destroy(f, at);
}

void fences_free(struct fences *f)
{
    if (!f)
        return;
    fences_close_all(f);
    free(f);
}

unsigned fences_count(const struct fences *f)
{
    return HASH_COUNT(f->table);
}

static struct fence *find(const struct fences *f, const char *name, size_t len)
{
    struct fence *at;
    HASH_FIND(hh, f->table, name, len, at);
    return at;
}

/* A new entry, in the table; NULL: out of memory. */
static struct fence *add(struct fences *f, const char *name, size_t len)
{
    struct fence *at = calloc(1, sizeof *at + len);
    if (!at)
        return NULL;
    memcpy(at->name, name, len);
    at->len = len;
    HASH_ADD_KEYPTR(hh, f->table, at->name, at->len, at);
    if (!at->hh.tbl) {
        free(at);
        return NULL;
    }
    return at;
}

int fences_put(struct fences *f, const char *name, size_t len, const int *fds, int nfds)
{
    int rc = 0;
    struct fence *at = NULL;
    if (nfds < 1 || nfds > LAUNCH_FENCE_FDS || len < 1 || len > LAYOUT_NAME_MAX)
        rc = -EINVAL;
    else if ((at = find(f, name, len)))
        close_fds(at->fds, at->nfds);
    else if (fences_count(f) >= f->max)
        rc = -ENOSPC;
    else if (!(at = add(f, name, len)))
        rc = -ENOMEM;
    if (rc) {
        close_fds(fds, nfds);
        return rc;
    }
    memcpy(at->fds, fds, (size_t)nfds * sizeof *fds);
    at->nfds = nfds;
    return 0;
}

int fences_drop(struct fences *f, const char *name, size_t len)
{
    if (len < 1 || len > LAYOUT_NAME_MAX)
        return -EINVAL;
    struct fence *at = find(f, name, len);
    if (at)
        destroy(f, at);
    return 0;
}

const struct fence *fences_first(const struct fences *f)
{
    return f->table;
}

const struct fence *fences_next(const struct fence *at)
{
    return at->hh.next;
}

const char *fence_name(const struct fence *at, size_t *len)
{
    *len = at->len;
    return at->name;
}

int fence_fds(const struct fence *at, int fds[LAUNCH_FENCE_FDS])
{
    memcpy(fds, at->fds, sizeof at->fds);
    return at->nfds;
}
