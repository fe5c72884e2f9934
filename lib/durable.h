/* Small files that must be old or new after a crash, never half: the one place that renames files of the data directory.
 * Both functions block for disk I/O; any thread. */
#ifndef EDGEFS_DURABLE_H
#define EDGEFS_DURABLE_H

#include "lib/err.h"
#include <stddef.h>
#include <sys/types.h>

/* Makes name (no slash; at most 240 bytes) in the folder dirfd hold exactly data[0..n), with this mode (umask does not count):
 * temporary name in the same folder, write, fsync, rename, fsync of the folder. dirfd is an ordinary descriptor, not
 * O_PATH. When it returns 0 the new contents survive a power cut. On -errno the old file is untouched, unless only the last
 * step failed (then the new contents are there, but might not survive). The leftover of a
 * writer that died is removed on the way. The caller sees to it that a name has one writer at a time. */
int durable_replace(int dirfd, const char *name, const void *data, size_t n, mode_t mode, struct err *e);

/* Reads the whole file. On success *data (with a NUL byte after its *n bytes) is the caller's, to free(). -ENOENT: there is no such
 * file; -EFBIG: it is larger than max bytes; -EINVAL: it is no regular file; otherwise -errno. */
int durable_read(int dirfd, const char *name, size_t max, char **data, size_t *n, struct err *e);

#endif
