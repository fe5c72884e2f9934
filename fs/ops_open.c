/* Open and release.
 *
 * On a replica the first open of a database by an application waits for its fence: without one, a writer could get in. All openers that
 * come while the question is under way wait for the same answer (struct opening). The count goes up for each of them before the
 * opening ends, so a later one sees either the opening or a count above 0, and both mean that the fence has been asked for.
 *
 * On a primary the first open of a database whose commits wait for replicas is asked about if it has a WAL: whoever opens it first recovers what lies there, and
 * that may be a transaction which waited when all was killed, and which no replica has. */
#include "fs/ops.h"

#include "fs/files.h"
#include "fs/journals.h"
#include "fs/passthrough.h"
#include "fs/role.h"
#include "fs/virtual.h"
#include "lib/log.h"
#include "lib/sqlitefile.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

struct waiter {
    struct waiter *next;
    struct call call;
    int flags;
};

struct opening {
    struct hook_ask ask; /* first: the callback gets its address */
    struct opening *next;
    struct fs *fs;
    uint32_t ino;
    struct waiter *waiters, **tail;
};

static pthread_mutex_t openings_mutex = PTHREAD_MUTEX_INITIALIZER; /* before fs->ns in the lock order */
static struct opening *openings;

static bool wants_write(int flags)
{
    return (flags & O_ACCMODE) != O_RDONLY;
}

/* ---- counting ---- */

static enum name_kind kind_of(struct fs *fs, uint64_t ino)
{
    const struct shared_inode *i = table_inode(fs->table, ino);
    return i ? name_kind(i->name, i->name_len, NULL) : NAME_PRIVATE;
}

static void tell_name(struct fs *fs, enum hooks_kind kind, uint64_t ino)
{
    const struct shared_inode *i = table_inode(fs->table, ino);
    char name[SHARED_NAME_MAX + 1];
    if (!i || (i->flags & (INODE_ORPHAN | INODE_NAMELESS)))
        return;
    memcpy(name, i->name, sizeof name);
    ops_tell(fs, kind, i->parent, name, 0, NULL);
}

uint64_t ops_fh(enum name_kind k, int flags, bool replicator)
{
    return (replicator ? FH_REPLICATOR : 0u) | (k == NAME_JOURNAL ? FH_JOURNAL : 0u) | (k == NAME_WAL ? FH_WAL : 0u) | (name_is_database(k) ? FH_DATABASE : 0u) |
           (k == NAME_JOURNAL && wants_write(flags) ? FH_WRITES : 0u);
}

/* Opens the backing file and counts. 0 or errno. */
static int count_open(struct call *c, uint64_t ino, int flags, uint64_t *fh, int32_t *backing_id)
{
    struct fs *fs = c->fs;
    bool replicator = call_is_replicator(c), first_open;
    pthread_rwlock_rdlock(&fs->ns);
    int fd = files_get(fs, ino, true);
    if (fd < 0) {
        pthread_rwlock_unlock(&fs->ns);
        return -fd;
    }
    table_lock(fs->table);
    enum name_kind k = kind_of(fs, ino);
    const struct shared_inode *named = table_inode(fs->table, ino);
    bool see_writes = k == NAME_JOURNAL && !ops_syncs(fs, named->parent, named->name);
    table_unlock(fs->table);
    *backing_id = passthrough_begin(fs, (uint32_t)ino, fd, see_writes, &first_open);
    if (k == NAME_JOURNAL && *backing_id)
        journals_opened(fs->journals, (uint32_t)ino, fd, first_open);
    *fh = ops_fh(k, flags, replicator);
    call_slot(c);
    table_lock(fs->table);
    struct shared_inode *i = table_inode(fs->table, ino);
    bool first = i && !replicator && i->opens_app == 0;
    if (i) {
        passthrough_count(fs, (uint32_t)ino, *backing_id, replicator);
        call_done(c, (uint32_t)ino, 0);
        table_commit(fs->table);
        if (first && name_is_database(k))
            tell_name(fs, HOOK_OPENED, ino);
    }
    table_unlock(fs->table);
    passthrough_end(fs, (uint32_t)ino, *backing_id, i != NULL);
    pthread_rwlock_unlock(&fs->ns);
    files_put(fs, ino);
    return i ? 0 : ESTALE;
}

/* A journal that was written and never synced has ended without a call that would tell: the writes of the next ones are looked at. */
static void journal_closed(struct fs *fs, uint64_t ino)
{
    int fd = journals_closed(fs->journals, (uint32_t)ino) ? files_get(fs, ino, false) : -1;
    if (fd < 0)
        return;
    bool zeroed = journals_zeroed(fd);
    files_put(fs, ino);
    table_lock(fs->table);
    const struct shared_inode *i = table_inode(fs->table, ino);
    if (i && zeroed)
        ops_set_syncs(fs, i->parent, i->name, false);
    table_unlock(fs->table);
}

void ops_release(struct fs *fs, struct call *c, uint64_t ino, uint64_t fh)
{
    int32_t id = 0;
    bool last_app = false;
    table_lock(fs->table);
    struct shared_inode *i = table_inode(fs->table, ino);
    bool last = i && i->opens_app + i->opens_repl == 1 && i->backing_id;
    table_unlock(fs->table);
    if (last && (fh & FH_WRITES))
        journal_closed(fs, ino);
    passthrough_lock(fs);
    table_lock(fs->table);
    i = table_inode(fs->table, ino);
    uint32_t *count = !i ? NULL : fh & FH_REPLICATOR ? &i->opens_repl : &i->opens_app;
    if (count && *count) {
        table_set(fs->table, *count, *count - 1);
        last_app = count == &i->opens_app && *count == 1;
        if (i->opens_app + i->opens_repl == 1) {
            id = i->backing_id;
            table_set(fs->table, i->backing_id, 0);
        }
        if (c)
            call_done(c, (uint32_t)ino, id);
        table_commit(fs->table);
        if (last_app && name_is_database(kind_of(fs, ino)))
            tell_name(fs, HOOK_LAST_CLOSE, ino);
    } else
        log_error("ops", "release of inode %llu, which is not open", (unsigned long long)ino);
    table_unlock(fs->table);
    passthrough_unlock(fs);
    passthrough_close(fs, id);
    files_trim(fs, ino);
}

void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct call c;
    call_begin(&c, req);
    if (c.seen == SLOT_DONE)
        passthrough_close(c.fs, c.slot->backing_id);
    else if (!(fi->fh & FH_VIRTUAL)) {
        call_slot(&c);
        ops_release(c.fs, &c, ino, fi->fh);
    }
    call_reply(&c, 0);
}

/* ---- open ---- */

static void reply_open(struct call *c, uint64_t ino, uint64_t fh, int32_t backing_id)
{
    if (passthrough_reply_open(c->req, fh, backing_id) == -ENOENT)
        ops_release(c->fs, NULL, ino, fh);
    call_end(c);
}

static void open_now(struct call *c, uint64_t ino, int flags)
{
    uint64_t fh;
    int32_t backing_id;
    int err = count_open(c, ino, flags, &fh, &backing_id);
    if (err)
        call_reply(c, err);
    else
        reply_open(c, ino, fh, backing_id);
}

static void reply_again(struct call *c, uint64_t ino, int flags)
{
    table_lock(c->fs->table);
    const struct shared_inode *i = table_inode(c->fs->table, ino);
    enum name_kind k = kind_of(c->fs, ino);
    int32_t id = i ? i->backing_id : 0;
    table_unlock(c->fs->table);
    reply_open(c, ino, ops_fh(k, flags, call_is_replicator(c)), id);
}

/* ---- the first open on a replica, or of what may have to be recovered ---- */

/* Its commits wait for replicas, and it has a WAL with frames. */
static bool may_recover(const struct fs *fs, const char *path)
{
    char name[FS_PATH_MAX + 1];
    struct stat st;
    if (!config_sync_replicas(fs->config, path))
        return false;
    int n = snprintf(name, sizeof name, "%s%s", path, LAYOUT_WAL);
    return n < (int)sizeof name && !fstatat(fs->db_fd, name, &st, AT_SYMLINK_NOFOLLOW) && st.st_size > WAL_HEADER_SIZE;
}

static void unlink_opening(struct opening *o)
{
    for (struct opening **p = &openings; *p; p = &(*p)->next)
        if (*p == o) {
            *p = o->next;
            return;
        }
}

/* The answer is there, or will not come. Without one, readers go on: they can do no harm, unless they recover what nobody was told of. */
static void fence_answered(struct hook_ask *a)
{
    struct opening *o = (struct opening *)a;
    struct fs *fs = o->fs;
    pthread_mutex_lock(&openings_mutex);
    for (struct waiter *w = o->waiters, *next; w; w = next) {
        next = w->next;
        if (a->answered && a->error)
            call_reply(&w->call, a->error);
        else if (!a->answered && (wants_write(w->flags) || (a->any_role && fs->config->sync.refuse)))
            call_reply(&w->call, EAGAIN);
        else
            open_now(&w->call, o->ino, w->flags);
        free(w);
    }
    unlink_opening(o);
    table_lock(fs->table);
    const struct shared_inode *i = table_inode(fs->table, o->ino);
    if (a->answered && !a->error && (!i || i->opens_app == 0))
        tell_name(fs, HOOK_LAST_CLOSE, o->ino); /* all opens failed: the fence is not needed */
    table_unlock(fs->table);
    pthread_mutex_unlock(&openings_mutex);
    free(o);
}

/* openings_mutex held. The opening of this inode, made if there is none; NULL: out of memory. */
static struct opening *opening_of(struct fs *fs, uint32_t ino, bool *made)
{
    *made = false;
    for (struct opening *o = openings; o; o = o->next)
        if (o->ino == ino && o->fs == fs)
            return o;
    struct opening *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    o->fs = fs;
    o->ino = ino;
    o->tail = &o->waiters;
    o->ask.kind = HOOK_OPENING;
    o->ask.policy = ASK_FENCE;
    o->ask.done = fence_answered;
    o->next = openings;
    openings = o;
    *made = true;
    return o;
}

/* True: the open waits for the fence, and is replied to later. False: *err: it is not to wait (0) or fails. */
static bool wait_for_fence(struct call *c, uint32_t ino, int flags, int *err)
{
    struct fs *fs = c->fs;
    bool made, parked = false, recovers;
    *err = 0;
    struct waiter *w = malloc(sizeof *w);
    pthread_mutex_lock(&openings_mutex);
    table_lock(fs->table);
    const struct shared_inode *i = table_inode(fs->table, ino);
    bool open = i && i->opens_app > 0;
    char path[FS_PATH_MAX + 1];
    int n = i ? table_path(fs->table, ino, path, sizeof path) : -ESTALE;
    table_unlock(fs->table);
    struct opening *o = NULL;
    recovers = !open && n > 0 && may_recover(fs, path);
    bool needless = open || (!recovers && role_get(fs) == HOOKS_ROLE_PRIMARY);
    if (!needless && n <= 0)
        *err = n ? -n : ESTALE;
    else if (!needless && (!w || !(o = opening_of(fs, ino, &made))))
        *err = ENOMEM;
    if (o) {
        *w = (struct waiter){.call = *c, .flags = flags};
        *o->tail = w;
        o->tail = &w->next;
        parked = true;
        if (made) {
            memcpy(o->ask.path, path, (size_t)n + 1);
            o->ask.any_role = recovers;
            o->ask.wait_ms = recovers ? fs->config->sync.timeout_ms + HOOKS_TIMEOUT_MS : 0;
            if (!hookserver_ask(fs, &o->ask)) { /* too many questions are waiting */
                unlink_opening(o);
                free(o);
                parked = false;
                *err = EAGAIN;
            }
        }
    }
    pthread_mutex_unlock(&openings_mutex);
    if (!parked)
        free(w);
    return parked;
}

void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct call c;
    call_begin(&c, req);
    struct fs *fs = c.fs;
    if (c.seen == SLOT_DONE) {
        reply_again(&c, ino, fi->flags);
        return;
    }
    table_lock(fs->table);
    const struct shared_inode *i = table_inode(fs->table, ino);
    uint32_t flags = i ? i->flags : 0;
    enum name_kind k = kind_of(fs, ino);
    table_unlock(fs->table);
    if (flags & INODE_VIRTUAL) {
        virtual_open(&c, ino, fi->flags);
        return;
    }
    int err = 0;
    bool replica = role_get(fs) != HOOKS_ROLE_PRIMARY;
    bool gated = name_is_database(k) && !(flags & INODE_ORPHAN) && (replica || config_sync_most(fs->config)) && !call_is_replicator(&c);
    /* EROFS is what makes SQLite open read-only and say so at the first write. Its -wal and -shm stay writable: readers need them. */
    if (gated && replica && fs->config->replica_open_readonly && wants_write(fi->flags))
        err = EROFS;
    else if (gated && wait_for_fence(&c, (uint32_t)ino, fi->flags, &err))
        return;
    if (err)
        call_reply(&c, err);
    else
        open_now(&c, ino, fi->flags);
}
