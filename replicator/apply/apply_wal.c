#include "replicator/apply/apply_file.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/rand.h>
#include <stdio.h>

#define CHECKPOINT_FRAMES 1000u /* as SQLite's own default */
#define WAL_LONG_FRAMES (8u * CHECKPOINT_FRAMES) /* a WAL that is restarted even if records have to wait for it */
#define BUFFER_BYTES (512u << 10)

struct writer {
    struct apply_file *f;
    struct wal_header wal;
    uint32_t cksum[2];
    uint32_t frame;    /* last one written or buffered */
    uint32_t flushed;  /* last one in the file */
    uint8_t *buf;
    size_t used, stride;
    uint32_t page_size;
};

static uint32_t random_u32(void)
{
    uint32_t v;
    if (RAND_bytes((unsigned char *)&v, sizeof v) != 1)
        v = (uint32_t)now_ns();
    return v;
}

static int run_checkpoint(sqlite3 *conn, uint32_t *in_log, uint32_t *done)
{
    int log = 0, copied = 0, rc = sqlite3_wal_checkpoint_v2(conn, NULL, SQLITE_CHECKPOINT_PASSIVE, &log, &copied);
    *in_log = (uint32_t)MAX(log, 0);
    *done = (uint32_t)MAX(copied, 0);
    return rc;
}

/* worker_fn: copies what it can into the database file, without waiting for readers. The WAL can only be restarted when everything was
 * copied, and under load frames come while it runs. It must not be run again at once for these: each run has two fsyncs. So the next comes
 * CHECKPOINT_FRAMES later, and only a WAL that has become long is finished while records wait. */
static void checkpoint_job(struct node *n, struct database *db, uint64_t arg)
{
    (void)n;
    (void)arg;
    uint32_t in_log = 0, done = 0;
    struct walindex_header h;
    pthread_mutex_lock(&db->sqlite); /* keeps conn open */
    pthread_mutex_lock(&db->lock);
    struct apply_file *f = db->apply;
    sqlite3 *conn = f && f->open && f->wal ? f->conn : NULL;
    pthread_mutex_unlock(&db->lock);
    /* Without db->lock: records are applied while it runs, as a checkpoint runs beside a writer. */
    int rc = conn ? run_checkpoint(conn, &in_log, &done) : SQLITE_OK;
    pthread_mutex_lock(&db->lock);
    if (conn && rc == SQLITE_OK && done == in_log && done >= WAL_LONG_FRAMES && !walindex_read(f->index, &h) && h.max_frame > done)
        rc = run_checkpoint(conn, &in_log, &done);
    if (db->apply) {
        bool restarted = conn && !walindex_read(f->index, &h) && h.max_frame < in_log;
        db->apply->checkpointing = false;
        db->apply->checkpoint_at = restarted ? CHECKPOINT_FRAMES : in_log + CHECKPOINT_FRAMES;
    }
    pthread_mutex_unlock(&db->lock);
    pthread_mutex_unlock(&db->sqlite);
    if (rc != SQLITE_OK && rc != SQLITE_BUSY)
        log_warn("apply", "%s: checkpoint: %s", db->name, sqlite3_errstr(rc));
}

/* Like a writer that finds everything copied and nobody reading from the WAL: starts it over. */
static void restart_if_possible(struct apply_file *f, struct walindex_header *h)
{
    if (h->max_frame < CHECKPOINT_FRAMES || walindex_backfilled(f->index) != h->max_frame)
        return;
    int64_t first = WALINDEX_READ_LOCK(1), len = WALINDEX_N_READERS - 1;
    if (lock_range(f->fence.shm_fd, F_WRLCK, first, len))
        return; /* readers: next time */
    walindex_restart(f->index, h, random_u32());
    (void)lock_range(f->fence.shm_fd, F_UNLCK, first, len);
    f->checkpoint_at = CHECKPOINT_FRAMES;
}

static int flush(struct writer *w, struct err *e)
{
    size_t done = 0;
    off_t at = wal_frame_offset(w->flushed + 1, w->page_size);
    while (done < w->used) {
        ssize_t n = pwrite(w->f->wal_fd, w->buf + done, w->used - done, at + (off_t)done);
        if (n < 0)
            return err_errno(e, errno, "write the WAL");
        done += (size_t)n;
    }
    w->flushed = w->frame;
    w->used = 0;
    return 0;
}

static int add_frame(struct writer *w, uint32_t pgno, uint32_t commit, const uint8_t *page, struct err *e)
{
    if (w->used + w->stride > BUFFER_BYTES && w->used) {
        int rc = flush(w, e);
        if (rc)
            return rc;
    }
    uint8_t *p = w->buf + w->used;
    memcpy(p + WAL_FRAME_HEADER_SIZE, page, w->page_size);
    wal_frame_header_encode(&w->wal, pgno, commit, p + WAL_FRAME_HEADER_SIZE, w->cksum, p);
    w->used += w->stride;
    w->frame++;
    return walindex_append(w->f->index, w->frame, pgno, e);
}

/* First frame of a generation: the file's header goes before it. */
static int begin_wal(struct writer *w, struct walindex_header *h, uint32_t page_size, struct err *e)
{
    uint8_t buf[WAL_HEADER_SIZE];
    if (!h->salt1 && !h->salt2) {
        h->salt1 = random_u32();
        h->salt2 = random_u32();
    }
    h->page_size = page_size;
    h->big_endian_cksum = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__;
    w->wal = (struct wal_header){
        .big_endian = h->big_endian_cksum, .page_size = page_size, .salt1 = h->salt1, .salt2 = h->salt2};
    wal_header_encode(&w->wal, buf);
    if (pwrite(w->f->wal_fd, buf, sizeof buf, 0) != (ssize_t)sizeof buf)
        return err_errno(e, errno, "write the WAL's header");
    memcpy(w->cksum, w->wal.cksum, sizeof w->cksum);
    return 0;
}

static int write_frames(struct writer *w, const struct apply_tx *tx, struct err *e)
{
    /* The commit size belongs into the last frame, so one page is held back. */
    _cleanup_free_ uint8_t *held = malloc(tx->page_size);
    uint32_t held_pgno = 0, pgno;
    const uint8_t *page;
    if (!held)
        return err_errno(e, ENOMEM, "apply");
    int rc;
    while ((rc = tx->next(tx->ctx, &pgno, &page, e)) > 0) {
        if (pgno > tx->commit)
            continue;
        if (held_pgno) {
            rc = add_frame(w, held_pgno, 0, held, e);
            if (rc)
                return rc;
        }
        memcpy(held, page, tx->page_size);
        held_pgno = pgno;
    }
    if (!rc && held_pgno)
        rc = add_frame(w, held_pgno, tx->commit, held, e);
    return rc ? rc : flush(w, e);
}

int apply_wal_write(struct node *n, struct database *db, const struct apply_tx *tx, struct dbstate *st, struct err *e)
{
    struct apply_file *f = db->apply;
    struct walindex_header h;
    if (walindex_read(f->index, &h))
        return err_set(e, ERR_AGAIN_LATER, "%s: its wal-index cannot be read", db->name);
    restart_if_possible(f, &h);
    struct writer w = {
        .f = f,
        .frame = h.max_frame,
        .flushed = h.max_frame,
        .page_size = tx->page_size,
        .stride = WAL_FRAME_HEADER_SIZE + (size_t)tx->page_size,
        .wal = {.big_endian = h.big_endian_cksum, .page_size = tx->page_size, .salt1 = h.salt1, .salt2 = h.salt2},
        .cksum = {h.frame_cksum[0], h.frame_cksum[1]},
    };
    /* One for each thread that applies, kept: a record every 100 µs must not map and unmap memory each time. */
    static _Thread_local uint8_t *buffer;
    if (!buffer)
        buffer = malloc(BUFFER_BYTES);
    w.buf = buffer;
    int rc = w.buf ? 0 : err_errno(e, ENOMEM, "apply");
    if (!rc && h.max_frame == 0)
        rc = begin_wal(&w, &h, tx->page_size, e);
    if (!rc)
        rc = write_frames(&w, tx, e);
    if (rc) {
        walindex_cleanup(f->index, h.max_frame);
        return err_wrap(e, "%s-wal", db->name);
    }
    if (w.frame > h.max_frame) { /* else: nothing but numbers changed */
        h.version = 3007000;
        h.initialized = true;
        h.page_size = tx->page_size;
        h.max_frame = w.frame;
        h.page_count = tx->commit;
        h.change++;
        memcpy(h.frame_cksum, w.cksum, sizeof h.frame_cksum);
        if (f->hold)
            f->header = h;
        else
            walindex_publish(f->index, &h);
        f->to_publish = f->hold;
    }
    st->wal_salt1 = h.salt1;
    st->wal_salt2 = h.salt2;
    st->wal_frame = h.max_frame;
    if (h.max_frame >= f->checkpoint_at && !f->checkpointing)
        f->checkpointing = worker_post(n->worker, checkpoint_job, db, 0, 0) == 0;
    return 0;
}
