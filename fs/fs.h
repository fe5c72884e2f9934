/* What the modules of edgefs-fs share: one struct fs per process, set up by main.c before any thread starts. */
#ifndef EDGEFS_FS_FS_H
#define EDGEFS_FS_FS_H

#include "edgefs/layout.h"
#include "fs/table.h"
#include "lib/config.h"
#include <pthread.h>

#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>

struct fs {
    const struct config *config;
    int dev_fd;      /* /dev/fuse, kept by the launcher too */
    int db_fd;       /* the backing directory */
    int orphans_fd;  /* <data>/orphans */
    int launcher_fd; /* -1: none */
    struct table *table;
    struct files *files;
    struct hookserver *hooks;
    struct passthrough *passthrough;
    struct journals *journals;
    struct dirsync *dirsync;
    struct cpulatency *cpulatency; /* NULL: none */
    struct session *session;
    struct spare *spare;
    /* Held for reading from the resolution of a path until what was resolved is opened and counted; for writing while a name is moved
     * or taken away, in the backing directory and in the table. So a path never leads to another file than the inode it came from,
     * and a file cannot be opened between "nobody has it open" and its unlink. Not held during slow calls (fsync, read, write, the
     * unlink of a file) nor while waiting for the replicator. */
    pthread_rwlock_t ns;
};

/* Longest path inside the mount that this program serves: that of a database, and its longest companion suffix. */
#define FS_PATH_MAX (LAYOUT_NAME_MAX + 8)

#endif
