#include "fs/ops.h"

#include "fs/files.h"
#include "fs/passthrough.h"
#include "fs/role.h"
#include "fs/session.h"
#include "lib/log.h"
#include "lib/util.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

/* ---- the call ---- */

void call_begin(struct call *c, fuse_req_t req)
{
    const struct session_request *r = session_current();
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    *c = (struct call){
        .fs = fuse_req_userdata(req),
        .req = req,
        .unique = r->unique,
        .opcode = r->opcode,
        .uid = ctx->uid,
        .gid = ctx->gid,
        .tid = ctx->pid,
    };
    if (!r->resent)
        return;
    c->slot = slots_find(table_shared(c->fs->table), c->unique);
    if (c->slot)
        c->seen = c->slot->state;
    if (c->seen == SLOT_TAKEN)
        c->seen = SLOT_FREE;
}

void call_slot(struct call *c)
{
    if (!c->slot)
        c->slot = slots_take(table_shared(c->fs->table), c->unique, c->opcode);
}

void call_done(struct call *c, uint32_t ino, int32_t backing_id)
{
    if (!c->slot)
        return;
    table_set(c->fs->table, c->slot->ino, ino);
    table_set(c->fs->table, c->slot->backing_id, backing_id);
    table_set(c->fs->table, c->slot->state, (uint32_t)SLOT_DONE);
}

void call_end(struct call *c)
{
    slots_free(c->slot);
    c->slot = NULL;
}

void call_reply(struct call *c, int errnum)
{
    fuse_reply_err(c->req, errnum);
    call_end(c);
}

bool call_is_replicator(const struct call *c)
{
    return role_is_replicator(c->fs, c->tid);
}

int call_may_change(const struct call *c)
{
    return role_get(c->fs) == HOOKS_ROLE_PRIMARY || call_is_replicator(c) ? 0 : EROFS;
}

bool call_is_hooked(const struct call *c)
{
    return role_get(c->fs) == HOOKS_ROLE_PRIMARY && !call_is_replicator(c);
}

/* ---- telling ---- */

int ops_child_path(struct fs *fs, uint64_t parent, const char *name, char *path)
{
    table_lock(fs->table);
    int n = table_inode(fs->table, parent) ? table_child_path(fs->table, (uint32_t)parent, name, path, FS_PATH_MAX + 1) : -ESTALE;
    table_unlock(fs->table);
    return n < 0 ? n : 0;
}

void ops_tell(struct fs *fs, enum hooks_kind kind, uint32_t parent, const char *name, uint32_t newparent, const char *newname)
{
    char path[FS_PATH_MAX + 1], newpath[FS_PATH_MAX + 1];
    if (name_kind(name, strlen(name), NULL) == NAME_PRIVATE ||
        table_child_path(fs->table, parent, name, path, sizeof path) < 0)
        return;
    if (newname && table_child_path(fs->table, newparent, newname, newpath, sizeof newpath) < 0)
        return;
    enum name_kind k = name_kind(name, strlen(name), NULL);
    if (kind == HOOK_DIR_CREATED || kind == HOOK_OPENED || kind == HOOK_LAST_CLOSE)
        hookserver_tell(fs, kind, path, NULL); /* what matters of these is said again at the next connection */
    else if (newname || name_is_database(k) || k == NAME_WAL || k == NAME_JOURNAL)
        hookserver_tell_or_mark(fs, kind, path, newname ? newpath : NULL);
    else
        hookserver_tell(fs, kind, path, NULL);
}

/* ---- entries ---- */

uint32_t ops_look_up(struct fs *fs, uint32_t parent, const char *name, const struct stat *st, uint32_t flags)
{
    struct table *t = fs->table;
    struct shared *sh = table_shared(t);
    size_t len = strlen(name);
    uint32_t ino = table_find(t, parent, name, len);
    if (ino && (sh->inodes[ino].flags & (INODE_DIR | INODE_VIRTUAL)) != flags) {
        /* Something else bears this name now, which happens only to marks without a file and to virtual files. */
        table_remove_name(t, ino, INODE_NAMELESS);
        table_commit(t);
        table_release(t, ino);
        ino = 0;
    }
    if (!ino)
        ino = table_add(t, parent, name, len, flags);
    if (!ino) {
        log_error("ops", "the inode table is full (%u)", SHARED_INODES);
        return 0;
    }
    struct shared_inode *i = &sh->inodes[ino];
    table_set(t, i->nlookup, i->nlookup + 1);
    if (i->backing_ino != st->st_ino)
        table_set(t, i->backing_ino, (uint64_t)st->st_ino);
    return ino;
}

void ops_entry(struct fs *fs, uint32_t ino, const struct stat *st, struct fuse_entry_param *e)
{
    const struct shared_inode *i = &table_shared(fs->table)->inodes[ino];
    bool fleeting = (i->flags & INODE_VIRTUAL) != 0;
    *e = (struct fuse_entry_param){.ino = ino, .generation = i->generation, .attr = *st};
    e->attr_timeout = fleeting ? 0 : OPS_FOREVER;
    /* Names are cached for all processes alike; those that not everybody may see are not. */
    bool hidden = name_kind(i->name, i->name_len, NULL) == NAME_PRIVATE;
    e->entry_timeout = fleeting || hidden ? 0 : OPS_FOREVER;
}

void ops_reply_entry(struct call *c, uint32_t ino, const struct stat *st)
{
    struct fuse_entry_param e;
    ops_entry(c->fs, ino, st, &e);
    if (fuse_reply_entry(c->req, &e) == -ENOENT)
        ops_forget(c->fs, ino, 1);
    call_end(c);
}

/* ---- journals ---- */

static struct shared_inode *database_of(struct fs *fs, uint32_t parent, const char *name)
{
    size_t base;
    uint32_t ino = name_kind(name, strlen(name), &base) == NAME_JOURNAL ? table_find(fs->table, parent, name, base) : 0;
    return ino ? table_inode(fs->table, ino) : NULL;
}

bool ops_syncs(struct fs *fs, uint32_t parent, const char *name)
{
    const struct shared_inode *i = database_of(fs, parent, name);
    /* Where commits wait for replicas the end of a journal must be seen before it has happened: it may be refused. */
    return i && (i->flags & INODE_SYNCS) && !config_sync_most(fs->config);
}

bool ops_database_open(struct fs *fs, uint32_t parent, const char *name)
{
    const struct shared_inode *i = database_of(fs, parent, name);
    return i && i->opens_app;
}

void ops_set_syncs(struct fs *fs, uint32_t parent, const char *name, bool syncs)
{
    struct shared_inode *i = database_of(fs, parent, name);
    if (!i || !(i->flags & INODE_SYNCS) == !syncs)
        return;
    table_set(fs->table, i->flags, i->flags ^ INODE_SYNCS);
    table_commit(fs->table);
}

/* ---- the end of inodes and orphans ---- */

/* The file of an orphan that nothing holds. First the file, then the table: killed between, the successor finds it again. */
static void remove_orphan(struct fs *fs, uint32_t ino)
{
    char name[48];
    table_lock(fs->table);
    files_orphan_name(fs->table, ino, name);
    table_unlock(fs->table);
    if (unlinkat(fs->orphans_fd, name, 0) && errno != ENOENT)
        log_warn("ops", "%s/%s could not be removed: %s", LAYOUT_ORPHANS, name, err_name(errno));
    table_lock(fs->table);
    struct shared_inode *i = table_inode(fs->table, ino);
    if (i && (i->flags & INODE_ORPHAN)) {
        table_set(fs->table, i->flags, (i->flags & ~(uint32_t)INODE_ORPHAN) | INODE_NAMELESS);
        table_commit(fs->table);
        table_release(fs->table, ino);
    }
    table_unlock(fs->table);
}

void ops_forget(struct fs *fs, uint64_t ino, uint64_t n)
{
    table_lock(fs->table);
    struct shared_inode *i = table_inode(fs->table, ino);
    bool orphan = false;
    if (i && ino != TABLE_ROOT) {
        uint64_t left = i->nlookup > n ? i->nlookup - n : 0;
        table_set(fs->table, i->nlookup, left);
        table_commit(fs->table);
        orphan = left == 0 && (i->flags & INODE_ORPHAN) && !i->opens_app && !i->opens_repl;
        table_release(fs->table, (uint32_t)ino);
    }
    table_unlock(fs->table);
    if (orphan)
        remove_orphan(fs, (uint32_t)ino);
}

struct found {
    uint32_t *ino;
    size_t n, room;
};

static void find_closed_orphan(struct table *t, uint32_t ino, void *arg)
{
    struct found *f = arg;
    const struct shared_inode *i = table_inode(t, ino);
    if (!(i->flags & INODE_ORPHAN) || i->opens_app || i->opens_repl)
        return;
    if (f->n == f->room) {
        uint32_t *bigger = reallocarray(f->ino, f->room + 64, sizeof *f->ino);
        if (!bigger)
            return; /* the next start finds it */
        f->ino = bigger;
        f->room += 64;
    }
    f->ino[f->n++] = ino;
}

static void empty_directory(int dirfd)
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        if (fd >= 0)
            close(fd);
        log_warn("ops", "%s cannot be read: %s", LAYOUT_ORPHANS, err_name(errno));
        return;
    }
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && unlinkat(dirfd, e->d_name, 0))
            log_warn("ops", "%s/%s could not be removed: %s", LAYOUT_ORPHANS, e->d_name, err_name(errno));
    closedir(d);
}

void ops_sweep_orphans(struct fs *fs, bool fresh)
{
    if (fresh) {
        empty_directory(fs->orphans_fd);
        return;
    }
    struct found f = {0};
    table_lock(fs->table);
    table_each(fs->table, find_closed_orphan, &f);
    table_unlock(fs->table);
    for (size_t k = 0; k < f.n; k++)
        remove_orphan(fs, f.ino[k]);
    free(f.ino);
}
