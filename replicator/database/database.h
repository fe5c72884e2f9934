/* The databases of a node: one struct database for each file in the mount that is, or may be, an SQLite database.
 *
 * Objects live from their first sight until the registry closes: a dropped database keeps its object (state DATABASE_ABSENT), so a pointer
 * never dangles. Fields below `lock` are guarded by it; order of locks: database.lock before the sequencer's. Who needs two of them takes that
 * of the lower address first (database_lock_two).
 *
 * Ten thousand databases of which few are in use: an idle one costs this object and nothing else. Its sidecar is mapped while it is used
 * (database_load), and of those only the last DATABASES_LOADED used ones: `sums` may be NULL again whenever the lock was let go. */
#ifndef EDGEFS_DATABASE_H
#define EDGEFS_DATABASE_H

#include "edgefs/layout.h"
#include "lib/err.h"
#include "replicator/database/sums.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum database_state {
    DATABASE_UNKNOWN, /* seen, not looked at yet */
    DATABASE_OK,
    DATABASE_OTHER,   /* not an SQLite database: kept locally, not replicated */
    DATABASE_IMAGE,   /* replica: its pages must come as an image */
    DATABASE_WAITING, /* a change cannot be applied, or captured, yet; warning says why; tried again */
    DATABASE_DAMAGED,
    DATABASE_ABSENT, /* dropped, or not there yet */
};
const char *database_state_name(enum database_state s); /* as docs/api.md has it */

/* One remembered change, for GET /v1/databases?lsn=N. */
struct database_past {
    uint64_t lsn, txid, checksum;
    uint32_t commit;
    uint64_t first; /* LSN of the first record that led to it: a replica that is behind enters several as one */
};
#define DATABASE_PAST 4096u /* entries, a power of two; the array grows up to that as changes come */
#define DATABASES_LOADED 256u /* sidecars that are mapped at a time (more, while more are locked) */

struct capture_file; /* replicator/capture/capture.c: what capture keeps open for a database */
struct apply_file;   /* replicator/apply/apply.c */

struct database {
    const char *name; /* constant */
    pthread_mutex_t lock;
    /* Held around every use of libsqlite3 on this database, and around every close(2) of a descriptor of its files: closing ANY
     * descriptor of a file drops all POSIX locks that this process has on it, those of libsqlite3 too (fcntl(2)). Order: before `lock`. Recursive. */
    pthread_mutex_t sqlite;
    enum database_state state;
    const char *warning; /* empty: none; up to 255 bytes, its own */
    struct sums *sums;   /* NULL: not mapped now; database_load */
    struct dbstate idle; /* the state while it is not mapped */
    bool touched;        /* its sidecar may have been written since the process started */
    bool spoilt;         /* replica: somebody else has written its file: nobody is to open it before an image has come */
    bool stray;          /* replica: written by somebody else than replication, which is to be kept before anything is written over it: stray.h */
    bool doubtful;       /* commits of this database wait for replicas, and it may hold one that is not the cluster's: this node was primary when it ended
                          * (takeover_doubt), or it is a stray's. Nobody opens it before that is known */
    bool apps_open;      /* applications have it open, as edgefs-fs last said */
    uint64_t pending;    /* replica: LSN of the first record that is in the log and not applied here; 0: none. database_set_pending */
    uint64_t prepared;   /* LSN of a PREPARE record that nothing in the log has superseded or aborted yet; 0: none */
    uint64_t unproven;   /* LSN of a record whose transactions may not have waited for replicas as they should (capture_sync.c); 0: none */
    uint64_t covered, lacks; /* at start only: pending.c */
    /* Replica, at its start: what it was to be called when a predecessor was killed while it moved the files; some of them may be there already. And that one: itself.
     * Neither is opened before apply_finish_moves. */
    struct database *moving_to;
    uint32_t damaged, damaged_page; /* pages that changed on the disk by themselves and are not mended, and the first of them: scrub.c. 0: none known */
    struct database_past *past;
    uint64_t past_count; /* entries ever written; newest at (past_count - 1) % past_size */
    uint32_t past_size;  /* entries of the array, a power of two */
    struct capture_file *capture;
    struct apply_file *apply;
    struct scan_given *given; /* scan.c */
    void *merge;  /* follower's thread: apply_records.c */
    uint32_t opens_told; /* capture's thread: the connection to edgefs-fs that last said that it is open */
    bool watched; /* capture's thread: its files are watched (filewatch.h) */
    /* guarded by the registry's lock of its lists */
    struct database *next_loaded, *prev_loaded, *next_pending, *prev_pending;
};

struct databases;

/* sums_dirfd stays the caller's and open. */
int databases_open(int sums_dirfd, struct databases **out, struct err *e);
/* No other thread uses any database any more. */
void databases_close(struct databases *d);
/* Makes what was written since the process started durable: sidecars, and the database files (in db_dirfd) that they vouch for. Blocks for as long as the
 * disk needs, but begins nothing after the monotonic time deadline_ns. 0, -ETIMEDOUT or -errno. */
int databases_sync(struct databases *d, int db_dirfd, uint64_t deadline_ns);

/* The object of name, made on first use. NULL with e set: name not allowed (see record_head_decode), table full (1,000,000) or no memory. */
struct database *databases_get(struct databases *d, const char *name, struct err *e);
/* The object if there is one, else NULL. */
struct database *databases_find(struct databases *d, const char *name);

/* Calls fn for each, sorted by name; no lock of the registry is held meanwhile. Stops at the first non-zero return, which it returns. */
int databases_each(struct databases *d, int (*fn)(void *ctx, struct database *db), void *ctx);

/* Databases that have `pending` set: lowest LSN (UINT64_MAX: none); and a list, malloc'ed, of *n (NULL: no memory, or none). Any thread. */
uint64_t databases_lowest_pending(struct databases *d);
struct database **databases_pending(struct databases *d, size_t *n);

/* Takes the locks of two different databases, in the order that all keep. */
void database_lock_two(struct database *a, struct database *b);

/* What stat(2) says of name now; zeroes if there is no such file. No call into the mount. */
struct filestamp database_stamp(int db_dirfd, const char *name);
struct stat;
struct filestamp filestamp_of(const struct stat *st);
bool filestamp_same(const struct filestamp *a, const struct filestamp *b);
/* The same but for the change time, which a rename moves, too. */
bool filestamp_same_contents(const struct filestamp *a, const struct filestamp *b);

/* True if path can be a database: not a companion (-wal, -shm, -journal, -pos), virtual or private name. */
bool database_name_possible(const char *path);

/* Its name as one segment of a URL, percent-encoded, into url of size bytes. Length. */
size_t database_url_name(const struct database *db, char *url, size_t size);

/* ---- with db->lock held ---- */

/* Maps the sidecar if it is not. */
int database_load(struct databases *d, struct database *db, struct err *e);
/* At start, before threads: what the header of its sidecar says. */
void database_know(struct database *db, const struct dbstate *st);
/* The WAL is gone, or holds nothing that is not in the database file: that alone is the state from now on. stamp: it was looked at when
 * that was so; NULL: not known. */
void database_settle(struct databases *d, struct database *db, const struct filestamp *stamp);
/* True if the file alone was the state, and nobody has written it since: whoever had it open has only read. Then nothing that a WAL has had is missing here (it would have been
 * copied into the file), and what one has now is new: its place in a WAL is forgotten. db->lock is held. */
bool database_untouched(struct databases *d, struct database *db, int db_dirfd);
/* lsn 0: nothing is pending. */
void database_set_pending(struct databases *d, struct database *db, uint64_t lsn);
/* The state, sidecar and all, becomes that of `to` (whose own is forgotten); db is ABSENT then. Both are locked. The record has the LSN lsn, and is in
 * the log. */
int database_rename(struct databases *d, struct database *db, struct database *to, uint64_t lsn, struct err *e);
/* State as last captured or applied; a zeroed one when nothing is known. */
const struct dbstate *database_dbstate(const struct database *db);
/* Remembers the present state under its LSN. */
void database_remember(struct database *db, uint64_t first_lsn);
/* As it was at LSN lsn: 0; ERR_GONE when that was too long ago, or was never seen by itself (database_past.first). An LSN before the first change: zeroed (absent). */
int database_past_at(const struct database *db, uint64_t lsn, struct database_past *out);
/* The database is gone: sidecar removed, state ABSENT, remembered as of lsn. */
void database_forget(struct databases *d, struct database *db, uint64_t lsn);
/* Sets state and warning (printf), logging a change once. fmt NULL clears the warning. */
void database_mark(struct database *db, enum database_state s, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
