#include "ctl/launcher/keeper.h"

#include "edgefs/layout.h"
#include "lib/util.h"
#include <errno.h>

#define HASH_NONFATAL_OOM 1
#define uthash_nonfatal_oom(element) ((void)(element))
#include <uthash.h>

struct kept {
    UT_hash_handle hh;
    int fds[LAUNCH_FENCE_FDS];
    int nfds;
    size_t len;
    char name[];
};

struct keeper {
    struct kept *table; /* by name, in order of arrival */
    unsigned max;
};

struct keeper *keeper_new(unsigned max)
{
    struct keeper *f = calloc(1, sizeof *f);
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

static void destroy(struct keeper *f, struct kept *at)
{
    HASH_DEL(f->table, at);
    close_fds(at->fds, at->nfds);
    free(at);
}

void keeper_close_all(struct keeper *f)
{
    struct kept *at, *next;
    HASH_ITER(hh, f->table, at, next)
        destroy(f, at);
}

void keeper_free(struct keeper *f)
{
    if (!f)
        return;
    keeper_close_all(f);
    free(f);
}

unsigned keeper_count(const struct keeper *f)
{
    return HASH_COUNT(f->table);
}

static struct kept *find(const struct keeper *f, const char *name, size_t len)
{
    struct kept *at;
    HASH_FIND(hh, f->table, name, len, at);
    return at;
}

/* A new entry, in the table; NULL: out of memory. */
static struct kept *add(struct keeper *f, const char *name, size_t len)
{
    struct kept *at = calloc(1, sizeof *at + len);
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

int keeper_put(struct keeper *f, const char *name, size_t len, const int *fds, int nfds)
{
    int rc = 0;
    struct kept *at = NULL;
    if (nfds < 1 || nfds > LAUNCH_FENCE_FDS || len < 1 || len > LAYOUT_NAME_MAX)
        rc = -EINVAL;
    else if ((at = find(f, name, len)))
        close_fds(at->fds, at->nfds);
    else if (keeper_count(f) >= f->max)
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

int keeper_drop(struct keeper *f, const char *name, size_t len)
{
    if (len < 1 || len > LAYOUT_NAME_MAX)
        return -EINVAL;
    struct kept *at = find(f, name, len);
    if (at)
        destroy(f, at);
    return 0;
}

const struct kept *keeper_first(const struct keeper *f)
{
    return f->table;
}

const struct kept *keeper_next(const struct kept *at)
{
    return at->hh.next;
}

const char *kept_name(const struct kept *at, size_t *len)
{
    *len = at->len;
    return at->name;
}

int kept_fds(const struct kept *at, int fds[LAUNCH_FENCE_FDS])
{
    memcpy(fds, at->fds, sizeof at->fds);
    return at->nfds;
}
