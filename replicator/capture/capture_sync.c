/* Synchronous commit, on the primary: a transaction that is about to be committed goes to the replicas as a PREPARE record, and the application's call
 * (the sync of its WAL, the end of its journal) is answered when enough of them have it durable (sync.h).
 *
 *   frames written ─► sync of the WAL: hook ─► PREPARE ─► acknowledged ─► answer 0 ─► SQLite publishes the frames ─► TX
 *                                                  └─► time-out, refuse ─► ABORT ─► answer EIO ─► edgefs-fs makes the frames invalid
 *
 * Why the first commit frame behind the published ones, in an unbroken chain of checksums, is the transaction of whoever syncs: SQLite syncs the WAL with
 * its write lock held, after the last frame and before it publishes; nobody else can have written there. A sync for another reason (the WAL's header was
 * written, a checkpoint begins) finds no such frame, or that of a writer who is about to sync: then it waits with it.
 *
 * A prepared transaction that is not published although nobody holds the write lock any more will not be (its writer was killed): ABORT. Should a recovery find
 * its frames all the same, it is committed after all, and a TX record follows like any other. */
#include "replicator/capture/capture_private.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/apply/apply.h"
#include "replicator/metrics.h"
#include "replicator/stream/replicas.h"
#include "replicator/stream/sync.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#define READ_FIRST 32768u /* a transaction that fits costs one read */
#define READ_MORE (1u << 20)
#define DECIDE_NS 1000000000u

static bool refuses(const struct capture *c)
{
    /* Who has lost its lease, or hands it over, must not go on by itself. */
    return c->node->config->sync.refuse || node_role(c->node) != NODE_PRIMARY || !node_holds_lease(c->node);
}

static bool writer_active(const struct capture_file *cf)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = WALINDEX_WRITE_LOCK, .l_len = 1};
    return fcntl(cf->view.shm_fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK; /* kept in the kernel: no call into the mount */
}

/* The last published frame of the generation that the WAL file's own header names; its checksum, or that of the header, in cksum. */
static int published(struct capture_file *cf, const struct walindex_header *h, uint32_t *frame, uint32_t cksum[2])
{
    int rc = walview_header(&cf->view);
    if (rc)
        return rc;
    const struct wal_header *w = &cf->view.header;
    bool same = h->page_size && w->salt1 == h->salt1 && w->salt2 == h->salt2 && h->max_frame;
    *frame = same ? h->max_frame : 0;
    memcpy(cksum, same ? h->frame_cksum : w->cksum, 2 * sizeof *cksum);
    return 0;
}

/* The commit frame that is about to be published: 1; 0: there is none; -errno. */
static int find_commit(struct capture_file *cf, const struct walindex_header *h, struct capture_commit *out)
{
    uint32_t frame, cksum[2];
    if (published(cf, h, &frame, cksum))
        return 0;
    const struct wal_header *w = &cf->view.header;
    const size_t stride = WAL_FRAME_HEADER_SIZE + (size_t)w->page_size;
    size_t size = MAX((size_t)READ_FIRST / stride, (size_t)1) * stride;
    _cleanup_free_ uint8_t *chunk = NULL;
    for (;; size = READ_MORE / stride * stride) {
        uint8_t *p = realloc(chunk, size);
        if (!p)
            return -ENOMEM;
        chunk = p;
        ssize_t got = pread(cf->view.wal_fd, chunk, size, wal_frame_offset(frame + 1, w->page_size));
        if (got < 0)
            return -errno;
        size_t n = (size_t)got / stride;
        for (size_t i = 0; i < n; i++) {
            struct wal_frame_header fh;
            const uint8_t *f = chunk + i * stride;
            if (!wal_frame_check(w, f, f + WAL_FRAME_HEADER_SIZE, cksum))
                return 0;
            frame++;
            wal_frame_header_decode(f, &fh);
            if (!fh.commit)
                continue;
            *out = (struct capture_commit){.salt1 = w->salt1, .salt2 = w->salt2, .frame = frame, .cksum = {cksum[0], cksum[1]}};
            return 1;
        }
        if (n < size / stride)
            return 0;
    }
}

/* The frame after the published ones is one that lost its salts. */
static bool was_refused(struct capture_file *cf, const struct walindex_header *h)
{
    uint8_t buf[WAL_FRAME_HEADER_SIZE];
    struct wal_frame_header fh;
    uint32_t frame, cksum[2];
    if (!cf->refused || published(cf, h, &frame, cksum) || frame + 1 != cf->refused ||
        pread(cf->view.wal_fd, buf, sizeof buf, wal_frame_offset(cf->refused, cf->view.header.page_size)) != (ssize_t)sizeof buf)
        return false;
    wal_frame_header_decode(buf, &fh);
    return !fh.salt1 && !fh.salt2;
}

static void abort_prepared(struct capture *c, struct database *db)
{
    struct err e;
    uint64_t lsn;
    if (!db->prepared)
        return;
    if (sequencer_append(c->node->sequencer, RECORD_ABORT, db->name, NULL, 0, &lsn, &e))
        log_warn("sync", "%s: cannot log that a prepared transaction did not happen: %s", db->name, e.text);
    else
        db->prepared = 0;
}

/* Answers that the sync of the WAL fails. db->lock is held. */
static void refuse_wal(struct capture *c, struct capture_file *cf, uint64_t hook)
{
    struct walindex_header h;
    uint32_t frame, cksum[2];
    char text[16] = "";
    abort_prepared(c, cf->db);
    if (cf->mode == CAPTURE_MAPPED && cf->view.index && !walindex_read(cf->view.index, &h) && !published(cf, &h, &frame, cksum)) {
        cf->refused = frame + 1;
        snprintf(text, sizeof text, "%u", frame + 1);
    }
    metrics_add(METRIC_SYNC_REFUSED, 1);
    hooks_answer(c->node->hooks, hook, EIO, text);
}

static void wait_for(struct capture *c, struct capture_file *cf, uint64_t hook, uint64_t since_ns, uint64_t lsn, unsigned replicas, enum sync_kind kind)
{
    struct sync_wait w = {
        .hook = hook,
        .db = cf->db,
        .lsn = lsn,
        .replicas = replicas,
        .deadline_ns = since_ns + c->node->config->sync.timeout_ms * 1000000u,
        .kind = kind,
    };
    if (!sync_wait(c->node->sync, &w))
        capture_sync_end(c, &w);
}

/* What a sync of the WAL waits for cannot be sent to replicas. */
static void cannot(struct capture *c, struct capture_file *cf, uint64_t hook, const struct err *e)
{
    log_warn("sync", "%s: replicas cannot be given a transaction before it is committed: %s", cf->db->name, e->text);
    if (refuses(c)) {
        refuse_wal(c, cf, hook);
        return;
    }
    metrics_add(METRIC_SYNC_ASYNC, 1);
    hooks_answer(c->node->hooks, hook, 0, NULL);
}

/* Looks at the sync that waits to be looked at. Everything published is captured. */
static void consider(struct capture *c, struct capture_file *cf, const struct walindex_header *h)
{
    struct database *db = cf->db;
    struct capture_commit commit;
    struct err e = {0};
    uint64_t hook = cf->sync_hook, lsn = db->prepared;
    unsigned replicas = sync_wanted(c->node->sync, db);
    cf->sync_hook = 0;
    if (!cf->view.index) { /* no wal-index tells committed frames from others: they are captured as soon as they are whole */
        if (replicas)
            wait_for(c, cf, hook, cf->sync_ns, database_dbstate(db)->lsn, replicas, SYNC_WAL);
        else
            hooks_answer(c->node->hooks, hook, 0, NULL);
        return;
    }
    int rc = find_commit(cf, h, &commit);
    if (rc < 0) {
        err_errno(&e, -rc, "read the WAL");
        cannot(c, cf, hook, &e);
        return;
    }
    if (rc == 0) {
        if (was_refused(cf, h) && writer_active(cf))
            refuse_wal(c, cf, hook);
        else
            hooks_answer(c->node->hooks, hook, 0, NULL);
        return;
    }
    bool again = lsn && !memcmp(&commit, &cf->prepared, sizeof commit);
    cf->prepared = commit;
    if (!replicas) {
        metrics_add(METRIC_SYNC_ASYNC, 1);
        hooks_answer(c->node->hooks, hook, 0, NULL);
        return;
    }
    struct walindex_header next = *h;
    next.salt1 = commit.salt1;
    next.salt2 = commit.salt2;
    next.page_size = cf->view.header.page_size;
    next.max_frame = commit.frame;
    rc = again ? 0 : capture_wal_prepare(c->wal, c->node, db, &cf->view, &next, &lsn, &e);
    if (rc)
        cannot(c, cf, hook, &e);
    else
        wait_for(c, cf, hook, cf->sync_ns, lsn, replicas, SYNC_WAL);
}

/* A prepared transaction that nobody waits for: is it still going to be published? */
static void decide(struct capture *c, struct capture_file *cf, const struct walindex_header *h)
{
    struct walindex_header now;
    if (sync_waits(c->node->sync, cf->db) || writer_active(cf))
        return;
    if (walindex_read(cf->view.index, &now) || now.max_frame != h->max_frame || now.salt1 != h->salt1) {
        capture_dirty(c, cf, false); /* published just now */
        return;
    }
    log_info("sync", "%s: a prepared transaction was not committed: its writer is gone", cf->db->name);
    abort_prepared(c, cf->db);
}

/* The same where no wal-index can be asked: after a while in which nothing came of it. */
static void decide_later(struct capture *c, struct capture_file *cf)
{
    uint64_t now = now_ns();
    if (sync_waits(c->node->sync, cf->db) || cf->diff_ns)
        return;
    if (!cf->decide_ns)
        cf->decide_ns = now + DECIDE_NS;
    if (cf->decide_ns > now) {
        cf->look_ns = cf->look_ns ? MIN(cf->look_ns, cf->decide_ns) : cf->decide_ns;
        cf->look_since_ns = now;
        capture_touch(c, cf);
        return;
    }
    cf->decide_ns = cf->look_ns = 0;
    log_info("sync", "%s: a prepared transaction was not committed", cf->db->name);
    abort_prepared(c, cf->db);
}

bool capture_sync_step(struct capture *c, struct capture_file *cf, const struct walindex_header *h)
{
    bool asked = cf->sync_hook != 0;
    if (asked)
        consider(c, cf, h);
    if (cf->db->prepared && cf->view.index)
        decide(c, cf, h);
    else if (cf->db->prepared)
        decide_later(c, cf);
    return asked;
}

void capture_sync_idle(struct capture *c, struct capture_file *cf)
{
    if (cf->sync_hook && now_ns() - cf->sync_ns > c->node->config->sync.timeout_ms * 1000000u) {
        struct err e;
        uint64_t hook = cf->sync_hook;
        cf->sync_hook = 0;
        err_set(&e, -ETIMEDOUT, "it could not be captured in time");
        cannot(c, cf, hook, &e);
    }
    if (cf->db->prepared && cf->mode == CAPTURE_IDLE)
        decide_later(c, cf);
}

void capture_sync_published(struct capture *c, struct capture_file *cf, const struct walindex_header *h)
{
    struct database *db = cf->db;
    unsigned replicas = config_sync_replicas(c->node->config, db->name);
    if (!replicas)
        return;
    if (db->unproven && replicas_vouched(c->node->replicas, replicas) >= db->unproven)
        db->unproven = 0;
    bool was_asked = !cf->view.index || (cf->prepared.salt1 == h->salt1 && cf->prepared.salt2 == h->salt2 && cf->prepared.frame == h->max_frame);
    if (!was_asked)
        metrics_add(METRIC_SYNC_UNASKED, 1);
    if (was_asked == !cf->unasked)
        return;
    cf->unasked = !was_asked;
    database_mark(db, db->state, was_asked ? NULL : "synchronous commit: a transaction was committed without waiting for replicas, because its WAL was not "
                                                   "synced (it needs PRAGMA synchronous=FULL)");
}

void capture_wal_sync(struct capture *c, struct capture_file *cf, uint64_t hook)
{
    if (!node_captures(c->node) || !config_sync_replicas(c->node->config, cf->db->name)) {
        hooks_answer(c->node->hooks, hook, 0, NULL);
        return;
    }
    if (cf->sync_hook)
        hooks_answer(c->node->hooks, cf->sync_hook, EIO, NULL);
    cf->sync_hook = hook;
    cf->sync_ns = now_ns();
    capture_look_in_order(c, cf);
}

/* The transaction is one of several databases, and its commit was the end of the super-journal that this journal names (file format §3): SQLite does not
 * look at an error any more. */
static bool part_of_several(const struct node *n, const struct database *db)
{
    static const uint8_t magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
    char name[LAYOUT_NAME_MAX + sizeof LAYOUT_JOURNAL];
    uint8_t tail[8];
    snprintf(name, sizeof name, "%s%s", db->name, LAYOUT_JOURNAL);
    _cleanup_fd_ int fd = openat(n->db_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    return size > (off_t)sizeof tail && pread(fd, tail, sizeof tail, size - (off_t)sizeof tail) == (ssize_t)sizeof tail && !memcmp(tail, magic, sizeof tail);
}

bool capture_journal_sync(struct capture *c, struct capture_file *cf, uint64_t hook)
{
    struct database *db = cf->db;
    uint64_t lsn = 0;
    struct err e = {0};
    unsigned replicas = node_captures(c->node) ? sync_wanted(c->node->sync, db) : 0;
    if (!replicas || cf->anew) {
        if (config_sync_replicas(c->node->config, db->name)) /* also at the last moment before the fence */
            metrics_add(METRIC_SYNC_ASYNC, 1);
        return false;
    }
    capture_order(c);
    pthread_mutex_lock(&db->lock);
    bool in_wal = cf->mode == CAPTURE_MAPPED || (cf->mode == CAPTURE_MAPPING && walview_exists(c->node, db));
    int rc = in_wal ? 1 : capture_journal_prepare(c->journal, c->node, db, cf->suspect, &lsn, &e);
    pthread_mutex_unlock(&db->lock);
    if (rc < 0 && refuses(c) && !part_of_several(c->node, db)) {
        log_warn("sync", "%s: replicas cannot be given a transaction before it is committed: %s", db->name, e.text);
        metrics_add(METRIC_SYNC_REFUSED, 1);
        cf->suspect = true; /* what is tracked is not what is there: after the comparison it will be */
        cf->diff_ns = now_ns();
        capture_touch(c, cf);
        hooks_answer(c->node->hooks, hook, EIO, NULL);
        return true;
    }
    if (rc < 0)
        metrics_add(METRIC_SYNC_ASYNC, 1);
    if (rc || !lsn)
        return false;
    wait_for(c, cf, hook, now_ns(), lsn, replicas, SYNC_JOURNAL);
    return true;
}

static void end_journal(struct capture *c, struct capture_file *cf, const struct sync_wait *w)
{
    bool refused = !w->acknowledged && refuses(c) && !part_of_several(c->node, cf->db);
    if (refused) {
        pthread_mutex_lock(&cf->db->lock);
        abort_prepared(c, cf->db);
        pthread_mutex_unlock(&cf->db->lock);
        metrics_add(METRIC_SYNC_REFUSED, 1);
    } else {
        struct journal_end end = {0}; /* it still stands */
        capture_journal_ends(c, cf, &end);
    }
    hooks_answer(c->node->hooks, w->hook, refused ? EIO : 0, NULL);
    if (!refused)
        capture_journal_changed(c, cf);
}

void capture_sync_end(struct capture *c, const struct sync_wait *w)
{
    struct capture_file *cf = w->db->capture;
    if (w->kind == SYNC_OPEN) {
        if (refuses(c))
            log_warn("sync", "%s cannot be opened now: it has a transaction that nobody was told of, and that too few replicas have", w->db->name);
        hooks_answer(c->node->hooks, w->hook, refuses(c) ? EAGAIN : 0, NULL);
        return;
    }
    if (w->kind == SYNC_JOURNAL) {
        end_journal(c, cf, w);
        return;
    }
    if (refuses(c) && cf->view.index) {
        refuse_wal(c, cf, w->hook);
    } else { /* without a wal-index the transaction has been captured: it cannot be taken back */
        hooks_answer(c->node->hooks, w->hook, 0, NULL);
        capture_dirty(c, cf, false);
    }
}

void capture_sync_due(struct capture *c)
{
    struct sync_wait w;
    while (sync_next(c->node->sync, &w)) {
        bool wal = w.kind == SYNC_WAL;
        if (wal)
            pthread_mutex_lock(&w.db->lock);
        capture_sync_end(c, &w);
        if (wal)
            pthread_mutex_unlock(&w.db->lock);
    }
}

/* ---- opens ---- */

/* Whoever opens a database that nobody has open recovers its WAL, and sees what a writer had written there when all was killed, though nobody was told that it is committed:
 * it is captured from the frames, and then the open waits until replicas have it, as its commit would have. Otherwise a reader might see what this node alone has, and takes with it.
 * What this process has not seen become published is *unproven*: at the start, what the database holds; later, what was captured while no wal-index said what is published. */

void capture_unproven(const struct node *n, struct database *db)
{
    if (config_sync_replicas(n->config, db->name))
        db->unproven = database_dbstate(db)->lsn;
}

uint64_t capture_opening_ns(const struct capture *c, const struct capture_file *cf)
{
    return cf->open_hook ? cf->open_ns + c->node->config->sync.timeout_ms * 1000000u : UINT64_MAX;
}

void capture_opening(struct capture *c, struct capture_file *cf, uint64_t hook)
{
    if (cf->open_hook)
        hooks_answer(c->node->hooks, cf->open_hook, EAGAIN, NULL);
    cf->open_hook = hook;
    cf->open_ns = now_ns();
    capture_look_in_order(c, cf);
}

void capture_opening_pass_on(struct capture *c, struct capture_file *cf)
{
    uint64_t hook = cf->open_hook;
    cf->open_hook = 0;
    if (hook)
        apply_opening(c->node, cf->db->name, hook);
}

void capture_opening_step(struct capture *c, struct capture_file *cf)
{
    struct database *db = cf->db;
    uint64_t hook = cf->open_hook;
    if (!hook)
        return;
    bool nothing = db->state == DATABASE_OTHER || !database_dbstate(db)->txid || (cf->mode == CAPTURE_IDLE && !cf->diff_ns && !walview_exists(c->node, db));
    bool captured = cf->mode == CAPTURE_MAPPED && !cf->behind && !cf->unseen_view && !cf->diff_ns;
    unsigned replicas = sync_wanted(c->node->sync, db);
    if (node_role(c->node) != NODE_PRIMARY)
        return; /* to be passed on, when it is known who is */
    if (!replicas || nothing || (captured && !db->unproven)) {
        cf->open_hook = 0;
        hooks_answer(c->node->hooks, hook, 0, NULL);
    } else if (captured) {
        cf->open_hook = 0;
        /* It may have been given up for another history meanwhile, whose numbers are lower: then what there is counts. */
        wait_for(c, cf, hook, cf->open_ns, MIN(db->unproven, database_dbstate(db)->lsn), replicas, SYNC_OPEN);
    } else if (capture_opening_ns(c, cf) <= now_ns()) {
        cf->open_hook = 0;
        hooks_answer(c->node->hooks, hook, refuses(c) ? EAGAIN : 0, NULL);
    }
}

static int notice_prepared(void *ctx, struct database *db)
{
    struct capture_file *cf = db->prepared ? capture_file_of(ctx, db) : NULL;
    if (cf)
        capture_dirty(ctx, cf, false);
    return 0;
}

void capture_sync_start(struct capture *c)
{
    if (config_sync_most(c->node->config) && node_role(c->node) == NODE_PRIMARY)
        databases_each(c->node->databases, notice_prepared, c);
}

void capture_sync_forget(struct capture *c)
{
    sync_forget(c->node->sync);
    for (struct capture_file *cf = c->all; cf; cf = cf->next_all)
        cf->sync_hook = cf->open_hook = 0;
}
