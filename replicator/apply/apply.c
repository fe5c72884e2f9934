#include "replicator/apply/apply_file.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/capture/hooks.h"
#include "replicator/database/walview.h"
#include "replicator/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define FENCE_WAIT_NS 1000000000u /* how long an open, or a record, waits for a writer to finish */
#define OPEN_WAIT_NS 5000000000u  /* how long an application's open waits for its fence in all (edgefs-fs gives up after 10 s) */
#define OPEN_RETRY_NS 5000000u
#define IDLE_NS 5000000000u       /* files of a database that no application has open are closed after this */

/* ---- the open files, last used first ---- */

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER; /* innermost but for trylock */
static struct apply_file *newest, *oldest;
static unsigned n_open;

static void unlist(struct apply_file *f)
{
    *(f->prev ? &f->prev->next : &newest) = f->next;
    *(f->next ? &f->next->prev : &oldest) = f->prev;
    f->next = f->prev = NULL;
    n_open--;
}

static void list_first(struct apply_file *f)
{
    f->prev = NULL;
    f->next = newest;
    *(newest ? &newest->prev : &oldest) = f;
    newest = f;
    n_open++;
}

static void used(struct apply_file *f)
{
    f->used_ns = now_ns();
    pthread_mutex_lock(&list_lock);
    if (newest != f) {
        unlist(f);
        list_first(f);
    }
    pthread_mutex_unlock(&list_lock);
}

/* Finds one to close that nobody has locked and no application has open, and locks it. NULL: none. */
static struct database *take_oldest(void)
{
    struct database *found = NULL;
    pthread_mutex_lock(&list_lock);
    for (struct apply_file *f = oldest; f && !found && n_open > APPLY_OPEN_MAX; f = f->prev) {
        if (pthread_mutex_trylock(&f->db->sqlite))
            continue;
        if (pthread_mutex_trylock(&f->db->lock)) {
            pthread_mutex_unlock(&f->db->sqlite);
        } else if (f->db->apps_open || !f->open) {
            pthread_mutex_unlock(&f->db->lock);
            pthread_mutex_unlock(&f->db->sqlite);
        } else {
            found = f->db;
        }
    }
    pthread_mutex_unlock(&list_lock);
    return found;
}

static void close_oldest(struct node *n)
{
    for (struct database *db; (db = take_oldest());) {
        apply_file_close(n, db);
        pthread_mutex_unlock(&db->lock);
        pthread_mutex_unlock(&db->sqlite);
    }
}

/* ---- opening and closing ---- */

static int open_connection(struct node *n, struct database *db, struct apply_file *f, struct err *e)
{
    _cleanup_free_ char *path = node_mount_path(n, db->name);
    if (!path)
        return err_errno(e, ENOMEM, "apply");
    int rc = sqlite3_open_v2(path, &f->conn, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_busy_timeout(f->conn, 500);
        /* The read recovers the WAL and makes the wal-index, before the fence could keep it from doing so. */
        rc = sqlite3_exec(f->conn, "PRAGMA cache_size=8; PRAGMA wal_autocheckpoint=0; PRAGMA schema_version", NULL, NULL, NULL);
    }
    if (rc == SQLITE_OK)
        return 0;
    const char *text = f->conn ? sqlite3_errmsg(f->conn) : sqlite3_errstr(rc);
    if (rc == SQLITE_BUSY || rc == SQLITE_PROTOCOL || rc == SQLITE_LOCKED || rc == SQLITE_CANTOPEN)
        return err_set(e, ERR_AGAIN_LATER, "%s: %s", db->name, text);
    return err_set(e, rc == SQLITE_NOTADB || rc == SQLITE_CORRUPT ? ERR_CORRUPT : -EIO, "%s: %s", db->name, text);
}

int apply_file_roll_back(struct node *n, struct database *db, struct err *e)
{
    char name[LAYOUT_NAME_MAX + 16], first = 0;
    snprintf(name, sizeof name, "%s%s", db->name, LAYOUT_JOURNAL);
    _cleanup_fd_ int fd = openat(n->db_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || pread(fd, &first, 1, 0) != 1 || !first)
        return 0; /* pager.c, hasHotJournal */
    _cleanup_fd_ int lock = openat(n->mount_fd, db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = DBLOCK_RESERVED, .l_len = 1};
    if (lock < 0 || fcntl(lock, F_OFD_GETLK, &l) || l.l_type != F_UNLCK)
        return 0; /* somebody's transaction is going on, or a fence stands: nobody takes it for hot */
    _cleanup_free_ char *path = node_mount_path(n, db->name);
    sqlite3 *conn = NULL;
    if (!path)
        return err_errno(e, ENOMEM, "apply");
    int rc = sqlite3_open_v2(path, &conn, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK) /* no waiting: whoever is in the way may be waiting for us */
        rc = sqlite3_exec(conn, "PRAGMA schema_version", NULL, NULL, NULL);
    int result = 0;
    if (rc == SQLITE_BUSY || rc == SQLITE_LOCKED || rc == SQLITE_CANTOPEN)
        result = err_set(e, ERR_AGAIN_LATER, "%s: its hot journal: %s", db->name, conn ? sqlite3_errmsg(conn) : sqlite3_errstr(rc));
    else if (rc != SQLITE_OK && rc != SQLITE_NOTADB && rc != SQLITE_CORRUPT) /* the checksums will say what to do with the last two */
        result = err_set(e, rc == SQLITE_FULL ? -ENOSPC : -EIO, "%s: its hot journal: %s", db->name, conn ? sqlite3_errmsg(conn) : sqlite3_errstr(rc));
    sqlite3_close(conn);
    return result;
}

int apply_file_connect(struct node *n, struct database *db, struct err *e)
{
    return open_connection(n, db, db->apply, e);
}

int file_is_wal_mode(struct node *n, struct database *db, bool *wal, struct err *e)
{
    uint8_t buf[DBFILE_HEADER_SIZE];
    struct dbfile_header h;
    _cleanup_fd_ int fd = openat(n->db_fd, db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return err_errno(e, errno, "open %s", db->name);
    ssize_t k = pread(fd, buf, sizeof buf, 0);
    *wal = k == (ssize_t)sizeof buf && !dbfile_header_decode(buf, sizeof buf, &h) && h.write_version == 2;
    /* A WAL counts whatever the header says, as for SQLite (pager.c, pagerOpenWalIfPresent): while readers are there a database that the primary has taken out
     * of WAL mode goes on being written through its WAL (apply_tx.c). */
    char name[LAYOUT_NAME_MAX + 8];
    struct stat st;
    snprintf(name, sizeof name, "%s%s", db->name, LAYOUT_WAL);
    *wal |= !fstatat(n->db_fd, name, &st, AT_SYMLINK_NOFOLLOW) && st.st_size > 0;
    return 0;
}

static int open_index(struct apply_file *f, struct err *e)
{
    int rc = walindex_open(f->fence.shm_fd, true, &f->index, e);
    /* A predecessor may have been killed in the middle of publishing; nobody else can mend it while the fence stands. */
    return rc ? rc : walindex_repair(f->index, e);
}

static int open_wal(struct node *n, struct database *db, struct apply_file *f, struct err *e)
{
    char name[LAYOUT_NAME_MAX + 8];
    snprintf(name, sizeof name, "%s%s", db->name, LAYOUT_WAL);
    f->wal_fd = openat(n->mount_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    return f->wal_fd < 0 ? err_errno(e, errno, "open %s", name) : 0;
}

int apply_file_open(struct node *n, struct database *db, struct err *e)
{
    struct err ignored;
    if (!db->apply) {
        db->apply = calloc(1, sizeof *db->apply);
        if (!db->apply)
            return err_errno(e, ENOMEM, "apply");
        db->apply->wal_fd = db->apply->fence.db_fd = db->apply->fence.shm_fd = -1;
        db->apply->db = db;
    }
    struct apply_file *f = db->apply;
    if (f->open) {
        used(f);
        return 0;
    }
    if (db->moving_to)
        return err_set(e, ERR_AGAIN_LATER, "%s: its files were being moved when replication was killed", db->name);
    f->used_ns = now_ns();
    f->checkpoint_at = 1000;
    int rc = file_is_wal_mode(n, db, &f->wal, e);
    if (rc)
        return rc;
    if (fence_take_over(n, db, f->wal, &f->fence)) {
        if (f->wal) /* locked for moments, while names change: killed in one of them, nobody could read any more, us included */
            (void)lock_range(f->fence.db_fd, F_UNLCK, DBLOCK_PENDING, 1);
        /* The wal-index first: while it is torn nobody but the holder of the fence can read the database. */
        rc = f->wal ? open_index(f, e) : 0;
        if (!rc && f->wal)
            rc = open_connection(n, db, f, e);
        f->open = f->exclusive = true; /* perhaps: then readers are let in now, or a change was being written, which goes on under these locks */
        if (database_load(n->databases, db, &ignored) == 0)
            apply_inplace_unlock(db);
        f->exclusive = false;
    } else {
        rc = f->wal ? open_connection(n, db, f, e) : apply_file_roll_back(n, db, e);
        /* Until this node is a replica a writer's last step may be waiting for capture, which needs the lock that we hold: no waiting here then. */
        if (!rc)
            rc = fence_take(n, db, f->wal, now_ns() + (node_role(n) == NODE_REPLICA ? FENCE_WAIT_NS : 0), &f->fence, e);
        if (!rc && f->wal)
            rc = open_index(f, e);
    }
    if (!rc && f->wal)
        rc = open_wal(n, db, f, e);
    if (!rc && f->wal && !database_load(n->databases, db, e))
        (void)walview_say_size(n, db, f->index, f->fence.shm_fd, true, false);
    f->open = true;
    pthread_mutex_lock(&list_lock);
    list_first(f);
    pthread_mutex_unlock(&list_lock);
    if (rc)
        apply_file_close(n, db);
    else if (n_open > APPLY_OPEN_MAX) /* a stale look does no harm */
        close_oldest(n);
    return rc;
}

void apply_file_close(struct node *n, struct database *db)
{
    struct apply_file *f = db->apply;
    if (!f || !f->open)
        return;
    f->open = f->exclusive = false;
    f->waiting_ns = 0;
    pthread_mutex_lock(&list_lock);
    unlist(f);
    pthread_mutex_unlock(&list_lock);
    walindex_close(f->index);
    f->index = NULL;
    if (f->wal_fd >= 0)
        close(f->wal_fd);
    f->wal_fd = -1;
    fence_drop(n, db, &f->fence);
    /* If nobody else has it open this copies the WAL into the database and removes it, as SQLite does. It need not wait for the disk: after a sudden
     * stop of the machine nothing here is believed, and an orderly end makes all durable (startup.c). */
    if (f->conn)
        sqlite3_exec(f->conn, "PRAGMA synchronous=OFF", NULL, NULL, NULL);
    sqlite3_close(f->conn);
    f->conn = NULL;
    char name[LAYOUT_NAME_MAX + 8];
    snprintf(name, sizeof name, "%s%s", db->name, LAYOUT_WAL);
    if (database_dbstate(db)->txid && !db->pending && faccessat(n->db_fd, name, F_OK, AT_SYMLINK_NOFOLLOW)) {
        struct filestamp now = database_stamp(n->db_fd, db->name);
        database_settle(n->databases, db, &now);
    }
}

/* ---- opens by applications ---- */

struct opening {
    uint64_t hook_id, deadline_ns;
    uint64_t inode; /* of the file that is being opened */
};

/* *patient: it is better to wait, but not necessary. */
static int open_for_applications(struct node *n, struct database *db, bool *patient, struct err *e)
{
    struct stat st;
    bool opened = db->apply && db->apply->open, replica = node_role(n) == NODE_REPLICA;
    if (db->state == DATABASE_OTHER)
        return 0;
    if (db->doubtful)
        return err_set(e, ERR_AGAIN_LATER, "it may hold a transaction that is not the cluster's: waiting for the primary");
    *patient = replica && !opened && (db->spoilt || apply_spoilt(n, db));
    if (*patient)
        return err_set(e, ERR_AGAIN_LATER, "%s is damaged: waiting for an image", db->name);
    if (fstatat(n->db_fd, db->name, &st, AT_SYMLINK_NOFOLLOW) || st.st_size == 0)
        return 0;
    int rc = apply_file_open(n, db, e);
    if (rc != ERR_CORRUPT || !replica || !database_dbstate(db)->txid)
        return rc;
    apply_distrust(n, db);
    *patient = true;
    return err_set(e, ERR_AGAIN_LATER, "%s is damaged: waiting for an image", db->name);
}

static void opening_job(struct node *n, struct database *db, uint64_t arg)
{
    struct opening *o = (struct opening *)(uintptr_t)arg;
    struct err e = {0};
    int rc = 0;
    bool patient = false;
    pthread_mutex_lock(&db->sqlite);
    pthread_mutex_lock(&db->lock);
    db->apps_open = true;
    if (node_role(n) != NODE_PRIMARY) {
        rc = open_for_applications(n, db, &patient, &e);
        if (!rc && database_dbstate(db)->torn)
            rc = err_set(&e, ERR_AGAIN_LATER, "a change that was under way when replication was killed has yet to be entered again");
        if (rc == ERR_CORRUPT || rc == -ENOENT)
            rc = 0; /* not a database, or gone: the application will see for itself */
    }
    bool again = rc == ERR_AGAIN_LATER && now_ns() < o->deadline_ns;
    if (patient && !again) /* no image comes: the application may see for itself what is left */
        rc = 0;
    if ((rc && !again) || (patient && again)) /* while it waits nobody has it open */
        db->apps_open = false;
    pthread_mutex_unlock(&db->lock);
    pthread_mutex_unlock(&db->sqlite);
    /* Somebody is still writing, or was when this node's role changed. */
    if (again && !worker_post(n->worker, opening_job, db, arg, OPEN_RETRY_NS))
        return;
    if (rc)
        log_warn("apply", "%s cannot be opened now: %s", db->name, e.text);
    /* Another file has been put in its place while the open waited: ESTALE makes the kernel look the name up again. */
    bool replaced = !rc && o->inode && database_stamp(n->db_fd, db->name).ino != o->inode;
    hooks_answer(n->hooks, o->hook_id, rc ? EAGAIN : replaced ? ESTALE : 0, NULL);
    free(o);
}

void apply_opening(struct node *n, const char *name, uint64_t hook_id)
{
    struct err e;
    struct database *db = name ? databases_get(n->databases, name, &e) : NULL;
    struct opening *o = db ? malloc(sizeof *o) : NULL;
    if (o)
        *o = (struct opening){.hook_id = hook_id, .deadline_ns = now_ns() + OPEN_WAIT_NS, .inode = database_stamp(n->db_fd, db->name).ino};
    if (!o || worker_post(n->worker, opening_job, db, (uint64_t)(uintptr_t)o, 0)) {
        free(o);
        hooks_answer(n->hooks, hook_id, db ? EAGAIN : 0, NULL);
    }
}

static void idle_job(struct node *n, struct database *db, uint64_t arg)
{
    (void)arg;
    pthread_mutex_lock(&db->sqlite);
    pthread_mutex_lock(&db->lock);
    struct apply_file *f = db->apply;
    if (f && f->open && !db->apps_open) {
        if (now_ns() - f->used_ns >= IDLE_NS)
            apply_file_close(n, db);
        else
            worker_post(n->worker, idle_job, db, 0, IDLE_NS);
    }
    pthread_mutex_unlock(&db->lock);
    pthread_mutex_unlock(&db->sqlite);
}

void apply_idle(struct node *n, struct database *db)
{
    if (worker_post(n->worker, idle_job, db, 0, IDLE_NS))
        log_warn("apply", "%s stays open: no memory", db->name);
}
