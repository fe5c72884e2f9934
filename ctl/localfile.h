/* A new local file that appears whole or not at all: what export and log export write. (lib/durable.h does the same for small
 * contents in memory; these do not fit there.) Blocks for disk I/O; main thread. */
#ifndef EDGEFS_CTL_LOCALFILE_H
#define EDGEFS_CTL_LOCALFILE_H

#include "lib/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct localfile {
    char *path;      /* what it will be called */
    char *temporary; /* what it is called until localfile_commit; NULL: not open */
    int fd;          /* read-write */
    uint64_t size;   /* bytes written so far */
};

/* Creates a temporary file in the folder of path. 0 or -errno. On success one of commit and abort must follow. */
int localfile_create(const char *path, struct localfile *f, struct err *e);

/* Appends n bytes. 0 or -errno. */
int localfile_write(struct localfile *f, const void *p, size_t n, struct err *e);

/* Gives it its name, with the permissions that umask leaves, and makes it durable if that is asked for (who writes thousands does it once, at
 * the end). An existing file is replaced if replace is true, otherwise -EEXIST. On failure the temporary file is gone. f is empty afterwards. */
int localfile_commit(struct localfile *f, bool replace, bool durable, struct err *e);

/* Removes the temporary file. Harmless on an empty (zeroed, committed) f. */
void localfile_abort(struct localfile *f);

#endif
