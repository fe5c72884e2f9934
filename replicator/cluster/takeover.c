#include "replicator/cluster/takeover.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/apply/apply_file.h"
#include "replicator/apply/apply_records.h"
#include "replicator/capture/capture.h"
#include "lib/filter.h"
#include "replicator/apply/fences.h"
#include "replicator/stream/follower.h"
#include "replicator/capture/hooks.h"
#include "replicator/cluster/lease.h"
#include "replicator/stream/position_server.h"
#include "replicator/stream/stream_server.h"
#include "replicator/stream/sync.h"
#include <errno.h>
#include <inttypes.h>

#define COMMIT_WAIT_NS 2000000000u /* for readers of a database with a rollback journal */

/* ---- fencing everything ---- */

struct fencing {
    struct node *n;
    uint64_t deadline_ns;
    struct err e;
    unsigned fenced;
};

static int fence_one(void *ctx, struct database *db)
{
    struct fencing *f = ctx;
    for (;;) {
        pthread_mutex_lock(&db->sqlite);
        pthread_mutex_lock(&db->lock);
        bool needed = db->apps_open && db->state != DATABASE_ABSENT && db->state != DATABASE_OTHER && !(db->apply && db->apply->open);
        bool waits = needed && sync_waits(f->n->sync, db); /* a writer, for replicas: nothing that might wait for it is called with its locks held */
        int rc = waits ? err_set(&f->e, ERR_AGAIN_LATER, "%s: a commit waits for replicas", db->name) : needed ? apply_file_open(f->n, db, &f->e) : 0;
        pthread_mutex_unlock(&db->lock);
        pthread_mutex_unlock(&db->sqlite);
        if (!rc || rc == -ENOENT) {
            f->fenced += needed;
            return 0;
        }
        if (rc != ERR_AGAIN_LATER || now_ns() >= f->deadline_ns)
            return rc;
        /* A writer is in the middle of a transaction; it ends when it ends. */
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
}

static int unfence_one(void *ctx, struct database *db)
{
    pthread_mutex_lock(&db->sqlite);
    pthread_mutex_lock(&db->lock);
    apply_file_close(ctx, db);
    db->doubtful = false;
    fence_drop_left(ctx, db); /* of a predecessor that was killed: this process has not opened the database since */
    pthread_mutex_unlock(&db->lock);
    pthread_mutex_unlock(&db->sqlite);
    return 0;
}

struct doubting {
    const struct config *config;
    bool doubt;
};

static int doubt_one(void *ctx, struct database *db)
{
    const struct doubting *d = ctx;
    pthread_mutex_lock(&db->lock);
    if (!d->doubt)
        db->doubtful = db->doubtful && db->state == DATABASE_IMAGE; /* a stray's (stray.h): that the log goes on says nothing of it */
    else
        db->doubtful = database_dbstate(db)->txid && config_sync_replicas(d->config, db->name);
    pthread_mutex_unlock(&db->lock);
    return 0;
}

void takeover_doubt(struct node *n, bool doubt)
{
    struct doubting d = {n->config, doubt};
    if (config_sync_most(n->config))
        databases_each(n->databases, doubt_one, &d);
}

static int notice_one(void *ctx, struct database *db)
{
    struct node *n = ctx;
    capture_notice(n->capture, db);
    return 0;
}

void takeover_writable(struct node *n)
{
    atomic_store(&n->unfencing, true);
    atomic_store(&n->role, NODE_PRIMARY);
    hooks_send_role(n->hooks);
    databases_each(n->databases, unfence_one, n);
    databases_each(n->databases, notice_one, n);
    capture_notice(n->capture, NULL);
    atomic_store(&n->unfencing, false); /* after that: a question that comes now finds every database noticed */
    position_server_changed(n->positions);
    stream_server_greet(n->streams); /* who follows this node already has to hear that it is the primary now */
}

int takeover_fence(struct node *n, uint64_t deadline_ns, struct err *e)
{
    int role = NODE_PRIMARY;
    if (!atomic_compare_exchange_strong(&n->role, &role, NODE_HANDING_OVER) && role != NODE_HANDING_OVER)
        return err_set(e, ERR_ROLE, "this node is no longer primary");
    /* Fences first, role second: a transaction that is going on, or that begins before the fence stands, must be able to make and to end its rollback journal, which
     * edgefs-fs refuses on a replica. One that does not end in half of the time has to see that. */
    uint64_t now = now_ns();
    struct fencing early = {.n = n, .deadline_ns = now + (deadline_ns > now ? (deadline_ns - now) / 2 : 0)};
    databases_each(n->databases, fence_one, &early);
    hooks_send_role(n->hooks);
    if (hooks_wait_role(n->hooks, deadline_ns))
        return err_set(e, -ETIMEDOUT, "edgefs-fs does not take the new role in time");
    /* Until no database is found open without a fence: an open that was under way may have come in after the first round. */
    for (;;) {
        struct fencing f = {.n = n, .deadline_ns = deadline_ns};
        if (databases_each(n->databases, fence_one, &f))
            return err_set(e, -ETIMEDOUT, "a write transaction did not end in time: %s", f.e.text);
        if (capture_now(n->capture, NULL, deadline_ns, e))
            return -ETIMEDOUT;
        if (!f.fenced)
            return 0;
    }
}

void takeover_follow(struct node *n, const char *name, const char *url, uint64_t epoch)
{
    node_set_primary(n, name, url);
    atomic_store(&n->applied, rlog_last(n->rlog).lsn);
    atomic_store(&n->role, NODE_REPLICA);
    if (*name)
        lease_save(n);
    hooks_send_role(n->hooks);
    databases_each(n->databases, notice_one, n);
    if (*name)
        stream_server_handoff(n->streams, name, url, epoch);
    follower_restart(n->follower);
}

int takeover_begin_epoch(struct node *n, uint64_t epoch, uint64_t *lsn, struct err *e)
{
    uint64_t before = rlog_last(n->rlog).epoch;
    const char *name = n->config->node;
    sequencer_set_epoch(n->sequencer, epoch);
    int rc = sequencer_append(n->sequencer, RECORD_EPOCH, "", name, strlen(name), lsn, e);
    if (!rc)
        rc = rlog_sync(n->rlog, e);
    if (!rc)
        rc = epochs_begin(n->epochs, epoch, *lsn, e);
    if (rc) {
        sequencer_set_epoch(n->sequencer, before);
        return rc;
    }
    node_set_primary(n, name, n->config->http.advertise);
    lease_save(n);
    log_info("takeover", "epoch %" PRIu64 " begins at LSN %" PRIu64, epoch, *lsn);
    return 0;
}

/* ---- from replica to primary ---- */

static int commit_one(void *ctx, struct database *db)
{
    struct node *n = ctx;
    struct err e;
    if (db->prepared && apply_commit_prepared(n->apply, db, now_ns() + COMMIT_WAIT_NS, &e))
        log_error("takeover", "%s: a prepared transaction, which may have been acknowledged, could not be committed here: %s", db->name, e.text);
    return 0;
}

void takeover_commit_prepared(struct node *n)
{
    struct err e;
    uint64_t before = rlog_last(n->rlog).lsn;
    databases_each(n->databases, commit_one, n);
    if (rlog_last(n->rlog).lsn != before && rlog_sync(n->rlog, &e))
        log_error("takeover", "%s", e.text);
}

static int incomplete(void *ctx, struct database *db)
{
    struct err *e = ctx;
    pthread_mutex_lock(&db->lock);
    bool whole = db->state != DATABASE_IMAGE && !db->pending;
    pthread_mutex_unlock(&db->lock);
    return whole ? 0 : err_set(e, ERR_AGAIN_LATER, "%s is not complete here yet", db->name);
}

bool takeover_possible(struct node *n, struct err *e)
{
    uint64_t last = rlog_last(n->rlog).lsn, applied = atomic_load(&n->applied);
    if (!filter_everything(n->filter)) {
        err_set(e, -EPERM, "%s has only some of the databases (databases.include, databases.exclude): it cannot become primary", n->config->node);
        return false;
    }
    if (applied < last) {
        err_set(e, ERR_AGAIN_LATER, "applied up to LSN %" PRIu64 " of %" PRIu64, applied, last);
        return false;
    }
    return databases_each(n->databases, incomplete, e) == 0;
}

struct taking {
    struct node *n;
    uint64_t epoch, lsn;
    int rc;
    struct err e;
};

/* No record is being received or applied while this runs. */
static void take_quiesced(void *ctx)
{
    struct taking *t = ctx;
    if (node_role(t->n) != NODE_REPLICA)
        t->rc = err_set(&t->e, ERR_ROLE, "this node is no replica");
    else if (!takeover_possible(t->n, &t->e))
        t->rc = t->e.code;
    else if (!(t->rc = takeover_begin_epoch(t->n, t->epoch, &t->lsn, &t->e))) {
        takeover_commit_prepared(t->n);
        takeover_writable(t->n);
    }
}

int takeover_run(struct node *n, uint64_t epoch, struct position *at, struct err *e)
{
    struct taking t = {.n = n, .epoch = epoch};
    int rc = follower_quiesced(n->follower, take_quiesced, &t);
    if (rc)
        return err_set(e, -EBUSY, "this node is receiving a large record");
    if (t.rc) {
        if (e)
            *e = t.e;
        return t.rc;
    }
    *at = (struct position){epoch, t.lsn};
    follower_restart(n->follower);
    if (hooks_wait_role(n->hooks, now_ns() + 2000000000u))
        log_warn("takeover", "edgefs-fs has not confirmed yet that this node is primary");
    return 0;
}
