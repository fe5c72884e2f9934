/* A replica's copy of which is not known what it is: reads it, and writes down its page checksums. */
#ifndef EDGEFS_RESUM_H
#define EDGEFS_RESUM_H

#include "replicator/node.h"

/* db waits for an image; its file was written by somebody else, or what is known of it cannot be believed. Afterwards its sidecar says what is in it, so that
 * only what differs must be fetched; it still waits. Blocks for as long as reading takes (db->sqlite is held meanwhile); no lock is held by the caller.
 * ERR_NOT_DATABASE, ERR_AGAIN_LATER as scan_open. */
int resum(struct node *n, struct database *db, struct err *e);

/* With db->lock held: nothing that is known of its pages counts any more. */
void resum_needed(struct node *n, struct database *db);

/* At the start of a replica: is the file of db another one than the one that is known, by its stamp or its WAL? (Somebody copied it while this node was stopped.) */
bool resum_was_changed(struct node *n, const struct database *db);

#endif
