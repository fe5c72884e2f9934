/* Rollback-journal databases: pages go into the file itself, under the locks that a SQLite writer takes for its last step. The log is the
 * redo journal: after a crash the same record is entered again. */
#include "replicator/apply/apply_file.h"

#include "lib/util.h"
#include "replicator/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define READERS_WAIT_NS 1500000u /* a reader's transaction usually ends within this: waited for at the first try */
#define STEP_NS 100000u

static int lock_wait(int fd, int64_t start, int64_t len, uint64_t deadline_ns)
{
    for (;;) {
        int rc = lock_range(fd, F_WRLCK, start, len);
        if (rc != -EAGAIN || now_ns() >= deadline_ns)
            return rc;
        nanosleep(&(struct timespec){.tv_nsec = STEP_NS}, NULL);
    }
}

static void let_go(struct apply_file *f)
{
    (void)lock_range(f->fence.db_fd, F_UNLCK, DBLOCK_SHARED_FIRST, DBLOCK_SHARED_SIZE); /* unlocking cannot fail */
    (void)lock_range(f->fence.db_fd, F_UNLCK, DBLOCK_PENDING, 1);
    f->exclusive = false;
    f->waiting_ns = 0;
}

void apply_inplace_unlock(struct database *db)
{
    struct apply_file *f = db->apply;
    if (f && f->open && !f->wal && (f->exclusive || f->waiting_ns) && !database_dbstate(db)->torn)
        let_go(f);
}

bool apply_inplace_waits(const struct database *db)
{
    return db->apply && db->apply->open && db->apply->waiting_ns;
}

/* The wait is over: readers are let in again, for as long. */
static void give_up(const struct node *n, struct apply_file *f)
{
    f->let_go_ns = now_ns() + MAX(n->config->apply_wait_ms, 100u) * 1000000u;
    let_go(f);
}

/* worker_fn: the same, whatever the thread that applies is doing then. arg: the wait that it is about. */
static void let_go_job(struct node *n, struct database *db, uint64_t arg)
{
    pthread_mutex_lock(&db->lock);
    struct apply_file *f = db->apply;
    if (f && f->open && f->waiting_ns == arg && !database_dbstate(db)->torn)
        give_up(n, f);
    pthread_mutex_unlock(&db->lock);
}

int apply_inplace_lock(struct node *n, struct database *db, struct err *e)
{
    struct apply_file *f = db->apply;
    int fd = f->fence.db_fd;
    uint64_t now = now_ns();
    if (f->exclusive)
        return 0;
    if (f->waiting_ns && now - f->waiting_ns >= n->config->apply_wait_ms * 1000000u) /* the worker has something else to do */
        give_up(n, f);
    if (now < f->let_go_ns)
        return err_set(e, ERR_AGAIN_LATER, "%s: a reader kept its transaction open for longer than apply-wait (rollback-journal mode: it blocks the change)",
                       db->name);
    /* PENDING keeps new readers out, so those that are in it come to an end (https://sqlite.org/lockingv3.html §5). */
    int rc = lock_wait(fd, DBLOCK_PENDING, 1, f->waiting_ns ? 0 : now + READERS_WAIT_NS);
    if (!rc)
        rc = lock_wait(fd, DBLOCK_SHARED_FIRST, DBLOCK_SHARED_SIZE, f->waiting_ns ? 0 : now + READERS_WAIT_NS);
    if (!rc) {
        f->exclusive = true;
        f->waiting_ns = 0;
        return 0;
    }
    if (rc != -EAGAIN)
        return err_errno(e, -rc, "lock %s", db->name);
    if (!f->waiting_ns) {
        f->waiting_ns = now;
        if (worker_post(n->worker, let_go_job, db, now, n->config->apply_wait_ms * 1000000u))
            let_go(f);
    }
    return err_set(e, ERR_AGAIN_LATER, "%s: waiting for a reader (rollback-journal mode)", db->name);
}

static int write_pages(int fd, const struct apply_tx *tx, struct err *e)
{
    uint32_t pgno;
    const uint8_t *page;
    int rc;
    while ((rc = tx->next(tx->ctx, &pgno, &page, e)) > 0) {
        if (pgno > tx->commit)
            continue;
        ssize_t k = pwrite(fd, page, tx->page_size, (off_t)(pgno - 1) * tx->page_size);
        if (k != (ssize_t)tx->page_size)
            return err_errno(e, k < 0 ? errno : ENOSPC, "write page %u", pgno);
    }
    return rc;
}

int apply_inplace_write(struct node *n, struct database *db, const struct apply_tx *tx, struct err *e)
{
    int rc = apply_inplace_lock(n, db, e);
    if (rc)
        return rc;
    int fd = db->apply->fence.db_fd;
    struct stat st;
    off_t size = (off_t)tx->commit * tx->page_size;
    /* Asked of the backing file: after a write the kernel would ask edgefs-fs. */
    if (fstatat(n->db_fd, db->name, &st, AT_SYMLINK_NOFOLLOW) || (st.st_size < size && posix_fallocate(fd, st.st_size, size - st.st_size))) {
        apply_inplace_unlock(db); /* before anything was changed */
        return err_errno(e, ENOSPC, "grow %s to %lld bytes", db->name, (long long)size);
    }
    /* From here on nobody may see the file before it is whole: not after an error (the locks stay, it is tried again), nor if this process is killed (the launcher keeps
     * the locks), nor after the machine has stopped (whoever opens it waits until the record has been entered again). */
    sums_mark_torn(db->sums);
    rc = write_pages(fd, tx, e);
    /* A call that goes through edgefs-fs: only if there is something to cut off. */
    if (!rc && st.st_size > size && ftruncate(fd, size))
        rc = err_errno(e, errno, "truncate %s", db->name);
    if (rc)
        return rc;
    struct dbstate whole = *database_dbstate(db);
    whole.torn = 0; /* though not entered yet: a successor writes it again, under the locks */
    sums_touch(db->sums, &whole);
    if (!db->apply->hold)
        apply_inplace_unlock(db);
    return 0;
}

int apply_make_parents(struct node *n, const char *name, struct stat *parent, struct err *e)
{
    char path[LAYOUT_NAME_MAX + 1];
    snprintf(path, sizeof path, "%s", name);
    if (fstat(n->mount_fd, parent))
        return err_errno(e, errno, "stat the mount");
    for (char *p = strchr(path, '/'); p; p = strchr(p + 1, '/')) {
        *p = 0;
        if (mkdirat(n->mount_fd, path, 0755) == 0) {
            if (fchownat(n->mount_fd, path, parent->st_uid, parent->st_gid, AT_SYMLINK_NOFOLLOW))
                return err_errno(e, errno, "chown %s", path);
        } else if (errno != EEXIST) {
            return err_errno(e, errno, "make directory %s", path);
        }
        if (fstatat(n->mount_fd, path, parent, AT_SYMLINK_NOFOLLOW))
            return err_errno(e, errno, "stat %s", path);
        *p = '/';
    }
    return 0;
}

int apply_create(struct node *n, struct database *db, const struct apply_tx *tx, struct err *e)
{
    char temp[LAYOUT_NAME_MAX + 64];
    struct stat parent;
    int rc = apply_make_parents(n, db->name, &parent, e);
    if (rc)
        return rc;
    const char *slash = strrchr(db->name, '/');
    snprintf(temp, sizeof temp, "%.*s%snew-%llx", slash ? (int)(slash - db->name + 1) : 0, db->name, LAYOUT_PRIVATE_PREFIX,
             (unsigned long long)tx->last_lsn);
    int fd = openat(n->mount_fd, temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return err_errno(e, errno, "create %s", temp);
    rc = write_pages(fd, tx, e);
    /* The owner of the directory is the best guess at who shall use it here; the log does not carry owners. Each of these calls goes through edgefs-fs. */
    bool foreign = parent.st_uid != geteuid() || parent.st_gid != getegid();
    if (!rc && (ftruncate(fd, (off_t)tx->commit * tx->page_size) || (foreign && fchown(fd, parent.st_uid, parent.st_gid))))
        rc = err_errno(e, errno, "finish %s", temp);
    close(fd);
    if (!rc)
        rc = apply_put(n, db, temp, e);
    if (rc)
        unlinkat(n->mount_fd, temp, 0);
    return rc;
}

int apply_remove(struct node *n, struct database *db, struct err *e)
{
    apply_file_close(n, db);
    if (unlinkat(n->mount_fd, db->name, 0) && errno != ENOENT)
        return err_errno(e, errno, "remove %s", db->name);
    int rc = apply_remove_companions(n, db, e);
    if (rc)
        return rc;
    apply_remove_parents(n, db->name);
    return 0;
}
