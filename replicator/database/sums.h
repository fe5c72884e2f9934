/* The sidecar of a database: its page checksums and the state that they describe, memory-mapped from <data>/sums/. The array is
 * what makes every diff cheap: 8 bytes a page.
 *
 * Crash safety. A change of state goes sums_begin (header names the LSNs that are being entered) → sums_set … → sums_commit. A process
 * that is killed in between leaves `updating` ≠ `state.lsn`: whoever opens the file sees it (sums_unfinished) and enters those log records again,
 * which is idempotent because a record carries whole pages. A machine that stops without warning may leave any mixture of old and new
 * pages of the file: startup.c knows whether that has happened, and then believes no array before its sum was compared, and no file stamp.
 *
 * Whether the database file is still the one that the array describes is told by `file`, without reading a page of it: see struct filestamp.
 *
 * File: 4,096 bytes of struct sums_file_header (host byte order; the file never leaves the machine), then one u64 a page.
 * Not thread-safe: the database's lock protects it. */
#ifndef EDGEFS_SUMS_H
#define EDGEFS_SUMS_H

#include "edgefs/layout.h"
#include "lib/err.h"
#include <stdbool.h>
#include <stdint.h>

/* What stat(2) says of a database file at a moment when it alone (no WAL with frames) was the state: the same again means that nobody has
 * written it since. Times are those that the kernel gives, ctime included, which no utimes(2) can set back. Since Linux 6.13 two changes
 * never have the same time if somebody looked in between; before, one that follows our look within the same tick (4 ms) and is not captured
 * either (the process was killed in between) would go unnoticed. Zeroes: not known, so pages are compared. */
struct filestamp {
    uint64_t ino;
    int64_t size;
    int64_t mtime_ns, ctime_ns;
};

/* What a node knows of a database: the result of the last record that was captured or applied. */
struct dbstate {
    uint32_t page_size; /* bytes; 0: nothing is known yet */
    uint32_t commit;    /* pages */
    uint64_t txid;
    uint64_t checksum; /* database checksum; CHECKSUM_FLAG alone for an empty database */
    uint64_t lsn;      /* of that record */
    /* How far that state reaches in the WAL: all frames up to wal_frame of the generation with these salts. 0,0,0: the
     * database file alone is that state. */
    uint32_t wal_salt1, wal_salt2, wal_frame;
    uint32_t wal_mode;    /* 1: header says WAL, 0: rollback journal */
    uint32_t needs_image; /* replica: 1: this copy cannot be continued from the log */
    uint32_t torn;        /* replica: 1: see sums_mark_torn */
    /* Which file it is. A name may come to stand for another file (a rename over it, cp into it), and whoever has the old one open must not be given the new
     * one's pages one by one: two databases may have the same schema cookie, by which connections tell that their picture of it is stale. */
    uint64_t born;  /* LSN of the record with which this file's pages began, on every node the same; 0: not known */
    uint64_t inode; /* of the file that was last compared; 0: not known */
    struct filestamp file; /* known only while the database file alone is the state; whoever enters a change that says nothing of it clears it */
};

struct sums;

/* What the header of a sidecar says: all that is needed of a database that nobody uses. */
struct sums_info {
    char name[LAYOUT_NAME_MAX + 1];
    struct dbstate state;
    bool unfinished;                     /* see sums_unfinished */
    uint64_t rename_lsn;                 /* see sums_begin_rename; 0: none */
    char rename_to[LAYOUT_NAME_MAX + 1]; /* "" : none */
    bool moving;                         /* see sums_begin_rename */
};

/* Opens, or creates empty, the sidecar of database name in the directory dirfd. A damaged or foreign file is started afresh (empty state). */
int sums_open(int dirfd, const char *name, struct sums **out, struct err *e);
void sums_close(struct sums *s);
/* Calls fn with the header of every sidecar in the directory dirfd, mapping none. Stops at the first non-zero return, which it returns; or -errno. */
int sums_each(int dirfd, int (*fn)(void *ctx, const struct sums_info *info), void *ctx);
/* Removes the sidecar of name; absent is fine. */
void sums_remove(int dirfd, const char *name);
/* Makes the sidecar of name durable, if there is one. 0 or -errno. */
int sums_sync(int dirfd, const char *name);

/* A rename of the database, in two steps around the record that says so: sums_begin_rename notes where it goes and the LSN that the record will
 * have (so that whoever is killed in between leaves word of what is to be finished, or was not begun: the log tells which), sums_rename
 * then makes it the sidecar of `to`, replacing that one's, sets its LSN, and clears the note. The sidecar of `to` must not be open.
 * moves: the files are moved now, by the caller, WAL and wal-index first, the database last; no companion of `to` was there before. */
void sums_begin_rename(struct sums *s, const char *to, uint64_t lsn, bool moves);
int sums_rename(int dirfd, struct sums *s, const char *to, struct err *e);

const struct dbstate *sums_state(const struct sums *s);
/* True if a change was being entered when the writer died: records from..to. */
bool sums_unfinished(const struct sums *s, uint64_t *from, uint64_t *to);

/* Checksum of page pgno (1-based); 0 if pgno is beyond the array or was never set. */
uint64_t sums_get(const struct sums *s, uint32_t pgno);
/* The array, page 1 first; *n entries. Valid until the next sums_begin. */
const uint64_t *sums_array(const struct sums *s, uint32_t *n);

/* Room for a database of commit pages: allocates (never sparse: a full disk is an error here, not a SIGBUS later). On failure nothing has
 * changed. */
int sums_reserve(struct sums *s, uint32_t commit, struct err *e);
/* Begins a change that makes the database commit pages long, reserving first. Whoever dies between this and sums_commit leaves word that the change IS
 * in the database (replica) or in the log (primary): so not before that is so. Cannot fail after a sums_reserve of as much. */
int sums_begin(struct sums *s, uint64_t from_lsn, uint64_t to_lsn, uint32_t commit, struct err *e);
/* Pages of the database file itself are about to be written (a replica, in place): no stamp counts. Until sums_commit (or until a state with torn 0 is set) the file may be
 * torn, and nobody may read it before the change was entered again. */
void sums_mark_torn(struct sums *s);
void sums_set(struct sums *s, uint32_t pgno, uint64_t checksum);
/* Ends it: state becomes *st; entries beyond st->commit are forgotten. */
void sums_commit(struct sums *s, const struct dbstate *st);
/* Changes the state where no page changed (WAL position, LSN). */
void sums_touch(struct sums *s, const struct dbstate *st);

/* XOR of all entries 1..commit but the lock page, bit 63 set. */
uint64_t sums_total(const struct sums *s, uint32_t commit, uint32_t page_size);

#endif
