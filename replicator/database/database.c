#include "replicator/database/database.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/database/scan.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define DATABASES_MAX 1000000u
#define SYNC_EACH 64u /* files are synced one by one up to this number */

struct entry {
    struct database db;
    UT_hash_handle hh;
};

struct databases {
    int sums_dirfd;
    pthread_mutex_t lock; /* guards by_name */
    struct entry *by_name;
    pthread_mutex_t lists; /* guards the lists; innermost but for trylock of a database's */
    struct database *loaded, *oldest_loaded; /* mapped sidecars, last used first */
    unsigned n_loaded;
    struct database *pending;
    size_t n_pending;
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
    pthread_mutex_init(&d->lists, NULL);
    *out = d;
    return 0;
}

static void free_entry(struct entry *en)
{
    pthread_mutex_destroy(&en->db.lock);
    pthread_mutex_destroy(&en->db.sqlite);
    if (en->db.warning[0])
        free((char *)en->db.warning);
    free((char *)en->db.name);
    free(en->db.past);
    free(en);
}

void databases_close(struct databases *d)
{
    struct entry *en, *next;
    HASH_ITER(hh, d->by_name, en, next)
    {
        HASH_DEL(d->by_name, en);
        sums_close(en->db.sums);
        scan_forget_given(&en->db);
        free_entry(en);
    }
    pthread_mutex_destroy(&d->lists);
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
            en->db.name = strdup(name);
            en->db.warning = "";
            pthread_mutex_init(&en->db.lock, NULL);
            pthread_mutexattr_t recursive; /* closing takes it, also when an opening that holds it fails */
            pthread_mutexattr_init(&recursive);
            pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
            pthread_mutex_init(&en->db.sqlite, &recursive);
            pthread_mutexattr_destroy(&recursive);
            if (en->db.name)
                HASH_ADD_KEYPTR(hh, d->by_name, en->db.name, strlen(en->db.name), en);
            if (!en->hh.tbl) { /* no memory for the name, or the table */
                free_entry(en);
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

void database_lock_two(struct database *a, struct database *b)
{
    pthread_mutex_lock(a < b ? &a->lock : &b->lock);
    pthread_mutex_lock(a < b ? &b->lock : &a->lock);
}

/* ---- sidecars: mapped while they are used ---- */

/* d->lists is held. */
static void loaded_remove(struct databases *d, struct database *db)
{
    *(db->prev_loaded ? &db->prev_loaded->next_loaded : &d->loaded) = db->next_loaded;
    *(db->next_loaded ? &db->next_loaded->prev_loaded : &d->oldest_loaded) = db->prev_loaded;
    db->next_loaded = db->prev_loaded = NULL;
    d->n_loaded--;
}

static void loaded_first(struct databases *d, struct database *db)
{
    db->prev_loaded = NULL;
    db->next_loaded = d->loaded;
    *(d->loaded ? &d->loaded->prev_loaded : &d->oldest_loaded) = db;
    d->loaded = db;
    d->n_loaded++;
}

static void unload(struct database *db)
{
    db->idle = *sums_state(db->sums);
    sums_close(db->sums);
    db->sums = NULL;
}

/* Unmaps those that were not used for longest, unless somebody has them locked now. */
static void unload_oldest(struct databases *d, const struct database *keep)
{
    struct database *prev;
    for (struct database *db = d->oldest_loaded; db && d->n_loaded > DATABASES_LOADED; db = prev) {
        prev = db->prev_loaded;
        if (db == keep || pthread_mutex_trylock(&db->lock))
            continue;
        loaded_remove(d, db);
        unload(db);
        pthread_mutex_unlock(&db->lock);
    }
}

int database_load(struct databases *d, struct database *db, struct err *e)
{
    bool mapped = db->sums != NULL;
    int rc = mapped ? 0 : sums_open(d->sums_dirfd, db->name, &db->sums, e);
    if (rc)
        return rc;
    db->touched = true;
    pthread_mutex_lock(&d->lists);
    if (mapped && d->loaded != db)
        loaded_remove(d, db);
    if (d->loaded != db)
        loaded_first(d, db);
    unload_oldest(d, db);
    pthread_mutex_unlock(&d->lists);
    return 0;
}

void database_know(struct database *db, const struct dbstate *st)
{
    db->idle = *st;
}

const struct dbstate *database_dbstate(const struct database *db)
{
    return db->sums ? sums_state(db->sums) : &db->idle;
}

/* Lets go of the sidecar without a trace of its state. */
static void let_go(struct databases *d, struct database *db)
{
    if (db->sums) {
        pthread_mutex_lock(&d->lists);
        loaded_remove(d, db);
        pthread_mutex_unlock(&d->lists);
        sums_close(db->sums);
        db->sums = NULL;
    }
    db->idle = (struct dbstate){0};
}

size_t database_url_name(const struct database *db, char *url, size_t size)
{
    size_t k = 0;
    for (const char *p = db->name; *p && k + 4 < size; p++) {
        bool plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || strchr("-._~", *p);
        k += (size_t)snprintf(url + k, size - k, plain ? "%c" : "%%%02X", (unsigned char)*p);
    }
    return k;
}

void database_settle(struct databases *d, struct database *db, const struct filestamp *stamp)
{
    struct err e;
    struct dbstate st = *database_dbstate(db);
    st.wal_salt1 = st.wal_salt2 = st.wal_frame = 0;
    st.file = stamp ? *stamp : (struct filestamp){0};
    st.inode = st.file.ino ? st.file.ino : st.inode;
    if (database_load(d, db, &e)) { /* then the next start looks at it */
        log_warn("database", "%s", e.text);
        return;
    }
    sums_touch(db->sums, &st);
}

bool database_untouched(struct databases *d, struct database *db, int db_dirfd)
{
    const struct dbstate *st = database_dbstate(db);
    struct filestamp now = database_stamp(db_dirfd, db->name);
    if (!st->txid || st->wal_frame || !filestamp_same(&st->file, &now))
        return false;
    if (st->wal_salt1 || st->wal_salt2)
        database_settle(d, db, &now);
    return true;
}

struct filestamp filestamp_of(const struct stat *st)
{
    return (struct filestamp){
        .ino = st->st_ino,
        .size = st->st_size,
        .mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec,
        .ctime_ns = (int64_t)st->st_ctim.tv_sec * 1000000000 + st->st_ctim.tv_nsec,
    };
}

struct filestamp database_stamp(int db_dirfd, const char *name)
{
    struct stat st;
    if (fstatat(db_dirfd, name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode))
        return (struct filestamp){0};
    return filestamp_of(&st);
}

bool filestamp_same_contents(const struct filestamp *a, const struct filestamp *b)
{
    return a->ino && a->ino == b->ino && a->size == b->size && a->mtime_ns == b->mtime_ns;
}

bool filestamp_same(const struct filestamp *a, const struct filestamp *b)
{
    return filestamp_same_contents(a, b) && a->ctime_ns == b->ctime_ns;
}

/* ---- what a replica has yet to apply ---- */

void database_set_pending(struct databases *d, struct database *db, uint64_t lsn)
{
    pthread_mutex_lock(&d->lists);
    if (lsn && !db->pending) {
        db->prev_pending = NULL;
        db->next_pending = d->pending;
        if (d->pending)
            d->pending->prev_pending = db;
        d->pending = db;
        d->n_pending++;
    } else if (!lsn && db->pending) {
        *(db->prev_pending ? &db->prev_pending->next_pending : &d->pending) = db->next_pending;
        if (db->next_pending)
            db->next_pending->prev_pending = db->prev_pending;
        db->next_pending = db->prev_pending = NULL;
        d->n_pending--;
    }
    db->pending = lsn;
    pthread_mutex_unlock(&d->lists);
}

uint64_t databases_lowest_pending(struct databases *d)
{
    uint64_t low = UINT64_MAX;
    pthread_mutex_lock(&d->lists);
    for (const struct database *db = d->pending; db; db = db->next_pending)
        low = MIN(low, db->pending);
    pthread_mutex_unlock(&d->lists);
    return low;
}

struct database **databases_pending(struct databases *d, size_t *n)
{
    *n = 0;
    pthread_mutex_lock(&d->lists);
    struct database **list = d->n_pending ? malloc(d->n_pending * sizeof(struct database *)) : NULL;
    for (struct database *db = d->pending; list && db; db = db->next_pending)
        list[(*n)++] = db;
    pthread_mutex_unlock(&d->lists);
    return list;
}

/* ---- durability at an orderly end ---- */

struct syncing {
    struct databases *d;
    int db_dirfd;
    uint64_t deadline_ns;
    unsigned touched;
};

static int count_touched(void *ctx, struct database *db)
{
    struct syncing *s = ctx;
    s->touched += db->touched;
    return 0;
}

static int sync_one(void *ctx, struct database *db)
{
    struct syncing *s = ctx;
    if (!db->touched)
        return 0;
    if (now_ns() > s->deadline_ns)
        return -ETIMEDOUT;
    int rc = sums_sync(s->d->sums_dirfd, db->name);
    if (rc || !database_dbstate(db)->file.ino)
        return rc;
    _cleanup_fd_ int fd = openat(s->db_dirfd, db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? 0 : fsync(fd) ? -errno : 0;
}

int databases_sync(struct databases *d, int db_dirfd, uint64_t deadline_ns)
{
    struct syncing s = {.d = d, .db_dirfd = db_dirfd, .deadline_ns = deadline_ns};
    databases_each(d, count_touched, &s);
    if (s.touched > SYNC_EACH) /* one journal commit instead of thousands */
        return syncfs(d->sums_dirfd) || syncfs(db_dirfd) ? -errno : 0;
    int rc = databases_each(d, sync_one, &s);
    return rc ? rc : fsync(d->sums_dirfd) ? -errno : 0;
}

/* ---- the past ---- */

static void remember(struct database *db, const struct database_past *p)
{
    if (db->past_count == db->past_size && db->past_size < DATABASE_PAST) {
        uint32_t size = db->past_size ? db->past_size * 4 : 4;
        void *more = realloc(db->past, size * sizeof *db->past);
        if (more) {
            db->past = more;
            db->past_size = size;
        }
    }
    if (!db->past_size)
        return; /* no memory: then GET /v1/databases?lsn= says 410 */
    db->past[db->past_count++ % db->past_size] = *p;
}

void database_remember(struct database *db, uint64_t first_lsn)
{
    const struct dbstate *st = database_dbstate(db);
    remember(db, &(struct database_past){st->lsn, st->txid, st->checksum, st->commit, first_lsn});
}

int database_past_at(const struct database *db, uint64_t lsn, struct database_past *out)
{
    memset(out, 0, sizeof *out);
    const struct dbstate *st = database_dbstate(db);
    if (db->state != DATABASE_ABSENT && st->lsn <= lsn) { /* unchanged since: what it is now */
        *out = (struct database_past){.lsn = st->lsn, .txid = st->txid, .checksum = st->checksum, .commit = st->commit};
        return 0;
    }
    uint64_t kept = MIN(db->past_count, db->past_size), merged_from = UINT64_MAX;
    for (uint64_t i = 1; i <= kept; i++) {
        const struct database_past *p = &db->past[(db->past_count - i) % db->past_size];
        if (p->lsn <= lsn && lsn >= merged_from)
            return ERR_GONE;
        if (p->lsn <= lsn) {
            *out = *p;
            return 0;
        }
        merged_from = p->first;
    }
    return ERR_GONE;
}

void database_forget(struct databases *d, struct database *db, uint64_t lsn)
{
    let_go(d, db);
    sums_remove(d->sums_dirfd, db->name);
    remember(db, &(struct database_past){.lsn = lsn, .first = lsn});
    database_set_pending(d, db, 0);
    db->doubtful = false;
    db->unproven = 0;
    database_mark(db, DATABASE_ABSENT, NULL);
}

int database_rename(struct databases *d, struct database *db, struct database *to, uint64_t lsn, struct err *e)
{
    int rc = database_load(d, db, e);
    if (rc)
        return rc;
    let_go(d, to);
    rc = sums_rename(d->sums_dirfd, db->sums, to->name, e);
    if (rc)
        return rc;
    struct dbstate st = *sums_state(db->sums);
    st.lsn = lsn;
    sums_touch(db->sums, &st);
    enum database_state state = db->state;
    let_go(d, db);
    database_know(to, &st);
    to->touched = true;
    to->unproven = db->unproven;
    db->unproven = 0;
    database_remember(to, lsn);
    database_mark(to, state, NULL);
    remember(db, &(struct database_past){.lsn = lsn, .first = lsn});
    database_mark(db, DATABASE_ABSENT, NULL);
    return 0;
}

void database_mark(struct database *db, enum database_state s, const char *fmt, ...)
{
    char text[256] = "";
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
    if (!strcmp(text, db->warning))
        return;
    if (db->warning[0])
        free((char *)db->warning);
    char *copy = text[0] ? strdup(text) : NULL;
    db->warning = copy ? copy : ""; /* no memory: it is in the log */
}
