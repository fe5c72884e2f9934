#include "replicator/capture/txrecord.h"

#include "lib/crc.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/metrics.h"

uint64_t tx_checksum(const struct database *db, const struct tx *tx)
{
    const struct dbstate *old = database_dbstate(db);
    uint64_t x = 0;
    if (old->page_size != tx->page_size || tx->anew) { /* nothing of the old state counts */
        for (uint32_t i = 0; i < tx->n_pages; i++)
            x ^= tx->pages[i].sum;
        return x | CHECKSUM_FLAG;
    }
    x = old->checksum;
    for (uint32_t i = 0; i < tx->n_pages; i++)
        x ^= sums_get(db->sums, tx->pages[i].pgno) ^ tx->pages[i].sum;
    for (uint32_t p = tx->commit + 1; p <= old->commit; p++)
        x ^= sums_get(db->sums, p);
    return x | CHECKSUM_FLAG;
}

static bool changed(const struct database *db, const struct tx_page *p, bool all)
{
    return all || sums_get(db->sums, p->pgno) != p->sum;
}

static int write_payload(void *ctx, const void *p, size_t n, struct err *e)
{
    return sequencer_write(ctx, p, n, e);
}

static int encode(struct node *n, struct database *db, const struct tx *tx, const struct ltx_header *h, uint64_t post, bool all,
                  struct ltx_encoder *enc, struct err *e)
{
    int rc = ltx_encode_begin(enc, h, write_payload, n->sequencer, e);
    for (uint32_t i = 0; i < tx->n_pages && !rc; i++) {
        const uint8_t *page;
        if (!changed(db, &tx->pages[i], all))
            continue;
        rc = tx->read(tx->ctx, &tx->pages[i], &page, e);
        if (!rc)
            rc = ltx_encode_page(enc, tx->pages[i].pgno, page, e);
    }
    return rc ? rc : ltx_encode_end(enc, post, e);
}

static int encode_state(struct node *n, const struct dbstate *st, struct err *e)
{
    uint8_t buf[RECORD_STATE_SIZE];
    record_state_encode(
        &(struct record_state){.page_size = st->page_size, .commit = st->commit, .txid = st->txid, .checksum = st->checksum}, buf);
    return sequencer_write(n->sequencer, buf, sizeof buf, e);
}

static bool is_born(const struct dbstate *old, const struct tx *tx)
{
    return old->txid == 0 || tx->anew;
}

static bool is_first(const struct dbstate *old, const struct tx *tx)
{
    return is_born(old, tx) || old->page_size != tx->page_size;
}

static uint64_t changed_bytes(const struct database *db, const struct tx *tx, bool first)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < tx->n_pages; i++)
        bytes += changed(db, &tx->pages[i], first) ? tx->page_size : 0;
    return bytes;
}

static struct ltx_header header_of(const struct dbstate *old, const struct tx *tx)
{
    return (struct ltx_header){
        .page_size = tx->page_size,
        .commit = tx->commit,
        .min_txid = is_born(old, tx) ? 1 : old->txid + 1,
        .max_txid = old->txid + tx->ntx,
        .timestamp_ms = (int64_t)(wall_us() / 1000u),
        .pre_checksum = is_first(old, tx) ? 0 : old->checksum,
        .wal_offset = tx->wal_offset,
        .wal_size = tx->wal_size,
        .wal_salt1 = tx->wal_offset ? tx->wal_salt1 : 0,
        .wal_salt2 = tx->wal_offset ? tx->wal_salt2 : 0,
    };
}

int tx_prepare(struct node *n, struct database *db, const struct tx *tx, struct ltx_encoder *enc, uint64_t *lsn, struct err *e)
{
    const struct dbstate old = *database_dbstate(db);
    bool first = is_first(&old, tx);
    uint64_t bytes = changed_bytes(db, tx, first);
    if (bytes > TX_PAGES_MAX || (first && !is_born(&old, tx)))
        return err_set(e, ERR_GONE, "%s: a transaction of %llu bytes, or that changes the page size, does not fit into a record", db->name,
                       (unsigned long long)bytes);
    int rc = sequencer_begin(n->sequencer, RECORD_PREPARE, db->name, lsn, e);
    if (rc)
        return rc;
    struct ltx_header h = header_of(&old, tx);
    rc = encode(n, db, tx, &h, tx_checksum(db, tx), first, enc, e);
    if (rc) {
        sequencer_abort(n->sequencer);
        return rc;
    }
    rc = sequencer_commit(n->sequencer, e);
    if (!rc)
        db->prepared = *lsn;
    return rc;
}

int tx_record(struct node *n, struct database *db, const struct tx *tx, struct ltx_encoder *enc, struct err *e)
{
    const struct dbstate old = *database_dbstate(db);
    bool first = is_first(&old, tx);
    uint64_t bytes = changed_bytes(db, tx, first);
    bool as_state = bytes > (first ? TX_FIRST_MAX : TX_PAGES_MAX) || (first && !is_born(&old, tx));

    struct dbstate st = {
        .page_size = tx->page_size,
        .commit = tx->commit,
        .txid = old.txid + tx->ntx,
        .checksum = tx_checksum(db, tx),
        .wal_salt1 = tx->wal_salt1,
        .wal_salt2 = tx->wal_salt2,
        .wal_frame = tx->wal_frame,
        .wal_mode = tx->wal_mode,
        .born = old.born,
        .inode = tx->inode ? tx->inode : old.inode,
    };
    int rc = sequencer_begin(n->sequencer, as_state ? RECORD_STATE : RECORD_TX, db->name, &st.lsn, e);
    if (rc)
        return rc;
    if (is_born(&old, tx))
        st.born = st.lsn;
    if (as_state) {
        rc = encode_state(n, &st, e);
    } else {
        struct ltx_header h = header_of(&old, tx);
        rc = encode(n, db, tx, &h, st.checksum, first, enc, e);
    }
    /* Room in the sidecar before the record is visible: after that nothing may fail. (If the record does not get into the log the next start
     * sees that it is not there.) */
    if (!rc)
        rc = sums_begin(db->sums, st.lsn, st.lsn, tx->commit, e);
    if (rc) {
        sequencer_abort(n->sequencer);
        return rc;
    }
    rc = sequencer_commit(n->sequencer, e);
    if (rc) {
        sums_touch(db->sums, &old);
        return rc;
    }
    for (uint32_t i = 0; i < tx->n_pages; i++)
        sums_set(db->sums, tx->pages[i].pgno, tx->pages[i].sum);
    sums_commit(db->sums, &st);
    database_remember(db, st.lsn);
    db->prepared = 0; /* superseded */
    metrics_add(METRIC_CAPTURED_RECORDS, 1);
    metrics_add(METRIC_CAPTURED_TRANSACTIONS, tx->ntx);
    metrics_add(METRIC_CAPTURED_PAGES, tx->n_pages);
    return 0;
}
