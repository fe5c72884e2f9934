/* What this node had and the cluster's history has not: kept in <data>/quarantine before it is overwritten, never served to other nodes.
 *
 *   EPOCH-LSN-NAME.ltx    one record of an epoch that ended elsewhere before it: its LTX file, as it was in the log
 *   EPOCH-LSN-NAME.db     a database as it was here, EPOCH-LSN being the end of the log then: one whose state the log has not (a whole import), one that the
 *                         primary does not have at all, and each that a record belongs to, so that rows can be compared; the last kind only up to
 *                         QUARANTINE_WHOLE_MAX bytes and while it leaves half of the room. With NAME.db-wal if it had a WAL, so that SQLite opens it as it was
 *   EPOCH-LSN~K-NAME.db   the same for one that applications wrote while this node was a replica (stray.h); K, from 1, tells those of one LSN apart
 *
 * EPOCH and LSN in decimal, NAME with "/" as %2F and "%" as %25, cut to 150 bytes. Files are whole and durable once they have their name. Any thread;
 * all block for the disk. */
#ifndef EDGEFS_QUARANTINE_H
#define EDGEFS_QUARANTINE_H

#include "replicator/node.h"
#include <jansson.h>

#define QUARANTINE_FILE_MAX 255
#define QUARANTINE_WHOLE_MAX (4ull << 30)

/* Last LSN of this node's log that lies on the history of a server, whose epochs are theirs[0..n) (oldest first) and whose last record is
 * last_lsn. What follows it here exists only here. Our whole log if there is nothing to compare. */
uint64_t quarantine_fork(struct node *n, const struct epoch_entry *theirs, size_t n_theirs, uint64_t last_lsn);

/* Keeps every record after LSN fork that is in the log, and the databases that they belong to. *kept: how many files came to be. The caller holds no lock of a
 * database; applications are fenced. On failure (-ENOSPC …) nothing may be overwritten yet; a later
 * call goes on where this one stopped. */
int quarantine_records(struct node *n, uint64_t fork, unsigned *kept, struct err *e);

/* Keeps a database as it lies there; nobody writes to it meanwhile (its fence, db->sqlite held). -ENOENT if there is no such file. */
int quarantine_database(struct node *n, struct database *db, struct err *e);
/* The same for what is at no place of the log (stray.h): beside one that is there already, never instead. */
int quarantine_stray(struct node *n, struct database *db, struct err *e);

/* [{"file", "name", "kind": "record"|"database", "epoch", "lsn", "bytes", "time", for records "min_txid", "max_txid", "page_size", "commit"}], a new
 * reference; NULL: no memory. */
json_t *quarantine_list(struct node *n);
/* Opens one for reading; *size bytes. The descriptor, or -ENOENT, -EINVAL (not a name that can be there), -errno. */
int quarantine_open(struct node *n, const char *file, uint64_t *size, struct err *e);
/* Deletes one. Codes as above. */
int quarantine_drop(struct node *n, const char *file, struct err *e);

#endif
