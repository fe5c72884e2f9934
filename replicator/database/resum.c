#include "replicator/database/resum.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/database/scan.h"
#include "replicator/database/walview.h"
#include <errno.h>

void resum_needed(struct node *n, struct database *db)
{
    struct err e;
    const struct dbstate old = *database_dbstate(db);
    if (database_load(n->databases, db, &e)) {
        log_warn("resync", "%s", e.text);
        return;
    }
    /* The TXID goes on: nothing that is in the log continues a copy with another checksum. */
    struct dbstate fresh = {.txid = old.txid, .lsn = old.lsn, .needs_image = 1, .torn = old.torn, .born = old.born};
    sums_touch(db->sums, &fresh);
}

static int enter(struct node *n, struct database *db, const struct scan_result *r, struct err *e)
{
    if (db->state != DATABASE_IMAGE && !(db->state == DATABASE_UNKNOWN && db->pending))
        return err_set(e, -ECANCELED, "%s needs no image any more", db->name);
    resum_needed(n, db); /* killed in between: once more */
    const struct dbstate old = *database_dbstate(db);
    int rc = db->sums ? sums_reserve(db->sums, r->commit, e) : err_set(e, -EIO, "%s: no checksum file", db->name);
    if (rc)
        return rc;
    for (uint32_t p = 1; p <= r->commit; p++)
        sums_set(db->sums, p, r->sums[p - 1]);
    struct dbstate st = {
        .page_size = r->page_size,
        .commit = r->commit,
        .txid = old.txid ? old.txid : 1,
        .checksum = r->checksum,
        .lsn = old.lsn,
        .wal_salt1 = r->wal_salt1,
        .wal_salt2 = r->wal_salt2,
        .wal_frame = r->wal_frame,
        .wal_mode = r->wal_mode,
        .needs_image = 1,
        .torn = old.torn,
        .born = old.born,
    };
    sums_commit(db->sums, &st);
    return 0;
}

int resum(struct node *n, struct database *db, struct err *e)
{
    struct scan *s;
    struct scan_result r;
    uint64_t began = now_ns();
    int rc = scan_open(n, db, SCAN_FREE, NULL, &s, &r, e);
    if (rc)
        return rc;
    pthread_mutex_lock(&db->lock);
    rc = enter(n, db, &r, e);
    pthread_mutex_unlock(&db->lock);
    scan_close(s);
    pthread_mutex_lock(&db->lock);
    if (!rc && r.wal_frame && !walview_exists(n, db)) /* the scan's connection was the only one, and took the WAL away */
        database_settle(n->databases, db, NULL);
    pthread_mutex_unlock(&db->lock);
    if (!rc)
        log_info("resync", "%s: its %u pages were read in %llu ms, to be compared with the primary's", db->name, r.commit,
                 (unsigned long long)(now_ns() - began) / 1000000u);
    scan_result_free(&r);
    return rc;
}

bool resum_was_changed(struct node *n, const struct database *db)
{
    const struct dbstate *st = database_dbstate(db);
    struct filestamp now = database_stamp(n->db_fd, db->name);
    if (!now.ino)
        return false; /* it is not there: others see to that */
    if (st->wal_frame) /* its last changes were in a WAL */
        return !walview_exists(n, db);
    return st->file.ino && !filestamp_same(&st->file, &now);
}
