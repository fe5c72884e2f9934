#include "replicator/capture/capture_diff.h"

#include "lib/crc.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/capture/capture.h"
#include "replicator/capture/capture_file.h"
#include "replicator/metrics.h"
#include "replicator/database/scan.h"
#include "replicator/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define RETRY_NS 20000000u
#define SAY_SIZE_NS 50000000u
#define SAY_SIZE_TRIES 20u
#define QUIET_ATTEMPTS 10u /* about 3 s */
#define FREE_ATTEMPTS 6u   /* about 1.3 s: then writers have to wait while it is read, if that does not take long */
#define INDEX_ATTEMPTS 20u /* 4 ms: whoever has opened a WAL makes its wal-index within that, or keeps it to itself */
#define SHARED_MAX (256 << 20)
#define FILLING_MAX_NS UINT64_C(60000000000)

/* Opens the view with slot 4 held. */
static int open_held(struct node *n, struct database *db, struct walview *v, struct err *e)
{
    int rc = walview_open(n, db, true, v, e);
    for (int i = 0; !rc && i < 100; i++) { /* exclusive holders have it for microseconds */
        rc = walview_hold(v);
        if (rc != -EAGAIN)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
    if (rc && v->shm_fd >= 0)
        walview_put_away(n, db, v);
    return rc == -EAGAIN ? err_set(e, ERR_AGAIN_LATER, "%s: the WAL is being restarted", db->name) : rc;
}

static void attach(struct capture_file *cf, struct walview *v)
{
    cf->view = *v;
    cf->view_open = true;
    cf->mode = CAPTURE_MAPPED;
    cf->unseen_view = true;
    cf->covered = 0;
}

/* worker_fn. Not as soon as the WAL is open: whoever opens it is likely to write next, and must not meet our lock, short as it is held. */
static void say_size_job(struct node *n, struct database *db, uint64_t arg)
{
    bool done = true;
    pthread_mutex_lock(&db->lock);
    struct capture_file *cf = db->capture;
    if (cf->mode == CAPTURE_MAPPED && cf->view_open && cf->view.index)
        done = walview_say_size(n, db, cf->view.index, cf->view.shm_fd, false, cf->view.slot4);
    pthread_mutex_unlock(&db->lock);
    if (!done && arg < SAY_SIZE_TRIES) /* somebody reads or writes now; a writer says it itself */
        worker_post(n->worker, say_size_job, db, arg + 1, SAY_SIZE_NS);
}

void capture_map_job(struct node *n, struct database *db, uint64_t attempt)
{
    struct err e;
    struct walview v;
    int rc = open_held(n, db, &v, &e);
    pthread_mutex_lock(&db->lock);
    struct capture_file *cf = db->capture;
    if (cf->mode != CAPTURE_MAPPING) {
        pthread_mutex_unlock(&db->lock);
        if (!rc)
            walview_put_away(n, db, &v);
        return;
    }
    bool by_frames = rc == ERR_AGAIN_LATER && v.no_index && attempt >= INDEX_ATTEMPTS && !walview_open_frames(n, db, &v, &e);
    if (by_frames) {
        cf->frames = (struct walframes){0};
        attach(cf, &v);
    } else if (!rc) {
        attach(cf, &v);
        worker_post(n->worker, say_size_job, db, 0, SAY_SIZE_NS); /* no memory: reads stay a little slower */
    } else if (rc == ERR_AGAIN_LATER && attempt < 200 && walview_exists(n, db)) {
        pthread_mutex_unlock(&db->lock);
        if (!worker_post(n->worker, capture_map_job, db, attempt + 1, attempt < 20 ? 200000u : RETRY_NS))
            return;
        pthread_mutex_lock(&db->lock);
        cf->mode = CAPTURE_IDLE;
    } else {
        cf->mode = CAPTURE_IDLE;
        bool only_read = rc == ERR_AGAIN_LATER && !walview_exists(n, db) && database_untouched(n->databases, db, n->db_fd);
        pthread_mutex_unlock(&db->lock);
        if (rc != ERR_AGAIN_LATER)
            log_warn("capture", "%s: cannot open the wal-index, pages will be compared instead: %s", db->name, e.text);
        if (only_read)
            capture_notice(n->capture, db);
        else
            capture_request_diff(n->capture, db);
        return;
    }
    pthread_mutex_unlock(&db->lock);
    capture_notice(n->capture, db);
}

struct diff_reader {
    struct scan *scan;
    uint32_t page_size;
    uint8_t *page;
};

static int read_page(void *ctx, const struct tx_page *p, const uint8_t **page, struct err *e)
{
    struct diff_reader *r = ctx;
    *page = r->page;
    int rc = scan_page(r->scan, p->pgno, r->page, e);
    if (!rc && page_checksum(p->pgno, r->page, r->page_size) != p->sum)
        rc = err_set(e, ERR_AGAIN_LATER, "page %u was written while it was being captured", p->pgno);
    return rc;
}

/* The pages that differ from the tracked state (all of them when nothing usable is tracked). db->lock is held. */
static int list_changed(const struct database *db, const struct scan_result *r, struct tx *tx, struct err *e)
{
    const struct dbstate *old = database_dbstate(db);
    bool all = old->txid == 0 || old->page_size != r->page_size;
    uint32_t n = 0, lock = lock_pgno(r->page_size);
    for (uint32_t p = 1; p <= r->commit; p++)
        n += p != lock && (all || sums_get(db->sums, p) != r->sums[p - 1]);
    tx->anew &= old->txid && (n || old->commit != r->commit); /* the same pages in another file are the same database */
    if (tx->anew) {
        all = true;
        n = r->commit;
    }
    tx->pages = malloc((n ? n : 1) * sizeof *tx->pages);
    if (!tx->pages)
        return err_errno(e, ENOMEM, "list of %u pages", n);
    for (uint32_t p = 1; p <= r->commit; p++)
        if (p != lock && (all || sums_get(db->sums, p) != r->sums[p - 1]))
            tx->pages[tx->n_pages++] = (struct tx_page){.pgno = p, .sum = r->sums[p - 1]};
    return 0;
}

/* Whoever has emptied it has it open, and writes what it is to become. */
static bool filling(const struct database *db)
{
    const struct capture_file *cf = db->capture;
    return cf->anew && cf->emptied_ns && db->apps_open && now_ns() - cf->emptied_ns < CAPTURE_FILLING_NS;
}

/* before: LSN of the tracked state when the scan began. */
static int record_difference(struct node *n, struct database *db, struct scan *s, const struct scan_result *r, uint64_t before, bool *found,
                             struct err *e)
{
    int rc = database_load(n->databases, db, e);
    if (rc)
        return rc;
    struct dbstate st = *database_dbstate(db);
    uint64_t inode = r->file.ino ? r->file.ino : database_stamp(n->db_fd, db->name).ino;
    if (st.lsn != before) /* a transaction ended its journal meanwhile: what was read may be older than what is tracked */
        return err_set(e, ERR_AGAIN_LATER, "%s was written while it was being read", db->name);
    struct diff_reader reader = {.scan = s, .page_size = r->page_size, .page = malloc(65536)};
    struct ltx_encoder *enc = ltx_encoder_new();
    struct tx tx = {
        .page_size = r->page_size,
        .commit = r->commit,
        .wal_mode = r->wal_mode,
        .ntx = 1,
        .inode = inode,
        .anew = db->capture->anew || (st.inode && st.inode != inode),
        .wal_salt1 = r->wal_salt1,
        .wal_salt2 = r->wal_salt2,
        .wal_frame = r->wal_frame,
        .read = read_page,
        .ctx = &reader,
    };
    bool empty = r->commit == 0;
    if (empty && filling(db))
        return err_set(e, ERR_AGAIN_LATER, "%s is being overwritten", db->name);
    if (empty) /* 0 bytes: a database without a page, and without a page size */
        tx.page_size = st.page_size;
    rc = enc && reader.page ? list_changed(db, r, &tx, e) : err_errno(e, ENOMEM, "diff");
    if (!rc && empty && !st.txid)
        rc = 0; /* nothing was ever in it: there is nothing to replicate yet */
    else if (!rc && (tx.n_pages || st.commit != r->commit || st.txid == 0)) {
        rc = tx_record(n, db, &tx, enc, e);
        if (!rc && !db->apps_open)
            capture_unproven(n, db);
        *found = !rc && st.txid;
        if (!rc)
            log_debug("capture", "%s: %u of %u pages differ", db->name, tx.n_pages, r->commit);
    } else if (!rc) {
        st.wal_mode = r->wal_mode;
        st.wal_salt1 = r->wal_salt1;
        st.wal_salt2 = r->wal_salt2;
        st.wal_frame = r->wal_frame;
        st.inode = inode;
        sums_touch(db->sums, &st);
    }
    free(tx.pages);
    free(reader.page);
    ltx_encoder_free(enc);
    if (!rc && !r->wal_held && !r->wal_frame && db->sums)
        database_settle(n->databases, db, &r->file);
    return rc;
}

/* What lies under the name is no database. If it is another file than the one that is known, or one that was emptied, the database is gone, as if it had been removed. A file that
 * merely begins otherwise now is damaged: what replicas have of it is not taken away. db->lock is held. */
static int record_end(struct node *n, struct database *db, struct err *e)
{
    struct capture_file *cf = db->capture;
    uint64_t lsn;
    int rc = database_load(n->databases, db, e);
    const struct dbstate *st = database_dbstate(db);
    if (rc || !st->txid)
        return rc;
    bool another = cf->anew || st->commit == 0 || (st->inode && st->inode != database_stamp(n->db_fd, db->name).ino);
    if (!another)
        return 0;
    if (filling(db))
        return err_set(e, ERR_AGAIN_LATER, "%s is being overwritten", db->name);
    rc = sequencer_append(n->sequencer, RECORD_DROP, db->name, NULL, 0, &lsn, e);
    if (!rc) {
        log_info("capture", "%s: another file has taken its place, which is no database", db->name);
        database_forget(n->databases, db, lsn);
        cf->anew = false;
        cf->emptied_ns = 0;
    }
    return rc;
}

/* After the scan's own connection was closed: the WAL may be gone with it, and then the file alone is the state. */
static void settle_wal(struct node *n, struct database *db, struct capture_file *cf)
{
    const struct dbstate *st = database_dbstate(db);
    if (cf->view_open || walview_exists(n, db) || (!st->wal_salt1 && !st->wal_salt2 && !st->wal_frame))
        return;
    database_settle(n->databases, db, NULL);
}

static const char without_journal[] = "changed without a journal (journal_mode MEMORY or OFF, or a program that writes bytes): found by comparing all pages, and "
                                      "several transactions may become one; with any other journal_mode each is captured as it is committed";

static void mark_result(struct database *db, int rc, const struct scan_result *r, bool found, uint64_t attempt, const struct err *e)
{
    if (rc == 0 && !r->wal_mode && found)
        database_mark(db, DATABASE_OK, "%s", without_journal);
    else if (rc == 0 && !database_dbstate(db)->txid)
        database_mark(db, DATABASE_OTHER, NULL); /* an empty file: no database yet */
    else if (rc == 0 && !strcmp(db->warning, without_journal))
        return; /* nothing new: still true of the last change */
    else if (rc == 0)
        database_mark(db, DATABASE_OK, NULL);
    else if (rc == ERR_NOT_DATABASE && database_dbstate(db)->txid)
        database_mark(db, DATABASE_OTHER, "no SQLite database any more: not replicated, and the replicas keep what it was");
    else if (rc == ERR_NOT_DATABASE)
        database_mark(db, DATABASE_OTHER, NULL);
    else if (rc == ERR_AGAIN_LATER && attempt < QUIET_ATTEMPTS)
        return; /* a writer is at work: nothing to speak of yet */
    else if (rc == ERR_AGAIN_LATER)
        database_mark(db, DATABASE_WAITING, "not captured yet: %s", e->text);
    else
        database_mark(db, db->state == DATABASE_UNKNOWN ? DATABASE_DAMAGED : db->state, "not captured: %s", e->text);
}

/* The end of a run: what is to be done next. db->lock is held. Returns whether it is to be run again. */
static bool settle(struct node *n, struct database *db, struct capture_file *cf, struct walview *v, bool mapped, int rc)
{
    bool unwanted = cf->diff_unwanted && !cf->suspect;
    cf->mode = CAPTURE_IDLE;
    if (mapped)
        attach(cf, v);
    else if (!rc)
        settle_wal(n, db, cf);
    /* A checkpoint that was let through meanwhile may have been followed by a restart that nobody held up. */
    bool again = cf->diff_again || (cf->checkpoint_seen && !mapped) || ((rc == ERR_AGAIN_LATER || rc == -ENOSPC) && !unwanted);
    cf->suspect &= again || rc != 0;
    /* What is written behind what was read, by somebody who has not closed it since he emptied it, belongs to the new file, too. */
    if (!cf->suspect && cf->anew && !(cf->emptied_ns && db->apps_open && now_ns() - cf->emptied_ns < FILLING_MAX_NS)) {
        cf->anew = false;
        cf->emptied_ns = 0;
    }
    cf->diff_again = cf->checkpoint_seen = cf->diff_unwanted = false;
    if (!again)
        return false;
    cf->mode = CAPTURE_DIFFING;
    if (cf->view_open) /* it will be opened again by the next run */
        cf->view_open = false;
    return true;
}

/* What it was started for has not been captured otherwise meanwhile (capture_journal_ends). db->lock is held. */
static bool wanted(const struct capture_file *cf)
{
    return cf->suspect || cf->diff_again || !cf->diff_unwanted;
}

/* For scan_open. */
static bool still_wanted(struct database *db)
{
    pthread_mutex_lock(&db->lock);
    bool yes = wanted(db->capture);
    pthread_mutex_unlock(&db->lock);
    return yes;
}

void capture_diff_job(struct node *n, struct database *db, uint64_t attempt)
{
    struct err e;
    struct scan *s = NULL;
    struct scan_result r = {0};
    struct walview v;
    pthread_mutex_lock(&db->lock);
    struct capture_file *cf = db->capture;
    uint64_t before = database_load(n->databases, db, &e) ? 0 : database_dbstate(db)->lsn;
    uint32_t life = cf->life;
    if (life != cf->tried_life) /* patience with another file begins anew */
        attempt = 0;
    cf->tried_life = life;
    bool go = node_captures(n) && wanted(cf);
    if (!go) {
        cf->mode = CAPTURE_IDLE;
        cf->diff_unwanted = false;
    }
    pthread_mutex_unlock(&db->lock);
    if (!go) {
        capture_notice(n->capture, db);
        return;
    }
    struct stat st;
    bool short_enough = !fstatat(n->db_fd, db->name, &st, AT_SYMLINK_NOFOLLOW) && st.st_size <= SHARED_MAX;
    bool locking = attempt >= FREE_ATTEMPTS && short_enough;
    if (locking)
        log_debug("capture", "%s: never at rest, read under the SHARED lock now", db->name);
    int rc = scan_open(n, db, locking ? SCAN_SHARED : SCAN_FREE, still_wanted, &s, &r, &e);
    bool gone = rc == -ENOENT, found = false, other;
    pthread_mutex_lock(&db->lock);
    other = cf->life != life;
    if (other) { /* what was read is no longer the file of that name */
        gone = true;
        cf->diff_again |= !cf->diff_unwanted; /* the end of the new one's first journal may have captured it already */
        if (!rc)
            rc = err_set(&e, ERR_GONE, "%s was replaced while it was being read", db->name);
    }
    if (!rc)
        rc = record_difference(n, db, s, &r, before, &found, &e);
    else if (rc == ERR_NOT_DATABASE) {
        struct err why;
        int end = record_end(n, db, &why);
        if (end) {
            rc = end;
            e = why;
        }
    }
    if (!rc)
        metrics_add(METRIC_COMPARED, 1);
    found &= !cf->suspect; /* otherwise nobody was there to see how it was written */
    if (!gone)
        mark_result(db, rc, &r, found, attempt, &e);
    pthread_mutex_unlock(&db->lock);
    /* Mapped before the scan lets go of slot 4, so that no frame can be lost in between. */
    bool mapped = false;
    if (!rc && r.wal_held)
        mapped = open_held(n, db, &v, &e) == 0;
    scan_close(s);
    scan_result_free(&r);
    /* If the scan's connection was the only one, closing it has removed the WAL: what we mapped is of no use. */
    if (mapped && !walview_current(n, db, &v)) {
        walview_close(db, &v);
        mapped = false;
    }
    pthread_mutex_lock(&db->lock);
    bool again = settle(n, db, cf, &v, mapped, rc);
    pthread_mutex_unlock(&db->lock);
    if (again && mapped)
        walview_close(db, &v);
    uint64_t next = attempt + !r.resting;
    if (again && worker_post(n->differ, capture_diff_job, db, next, MIN(RETRY_NS << MIN(attempt, 5u), 1000000000u)))
        log_error("capture", "%s: no memory to try again", db->name);
    capture_notice(n->capture, db);
}
