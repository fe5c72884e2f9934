/* The following end of a stream: one thread that finds the primary, receives its log, appends it to this node's and applies it.
 *
 *   SEEKING ──a primary is known──► CONNECTING ──first frame──► STREAMING
 *      ▲                                │                          │
 *      └──────── nobody answers ────────┴── cut, GOODBYE, HANDOFF ─┘            PAUSED while this node is not a replica     */
#ifndef EDGEFS_FOLLOWER_H
#define EDGEFS_FOLLOWER_H

#include "replicator/node.h"

int follower_open(struct node *n, struct follower **out, struct err *e);
void follower_close(struct follower *f);

/* The primary is another one now, or this node's role has changed: leave the present stream and look again. Any thread. */
void follower_restart(struct follower *f);

/* A database that waited need not wait any more: now is the time to try. Any thread. */
void follower_hurry(struct follower *f);

/* Runs fn while no record is being received or applied, and none will be until it has returned (promotion). Any thread but the follower's.
 * -EBUSY, fn not called: a large record is half received. */
int follower_quiesced(struct follower *f, void (*fn)(void *ctx), void *ctx);

#endif
