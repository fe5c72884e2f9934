/* The databases of a node: one struct database for each file in the mount that is, or may be, an SQLite database.
 *
 * Objects live from their first sight until the registry closes: a dropped database keeps its object (state DATABASE_ABSENT), so a pointer
 * never dangles. Fields below `lock` are guarded by it; order of locks: database.lock before the sequencer's. */
#ifndef EDGEFS_DATABASE_H
#define EDGEFS_DATABASE_H

#include "edgefs/layout.h"
#include "lib/err.h"
#include "replicator/sums.h"
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
};
#define DATABASE_PAST 4096u /* entries, a power of two; allocated when the database first changes */

struct capture_file; /* replicator/capture.c: what capture keeps open for a database */
struct apply_file;   /* replicator/apply.c */

struct database {
    char name[LAYOUT_NAME_MAX + 1]; /* constant */
    pthread_mutex_t lock;
    /* Held around every use of libsqlite3 on this database, and around every close(2) of a descriptor of its files: closing ANY
     * descriptor of a file drops all POSIX locks that this process has on it, those of libsqlite3 too (fcntl(2)). Order: before `lock`. Recursive. */
    pthread_mutex_t sqlite;
    enum database_state state;
    char warning[256];   /* empty: none */
    struct sums *sums;   /* NULL until database_load */
    bool apps_open;      /* applications have it open, as edgefs-fs last said */
    uint64_t pending;    /* replica: LSN of the first record that is in the log and not applied here; 0: none */
    struct database_past *past;
    uint64_t past_count; /* entries ever written; newest at (past_count - 1) % DATABASE_PAST */
    struct capture_file *capture;
    struct apply_file *apply;
};

struct databases;

/* sums_dirfd stays the caller's and open. */
int databases_open(int sums_dirfd, struct databases **out, struct err *e);
/* clean: states are the truth (orderly stop). No other thread uses any database any more. */
void databases_close(struct databases *d, bool clean);

/* The object of name, made on first use. NULL with e set: name not allowed (see record_head_decode), table full (1,000,000) or no memory. */
struct database *databases_get(struct databases *d, const char *name, struct err *e);
/* The object if there is one, else NULL. */
struct database *databases_find(struct databases *d, const char *name);

/* Calls fn for each, sorted by name; no lock of the registry is held meanwhile. Stops at the first non-zero return, which it returns. */
int databases_each(struct databases *d, int (*fn)(void *ctx, struct database *db), void *ctx);

/* True if path can be a database: not a companion (-wal, -shm, -journal, -pos), virtual or private name. */
bool database_name_possible(const char *path);

/* ---- with db->lock held ---- */

/* Opens the sidecar if it is not. */
int database_load(struct databases *d, struct database *db, struct err *e);
/* State as last captured or applied; a zeroed one when nothing is known. */
const struct dbstate *database_dbstate(const struct database *db);
/* Remembers the present state under its LSN. */
void database_remember(struct database *db);
/* As it was at LSN lsn: 0; ERR_GONE when that was too long ago. An LSN before the first change: zeroed (absent). */
int database_past_at(const struct database *db, uint64_t lsn, struct database_past *out);
/* The database is gone: sidecar removed, state ABSENT, remembered as of lsn. */
void database_forget(struct databases *d, struct database *db, uint64_t lsn);
/* Sets state and warning (printf), logging a change once. fmt NULL clears the warning. */
void database_mark(struct database *db, enum database_state s, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
