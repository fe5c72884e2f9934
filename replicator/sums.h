/* The sidecar of a database: its page checksums and the state that they describe, memory-mapped from <data>/sums/. The array is
 * what makes every diff cheap: 8 bytes a page.
 *
 * Crash safety. A change of state goes sums_begin (header names the LSNs that are being entered) → sums_set … → sums_commit. A process
 * that is killed in between leaves `updating` ≠ `state.lsn`: whoever opens the file sees it (sums_unfinished) and enters those log records again,
 * which is idempotent because a record carries whole pages. A machine that stops without warning may leave any mixture of old and new
 * pages of the file: then neither the clean mark nor the boot id fits, and the caller must not believe the array before
 * it has been compared with the database (sums_trusted).
 *
 * File: 4,096 bytes of struct sums_file_header (host byte order; the file never leaves the machine), then one u64 a page.
 * Not thread-safe: the database's lock protects it. */
#ifndef EDGEFS_SUMS_H
#define EDGEFS_SUMS_H

#include "lib/err.h"
#include <stdbool.h>
#include <stdint.h>

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
    uint32_t reserved;    /* 0 */
};

struct sums;

/* Opens, or creates empty, the sidecar of database name in the directory dirfd. A damaged or foreign file is started afresh (empty state). */
int sums_open(int dirfd, const char *name, struct sums **out, struct err *e);
/* Closes; clean: the state is the truth about the database and nobody will change it before the next open. */
void sums_close(struct sums *s, bool clean);
/* Calls fn with the database name of every sidecar in the directory dirfd. Stops at the first non-zero return, which it returns; or -errno. */
int sums_each(int dirfd, int (*fn)(void *ctx, const char *name), void *ctx);
/* Removes the sidecar of name; absent is fine. */
void sums_remove(int dirfd, const char *name);

const struct dbstate *sums_state(const struct sums *s);
/* The file was closed clean, or last written since this boot. */
bool sums_trusted(const struct sums *s);
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
void sums_set(struct sums *s, uint32_t pgno, uint64_t checksum);
/* Ends it: state becomes *st; entries beyond st->commit are forgotten. */
void sums_commit(struct sums *s, const struct dbstate *st);
/* Changes the state where no page changed (WAL position, LSN). */
void sums_touch(struct sums *s, const struct dbstate *st);

/* XOR of all entries 1..commit but the lock page, bit 63 set. */
uint64_t sums_total(const struct sums *s, uint32_t commit, uint32_t page_size);

#endif
