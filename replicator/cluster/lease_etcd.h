/* Who is primary, by a lease in etcd (docs/failover.md). One thread keeps this node's lease alive, watches the cluster's keys, and acts:
 *
 *             startup: the key names us                     the key is gone, and we are the most advanced candidate
 *   (start) ──────────────────────────► HOLDING ◄──────────────────────────────────────────── FOLLOWING ◄── (start)
 *                                        │   ▲                                                   ▲
 *         not renewed for 4/5 of the TTL │   └── the key named us in a hand-over ────────────────┤
 *         or the key names somebody else ▼                                                       │
 *                                      FENCING ──── every write has ended, log is whole ─────────┘
 *
 * HOLDING is role primary, FENCING handing-over, FOLLOWING replica; a promotion (promotion.c) moves the key between its fence and its
 * hand-over. Keys, all below edgefs/CLUSTER/:
 *
 *   primary      {"node", "url", "epoch", "lsn"}   with the lease of the node that is primary: gone with it
 *   epoch        the number of the newest epoch; stays
 *   nodes/NAME   {"url", "epoch", "lsn", "candidate", "complete", "unsure", "priority", "election"}   with the lease of that node
 *
 * Time: a lease that etcd granted or renewed in answer to a request is alive for TTL seconds from when the request was *sent* (etcd counted later).
 * Both ends count on the monotonic clock. A primary that could not renew begins to fence itself when 4/5 of that are over. */
#ifndef EDGEFS_LEASE_ETCD_H
#define EDGEFS_LEASE_ETCD_H

#include "replicator/node.h"
#include <jansson.h>

struct lease_etcd;

/* Reads the password file, prepares clients. Does not connect. */
int lease_etcd_open(struct node *n, struct lease_etcd **out, struct err *e);
/* Once, before threads start: gets a lease and looks who is primary. True: the key names this node, so a predecessor of this process was primary
 * and nobody has taken over. crashed: the machine has stopped meanwhile. Waits for etcd, a second at most. */
bool lease_etcd_starts(struct lease_etcd *l, bool crashed);
/* Starts the threads; follower, capture and hooks must be there. */
int lease_etcd_run(struct lease_etcd *l, struct err *e);
/* Waits until somebody is primary, so that applications that are started next can write; at most until the monotonic time deadline_ns. */
void lease_etcd_wait_primary(struct lease_etcd *l, uint64_t deadline_ns);
/* This node is about to stop for good: fences it, if it is primary, so that what is in the log when lease_etcd_retired says true is all there is.
 * Does not wait. */
void lease_etcd_retire(struct lease_etcd *l);
bool lease_etcd_retired(struct lease_etcd *l);
/* Ends the threads. release: the lease is given up, so that another node takes over now and not when it has run out. */
void lease_etcd_close(struct lease_etcd *l, bool release);

/* Planned promotion, on the old primary, fenced: the key goes over to target, if it has a live lease. from: the epoch that begins, the last LSN of
 * the old one. *moved identifies this for lease_etcd_take_back. An answer that is lost is found out: blocks until etcd answers or the lease
 * has run out. */
int lease_etcd_hand_over(struct lease_etcd *l, const char *target, const char *url, struct position from, int64_t *moved, struct err *e);
/* The target did not take it. False: undone, the key is ours again. True: the target acted on it meanwhile, or it cannot be found out: it stays. */
bool lease_etcd_take_back(struct lease_etcd *l, int64_t moved);
/* Whether the key names this node now (asks etcd). */
bool lease_etcd_is_ours(struct lease_etcd *l);

/* Takes the key although this node may not be the most advanced (promote --force): only if nobody holds it. 0, or a code that says why not. */
int lease_etcd_force(struct lease_etcd *l, struct position *at, struct err *e);

/* For status: {"type": "etcd", "reachable", "holder", "ttl_ms", "renewed_ms"}; a new reference. Any thread. */
json_t *lease_etcd_status(struct lease_etcd *l);
bool lease_etcd_reachable(struct lease_etcd *l);

#endif
