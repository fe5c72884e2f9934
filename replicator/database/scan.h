/* Reading every page of a live database in one consistent state, without holding up its writers, readers or checkpoints for
 * long. The worker's tool for diffs, and the API's for checksums.
 *
 * WAL mode: a shared lock on WAL read-lock slot 4, whose read mark stays unused, keeps any writer from restarting the WAL and nothing
 * else. Under it frames only grow. So: read from the database file every page that has no frame; afterwards take mxFrame = M. State M is
 * then: for a page with a frame ≤ M its newest one; else the database file, which nobody can have overwritten before we
 * read it, because a checkpoint only writes pages that have frames. Whatever we read of a page that got its first frame meanwhile is
 * not used.
 * Without a WAL: nothing is locked at all, since even a reader's lock makes a writer fail that has no busy time-out. The file is read, and
 * counts if before and after no writer was at work and nothing had changed in between. Why that is never a torn state: a writer touches the file only under
 * PENDING or EXCLUSIVE, which it keeps until the transaction has ended, and which the two looks would see; so a transaction that is not wholly before or after
 * the reading began and ended within it, and has written. Each write gives the file the time of a clock that ticks at least every 10 ms, and the
 * first look waits until the file's present time is older than that (where times are finer, as on ext4 since Linux 6.13, this never matters). Pages that are read
 * again later must be compared with their checksums for the same reason.
 * A database that is never at rest for as long as reading takes can be read under SQLite's SHARED lock instead (SCAN_SHARED).
 */
#ifndef EDGEFS_SCAN_H
#define EDGEFS_SCAN_H

#include "replicator/node.h"

struct scan_result {
    uint32_t page_size, commit;
    uint32_t wal_mode;                         /* 1: WAL */
    uint32_t wal_salt1, wal_salt2, wal_frame;  /* M; zeroes when there is no WAL or it is empty */
    bool wal_held; /* slot 4 is held: no frame after M can be lost before scan_close */
    bool resting; /* with ERR_AGAIN_LATER: only because a journal that was left has just been written; nobody holds the database up */
    uint64_t checksum;
    struct filestamp file; /* without a WAL: of the file that was read; ctime and all the same before and after */
    uint64_t *sums; /* commit entries, page 1 first (lock page: 0); malloc'ed, owned by the result */
};

struct scan;

/* The file that fd (the backing file, about to become database db) is has these page checksums, commit of them, which are taken over: the next scan of db takes
 * them for what the file alone is, if it is that file and nobody has written to it since this call. Any thread. */
void scan_give(struct database *db, int fd, uint32_t page_size, uint32_t commit, uint64_t *sums);
void scan_forget_given(struct database *db);

enum scan_lock {
    SCAN_FREE,   /* takes no lock that a writer meets */
    SCAN_SHARED, /* without a WAL: holds SHARED until scan_close, as a reader does; writers wait, or are told that the database is locked */
};

/* Opens db through the mount (libsqlite3 recovers it first if it has to: a hot journal, a WAL that nobody has open) and reads all of it. Blocks for as long as reading takes; the caller
 * must be a thread that may call into the mount, without any database lock (db->sqlite is taken and held until scan_close). On success, with a WAL, the scan holds
 * slot 4 until scan_close. needed: for SCAN_SHARED, asked before the lock is taken and once it is held, without any lock: a no lets go of it at once, and the scan ends with
 * ERR_AGAIN_LATER. NULL otherwise.
 * ERR_NOT_DATABASE: no SQLite database (or an empty file: then commit 0 and success). ERR_AGAIN_LATER: busy, or changing too fast. */
int scan_open(struct node *n, struct database *db, enum scan_lock lock, bool (*needed)(struct database *db), struct scan **out, struct scan_result *r,
              struct err *e);
/* Reads page pgno again, into buf of page_size bytes: of the same state if there is a WAL, else as it is now. */
int scan_page(struct scan *s, uint32_t pgno, void *buf, struct err *e);
/* True if page pgno has a frame that is newer than what is common to the scan's state and st (the tracked state, with db->lock held): then the two
 * may well differ in it, and that says nothing. */
bool scan_in_flux(struct scan *s, uint32_t pgno, const struct dbstate *st);
void scan_close(struct scan *s);
void scan_result_free(struct scan_result *r);

#endif
