/* The one place where records enter the log: gives each its LSN, epoch and hybrid timestamp, and tells who waits for the log to
 * grow. One record at a time: sequencer_begin … commit or abort holds the sequencer's lock. */
#ifndef EDGEFS_SEQUENCER_H
#define EDGEFS_SEQUENCER_H

#include "lib/err.h"
#include "replicator/log/rlog.h"

struct sequencer;

int sequencer_open(struct rlog *log, struct sequencer **out, struct err *e);
void sequencer_close(struct sequencer *s);

/* The epoch that new records carry (primary). */
void sequencer_set_epoch(struct sequencer *s, uint64_t epoch);

/* Called after each record became visible, in the thread that committed it, without the sequencer's lock; must not block. At most 4;
 * registered before threads start. */
void sequencer_on_append(struct sequencer *s, void (*fn)(void *ctx), void *ctx);

/* Primary: begins a record of this type; *lsn is the one it will have. On failure nothing is held. */
int sequencer_begin(struct sequencer *s, uint8_t type, const char *name, uint64_t *lsn, struct err *e);
/* Replica: begins a received record, as it is. Its LSN must be the next. */
int sequencer_begin_received(struct sequencer *s, const struct record_head *h, struct err *e);
int sequencer_write(struct sequencer *s, const void *p, size_t n, struct err *e);
/* Ends the record and lets go of the lock, on failure too. */
int sequencer_commit(struct sequencer *s, struct err *e);
int sequencer_commit_received(struct sequencer *s, const struct record_head *h, struct err *e);
void sequencer_abort(struct sequencer *s);

/* Replica: received records that belong together; see rlog_append_group. timestamp: the last one's. */
int sequencer_append_group(struct sequencer *s, const uint8_t *bytes, size_t n, uint64_t timestamp, struct err *e);

/* Primary: from here on records get RECORD_MORE, or none do. On after sequencer_open if the log ends within a group. */
void sequencer_group(struct sequencer *s, bool on);
/* True if the last record in the log has it. */
bool sequencer_in_group(struct sequencer *s);

/* Begin, write, commit in one: payload may be NULL/0. */
int sequencer_append(struct sequencer *s, uint8_t type, const char *name, const void *payload, size_t n, uint64_t *lsn,
                     struct err *e);

/* Waits until the log's last LSN is at least lsn, at most until the monotonic time deadline_ns. 0 or -ETIMEDOUT. */
int sequencer_wait(struct sequencer *s, uint64_t lsn, uint64_t deadline_ns);

#endif
