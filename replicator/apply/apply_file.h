/* What apply keeps open for a database on a replica. */
#ifndef EDGEFS_APPLY_FILE_H
#define EDGEFS_APPLY_FILE_H

#include "lib/walindex.h"
#include "replicator/apply/apply.h"
#include "replicator/apply/fences.h"
#include <sqlite3.h>
#include <stdbool.h>

/* Files of databases that no application has open are closed when they were not used for a while, and at once when more than this many are open. */
#define APPLY_OPEN_MAX 64u

struct apply_file {
    struct database *db;
    struct apply_file *next, *prev; /* of the open ones, last used first; guarded by the list's lock (apply.c) */
    bool open;
    bool wal;           /* WAL mode: index, wal_fd are open */
    struct fence fence;
    sqlite3 *conn;      /* recovers at open, checkpoints later (the worker, under db->sqlite) */
    struct walindex *index;
    int wal_fd;         /* through the mount */
    bool checkpointing; /* a checkpoint is queued or running */
    uint32_t checkpoint_at; /* ask for the next one when the WAL has this many frames */
    uint64_t used_ns;
    bool hold;          /* what is written now is shown by apply_tx_show: see struct apply_held */
    bool to_publish;    /* … and is `header` */
    struct walindex_header header;
    /* Rollback mode: waiting for readers to leave (apply_inplace.c). */
    bool exclusive;        /* PENDING and EXCLUSIVE are held */
    uint64_t waiting_ns;   /* PENDING is held since then, and readers are still in; 0: not */
    uint64_t let_go_ns;    /* it was given up: not before this time again */
};

struct apply_sum {
    uint32_t pgno;
    uint64_t sum;
};

/* A change of a database that is to be entered whole. */
struct apply_tx {
    uint32_t page_size, commit;
    uint64_t txid;      /* after it */
    uint64_t checksum;  /* after it */
    uint64_t first_lsn, last_lsn;
    bool same; /* the state stays: what is written is what should be there (mend.h). Not entered (ERR_AGAIN_LATER) if the state is another one by now */
    uint64_t born;      /* 0: it changes the file that is there; else the LSN of the snapshot with which a new one begins, and the pages are all of it */
    uint64_t life;      /* 0: born as it is; else what that is to be */
    /* The pages, twice in the same order: next gives 1 and the page, 0 at the end, negative: error; rewind starts over. */
    int (*next)(void *ctx, uint32_t *pgno, const uint8_t **page, struct err *e);
    int (*rewind)(void *ctx, struct err *e);
    void *ctx;
};

/* Opens db for applying, and fences it. db->sqlite and db->lock are held, in that order taken. ERR_AGAIN_LATER: somebody is in the way. */
int apply_file_open(struct node *n, struct database *db, struct err *e);
/* Closes and lets go of the fence. db->sqlite and db->lock are held. */
void apply_file_close(struct node *n, struct database *db);

/* True if the file's header says WAL, or there is one. */
int file_is_wal_mode(struct node *n, struct database *db, bool *wal, struct err *e);

/* Enters tx: verifies the checksum first, writes, publishes, and updates the sidecar. Takes the locks that it needs; the usual case, a
 * database that is open in WAL mode, needs db->lock only, so that no record waits for a checkpoint. Any error leaves the database
 * as it was: ERR_AGAIN_LATER (readers in the way, rollback mode), ERR_CHECKSUM (needs an image), -ENOSPC … */
int apply_tx_run(struct node *n, struct database *db, const struct apply_tx *tx, struct err *e);

/* What is to be seen in several databases at once: each is written (apply_tx_begin) and hidden, all are shown (apply_tx_show), and each is entered into its sidecar (apply_tx_end).
 *   - with a WAL: its frames are not published;
 *   - without one, and open here: PENDING and EXCLUSIVE stay locked;
 *   - open nowhere: whoever opens it waits for db->lock.
 * From begin to end db->lock is held, and db->sqlite too unless it is open in WAL mode. Several are held at a time: by the follower's thread alone, which waits for nobody who could wait
 * for one of these. */
struct sums_list {
    struct apply_sum *v;
    uint32_t n, size;
};
struct apply_held {
    struct database *db;
    const struct apply_tx *tx;
    struct sums_list sums;
    struct dbstate st;
    bool sqlite;
};
enum apply_pass {
    APPLY_PASS_SLOW, /* those that are not open in WAL mode: first, for they may take a while */
    APPLY_PASS_WAL,
};
/* 0: held. APPLY_OTHER_PASS: nothing has happened, it is the other pass's; APPLY_ALONE: nor here, only apply_tx_run can do it (a file that is put in place, a change of mode). Else an
 * error as of apply_tx_run; nothing is held. */
#define APPLY_OTHER_PASS 1
#define APPLY_ALONE 2
int apply_tx_begin(struct node *n, struct database *db, const struct apply_tx *tx, enum apply_pass pass, struct apply_held *held, struct err *e);
/* Those of v that have a db. */
void apply_tx_show(const struct apply_held *v, size_t n);
int apply_tx_end(struct node *n, struct apply_held *held, struct err *e);

/* A database that is not there, or another one than the one that is: writes it beside and puts it in place. db->sqlite and db->lock are held. */
int apply_create(struct node *n, struct database *db, const struct apply_tx *tx, struct err *e);
/* The file `temp` (a private name in the mount, beside db) becomes the database, whatever bears its name now and whatever is in that: it is not opened with SQLite.
 * Connections that have the old file open keep it, and their snapshot; the next open finds the new one. db->sqlite and db->lock are held. ERR_AGAIN_LATER: it is just
 * being opened. On failure the old file still has the name, perhaps without the last changes that were in its WAL; the new one is still called temp. */
int apply_put(struct node *n, struct database *db, const char *temp, struct err *e);
/* Removes WAL, wal-index and journal of what is about to be replaced: a WAL that stayed would be taken for that of the new file. Connections that have them open
 * keep them. */
int apply_remove_companions(struct node *n, const struct database *db, struct err *e);
/* The file here is not what it should be: its pages are read and compared, or replaced as a whole, and an image is asked for. db->lock is held. */
void apply_distrust(struct node *n, struct database *db);
/* True if the file is not as it was left here, though nobody but replication may write it (it alone must be the state, and known: see struct filestamp). Reads it if
 * its times have changed, up to 256 MiB; above that times count. Then apply_distrust was called. db->lock is held. */
bool apply_spoilt(struct node *n, struct database *db);
/* Removes the database and its companions from the mount. db->sqlite and db->lock are held. */
int apply_remove(struct node *n, struct database *db, struct err *e);

/* The database `from` is called `to` from record lsn on; one that is called so is replaced. Takes all locks. ERR_AGAIN_LATER: somebody is in the way, nothing
 * has changed; ERR_GONE: there is nothing here that could be renamed. */
int apply_rename(struct node *n, struct database *from, struct database *to, uint64_t lsn, struct err *e);
/* At the start, once edgefs-fs knows us: of databases whose files were being moved when a predecessor was killed (moving_to), those that had moved get their old
 * names back. The record is applied later, as any other. */
void apply_finish_moves(struct node *n);
/* Removes the directories that name lies in, as far as they are empty. */
void apply_remove_parents(struct node *n, const char *name);

/* A database without a WAL that an application left in the middle of a transaction, when this node was primary: libsqlite3 rolls it back. Before anything is written
 * into the file, and before the fence makes everybody believe that the transaction is still going on. 0 (also if there is nothing to do), ERR_AGAIN_LATER, -EIO,
 * -ENOSPC. Locks as for apply_file_open. */
int apply_file_roll_back(struct node *n, struct database *db, struct err *e);
/* Opens libsqlite3's connection of an open file (again). Locks as for apply_file_open. */
int apply_file_connect(struct node *n, struct database *db, struct err *e);

/* Makes the directories that name lies in; *parent is the last one's stat. */
struct stat;
int apply_make_parents(struct node *n, const char *name, struct stat *parent, struct err *e);

/* apply_wal.c, apply_inplace.c: the two ways to write, with the file open. On success *st's WAL position is set. */
int apply_wal_write(struct node *n, struct database *db, const struct apply_tx *tx, struct dbstate *st, struct err *e);
int apply_inplace_write(struct node *n, struct database *db, const struct apply_tx *tx, struct err *e);
/* Rollback mode: takes PENDING and EXCLUSIVE, as apply_inplace_write does. Does not wait for readers: while they are in, PENDING stays (no new ones get in) and the
 * result is ERR_AGAIN_LATER; after `apply-wait` it is let go for as long, and the message says so. db->sqlite and db->lock are held. */
int apply_inplace_lock(struct node *n, struct database *db, struct err *e);
/* Gives up both. Not while the file is torn. */
void apply_inplace_unlock(struct database *db);
/* True while it waits with PENDING held: to be tried again very soon, nothing to speak of yet. db->lock is held. */
bool apply_inplace_waits(const struct database *db);

#endif
