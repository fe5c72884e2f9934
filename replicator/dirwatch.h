/* inotify over the directories in which applications have databases open: one watch such a directory, none an idle one, none a file.
 *
 * A directory is held once for each database of it that is open. The first hold asks for the watch, which the worker adds, because that calls into the
 * mount; until it is there changes raise no event, so when it is (dirwatch_fresh) everything in the directory is looked at. Names
 * that come and go are told by edgefs-fs anyway. After the last hold the watch stays for a while: whoever opens and closes a database for each
 * request does not pay for it each time. */
#ifndef EDGEFS_DIRWATCH_H
#define EDGEFS_DIRWATCH_H

#include "replicator/node.h"

struct dirwatch;

int dirwatch_open(struct node *n, struct dirwatch **out, struct err *e);
void dirwatch_close(struct dirwatch *d);
int dirwatch_fd(const struct dirwatch *d);

/* Holds the directory that path (of a database, relative to the mount) lies in. True: dirwatch_add of that directory, dir (LAYOUT_NAME_MAX + 1 bytes),
 * is to be called by a thread that may call into the mount. Any thread. */
bool dirwatch_hold(struct dirwatch *d, const char *path, char *dir);
void dirwatch_release(struct dirwatch *d, const char *path);
/* A directory was renamed: the watches below it keep working under their new names. */
void dirwatch_renamed(struct dirwatch *d, const char *from, const char *to);

/* Watches directory dir (relative to the mount, "" for its root) if it is still held. Calls into the mount: not from capture's thread. */
int dirwatch_add(struct dirwatch *d, const char *dir, struct err *e);
/* True if some watch has begun since the last call. */
bool dirwatch_fresh(struct dirwatch *d);
/* True if the directory that path lies in is watched. */
bool dirwatch_active(struct dirwatch *d, const char *path);
/* Watches that exist now. */
unsigned dirwatch_count(struct dirwatch *d);

/* Takes what events there are, without blocking; true if there are any. Afterwards dirwatch_more: there may be more of them. */
bool dirwatch_fill(struct dirwatch *d);
bool dirwatch_more(const struct dirwatch *d);
/* Calls fn(ctx, path, mask) for each event taken: path is the file's, relative to the mount; NULL path: events were lost, or belong to
 * a directory not known: look at everything. path is valid during the call. */
void dirwatch_report(struct dirwatch *d, void (*fn)(void *ctx, const char *path, uint32_t mask), void *ctx);

#endif
