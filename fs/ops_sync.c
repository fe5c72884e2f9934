/* Synchronous commit: the sync of a WAL, and the end of a rollback journal, are answered when replicas have the transaction, too.
 *
 * The sync of a WAL and the question to the replicator run at the same time: what the replicator reads is in the page cache already, and a replica may
 * have it durable before this node has, because nobody applies it before this node says that it is committed. When both have ended the application
 * gets its answer. If that is an error, SQLite takes the transaction back: its frames are not published, and the next writer overwrites them. But until then
 * they lie in the WAL, whole, with a commit size, and a recovery (all of the database's connections were killed, or the machine stopped) would take
 * them for committed. So before the error is returned the first of them loses its salts, durably: a recovery ends there. */
#include "fs/files.h"
#include "fs/ops.h"
#include "fs/passthrough.h"
#include "fs/session.h"
#include "lib/log.h"
#include "lib/sqlitefile.h"
#include "lib/util.h"
#include "lib/walindex.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>

struct wal_sync {
    struct hook_ask ask; /* first: the callback gets its address */
    struct fs *fs;
    fuse_req_t req;
    fuse_ino_t ino;
    int synced; /* errno of this node's own sync */
    atomic_int left; /* of the two: the sync, the question */
};

/* How many replicas the database is waited for whose companion this is; 0: none. */
static unsigned replicas_of(const struct fs *fs, const char *path, enum name_kind wanted)
{
    char name[FS_PATH_MAX + 1];
    const char *slash = strrchr(path, '/');
    size_t dir = slash ? (size_t)(slash + 1 - path) : 0, base;
    if (name_kind(path + dir, strlen(path + dir), &base) != wanted)
        return 0;
    snprintf(name, sizeof name, "%.*s", (int)(dir + base), path);
    return config_sync_replicas(fs->config, name);
}

void ops_sync_policy(struct fs *fs, struct hook_ask *a)
{
    if (!config_sync_most(fs->config) || (a->kind != HOOK_JOURNAL_END && a->kind != HOOK_WAL_SYNC) ||
        !replicas_of(fs, a->path, a->kind == HOOK_WAL_SYNC ? NAME_WAL : NAME_JOURNAL))
        return;
    a->policy = fs->config->sync.refuse ? ASK_REFUSE : ASK_GO_ON;
    a->wait_ms = fs->config->sync.timeout_ms + HOOKS_TIMEOUT_MS;
}

/* The first frame that is not published, as the replicator said; or, when there was none to ask, as the wal-index says, which can be read as a
 * file while it is passed through. 0: not known. */
static uint32_t unpublished_frame(const struct wal_sync *s, const struct wal_header *w)
{
    unsigned frame;
    uint8_t buf[WALINDEX_HEADERS_SIZE];
    struct walindex_header h;
    char name[FS_PATH_MAX + 1];
    if (s->ask.text_len && sscanf(s->ask.text, "%u", &frame) == 1)
        return frame;
    if (!passthrough_active(s->fs))
        return 0;
    snprintf(name, sizeof name, "%.*s%s", (int)(strlen(s->ask.path) - strlen(LAYOUT_WAL)), s->ask.path, LAYOUT_SHM);
    _cleanup_fd_ int fd = openat(s->fs->db_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || pread(fd, buf, sizeof buf, 0) != (ssize_t)sizeof buf || walindex_decode(buf, &h))
        return 0;
    return h.salt1 == w->salt1 && h.salt2 == w->salt2 ? h.max_frame + 1 : 1;
}

/* Makes the transaction that was refused one that no recovery finds. 0 or an errno. */
static int invalidate(struct wal_sync *s)
{
    static const uint8_t no_salts[8];
    uint8_t head[WAL_HEADER_SIZE];
    struct wal_header w;
    int fd = files_get(s->fs, s->ino, false), err = 0;
    if (fd < 0)
        return -fd;
    bool whole = pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head && !wal_header_decode(head, &w);
    uint32_t frame = whole ? unpublished_frame(s, &w) : 0;
    int64_t at = frame ? wal_frame_offset(frame, w.page_size) + 8 : 0;
    if (!frame)
        err = whole ? ENODATA : 0; /* without a header nothing in it is found anyway */
    else if (pwrite(fd, no_salts, sizeof no_salts, at) != (ssize_t)sizeof no_salts || fdatasync(fd))
        err = errno;
    files_put(s->fs, s->ino);
    if (frame && !passthrough_active(s->fs))
        session_forget_contents(s->fs, s->ino, at, sizeof no_salts);
    return err;
}

/* The second of the two has ended. */
static void conclude(struct wal_sync *s)
{
    int err = s->synced;
    if (s->ask.answered && s->ask.error) {
        int failed = invalidate(s);
        if (failed)
            log_error("sync", "%s: a transaction was refused because too few replicas have it, but its frames could not be made invalid (%s): it comes "
                              "back if the database is recovered before the next write", s->ask.path, err_name(-failed));
        err = s->ask.error;
    }
    fuse_reply_err(s->req, err);
    free(s);
}

static void one_less(struct wal_sync *s)
{
    if (atomic_fetch_sub(&s->left, 1) == 1)
        conclude(s);
}

static void answered(struct hook_ask *a)
{
    one_less((struct wal_sync *)a);
}

bool ops_sync_wal(fuse_req_t req, fuse_ino_t ino)
{
    struct fs *fs = fuse_req_userdata(req);
    struct wal_sync *s = calloc(1, sizeof *s);
    if (!s) {
        fuse_reply_err(req, ENOMEM);
        return true;
    }
    *s = (struct wal_sync){.fs = fs, .req = req, .ino = ino, .left = 2, .ask = {.kind = HOOK_WAL_SYNC, .done = answered}};
    table_lock(fs->table);
    int n = table_path(fs->table, (uint32_t)ino, s->ask.path, sizeof s->ask.path);
    table_unlock(fs->table);
    if (n <= 0 || !replicas_of(fs, s->ask.path, NAME_WAL)) {
        free(s);
        return false;
    }
    ops_sync_policy(fs, &s->ask);
    if (!hookserver_ask(fs, &s->ask)) { /* nobody to ask, and the policy is to go on */
        free(s);
        return false;
    }
    int fd = files_get(fs, ino, false);
    s->synced = fd < 0 ? -fd : fdatasync(fd) ? errno : 0;
    if (fd >= 0)
        files_put(fs, ino);
    one_less(s);
    return true;
}
