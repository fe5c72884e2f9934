/* From records to databases: merges records of a database while more are at hand, shows all at once, and keeps aside those that cannot be
 * applied yet, so that one database that waits holds up no other. Used by the follower's thread only, but for apply_records_hurry. */
#ifndef EDGEFS_APPLY_RECORDS_H
#define EDGEFS_APPLY_RECORDS_H

#include "replicator/apply/apply_file.h"

#define APPLY_IN_MEMORY (4u << 20) /* payloads up to this size are handed over in memory */

struct apply;

int apply_records_open(struct node *n, struct apply **out, struct err *e);
void apply_records_close(struct apply *a);

/* A record that has just entered the log. payload: its bytes if payload_len ≤ APPLY_IN_MEMORY, else NULL (read from the log). What happens to
 * the database is never an error of this function: it is marked, and tried again. */
void apply_records_add(struct apply *a, const struct record_head *h, const uint8_t *payload);
/* Applies what was added, and sets node->applied. */
void apply_records_flush(struct apply *a);
/* True if so much was added that it should be flushed now. */
bool apply_records_full(const struct apply *a);
/* Tries databases that wait again (each 50 ms at most, or each millisecond while one waits for readers to leave; cheap if there are none). */
void apply_records_retry(struct apply *a);
/* The next apply_records_retry tries, however soon it comes. Any thread. */
void apply_records_hurry(struct apply *a);
/* After how many milliseconds that should be called; -1: no database waits. */
int apply_records_wait_ms(const struct apply *a);
/* At start: applies what is in the log and was not applied when the process ended. */
void apply_records_recover(struct apply *a);
/* The log was reset to lsn: every database named so far waits for an image from lsn + 1 on. */
void apply_records_reset(struct apply *a, uint64_t lsn);

/* This node becomes primary, and no record is being received: the transaction of db->prepared, which the application that made it may have been told to be
 * committed, is committed here: a TX record with the same payload, in the present epoch, and applied. Waits up to the monotonic time deadline_ns for readers that are in the
 * way. 0 (also if it does not continue the database's state: then it was superseded by what an image has brought), or why not. */
int apply_commit_prepared(struct apply *a, struct database *db, uint64_t deadline_ns, struct err *e);

/* Marks db as one whose pages must come as an image; records from lsn on wait for that. db->lock is held. */
void apply_needs_image(struct node *n, struct database *db, uint64_t lsn, const char *why);

/* Calls fn with each page that the TX records of db in from..to (of this node's log) hold, in order of LSN; *commit and *last become those of the
 * last such record. Stops at a record of db that is no TX: ERR_GONE. */
int apply_each_page(struct node *n, const char *name, uint64_t from, uint64_t to,
                    int (*fn)(void *ctx, uint32_t page_size, uint32_t pgno, const uint8_t *page, struct err *e), void *ctx,
                    uint32_t *commit, struct err *e);

/* The new name that a RENAME record says, into name (LAYOUT_NAME_MAX + 1 bytes); its payload in memory, or at fd/offset. 0 or -errno. */
int apply_rename_target(const struct record_head *h, const uint8_t *payload, int fd, int64_t offset, char *name);

/* Lowest LSN that some database still waits for; UINT64_MAX: none. Any thread. */
uint64_t apply_lowest_pending(struct node *n);

#endif
