/* The fence descriptors that the launcher keeps for edgefs-replicator (docs/ARCHITECTURE.md, "Fence"; edgefs/launch.h): OFD locks
 * live as long as a descriptor of their open file, so a dead replicator does not leave a replica writable.
 * Single-threaded; nothing blocks. */
#ifndef EDGEFS_LAUNCHER_KEEPER_H
#define EDGEFS_LAUNCHER_KEEPER_H

#include "edgefs/launch.h"
#include <stddef.h>

#define KEEPER_MAX 65536u

struct keeper;
struct kept;

/* NULL: out of memory. max: how many names at most. */
struct keeper *keeper_new(unsigned max);
/* Closes everything. f may be NULL. */
void keeper_free(struct keeper *f);
void keeper_close_all(struct keeper *f);
unsigned keeper_count(const struct keeper *f);

/* Keeps fds[0..nfds) (1 to LAUNCH_FENCE_FDS) under name[0..len) (1 to LAYOUT_NAME_MAX bytes) and closes what was there under that name.
 * The descriptors become the keeper's, on failure too (closed then). 0; -EINVAL: counts or lengths; -ENOSPC: too many names;
 * -ENOMEM. On failure an older fence of that name stays. */
int keeper_put(struct keeper *f, const char *name, size_t len, const int *fds, int nfds);

/* Closes the descriptors of name; one that is not there is fine. 0 or -EINVAL (length). */
int keeper_drop(struct keeper *f, const char *name, size_t len);

/* Iteration in the order of arrival; NULL: the end. Valid until the next put, drop or close_all. */
const struct kept *keeper_first(const struct keeper *f);
const struct kept *keeper_next(const struct kept *at);
/* The descriptors stay the keeper's. */
const char *kept_name(const struct kept *at, size_t *len);
int kept_fds(const struct kept *at, int fds[LAUNCH_FENCE_FDS]);

#endif
