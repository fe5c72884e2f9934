/* Attributes: getattr, setattr (truncate above all), statfs. Setting attributes needs no slot: repeating it has the same outcome. */
#include "fs/ops.h"

#include "fs/atrest.h"
#include "fs/dirsync.h"
#include "fs/files.h"
#include "fs/passthrough.h"
#include "fs/virtual.h"
#include "lib/sqlitefile.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

struct change {
    struct hook_ask ask; /* first: the callback gets its address */
    struct call call;
    fuse_ino_t ino;
    struct stat attr;
    int to_set;
};

/* An inode without a name has no links, whatever <data>/orphans says. */
static void reply_attr(struct call *c, fuse_ino_t ino, struct stat *st)
{
    const struct shared_inode *i = &table_shared(c->fs->table)->inodes[ino];
    if (__atomic_load_n(&i->flags, __ATOMIC_RELAXED) & INODE_ORPHAN)
        st->st_nlink = 0;
    fuse_reply_attr(c->req, st, OPS_FOREVER);
    call_end(c);
}

void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    struct call c;
    struct stat st;
    call_begin(&c, req);
    int rc = files_stat(c.fs, ino, &st);
    if (rc == 0)
        reply_attr(&c, ino, &st);
    else if (virtual_inode(c.fs, ino))
        virtual_getattr(&c, ino);
    else
        call_reply(&c, -rc);
}

static int set_size(struct call *c, fuse_ino_t ino, off_t size)
{
    int fd = files_get(c->fs, ino, false);
    if (fd < 0)
        return -fd;
    int err = ftruncate(fd, size) ? errno : 0;
    files_put(c->fs, ino);
    return err;
}

static struct timespec time_to_set(int to_set, int now_flag, int flag, struct timespec t)
{
    if (to_set & now_flag)
        t.tv_nsec = UTIME_NOW;
    else if (!(to_set & flag))
        t.tv_nsec = UTIME_OMIT;
    return t;
}

static bool is_directory(const struct call *c, fuse_ino_t ino)
{
    return ino == TABLE_ROOT || (__atomic_load_n(&table_shared(c->fs->table)->inodes[ino].flags, __ATOMIC_RELAXED) & INODE_DIR);
}

/* Everything but the size. 0 or errno. */
static int set_metadata(struct call *c, fuse_ino_t ino, const struct stat *attr, int to_set)
{
    struct where w;
    int err = 0;
    pthread_rwlock_rdlock(&c->fs->ns);
    err = ops_errno(files_where(c->fs, ino, &w));
    if (!err && (to_set & FUSE_SET_ATTR_MODE) && fchmodat(w.dirfd, w.path, attr->st_mode & (is_directory(c, ino) ? 07777 : OPS_FILE_MODE), 0))
        err = errno;
    if (!err && (to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) &&
        fchownat(w.dirfd, w.path, to_set & FUSE_SET_ATTR_UID ? attr->st_uid : (uid_t)-1,
                 to_set & FUSE_SET_ATTR_GID ? attr->st_gid : (gid_t)-1, AT_SYMLINK_NOFOLLOW))
        err = errno;
    if (!err && (to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME))) {
        struct timespec t[2] = {
            time_to_set(to_set, FUSE_SET_ATTR_ATIME_NOW, FUSE_SET_ATTR_ATIME, attr->st_atim),
            time_to_set(to_set, FUSE_SET_ATTR_MTIME_NOW, FUSE_SET_ATTR_MTIME, attr->st_mtim),
        };
        if (utimensat(w.dirfd, w.path, t, AT_SYMLINK_NOFOLLOW))
            err = errno;
    }
    pthread_rwlock_unlock(&c->fs->ns);
    if (is_directory(c, ino))
        dirsync_changed(c->fs->dirsync);
    return err;
}

static void tell_truncated(struct call *c, fuse_ino_t ino, const struct stat *before)
{
    struct fs *fs = c->fs;
    char path[FS_PATH_MAX + 1];
    table_lock(fs->table);
    const struct shared_inode *i = table_inode(fs->table, ino);
    if (i && name_is_database(name_kind(i->name, i->name_len, NULL)) && table_path(fs->table, (uint32_t)ino, path, sizeof path) > 0)
        hookserver_tell_or_mark(fs, HOOK_MODIFIED, path, NULL);
    table_unlock(fs->table);
    atrest_cut(fs, ino, before, c->tid);
}

/* asked: a question has told the replicator of the truncation. */
static void change_now(struct call *c, fuse_ino_t ino, const struct stat *attr, int to_set, bool asked)
{
    struct stat st, before = {0};
    bool tell = (to_set & FUSE_SET_ATTR_SIZE) && !asked && call_is_hooked(c);
    if (tell && files_stat(c->fs, ino, &before))
        before.st_ino = 0;
    int err = to_set & FUSE_SET_ATTR_SIZE ? set_size(c, ino, attr->st_size) : 0;
    if (!err && tell)
        tell_truncated(c, ino, &before);
    if (!err)
        err = set_metadata(c, ino, attr, to_set);
    if (!err)
        err = ops_errno(files_stat(c->fs, ino, &st));
    if (err)
        call_reply(c, err);
    else
        reply_attr(c, ino, &st);
}

static void truncate_answered(struct hook_ask *a)
{
    struct change *t = (struct change *)a;
    if (a->answered && a->error)
        call_reply(&t->call, a->error);
    else
        change_now(&t->call, t->ino, &t->attr, t->to_set, true);
    free(t);
}

static bool exists_beside(struct fs *fs, const char *path, const char *suffix)
{
    char companion[FS_PATH_MAX + 16];
    struct stat st;
    size_t n = strlen(path), s = strlen(suffix);
    memcpy(companion, path, n);
    memcpy(companion + n, suffix, s + 1);
    return fstatat(fs->db_fd, companion, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Which question this truncation is; 0: none. path gets the file's; quick: see struct hook_ask. */
static enum hooks_kind question_for(struct fs *fs, fuse_ino_t ino, off_t size, char *path, bool *quick)
{
    struct stat st;
    *quick = false;
    table_lock(fs->table);
    const struct shared_inode *i = table_inode(fs->table, ino);
    enum name_kind k = i ? name_kind(i->name, i->name_len, NULL) : NAME_PRIVATE;
    int n = i ? table_path(fs->table, (uint32_t)ino, path, FS_PATH_MAX + 1) : -ESTALE;
    table_unlock(fs->table);
    if (n <= 0)
        return 0;
    if (name_is_database(k) && exists_beside(fs, path, LAYOUT_WAL))
        return HOOK_CHECKPOINT;
    if (name_is_database(k))
        return size == 0 && !files_stat(fs, ino, &st) && st.st_size > 0 ? HOOK_EMPTIED : 0;
    if ((k != NAME_WAL && k != NAME_JOURNAL) || files_stat(fs, ino, &st) || size >= st.st_size)
        return 0;
    *quick = k == NAME_JOURNAL && st.st_size <= HOOKSERVER_QUICK_MAX;
    return k == NAME_WAL ? HOOK_WAL_TRUNCATE : HOOK_JOURNAL_END;
}

/* On a replica an application may run a checkpoint: it copies what the replica's own WAL holds. SQLite ends it by cutting the database to the
 * size that page 1, just copied, names. A truncation to that size, or to the present one, loses nothing; any other is refused. */
static bool ends_checkpoint(struct fs *fs, fuse_ino_t ino, off_t size)
{
    char path[FS_PATH_MAX + 1];
    uint8_t head[DBFILE_HEADER_SIZE];
    struct dbfile_header h;
    struct stat st;
    bool quick;
    if (question_for(fs, ino, size, path, &quick) != HOOK_CHECKPOINT || files_stat(fs, ino, &st))
        return false;
    if (size == st.st_size)
        return true;
    int fd = files_get(fs, ino, false);
    if (fd < 0)
        return false;
    bool fits = pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head && !dbfile_header_decode(head, sizeof head, &h) &&
                h.page_count_valid && size == (off_t)h.page_count * h.page_size;
    files_put(fs, ino);
    return fits;
}

/* SQLite makes NAME-shm empty when it opens it and nobody else has it open, which its own lock on the file tells it; it holds nothing that is
 * replicated. The replicator's fence keeps that lock wherever it matters. */
static bool is_kind(struct fs *fs, fuse_ino_t ino, enum name_kind k)
{
    table_lock(fs->table);
    const struct shared_inode *i = table_inode(fs->table, ino);
    bool yes = i && name_kind(i->name, i->name_len, NULL) == k;
    table_unlock(fs->table);
    return yes;
}

/* Asks before a WAL or a journal is made shorter, before the truncation that ends a checkpoint, and before a database is emptied. True: the call goes on later. */
static bool ask_truncate(struct call *c, fuse_ino_t ino, const struct stat *attr, int to_set, bool *asked)
{
    struct fs *fs = c->fs;
    *asked = false;
    if (!(to_set & FUSE_SET_ATTR_SIZE) || !(call_is_hooked(c) || (!call_is_replicator(c) && is_kind(fs, ino, NAME_JOURNAL))))
        return false;
    struct change *t = calloc(1, sizeof *t);
    if (!t)
        return false; /* a missed question is found by checksum */
    t->ask.kind = question_for(fs, ino, attr->st_size, t->ask.path, &t->ask.quick);
    if (!t->ask.kind) {
        free(t);
        return false;
    }
    *asked = true;
    t->ask.policy = ASK_GO_ON;
    t->ask.value = t->ask.kind == HOOK_JOURNAL_END ? 0 : (uint64_t)attr->st_size;
    t->ask.done = truncate_answered;
    t->call = *c;
    t->ino = ino;
    t->attr = *attr;
    t->to_set = to_set;
    ops_sync_policy(fs, &t->ask);
    if (hookserver_ask(fs, &t->ask))
        return true;
    free(t);
    return false;
}

void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
    struct call c;
    call_begin(&c, req);
    int err = 0;
    bool asked;
    if ((fi && (fi->fh & FH_VIRTUAL)) || virtual_inode(c.fs, ino))
        err = EPERM;
    /* Times may be set on a replica too (by backup tools, by touch): they are not replicated. */
    else if (to_set & (FUSE_SET_ATTR_SIZE | FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))
        err = call_may_change(&c);
    if (err == EROFS && !(to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) &&
        (is_kind(c.fs, ino, NAME_SHM) || is_kind(c.fs, ino, NAME_JOURNAL) || ends_checkpoint(c.fs, ino, attr->st_size)))
        err = 0;
    if (err)
        call_reply(&c, err);
    else if (!ask_truncate(&c, ino, attr, to_set, &asked))
        change_now(&c, ino, attr, to_set, asked);
}

void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    (void)ino;
    struct call c;
    struct statvfs v;
    call_begin(&c, req);
    if (fstatvfs(c.fs->db_fd, &v)) {
        call_reply(&c, errno);
        return;
    }
    v.f_namemax = MIN(v.f_namemax, (unsigned long)SHARED_NAME_MAX);
    fuse_reply_statfs(req, &v);
    call_end(&c);
}
