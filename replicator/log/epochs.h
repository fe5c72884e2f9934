/* History of epochs: which epoch began with which LSN. It tells whether somebody's position (epoch, LSN) lies
 * on this node's past.
 *
 * Kept in the file "epochs" of the data directory, oldest first:
 *
 *   edgefs-epochs 1
 *   EPOCH FIRST_LSN
 *   …
 *
 * decimal numbers, one space. Epochs ascend strictly. First LSNs ascend but may repeat: an epoch that was
 * begun and ended before it had a record (a crash between the two) is empty. Numbers are at most INT64_MAX
 * (JSON has no more).
 *
 * Every function may be called from any thread; a call may wait for a write of the file by another thread, so
 * for the disk. */
#ifndef EDGEFS_EPOCHS_H
#define EDGEFS_EPOCHS_H

#include "edgefs/position.h"
#include "lib/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EPOCHS_MAX 65536u /* entries that are kept; the oldest are forgotten */
#define EPOCHS_FILE "epochs"

struct epoch_entry {
    uint64_t epoch;     /* ≥ 1 */
    uint64_t first_lsn; /* ≥ 1 */
};

struct epochs;

/* Reads the history in the folder dirfd (an ordinary descriptor of the data directory; duplicated, stays the
 * caller's); without a file it is empty. On success *out is the caller's (epochs_close). ERR_CORRUPT:
 * "epochs:LINE: what is wrong"; or -errno. */
int epochs_open(int dirfd, struct epochs **out, struct err *e);
void epochs_close(struct epochs *h); /* NULL: nothing */

/* A new epoch begins with record first_lsn. Durable when it returns 0. Repeating the current entry does
 * nothing. -EINVAL: epoch is not above the current one, first_lsn is below the current one's, or a number is
 * out of range; -errno: not written, nothing changed in memory (the file may hold the new state, see
 * durable_replace). */
int epochs_begin(struct epochs *h, uint64_t epoch, uint64_t first_lsn, struct err *e);

/* The newest entry; {0, 0} if there is none. */
struct epoch_entry epochs_current(struct epochs *h);

/* Copies the newest entries, at most max, oldest of them first. Returns how many. */
size_t epochs_newest(struct epochs *h, struct epoch_entry *list, size_t max);

/* Last LSN that belongs to epoch: UINT64_MAX for the current one, 0 if the epoch is not in the history. An
 * empty epoch: its first LSN - 1. */
uint64_t epochs_end_of(struct epochs *h, uint64_t epoch);

/* Whether p is on this history, whose last record is last_lsn: what followed p elsewhere, up to a fork,
 * follows it here. {0, 0}, the position of an empty node, always is. */
bool epochs_contains(struct epochs *h, struct position p, uint64_t last_lsn);

/* Makes list[0..n) (copied; n may be 0) the history, durably: a replica that adopts a server's. Of more than
 * EPOCHS_MAX entries the newest are kept. -EINVAL if they do not ascend; -errno as in epochs_begin. */
int epochs_replace(struct epochs *h, const struct epoch_entry *list, size_t n, struct err *e);

/* [[epoch, first_lsn], …], oldest first; a new reference, the caller's. NULL: out of memory. */
json_t *epochs_to_json(struct epochs *h);

/* The reverse, for epochs_replace: *list (malloc'ed, the caller's) and *n. -EINVAL with a message that names
 * the entry; more than EPOCHS_MAX entries are refused. json stays the caller's. */
int epochs_from_json(const json_t *json, struct epoch_entry **list, size_t *n, struct err *e);

#endif
