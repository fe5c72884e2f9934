/* Databases that are written without a journal on the disk (PRAGMA journal_mode=MEMORY or OFF): when does one hold a committed state?
 *
 * Nothing tells a transaction's end, and with locking_mode=EXCLUSIVE the lock is never let go. But unless PRAGMA synchronous is OFF, SQLite syncs the database file as the last thing
 * of a commit, and of a rollback that had something to take back (pager.c, sqlite3PagerCommitPhaseOne and pager_playback); in the middle of a transaction it never does. So what the file
 * holds at an fsync is a committed state, and stays one until the next write. What may follow is a truncation to the size of that state (pager_truncate, after a
 * commit that made the database smaller). (In a transaction over several databases each is synced on its own; if a later one fails, an earlier one holds what is taken back
 * a moment later.) The replicator is told of both (HOOK_AT_REST) with the size and times that the file has then, and may read the file, lock or no lock,
 * as long as these stay the same (replicator/database/scan.c).
 *
 * A write that follows must change the modification time. Kernels before Linux 6.13 take it from a clock that ticks every few ms; so the file gets the time of a finer one here,
 * which no tick has. */
#ifndef EDGEFS_FS_ATREST_H
#define EDGEFS_FS_ATREST_H

#include "fs/fs.h"

/* An application on the primary, its thread tid, has synced the database, successfully, and still waits. Does nothing if a WAL, or a journal that is valid, lies beside it: that tells more. Any thread,
 * without a lock. */
void atrest_synced(struct fs *fs, fuse_ino_t ino, pid_t tid);
/* … has truncated the database, which was as `before` says; before.st_ino 0: not known, and then nothing is told. */
void atrest_cut(struct fs *fs, fuse_ino_t ino, const struct stat *before, pid_t tid);

#endif
