/* What the launcher (edgefs) keeps for the programs it starts, and how they talk to it.
 *
 * Children inherit descriptors, named by environment variables that hold their numbers:
 *   EDGEFS_LAUNCHER_FD  both: a SOCK_SEQPACKET socket to the launcher (one socketpair per child process)
 *   EDGEFS_FUSE_FD      edgefs-fs: the mounted /dev/fuse descriptor
 *   EDGEFS_TABLE_FD     edgefs-fs: a memory file, empty at the first start, that outlives every edgefs-fs of this mount
 *   EDGEFS_HOOKS_FD     edgefs-fs: the listening socket of <data>/run/hooks.sock
 * Children get the launcher's own configuration arguments (-c FILE, --dir DIR, --data DIR). A child exits when its
 * EDGEFS_LAUNCHER_FD reaches end of file (the launcher is gone) unless it is edgefs-fs, which goes on serving the mount
 * until the kernel says that it is unmounted (read of /dev/fuse: ENODEV).
 *
 * Messages are one packet each, host byte order: struct launch_msg, then name_len bytes of name. Descriptors travel as
 * SCM_RIGHTS. */
#ifndef EDGEFS_LAUNCH_H
#define EDGEFS_LAUNCH_H

#include <stdint.h>

#define LAUNCH_FENCE_FDS 2 /* of a fence: [0] the database file, [1] its -shm file (absent in rollback mode) */
#define LAUNCH_PACKET_MAX 4096

enum launch_kind {
    LAUNCH_READY = 1, /* child → launcher: edgefs-fs: the mount is served; edgefs-replicator: the role is known to edgefs-fs */
    LAUNCH_FENCE_PUT, /* replicator → launcher: keep these descriptors under this name, replacing (closing) older ones */
    LAUNCH_FENCE_DROP,  /* replicator → launcher: close the descriptors of this name */
    LAUNCH_FENCE_LIST,  /* replicator → launcher: send what you keep … */
    LAUNCH_FENCE,       /* launcher → replicator: … one of these for each, still kept by the launcher too … */
    LAUNCH_FENCE_END,   /* launcher → replicator: … and that was all */
    LAUNCH_FENCE_ACK,   /* launcher → replicator: answers each PUT and each DROP, in order, once it has been carried out */
    LAUNCH_SYNC,        /* launcher → any child: unused packet kind reserved for later */
};

struct launch_msg {
    uint32_t kind; /* enum launch_kind */
    uint16_t name_len;
    uint16_t reserved; /* 0 */
};

#endif
