/* What the launcher (edgefs) keeps for the programs it starts, and how they talk to it.
 *
 * Children inherit descriptors, named by environment variables that hold their numbers:
 *   EDGEFS_LAUNCHER_FD  both: a SOCK_SEQPACKET socket to the launcher (one socketpair per child process)
 *   EDGEFS_FUSE_FD      edgefs-fs: the mounted /dev/fuse descriptor
 *   EDGEFS_TABLE_FD     edgefs-fs: a memory file, empty at the first start, that outlives every edgefs-fs of this mount
 *   EDGEFS_HOOKS_FD     edgefs-fs: the listening socket of <data>/run/hooks.sock
 *   EDGEFS_LOCK_FD      both: holds the flock on <data>/db for as long as any program of the node lives. Leave it open, and out of
 *                       the hands of further processes (ctl/launcher/datadir.h)
 * Children get the launcher's own configuration arguments (-c FILE, --dir DIR, --data DIR). A child exits when its
 * EDGEFS_LAUNCHER_FD reaches end of file (the launcher is gone) unless it is edgefs-fs, which goes on serving the mount
 * until the kernel says that it is unmounted (read of /dev/fuse: ENODEV), or an edgefs-replicator that holds fences, which keeps them until no
 * application has a database open (replicator/apply/linger.h).
 *
 * edgefs-proxy is asked by SIGUSR2 to make room for a successor: it ends at once, and leaves a process behind, without descriptors of the launcher,
 * that finishes the requests under way.
 *
 * Exit statuses that mean something: 2, at the very first start: the configuration is bad, the launcher exits 2, too;
 * LAUNCH_EXIT_NO_RESEND of a successor of edgefs-fs: this kernel cannot hand the mount over, the launcher mounts afresh.
 *
 * Messages are one packet each, host byte order: struct launch_msg, then name_len bytes of name. Descriptors travel as
 * SCM_RIGHTS. */
#ifndef EDGEFS_LAUNCH_H
#define EDGEFS_LAUNCH_H

#include <stdint.h>

#define LAUNCH_FENCE_FDS 2 /* of a fence: [0] the database file, [1] its -shm file (absent in rollback mode) */
#define LAUNCH_PACKET_MAX 4096
#define LAUNCH_EXIT_NO_RESEND 3

enum launch_kind {
    LAUNCH_READY = 1, /* child → launcher: edgefs-fs: the mount is served; edgefs-replicator: the role is known to edgefs-fs;
                       * edgefs-proxy: it listens.
                       * The name, if there is one, is the program's version (EDGEFS_VERSION), for people to read */
    /* edgefs-proxy keeps its listening sockets with the launcher by the same messages, in a store of its own, each under the name HOST:PORT of
     * its entry: who connects while the proxy is replaced waits in the backlog. */
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
