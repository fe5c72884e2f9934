#include "ctl/launcher/datadir.h"

#include "lib/busy.h"
#include "ctl/launcher/mount.h"
#include "edgefs/layout.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>

#define RETRY_NS 50000000L

char *datadir_path(const char *data, const char *name, char *buf)
{
    snprintf(buf, PATH_MAX, "%s/%s", data, name);
    return buf;
}

/* ---- folders and locks ---------------------------------------------------------------------------------------------------- */

/* mkdir -p; only the last folder is private. */
static int make_data(const char *path, struct err *e)
{
    char part[PATH_MAX];
    size_t n = strlen(path);
    if (n >= sizeof part)
        return err_errno(e, ENAMETOOLONG, "%s", path);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != 0)
            continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (mkdir(part, path[i] ? 0755 : 0700) && errno != EEXIST)
            return err_errno(e, errno, "make the data directory: %s", part);
    }
    return 0;
}

static int make_folders(struct datadir *d, struct err *e)
{
    static const char *const folders[] = {LAYOUT_DB, LAYOUT_LOG, LAYOUT_SUMS, LAYOUT_ORPHANS, LAYOUT_RUN};
    char path[PATH_MAX];
    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        int failed = mkdir(datadir_path(d->path, folders[i], path), 0700) ? errno : 0;
        if (failed && failed != EEXIST)
            return err_errno(e, failed, "make %s", path);
        if (i == 0)
            d->db_created = failed == 0;
    }
    d->db = open(datadir_path(d->path, LAYOUT_DB, path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return d->db < 0 ? err_errno(e, errno, "%s", path) : 0;
}

static int lock_launcher(struct datadir *d, struct err *e)
{
    char path[PATH_MAX], holder[32] = "";
    datadir_path(d->path, LAYOUT_LOCK, path);
    d->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (d->lock < 0)
        return err_errno(e, errno, "%s", path);
    if (flock(d->lock, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK)
            return err_errno(e, errno, "lock %s", path);
        ssize_t n = pread(d->lock, holder, sizeof holder - 1, 0);
        holder[n > 0 ? strspn(holder, "0123456789") : 0] = 0;
        return err_set(e, -EBUSY, "the data directory %s is used by another edgefs (pid %s); edgefs stop --data %s would end it", d->path,
                       *holder ? holder : "unknown", d->path);
    }
    int n = snprintf(holder, sizeof holder, "%d\n", (int)getpid());
    if (ftruncate(d->lock, 0) || pwrite(d->lock, holder, (size_t)n, 0) != n)
        return err_errno(e, errno, "write %s", path);
    return 0;
}

/* ---- what an earlier launcher left ---------------------------------------------------------------------------------------- */

static void pause_until_retry(void)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL); /* waking early does no harm */
}

/* Unmounts what is mounted with this data directory as its source, if nobody uses it. 0: there is nothing (left); -EBUSY and *m:
 * somebody does. */
static int unmount_old(const struct datadir *d, bool lazily, struct mount_entry *m, struct err *e)
{
    for (;;) {
        int rc = mount_find(NULL, MOUNT_TYPE, d->path, m, e);
        if (rc <= 0)
            return rc;
        rc = mount_remove(m->dir, lazily);
        if (rc == -EBUSY)
            return rc;
        if (rc)
            return err_errno(e, -rc, "unmount %s, which an earlier launcher left", m->dir);
        log_warn("launcher", "unmounted %s, which an earlier launcher left", m->dir);
    }
}

static int say_old_programs(const struct datadir *d, const struct mount_entry *m, bool mounted, struct err *e)
{
    char who[BUSY_TEXT_MAX];
    struct busy_query q = {.on_device = mounted, .major = m->major, .minor = m->minor, .except_command = "edgefs-replicat"};
    if (mounted) {
        (void)busy_name(&q, who);
        return err_set(e, -EBUSY, "%s, the mount of a launcher that is gone, is still used by %s; stop it first", m->dir,
                       *who ? who : "a process that cannot be seen from here");
    }
    struct stat st;
    if (fstat(d->db, &st))
        return err_errno(e, errno, "%s/" LAYOUT_DB, d->path);
    q = (struct busy_query){.name = LAYOUT_DB, .dev = st.st_dev, .ino = st.st_ino};
    (void)busy_name(&q, who);
    return err_set(e, -EBUSY, "programs that an earlier launcher started for %s still run: %s", d->path,
                   *who ? who : "they cannot be seen from here");
}

/* Takes the db lock, once the programs of an earlier launcher are gone. See the essay in the header. */
static int lock_programs(struct datadir *d, struct err *e)
{
    uint64_t end = now_ns() + DATADIR_WAIT_MS * UINT64_C(1000000);
    struct mount_entry *m = calloc(1, sizeof *m);
    if (!m)
        return err_errno(e, ENOMEM, "mount table");
    int rc;
    for (bool said = false;; said = true) {
        bool alive = flock(d->db, LOCK_EX | LOCK_NB) != 0;
        if (alive && errno != EWOULDBLOCK) {
            rc = err_errno(e, errno, "lock %s/" LAYOUT_DB, d->path);
            break;
        }
        if (alive && !said)
            log_info("launcher", "programs of an earlier launcher still run on %s; unmounting it if nobody uses it", d->path);
        /* A mount that no program serves is of no use to those inside; what they may still write is found by the leases. */
        int old = unmount_old(d, !alive, m, e);
        rc = old < 0 && old != -EBUSY ? old : 0;
        if (rc || !alive)
            break;
        if (now_ns() > end) {
            rc = say_old_programs(d, m, old == -EBUSY, e);
            break;
        }
        pause_until_retry();
    }
    free(m);
    return rc;
}

int datadir_open(struct datadir *d, const char *path, struct err *e)
{
    *d = (struct datadir){.lock = -1, .db = -1};
    int rc = make_data(path, e);
    if (rc)
        return rc;
    if (!(d->path = realpath(path, NULL)))
        return err_errno(e, errno, "%s", path);
    if ((rc = lock_launcher(d, e)) || (rc = make_folders(d, e)) || (rc = lock_programs(d, e)))
        datadir_close(d);
    return rc;
}

void datadir_close(struct datadir *d)
{
    if (d->db >= 0)
        close(d->db);
    if (d->lock >= 0)
        close(d->lock);
    free(d->path);
    *d = (struct datadir){.lock = -1, .db = -1};
}

int datadir_adopt_owner(const struct datadir *d, const char *mount_point, struct err *e)
{
    struct stat st;
    if (!d->db_created)
        return 0;
    if (stat(mount_point, &st))
        return err_errno(e, errno, "%s", mount_point);
    if (fchown(d->db, st.st_uid, st.st_gid) || fchmod(d->db, st.st_mode & 07777))
        return err_errno(e, errno, "owner and mode of %s/" LAYOUT_DB, d->path);
    return 0;
}

/* ---- files that are still open -------------------------------------------------------------------------------------------- */

/* 1: somebody else has this file open or mapped; 0: nobody; or -errno. fcntl(2), F_SETLEASE: a write lease is granted only if there
 * are no other open file descriptions of the file. */
static int is_open(const char *path, bool *unsupported)
{
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    if (fcntl(fd, F_SETLEASE, F_WRLCK)) {
        if (errno == EAGAIN || errno == EBUSY)
            return 1;
        *unsupported = true;
        return 0;
    }
    (void)fcntl(fd, F_SETLEASE, F_UNLCK); /* closing would do */
    return 0;
}

/* The first file under root that is open: 1 and its path; 0: none; or -errno. */
static int find_open(const char *root, char path[PATH_MAX], bool *unsupported, struct err *e)
{
    char *roots[] = {(char *)(uintptr_t)root, NULL};
    FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, NULL);
    if (!walk)
        return err_errno(e, errno, "%s", root);
    int rc = 0;
    FTSENT *entry;
    while (!rc && (errno = 0, entry = fts_read(walk))) {
        if (entry->fts_info == FTS_DNR || entry->fts_info == FTS_ERR)
            rc = err_errno(e, entry->fts_errno, "%s", entry->fts_path);
        else if (entry->fts_info == FTS_F && (rc = is_open(entry->fts_path, unsupported)) != 0)
            snprintf(path, PATH_MAX, "%s", entry->fts_path);
        if (rc < 0 && entry->fts_info == FTS_F)
            err_errno(e, -rc, "%s", path);
    }
    if (!rc && errno)
        rc = err_errno(e, errno, "%s", root);
    (void)fts_close(walk); /* only read */
    return rc;
}

static int say_open(const struct datadir *d, const char *path, struct err *e)
{
    char who[BUSY_TEXT_MAX] = "";
    struct stat st;
    const char *name = strrchr(path, '/') + 1;
    if (!stat(path, &st)) {
        struct busy_query q = {.name = name, .dev = st.st_dev, .ino = st.st_ino};
        (void)busy_name(&q, who);
    }
    return err_set(e, -EBUSY, "%.120s in %.120s is still open by %s; stop it first", path + strlen(d->path) + sizeof LAYOUT_DB + 1, d->path,
                   *who ? who : "a process that cannot be seen from here");
}

/* Nobody has the database open, so SQLite would build its wal-index anew. After a crash of the machine an old one may speak of frames
 * that never reached the disk, and edgefs-replicator, which maps it, would keep SQLite from noticing. */
int datadir_remove_indexes(const struct datadir *d, struct err *e)
{
    char root[PATH_MAX];
    datadir_path(d->path, LAYOUT_DB, root);
    char *roots[] = {root, NULL};
    FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, NULL);
    if (!walk)
        return err_errno(e, errno, "%s", root);
    int rc = 0;
    FTSENT *entry;
    while (!rc && (entry = fts_read(walk))) {
        size_t n = strlen(entry->fts_name), k = strlen(LAYOUT_SHM);
        if (entry->fts_info == FTS_F && n > k && !strcmp(entry->fts_name + n - k, LAYOUT_SHM) && unlink(entry->fts_path))
            rc = err_errno(e, errno, "remove %s", entry->fts_path);
    }
    (void)fts_close(walk); /* only read */
    return rc;
}

int datadir_check_unused(const struct datadir *d, struct err *e)
{
    char root[PATH_MAX], path[PATH_MAX] = "";
    uint64_t end = now_ns() + DATADIR_WAIT_MS * UINT64_C(1000000);
    bool unsupported = false;
    int rc;
    datadir_path(d->path, LAYOUT_DB, root);
    signal(SIGIO, SIG_IGN); /* who opens a file while its lease is held for a moment makes the kernel send it */
    for (bool said = false; (rc = find_open(root, path, &unsupported, e)) == 1; said = true) {
        if (now_ns() > end) {
            rc = say_open(d, path, e);
            break;
        }
        if (!said)
            log_info("launcher", "%s is still open; waiting up to %d s", path, DATADIR_WAIT_MS / 1000);
        pause_until_retry();
    }
    signal(SIGIO, SIG_DFL);
    if (!rc && unsupported)
        log_warn("launcher", "%s: the file system knows no leases: make sure yourself that no process has kept files open there", root);
    return rc;
}
