#include "replicator/database.h"

#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/types.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define DATABASES_MAX 1000000u

struct entry {
    struct database db;
    UT_hash_handle hh;
};

struct databases {
    int sums_dirfd;
    pthread_mutex_t lock; /* guards by_name */
    struct entry *by_name;
};

static const char *const state_names[] = {
    [DATABASE_UNKNOWN] = "unknown", [DATABASE_OK] = "ok",           [DATABASE_OTHER] = "other",   [DATABASE_IMAGE] = "image",
    [DATABASE_WAITING] = "waiting", [DATABASE_DAMAGED] = "damaged", [DATABASE_ABSENT] = "absent",
};

const char *database_state_name(enum database_state s)
{
    return state_names[s];
}

int databases_open(int sums_dirfd, struct databases **out, struct err *e)
{
    struct databases *d = calloc(1, sizeof *d);
    if (!d)
        return err_errno(e, ENOMEM, "databases");
    d->sums_dirfd = sums_dirfd;
    pthread_mutex_init(&d->lock, NULL);
    *out = d;
    return 0;
}

void databases_close(struct databases *d, bool clean)
{
    struct entry *en, *next;
    HASH_ITER(hh, d->by_name, en, next)
    {
        HASH_DEL(d->by_name, en);
        sums_close(en->db.sums, clean);
        free(en->db.past);
        pthread_mutex_destroy(&en->db.lock);
        pthread_mutex_destroy(&en->db.sqlite);
        free(en);
    }
    pthread_mutex_destroy(&d->lock);
    free(d);
}

/* RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. Names stand in JSON, which knows nothing else. */
static bool utf8_valid(const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    while (*p) {
        uint32_t c = *p++;
        int more = c < 0x80 ? 0 : c >= 0xc2 && c <= 0xdf ? 1 : (c & 0xf0) == 0xe0 ? 2 : c >= 0xf0 && c <= 0xf4 ? 3 : -1;
        if (more < 0)
            return false;
        c &= more == 0 ? 0x7fu : 0x3fu >> more;
        for (int i = 0; i < more; i++, p++) {
            if ((*p & 0xc0) != 0x80)
                return false;
            c = c << 6 | (*p & 0x3fu);
        }
        if ((more == 2 && c < 0x800) || (more == 3 && (c < 0x10000 || c > 0x10ffff)) || (c >= 0xd800 && c <= 0xdfff))
            return false;
    }
    return true;
}

static bool name_allowed(const char *name)
{
    size_t n = strlen(name);
    if (!utf8_valid(name) || n == 0 || n > LAYOUT_NAME_MAX || name[0] == '/' || name[n - 1] == '/')
        return false;
    for (const char *p = name; *p;) {
        const char *end = strchrnul(p, '/');
        size_t len = (size_t)(end - p);
        if (len == 0 || (len == 1 && p[0] == '.') || (len == 2 && p[0] == '.' && p[1] == '.'))
            return false;
        p = *end ? end + 1 : end;
    }
    return true;
}

static bool ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), k = strlen(suffix);
    return n >= k && !memcmp(s + n - k, suffix, k);
}

bool database_name_possible(const char *path)
{
    if (!name_allowed(path) || ends_with(path, LAYOUT_WAL) || ends_with(path, LAYOUT_SHM) || ends_with(path, LAYOUT_JOURNAL) ||
        ends_with(path, LAYOUT_POS))
        return false;
    const char *slash = strrchr(path, '/');
    const char *base = slash ? slash + 1 : path;
    return strncmp(base, LAYOUT_PRIVATE_PREFIX, sizeof LAYOUT_PRIVATE_PREFIX - 1) != 0 && strcmp(path, LAYOUT_PRIMARY) != 0 &&
           strcmp(path, LAYOUT_LAG) != 0;
}

struct database *databases_find(struct databases *d, const char *name)
{
    struct entry *en;
    pthread_mutex_lock(&d->lock);
    HASH_FIND_STR(d->by_name, name, en);
    pthread_mutex_unlock(&d->lock);
    return en ? &en->db : NULL;
}

struct database *databases_get(struct databases *d, const char *name, struct err *e)
{
    struct entry *en = NULL;
    if (!name_allowed(name)) {
        err_set(e, -EINVAL, "\"%.200s\" cannot be the name of a database (1 to %d bytes of UTF-8, no empty, \".\" or \"..\" component)", name,
                LAYOUT_NAME_MAX);
        return NULL;
    }
    pthread_mutex_lock(&d->lock);
    HASH_FIND_STR(d->by_name, name, en);
    if (!en) {
        if (HASH_COUNT(d->by_name) < DATABASES_MAX)
            en = calloc(1, sizeof *en);
        if (en) {
            memcpy(en->db.name, name, strlen(name) + 1);
            pthread_mutex_init(&en->db.lock, NULL);
            pthread_mutexattr_t recursive; /* closing takes it, also when an opening that holds it fails */
            pthread_mutexattr_init(&recursive);
            pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
            pthread_mutex_init(&en->db.sqlite, &recursive);
            pthread_mutexattr_destroy(&recursive);
            HASH_ADD_STR(d->by_name, db.name, en);
            if (!en->hh.tbl) { /* no memory for the table */
                pthread_mutex_destroy(&en->db.lock);
                free(en);
                en = NULL;
            }
        }
    }
    pthread_mutex_unlock(&d->lock);
    if (!en)
        err_set(e, -ENOMEM, "%s: no memory for another database, or more than %u", name, DATABASES_MAX);
    return en ? &en->db : NULL;
}

static int by_name(const void *a, const void *b)
{
    const struct database *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

int databases_each(struct databases *d, int (*fn)(void *ctx, struct database *db), void *ctx)
{
    /* Objects are never freed while the registry is open, so a list of pointers taken under the lock stays good. */
    pthread_mutex_lock(&d->lock);
    size_t n = HASH_COUNT(d->by_name), i = 0;
    struct database **list = calloc(n ? n : 1, sizeof(struct database *));
    if (!list) {
        pthread_mutex_unlock(&d->lock);
        return -ENOMEM;
    }
    struct entry *en, *next;
    HASH_ITER(hh, d->by_name, en, next)
        list[i++] = &en->db;
    pthread_mutex_unlock(&d->lock);
    qsort(list, n, sizeof(struct database *), by_name);
    int rc = 0;
    for (i = 0; i < n && !rc; i++)
        rc = fn(ctx, list[i]);
    free(list);
    return rc;
}

int database_load(struct databases *d, struct database *db, struct err *e)
{
    return db->sums ? 0 : sums_open(d->sums_dirfd, db->name, &db->sums, e);
}

const struct dbstate *database_dbstate(const struct database *db)
{
    static const struct dbstate nothing;
    return db->sums ? sums_state(db->sums) : &nothing;
}

static void remember(struct database *db, const struct database_past *p)
{
    if (!db->past)
        db->past = malloc(DATABASE_PAST * sizeof *db->past);
    if (!db->past)
        return; /* then GET /v1/databases?lsn= says 410 */
    db->past[db->past_count++ % DATABASE_PAST] = *p;
}

void database_remember(struct database *db)
{
    const struct dbstate *st = database_dbstate(db);
    remember(db, &(struct database_past){st->lsn, st->txid, st->checksum, st->commit});
}

int database_past_at(const struct database *db, uint64_t lsn, struct database_past *out)
{
    memset(out, 0, sizeof *out);
    const struct dbstate *st = database_dbstate(db);
    if (db->state != DATABASE_ABSENT && st->lsn <= lsn) { /* unchanged since: what it is now */
        *out = (struct database_past){st->lsn, st->txid, st->checksum, st->commit};
        return 0;
    }
    uint64_t kept = MIN(db->past_count, DATABASE_PAST);
    for (uint64_t i = 1; i <= kept; i++) {
        const struct database_past *p = &db->past[(db->past_count - i) % DATABASE_PAST];
        if (p->lsn <= lsn) {
            *out = *p;
            return 0;
        }
    }
    return ERR_GONE;
}

void database_forget(struct databases *d, struct database *db, uint64_t lsn)
{
    sums_close(db->sums, false);
    db->sums = NULL;
    sums_remove(d->sums_dirfd, db->name);
    remember(db, &(struct database_past){.lsn = lsn});
    db->pending = 0;
    database_mark(db, DATABASE_ABSENT, NULL);
}

void database_mark(struct database *db, enum database_state s, const char *fmt, ...)
{
    char text[sizeof db->warning] = "";
    if (fmt) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
    }
    if (text[0] && strcmp(text, db->warning) != 0)
        log_warn("database", "%s: %s", db->name, text);
    else if (!text[0] && db->warning[0])
        log_info("database", "%s: %s again (was: %s)", db->name, state_names[s], db->warning);
    db->state = s;
    memcpy(db->warning, text, sizeof text);
}
