/* The data directory: made, locked, and found free of programs and open files of an earlier life. Everything here happens before the
 * mount, in one thread.
 *
 * Two locks see to it that never two nodes serve one data directory, and that a new launcher can follow one that was killed:
 *
 *   flock on <data>/lock: held by a living launcher, and by nobody else (close-on-exec). Taken: a node runs; its pid is in
 *       the file. Free: no launcher lives, whatever else does.
 *   flock on <data>/db:   one open file, shared by the launcher and the two programs that it starts (they inherit the descriptor). Free:
 *       no program of this data directory lives.
 *
 * If the launcher is killed, edgefs-fs goes on serving the mount for as long as somebody uses it, with the db lock held, and edgefs-replicator
 * exits (end of its socket), on a replica once no application has a database open any more (replicator/apply/linger.h). The next launcher gets the first lock, sees that the second is taken, and unmounts
 * the old mount as umount(8) would, which the kernel refuses while anybody has a file open there or stands in it. Once it is
 * unmounted edgefs-fs ends by itself (ENODEV), the db lock is free, and the node starts. Otherwise the users of the mount are named and
 * nothing is started: their writes, if it is a primary's, are still captured by nobody, but they are not lost (the next start finds them), and no second
 * lock table comes to be.
 *
 * What is left are applications that hold backing files through a mount of which no program lives any more (edgefs-fs was killed, too; or
 * lazily unmounted): with passthrough they still write, under the locks of a dead mount. The write leases find them: the kernel grants one
 * only for a file that nobody else has open or mapped. */
#ifndef EDGEFS_LAUNCHER_DATADIR_H
#define EDGEFS_LAUNCHER_DATADIR_H

#include "lib/err.h"
#include <stdbool.h>

struct datadir {
    char *path;      /* real path */
    int lock;        /* <data>/lock */
    int db;          /* <data>/db, read-only, locked; for the children to inherit */
    bool db_created; /* <data>/db was made just now */
};

/* Makes path and its folders as far as they are missing, and takes both locks; waits up to DATADIR_WAIT_MS for what an earlier
 * launcher left. 0, -EBUSY (the message says who), or -errno. On failure nothing stays locked. */
int datadir_open(struct datadir *d, const char *path, struct err *e);

/* Gives a db folder that was made just now the owner and mode of the mount point, as the mount will show it. 0 or -errno. */
int datadir_adopt_owner(const struct datadir *d, const char *mount_point, struct err *e);

/* Makes sure that nobody has a file under <data>/db open; waits up to DATADIR_WAIT_MS. 0, -EBUSY (the message says who and what), or
 * -errno. */
int datadir_check_unused(const struct datadir *d, struct err *e);

/* Removes every wal-index (NAME-shm) under <data>/db: call after datadir_check_unused. 0 or -errno. */
int datadir_remove_indexes(const struct datadir *d, struct err *e);

void datadir_close(struct datadir *d);

/* <data>/name, into a buffer of PATH_MAX bytes; longer paths come out cut, and fail where they are used. Returns buf. */
char *datadir_path(const char *data, const char *name, char *buf);

#define DATADIR_WAIT_MS 5000

#endif
