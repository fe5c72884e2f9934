/* A file takes the place of a database's: the database began anew on the primary (another file was renamed over it or copied into it), or the copy here is
 * damaged, or it cannot be changed page by page under those who read it. Whoever has the old file open keeps it: that is what SQLite's connections do when a file
 * is renamed over theirs, on the primary too (https://sqlite.org/howtocorrupt.html §2.4), and the only way in which none of them sees pages of both. */
#include "replicator/apply/apply_file.h"

#include "lib/crc.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/apply/apply_records.h"
#include "replicator/database/resum.h"
#include "replicator/database/walview.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define OPENING_WAIT_NS 20000000u /* whoever opens a connection holds PENDING for microseconds */
#define READ_MAX (256 << 20)
#define CHUNK (1u << 20)

int apply_remove_companions(struct node *n, const struct database *db, struct err *e)
{
    static const char *const suffixes[] = {LAYOUT_WAL, LAYOUT_SHM, LAYOUT_JOURNAL};
    for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
        char name[LAYOUT_NAME_MAX + 16];
        snprintf(name, sizeof name, "%s%s", db->name, suffixes[i]);
        if (faccessat(n->db_fd, name, F_OK, AT_SYMLINK_NOFOLLOW)) /* usually; and that is no call into the mount */
            continue;
        if (unlinkat(n->mount_fd, name, 0) && errno != ENOENT)
            return err_errno(e, errno, "remove %s", name);
    }
    return 0;
}

void apply_distrust(struct node *n, struct database *db)
{
    db->spoilt = true;
    resum_needed(n, db);
    if (db->state != DATABASE_IMAGE)
        apply_needs_image(n, db, atomic_load(&n->applied) + 1, "its copy here was damaged: waiting for an image");
}

/* With PENDING locked no connection begins to read the old file (lockingv3 §5), and then finds that its WAL is gone. */
static int swap(struct node *n, struct database *db, const char *temp, int fd, struct err *e)
{
    uint64_t deadline = now_ns() + OPENING_WAIT_NS;
    int rc;
    while ((rc = lock_range(fd, F_WRLCK, DBLOCK_PENDING, 1)) == -EAGAIN && now_ns() < deadline)
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    if (rc)
        return rc == -EAGAIN ? err_set(e, ERR_AGAIN_LATER, "%s is being opened", db->name) : err_errno(e, -rc, "lock %s", db->name);
    rc = apply_remove_companions(n, db, e);
    if (!rc && renameat(n->mount_fd, temp, n->mount_fd, db->name))
        rc = err_errno(e, errno, "rename %s to %s", temp, db->name);
    if (rc)
        apply_distrust(n, db); /* what was in its WAL may be missing */
    (void)lock_range(fd, F_UNLCK, DBLOCK_PENDING, 1); /* letting go cannot fail */
    return rc;
}

/* A connection that has the old file open, but has not read from it yet, will find no WAL beside it: so the file should be whole by itself, as far as readers
 * let it for a while. */
static void make_whole(const struct node *n, sqlite3 *conn)
{
    uint64_t deadline = now_ns() + n->config->apply_wait_ms * UINT64_C(1000000);
    int frames = 0, copied = 0;
    while (sqlite3_wal_checkpoint_v2(conn, NULL, SQLITE_CHECKPOINT_PASSIVE, &frames, &copied) == SQLITE_OK && copied < frames && now_ns() < deadline)
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
}

int apply_put(struct node *n, struct database *db, const char *temp, struct err *e)
{
    struct apply_file *f = db->apply;
    bool open = f && f->open;
    if (faccessat(n->db_fd, db->name, F_OK, AT_SYMLINK_NOFOLLOW)) {
        apply_file_close(n, db);
        int rc = apply_remove_companions(n, db, e); /* of one that had the name before, and whose end was interrupted */
        if (!rc && renameat(n->mount_fd, temp, n->mount_fd, db->name))
            rc = err_errno(e, errno, "rename %s to %s", temp, db->name);
        return rc;
    }
    if (open && f->conn) {
        make_whole(n, f->conn);
        (void)sqlite3_db_config(f->conn, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL); /* by then the names are the new file's */
    }
    int own = open ? -1 : openat(n->mount_fd, db->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (!open && own < 0)
        return err_errno(e, errno, "open %s", db->name);
    int rc = swap(n, db, temp, open ? f->fence.db_fd : own, e);
    if (own >= 0)
        close(own);
    if (rc)
        return rc;
    apply_file_close(n, db);
    fence_drop_left(n, db);
    if (db->apps_open)
        log_info("apply", "%s is another file now: whoever had it open keeps the old one until it opens it again", db->name);
    db->apps_open = false;
    return 0;
}

/* True if the pages of fd are those that the sidecar knows. */
static bool as_known(const struct database *db, int fd)
{
    const struct dbstate *st = database_dbstate(db);
    uint32_t per = CHUNK / st->page_size, lock = lock_pgno(st->page_size);
    _cleanup_free_ uint8_t *buf = malloc(CHUNK);
    bool same = buf != NULL;
    for (uint32_t p = 1; same && p <= st->commit; p += per) {
        uint32_t k = MIN(per, st->commit - p + 1);
        size_t len = (size_t)k * st->page_size;
        same = pread(fd, buf, len, (off_t)(p - 1) * st->page_size) == (ssize_t)len;
        for (uint32_t i = 0; same && i < k; i++)
            same = p + i == lock || page_checksum(p + i, buf + (size_t)i * st->page_size, st->page_size) == sums_get(db->sums, p + i);
    }
    return same;
}

bool apply_spoilt(struct node *n, struct database *db)
{
    struct dbstate st = *database_dbstate(db);
    struct filestamp now = database_stamp(n->db_fd, db->name);
    struct err e;
    if (!st.txid || !st.page_size || !st.file.ino || st.torn || !now.ino || filestamp_same_contents(&st.file, &now) || walview_exists(n, db))
        return false;
    if (now.size == (int64_t)st.commit * st.page_size && now.size <= READ_MAX && database_load(n->databases, db, &e) == 0) {
        int fd = openat(n->db_fd, db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW); /* of the backing file: no lock of libsqlite3's goes with its close */
        bool same = fd >= 0 && as_known(db, fd);
        if (fd >= 0)
            close(fd);
        if (same) { /* only touched */
            database_settle(n->databases, db, &now);
            return false;
        }
    }
    apply_distrust(n, db);
    return true;
}
