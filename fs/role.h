/* Which role this node has, as the replicator told last, and which process is the replicator. Both are in the memory file: a
 * successor goes on with them until it is told otherwise. Any thread. */
#ifndef EDGEFS_FS_ROLE_H
#define EDGEFS_FS_ROLE_H

#include "edgefs/hooks.h"
#include "fs/fs.h"
#include <stdbool.h>
#include <sys/types.h>

enum hooks_role role_get(struct fs *fs);
/* primary[0..len): name of the primary, len at most SHARED_PRIMARY_MAX. Takes the table's mutex. */
void role_set(struct fs *fs, enum hooks_role role, const char *primary, size_t len);
/* Name of the primary, "" if not known; buf holds SHARED_PRIMARY_MAX + 1 bytes. Takes the table's mutex. */
void role_primary(struct fs *fs, char *buf);

/* That process, and all its threads, is the replicator from now on; 0: nobody is. Table's mutex held. */
void role_set_replicator(struct fs *fs, pid_t pid);
/* Does the replicator of our predecessor still run? (It is about to connect, then.) */
bool role_replicator_alive(struct fs *fs);
/* Has it been killed, while its sockets are still open? A process gives up its descriptors with its last thread, and a killed thread
 * does not end before it has the lock of the directory or inode that it waits for in the kernel: a lock that the call of an
 * application may hold that waits for the replicator's answer. Its first thread never calls into the mount, so that one is gone
 * at once (a zombie until the rest has followed). Three system calls. */
bool role_replicator_dying(struct fs *fs);

/* Does this thread belong to the replicator? tid as in a FUSE request: that of the calling thread. Two system calls at most once a
 * second per thread. */
bool role_is_replicator(struct fs *fs, pid_t tid);

#endif
