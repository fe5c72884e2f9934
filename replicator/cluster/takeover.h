/* A node changes its role: becomes primary, fences itself, follows somebody else. What promotions (promotion.c) and leases (lease_etcd.c)
 * have in common. All may wait for locks and for edgefs-fs; never from the HTTP loop or from capture's thread. */
#ifndef EDGEFS_TAKEOVER_H
#define EDGEFS_TAKEOVER_H

#include "replicator/node.h"

/* A new epoch of this node begins: appends the EPOCH record, durably, notes it in the history, and makes this node its own idea of the
 * primary. The role is not touched. The caller sees to it that no record is being received (follower_quiesced). epoch: above all that this
 * node knows. On failure everything is as before. */
int takeover_begin_epoch(struct node *n, uint64_t epoch, uint64_t *lsn, struct err *e);

/* A new epoch of this node has begun and it is not writable yet: commits what is prepared and undecided (synchronous commit). What cannot be is said in the log. */
void takeover_commit_prepared(struct node *n);

/* Role primary: edgefs-fs is told (see hooks_wait_role), fences go, every database is looked at. Also when a promotion is undone. */
void takeover_writable(struct node *n);

/* From replica to primary of a new epoch, if nothing received is left to apply: -EBUSY (a record is half received), ERR_AGAIN_LATER (not all is
 * applied, or a database waits for its image: e->text says which), ERR_ROLE (no replica). *at: the EPOCH record. */
int takeover_run(struct node *n, uint64_t epoch, struct position *at, struct err *e);
/* Whether takeover_run would find all applied and every database whole; e (or NULL) says why not. */
bool takeover_possible(struct node *n, struct err *e);

/* Role handing-over: no application begins a write any more, those under way have ended, and all that was committed is in the log. May be called again
 * after a failure (-ETIMEDOUT at the monotonic time deadline_ns; what is fenced stays fenced). */
int takeover_fence(struct node *n, uint64_t deadline_ns, struct err *e);

/* From handing-over (fenced) to replica of name (at url; both "" if nobody is known), which took over with this epoch (0: not known). */
void takeover_follow(struct node *n, const char *name, const char *url, uint64_t epoch);

/* With synchronous commit a transaction is visible to nobody before replicas have it. But one that lies in a WAL when all programs are killed is recovered by whoever opens
 * the database next. So a node that was primary, and starts as something else, lets nobody open these databases (true) until it is known to go on in the cluster's
 * history: it is primary again, a stream continues its log (false), or an image has come. Never waits for edgefs-fs. */
void takeover_doubt(struct node *n, bool doubt);

#endif
