/* Directories: listing and fsync. A listing has no state here: each request opens the backing directory and goes to the offset that the
 * kernel names, which is the backing file system's own, so a restart in the middle of a listing is not noticed.
 *
 * Not listed: private names, what is neither file nor directory, virtual files (virtual.h). So a listing is the same for everybody, and the kernel may keep it
 * until something in the directory changes.
 *
 * Nor is there anything to open: the kernel is told so once (ENOSYS), and then opens directories by itself. SQLite opens and syncs the directory with each journal that
 * it makes. */
#include "fs/ops.h"

#include "fs/dirsync.h"
#include "fs/files.h"
#include "lib/util.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define BATCH 32768 /* bytes of entries read at a time */

struct linux_dirent64 { /* getdents64(2) */
    uint64_t d_ino;
    int64_t d_off;
    uint16_t d_reclen;
    uint8_t d_type;
    char d_name[];
};

static bool opens_itself; /* constant once INIT was answered */

void ops_dir_init(const struct fuse_conn_info *conn)
{
    opens_itself = (conn->capable & FUSE_CAP_NO_OPENDIR_SUPPORT) != 0; /* Linux 5.1 */
}

void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    if (opens_itself)
        fuse_reply_err(req, ENOSYS);
    else
        fuse_reply_open(req, fi);
}

static int open_directory(struct fs *fs, fuse_ino_t ino)
{
    struct where w;
    pthread_rwlock_rdlock(&fs->ns);
    int fd = files_where(fs, ino, &w);
    if (fd == 0) {
        fd = openat(w.dirfd, w.path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            fd = errno == ENOENT ? -ESTALE : -errno;
    }
    pthread_rwlock_unlock(&fs->ns);
    return fd;
}

static bool listed(int dirfd, const struct linux_dirent64 *d, mode_t *type)
{
    struct stat st;
    *type = d->d_type == DT_DIR ? S_IFDIR : S_IFREG;
    if (name_kind(d->d_name, strlen(d->d_name), NULL) == NAME_PRIVATE)
        return false;
    if (d->d_type == DT_UNKNOWN) {
        if (fstatat(dirfd, d->d_name, &st, AT_SYMLINK_NOFOLLOW))
            return false;
        *type = st.st_mode & S_IFMT;
        return S_ISDIR(st.st_mode) || S_ISREG(st.st_mode);
    }
    return d->d_type == DT_DIR || d->d_type == DT_REG;
}

/* Copies the entries of one batch. Bytes used in out; *full: the next one did not fit. */
static size_t copy_batch(fuse_req_t req, int dirfd, const char *batch, size_t n, char *out, size_t room, bool *full)
{
    size_t used = 0;
    for (size_t at = 0; at < n && !*full;) {
        const struct linux_dirent64 *d = (const void *)(batch + at);
        at += d->d_reclen;
        struct stat st = {.st_ino = d->d_ino};
        if (!listed(dirfd, d, &st.st_mode))
            continue;
        size_t need = fuse_add_direntry(req, out + used, room - used, d->d_name, &st, d->d_off);
        if (need > room - used)
            *full = true;
        else
            used += need;
    }
    return used;
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    (void)fi;
    struct call c;
    call_begin(&c, req);
    bool full = false;
    char batch[BATCH] __attribute__((aligned(8)));
    _cleanup_free_ char *out = malloc(size);
    _cleanup_fd_ int fd = out ? open_directory(c.fs, ino) : -ENOMEM;
    size_t used = 0;
    long n = 0;
    if (fd < 0) {
        call_reply(&c, -fd);
        return;
    }
    if (off && lseek(fd, off, SEEK_SET) < 0)
        n = -1;
    while (n >= 0 && !full && (n = syscall(SYS_getdents64, fd, batch, sizeof batch)) > 0)
        used += copy_batch(req, fd, batch, (size_t)n, out + used, size - used, &full);
    if (n < 0 && used == 0)
        call_reply(&c, errno);
    else {
        fuse_reply_buf(req, out, used);
        call_end(&c);
    }
}

void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)fi;
    struct call c;
    call_begin(&c, req);
    _cleanup_fd_ int fd = open_directory(c.fs, ino);
    uint64_t before = dirsync_now(c.fs->dirsync);
    struct stat st;
    int err = fd < 0 ? -fd : fstat(fd, &st) ? errno : 0;
    if (!err && !dirsync_clean(c.fs->dirsync, (uint32_t)ino, st.st_dev)) {
        if (datasync ? fdatasync(fd) : fsync(fd))
            err = errno;
        else
            dirsync_synced(c.fs->dirsync, (uint32_t)ino, before);
    }
    call_reply(&c, err);
}
