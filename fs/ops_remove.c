/* Names go away or move: unlink, rmdir, rename.
 *
 * Each is a struct removal that first asks the replicator what there is to ask, one question after the other, and is then carried out.
 *
 * A file that is open when its last name goes becomes an orphan: it moves to <data>/orphans (unlink), or gets a second link there before
 * another file is renamed over it, so that a successor can open it again. The file itself goes at the last release and forget. */
#include "fs/ops.h"

#include "fs/dirsync.h"
#include "fs/files.h"
#include "fs/virtual.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/stat.h>

enum removal_kind { REMOVE_FILE, REMOVE_DIR, REMOVE_RENAME };

struct removal {
    struct hook_ask ask; /* first: the callback gets its address */
    struct call call;
    enum removal_kind what;
    bool hooked; /* an application's, on the primary */
    uint32_t parent, newparent;
    unsigned flags; /* of renameat2 */
    char name[SHARED_NAME_MAX + 1], newname[SHARED_NAME_MAX + 1];
    struct {
        enum hooks_kind kind;
        bool target; /* about newname */
        bool quick;  /* struct hook_ask */
    } question[2];
    int questions, asked;
};

/* What is to be asked before a name of this kind goes away; 0: nothing. */
static enum hooks_kind question_for(enum name_kind k)
{
    switch (k) {
    case NAME_PLAIN:
        return HOOK_DB_REMOVE;
    case NAME_WAL:
        return HOOK_WAL_UNLINK;
    case NAME_JOURNAL:
        return HOOK_JOURNAL_END;
    default:
        return 0;
    }
}

static bool is_regular(struct fs *fs, uint32_t parent, const char *name, bool *small)
{
    struct where w;
    struct stat st;
    pthread_rwlock_rdlock(&fs->ns);
    bool yes = files_where_child(fs, parent, name, &w) == 0 && fstatat(w.dirfd, w.path, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
               S_ISREG(st.st_mode);
    pthread_rwlock_unlock(&fs->ns);
    *small = yes && st.st_size <= HOOKSERVER_QUICK_MAX;
    return yes;
}

/* An application ends its rollback journal. That is let through, and told, in any role: a transaction that began before this node ceased to be
 * primary must be able to end. (None can begin: on a replica no journal is made.) */
static bool ends_journal(const struct call *c, enum removal_kind what, const char *name)
{
    return what == REMOVE_FILE && name_kind(name, strlen(name), NULL) == NAME_JOURNAL && !call_is_replicator(c);
}

static void plan_one(struct removal *r, uint32_t parent, const char *name, bool target, bool only_companions)
{
    enum name_kind k = name_kind(name, strlen(name), NULL);
    enum hooks_kind q = question_for(k);
    bool small;
    if (!q || (only_companions && k == NAME_PLAIN) || !is_regular(r->call.fs, parent, name, &small))
        return;
    r->question[r->questions].quick = k == NAME_JOURNAL && small;
    r->question[r->questions].kind = q;
    r->question[r->questions++].target = target;
}

/* What will have to be asked. A rename takes the old name away, which for a database is told afterwards (HOOK_RENAMED) but for its
 * WAL or journal is their end; and it takes away what bore the new name. */
static void plan(struct removal *r)
{
    r->hooked = call_is_hooked(&r->call) || ends_journal(&r->call, r->what, r->name);
    if (!r->hooked || r->call.seen != SLOT_FREE || r->what == REMOVE_DIR)
        return; /* begun before a kill: asked already */
    plan_one(r, r->parent, r->name, false, r->what == REMOVE_RENAME);
    if (r->what == REMOVE_RENAME)
        plan_one(r, r->newparent, r->newname, true, false);
}

/* 0 or errno: may the caller touch this name? */
static int check_name(const struct call *c, uint64_t parent, const char *name)
{
    size_t len = strlen(name);
    if (len > SHARED_NAME_MAX)
        return ENAMETOOLONG;
    int err = call_may_change(c);
    if (err)
        return err;
    enum name_kind k = name_kind(name, len, NULL);
    if (k == NAME_PRIVATE && !call_is_replicator(c))
        return EACCES;
    if (k != NAME_POS && name[0] != '.')
        return 0;
    pthread_rwlock_rdlock(&c->fs->ns);
    bool is_virtual = virtual_is(c->fs, parent, name);
    pthread_rwlock_unlock(&c->fs->ns);
    return is_virtual ? EACCES : 0;
}

/* ---- carrying out ---- */

/* The inode of a name (0: not in the table), and whether it is open. fs->ns is held for writing, so that it cannot be opened any more. */
static uint32_t inode_of(struct fs *fs, uint32_t parent, const char *name, bool *open)
{
    table_lock(fs->table);
    uint32_t ino = table_find(fs->table, parent, name, strlen(name));
    const struct shared_inode *i = ino ? table_inode(fs->table, ino) : NULL;
    *open = i && (i->opens_app || i->opens_repl);
    table_unlock(fs->table);
    return ino;
}

static void forget_name(struct fs *fs, struct call *c, uint32_t ino, uint32_t flag, bool done)
{
    table_lock(fs->table);
    if (ino)
        table_remove_name(fs->table, ino, flag);
    if (done)
        call_done(c, 0, 0);
    table_commit(fs->table);
    if (ino)
        table_release(fs->table, ino);
    table_unlock(fs->table);
}

static void told_removed(struct removal *r)
{
    if (!r->hooked || name_kind(r->name, strlen(r->name), NULL) == NAME_JOURNAL)
        return;
    table_lock(r->call.fs->table);
    ops_tell(r->call.fs, HOOK_REMOVED, r->parent, r->name, 0, NULL);
    table_unlock(r->call.fs->table);
}

/* Moves an open file to the orphans. Killed after the move, the name is gone: `gone`, and the orphan is there. */
static int orphan_by_move(struct removal *r, const struct where *w, uint32_t ino, bool gone)
{
    struct fs *fs = r->call.fs;
    char orphan[48];
    struct stat st;
    table_lock(fs->table);
    files_orphan_name(fs->table, ino, orphan);
    table_unlock(fs->table);
    if (gone ? fstatat(fs->orphans_fd, orphan, &st, AT_SYMLINK_NOFOLLOW) : renameat(w->dirfd, w->path, fs->orphans_fd, orphan)) {
        if (!gone)
            return errno;
        forget_name(fs, &r->call, ino, INODE_NAMELESS, true);
        return 0;
    }
    forget_name(fs, &r->call, ino, INODE_ORPHAN, true);
    return 0;
}

/* Unlinks a file that nobody has open: the name leaves the table under the lock, the file goes after it, which may take long. */
static int unlink_closed(struct removal *r, const struct where *w, uint32_t ino, bool gone)
{
    struct fs *fs = r->call.fs;
    const char *slash = strrchr(w->path, '/');
    char dir[FS_PATH_MAX + 1];
    _cleanup_fd_ int parent_fd = -1;
    if (slash) { /* the path may change once the lock is let go; the directory stays the same */
        snprintf(dir, sizeof dir, "%.*s", (int)(slash - w->path), w->path);
        parent_fd = openat(w->dirfd, dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (parent_fd < 0) {
            int err = errno;
            pthread_rwlock_unlock(&fs->ns);
            return err;
        }
    }
    forget_name(fs, &r->call, ino, INODE_NAMELESS, false);
    pthread_rwlock_unlock(&fs->ns);
    if (gone)
        return 0;
    return unlinkat(slash ? parent_fd : w->dirfd, r->name, 0) ? errno : 0;
}

static int carry_out_unlink(struct removal *r)
{
    struct fs *fs = r->call.fs;
    struct where w;
    struct stat st = {0};
    bool gone = false, open;
    pthread_rwlock_wrlock(&fs->ns);
    int err = ops_errno(files_where_child(fs, r->parent, r->name, &w));
    if (!err && fstatat(w.dirfd, w.path, &st, AT_SYMLINK_NOFOLLOW)) {
        gone = errno == ENOENT && r->call.seen == SLOT_STARTED; /* it was there when we started: it was us */
        err = gone ? 0 : errno;
    }
    if (!err && !gone && !S_ISREG(st.st_mode))
        err = S_ISDIR(st.st_mode) ? EISDIR : ENOENT;
    if (err) {
        pthread_rwlock_unlock(&fs->ns);
        return err;
    }
    uint32_t ino = inode_of(fs, r->parent, r->name, &open);
    call_slot(&r->call);
    slots_start(r->call.slot, st.st_ino, 0);
    if (!open)
        return unlink_closed(r, &w, ino, gone); /* unlocks */
    err = orphan_by_move(r, &w, ino, gone);
    pthread_rwlock_unlock(&fs->ns);
    return err;
}

static int carry_out_rmdir(struct removal *r)
{
    struct fs *fs = r->call.fs;
    struct where w;
    bool open;
    pthread_rwlock_wrlock(&fs->ns);
    int err = ops_errno(files_where_child(fs, r->parent, r->name, &w));
    bool again = r->call.seen == SLOT_STARTED;
    struct stat st;
    if (!err && !again && fstatat(w.dirfd, w.path, &st, AT_SYMLINK_NOFOLLOW))
        err = errno;
    if (!err) {
        call_slot(&r->call);
        slots_start(r->call.slot, 0, 0);
        if (unlinkat(w.dirfd, w.path, AT_REMOVEDIR) && !(errno == ENOENT && again))
            err = errno;
    }
    if (!err)
        forget_name(fs, &r->call, inode_of(fs, r->parent, r->name, &open), INODE_NAMELESS, true);
    pthread_rwlock_unlock(&fs->ns);
    return err;
}

/* ---- rename ---- */

struct rename_state {
    struct where from, to;
    struct stat src, dst;
    bool src_is, dst_is;
    uint32_t src_ino, dst_ino;
    bool dst_open;
};

static int look(const struct where *w, struct stat *st, bool *is)
{
    *is = fstatat(w->dirfd, w->path, st, AT_SYMLINK_NOFOLLOW) == 0;
    return *is || errno == ENOENT ? 0 : errno;
}

/* Did a predecessor rename already? The slot names what lay at either end before. */
static bool renamed_already(const struct removal *r, const struct rename_state *s)
{
    const struct shared_slot *slot = r->call.slot;
    if (r->call.seen != SLOT_STARTED || !s->dst_is || s->dst.st_ino != slot->src_ino)
        return false;
    return !s->src_is || ((r->flags & RENAME_EXCHANGE) && s->src.st_ino == slot->dst_ino);
}

/* The file that is about to lose its name to the rename gets a second one among the orphans if it is open. */
static bool keep_target(struct fs *fs, const struct rename_state *s)
{
    char orphan[48];
    table_lock(fs->table);
    files_orphan_name(fs->table, s->dst_ino, orphan);
    table_unlock(fs->table);
    if (linkat(s->to.dirfd, s->to.path, fs->orphans_fd, orphan, 0) == 0 || errno == EEXIST)
        return true;
    log_warn("ops", "%s is open and renamed over, and cannot be kept (%s): lost to who has it open when edgefs-fs restarts",
             s->to.path, err_name(errno));
    return false;
}

static bool orphan_exists(struct fs *fs, uint32_t ino)
{
    char orphan[48];
    struct stat st;
    table_lock(fs->table);
    files_orphan_name(fs->table, ino, orphan);
    table_unlock(fs->table);
    return fstatat(fs->orphans_fd, orphan, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static void enter_rename(struct removal *r, const struct rename_state *s, bool kept)
{
    struct fs *fs = r->call.fs;
    table_lock(fs->table);
    if (r->flags & RENAME_EXCHANGE) {
        if (s->src_ino && s->dst_ino)
            table_exchange(fs->table, s->src_ino, s->dst_ino);
        else if (s->src_ino)
            table_rename(fs->table, s->src_ino, r->newparent, r->newname, strlen(r->newname));
        else if (s->dst_ino)
            table_rename(fs->table, s->dst_ino, r->parent, r->name, strlen(r->name));
    } else {
        if (s->dst_ino)
            table_remove_name(fs->table, s->dst_ino, kept ? (uint32_t)INODE_ORPHAN : (uint32_t)INODE_NAMELESS);
        if (s->src_ino)
            table_rename(fs->table, s->src_ino, r->newparent, r->newname, strlen(r->newname));
    }
    call_done(&r->call, 0, 0);
    table_commit(fs->table);
    if (s->dst_ino)
        table_release(fs->table, s->dst_ino);
    if (r->hooked && (r->flags & RENAME_EXCHANGE)) {
        ops_tell(fs, HOOK_EXCHANGED, r->parent, r->name, r->newparent, r->newname);
    } else if (r->hooked) {
        ops_tell(fs, HOOK_RENAMED, r->parent, r->name, r->newparent, r->newname);
        if (s->src_is && S_ISREG(s->src.st_mode))
            ops_tell(fs, HOOK_CREATED, r->newparent, r->newname, 0, NULL);
    }
    table_unlock(fs->table);
}

static int carry_out_rename_locked(struct removal *r)
{
    struct fs *fs = r->call.fs;
    struct rename_state s = {0};
    bool src_open, kept = false;
    int err = ops_errno(files_where_child(fs, r->parent, r->name, &s.from));
    if (!err)
        err = ops_errno(files_where_child(fs, r->newparent, r->newname, &s.to));
    if (!err)
        err = look(&s.from, &s.src, &s.src_is);
    if (!err)
        err = look(&s.to, &s.dst, &s.dst_is);
    if (err)
        return err;
    s.src_ino = inode_of(fs, r->parent, r->name, &src_open);
    s.dst_ino = inode_of(fs, r->newparent, r->newname, &s.dst_open);
    bool over = !(r->flags & RENAME_EXCHANGE) && s.dst_open;
    if (renamed_already(r, &s)) {
        kept = over && orphan_exists(fs, s.dst_ino);
        s.src = s.dst;
        s.src_is = true;
        s.dst_is = r->call.slot->dst_ino != 0;
    } else {
        if (!s.src_is)
            return ENOENT;
        if (over && s.dst_is && S_ISREG(s.dst.st_mode))
            kept = keep_target(fs, &s);
        call_slot(&r->call);
        slots_start(r->call.slot, s.src.st_ino, s.dst_is ? s.dst.st_ino : 0);
        if (renameat2(s.from.dirfd, s.from.path, s.to.dirfd, s.to.path, r->flags)) {
            err = errno;
            char orphan[48];
            if (kept) {
                table_lock(fs->table);
                files_orphan_name(fs->table, s.dst_ino, orphan);
                table_unlock(fs->table);
                (void)unlinkat(fs->orphans_fd, orphan, 0); /* swept at the next fresh start otherwise */
            }
            return err;
        }
    }
    enter_rename(r, &s, kept);
    return 0;
}

static int carry_out_rename(struct removal *r)
{
    pthread_rwlock_wrlock(&r->call.fs->ns);
    int err = carry_out_rename_locked(r);
    pthread_rwlock_unlock(&r->call.fs->ns);
    return err;
}

/* ---- the walk from request to reply ---- */

static void carry_out(struct removal *r)
{
    int err = r->what == REMOVE_FILE ? carry_out_unlink(r) : r->what == REMOVE_DIR ? carry_out_rmdir(r) : carry_out_rename(r);
    dirsync_changed(r->call.fs->dirsync);
    if (err == 0 && r->what != REMOVE_RENAME)
        told_removed(r);
    call_reply(&r->call, err);
    free(r);
}

static void next_step(struct removal *r)
{
    struct fs *fs = r->call.fs;
    while (r->asked < r->questions) {
        bool target = r->question[r->asked].target;
        r->ask.kind = r->question[r->asked].kind;
        r->ask.quick = r->question[r->asked].quick;
        r->asked++;
        int rc = ops_child_path(fs, target ? r->newparent : r->parent, target ? r->newname : r->name, r->ask.path);
        r->ask.policy = ASK_GO_ON;
        r->ask.wait_ms = 0;
        if (rc == 0)
            ops_sync_policy(fs, &r->ask);
        if (rc == 0 && hookserver_ask(fs, &r->ask))
            return; /* answered() goes on */
    }
    carry_out(r);
}

static void answered(struct hook_ask *a)
{
    struct removal *r = (struct removal *)a;
    if (a->answered && a->error) {
        call_reply(&r->call, a->error);
        free(r);
    } else
        next_step(r);
}

static void begin(fuse_req_t req, enum removal_kind what, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
                  const char *newname, unsigned flags)
{
    struct call c;
    call_begin(&c, req);
    int err = 0;
    if (c.seen == SLOT_DONE) {
        call_reply(&c, 0);
        return;
    }
    if (c.seen == SLOT_FREE)
        err = check_name(&c, parent, name);
    if (err == EROFS && ends_journal(&c, what, name))
        err = 0;
    if (c.seen == SLOT_FREE && !err && newname)
        err = check_name(&c, newparent, newname);
    if (!err && (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE)))
        err = EINVAL;
    struct removal *r = err ? NULL : calloc(1, sizeof *r);
    if (!r) {
        call_reply(&c, err ? err : ENOMEM);
        return;
    }
    r->call = c;
    r->what = what;
    r->parent = (uint32_t)parent;
    r->newparent = (uint32_t)newparent;
    r->flags = flags;
    memcpy(r->name, name, strlen(name) + 1);
    if (newname)
        memcpy(r->newname, newname, strlen(newname) + 1);
    r->ask.done = answered;
    plan(r);
    next_step(r);
}

void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    begin(req, REMOVE_FILE, parent, name, 0, NULL, 0);
}

void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    begin(req, REMOVE_DIR, parent, name, 0, NULL, 0);
}

void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent, const char *newname, unsigned flags)
{
    begin(req, REMOVE_RENAME, parent, name, newparent, newname, flags);
}
