/* Apply: enters records into a replica's databases, as SQLite's own writer would, while readers read. */
#ifndef EDGEFS_APPLY_H
#define EDGEFS_APPLY_H

#include "replicator/node.h"

/* edgefs-fs waits (hook id) for the fence of database name before an application may open it. Any thread; answers from the
 * worker. name NULL: not a database. */
void apply_opening(struct node *n, const char *name, uint64_t hook_id);
/* The last application closed it: fence and files are given up after a while. Any thread. */
void apply_idle(struct node *n, struct database *db);

#endif
