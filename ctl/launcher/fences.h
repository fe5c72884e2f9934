/* The fence descriptors that the launcher keeps for edgefs-replicator (docs/ARCHITECTURE.md, "Fence"; edgefs/launch.h): OFD locks
 * live as long as a descriptor of their open file, so a dead replicator does not leave a replica writable.
 * Single-threaded; nothing blocks. */
#ifndef EDGEFS_LAUNCHER_FENCES_H
#define EDGEFS_LAUNCHER_FENCES_H

#include "edgefs/launch.h"
#include <stddef.h>

#define FENCES_MAX 65536u

struct fences;
struct fence;

/* NULL: out of memory. max: how many names at most. */
struct fences *fences_new(unsigned max);
/* Closes everything. f may be NULL. */
void fences_free(struct fences *f);
void fences_close_all(struct fences *f);
unsigned fences_count(const struct fences *f);

/* Keeps fds[0..nfds) (1 to LAUNCH_FENCE_FDS) under name[0..len) (1 to LAYOUT_NAME_MAX bytes) and closes what was there under that name.
 * The descriptors become the keeper's, on failure too (closed then). 0; -EINVAL: counts or lengths; -ENOSPC: too many names;
 * -ENOMEM. On failure an older fence of that name stays. */
int fences_put(struct fences *f, const char *name, size_t len, const int *fds, int nfds);

/* Closes the descriptors of name; one that is not there is fine. 0 or -EINVAL (length). */
int fences_drop(struct fences *f, const char *name, size_t len);

/* Iteration in the order of arrival; NULL: the end. Valid until the next put, drop or close_all. */
const struct fence *fences_first(const struct fences *f);
const struct fence *fences_next(const struct fence *at);
/* The descriptors stay the keeper's. */
const char *fence_name(const struct fence *at, size_t *len);
int fence_fds(const struct fence *at, int fds[LAUNCH_FENCE_FDS]);

#endif
