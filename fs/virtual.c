#include "fs/virtual.h"

#include "fs/files.h"
#include "fs/passthrough.h"
#include "fs/role.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define RING 1024u /* contents that are kept */
#define POS_SIZE 34 /* "%016x/%016x\n" */

enum virtual_kind { VIRTUAL_NONE, VIRTUAL_PRIMARY, VIRTUAL_LAG, VIRTUAL_POS };

struct contents {
    uint64_t number;
    size_t len;
    char text[SHARED_PRIMARY_MAX + 2];
};
static pthread_mutex_t ring_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct contents ring[RING];
static uint64_t last_number;

/* Keeps a text; its number, for fh. */
static uint64_t keep(const char *text, size_t len)
{
    pthread_mutex_lock(&ring_mutex);
    if (last_number == 0) /* numbers of a predecessor must not mean other texts here; 56 bits reach for 2 years of µs steps */
        last_number = now_ns() / 1000u;
    uint64_t number = ++last_number;
    struct contents *k = &ring[number % RING];
    k->number = number;
    k->len = MIN(len, sizeof k->text);
    memcpy(k->text, text, k->len);
    pthread_mutex_unlock(&ring_mutex);
    return number;
}

static enum virtual_kind kind_of(uint64_t parent, const char *name, size_t len)
{
    if (parent == TABLE_ROOT && len == sizeof LAYOUT_PRIMARY - 1 && !memcmp(name, LAYOUT_PRIMARY, len))
        return VIRTUAL_PRIMARY;
    if (parent == TABLE_ROOT && len == sizeof LAYOUT_LAG - 1 && !memcmp(name, LAYOUT_LAG, len))
        return VIRTUAL_LAG;
    return name_kind(name, len, NULL) == NAME_POS ? VIRTUAL_POS : VIRTUAL_NONE;
}

bool virtual_is(struct fs *fs, uint64_t parent, const char *name)
{
    size_t len = strlen(name), base_len;
    enum virtual_kind k = kind_of(parent, name, len);
    if (k != VIRTUAL_POS)
        return k != VIRTUAL_NONE;
    struct where w;
    struct stat st;
    if (files_where_child(fs, parent, name, &w) || fstatat(w.dirfd, w.path, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return false;
    (void)name_kind(name, len, &base_len);
    if (!name_is_database(name_kind(name, base_len, NULL)))
        return false;
    w.path[strlen(w.path) - (len - base_len)] = 0;
    return fstatat(w.dirfd, w.path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

static bool has_primary(struct fs *fs, char *text, size_t *len)
{
    role_primary(fs, text);
    *len = strlen(text);
    if (role_get(fs) == HOOKS_ROLE_PRIMARY || *len == 0)
        return false;
    text[(*len)++] = '\n';
    return true;
}

/* Attributes; false: it does not exist now. */
static bool describe(struct fs *fs, enum virtual_kind k, struct stat *st)
{
    char text[SHARED_PRIMARY_MAX + 2];
    size_t len = 0;
    struct stat root;
    if (k == VIRTUAL_PRIMARY && !has_primary(fs, text, &len))
        return false;
    if (fstat(fs->db_fd, &root))
        return false;
    *st = (struct stat){.st_mode = S_IFREG | 0444, .st_nlink = 1, .st_uid = root.st_uid, .st_gid = root.st_gid, .st_blksize = 4096};
    /* The lag is only known when asked for: the size is an upper bound, as for files of /proc; readers read to the end. */
    st->st_size = k == VIRTUAL_PRIMARY ? (off_t)len : k == VIRTUAL_POS ? POS_SIZE : 21;
    clock_gettime(CLOCK_REALTIME, &st->st_mtim);
    st->st_atim = st->st_ctim = st->st_mtim;
    return true;
}

void virtual_lookup(struct call *c, uint32_t parent, const char *name)
{
    struct fs *fs = c->fs;
    struct stat st;
    if (!describe(fs, kind_of(parent, name, strlen(name)), &st)) {
        call_reply(c, ENOENT);
        return;
    }
    call_slot(c);
    table_lock(fs->table);
    uint32_t ino = ops_look_up(fs, parent, name, &st, INODE_VIRTUAL);
    if (ino)
        call_done(c, ino, 0);
    table_commit(fs->table);
    table_unlock(fs->table);
    st.st_ino = ino;
    if (ino)
        ops_reply_entry(c, ino, &st);
    else
        call_reply(c, ENFILE);
}

static enum virtual_kind kind_of_inode(struct fs *fs, uint64_t ino)
{
    enum virtual_kind k = VIRTUAL_NONE;
    table_lock(fs->table);
    const struct shared_inode *i = table_inode(fs->table, ino);
    if (i && (i->flags & INODE_VIRTUAL))
        k = kind_of(i->parent, i->name, i->name_len);
    table_unlock(fs->table);
    return k;
}

bool virtual_inode(struct fs *fs, uint64_t ino)
{
    return kind_of_inode(fs, ino) != VIRTUAL_NONE;
}

void virtual_getattr(struct call *c, uint64_t ino)
{
    struct stat st;
    if (!describe(c->fs, kind_of_inode(c->fs, ino), &st)) {
        call_reply(c, ENOENT);
        return;
    }
    st.st_ino = ino;
    fuse_reply_attr(c->req, &st, 0);
    call_end(c);
}

/* ---- contents ---- */

/* An open, or a read whose contents are lost, that waits for the replicator. */
struct query {
    struct hook_ask ask;
    struct call call;
    bool reading;
    size_t size; /* of a read */
    off_t off;
};

static void reply_slice(struct call *c, const char *text, size_t len, size_t size, off_t off)
{
    size_t at = MIN((size_t)off, len);
    fuse_reply_buf(c->req, text + at, MIN(size, len - at));
    call_end(c);
}

static void reply_text(struct call *c, bool reading, const char *text, size_t len, size_t size, off_t off)
{
    if (reading)
        reply_slice(c, text, len, size, off);
    else {
        (void)passthrough_reply_open(c->req, FH_VIRTUAL | keep(text, len) << FH_SHIFT, 0); /* nothing is counted: nothing to undo */
        call_end(c);
    }
}

static void answered(struct hook_ask *a)
{
    struct query *q = (struct query *)a;
    if (!a->answered || a->error)
        call_reply(&q->call, a->answered ? a->error : EIO);
    else
        reply_text(&q->call, q->reading, a->text, a->text_len, q->size, q->off);
    free(q);
}

static void query(struct call *c, uint64_t ino, bool reading, size_t size, off_t off)
{
    struct fs *fs = c->fs;
    enum virtual_kind k = kind_of_inode(fs, ino);
    char text[SHARED_PRIMARY_MAX + 2];
    size_t len;
    if (k == VIRTUAL_PRIMARY) {
        if (has_primary(fs, text, &len))
            reply_text(c, reading, text, len, size, off);
        else
            call_reply(c, ENOENT);
        return;
    }
    struct query *q = calloc(1, sizeof *q);
    if (!q) {
        call_reply(c, ENOMEM);
        return;
    }
    q->ask = (struct hook_ask){
        .kind = k == VIRTUAL_LAG ? HOOK_QUERY_LAG : HOOK_QUERY_POS, .policy = ASK_QUERY, .done = answered};
    q->call = *c;
    q->reading = reading;
    q->size = size;
    q->off = off;
    int rc = 0;
    if (k == VIRTUAL_POS) {
        table_lock(fs->table);
        rc = table_path(fs->table, (uint32_t)ino, q->ask.path, sizeof q->ask.path);
        table_unlock(fs->table);
        if (rc > (int)sizeof LAYOUT_POS - 1)
            q->ask.path[rc - ((int)sizeof LAYOUT_POS - 1)] = 0;
    }
    if (rc < 0 || !hookserver_ask(fs, &q->ask)) {
        call_reply(c, rc < 0 ? -rc : EIO);
        free(q);
    }
}

void virtual_open(struct call *c, uint64_t ino, int flags)
{
    if ((flags & O_ACCMODE) != O_RDONLY)
        call_reply(c, EACCES);
    else
        query(c, ino, false, 0, 0);
}

void virtual_read(struct call *c, uint64_t ino, uint64_t fh, size_t size, off_t off)
{
    struct contents k = {0};
    uint64_t number = fh >> FH_SHIFT;
    pthread_mutex_lock(&ring_mutex);
    if (ring[number % RING].number == number)
        k = ring[number % RING];
    pthread_mutex_unlock(&ring_mutex);
    if (k.number)
        reply_slice(c, k.text, k.len, size, off);
    else if (off > 0)
        reply_slice(c, "", 0, 0, 0);
    else
        query(c, ino, true, size, off);
}
