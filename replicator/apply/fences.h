/* The fence of a database: the SQLite write locks that keep every local application from writing, held as open file description
 * locks: WAL_WRITE and RESERVED, and SHARED and the wal-index's DMS so that nobody takes the WAL away.
 *
 * The launcher keeps duplicates of the descriptors, so the locks outlive this process: the next replicator gets them back. That is also
 * why letting go means unlocking: closing would not do. When the launcher is killed this process keeps them (linger.h). */
#ifndef EDGEFS_FENCES_H
#define EDGEFS_FENCES_H

#include "replicator/node.h"

struct fences;

struct fence {
    int db_fd;  /* NAME through the mount, read-write; -1: no fence */
    int shm_fd; /* NAME-shm through the mount; -1 in rollback mode */
    bool kept;  /* the launcher has it */
};

/* Connects to the launcher (EDGEFS_LAUNCHER_FD; without it nothing is kept) and takes over what it keeps. */
int fences_open(struct node *n, struct fences **out, struct err *e);
void fences_close(struct fences *f);
/* Descriptor that becomes readable (end of file) when the launcher is gone; -1 without one. Nothing else may read it. */
int fences_launcher_fd(const struct fences *f);
/* Tells the launcher that this program is ready. */
void fences_ready(struct fences *f);

/* Takes over the fence of db that a predecessor left, if there is one and it still fits. db->sqlite is held. */
bool fence_take_over(struct node *n, struct database *db, bool wal, struct fence *out);

/* Takes the fence of db, waiting for writers that are at work until the monotonic time deadline_ns. wal: NAME-shm exists and is locked too. Calls
 * into the mount; with db->sqlite held. ERR_AGAIN_LATER: somebody is still writing. */
int fence_take(struct node *n, struct database *db, bool wal, uint64_t deadline_ns, struct fence *out, struct err *e);
/* Lets go. db->sqlite is held. */
void fence_drop(struct node *n, struct database *db, struct fence *f);
/* True if a predecessor left a fence of this database and nobody took it over yet. */
bool fence_left(struct node *n, const struct database *db);
/* Lets go of one that a predecessor left, if there is one: the file that it belongs to has lost its name. db->sqlite is held. */
void fence_drop_left(struct node *n, const struct database *db);
/* The database that it belongs to has another name: the launcher is told. db->sqlite of both is held. */
void fence_rename(struct node *n, const struct database *from, const struct database *to, struct fence *f);
/* At the start, once sidecars are loaded and nobody uses a fence yet: what a predecessor left belongs to files, and those may have got other names before it was
 * killed: then the fence gets the file's name, here and at the launcher. And it may have left readers locked out, in the middle of a rename, or after a change in
 * rollback mode: they are let in, unless the change was not whole, or the files are not all where they belong (apply_finish_moves). */
void fences_settle(struct node *n);
/* Lets go of what predecessors left and nobody took over. */
void fences_drop_rest(struct node *n);

#endif
