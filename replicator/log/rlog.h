/* The replication log: <data>/log/<first LSN, 16 hex digits>.log, segments of records (edgefs/record.h), append only.
 *
 * One writer at a time (whoever captures, or whoever receives: the caller sees to that), any number of readers in any thread. A record is visible
 * to readers when rlog_commit has returned, and whole from then on. */
#ifndef EDGEFS_RLOG_H
#define EDGEFS_RLOG_H

#include "edgefs/record.h"
#include "lib/err.h"
#include <stdbool.h>
#include <stdint.h>

struct rlog;

struct rlog_options {
    uint64_t segment_size;     /* bytes; a new segment begins when the next record would not fit; one record may exceed it */
    uint64_t retention_bytes;  /* 0: no limit */
    uint64_t retention_age_ms; /* 0: no limit */
    bool whole_groups; /* recovery cuts off a group (RECORD_MORE) that the log ends within; else it stays, and is to be gone on with */
    /* Called before a segment begins that may take so many bytes, by who writes, without a lock of the log's: the place to call rlog_make_room. NULL: nobody. */
    void (*segment_begins)(void *ctx, uint64_t bytes);
    void *ctx;
};

/* Opens (creating) the log in directory dir. Scans the segments that a crash may have hurt (those that are not sealed, that is closed, durable
 * and read-only; always the last one; and, should they hold no whole record, the one before) and cuts the log at the first record that does
 * not check (header CRC, payload CRC, LSN not the successor): says in a warning what was cut. What is left is durable when it returns.
 * Sealed segments are trusted but for their first header: damage there is ERR_CORRUPT naming file and offset; damage further in, or a
 * gap, is found when it is read. Blocks for the disk: some 50 ms if the files are in memory. */
int rlog_open(const char *dir, const struct rlog_options *o, struct rlog **out, struct err *e);
/* Aborts a record that was begun, makes everything durable, frees. Nobody may use l any more; cursors may still be closed. NULL: nothing. */
void rlog_close(struct rlog *l);

/* Position of the last record; {0,0} when the log is empty and was never reset. Any thread, no lock taken by readers for long. */
struct position rlog_last(struct rlog *l);
/* LSN of the oldest record that is kept; rlog_last().lsn + 1 if none is. */
uint64_t rlog_first(struct rlog *l);
uint64_t rlog_bytes(struct rlog *l);

/* Empties the log: the next record must be pos.lsn + 1. Old segments are deleted. Durable before it returns. The writer's: not while another
 * thread appends. All cursors get ERR_GONE. On failure either nothing has happened (rlog_last is as before) or the log is empty
 * and the rest of the work is tried again by the next rlog_begin. */
int rlog_reset(struct rlog *l, struct position pos, struct err *e);

/* Appending. rlog_begin takes type, flags, name, epoch, LSN (must be last + 1) and timestamp of *h (copied); then the payload in
 * pieces; then rlog_commit computes payload length and CRC, writes the header and makes the record visible. Small records cost one pwrite
 * (buffered up to 256 KiB), large ones are written through in pieces of that size, header last. rlog_abort (or a failed write: -ENOSPC …)
 * leaves the log as it was before rlog_begin. If h->payload_crc/len are expected values (a received record) pass them to rlog_commit_expect,
 * which refuses (ERR_CORRUPT, record aborted) when they differ. */
int rlog_begin(struct rlog *l, const struct record_head *h, struct err *e);
int rlog_write(struct rlog *l, const void *p, size_t n, struct err *e);
int rlog_commit(struct rlog *l, struct err *e);
int rlog_commit_expect(struct rlog *l, uint32_t payload_len, uint32_t payload_crc, struct err *e);
void rlog_abort(struct rlog *l);

/* Appends received records that belong together, n bytes as they come on the wire, heads and payloads, whose payloads were checked: they become visible together, and whoever is
 * killed meanwhile has none of them in the log (the first one's header is written last). Errors as of rlog_begin and rlog_commit; ERR_CORRUPT: these bytes are not whole records
 * that follow each other. */
int rlog_append_group(struct rlog *l, const uint8_t *bytes, size_t n, struct err *e);
/* True if the last record of the log has RECORD_MORE. The writer's. */
bool rlog_in_group(const struct rlog *l);

/* Makes everything committed so far durable (fdatasync of the segments written since, directory after a new segment). Any thread; not
 * while holding anything: takes as long as the disk does. */
int rlog_sync(struct rlog *l, struct err *e);
/* LSN up to which the log is durable. */
uint64_t rlog_durable(struct rlog *l);

/* Deletes whole old segments beyond the retention (bytes in all, or age of their newest record by the wall clock), never one with records
 * ≥ keep_from, nor one that is not durable yet, nor the current one. Any thread. */
int rlog_trim(struct rlog *l, uint64_t keep_from, struct err *e);

/* The disk is filling: deletes the oldest segment, whatever its age, under the same conditions otherwise. 1: it is gone; 0: it is needed; -errno. */
int rlog_make_room(struct rlog *l, uint64_t keep_from, struct err *e);

/* Reading. */
struct rlog_cursor {
    uint64_t lsn;     /* of the next record */
    uint64_t segment; /* first LSN of the segment that fd is open on; 0: none */
    int64_t offset;   /* of the next record in it */
    int fd;           /* -1: none; owned by the cursor */
    uint64_t generation; /* of the log: a cursor from before rlog_reset gets ERR_GONE */
};
/* Puts a cursor (zeroed, or used before) before record lsn; lsn may be last + 1. ERR_GONE if it is no longer kept (or beyond the end). */
int rlog_seek(struct rlog *l, uint64_t lsn, struct rlog_cursor *c, struct err *e);
void rlog_cursor_close(struct rlog_cursor *c);

/* Next record: 1, with its header and where its payload lies in c->fd (valid until the next call on c); 0: at the end; negative: error
 * (ERR_GONE when trimmed away meanwhile, or after rlog_reset; ERR_CORRUPT naming file and offset; the cursor has not moved then). The
 * payload's checksum has been checked: what is read at payload_offset right afterwards is what was appended. */
int rlog_next(struct rlog *l, struct rlog_cursor *c, struct record_head *h, int64_t *payload_offset, struct err *e);

/* Next whole records as one contiguous byte range of a segment file, at most max bytes unless the first record alone is longer: 1, with
 * c->fd, *offset, *length, and the last LSN in it; 0: at the end; negative: error. Moves the cursor behind the range. No payload is read, so
 * their checksums are the receiver's to check; rlog_next from the same LSN tells whether damage is in the file. */
int rlog_span(struct rlog *l, struct rlog_cursor *c, uint64_t max, int64_t *offset, int64_t *length, uint64_t *last_lsn,
              struct err *e);

#endif
