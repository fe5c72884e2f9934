/* Strays: transactions that applications committed on this node while it was a replica. The fence keeps them from that, and whoever holds its locks
 * outlives each single program (fences.h, linger.h). But locks die with the last process that holds them, and with passthrough an application that has a
 * database open goes on writing after all programs of the node were killed, as long as it syncs nothing. What it was told to be committed is kept in quarantine
 * by the node's next start, before the primary's pages are written over it. */
#ifndef EDGEFS_STRAY_H
#define EDGEFS_STRAY_H

#include "replicator/node.h"

/* At the start of a replica, once it is known which records of the log are not applied (pending.h): has somebody else than replication written db?
 * Its WAL is read, behind the place that is known, and compared with the page checksums and with the records that wait; its file is judged by its stamp. No call into the
 * mount. True may be wrong for a file that was only touched, or checkpointed by its last user. db->lock is held. */
bool stray_found(struct node *n, struct database *db);

/* What stray_found found (db->stray), before anything is written into db: keeps it in quarantine, if it is not what is known after all. Then the database's
 * pages count as unknown, and db->stray is over. Blocks for as long as reading takes; no lock is held by the caller; from a thread that may call into the mount.
 * ERR_AGAIN_LATER; -ENOSPC and the like: nothing may be overwritten yet. */
int stray_keep(struct node *n, struct database *db, struct err *e);

#endif
