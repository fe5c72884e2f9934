/* One captured change of a database becomes one record, and the state that the node knows of it. */
#ifndef EDGEFS_TXRECORD_H
#define EDGEFS_TXRECORD_H

#include "lib/ltx.h"
#include "replicator/node.h"

struct tx_page {
    uint32_t pgno;
    uint32_t frame; /* the reader's: where it finds the page */
    uint64_t sum;   /* page checksum */
};

struct tx {
    uint32_t page_size, commit, wal_mode;
    uint64_t inode; /* of the file; 0: the one that is known */
    uint64_t ntx; /* transactions in it, ≥ 1 */
    bool anew;    /* another file has taken the place of the one that is known: pages are all there are, and the record is a snapshot */
    /* How far it reaches in the WAL, and where it began there (bytes; 0,0: not from a WAL). */
    uint32_t wal_salt1, wal_salt2, wal_frame;
    int64_t wal_offset, wal_size;
    struct tx_page *pages; /* ascending pgno, none beyond commit, no lock page; unchanged ones are skipped */
    uint32_t n_pages;
    /* Gives page p's bytes, valid until the next call. Called in order, for the changed ones. */
    int (*read)(void *ctx, const struct tx_page *p, const uint8_t **page, struct err *e);
    void *ctx;
};

/* Above this many bytes of changed pages the log gets a STATE record, and replicas fetch an image. */
#define TX_PAGES_MAX (UINT64_C(256) << 20)
/* The same for a database that is seen for the first time (a file that was imported). */
#define TX_FIRST_MAX (UINT64_C(4) << 20)

/* Writes the record and enters it into the sidecar. db->lock is held; enc is the caller's, for reuse. On failure the log and the state are as they
 * were (-ENOSPC: capture will be tried again when there is room). */
int tx_record(struct node *n, struct database *db, const struct tx *tx, struct ltx_encoder *enc, struct err *e);

/* Writes the PREPARE record of a transaction that is about to be committed: its LSN in *lsn, and in db->prepared. The state stays as it is; tx_record comes
 * when the transaction is committed. db->lock is held. ERR_GONE: too large for a record, or of another page size, so it cannot be prepared; -ENOSPC … */
int tx_prepare(struct node *n, struct database *db, const struct tx *tx, struct ltx_encoder *enc, uint64_t *lsn, struct err *e);

/* Database checksum after tx: of the present state, the pages in tx, and the new size. */
uint64_t tx_checksum(const struct database *db, const struct tx *tx);

#endif
