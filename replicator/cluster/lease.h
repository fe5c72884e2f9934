/* Who is primary, with a static lease: configuration names the first one, a promotion moves it, and every node keeps what it last knew in
 * <data>/role.json. */
#ifndef EDGEFS_LEASE_H
#define EDGEFS_LEASE_H

#include "replicator/node.h"

/* Reads role.json, or takes lease.primary from the configuration; sets the node's idea of the primary. ERR_CORRUPT naming the file. */
int lease_load(struct node *n, struct err *e);
/* Writes the node's present idea of the primary; failures are logged (then the next start asks the other nodes). Any thread. */
void lease_save(struct node *n);

/* At start, for a node that believes to be primary: false if another node says that it is, with a higher epoch (then that one is now the
 * primary as far as this node knows). */
bool lease_still_ours(struct node *n);

/* While it runs, with a static lease: asks the node at url, and if that one is primary with a later epoch (it was promoted by force while this one was cut off),
 * fences this node and follows it. What only this node has goes into quarantine. Blocks for some seconds at most; called again until it has succeeded:
 * *ending says that it has begun. If that one's epoch has the same number as ours, the one of the two whose name comes first begins a later one. The neighbours' thread. */
void lease_give_way(struct node *n, const char *url, bool *ending);

/* The number of the epoch that node name begins, above all that is known. With the static lease, where nobody hands out numbers, each of the configured nodes has
 * its own: of N nodes the one whose name is the Kth in order takes K, K + N, K + 2 N, … So two that are promoted by force without knowing of each other never begin the same
 * epoch: of two different ones the later counts, and what the other one has goes into quarantine. */
uint64_t lease_next_epoch(const struct node *n, const char *name, uint64_t known);

#endif
