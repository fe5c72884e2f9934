/* TX records on their way into a database: one on its own (struct ltx_source), or several of one database, merged in memory and applied as one transaction
 * (struct merge). One thread: that of apply_records.h, but for struct ltx_source, which is the caller's. */
#ifndef EDGEFS_APPLY_MERGE_H
#define EDGEFS_APPLY_MERGE_H

#include "lib/ltx.h"
#include "replicator/apply/apply_file.h"

/* One LTX file, as struct apply_tx wants it. */
struct ltx_source {
    struct ltx_decoder *dec;
    const uint8_t *memory; /* or … */
    int fd;                /* … a range of a file */
    int64_t start, at, end;
    struct ltx_header h;
    struct ltx_trailer t;
};

int ltx_source_rewind(void *source, struct err *e);
int ltx_source_next(void *source, uint32_t *pgno, const uint8_t **page, struct err *e);
/* Begins the transaction of s and checks that it continues what db is here. 0, ERR_CHECKSUM, ERR_CORRUPT or -errno. Takes db->lock. */
int ltx_source_continues(struct node *n, struct database *db, struct ltx_source *s, struct err *e);

/* Applies one TX record on its own. payload in memory, or at fd/offset. Errors as of apply_tx_run. */
int tx_record_apply(struct node *n, struct ltx_decoder *dec, struct database *db, const struct record_head *h, const uint8_t *payload, int fd, int64_t offset,
                    struct err *e);

/* TX records of one database. */
struct merge {
    struct merge *next;
    struct database *db;
    uint32_t page_size, commit;
    uint64_t max_txid, post;
    uint64_t first_lsn, last_lsn;
    uint64_t born; /* of the last snapshot among them; 0: none */
    struct merged_page *pages;
    struct merged_page *at; /* where the reader is */
};

/* Those of all databases, in the order of their first records. They are shown together (merges_apply), so records of others may lie in between. */
struct merges {
    struct merge *first, **last;
    unsigned n;
    size_t bytes; /* of pages */
};

void merges_init(struct merges *l);
/* A record that is in memory, behind what was merged of db, or as the first. It must continue that, or what db is here: else ERR_CHECKSUM; ERR_CORRUPT, -ENOMEM. Takes db->lock. */
int merges_add(struct merges *l, struct node *n, struct ltx_decoder *dec, struct database *db, const struct record_head *rh, const uint8_t *payload, struct err *e);
/* Takes the merge of db, or the first of all, out of the list; NULL: there is none. The caller calls merge_free. */
struct merge *merges_take(struct merges *l, struct database *db);
struct merge *merges_take_first(struct merges *l);
/* Applies all and takes them out of the list: who sees one of them sees all, but for those that must wait, and those that put another file in place. done is called for each, without a
 * lock: rc as of apply_tx_run. */
void merges_apply(struct merges *l, struct node *n, void (*done)(void *ctx, const struct merge *m, int rc, const char *why), void *ctx);
/* Applies it. Errors as of apply_tx_run. */
int merge_run(struct node *n, struct merge *m, struct err *e);
void merge_free(struct merges *l, struct merge *m);

#endif
