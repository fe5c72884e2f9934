/* Who uses a mount or a file: what fuser(1) does, but without asking a file system that might not answer. Reads /proc, where a single
 * process that hangs in exec or in a page fault makes its readers hang, too: a child process does that, for BUSY_MS at most. Sees the
 * processes of this PID namespace that this user may look into. */
#ifndef EDGEFS_BUSY_H
#define EDGEFS_BUSY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define BUSY_TEXT_MAX 320
#define BUSY_MS 2000

struct busy_query {
    /* Anything on this device: descriptors, working directory, root, mapped files. */
    bool on_device;
    unsigned major, minor;
    /* This file, opened directly: dev and ino; or through an edgefs mount that the mount table does not show any more: then its device and
     * inode number are unknown, and what is left is its name on a device without a mount. NULL: no file asked for. */
    const char *name; /* last part of its path */
    dev_t dev;
    ino_t ino;
    pid_t except; /* left out beside this process; 0: nobody */
    const char *except_command; /* as ps(1) shows it, cut to 15 bytes; NULL: nobody */
};

/* Writes "1234 (python3), 99 (sqlite3)" or "… and 3 more" into text. Returns how many processes there are; 0: none found, text is "".
 * If the time was not enough, what was found until then. */
int busy_name(const struct busy_query *q, char text[BUSY_TEXT_MAX]);

#endif
