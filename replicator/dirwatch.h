/* inotify over all directories of the mount: one watch a directory, none a file. */
#ifndef EDGEFS_DIRWATCH_H
#define EDGEFS_DIRWATCH_H

#include "replicator/node.h"

struct dirwatch;

int dirwatch_open(struct node *n, struct dirwatch **out, struct err *e);
void dirwatch_close(struct dirwatch *d);
int dirwatch_fd(const struct dirwatch *d);

/* Watches directory path (relative to the mount, "" for its root). Calls into the mount: not from capture's thread. Watching twice is fine. */
int dirwatch_add(struct dirwatch *d, const char *path, struct err *e);

/* Reads events without blocking and calls fn(ctx, path, mask) for each: path is the file's, relative to the mount; NULL path: events were
 * lost, or belong to a directory not known yet: look at everything. path is valid during the call. */
void dirwatch_read(struct dirwatch *d, void (*fn)(void *ctx, const char *path, uint32_t mask), void *ctx);

#endif
