#include "fs/passthrough.h"

#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <sys/ioctl.h>

/* Parts of the kernel's interface that older headers lack (linux/fuse.h of 6.9, protocol 7.40). */
#ifndef FOPEN_PASSTHROUGH
#define FOPEN_PASSTHROUGH (1 << 7)
#endif
#ifndef FUSE_DEV_IOC_BACKING_OPEN
struct fuse_backing_map {
    int32_t fd;
    uint32_t flags;
    uint64_t padding;
};
#define FUSE_DEV_IOC_BACKING_OPEN _IOW(229, 1, struct fuse_backing_map)
#define FUSE_DEV_IOC_BACKING_CLOSE _IOW(229, 2, uint32_t)
#endif
#define FLAG_INIT_EXT (1u << 30)
#define FLAGS2_PASSTHROUGH (1u << 5) /* FUSE_PASSTHROUGH, 1 << 37, in the upper half */
/* The deepest that file systems may be stacked here: the backing file system may itself be one overlayfs. */
#define MAX_STACK_DEPTH 2u

#define RECLAIM_MAX 1024 /* ids that were given out but never recorded: one that leaked, and those of opens that failed */

/* FOPEN_NOFLUSH on every file: otherwise close() first writes back what was stored through a mapping (fallback mode: the -shm file) and
 * waits for edgefs-fs to take it. The launcher closes descriptors that it keeps for the replicator, and it is the launcher that has to
 * start edgefs-fs again if it is dead: that close would wait for ever. */
#define LIBRARY_KNOWS_PASSTHROUGH (FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17))

struct passthrough {
    int dev_fd;
    bool wanted;
    bool offered; /* by the kernel */
    bool failed;  /* atomic; the kernel refused a file: fallback from then on */
    bool said;    /* atomic; why there is no passthrough was logged */
    pthread_mutex_t mutex; /* from the ioctl to the commit of the id */
};

struct passthrough *passthrough_new(int dev_fd, bool wanted)
{
    struct passthrough *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->dev_fd = dev_fd;
    p->wanted = wanted;
    pthread_mutex_init(&p->mutex, NULL);
    return p;
}

bool passthrough_active(struct fs *fs)
{
    const struct passthrough *p = fs->passthrough;
    return p->wanted && p->offered && !__atomic_load_n(&p->failed, __ATOMIC_RELAXED);
}

static void say_once(struct passthrough *p, const char *why)
{
    if (!__atomic_exchange_n(&p->said, true, __ATOMIC_RELAXED))
        log_warn("passthrough", "%s: reads and writes go through edgefs-fs instead, which is slower", why);
}

void passthrough_saw_init(struct fs *fs, const void *request, size_t n)
{
    struct passthrough *p = fs->passthrough;
    struct fuse_init_in in = {0};
    const size_t at = sizeof(struct fuse_in_header);
    if (n > at)
        memcpy(&in, (const uint8_t *)request + at, MIN(n - at, sizeof in));
    p->offered = (in.flags & FLAG_INIT_EXT) && (in.flags2 & FLAGS2_PASSTHROUGH);
    if (p->wanted && !p->offered)
        say_once(p, "this kernel has no FUSE passthrough (Linux 6.9 with CONFIG_FUSE_PASSTHROUGH has)");
}

void passthrough_negotiate(struct fs *fs, struct fuse_conn_info *conn)
{
#if LIBRARY_KNOWS_PASSTHROUGH
    if (passthrough_active(fs)) {
        conn->want |= FUSE_CAP_PASSTHROUGH;
        conn->max_backing_stack_depth = MAX_STACK_DEPTH;
    }
#else
    (void)fs;
    (void)conn;
#endif
}

void passthrough_amend_init(struct fs *fs, struct iovec *iov, int count)
{
    if (LIBRARY_KNOWS_PASSTHROUGH || !passthrough_active(fs))
        return;
    struct fuse_init_out out;
    if (count != 2 || iov[1].iov_len < sizeof out) {
        say_once(fs->passthrough, "libfuse answers INIT in an unknown form");
        fs->passthrough->failed = true;
        return;
    }
    memcpy(&out, iov[1].iov_base, sizeof out);
    out.flags |= FLAG_INIT_EXT;
    out.flags2 |= FLAGS2_PASSTHROUGH;
    out.unused[0] = MAX_STACK_DEPTH; /* max_stack_depth in newer headers */
    memcpy(iov[1].iov_base, &out, sizeof out);
}

static int32_t backing_open(struct passthrough *p, int fd)
{
    struct fuse_backing_map map = {.fd = fd};
    return ioctl(p->dev_fd, FUSE_DEV_IOC_BACKING_OPEN, &map);
}

static int32_t new_id(struct fs *fs, int fd)
{
    struct passthrough *p = fs->passthrough;
    int32_t id = backing_open(p, fd);
    if (id > 0)
        return id;
    if (errno == ENOMEM || errno == ENFILE || errno == EMFILE || errno == ENOSPC)
        return 0; /* this open only */
    char why[160];
    snprintf(why, sizeof why, "the kernel refuses passthrough here (%s%s)", err_name(errno),
             errno == EPERM ? ": CAP_SYS_ADMIN is missing" : errno == ELOOP ? ": the backing file system is stacked too deep" : "");
    say_once(p, why);
    __atomic_store_n(&p->failed, true, __ATOMIC_RELAXED);
    return 0;
}

void passthrough_lock(struct fs *fs)
{
    pthread_mutex_lock(&fs->passthrough->mutex);
}

void passthrough_unlock(struct fs *fs)
{
    pthread_mutex_unlock(&fs->passthrough->mutex);
}

int32_t passthrough_begin(struct fs *fs, uint32_t ino, int fd, bool see_writes, bool *first)
{
    passthrough_lock(fs);
    table_lock(fs->table);
    const struct shared_inode *i = ino ? table_inode(fs->table, ino) : NULL;
    bool open = i && (i->opens_app || i->opens_repl);
    int32_t id = open ? i->backing_id : 0;
    table_unlock(fs->table);
    *first = !open;
    if (!open && !see_writes && passthrough_active(fs))
        id = new_id(fs, fd);
    return id;
}

void passthrough_count(struct fs *fs, uint32_t ino, int32_t backing_id, bool replicator)
{
    struct shared *sh = table_shared(fs->table);
    struct shared_inode *i = &sh->inodes[ino];
    if (replicator)
        table_set(fs->table, i->opens_repl, i->opens_repl + 1);
    else
        table_set(fs->table, i->opens_app, i->opens_app + 1);
    if (i->backing_id == backing_id)
        return;
    table_set(fs->table, i->backing_id, backing_id);
    table_set(fs->table, sh->last_backing_id, backing_id);
}

void passthrough_end(struct fs *fs, uint32_t ino, int32_t backing_id, bool counted)
{
    if (!counted && backing_id) {
        table_lock(fs->table);
        const struct shared_inode *i = ino ? table_inode(fs->table, ino) : NULL;
        bool in_use = i && i->backing_id == backing_id;
        table_unlock(fs->table);
        if (!in_use)
            passthrough_close(fs, backing_id);
    }
    passthrough_unlock(fs);
}

void passthrough_close(struct fs *fs, int32_t backing_id)
{
    uint32_t id = (uint32_t)backing_id;
    if (backing_id > 0 && ioctl(fs->passthrough->dev_fd, FUSE_DEV_IOC_BACKING_CLOSE, &id) && errno != ENOENT)
        log_warn("passthrough", "backing id %u could not be given back: %s", id, err_name(errno));
}

void passthrough_reclaim(struct fs *fs, int fd)
{
    struct shared *sh = table_shared(fs->table);
    if (!passthrough_active(fs))
        return;
    int32_t id = backing_open(fs->passthrough, fd);
    if (id <= 0)
        return; /* the first real open will say why */
    passthrough_close(fs, id);
    for (int32_t lost = sh->last_backing_id + 1; lost < id && lost - sh->last_backing_id <= RECLAIM_MAX; lost++)
        passthrough_close(fs, lost);
    table_lock(fs->table);
    table_set(fs->table, sh->last_backing_id, id);
    table_commit(fs->table);
    table_unlock(fs->table);
}

/* No flush on close (FOPEN_NOFLUSH): otherwise every close(2) writes mapped pages back through us and waits, also the closes on exec
 * and exit of whoever inherited the descriptor. The launcher, that keeps fence descriptors, could then never start our successor: its
 * exec would wait for the one that it is to become. Unmapping, fsync and msync still write back. */
#if LIBRARY_KNOWS_PASSTHROUGH

static struct fuse_file_info file_info(uint64_t fh, int32_t backing_id)
{
    struct fuse_file_info fi = {.fh = fh, .backing_id = backing_id, .noflush = 1};
    if (fh & FH_VIRTUAL)
        fi.direct_io = 1;
    else if (!backing_id)
        fi.keep_cache = 1;
    return fi;
}

int passthrough_reply_open(fuse_req_t req, uint64_t fh, int32_t backing_id)
{
    struct fuse_file_info fi = file_info(fh, backing_id);
    return fuse_reply_open(req, &fi);
}

int passthrough_reply_create(fuse_req_t req, const struct fuse_entry_param *entry, uint64_t fh, int32_t backing_id)
{
    struct fuse_file_info fi = file_info(fh, backing_id);
    return fuse_reply_create(req, entry, &fi);
}

#else

static struct fuse_open_out open_out(uint64_t fh, int32_t backing_id)
{
    struct fuse_open_out o = {.fh = fh};
    if (fh & FH_VIRTUAL)
        o.open_flags = FOPEN_DIRECT_IO;
    else if (!backing_id)
        o.open_flags = FOPEN_KEEP_CACHE | FOPEN_NOFLUSH;
    else {
        o.open_flags = FOPEN_PASSTHROUGH | FOPEN_NOFLUSH;
        o.padding = (uint32_t)backing_id; /* backing_id in newer headers */
    }
    return o;
}

static uint64_t whole_seconds(double s)
{
    return (uint64_t)s; /* all our time-outs are whole seconds */
}

static struct fuse_attr attr_out(const struct stat *st)
{
    return (struct fuse_attr){
        .ino = st->st_ino,
        .size = (uint64_t)st->st_size,
        .blocks = (uint64_t)st->st_blocks,
        .atime = (uint64_t)st->st_atim.tv_sec,
        .mtime = (uint64_t)st->st_mtim.tv_sec,
        .ctime = (uint64_t)st->st_ctim.tv_sec,
        .atimensec = (uint32_t)st->st_atim.tv_nsec,
        .mtimensec = (uint32_t)st->st_mtim.tv_nsec,
        .ctimensec = (uint32_t)st->st_ctim.tv_nsec,
        .mode = st->st_mode,
        .nlink = (uint32_t)st->st_nlink,
        .uid = st->st_uid,
        .gid = st->st_gid,
        .rdev = (uint32_t)st->st_rdev,
        .blksize = (uint32_t)st->st_blksize,
    };
}

int passthrough_reply_open(fuse_req_t req, uint64_t fh, int32_t backing_id)
{
    struct fuse_open_out o = open_out(fh, backing_id);
    return fuse_reply_buf(req, (const char *)&o, sizeof o);
}

int passthrough_reply_create(fuse_req_t req, const struct fuse_entry_param *entry, uint64_t fh, int32_t backing_id)
{
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } r = {.open = open_out(fh, backing_id)};
    r.entry.nodeid = entry->ino;
    r.entry.generation = entry->generation;
    r.entry.entry_valid = whole_seconds(entry->entry_timeout);
    r.entry.attr_valid = whole_seconds(entry->attr_timeout);
    r.entry.attr = attr_out(&entry->attr);
    return fuse_reply_buf(req, (const char *)&r, sizeof r);
}

#endif
