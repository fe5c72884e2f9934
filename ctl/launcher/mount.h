/* The mount: the mount table, the mount point, mount(2) and umount2(2). Single-threaded. Nothing here asks a file system that might not
 * answer, unless the comment says so: the mount table is read instead. */
#ifndef EDGEFS_LAUNCHER_MOUNT_H
#define EDGEFS_LAUNCHER_MOUNT_H

#include "lib/err.h"
#include <limits.h>
#include <stdbool.h>

#define MOUNT_TYPE "fuse.edgefs"

/* One line of /proc/self/mountinfo (proc(5)). */
struct mount_entry {
    unsigned major, minor; /* st_dev of its files */
    char dir[PATH_MAX];    /* mount point */
    char type[64];
    char source[PATH_MAX]; /* of a MOUNT_TYPE: the real path of the data directory */
};

/* Takes one line (with or without newline) apart, octal escapes resolved. 0 or -EINVAL. */
int mount_parse_line(const char *line, struct mount_entry *entry);

/* The mount on top at dir (NULL: anywhere), of this type and source (NULL: any); paths as the kernel shows them (real paths).
 * 1 and *entry, 0: there is none, or -errno. */
int mount_find(const char *dir, const char *type, const char *source, struct mount_entry *entry, struct err *e);

/* Makes sure that dir is a directory that can be mounted over, making it (and its parents) if it is missing: empty, or what a dead edgefs
 * left mounted there is unmounted, after a line in the log. *real becomes the caller's: its path without symbolic links. *lock, too: a
 * descriptor of the directory below the mount to come, locked (flock) against another launcher that is about to mount there.
 * -EBUSY: a living edgefs is mounted there, or about to be; -ENOTEMPTY. Blocks up to 2 s for finding out whether a mount of another
 * node lives. */
int mount_point_prepare(const char *dir, char **real, int *lock, struct err *e);

/* Opens /dev/fuse and mounts it on dir, with the data directory's real path as its source. The descriptor (close-on-exec), or
 * -errno. */
int mount_edgefs(const char *dir, const char *data, bool allow_other, struct err *e);

/* Whether the kernel has given up the connection of this /dev/fuse descriptor (unmounted, or aborted by somebody). Never blocks. */
bool mount_connection_dead(int fuse);

/* Unmounts what is on top at dir. lazily: now for those who come, later for those who are inside. 0, -EBUSY, or -errno.
 * The kernel writes dirty pages back first: it blocks for as long as the server of the mount takes, and cannot be interrupted. */
int mount_remove_now(const char *dir, bool lazily);

/* The same in a child process that is waited for up to MOUNT_REMOVE_MS: then -ETIMEDOUT. */
int mount_remove(const char *dir, bool lazily);
#define MOUNT_REMOVE_MS 5000

/* Whether a kernel of this release (uname -r) can hand a live mount to a new edgefs-fs: FUSE_NOTIFY_RESEND, 6.9. */
bool mount_can_hand_over(const char *release);

/* Whether dir answers stat(2), asked by a child process so that this one cannot hang. Blocks up to timeout_ms.
 * 0, -ETIMEDOUT, or the -errno that stat got. */
int mount_probe(const char *dir, int timeout_ms);

#endif
