/* What a replicator does before its threads run: opens the data directory, finds the databases and what is known of them, and decides the
 * role. */
#ifndef EDGEFS_STARTUP_H
#define EDGEFS_STARTUP_H

#include "replicator/node.h"

/* Opens directories, token, log, epochs, sequencer, registry, lease; sidecars that were left in the middle of a change are mended from the
 * log. Sets node->role's first value NODE_STARTING. On failure the process ends. */
int startup_open(struct node *n, const struct config *c, struct err *e);
/* Role: primary (an epoch is begun if there is none, or if the machine stopped without warning), else replica; handing-over if it was primary
 * and is not any more: startup_step_down then makes it a replica. Needs the HTTP of other nodes, not ours. */
int startup_role(struct node *n, struct err *e);
/* Once threads run: what was committed while this node still was primary is captured, then it is a replica. Waits for that. */
void startup_step_down(struct node *n);
/* First line of a small file anywhere, at most 4,095 bytes; malloc'ed, the caller's. NULL on failure. */
char *startup_first_line(const char *path, struct err *e);
/* Orderly end: everything durable, sidecars marked clean. No other thread runs any more. */
void startup_close(struct node *n);

#endif
