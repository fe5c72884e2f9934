/* From WAL frames to a record: what capture does once it knows that frames are published. */
#ifndef EDGEFS_CAPTURE_WAL_H
#define EDGEFS_CAPTURE_WAL_H

#include "replicator/capture/txrecord.h"
#include "replicator/database/walview.h"

struct capture_wal; /* buffers, reused for every database; one thread */

int capture_wal_open(struct capture_wal **out, struct err *e);
void capture_wal_close(struct capture_wal *c);

/* Captures the frames after the database's state up to h->max_frame (or, if they are very many, some whole transactions of them: call
 * again until the state's wal_frame is h->max_frame). db->lock is held. h was read from v->index and has the salts of the state.
 * ERR_AGAIN_LATER: the frames are not those that h speaks of (the WAL was restarted meanwhile): read the wal-index again. */
int capture_wal_run(struct capture_wal *c, struct node *n, struct database *db, struct walview *v, const struct walindex_header *h,
                    struct err *e);

/* The same, but for a transaction that is not published yet, whose commit frame is h->max_frame: a PREPARE record, whose LSN is *lsn. The state stays as it is. */
int capture_wal_prepare(struct capture_wal *c, struct node *n, struct database *db, struct walview *v, const struct walindex_header *h, uint64_t *lsn,
                        struct err *e);

/* For a WAL that is about to be removed and was never mapped: everything in it has been copied into the database file. Captures the pages that
 * its frames name, as the database file has them now. db->lock is held. ERR_GONE: compare all pages instead. */
int capture_wal_closed(struct capture_wal *c, struct node *n, struct database *db, struct err *e);

#endif
