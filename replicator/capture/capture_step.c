#include "replicator/capture/capture_diff.h"
#include "replicator/capture/capture_private.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/stream/sync.h"
#include "replicator/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#define LOOK_FIRST_MAX_NS 2000000u
#define LOOK_FIRST_NS 20000u /* back-off of looking for the publication of frames that are in the WAL already */

void capture_answer_deferred(struct capture *c, struct capture_file *cf)
{
    for (int i = 0; i < cf->n_deferred; i++)
        hooks_answer(c->node->hooks, cf->deferred[i], 0, NULL);
    cf->n_deferred = 0;
}

/* Puts the view away. db->lock is held. */
static void unmap(struct capture *c, struct capture_file *cf)
{
    if (!cf->view_open)
        return;
    walview_put_away(c->node, cf->db, &cf->view);
    cf->view_open = cf->behind = false;
    cf->mode = CAPTURE_IDLE;
    cf->covered = 0;
    cf->look_ns = 0;
}

static void start_diff_locked(struct capture *c, struct capture_file *cf, bool suspect)
{
    cf->diff_ns = cf->diff_first_ns = 0;
    cf->diff_unwanted = false;
    cf->suspect |= suspect;
    if (cf->mode == CAPTURE_DIFFING) {
        cf->diff_again = true;
        return;
    }
    if (cf->mode == CAPTURE_MAPPING) { /* the job that runs will see that it is not wanted */
        cf->mode = CAPTURE_IDLE;
    }
    unmap(c, cf);
    cf->mode = CAPTURE_DIFFING;
    if (worker_post(c->node->differ, capture_diff_job, cf->db, 0, 0)) {
        cf->mode = CAPTURE_IDLE;
        cf->diff_ns = now_ns() + CAPTURE_QUIET_NS;
        capture_touch(c, cf);
    }
}

void capture_start_diff(struct capture *c, struct capture_file *cf, bool suspect)
{
    pthread_mutex_lock(&cf->db->lock);
    start_diff_locked(c, cf, suspect);
    pthread_mutex_unlock(&cf->db->lock);
}

bool capture_settled(struct capture_file *cf)
{
    pthread_mutex_lock(&cf->db->lock);
    bool busy = cf->mode == CAPTURE_MAPPING || cf->mode == CAPTURE_DIFFING || cf->diff_ns || cf->behind ||
                (cf->mode == CAPTURE_MAPPED && cf->unseen_view);
    pthread_mutex_unlock(&cf->db->lock);
    return !busy;
}

/* Frames after the last published one, with the salts of the WAL file's own header: a writer is about to publish them (the event came
 * with the write, none comes with the store into the wal-index), or has given them up. */
static bool unpublished(struct capture_file *cf, const struct walindex_header *h)
{
    uint8_t buf[WAL_FRAME_HEADER_SIZE];
    struct wal_frame_header fh;
    if (walview_header(&cf->view))
        return false;
    if (!cf->view.index)
        return false; /* the frame that commits them will raise an event */
    const struct wal_header *w = &cf->view.header;
    uint32_t next = w->salt1 == h->salt1 && w->salt2 == h->salt2 ? h->max_frame + 1 : 1;
    if (pread(cf->view.wal_fd, buf, sizeof buf, wal_frame_offset(next, w->page_size)) != (ssize_t)sizeof buf)
        return false;
    wal_frame_header_decode(buf, &fh);
    return fh.salt1 == w->salt1 && fh.salt2 == w->salt2;
}

/* Back-off: while a commit may be in its fsync, tens of µs, or an eighth of what publications took lately; then slower: frames that nobody
 * publishes (a long transaction that spilled, one that was rolled back) must not cost a core. */
static void look_again(struct capture_file *cf, bool hook_first)
{
    uint64_t now = now_ns();
    if (hook_first) { /* synchronous commit: a hook comes before the publication */
        cf->look_since_ns = cf->look_ns ? cf->look_since_ns : now;
        cf->look_wait_ns = CAPTURE_LOOK_SOON_NS / 2;
    } else if (!cf->look_ns) {
        cf->look_since_ns = now;
        cf->look_wait_ns = MAX(LOOK_FIRST_NS, MIN(cf->publish_ns - cf->publish_ns / 4, LOOK_FIRST_MAX_NS));
    } else {
        uint64_t age = now - cf->look_since_ns, soon = MIN(MAX(cf->publish_ns / 8, 50000u), 1000000u);
        if (cf->look_wait_ns > LOOK_FIRST_NS * 2 && age < CAPTURE_LOOK_SOON_NS)
            cf->look_wait_ns = MAX(LOOK_FIRST_NS, soon / 2); /* the guess was too short by a little */
        uint64_t cap = age < CAPTURE_LOOK_SOON_NS ? soon : age < 200000000u ? 1000000u : age < 5000000000u ? 10000000u : 200000000u;
        cf->look_wait_ns = MIN(cf->look_wait_ns + cf->look_wait_ns / 2, cap);
    }
    cf->look_ns = now + cf->look_wait_ns;
}

enum fit { FIT_SAME, FIT_RESTARTED, FIT_LOST };

/* Does the wal-index continue the state that we know? */
static enum fit fit_state(const struct capture_file *cf, const struct dbstate *st, const struct walindex_header *h)
{
    if (st->wal_salt1 == h->salt1 && st->wal_salt2 == h->salt2)
        return h->max_frame >= st->wal_frame ? FIT_SAME : FIT_LOST;
    if (!st->wal_salt1 && !st->wal_salt2 && !st->wal_frame)
        return FIT_RESTARTED; /* the database file alone was the state: every frame of this WAL is new */
    /* A restart follows a checkpoint of the last frame, and that checkpoint waited for us (HOOK_CHECKPOINT). So if nothing was
     * captured since, nothing was lost. */
    if (h->salt1 == st->wal_salt1 + 1 && cf->covered == st->wal_frame)
        return FIT_RESTARTED;
    return FIT_LOST;
}

/* A WAL without a wal-index whose header is not valid, and nobody has the database open who could be about to write one: nothing is in it (file format §4.3; an application that
 * was killed between making the file and writing to it leaves such a one). 0 with h saying so; ERR_GONE: there once was something, so pages must be compared. */
static int headless(const struct dbstate *st, struct walindex_header *h)
{
    if (st->wal_frame)
        return ERR_GONE;
    *h = (struct walindex_header){.version = 3007000, .initialized = true, .page_size = st->page_size, .salt1 = st->wal_salt1, .salt2 = st->wal_salt2};
    return 0;
}

int capture_read_end(struct capture_file *cf, struct walindex_header *h)
{
    struct database *db = cf->db;
    int rc = cf->view.index ? walindex_read(cf->view.index, h) : walframes_read(&cf->view, &cf->frames, database_dbstate(db), h);
    if (rc == ERR_AGAIN_LATER && cf->view.index)
        rc = walindex_read_before(cf->view.index, h);
    else if (rc == ERR_AGAIN_LATER && !db->apps_open)
        rc = headless(database_dbstate(db), h);
    return rc;
}

/* Captures all that is published, or what the present cut has of it. 0: done; ERR_AGAIN_LATER: look again; anything else: pages must be compared. */
static int catch_up(struct capture *c, struct capture_file *cf, struct walindex_header *h)
{
    struct err e;
    struct database *db = cf->db;
    if (database_load(c->node->databases, db, &e)) {
        database_mark(db, DATABASE_WAITING, "not captured: %s", e.text);
        return ERR_AGAIN_LATER;
    }
    for (int tries = 0; tries < 1000; tries++) {
        bool cut = c->cutting && cf->end_cut == c->cut;
        int rc = cut ? cf->end_rc : capture_read_end(cf, h);
        if (rc)
            return rc;
        if (cut)
            *h = cf->end;
        struct dbstate st = *database_dbstate(db);
        if (st.page_size != h->page_size && h->max_frame)
            return ERR_GONE;
        enum fit f = fit_state(cf, &st, h);
        if (f == FIT_LOST) {
            log_info("capture", "%s: the WAL went on without us (salt %08x to %08x, frame %u): comparing pages", db->name, st.wal_salt1,
                     h->salt1, st.wal_frame);
            return ERR_GONE;
        }
        if (f == FIT_RESTARTED) {
            st.wal_salt1 = h->salt1;
            st.wal_salt2 = h->salt2;
            st.wal_frame = 0;
            sums_touch(db->sums, &st);
            cf->covered = 0;
        }
        capture_cut_takes(c, cf);
        if (h->max_frame == st.wal_frame)
            return 0;
        rc = capture_wal_run(c->wal, c->node, db, &cf->view, h, &e);
        if (!rc)
            capture_sync_published(c, cf, h);
        if (!rc && !cf->view.index)
            capture_unproven(c->node, db);
        if (rc == ERR_AGAIN_LATER)
            cf->end_cut = 0; /* it is not that any more */
        if (rc == -ENOSPC || rc == -EDQUOT) {
            atomic_store(&c->node->disk_full, true);
            database_mark(db, DATABASE_WAITING, "not captured, no room in the data directory: %s", e.text);
            return ERR_AGAIN_LATER;
        }
        if (rc && rc != ERR_AGAIN_LATER) {
            database_mark(db, DATABASE_WAITING, "not captured: %s", e.text);
            return rc;
        }
        if (!rc && db->state == DATABASE_WAITING) { /* there is room again */
            atomic_store(&c->node->disk_full, false);
            database_mark(db, DATABASE_OK, NULL);
        }
    }
    return ERR_AGAIN_LATER;
}

/* All of the WAL is in the database file, and this was caught up with: the file alone is the state, and can be told by its stamp. */
static void settle(struct capture *c, struct capture_file *cf, const struct walindex_header *h)
{
    bool whole = cf->view.index ? walindex_backfilled(cf->view.index) >= h->max_frame : cf->covered == h->max_frame;
    struct filestamp now = whole ? database_stamp(c->node->db_fd, cf->db->name) : (struct filestamp){0};
    database_settle(c->node->databases, cf->db, &now);
    if (!whole) { /* somebody has taken it away who is not SQLite */
        cf->diff_ns = now_ns();
        cf->suspect = true;
    }
}

/* The view's WAL is no longer NAME-wal. Everything in it was checkpointed by whoever removed it. */
static void leave_old_wal(struct capture *c, struct capture_file *cf)
{
    struct walindex_header h;
    int rc = catch_up(c, cf, &h);
    if (rc) {
        start_diff_locked(c, cf, true);
        return;
    }
    bool only_read = database_untouched(c->node->databases, cf->db, c->node->db_fd);
    if (!only_read)
        database_settle(c->node->databases, cf->db, NULL); /* what came after it may have written already */
    unmap(c, cf);
    if (!only_read && !walview_exists(c->node, cf->db)) {
        cf->diff_ns = now_ns();
        capture_touch(c, cf);
    }
}

static void step_mapped(struct capture *c, struct capture_file *cf)
{
    struct walindex_header h;
    uint64_t before = database_dbstate(cf->db)->lsn;
    cf->unseen_view = false;
    int rc = catch_up(c, cf, &h);
    cf->behind = rc == ERR_AGAIN_LATER;
    cf->moved = database_dbstate(cf->db)->lsn != before;
    if (cf->look_ns && cf->moved) {
        cf->publish_ns = (cf->publish_ns * 3 + MIN(now_ns() - cf->look_since_ns, 10000000u)) / 4;
        cf->look_ns = 0;
    }
    if (rc == ERR_AGAIN_LATER) {
        capture_sync_idle(c, cf);
        look_again(cf, false);
        return;
    }
    if (rc) {
        start_diff_locked(c, cf, true);
        return;
    }
    bool asked = capture_sync_step(c, cf, &h);
    if (cf->view.slot4 || cf->n_deferred) { /* nobody could restart the WAL while we caught up */
        cf->covered = h.max_frame;
        walview_release(&cf->view);
    }
    /* A look in vain while a commit waits for its disk costs no call into the kernel; whether the frames are still there is asked later. */
    bool again = cf->look_ns && now_ns() - cf->look_since_ns < CAPTURE_LOOK_SOON_NS;
    if (sync_waits(c->node->sync, cf->db)) /* nothing will be published before that was answered */
        cf->look_ns = 0;
    else if (again || unpublished(cf, &h))
        look_again(cf, !asked && !cf->unasked && !cf->db->prepared && config_sync_replicas(c->node->config, cf->db->name));
    else
        cf->look_ns = 0;
}

void capture_step_mapped(struct capture *c, struct capture_file *cf)
{
    pthread_mutex_lock(&cf->db->lock);
    if (cf->mode == CAPTURE_MAPPED)
        step_mapped(c, cf);
    pthread_mutex_unlock(&cf->db->lock);
}

void capture_step(struct capture *c, struct capture_file *cf)
{
    struct database *db = cf->db;
    cf->dirty = false;
    if (!node_captures(c->node)) {
        cf->look_ns = cf->diff_ns = 0;
        capture_opening_pass_on(c, cf);
        pthread_mutex_lock(&db->lock);
        unmap(c, cf);
        pthread_mutex_unlock(&db->lock);
        capture_answer_deferred(c, cf);
        return;
    }
    if (cf->recheck && db->watched)
        capture_watch(c, cf, cf->watch.muted); /* files that are new */
    pthread_mutex_lock(&db->lock);
    if (cf->mode == CAPTURE_MAPPED && cf->recheck) {
        if (!walview_current(c->node, db, &cf->view))
            leave_old_wal(c, cf);
        else if (!cf->view.index && walview_has_shm(c->node, db))
            unmap(c, cf); /* somebody may have a wal-index now: by that */
    }
    bool last_close = cf->closed && !db->apps_open;
    if (last_close && cf->anew && !cf->suspect && !cf->diff_ns && cf->mode != CAPTURE_DIFFING) { /* whoever had emptied it has written it, and is done */
        cf->anew = false;
        cf->emptied_ns = 0;
    }
    cf->recheck = cf->closed = false;
    if (cf->mode == CAPTURE_IDLE && !cf->diff_ns && walview_exists(c->node, db)) {
        struct err e;
        if (database_load(c->node->databases, db, &e) || !database_dbstate(db)->txid) {
            start_diff_locked(c, cf, true);
        } else {
            cf->mode = CAPTURE_MAPPING;
            if (worker_post(c->node->worker, capture_map_job, db, 0, 0))
                cf->mode = CAPTURE_IDLE;
        }
    }
    if (cf->mode == CAPTURE_MAPPED)
        step_mapped(c, cf);
    else
        capture_sync_idle(c, cf);
    if (last_close && cf->mode == CAPTURE_MAPPED && cf->view.index && !cf->behind)
        unmap(c, cf); /* killed: whoever opens it next must not find a lock of ours on the wal-index, and believe that it is in use */
    capture_opening_step(c, cf);
    bool answer = cf->mode != CAPTURE_MAPPING;
    pthread_mutex_unlock(&db->lock);
    if (answer)
        capture_answer_deferred(c, cf);
}

void capture_wal_vanishes(struct capture *c, struct capture_file *cf)
{
    if (!node_captures(c->node))
        return;
    capture_order(c);
    pthread_mutex_lock(&cf->db->lock);
    if (cf->mode == CAPTURE_MAPPED) {
        struct walindex_header h;
        int rc = catch_up(c, cf, &h);
        /* A truncating checkpoint has restarted the wal-index already; then `covered` has told that nothing was lost. */
        if (!rc) {
            settle(c, cf, &h);
            unmap(c, cf);
        } else {
            start_diff_locked(c, cf, true);
        }
    } else if (cf->mode == CAPTURE_DIFFING) {
        cf->diff_again = true;
        cf->suspect = true;
    } else {
        struct err e; /* opened and closed again before it could be mapped */
        cf->mode = CAPTURE_IDLE;
        if (cf->anew || database_load(c->node->databases, cf->db, &e) || database_dbstate(cf->db)->wal_frame ||
            capture_wal_closed(c->wal, c->node, cf->db, &e)) {
            /* Nothing but the comparison will tell: in WAL mode the change counter, from which a journal proves that nothing was missed, stands
             * still (file format §1.3.5). */
            cf->suspect = true;
            cf->diff_ns = now_ns();
        }
    }
    if (cf->diff_ns)
        capture_touch(c, cf);
    pthread_mutex_unlock(&cf->db->lock);
}

bool capture_leave(struct capture *c, struct capture_file *cf)
{
    struct walindex_header h;
    bool whole = !cf->diff_ns && cf->mode != CAPTURE_DIFFING && !cf->suspect && !cf->check_at_close;
    cf->life++;
    cf->suspect = cf->anew = cf->check_at_close = cf->diff_unwanted = false; /* of the file that had the name */
    cf->emptied_ns = 0;
    cf->diff_ns = cf->diff_first_ns = cf->look_ns = 0;
    if (cf->mode == CAPTURE_DIFFING) {
        cf->diff_again = true; /* its scan fails, or meets the successor */
    } else if (cf->mode == CAPTURE_MAPPED) {
        whole = catch_up(c, cf, &h) == 0 && whole;
        unmap(c, cf);
    } else {
        cf->mode = CAPTURE_IDLE; /* a job that opens the WAL will see that it is not wanted */
    }
    return whole;
}

void capture_journal_ends(struct capture *c, struct capture_file *cf, struct journal_end *end)
{
    struct database *db = cf->db;
    struct err e = {0};
    enum journal_proof proof;
    if (!node_captures(c->node))
        return;
    capture_order(c);
    pthread_mutex_lock(&db->lock);
    bool in_wal = cf->mode == CAPTURE_MAPPED || (cf->mode == CAPTURE_MAPPING && walview_exists(c->node, db));
    end->anew = cf->anew && cf->suspect; /* of another file that SQLite writes to nothing is missing any more */
    int rc = in_wal ? 1 : capture_journal_run(c->journal, c->node, db, end, cf->suspect, &proof, &e);
    if (rc == 0) { /* events about what the transaction wrote find the file as it was captured here */
        cf->suspect &= proof != JOURNAL_WHOLE;
        cf->check_at_close = proof == JOURNAL_UNPROVEN || (cf->check_at_close && proof != JOURNAL_WHOLE);
        cf->unproven = end->stamp;
        database_settle(c->node->databases, db, cf->suspect || cf->check_at_close ? NULL : &end->stamp);
    }
    if (rc == 0 && !cf->suspect) {
        cf->anew = false;
        cf->emptied_ns = 0;
        cf->diff_ns = cf->diff_first_ns = 0;
        cf->diff_unwanted = cf->mode == CAPTURE_DIFFING;
        cf->diff_again = false; /* events of the transaction's own writes, while a comparison waited for its end */
        if (db->state != DATABASE_OK || db->warning[0])
            database_mark(db, DATABASE_OK, NULL);
    }
    if (rc < 0) {
        log_debug("capture", "%s: %s: comparing all pages", db->name, e.text);
        cf->suspect = true;
        cf->diff_ns = now_ns();
        if (rc == -ENOSPC || rc == -EDQUOT) {
            atomic_store(&c->node->disk_full, true);
            database_mark(db, DATABASE_WAITING, "not captured, no room in the data directory: %s", e.text);
        }
    }
    pthread_mutex_unlock(&db->lock);
    capture_touch(c, cf);
}

void capture_dropped(struct capture *c, struct capture_file *cf)
{
    struct err e;
    struct database *db = cf->db;
    uint64_t lsn;
    if (node_role(c->node) != NODE_PRIMARY)
        return;
    pthread_mutex_lock(&db->lock);
    bool was_known = db->state != DATABASE_ABSENT && database_dbstate(db)->txid;
    cf->life++;
    cf->anew = false;
    cf->emptied_ns = 0;
    cf->diff_ns = cf->look_ns = 0;
    if (cf->mode == CAPTURE_DIFFING)
        cf->diff_again = true; /* its scan fails, or meets the successor */
    else
        unmap(c, cf);
    if (was_known) {
        if (sequencer_append(c->node->sequencer, RECORD_DROP, db->name, NULL, 0, &lsn, &e)) {
            log_error("capture", "cannot log that %s was dropped: %s", db->name, e.text);
            capture_rescan_later(c);
        } else {
            database_forget(c->node->databases, db, lsn);
        }
    } else {
        database_forget(c->node->databases, db, 0);
    }
    pthread_mutex_unlock(&db->lock);
}
