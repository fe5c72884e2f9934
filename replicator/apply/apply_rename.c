/* A database gets another name. Whoever reads it goes on: files keep their identity, so an open connection has the same database file, WAL
 * and wal-index as one that opens the new name. What needs care is a connection that is just being opened: it must not find the database file
 * under a name under which its WAL is not there yet. It takes a read lock on PENDING before it looks for a WAL (lockingv3 §5), so that byte
 * is locked for the moment in which the files move. */
#include "replicator/apply/apply_file.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/apply/stray.h"
#include "replicator/database/walview.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

static int move(struct node *n, const struct database *from, const struct database *to, const char *suffix, struct err *e)
{
    char a[LAYOUT_NAME_MAX + 16], b[LAYOUT_NAME_MAX + 16];
    snprintf(a, sizeof a, "%s%s", from->name, suffix);
    snprintf(b, sizeof b, "%s%s", to->name, suffix);
    if (renameat(n->mount_fd, a, n->mount_fd, b) && (errno != ENOENT || !*suffix))
        return err_errno(e, errno, "rename %s to %s", a, b);
    return 0;
}

static bool exists(const struct node *n, const struct database *db, const char *suffix)
{
    char name[LAYOUT_NAME_MAX + 16];
    snprintf(name, sizeof name, "%s%s", db->name, suffix);
    return faccessat(n->db_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Of the files of `from` the database file still has its name: the others get theirs back. */
static int move_back(struct node *n, struct database *from, struct database *to, struct err *e)
{
    int rc = 0;
    if (!exists(n, from, LAYOUT_SHM) && exists(n, to, LAYOUT_SHM))
        rc = move(n, to, from, LAYOUT_SHM, e);
    if (!rc && !exists(n, from, LAYOUT_WAL) && exists(n, to, LAYOUT_WAL))
        rc = move(n, to, from, LAYOUT_WAL, e);
    return rc;
}

/* from->sums is loaded. Killed on the way: apply_finish_moves. */
static int move_files(struct node *n, struct database *from, struct database *to, uint64_t lsn, struct err *e)
{
    struct err ignored;
    int rc = apply_remove_companions(n, to, e);
    if (rc)
        return rc;
    sums_begin_rename(from->sums, to->name, lsn, true);
    rc = move(n, from, to, LAYOUT_WAL, e);
    if (!rc)
        rc = move(n, from, to, LAYOUT_SHM, e);
    if (!rc)
        rc = move(n, from, to, "", e);
    if (rc && !move_back(n, from, to, &ignored)) /* otherwise the note stays: what has the new name already gets the old one back at the next start */
        sums_begin_rename(from->sums, "", 0, false);
    return rc;
}

/* With applications inside: what is open here stays open, and the fence stands all the time. */
static int move_open(struct node *n, struct database *from, struct database *to, uint64_t lsn, struct err *e)
{
    struct apply_file *f = from->apply;
    if (f->wal) /* as far as readers let it: what is in the database file cannot be missed in the WAL */
        (void)sqlite3_wal_checkpoint_v2(f->conn, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    int rc = lock_range(f->fence.db_fd, F_WRLCK, DBLOCK_PENDING, 1);
    if (rc) /* a connection is being opened, for microseconds */
        return rc == -EAGAIN ? err_set(e, ERR_AGAIN_LATER, "%s is being opened", from->name) : err_errno(e, -rc, "lock %s", from->name);
    rc = move_files(n, from, to, lsn, e);
    (void)lock_range(f->fence.db_fd, F_UNLCK, DBLOCK_PENDING, 1); /* letting go cannot fail */
    if (rc)
        return rc;
    struct apply_file *other = to->apply;
    to->apply = f;
    from->apply = other;
    f->db = to;
    if (other)
        other->db = from;
    fence_rename(n, from, to, &f->fence);
    if (f->wal) { /* the connection knows the WAL by its old name */
        sqlite3_close(f->conn);
        f->conn = NULL;
        rc = apply_file_connect(n, to, e);
        if (rc) {
            log_warn("apply", "%s: opened anew after its rename: %s", to->name, e->text);
            apply_file_close(n, to);
            rc = apply_file_open(n, to, e); /* applications have it open: it must not stay without a fence */
            if (rc)
                log_error("apply", "%s", e->text);
        }
    }
    return 0;
}

/* From the directory of name upwards: a replica has those directories that hold a database. */
void apply_remove_parents(struct node *n, const char *name)
{
    char path[LAYOUT_NAME_MAX + 1];
    snprintf(path, sizeof path, "%s", name);
    for (char *slash; (slash = strrchr(path, '/'));) {
        *slash = 0;
        if (unlinkat(n->mount_fd, path, AT_REMOVEDIR))
            return; /* not empty, usually */
    }
}

static int rename_locked(struct node *n, struct database *from, struct database *to, uint64_t lsn, struct err *e)
{
    struct stat parent;
    if (database_dbstate(to)->lsn > lsn) { /* an image of what became of it is here already */
        int rc = apply_remove(n, from, e);
        if (!rc)
            database_forget(n->databases, from, lsn);
        return rc;
    }
    bool here = faccessat(n->db_fd, from->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    bool there = faccessat(n->db_fd, to->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    const struct dbstate *st = database_dbstate(from);
    if (!st->txid || st->needs_image || (!here && !there))
        return err_set(e, ERR_GONE, "%s, which is called %s now, is not here", from->name, to->name);
    int rc = database_load(n->databases, from, e);
    if (!rc)
        rc = apply_make_parents(n, to->name, &parent, e);
    if (rc)
        return rc;
    /* Applications may have it open: as far as we were told, or because a predecessor has left its fence. */
    if (here && (from->apps_open || fence_left(n, from)))
        rc = apply_file_open(n, from, e);
    if (rc)
        return rc;
    apply_file_close(n, to);
    if (here) /* otherwise a predecessor that was killed has moved it, and what it has left is the fence of this file (fences_settle) */
        fence_drop_left(n, to);
    if (here && from->apply && from->apply->open) {
        rc = move_open(n, from, to, lsn, e);
    } else if (here) {
        apply_file_close(n, from);
        rc = move_files(n, from, to, lsn, e);
    } else {
        sums_begin_rename(from->sums, to->name, lsn, false);
    }
    if (rc)
        return rc;
    to->apps_open = from->apps_open;
    from->apps_open = false;
    rc = database_rename(n->databases, from, to, lsn, e);
    if (!rc)
        database_mark(to, DATABASE_OK, NULL);
    if (!rc && !walview_exists(n, to)) {
        struct filestamp now = database_stamp(n->db_fd, to->name);
        database_settle(n->databases, to, &now);
    }
    apply_remove_parents(n, from->name);
    return rc;
}

static void lock_both(struct database *from, struct database *to)
{
    pthread_mutex_lock(from < to ? &from->sqlite : &to->sqlite);
    pthread_mutex_lock(from < to ? &to->sqlite : &from->sqlite);
    database_lock_two(from, to);
}

static void unlock_both(struct database *from, struct database *to)
{
    pthread_mutex_unlock(&from->lock);
    pthread_mutex_unlock(&to->lock);
    pthread_mutex_unlock(&from->sqlite);
    pthread_mutex_unlock(&to->sqlite);
}

int apply_rename(struct node *n, struct database *from, struct database *to, uint64_t lsn, struct err *e)
{
    if (from == to)
        return 0;
    lock_both(from, to);
    int rc = rename_locked(n, from, to, lsn, e);
    unlock_both(from, to);
    return rc;
}

static int finish_move(void *ctx, struct database *db)
{
    struct node *n = ctx;
    struct err e;
    struct database *to = db->moving_to;
    if (!to || to == db)
        return 0;
    lock_both(db, to);
    int rc = move_back(n, db, to, &e);
    db->moving_to = to->moving_to = NULL;
    if (!rc)
        rc = database_load(n->databases, db, &e);
    if (!rc) {
        sums_begin_rename(db->sums, "", 0, false);
        if (stray_found(n, db)) { /* startup.c could not tell yet */
            db->stray = true;
            database_set_pending(n->databases, db, database_dbstate(db)->lsn + 1);
            database_mark(db, DATABASE_IMAGE, "somebody else has written it: that is kept in quarantine, then it waits for an image");
        }
        if (fence_left(n, db)) /* with it readers are let in: applications may have it open */
            rc = apply_file_open(n, db, &e);
    } else {
        apply_distrust(n, db);
    }
    if (rc)
        log_warn("apply", "%s: its files were being moved when replication was killed: %s", db->name, e.text);
    unlock_both(db, to);
    return 0;
}

void apply_finish_moves(struct node *n)
{
    databases_each(n->databases, finish_move, n);
}
