#include "fs/atrest.h"

#include "fs/files.h"
#include "fs/hookserver.h"
#include "fs/journals.h"
#include "fs/names.h"
#include "lib/util.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int64_t ns(struct timespec t)
{
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Path of the database with this inode number, if neither a WAL nor a valid journal lies beside it. */
static bool is_alone(struct fs *fs, fuse_ino_t ino, char *path)
{
    char companion[FS_PATH_MAX + sizeof LAYOUT_JOURNAL];
    struct stat st;
    table_lock(fs->table);
    const struct shared_inode *i = table_inode(fs->table, ino);
    bool database = i && name_is_database(name_kind(i->name, i->name_len, NULL)) && table_path(fs->table, (uint32_t)ino, path, FS_PATH_MAX + 1) > 0;
    table_unlock(fs->table);
    if (!database)
        return false;
    snprintf(companion, sizeof companion, "%s%s", path, LAYOUT_WAL);
    if (fstatat(fs->db_fd, companion, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return false;
    snprintf(companion, sizeof companion, "%s%s", path, LAYOUT_JOURNAL);
    _cleanup_fd_ int fd = openat(fs->db_fd, companion, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 || !journals_valid(fd);
}

/* Gives the file a modification time of its own. */
static bool stamp(struct fs *fs, fuse_ino_t ino, struct stat *st)
{
    int fd = files_get(fs, ino, false);
    if (fd < 0)
        return false;
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}};
    clock_gettime(CLOCK_REALTIME, &times[1]);
    bool done = !futimens(fd, times) && !fstat(fd, st);
    files_put(fs, ino);
    return done;
}

static void tell(struct fs *fs, fuse_ino_t ino, const struct stat *before, pid_t tid)
{
    char path[FS_PATH_MAX + 1], text[160];
    struct stat now;
    if (!is_alone(fs, ino, path) || !stamp(fs, ino, &now))
        return;
    if (!before)
        before = &now;
    snprintf(text, sizeof text, "%" PRIu64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64, (uint64_t)now.st_ino, (int64_t)before->st_size,
             ns(before->st_mtim), (int64_t)now.st_size, ns(now.st_mtim));
    table_lock(fs->table);
    (void)hookserver_tell_value(fs, HOOK_AT_REST, (uint64_t)tid, path, text); /* nobody there: all is compared when somebody is */
    table_unlock(fs->table);
}

void atrest_synced(struct fs *fs, fuse_ino_t ino, pid_t tid)
{
    tell(fs, ino, NULL, tid);
}

void atrest_cut(struct fs *fs, fuse_ino_t ino, const struct stat *before, pid_t tid)
{
    if (before->st_ino)
        tell(fs, ino, before, tid);
}
