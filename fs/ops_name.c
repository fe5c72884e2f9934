/* Names come into being: look-up, create, mknod, mkdir; and are forgotten. */
#include "fs/ops.h"

#include "fs/dirsync.h"
#include "fs/files.h"
#include "fs/journals.h"
#include "fs/passthrough.h"
#include "fs/virtual.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

/* Symbolic links and special files that somebody put into the backing directory do not exist here: a link could lead out of it. */
static bool shown(const struct stat *st)
{
    return S_ISREG(st->st_mode) || S_ISDIR(st->st_mode);
}

/* A predecessor counted the look-up: only the reply is missing. */
static void reply_again(struct call *c)
{
    struct stat st = {0};
    uint32_t ino = c->slot->ino;
    int rc = virtual_inode(c->fs, ino) ? 0 : files_stat(c->fs, ino, &st);
    if (rc) {
        ops_forget(c->fs, ino, 1);
        call_reply(c, ops_errno(rc));
        return;
    }
    if (!st.st_mode) { /* virtual: its attributes are not cached anyway */
        st.st_mode = S_IFREG | 0444;
        st.st_nlink = 1;
        st.st_ino = ino;
    }
    ops_reply_entry(c, ino, &st);
}

/* The kernel may remember that there is no such name: only through this mount can it come. */
static void reply_negative(struct call *c)
{
    struct fuse_entry_param e = {.entry_timeout = OPS_FOREVER};
    fuse_reply_entry(c->req, &e);
    call_end(c);
}

static int lookup_backing(struct call *c, uint32_t parent, const char *name, struct stat *st, uint32_t *ino)
{
    struct fs *fs = c->fs;
    struct where w;
    int rc = files_where_child(fs, parent, name, &w);
    if (rc)
        return -rc;
    if (fstatat(w.dirfd, w.path, st, AT_SYMLINK_NOFOLLOW))
        return errno;
    if (!shown(st))
        return ENOENT;
    call_slot(c);
    table_lock(fs->table);
    *ino = ops_look_up(fs, parent, name, st, S_ISDIR(st->st_mode) ? (uint32_t)INODE_DIR : 0u);
    if (*ino)
        call_done(c, *ino, 0);
    table_commit(fs->table);
    table_unlock(fs->table);
    return *ino ? 0 : ENFILE;
}

void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct call c;
    call_begin(&c, req);
    struct fs *fs = c.fs;
    if (c.seen == SLOT_DONE) {
        reply_again(&c);
        return;
    }
    size_t len = strlen(name);
    if (len > SHARED_NAME_MAX) {
        call_reply(&c, ENAMETOOLONG);
        return;
    }
    enum name_kind k = name_kind(name, len, NULL);
    if (k == NAME_PRIVATE && !call_is_replicator(&c)) {
        call_reply(&c, ENOENT);
        return;
    }
    struct stat st;
    uint32_t ino = 0;
    bool is_virtual = false;
    pthread_rwlock_rdlock(&fs->ns);
    if (k == NAME_POS || name[0] == '.')
        is_virtual = virtual_is(fs, parent, name);
    int err = is_virtual ? 0 : lookup_backing(&c, (uint32_t)parent, name, &st, &ino);
    pthread_rwlock_unlock(&fs->ns);
    if (is_virtual)
        virtual_lookup(&c, (uint32_t)parent, name);
    else if (err == ENOENT && k != NAME_PRIVATE && k != NAME_POS)
        reply_negative(&c);
    else if (err)
        call_reply(&c, err);
    else
        ops_reply_entry(&c, ino, &st);
}

void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
    ops_forget(fuse_req_userdata(req), ino, nlookup);
    fuse_reply_none(req);
}

void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        ops_forget(fuse_req_userdata(req), forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

/* ---- creation ---- */

/* On a replica a connection finds the -wal and the -shm of its database, because the fence made them. But one that opened the database while this
 * node was primary may come to make them just after: refusing would make it fail, allowing does no harm, since it cannot write
 * without the lock that the fence takes. */
static bool is_companion_of_database(struct call *c, uint64_t parent, const char *name, size_t base_len)
{
    char path[FS_PATH_MAX + 1];
    struct stat st;
    if (ops_child_path(c->fs, parent, name, path))
        return false;
    path[strlen(path) - (strlen(name) - base_len)] = 0;
    return fstatat(c->fs->db_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

/* 0 or errno: may this name be made by the caller? The caller holds fs->ns. */
static int may_create(struct call *c, uint64_t parent, const char *name)
{
    size_t len = strlen(name), base_len = 0;
    if (len > SHARED_NAME_MAX)
        return ENAMETOOLONG;
    enum name_kind k = name_kind(name, len, &base_len);
    int err = call_may_change(c);
    if (err == EROFS && (k == NAME_WAL || k == NAME_SHM) && is_companion_of_database(c, parent, name, base_len))
        err = 0;
    if (err)
        return err;
    if (k == NAME_PRIVATE && !call_is_replicator(c))
        return EACCES;
    return (k == NAME_POS || name[0] == '.') && virtual_is(c->fs, parent, name) ? EACCES : 0;
}

/* Gives what was just made to the caller, as a file system does: its user, and its group unless the directory hands its own down (then
 * the backing file system has done so). Repeated after a kill: harmless. Returns 0 or errno. */
static int give_to_caller(const struct call *c, const struct where *w)
{
    struct stat st, dir;
    if (fstatat(w->dirfd, w->path, &st, AT_SYMLINK_NOFOLLOW))
        return errno;
    if (st.st_uid == c->uid && st.st_gid == c->gid)
        return 0;
    struct where p = *w;
    char *slash = strrchr(p.path, '/');
    if (slash)
        *slash = 0;
    else
        memcpy(p.path, ".", 2);
    if (fstatat(p.dirfd, p.path, &dir, AT_SYMLINK_NOFOLLOW))
        return errno;
    gid_t gid = dir.st_mode & S_ISGID ? (gid_t)-1 : c->gid;
    return fchownat(w->dirfd, w->path, c->uid, gid, AT_SYMLINK_NOFOLLOW) ? errno : 0;
}

/* A new backing file, open. The descriptor or -errno. exclusive: EEXIST if it is there already, unless we made it before a kill. */
static int create_backing(struct call *c, const struct where *w, mode_t mode, bool exclusive)
{
    bool again = c->seen == SLOT_STARTED, made = true;
    call_slot(c);
    slots_start(c->slot, 0, 0);
    int fd = openat(w->dirfd, w->path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode & OPS_FILE_MODE);
    if (fd < 0 && errno == EEXIST && (again || !exclusive)) {
        made = again;
        fd = openat(w->dirfd, w->path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    }
    if (fd < 0)
        return -errno;
    int err = made ? give_to_caller(c, w) : 0;
    if (err) {
        close(fd);
        (void)unlinkat(w->dirfd, w->path, 0); /* best effort: the error that is reported is the first one */
        return -err;
    }
    return fd;
}

struct created {
    uint32_t ino;
    int32_t backing_id;
    uint64_t fh;
    struct stat st;
};

/* fs->ns held for reading. fd is closed or kept. open: counts an open description too. 0 or errno. */
static int enter_created(struct call *c, uint32_t parent, const char *name, int fd, bool open, struct created *out)
{
    struct fs *fs = c->fs;
    enum name_kind k = name_kind(name, strlen(name), NULL);
    bool replicator = call_is_replicator(c), first = true;
    if (fstat(fd, &out->st) || !S_ISREG(out->st.st_mode)) {
        close(fd);
        return EIO;
    }
    if (open) {
        table_lock(fs->table);
        bool see_writes = k == NAME_JOURNAL && !ops_syncs(fs, parent, name);
        uint32_t known = table_find(fs->table, parent, name, strlen(name));
        table_unlock(fs->table);
        out->backing_id = passthrough_begin(fs, known, fd, see_writes, &first);
    }
    table_lock(fs->table);
    out->ino = ops_look_up(fs, parent, name, &out->st, 0);
    if (out->ino) {
        if (open)
            passthrough_count(fs, out->ino, out->backing_id, replicator);
        call_done(c, out->ino, 0);
    }
    table_commit(fs->table);
    if (out->ino && call_is_hooked(c)) {
        if (k != NAME_JOURNAL || !ops_database_open(fs, parent, name)) /* one a transaction: whoever writes the database says more */
            ops_tell(fs, HOOK_CREATED, parent, name, 0, NULL);
        if (open && name_is_database(k) && table_shared(fs->table)->inodes[out->ino].opens_app == 1)
            ops_tell(fs, HOOK_OPENED, parent, name, 0, NULL);
    }
    table_unlock(fs->table);
    if (out->ino && k == NAME_JOURNAL && out->backing_id)
        journals_opened(fs->journals, out->ino, fd, first);
    if (open)
        passthrough_end(fs, out->ino, out->backing_id, out->ino != 0);
    if (open && out->ino)
        files_adopt(fs, out->ino, fd);
    else
        close(fd);
    out->fh = ops_fh(k, O_RDWR, replicator);
    return out->ino ? 0 : ENFILE;
}

/* Reply to a CREATE whose open was counted before the kill. */
static int created_before(struct call *c, const char *name, struct created *out)
{
    struct fs *fs = c->fs;
    enum name_kind k = name_kind(name, strlen(name), NULL);
    out->ino = c->slot->ino;
    int rc = files_stat(fs, out->ino, &out->st);
    if (rc)
        return ops_errno(rc);
    table_lock(fs->table);
    out->backing_id = table_shared(fs->table)->inodes[out->ino].backing_id;
    table_unlock(fs->table);
    out->fh = ops_fh(k, O_RDWR, call_is_replicator(c));
    return 0;
}

/* Makes a regular file and enters it. 0 or errno. */
static int create_file(struct call *c, uint64_t parent, const char *name, mode_t mode, int flags, bool open, struct created *out)
{
    struct fs *fs = c->fs;
    struct where w;
    pthread_rwlock_rdlock(&fs->ns);
    uint64_t before = dirsync_now(fs->dirsync), number = 0;
    int err = may_create(c, parent, name);
    if (!err)
        err = ops_errno(files_where_child(fs, parent, name, &w));
    if (!err) {
        int fd = create_backing(c, &w, mode, !open || (flags & O_EXCL));
        if (fd >= 0)
            number = dirsync_changed(fs->dirsync);
        struct stat st;
        /* Only a file that came past the mount. (An empty one must be left alone: ext4 takes a truncation to nothing for the beginning of a file's
         * replacement, and writes all of it out when it is closed.) */
        if (fd >= 0 && (flags & O_TRUNC) && !fstat(fd, &st) && st.st_size > 0 && ftruncate(fd, 0))
            log_warn("ops", "%s: truncate: %s", w.path, err_name(errno));
        err = fd < 0 ? -fd : enter_created(c, (uint32_t)parent, name, fd, open, out);
    }
    if (!err)
        dirsync_made(fs->dirsync, out->ino, table_shared(fs->table)->inodes[out->ino].generation, out->st.st_dev, before, number);
    pthread_rwlock_unlock(&fs->ns);
    return err;
}

void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
    struct call c;
    struct created made = {0};
    call_begin(&c, req);
    int err = c.seen == SLOT_DONE ? created_before(&c, name, &made) : create_file(&c, parent, name, mode, fi->flags, true, &made);
    if (err) {
        call_reply(&c, err);
        return;
    }
    struct fuse_entry_param e;
    ops_entry(c.fs, made.ino, &made.st, &e);
    if (passthrough_reply_create(req, &e, made.fh, made.backing_id) == -ENOENT) {
        ops_release(c.fs, NULL, made.ino, made.fh);
        ops_forget(c.fs, made.ino, 1);
    }
    call_end(&c);
}

void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    (void)rdev;
    struct call c;
    struct created made = {0};
    call_begin(&c, req);
    if (c.seen == SLOT_DONE) {
        reply_again(&c);
        return;
    }
    /* Devices, sockets and pipes cannot be replicated. */
    int err = S_ISREG(mode) ? create_file(&c, parent, name, mode, 0, false, &made) : EPERM;
    if (err)
        call_reply(&c, err);
    else
        ops_reply_entry(&c, made.ino, &made.st);
}

static int make_directory(struct call *c, uint64_t parent, const char *name, mode_t mode, struct stat *st, uint32_t *ino)
{
    struct fs *fs = c->fs;
    struct where w;
    int err = may_create(c, parent, name);
    if (!err)
        err = ops_errno(files_where_child(fs, parent, name, &w));
    if (err)
        return err;
    bool again = c->seen == SLOT_STARTED;
    call_slot(c);
    slots_start(c->slot, 0, 0);
    if (mkdirat(w.dirfd, w.path, mode & 07777) && !(errno == EEXIST && again))
        return errno;
    err = give_to_caller(c, &w);
    dirsync_changed(fs->dirsync);
    if (err) {
        (void)unlinkat(w.dirfd, w.path, AT_REMOVEDIR); /* best effort */
        return err;
    }
    if (fstatat(w.dirfd, w.path, st, AT_SYMLINK_NOFOLLOW))
        return errno;
    table_lock(fs->table);
    *ino = ops_look_up(fs, (uint32_t)parent, name, st, INODE_DIR);
    if (*ino)
        call_done(c, *ino, 0);
    table_commit(fs->table);
    if (*ino && call_is_hooked(c))
        ops_tell(fs, HOOK_DIR_CREATED, (uint32_t)parent, name, 0, NULL);
    table_unlock(fs->table);
    return *ino ? 0 : ENFILE;
}

void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct call c;
    call_begin(&c, req);
    if (c.seen == SLOT_DONE) {
        reply_again(&c);
        return;
    }
    struct stat st;
    uint32_t ino = 0;
    pthread_rwlock_rdlock(&c.fs->ns);
    int err = make_directory(&c, parent, name, mode, &st, &ino);
    pthread_rwlock_unlock(&c.fs->ns);
    if (err)
        call_reply(&c, err);
    else
        ops_reply_entry(&c, ino, &st);
}

/* EPERM is what link(2) and symlink(2) document for file systems without links. A link to a database would be a second name for the same
 * WAL, which SQLite does not survive either. Said once for each kind: whoever meets it finds out in the log why. */
static void refuse_link(fuse_req_t req, fuse_ino_t parent, const char *name, const char *kind, int *said)
{
    struct fs *fs = fuse_req_userdata(req);
    char path[FS_PATH_MAX + 1];
    if (!__atomic_exchange_n(said, 1, __ATOMIC_RELAXED)) {
        bool known = ops_child_path(fs, parent, name, path) == 0;
        log_warn("ops", "%s: there are no %ss in this file system (EPERM); not said again", known ? path : name, kind);
    }
    fuse_reply_err(req, EPERM);
}

void op_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name)
{
    static int said;
    (void)link;
    refuse_link(req, parent, name, "symbolic link", &said);
}

void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname)
{
    static int said;
    (void)ino;
    refuse_link(req, newparent, newname, "hard link", &said);
}
