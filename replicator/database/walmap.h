/* Where pages lie in a WAL file, made from the frames' headers alone: no lock, no wal-index, no call into the mount. What it says
 * is a guess (a frame may be uncommitted, or overwritten by now), good enough for who compares checksums anyway. */
#ifndef EDGEFS_WALMAP_H
#define EDGEFS_WALMAP_H

#include "lib/err.h"
#include <stdint.h>

struct walmap;

/* Reads the headers of all frames that carry the WAL header's salts. dirfd, name: the WAL file. An absent, empty or unreadable
 * WAL, or one with another page size, gives *out = NULL and 0. -ENOMEM; -errno. Blocks for reading. Memory: 24 bytes for each
 * distinct page, at most WALMAP_FRAMES_MAX frames are looked at. */
#define WALMAP_FRAMES_MAX (8u << 20)
int walmap_open(int dirfd, const char *name, uint32_t page_size, struct walmap **out, struct err *e);
void walmap_close(struct walmap *m); /* NULL: nothing */

/* Reads what the last frame of pgno holds now into page. 1; 0: the map (or NULL) has no such page, or it cannot be read. */
int walmap_read(const struct walmap *m, uint32_t pgno, void *page);

/* Looks for the bytes of pgno that have that page checksum: in its last frame, then in the one before, for the last one may belong to a transaction that is not
 * committed (with synchronous commit it waits there for replicas, for seconds). 1: page has them; 0: page holds anything. */
int walmap_fit(const struct walmap *m, uint32_t pgno, uint64_t sum, void *page);

#endif
