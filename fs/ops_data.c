/* Contents: read and write (of files that are not passed through), fsync, fallocate, lseek. None of these needs a slot: repeating them
 * after a kill has the same outcome, for the kernel holds the inode's lock, or the caller waits, meanwhile.
 *
 * A write by an application on a replica is not refused here: with passthrough it would not be seen. What keeps replicas from being
 * written are the fence (SQLite's own locks), and `replica-open: readonly`; a program that writes bytes into a database without SQLite's
 * locks is found by checksum. */
#include "fs/ops.h"

#include "fs/atrest.h"
#include "fs/dirsync.h"
#include "fs/files.h"
#include "fs/journals.h"
#include "fs/passthrough.h"
#include "fs/role.h"
#include "fs/virtual.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

/* https://sqlite.org/fileformat.html §3: what a valid rollback journal begins with. */
static const uint8_t journal_magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};

static _Thread_local uint8_t *read_buffer;
static _Thread_local size_t read_room;

void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    struct call c;
    call_begin(&c, req);
    if (fi->fh & FH_VIRTUAL) {
        virtual_read(&c, ino, fi->fh, size, off);
        return;
    }
    if (size > read_room) {
        free(read_buffer);
        read_buffer = malloc(size);
        read_room = read_buffer ? size : 0;
    }
    int fd = read_buffer ? files_get(c.fs, ino, false) : -ENOMEM;
    if (fd < 0) {
        call_reply(&c, -fd);
        return;
    }
    size_t got = 0;
    int err = 0;
    while (got < size && !err) {
        ssize_t n = pread(fd, read_buffer + got, size - got, off + (off_t)got);
        if (n == 0)
            break;
        if (n > 0)
            got += (size_t)n;
        else if (errno != EINTR)
            err = errno;
    }
    files_put(c.fs, ino);
    if (err && !got)
        call_reply(&c, err);
    else {
        fuse_reply_buf(req, (const char *)read_buffer, got);
        call_end(&c);
    }
}

/* ---- write ---- */

struct journal_write {
    struct hook_ask ask; /* first: the callback gets its address */
    struct call call;
    fuse_ino_t ino;
    uint64_t fh;
    size_t size;
    char data[];
};

static void tell_modified(const struct call *c, fuse_ino_t ino)
{
    struct fs *fs = c->fs;
    char path[FS_PATH_MAX + 1];
    table_lock(fs->table);
    if (table_path(fs->table, (uint32_t)ino, path, sizeof path) > 0)
        hookserver_tell_or_mark(fs, HOOK_MODIFIED, path, NULL);
    table_unlock(fs->table);
}

static void write_now(struct call *c, fuse_ino_t ino, uint64_t fh, const char *buf, size_t size, off_t off, bool mapped)
{
    int fd = files_get(c->fs, ino, false);
    if (fd < 0) {
        call_reply(c, -fd);
        return;
    }
    size_t done = 0;
    int err = 0;
    while (done < size && !err) {
        ssize_t n = pwrite(fd, buf + done, size - done, off + (off_t)done);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || errno != EINTR)
            err = n == 0 ? EIO : errno;
    }
    files_put(c->fs, ino);
    /* Fallback only. A write(2) has raised an inotify event of its own; what was stored through a mapping has not. */
    if (mapped && (fh & FH_DATABASE) && !(fh & FH_REPLICATOR) && role_get(c->fs) == HOOKS_ROLE_PRIMARY)
        tell_modified(c, ino);
    if (err && !done)
        call_reply(c, err);
    else {
        fuse_reply_write(c->req, done);
        call_end(c);
    }
}

static void journal_end_answered(struct hook_ask *a)
{
    struct journal_write *w = (struct journal_write *)a;
    if (a->answered && a->error)
        call_reply(&w->call, a->error);
    else
        write_now(&w->call, w->ino, w->fh, w->data, w->size, 0, false);
    free(w);
}

/* Does this write take the header off a valid journal (PRAGMA journal_mode=PERSIST commits so)? Only a journal that is valid now can end:
 * SQLite also writes zeros over zeros when it begins one. */
static bool ends_journal(struct fs *fs, fuse_ino_t ino, const char *buf, size_t size, off_t off)
{
    uint8_t now[sizeof journal_magic];
    if (off != 0 || size < sizeof journal_magic || !memcmp(buf, journal_magic, sizeof journal_magic))
        return false;
    int fd = files_get(fs, ino, false);
    if (fd < 0)
        return false;
    ssize_t n = pread(fd, now, sizeof now, 0);
    files_put(fs, ino);
    return n == (ssize_t)sizeof now && !memcmp(now, journal_magic, sizeof now);
}

void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
    struct call c;
    call_begin(&c, req);
    if (fi->fh & FH_VIRTUAL) {
        call_reply(&c, EBADF);
        return;
    }
    if ((fi->fh & FH_JOURNAL) && !(fi->fh & FH_REPLICATOR) && /* in any role: ops_remove.c */
        ends_journal(c.fs, ino, buf, size, off)) {
        struct journal_write *w = malloc(sizeof *w + size);
        if (!w) {
            call_reply(&c, ENOMEM);
            return;
        }
        memset(w, 0, sizeof *w);
        w->ask.kind = HOOK_JOURNAL_END;
        w->ask.policy = ASK_GO_ON;
        w->ask.done = journal_end_answered;
        w->call = c;
        w->ino = ino;
        w->fh = fi->fh;
        w->size = size;
        memcpy(w->data, buf, size);
        table_lock(c.fs->table);
        int n = table_path(c.fs->table, (uint32_t)ino, w->ask.path, sizeof w->ask.path);
        table_unlock(c.fs->table);
        if (n > 0)
            ops_sync_policy(c.fs, &w->ask);
        if (n > 0 && hookserver_ask(c.fs, &w->ask))
            return;
        free(w);
    }
    write_now(&c, ino, fi->fh, buf, size, off, fi->writepage);
}

/* ---- fsync ---- */

static int sync_now(struct fs *fs, fuse_ino_t ino, int datasync)
{
    int fd = files_get(fs, ino, false);
    if (fd < 0)
        return -fd;
    int err = (datasync ? fdatasync(fd) : fsync(fd)) ? errno : 0;
    files_put(fs, ino);
    if (!err)
        dirsync_file_synced(fs->dirsync, (uint32_t)ino, table_shared(fs->table)->inodes[ino].generation);
    return err;
}

struct journal_sync {
    struct hook_ask ask; /* first: the callback gets its address */
    fuse_req_t req;
    int parts; /* atomic; what is still to be waited for: the disk, the answer */
    int err;   /* atomic */
};

static void part_done(struct journal_sync *s, int err)
{
    if (err)
        __atomic_store_n(&s->err, err, __ATOMIC_RELAXED);
    if (__atomic_sub_fetch(&s->parts, 1, __ATOMIC_ACQ_REL))
        return;
    fuse_reply_err(s->req, __atomic_load_n(&s->err, __ATOMIC_RELAXED));
    free(s);
}

static void journal_sync_answered(struct hook_ask *a)
{
    part_done((struct journal_sync *)a, a->answered ? a->error : 0);
}

/* Does this fsync end a journal that is passed through? Then what is to be asked. NULL: no, or no memory (found by checksum). */
static struct journal_sync *ends_by_sync(struct fs *fs, fuse_req_t req, fuse_ino_t ino)
{
    uint8_t header[JOURNAL_HEADER_SIZE];
    bool known;
    table_lock(fs->table);
    const struct shared_inode *i = table_inode(fs->table, ino);
    bool passed_through = i && i->backing_id;
    if (i && !passed_through)
        ops_set_syncs(fs, i->parent, i->name, true);
    table_unlock(fs->table);
    int fd = passed_through ? files_get(fs, ino, false) : -1;
    if (fd < 0)
        return NULL;
    enum journals_sync what = journals_sync(fs->journals, (uint32_t)ino, fd, header, &known);
    files_put(fs, ino);
    struct journal_sync *s = what == JOURNALS_END ? calloc(1, sizeof *s) : NULL;
    if (!s)
        return NULL;
    s->req = req;
    s->parts = 2;
    s->ask.kind = HOOK_JOURNAL_END;
    s->ask.policy = ASK_GO_ON;
    s->ask.value = HOOKS_JOURNAL_ZEROED;
    s->ask.quick = true;
    s->ask.done = journal_sync_answered;
    for (size_t k = 0; known && k < sizeof header; k++)
        snprintf(s->ask.question + 2 * k, 3, "%02x", header[k]);
    table_lock(fs->table);
    int n = table_path(fs->table, (uint32_t)ino, s->ask.path, sizeof s->ask.path);
    table_unlock(fs->table);
    if (n > 0 && hookserver_ask(fs, &s->ask))
        return s;
    free(s);
    return NULL;
}

/* The commit of every application with synchronous=FULL waits for this: in WAL mode nothing is looked up or asked on the way, but where it shall wait for replicas, too. At
 * the end of a journal the replicator is asked, and reads the transaction while the disk works; of a database without either it is told. */
void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    struct fs *fs = fuse_req_userdata(req);
    if ((fi->fh & (FH_WAL | FH_REPLICATOR)) == FH_WAL && config_sync_most(fs->config) && ops_sync_wal(req, ino))
        return;
    if (fi->fh & FH_VIRTUAL) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    struct journal_sync *s = (fi->fh & FH_JOURNAL) && !(fi->fh & FH_REPLICATOR) ? ends_by_sync(fs, req, ino) : NULL;
    int err = sync_now(fs, ino, datasync);
    if (!err && (fi->fh & (FH_DATABASE | FH_REPLICATOR)) == FH_DATABASE && role_get(fs) == HOOKS_ROLE_PRIMARY)
        atrest_synced(fs, ino, fuse_req_ctx(req)->pid);
    if (s)
        part_done(s, err);
    else
        fuse_reply_err(req, err);
}

/* ---- fallocate, lseek ---- */

void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t length, struct fuse_file_info *fi)
{
    struct call c;
    call_begin(&c, req);
    int err = fi->fh & FH_VIRTUAL ? EBADF : fi->fh & FH_REPLICATOR ? 0 : call_may_change(&c);
    int fd = err ? -err : files_get(c.fs, ino, false);
    if (fd < 0) {
        call_reply(&c, -fd);
        return;
    }
    err = fallocate(fd, mode, off, length) ? errno : 0;
    files_put(c.fs, ino);
    if (!err && (fi->fh & FH_DATABASE) && !(fi->fh & FH_REPLICATOR))
        tell_modified(&c, ino);
    call_reply(&c, err);
}

void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
    struct call c;
    call_begin(&c, req);
    int fd = fi->fh & FH_VIRTUAL ? -EINVAL : files_get(c.fs, ino, false);
    if (fd < 0) {
        call_reply(&c, -fd);
        return;
    }
    /* Only SEEK_DATA and SEEK_HOLE arrive here. The descriptor's own position, which this moves, is used by nobody. */
    off_t at = lseek(fd, off, whence);
    int err = at < 0 ? errno : 0;
    files_put(c.fs, ino);
    if (err)
        call_reply(&c, err);
    else {
        fuse_reply_lseek(req, at);
        call_end(&c);
    }
}
