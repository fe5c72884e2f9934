/* NAME-shm and NAME-wal of one database, open together. The wal-index is opened through the mount, always: its locks live in the
 * mount's inode, and without passthrough its pages do too. The WAL is read from the backing file, so that reading it can never wait for
 * a lock of the mount's inode. */
#ifndef EDGEFS_WALVIEW_H
#define EDGEFS_WALVIEW_H

#include "lib/walindex.h"
#include "replicator/node.h"

struct walview {
    int shm_fd; /* through the mount, DMS held shared */
    int wal_fd; /* backing file */
    struct walindex *index;
    struct wal_header header; /* of the WAL file, as of the last walview_header */
    bool slot4;               /* read-lock slot 4 is held: no writer restarts the WAL */
    bool no_index;            /* walview_open failed because nobody has a wal-index in shm: walframes.h */
};

/* Opens both. ERR_AGAIN_LATER: one of them is not there (yet), or too short. Calls into the mount; not from capture's thread. */
int walview_open(struct node *n, struct database *db, bool writable, struct walview *v, struct err *e);
/* Opens NAME-wal alone, for walframes_read; shm_fd is -1 and index NULL. No call into the mount. */
int walview_open_frames(struct node *n, const struct database *db, struct walview *v, struct err *e);
/* Takes db->sqlite for the closing; not from capture's thread. */
void walview_close(struct database *db, struct walview *v);
/* The same without ever waiting: if somebody uses libsqlite3 on the database now, the worker closes it later. Any thread that may call into the
 * mount. */
void walview_put_away(struct node *n, struct database *db, struct walview *v);
/* For who holds db->sqlite already. */
void walview_close_held(struct walview *v);

/* True while the view's WAL is the one that NAME-wal names now. Asks edgefs-fs for attributes, which needs no lock
 * of a directory. */
bool walview_current(const struct node *n, const struct database *db, const struct walview *v);

/* True if NAME-shm exists, whoever may have left it. No call into the mount; any thread. */
bool walview_has_shm(const struct node *n, const struct database *db);
/* True if NAME-wal exists. No call into the mount; any thread. */
bool walview_exists(const struct node *n, const struct database *db);

/* Holds, or lets go of, slot 4 (any thread). -EAGAIN: a writer is restarting the WAL, or a reader moves its mark, right now. */
int walview_hold(struct walview *v);
void walview_release(struct walview *v);

/* An empty WAL whose wal-index does not say how large the database is makes every read transaction ask for the file's size (pager.c,
 * pagerPagecount), which is a round trip to edgefs-fs. So say it: the state is the one that a restart of the WAL leaves behind. Page size and
 * length are those of the file itself. The caller holds WAL_WRITE as the fence of a replica (fenced: no application begins to write there), or every reader and writer is
 * locked out for a moment, without waiting. slot4_is_ours: shm_fd holds that slot now. index must be writable. False: somebody reads or writes; try again later. */
bool walview_say_size(const struct node *n, const struct database *db, struct walindex *index, int shm_fd, bool fenced, bool slot4_is_ours);

/* Reads the WAL file's header into v->header: 0, or ERR_AGAIN_LATER (empty, or being written). */
int walview_header(struct walview *v);

#endif
