/* What appears, goes, moves, is opened and is closed: names, and what is known of the files that bear them. */
#include "replicator/capture/capture_private.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/apply/apply.h"
#include "replicator/worker.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define DEPTH_MAX 32 /* of directories */

void capture_main_changed(struct capture *c, struct capture_file *cf, bool suspect)
{
    pthread_mutex_lock(&cf->db->lock);
    enum capture_mode mode = cf->mode;
    bool wal = database_dbstate(cf->db)->wal_mode, filling = cf->anew && cf->emptied_ns;
    pthread_mutex_unlock(&cf->db->lock);
    if (mode == CAPTURE_MAPPED || (mode == CAPTURE_MAPPING && wal))
        return; /* a checkpoint: copies what was captured */
    if (suspect) {
        pthread_mutex_lock(&cf->db->lock);
        cf->suspect = true;
        pthread_mutex_unlock(&cf->db->lock);
    }
    uint64_t now = now_ns();
    if (!cf->diff_ns)
        cf->diff_first_ns = now;
    cf->diff_ns = MIN(now + CAPTURE_QUIET_NS, cf->diff_first_ns + (filling ? CAPTURE_FILLING_NS : CAPTURE_QUIET_MAX_NS));
    capture_touch(c, cf);
}

void capture_replaced(struct capture *c, struct capture_file *cf, bool emptied)
{
    pthread_mutex_lock(&cf->db->lock);
    bool known = database_dbstate(cf->db)->txid != 0;
    if (known) {
        (void)capture_leave(c, cf);
        cf->anew = cf->suspect = true;
        cf->emptied_ns = emptied ? now_ns() : 0;
    } else
        cf->life++; /* nothing to keep; but a scan that is under way is void, and its patience with the other file not used up by this one */
    pthread_mutex_unlock(&cf->db->lock);
    log_debug("capture", "%s: another file has the name", cf->db->name);
    capture_main_changed(c, cf, known);
    capture_dirty(c, cf, true);
}

void capture_journal_changed(struct capture *c, struct capture_file *cf)
{
    pthread_mutex_lock(&cf->db->lock);
    bool foreign = !cf->db->apps_open && database_dbstate(cf->db)->txid;
    pthread_mutex_unlock(&cf->db->lock);
    if (foreign)
        capture_main_changed(c, cf, true);
}

bool capture_file_differs(struct capture *c, struct database *db)
{
    pthread_mutex_lock(&db->lock);
    struct filestamp known = database_dbstate(db)->file;
    pthread_mutex_unlock(&db->lock);
    if (!known.ino)
        return false;
    struct filestamp now = database_stamp(c->node->db_fd, db->name);
    return now.ino && !filestamp_same(&known, &now);
}

/* ---- files that applications have open ---- */

void capture_watch(struct capture *c, struct capture_file *cf, bool muted)
{
    struct err e;
    c->watching = true;
    cf->unwatched = filewatch_set(c->filewatch, cf->db->name, &cf->watch, muted, &e) != 0;
    if (cf->unwatched && !c->blind)
        node_warn(c->node, "changes will be noticed late: %s", e.text);
    c->blind |= cf->unwatched;
}

void capture_unwatch(struct capture *c, struct database *db)
{
    if (db->watched && db->capture)
        filewatch_clear(c->filewatch, &db->capture->watch);
    db->watched = false;
}

static void watch(struct capture *c, struct database *db)
{
    struct capture_file *cf = db->watched || !node_captures(c->node) ? NULL : capture_file_of(c, db);
    if (!cf)
        return;
    db->watched = true;
    capture_watch(c, cf, false);
}

static void set_open(struct capture *c, struct database *db, bool open)
{
    pthread_mutex_lock(&db->lock);
    db->apps_open = open;
    pthread_mutex_unlock(&db->lock);
    if (open)
        watch(c, db);
    else
        capture_unwatch(c, db);
}

void capture_opened(struct capture *c, const char *name)
{
    struct err e;
    struct database *db = database_name_possible(name) ? databases_get(c->node->databases, name, &e) : NULL;
    if (!db)
        return;
    db->opens_told = c->opens_told;
    set_open(c, db, true);
    struct capture_file *cf = node_captures(c->node) ? capture_file_of(c, db) : NULL;
    if (!cf)
        return;
    if (!cf->diff_ns)
        capture_unseen_changes(c, cf); /* the watch has just begun */
    capture_dirty(c, cf, true);
}

void capture_closed(struct capture *c, const char *name)
{
    struct database *db = databases_find(c->node->databases, name);
    if (!db)
        return;
    set_open(c, db, false);
    if (node_role(c->node) == NODE_REPLICA)
        apply_idle(c->node, db);
    struct capture_file *cf = node_captures(c->node) ? capture_file_of(c, db) : NULL;
    if (!cf)
        return;
    bool known = !cf->unwatched;
    cf->unwatched = false;
    pthread_mutex_lock(&db->lock);
    bool stamped = database_dbstate(db)->file.ino != 0, idle = cf->mode == CAPTURE_IDLE && database_dbstate(db)->txid;
    pthread_mutex_unlock(&db->lock);
    known |= stamped;
    bool alone = !cf->diff_ns && !walview_exists(c->node, db);
    if (alone && (!known || capture_file_differs(c, db)))
        capture_main_changed(c, cf, true);
    else if (alone && idle && !stamped) /* nothing is amiss, but the next start could not tell: better now */
        capture_main_changed(c, cf, false);
    if (cf->diff_ns || cf->check_at_close)
        cf->diff_ns = now_ns();
    cf->check_at_close = false;
    cf->closed = true;
    capture_dirty(c, cf, true);
}

static int close_unless_told(void *ctx, struct database *db)
{
    struct capture *c = ctx;
    pthread_mutex_lock(&db->lock);
    bool stale = (db->apps_open || db->watched) && db->opens_told != c->opens_told;
    pthread_mutex_unlock(&db->lock);
    if (stale)
        capture_closed(c, db->name);
    return 0;
}

void capture_opens_begin(struct capture *c)
{
    c->opens_told++;
}

void capture_opens_end(struct capture *c)
{
    databases_each(c->node->databases, close_unless_told, c);
}

void capture_unseen_changes(struct capture *c, struct capture_file *cf)
{
    pthread_mutex_lock(&cf->db->lock);
    bool known = database_dbstate(cf->db)->file.ino;
    pthread_mutex_unlock(&cf->db->lock);
    if (!walview_exists(c->node, cf->db) && (!known || capture_file_differs(c, cf->db)))
        capture_main_changed(c, cf, true);
}

/* ---- gone ---- */

/* A directory of that name is another matter. */
static bool file_there(const struct capture *c, const char *name)
{
    struct stat st;
    return !fstatat(c->node->db_fd, name, &st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st.st_mode);
}

static bool known_file(struct database *db)
{
    if (!db)
        return false;
    pthread_mutex_lock(&db->lock);
    bool known = db->state != DATABASE_ABSENT;
    pthread_mutex_unlock(&db->lock);
    return known;
}

static void dropped(struct capture *c, struct database *db)
{
    struct capture_file *cf = capture_file_of(c, db);
    capture_unwatch(c, db); /* a file without a name is not told to be closed */
    pthread_mutex_lock(&db->lock);
    db->apps_open = false;
    pthread_mutex_unlock(&db->lock);
    if (!cf)
        return;
    cf->unwatched = false;
    capture_dropped(c, cf);
    capture_dirty(c, cf, false);
}

static int look_if_removed(void *ctx, struct database *db)
{
    struct capture *c = ctx;
    pthread_mutex_lock(&db->lock);
    enum database_state st = db->state;
    pthread_mutex_unlock(&db->lock);
    if (st != DATABASE_ABSENT && !file_there(c, db->name))
        dropped(c, db);
    return 0;
}

void capture_removed(struct capture *c, const char *path)
{
    char name[LAYOUT_NAME_MAX + 1];
    const char *suffix = capture_companion(path, name);
    struct database *db = suffix && !*suffix ? databases_find(c->node->databases, name) : NULL;
    if (suffix && *suffix) {
        struct capture_file *cf = capture_file_by_name(c, name);
        if (cf)
            capture_dirty(c, cf, true);
    } else if (db && !file_there(c, name)) {
        dropped(c, db);
    } else if (db && (known_file(db) || capture_file_by_name(c, name))) { /* made again already */
        struct capture_file *cf = capture_file_of(c, db);
        if (cf)
            capture_replaced(c, cf, false);
    }
    /* A directory is removed when it is empty: what was in it has been told, one by one. */
}

/* ---- renamed ---- */

/* The record. Both are locked; on failure nothing has changed. */
static int record_rename(struct node *n, struct database *from, struct database *to, struct err *e)
{
    uint64_t lsn;
    int rc = database_load(n->databases, from, e);
    if (!rc)
        rc = sequencer_begin(n->sequencer, RECORD_RENAME, from->name, &lsn, e);
    if (rc)
        return rc;
    sums_begin_rename(from->sums, to->name, lsn, false); /* killed from here on: the log tells whether it has happened */
    rc = sequencer_write(n->sequencer, to->name, strlen(to->name), e);
    if (rc)
        sequencer_abort(n->sequencer);
    else
        rc = sequencer_commit(n->sequencer, e);
    if (rc) {
        sums_begin_rename(from->sums, "", 0, false);
        return rc;
    }
    rc = database_rename(n->databases, from, to, lsn, e);
    if (rc) { /* the log says so already: then what is known of it is lost, and its pages are all compared */
        log_error("capture", "%s", e->text);
        database_forget(n->databases, from, lsn);
    }
    return 0;
}

/* True if the pages of `to` must be compared with what is known: it is not for sure the file that was known as the other. */
static bool must_compare(struct capture *c, struct database *to)
{
    struct dbstate st = *database_dbstate(to);
    struct filestamp now = database_stamp(c->node->db_fd, to->name);
    if (st.wal_frame)
        return !walview_exists(c->node, to); /* its last changes are in the WAL, which did not come along (yet) */
    if (!filestamp_same_contents(&st.file, &now))
        return true;
    database_settle(c->node->databases, to, &now); /* the rename has moved its change time */
    return false;
}

static void rename_database(struct capture *c, struct database *from, struct database *to)
{
    struct err e;
    bool was_open = from->watched;
    to->opens_told = c->opens_told;
    capture_unwatch(c, to); /* whoever has the old file of that name open has a file without a name now */
    set_open(c, to, was_open); /* takes over the watches: no write is missed */
    set_open(c, from, false);
    struct capture_file *cf = capture_file_of(c, from), *ct = capture_file_of(c, to);
    if (!cf || !ct)
        return;
    database_lock_two(from, to);
    bool known = from->state != DATABASE_ABSENT && database_dbstate(from)->txid;
    bool anew = cf->anew, whole = capture_leave(c, cf);
    (void)capture_leave(c, ct);
    int rc = known ? record_rename(c->node, from, to, &e) : 0;
    if (!known)
        database_forget(c->node->databases, from, 0);
    bool compare = rc || !known || !whole || must_compare(c, to);
    if (!compare && to->state == DATABASE_UNKNOWN) /* nobody had looked at it yet since the start, and nobody else may: it can get past the rescan */
        database_mark(to, DATABASE_OK, NULL);
    ct->anew = (anew || !known) && database_dbstate(to)->txid; /* otherwise the record says so */
    ct->suspect |= ct->anew;
    pthread_mutex_unlock(&from->lock);
    pthread_mutex_unlock(&to->lock);
    if (rc) {
        log_error("capture", "cannot log that %s is called %s now: %s; trying again", from->name, to->name, e.text);
        capture_rescan_later(c);
        return;
    }
    if (compare)
        capture_main_changed(c, ct, true);
    capture_dirty(c, ct, true);
    if (compare && known)
        ct->diff_ns = now_ns();
    if (!faccessat(c->node->db_fd, from->name, F_OK, AT_SYMLINK_NOFOLLOW)) /* another file of the old name, already */
        capture_main_changed(c, cf, true);
    else
        capture_dirty(c, cf, true);
}

struct prefix {
    const char *path;
    size_t len;
    struct database **v;
    size_t n, size;
};

static int collect_below(void *ctx, struct database *db)
{
    struct prefix *p = ctx;
    if (strncmp(db->name, p->path, p->len) != 0 || db->name[p->len] != '/' || (db->state == DATABASE_ABSENT && !db->watched))
        return 0;
    if (p->n == p->size) {
        size_t size = p->size ? p->size * 2 : 64;
        void *v = realloc(p->v, size * sizeof *p->v);
        if (!v)
            return -ENOMEM;
        p->v = v;
        p->size = size;
    }
    p->v[p->n++] = db;
    return 0;
}

static void rename_directory(struct capture *c, const char *from, const char *to)
{
    struct prefix p = {.path = from, .len = strlen(from)};
    struct err e;
    if (databases_each(c->node->databases, collect_below, &p))
        log_error("capture", "no memory to follow the rename of %s/", from);
    for (size_t i = 0; i < p.n; i++) {
        char path[2 * LAYOUT_NAME_MAX + 2];
        snprintf(path, sizeof path, "%s%s", to, p.v[i]->name + p.len);
        struct database *db = databases_get(c->node->databases, path, &e);
        if (db) {
            rename_database(c, p.v[i], db);
        } else {
            node_warn(c->node, "a file is not replicated: %s", e.text);
            dropped(c, p.v[i]);
        }
    }
    free(p.v);
    capture_rescan_later(c); /* files in it that were not known yet */
}

void capture_renamed(struct capture *c, const char *from, const char *to)
{
    char name_from[LAYOUT_NAME_MAX + 1], name_to[LAYOUT_NAME_MAX + 1];
    const char *suffix_from = capture_companion(from, name_from), *suffix_to = capture_companion(to, name_to);
    struct stat st;
    struct err e;
    if (!node_captures(c->node))
        return;
    struct database *db = suffix_from && !*suffix_from ? databases_find(c->node->databases, name_from) : NULL;
    bool file = known_file(db) || (suffix_from && *suffix_from);
    if (!file && !fstatat(c->node->db_fd, to, &st, AT_SYMLINK_NOFOLLOW) && S_ISDIR(st.st_mode)) {
        rename_directory(c, from, to);
        return;
    }
    if (suffix_from && suffix_to && !*suffix_from && !*suffix_to) {
        db = databases_get(c->node->databases, name_from, &e);
        struct database *target = databases_get(c->node->databases, name_to, &e);
        if (db && target) {
            rename_database(c, db, target);
            return;
        }
        node_warn(c->node, "a file is not replicated: %s", e.text);
    }
    capture_removed(c, from);
    struct capture_file *ct = suffix_to ? capture_file_by_name(c, name_to) : NULL;
    if (ct && !*suffix_to)
        capture_replaced(c, ct, false);
    else if (ct && !strcmp(suffix_to, LAYOUT_JOURNAL))
        capture_journal_changed(c, ct);
    else if (ct)
        capture_dirty(c, ct, true);
    struct capture_file *cf = suffix_from && !strcmp(suffix_from, LAYOUT_JOURNAL) ? capture_file_by_name(c, name_from) : NULL;
    if (cf)
        capture_journal_changed(c, cf);
}

static int compare_below(void *ctx, struct database *db)
{
    void **a = ctx;
    const char *path = a[1];
    size_t n = strlen(path);
    if (strncmp(db->name, path, n) != 0 || (db->name[n] && db->name[n] != '/'))
        return 0;
    struct capture_file *cf = capture_file_of(a[0], db);
    if (cf) {
        capture_replaced(a[0], cf, false);
        capture_start_diff(a[0], cf, true);
    }
    return 0;
}

void capture_exchanged(struct capture *c, const char *one, const char *other)
{
    if (!node_captures(c->node))
        return;
    /* Rare: both are compared with what is known under their names. */
    databases_each(c->node->databases, compare_below, (void *[]){c, (void *)(uintptr_t)one});
    databases_each(c->node->databases, compare_below, (void *[]){c, (void *)(uintptr_t)other});
    capture_rescan_later(c);
}

/* ---- looking at everything ---- */

struct missing {
    uint64_t ino;
    struct database *db;
};

struct rescan {
    struct capture *c;
    struct missing *v; /* databases that are known, and not there: by inode */
    size_t n, size;
};

static int note_missing(void *ctx, struct database *db)
{
    struct rescan *r = ctx;
    pthread_mutex_lock(&db->lock);
    uint64_t ino = db->state == DATABASE_ABSENT ? 0 : database_dbstate(db)->file.ino;
    pthread_mutex_unlock(&db->lock);
    if (!ino || file_there(r->c, db->name))
        return 0;
    if (r->n == r->size) {
        size_t size = r->size ? r->size * 2 : 64;
        void *v = realloc(r->v, size * sizeof *r->v);
        if (!v)
            return 0; /* then it is a removal and a first sight */
        r->v = v;
        r->size = size;
    }
    r->v[r->n++] = (struct missing){ino, db};
    return 0;
}

static int by_ino(const void *a, const void *b)
{
    const struct missing *x = a, *y = b;
    return x->ino < y->ino ? -1 : x->ino > y->ino;
}

/* A file that nobody knows: was it renamed while nobody was there to be told? */
static bool renamed_unseen(struct rescan *r, struct database *db, const struct filestamp *now)
{
    struct missing *m = r->n ? bsearch(&(struct missing){.ino = now->ino}, r->v, r->n, sizeof *r->v, by_ino) : NULL;
    if (!m || !known_file(m->db))
        return false;
    pthread_mutex_lock(&m->db->lock);
    bool same = filestamp_same_contents(&database_dbstate(m->db)->file, now);
    pthread_mutex_unlock(&m->db->lock);
    if (same)
        rename_database(r->c, m->db, db);
    return same;
}

/* A journal that has begun and not ended, of a database that nobody has open, is rolled back by whoever opens it next, also if its transaction is in the log: its end had been answered, and
 * did not happen any more. So the file is not what its stamp says. */
static bool left_hot(const struct node *n, const char *name)
{
    char journal[LAYOUT_NAME_MAX + sizeof LAYOUT_JOURNAL], first = 0;
    snprintf(journal, sizeof journal, "%s%s", name, LAYOUT_JOURNAL);
    _cleanup_fd_ int fd = openat(n->db_fd, journal, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return fd >= 0 && pread(fd, &first, 1, 0) == 1 && first;
}

static void look_at_file(struct rescan *r, const char *path)
{
    struct capture *c = r->c;
    char name[LAYOUT_NAME_MAX + 1];
    const char *suffix = capture_companion(path, name);
    if (!suffix || *suffix)
        return;
    struct err e;
    struct database *db = databases_get(c->node->databases, name, &e);
    if (!db) {
        node_warn(c->node, "a file is not replicated: %s", e.text);
        return;
    }
    bool in_wal = walview_exists(c->node, db);
    struct filestamp now = database_stamp(c->node->db_fd, name);
    pthread_mutex_lock(&db->lock);
    const struct dbstate *st = database_dbstate(db);
    bool unknown = db->state == DATABASE_UNKNOWN || db->state == DATABASE_ABSENT, new = unknown && !st->txid;
    bool same = st->txid && filestamp_same(&st->file, &now);
    /* If we know a place in the WAL, and it is still that WAL, the frames tell what is missing. If the file is the very one that is known, nothing is, or
     * all of the WAL. Otherwise pages are compared: any number of WALs may have come and gone while nobody watched. */
    bool replaced = st->inode && st->inode != now.ino;
    if (unknown && st->txid && ((in_wal && st->wal_frame && !replaced) || (same && !st->wal_frame))) {
        database_mark(db, DATABASE_OK, NULL);
        unknown = false;
    }
    pthread_mutex_unlock(&db->lock);
    if (new && renamed_unseen(r, db, &now))
        return;
    pthread_mutex_lock(&db->lock);
    bool open = db->apps_open;
    pthread_mutex_unlock(&db->lock);
    if (open != db->watched) { /* renamed while this node was a replica */
        db->opens_told = c->opens_told;
        set_open(c, db, open);
    }
    bool changed = unknown || (!in_wal && (capture_file_differs(c, db) || (!open && left_hot(c->node, name))));
    if (!changed && !in_wal && !db->watched && !db->capture)
        return; /* idle, and as it should be */
    struct capture_file *cf = capture_file_of(c, db);
    if (!cf)
        return;
    capture_dirty(c, cf, true);
    if (changed) {
        capture_main_changed(c, cf, true);
        cf->diff_ns = now_ns();
    }
}

static void scan_directory(struct rescan *r, const char *dir, int depth)
{
    int fd = openat(r->c->node->db_fd, *dir ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            close(fd);
        return; /* removed meanwhile */
    }
    struct dirent *de;
    while ((de = readdir(d))) {
        char path[LAYOUT_NAME_MAX + 300];
        struct stat st;
        if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, "..") ||
            (size_t)snprintf(path, sizeof path, "%s%s%s", dir, *dir ? "/" : "", de->d_name) >= sizeof path)
            continue;
        unsigned char type = de->d_type;
        if (type == DT_UNKNOWN && !fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW))
            type = S_ISDIR(st.st_mode) ? DT_DIR : S_ISREG(st.st_mode) ? DT_REG : DT_UNKNOWN;
        if (type == DT_DIR && depth < DEPTH_MAX)
            scan_directory(r, path, depth + 1);
        else if (type == DT_REG)
            look_at_file(r, path);
    }
    closedir(d);
}

void capture_rescan(struct capture *c)
{
    struct rescan r = {.c = c};
    c->rescan_ns = 0;
    if (!node_captures(c->node)) /* that: also who steps down at its start (startup_step_down) */
        return;
    databases_each(c->node->databases, note_missing, &r);
    if (r.n)
        qsort(r.v, r.n, sizeof *r.v, by_ino);
    scan_directory(&r, "", 0);
    free(r.v);
    databases_each(c->node->databases, look_if_removed, c);
}

void capture_rescan_later(struct capture *c)
{
    if (!c->rescan_ns)
        c->rescan_ns = now_ns() + CAPTURE_QUIET_NS;
}
