#include "replicator/database/walview.h"

#include "lib/util.h"
#include "lib/log.h"
#include "replicator/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define CLOSE_RETRY_NS 10000000u

/* Everybody who uses a wal-index holds DMS shared. If nobody does, the file is what a killed process, or one before PRAGMA
 * locking_mode=EXCLUSIVE, has left: not to be believed; and SQLite makes it empty when it is opened next, unless we hold DMS. */
static bool in_use(int shm_fd)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = WALINDEX_DMS_LOCK, .l_len = 1};
    return fcntl(shm_fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
}

int walview_open(struct node *n, struct database *db, bool writable, struct walview *v, struct err *e)
{
    char name[LAYOUT_NAME_MAX + sizeof LAYOUT_SHM];
    *v = (struct walview){.shm_fd = -1, .wal_fd = -1};
    snprintf(name, sizeof name, "%s%s", db->name, LAYOUT_SHM);
    int rc;
    v->shm_fd = openat(n->mount_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (v->shm_fd < 0) {
        v->no_index = errno == ENOENT;
        return err_errno(e, errno, "open %s", name) == -ENOENT ? ERR_AGAIN_LATER : -errno;
    }
    struct stat st;
    bool no_index = !in_use(v->shm_fd);
    if (no_index) {
        rc = err_set(e, ERR_AGAIN_LATER, "%s is nobody's", name);
        goto fail;
    }
    /* Exclusive holders keep DMS for moments only (unixLockSharedMemory). */
    rc = lock_range(v->shm_fd, F_RDLCK, WALINDEX_DMS_LOCK, 1);
    if (rc) {
        rc = err_set(e, ERR_AGAIN_LATER, "%s is being set up", name);
        goto fail;
    }
    if (fstat(v->shm_fd, &st) || st.st_nlink == 0) {
        rc = err_set(e, ERR_AGAIN_LATER, "%s is gone again", name);
        goto fail;
    }
    rc = walindex_open(v->shm_fd, writable, &v->index, e);
    if (rc)
        goto fail;
    snprintf(name, sizeof name, "%s%s", db->name, LAYOUT_WAL);
    v->wal_fd = openat(n->db_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (v->wal_fd < 0) {
        rc = errno == ENOENT ? err_set(e, ERR_AGAIN_LATER, "%s is gone again", name) : err_errno(e, errno, "open %s", name);
        goto fail;
    }
    /* Between the two the last connection may have closed and another one opened: then they do not belong together. */
    if (!fstat(v->shm_fd, &st) && st.st_nlink)
        return 0;
    rc = err_set(e, ERR_AGAIN_LATER, "%s was replaced just now", name);
fail:
    walview_put_away(n, db, v);
    v->no_index = no_index;
    return rc;
}

int walview_open_frames(struct node *n, const struct database *db, struct walview *v, struct err *e)
{
    char name[LAYOUT_NAME_MAX + sizeof LAYOUT_WAL];
    *v = (struct walview){.shm_fd = -1, .wal_fd = -1};
    snprintf(name, sizeof name, "%s%s", db->name, LAYOUT_WAL);
    v->wal_fd = openat(n->db_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (v->wal_fd >= 0)
        return 0;
    return errno == ENOENT ? err_set(e, ERR_AGAIN_LATER, "%s is gone again", name) : err_errno(e, errno, "open %s", name);
}

void walview_close_held(struct walview *v)
{
    walindex_close(v->index);
    if (v->shm_fd >= 0)
        close(v->shm_fd);
    if (v->wal_fd >= 0)
        close(v->wal_fd);
    *v = (struct walview){.shm_fd = -1, .wal_fd = -1};
}

/* worker_fn: closes a view that was put away (arg), once nobody uses libsqlite3 on the database. */
static void close_job(struct node *n, struct database *db, uint64_t arg)
{
    struct walview *v = (struct walview *)(uintptr_t)arg;
    if (pthread_mutex_trylock(&db->sqlite)) {
        if (worker_post(n->worker, close_job, db, arg, CLOSE_RETRY_NS))
            log_error("capture", "%s: no memory to close its WAL", db->name); /* two descriptors stay open */
        return;
    }
    walview_close_held(v);
    pthread_mutex_unlock(&db->sqlite);
    free(v);
}

void walview_put_away(struct node *n, struct database *db, struct walview *v)
{
    walview_release(v);
    if (v->shm_fd >= 0) /* now, not when it is closed: whoever comes next must not take what is left for valid */
        (void)lock_range(v->shm_fd, F_UNLCK, WALINDEX_DMS_LOCK, 1);
    struct walview *copy = malloc(sizeof *copy);
    if (copy)
        *copy = *v;
    if (!copy || worker_post(n->worker, close_job, db, (uint64_t)(uintptr_t)copy, 0)) {
        log_error("capture", "%s: no memory to close its WAL", db->name); /* better than to close here, and wait */
        free(copy);
    }
    *v = (struct walview){.shm_fd = -1, .wal_fd = -1};
}

void walview_close(struct database *db, struct walview *v)
{
    pthread_mutex_lock(&db->sqlite);
    walview_close_held(v);
    pthread_mutex_unlock(&db->sqlite);
}

bool walview_exists(const struct node *n, const struct database *db)
{
    char name[LAYOUT_NAME_MAX + sizeof LAYOUT_WAL];
    snprintf(name, sizeof name, "%s%s", db->name, LAYOUT_WAL);
    return faccessat(n->db_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

bool walview_has_shm(const struct node *n, const struct database *db)
{
    char name[LAYOUT_NAME_MAX + sizeof LAYOUT_SHM];
    snprintf(name, sizeof name, "%s%s", db->name, LAYOUT_SHM);
    return faccessat(n->db_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

bool walview_current(const struct node *n, const struct database *db, const struct walview *v)
{
    char name[LAYOUT_NAME_MAX + sizeof LAYOUT_WAL];
    struct stat open_one, named, shm;
    snprintf(name, sizeof name, "%s%s", db->name, LAYOUT_WAL);
    return (v->shm_fd < 0 || (!fstat(v->shm_fd, &shm) && shm.st_nlink)) && !fstat(v->wal_fd, &open_one) && !fstatat(n->db_fd, name, &named, AT_SYMLINK_NOFOLLOW) &&
           open_one.st_ino == named.st_ino && open_one.st_dev == named.st_dev;
}

int walview_hold(struct walview *v)
{
    int rc = lock_range(v->shm_fd, F_RDLCK, WALINDEX_READ_LOCK(4), 1);
    v->slot4 = rc == 0;
    return rc;
}

void walview_release(struct walview *v)
{
    if (v->slot4) /* letting go of a lock that we have cannot fail */
        (void)lock_range(v->shm_fd, F_UNLCK, WALINDEX_READ_LOCK(4), 1);
    v->slot4 = false;
}

int walview_header(struct walview *v)
{
    uint8_t buf[WAL_HEADER_SIZE];
    if (pread(v->wal_fd, buf, sizeof buf, 0) != (ssize_t)sizeof buf || wal_header_decode(buf, &v->header))
        return ERR_AGAIN_LATER;
    return 0;
}

/* Page size and size in pages of the database file, as its own header has them: what is tracked may be of before a change of page size. */
static bool file_size_in_pages(const struct node *n, const struct database *db, uint32_t *page_size, uint32_t *pages)
{
    uint8_t buf[DBFILE_HEADER_SIZE];
    struct dbfile_header h;
    struct stat st;
    _cleanup_fd_ int fd = openat(n->db_fd, db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || pread(fd, buf, sizeof buf, 0) != (ssize_t)sizeof buf || dbfile_header_decode(buf, sizeof buf, &h) || fstat(fd, &st))
        return false;
    *page_size = h.page_size;
    *pages = (uint32_t)(st.st_size / h.page_size);
    return *pages > 0;
}

#define READ_SLOTS 5
#define LOCK_OUT_TRIES 60

/* Nobody has a snapshot: who has read the header would find it changed when it begins to write, and get SQLITE_BUSY_SNAPSHOT (wal.c,
 * sqlite3WalBeginWriteTransaction). And, since a writer needs a read lock first and tries again for that, none meets our write lock and gets SQLITE_BUSY.
 * The last slot is left out if it is ours: readers take it only when all others are locked. */
static bool lock_out(int shm_fd, int slots)
{
    /* One that reads without pause lets go between its transactions, for a few µs. */
    for (int i = 0; lock_range(shm_fd, F_WRLCK, WALINDEX_READ_LOCK(0), slots); i++) {
        if (i == LOCK_OUT_TRIES)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = 1000 + i % 7 * 3000}, NULL);
    }
    if (!lock_range(shm_fd, F_WRLCK, WALINDEX_WRITE_LOCK, 1))
        return true;
    (void)lock_range(shm_fd, F_UNLCK, WALINDEX_READ_LOCK(0), slots);
    return false;
}

static void let_in(int shm_fd, int slots)
{
    (void)lock_range(shm_fd, F_UNLCK, WALINDEX_WRITE_LOCK, 1);
    (void)lock_range(shm_fd, F_UNLCK, WALINDEX_READ_LOCK(0), slots);
}

bool walview_say_size(const struct node *n, const struct database *db, struct walindex *index, int shm_fd, bool fenced, bool slot4_is_ours)
{
    struct walindex_header h;
    uint32_t page_size, pages;
    int slots = slot4_is_ours ? READ_SLOTS - 1 : READ_SLOTS;
    if (walindex_read(index, &h) || h.max_frame || h.page_count)
        return true;
    if (!fenced && !lock_out(shm_fd, slots))
        return false;
    if (!walindex_read(index, &h) && !h.max_frame && !h.page_count && file_size_in_pages(n, db, &page_size, &pages)) {
        h.page_size = page_size;
        h.page_count = pages;
        h.change++;
        walindex_publish(index, &h);
    }
    if (!fenced)
        let_in(shm_fd, slots);
    return true;
}
