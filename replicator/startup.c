#include "replicator/startup.h"
#include "lib/filter.h"

#include "lib/crc.h"
#include "lib/durable.h"
#include "lib/log.h"
#include "lib/ltx.h"
#include "lib/sqlitefile.h"
#include "lib/util.h"
#include "replicator/apply/apply_records.h"
#include "replicator/capture/capture.h"
#include "replicator/cluster/lease.h"
#include "replicator/log/keeper.h"
#include "replicator/log/pending.h"
#include "replicator/database/resum.h"
#include "replicator/apply/stray.h"
#include "replicator/cluster/lease_etcd.h"
#include "replicator/cluster/takeover.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#define RUNNING_FILE "running" /* boot id while a replicator runs; absent after an orderly end */
#define SYNC_NS 3000000000u    /* how long an orderly end begins new syncs; the launcher has patience for 10 s */

static int open_directory(int at, const char *path, int *fd, struct err *e)
{
    *fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *fd < 0 ? err_errno(e, errno, "open directory %s", path) : 0;
}

char *startup_first_line(const char *path, struct err *e)
{
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *text = calloc(1, 4096);
    ssize_t k = fd < 0 || !text ? -1 : read(fd, text, 4095);
    if (k < 0) {
        err_errno(e, errno, "read %s", path);
        free(text);
        return NULL;
    }
    text[strcspn(text, "\r\n")] = 0;
    return text;
}

static int load_token(struct node *n, struct err *e)
{
    if (!n->config->token_file)
        return 0;
    n->token = startup_first_line(n->config->token_file, e);
    if (!n->token)
        return err_wrap(e, "token file");
    if (!*n->token)
        return err_set(e, ERR_CONFIG, "token file %s: its first line, the token, is empty", n->config->token_file);
    if (strlen(n->token) < 16)
        log_warn("startup", "token file %s: a token of %zu characters can be guessed; use 16 or more", n->config->token_file, strlen(n->token));
    return 0;
}

/* ---- sidecars ---- */

struct mending {
    struct database *db;
    struct dbstate st;
};

static int enter_page(void *ctx, uint32_t page_size, uint32_t pgno, const uint8_t *page, struct err *e)
{
    struct mending *m = ctx;
    (void)e;
    m->st.page_size = page_size;
    if (pgno != lock_pgno(page_size))
        sums_set(m->db->sums, pgno, page_checksum(pgno, page, page_size));
    if (pgno == 1)
        m->st.wal_mode = page[18] == 2;
    return 0;
}

/* The process ended while records from..to were being entered: enter their pages again. The database checksum tells whether the result is right;
 * what it was to be is in the trailer of the last record, which is the sidecar's own sum then. */
static bool mend(struct node *n, struct database *db, uint64_t from, uint64_t to)
{
    struct mending m = {.db = db, .st = *database_dbstate(db)};
    struct err e;
    uint32_t commit = m.st.commit;
    if (rlog_last(n->rlog).lsn < from) { /* the record itself never became visible: nothing had been entered */
        sums_touch(db->sums, &m.st);
        return true;
    }
    if (apply_each_page(n, db->name, from, MIN(to, rlog_last(n->rlog).lsn), enter_page, &m, &commit, &e))
        return false;
    struct rlog_cursor c = {.fd = -1};
    struct record_head h;
    int64_t offset;
    bool found = false;
    int rc = rlog_seek(n->rlog, from, &c, &e);
    while (!rc && (rc = rlog_next(n->rlog, &c, &h, &offset, &e)) > 0 && h.pos.lsn <= to) {
        uint8_t head[LTX_HEADER_SIZE], trailer[LTX_TRAILER_SIZE];
        struct ltx_header lh;
        rc = 0;
        if (h.type != RECORD_TX || strcmp(h.name, db->name))
            continue;
        if (pread(c.fd, head, sizeof head, offset) != (ssize_t)sizeof head || ltx_header_decode(head, &lh, &e) ||
            pread(c.fd, trailer, sizeof trailer, offset + h.payload_len - (int64_t)sizeof trailer) != (ssize_t)sizeof trailer)
            break;
        m.st.txid = lh.max_txid;
        m.st.commit = lh.commit;
        m.st.lsn = h.pos.lsn;
        m.st.checksum = be64_get(trailer);
        if (lh.min_txid == 1) { /* a file of which nothing was known before */
            m.st.born = h.pos.lsn;
            m.st.inode = 0;
            m.st.wal_salt1 = m.st.wal_salt2 = m.st.wal_frame = 0;
        }
        if (lh.wal_offset) {
            m.st.wal_salt1 = lh.wal_salt1;
            m.st.wal_salt2 = lh.wal_salt2;
            m.st.wal_frame = (uint32_t)((lh.wal_offset + lh.wal_size - WAL_HEADER_SIZE) / (int64_t)(WAL_FRAME_HEADER_SIZE + lh.page_size));
        }
        found = true;
    }
    rlog_cursor_close(&c);
    if (!found)
        return false;
    sums_commit(db->sums, &m.st);
    return sums_total(db->sums, m.st.commit, m.st.page_size) == m.st.checksum;
}

/* A rename was under way when the process ended: it has happened if the log has the record. On a primary the file had moved before (and may have moved on
 * since); on a replica it is moved after the record, which is applied again if it was not (pending.c). */
static void finish_rename(struct node *n, struct database *db, const struct sums_info *info)
{
    struct err e;
    struct rlog_cursor c = {.fd = -1};
    struct record_head h = {0};
    int64_t offset;
    bool logged = info->rename_lsn <= rlog_last(n->rlog).lsn && rlog_seek(n->rlog, info->rename_lsn, &c, &e) == 0 &&
                  rlog_next(n->rlog, &c, &h, &offset, &e) > 0 && h.pos.lsn == info->rename_lsn && h.type == RECORD_RENAME &&
                  !strcmp(h.name, db->name);
    rlog_cursor_close(&c);
    struct filestamp now = database_stamp(n->db_fd, db->name);
    bool moved = !now.ino || (info->state.file.ino && info->state.file.ino != now.ino);
    struct database *to = logged && moved ? databases_get(n->databases, info->rename_to, &e) : NULL;
    if (to && database_rename(n->databases, db, to, info->rename_lsn, &e))
        log_warn("startup", "%s", e.text);
    if (logged && !moved && info->moving && (to = databases_get(n->databases, info->rename_to, &e)))
        db->moving_to = to->moving_to = to;
}

/* Only the header of a sidecar is read, unless something must be mended or the machine has stopped without warning. */
static int load_sidecar(void *ctx, const struct sums_info *info)
{
    struct node *n = ctx;
    struct err e;
    uint64_t from, to;
    struct database *db = databases_get(n->databases, info->name, &e);
    if (!db) {
        log_warn("startup", "%s", e.text);
        return 0;
    }
    database_know(db, &info->state);
    if (info->rename_lsn)
        finish_rename(n, db, info);
    if (!info->unfinished && !n->crashed)
        return 0;
    if (database_load(n->databases, db, &e)) {
        log_warn("startup", "%s", e.text);
        return 0;
    }
    const struct dbstate *st = database_dbstate(db);
    bool good = !sums_unfinished(db->sums, &from, &to) || mend(n, db, from, to);
    if (good && n->crashed)
        good = st->lsn <= rlog_last(n->rlog).lsn && sums_total(db->sums, st->commit, st->page_size) == st->checksum;
    if (good && n->crashed) /* right, but of when? The database may have lost its last commits: no place in the WAL counts, no stamp */
        database_settle(n->databases, db, NULL);
    if (!good) {
        /* Page size 0: nothing of the array counts. The TXID goes on, so that replicas see a new state and not a repeat. */
        log_warn("startup", "%s: its checksum file does not fit (the machine stopped without warning?): all pages count as changed", info->name);
        struct dbstate fresh = {.txid = st->txid, .lsn = st->lsn, .needs_image = 1, .born = st->born, .inode = st->inode};
        sums_touch(db->sums, &fresh);
    }
    return 0;
}

static int mark_replica(void *ctx, struct database *db)
{
    struct node *n = ctx;
    const struct dbstate *st = database_dbstate(db);
    struct err e;
    bool known = st->txid || st->lsn;
    if (n->crashed && st->txid && !database_load(n->databases, db, &e)) {
        /* The machine stopped without warning, and the WAL here is never synced on its own: the pages may be older than the sidecar. */
        struct dbstate fresh = {.txid = st->txid, .lsn = st->lsn, .needs_image = 1};
        sums_touch(db->sums, &fresh);
    }
    st = database_dbstate(db);
    bool here = faccessat(n->db_fd, db->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    bool taken = !here && !db->pending; /* while a DROP or RENAME waits it may be gone already */
    pthread_mutex_lock(&db->lock);
    db->stray = !db->moving_to && stray_found(n, db);
    pthread_mutex_unlock(&db->lock);
    if (!db->stray && !db->moving_to && st->txid && !st->needs_image && (taken || resum_was_changed(n, db))) {
        log_warn("startup", "%s: its file was %s while this node was stopped: its pages will be compared with the primary's", db->name,
                 here ? "changed" : "removed");
        resum_needed(n, db);
    }
    st = database_dbstate(db);
    pthread_mutex_lock(&db->lock);
    if (db->stray) {
        /* Before it was replaced it is read only if that takes long, and with synchronous commit not at all. */
        db->doubtful = config_sync_replicas(n->config, db->name) > 0;
        db->spoilt = true;
        database_set_pending(n->databases, db, st->lsn + 1);
        database_mark(db, DATABASE_IMAGE, "somebody else has written it: that is kept in quarantine, then it waits for an image");
    } else if (st->needs_image || (st->torn && !db->pending) || (!st->txid && known && !db->pending)) {
        database_set_pending(n->databases, db, st->lsn + 1);
        database_mark(db, DATABASE_IMAGE, "waiting for an image");
    } else if (db->pending) {
        database_mark(db, DATABASE_WAITING, "the log is being applied");
    } else {
        database_mark(db, st->txid && here ? DATABASE_OK : DATABASE_ABSENT, NULL);
    }
    pthread_mutex_unlock(&db->lock);
    return 0;
}

/* Its last transactions may have been waited for by nobody. */
static int mark_unproven(void *ctx, struct database *db)
{
    capture_unproven(ctx, db);
    return 0;
}

/* ---- */

static bool stopped_without_warning(struct node *n)
{
    char *old = NULL, *now;
    size_t size;
    struct err e;
    bool crashed = false;
    now = startup_first_line("/proc/sys/kernel/random/boot_id", &e);
    if (!now)
        return false; /* without a boot id a restart of the machine looks like one of the process; the log's tail is scanned anyway */
    if (durable_read(n->data_fd, RUNNING_FILE, 64, &old, &size, &e) == 0)
        crashed = strcmp(old, now) != 0;
    free(old);
    free(now);
    return crashed;
}

/* From here on a stop of the machine is a stop without warning. */
static void note_running(struct node *n)
{
    struct err e;
    char *now = startup_first_line("/proc/sys/kernel/random/boot_id", &e);
    if (now && durable_replace(n->data_fd, RUNNING_FILE, now, strlen(now), 0600, &e))
        log_warn("startup", "%s", e.text);
    free(now);
}

int startup_open(struct node *n, const struct config *c, struct err *e)
{
    char path[4096];
    static struct filter filter; /* one node a process */
    n->config = c;
    if (filter_of_config(c, &filter))
        return err_set(e, ERR_CONFIG, "databases: the patterns of include, and those of exclude, may have %d bytes together", FILTER_MAX - 1);
    n->filter = &filter;
    n->start_ns = now_ns();
    pthread_mutex_init(&n->lock, NULL);
    atomic_store(&n->role, NODE_STARTING);
    atomic_store(&n->lease_until, c->lease.etcd ? 0 : UINT64_MAX);
    int rc = open_directory(AT_FDCWD, c->data, &n->data_fd, e);
    if (!rc && mkdirat(n->data_fd, LAYOUT_SUMS, 0700) && errno != EEXIST)
        rc = err_errno(e, errno, "make %s", LAYOUT_SUMS);
    if (!rc)
        rc = open_directory(n->data_fd, LAYOUT_DB, &n->db_fd, e);
    if (!rc)
        rc = open_directory(n->data_fd, LAYOUT_SUMS, &n->sums_fd, e);
    if (!rc)
        rc = open_directory(AT_FDCWD, c->dir, &n->mount_fd, e);
    if (!rc)
        rc = load_token(n, e);
    if (!rc)
        rc = epochs_open(n->data_fd, &n->epochs, e);
    snprintf(path, sizeof path, "%s/%s", c->data, LAYOUT_LOG);
    n->crashed = stopped_without_warning(n);
    struct rlog_options o = {
        .segment_size = c->log.segment_size,
        .retention_bytes = c->log.retention_bytes,
        .retention_age_ms = c->log.retention_age_ms,
        .whole_groups = n->crashed,
        .segment_begins = keeper_segment_begins,
        .ctx = n,
    };
    if (!rc)
        rc = rlog_open(path, &o, &n->rlog, e);
    if (!rc)
        rc = sequencer_open(n->rlog, &n->sequencer, e);
    if (!rc)
        rc = databases_open(n->sums_fd, &n->databases, e);
    if (!rc)
        rc = lease_load(n, e);
    if (!rc && c->lease.etcd)
        rc = lease_etcd_open(n, &n->lease, e);
    if (!rc)
        rc = sums_each(n->sums_fd, load_sidecar, n);
    return rc;
}

int startup_role(struct node *n, struct err *e)
{
    char name[128], url[256];
    note_running(n); /* what the stop of the machine has spoilt is mended by now */
    node_primary(n, name, url);
    int rc;
    if (n->lease ? lease_etcd_starts(n->lease, n->crashed) : !strcmp(name, n->config->node) && lease_still_ours(n)) {
        /* The log may have lost a tail that replicas have: they must not take what is written now for its continuation. */
        uint64_t lsn;
        rc = n->crashed || !epochs_current(n->epochs).epoch
                 ? takeover_begin_epoch(n, lease_next_epoch(n, n->config->node, MAX(epochs_current(n->epochs).epoch, rlog_last(n->rlog).epoch)), &lsn, e)
                 : 0;
        sequencer_set_epoch(n->sequencer, MAX(epochs_current(n->epochs).epoch, rlog_last(n->rlog).epoch));
        if (!rc && config_sync_most(n->config)) {
            rc = pending_prepared(n, e);
            databases_each(n->databases, mark_unproven, n);
        }
        if (!rc)
            atomic_store(&n->role, NODE_PRIMARY);
    } else if (!strcmp(name, n->config->node) && epochs_current(n->epochs).epoch) {
        /* It was primary when it ended, and applications may have committed what is not captured yet. That goes into the log, in the old epoch, before
         * anything of the new primary is applied over it. */
        sequencer_set_epoch(n->sequencer, MAX(epochs_current(n->epochs).epoch, rlog_last(n->rlog).epoch));
        takeover_doubt(n, true);
        n->unsure_epoch = n->crashed ? MAX(epochs_current(n->epochs).epoch, rlog_last(n->rlog).epoch) : 0;
        atomic_store(&n->role, NODE_HANDING_OVER);
        rc = 0;
    } else {
        rc = pending_from_log(n, e);
        if (!rc) {
            databases_each(n->databases, mark_replica, n);
            atomic_store(&n->role, NODE_REPLICA);
        }
    }
    return rc;
}

void startup_step_down(struct node *n)
{
    char name[128], url[256];
    struct err e;
    if (node_role(n) != NODE_HANDING_OVER)
        return;
    log_info("startup", "this node was primary when it ended, and is not any more: capturing what was committed here");
    while (takeover_fence(n, now_ns() + 2000000000u, &e) && !atomic_load(&n->stopping))
        node_warn(n, "stepping down: %s", e.text);
    node_warn(n, NULL);
    node_primary(n, name, url);
    bool known = strcmp(name, n->config->node) != 0;
    takeover_follow(n, known ? name : "", known ? url : "", 0);
}

void startup_close(struct node *n)
{
    struct err e;
    bool clean = rlog_sync(n->rlog, &e) == 0;
    if (!clean)
        log_error("startup", "the log could not be made durable at the end: %s", e.text);
    int rc = databases_sync(n->databases, n->db_fd, now_ns() + SYNC_NS);
    if (rc) /* then the end counts as one without warning, should the machine be restarted before the next start */
        log_warn("startup", "not all was made durable at the end: %s", err_name(rc));
    clean = clean && !rc;
    databases_close(n->databases);
    sequencer_close(n->sequencer);
    rlog_close(n->rlog);
    epochs_close(n->epochs);
    if (clean && unlinkat(n->data_fd, RUNNING_FILE, 0) && errno != ENOENT)
        log_warn("startup", "cannot remove %s: %s", RUNNING_FILE, err_name(errno));
    free(n->token);
    close(n->mount_fd);
    close(n->sums_fd);
    close(n->db_fd);
    close(n->data_fd);
    pthread_mutex_destroy(&n->lock);
}
