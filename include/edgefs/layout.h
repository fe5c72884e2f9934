/* Where things lie in a data directory, and which file names mean what. Shared by all programs of a node. */
#ifndef EDGEFS_LAYOUT_H
#define EDGEFS_LAYOUT_H

/* <data>/ */
#define LAYOUT_DB "db"                     /* the backing directory: what the mount mirrors */
#define LAYOUT_LOG "log"                   /* segments, NNNNNNNNNNNNNNNN.log */
#define LAYOUT_REPLICAS "replicas.json"     /* how far the nodes were that followed this one */
#define LAYOUT_SUMS "sums"                 /* one page-checksum sidecar per database */
#define LAYOUT_ORPHANS "orphans"           /* files unlinked while open, named by inode number (edgefs-fs) */
#define LAYOUT_QUARANTINE "quarantine"     /* what a replica had and its primary had not: kept, never served */
#define LAYOUT_RUN "run"                   /* sockets */
#define LAYOUT_LOCK "lock"                 /* held (flock) by the launcher of this data directory */
#define LAYOUT_ROLE "role.json"            /* who is primary, as this node last knew */
#define LAYOUT_FILTER "filter"             /* which databases this replica has, if not all (lib/filter.h) */
#define LAYOUT_HOOKS_SOCK "run/hooks.sock" /* edgefs-fs listens, edgefs-replicator connects; see hooks.h */
#define LAYOUT_POSITION_SOCK "run/position.sock" /* edgefs-replicator listens, edgefs-proxy connects; see position_feed.h */
#define LAYOUT_LAUNCHER_SOCK "run/launcher.sock" /* edgefs upgrade, edgefs stop */
#define LAYOUT_FILES_SOCK "run/files.sock"   /* edgefs-replicator listens, edgefs-ctl connects; see lend.h */

/* Names with this prefix exist for the replicator alone: ENOENT for everybody else, absent from listings. */
#define LAYOUT_PRIVATE_PREFIX ".edgefs-"

/* Suffixes of SQLite's companion files (https://sqlite.org/tempfiles.html). */
#define LAYOUT_WAL "-wal"
#define LAYOUT_SHM "-shm"
#define LAYOUT_JOURNAL "-journal"
/* Virtual: "%016x/%016x\n", TXID and database checksum of NAME. */
#define LAYOUT_POS "-pos"

/* Virtual files at the root of the mount. */
#define LAYOUT_PRIMARY ".primary" /* name of the primary, newline; absent on the primary itself */
#define LAYOUT_LAG ".lag"         /* milliseconds behind the primary, newline; 0 on the primary */

/* Longest path of a database inside the mount, bytes without NUL (it must fit a record header and a hook message). */
#define LAYOUT_NAME_MAX 1024

#endif
