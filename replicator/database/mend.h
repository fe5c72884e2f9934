/* Puts right pages that changed on the disk by themselves, with what another node has: only if the bytes are exactly those whose checksum this node tracks.
 *
 * On a replica they are entered as a transaction that changes nothing (apply_tx): in WAL mode as frames, else in place under the locks of a writer.
 *
 * On the primary nothing is committed: the page is what it was. It is written into the database file while libsqlite3 holds the lock of a writer (BEGIN
 * IMMEDIATE), for the time of one write. Under that lock nobody else writes pages, and it is looked once more whether it is so: the page has its wrong bytes, its
 * tracked checksum is the same, no transaction is there that was not captured (page 1 is as tracked; without a WAL each transaction changes it), and no frame
 * of the page waits in the WAL (which would come over it anyway). Readers that look at that moment see bytes that are wrong, or right. */
#ifndef EDGEFS_MEND_H
#define EDGEFS_MEND_H

#include "replicator/database/scrub.h"

/* Sets `mended` in r->bad, r->from, and r->why if some were not. Asks the other nodes; blocks. No lock is held by the caller. */
void mend_pages(struct node *n, struct database *db, struct scrub_result *r);

#endif
