/* A log that the upstream's does not continue: whose history it is that ends, and what of ours exists nowhere else. */
#ifndef EDGEFS_FORK_H
#define EDGEFS_FORK_H

#include "replicator/node.h"
#include <jansson.h>

/* Puts the records behind the point where the histories part into quarantine. reset: the payload of a RESET, which has the LSN lsn. ERR_ROLE: the upstream's history is the one that
 * ends, it is not to be followed; -errno: they cannot be kept, so nothing may be given up. The follower's thread; blocks for the disk. */
int fork_keep(struct node *n, uint64_t lsn, const json_t *reset, struct err *e);

#endif
