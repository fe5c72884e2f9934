/* Which of the other configured nodes can be reached: a thread of its own tries a TCP connection to each node's API once a second. With a static lease it also
 * asks a node that can be reached again, and each node now and then, whether it is primary with a later epoch than this one: then this node gives way (lease.h). */
#ifndef EDGEFS_NEIGHBOURS_H
#define EDGEFS_NEIGHBOURS_H

#include "replicator/node.h"

struct neighbours;

/* Without other nodes in the configuration nothing is started, and the count is 0. */
int neighbours_open(struct node *n, struct neighbours **out, struct err *e);
void neighbours_close(struct neighbours *h); /* NULL: nothing */

/* Any thread. A node counts as unreachable when two attempts in a row failed; before the first attempt ended it counts as reachable. */
unsigned neighbours_count(struct neighbours *h);
void neighbours_each(struct neighbours *h, void (*fn)(void *ctx, const char *name, bool reached), void *ctx);

#endif
