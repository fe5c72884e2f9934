/* Which databases the records of the log touched, for those who subscribed to some. Position server only; its lock guards all. */
#ifndef EDGEFS_POSITION_TOUCHED_H
#define EDGEFS_POSITION_TOUCHED_H

#include "replicator/log/rlog.h"
#include <stdbool.h>
#include <stddef.h>

struct touched; /* one subscriber's globs, and the last LSN that touched each */

struct touched_name {
    const char *name; /* of the database; NULL: some databases, nobody knows which (their records are no longer kept) */
    const char *to; /* a rename: the new name; else NULL */
    uint64_t lsn;
    struct record_head head;       /* name points in here, */
    char other[LAYOUT_NAME_MAX + 1]; /* to in here */
};

/* globs[0..len): NUL-terminated, at most POSITION_FEED_SUBSCRIPTIONS, none longer than LAYOUT_NAME_MAX; len 0: *out is NULL. -EBADMSG, -E2BIG,
 * -ENOMEM. */
int touched_open(const char *globs, size_t len, struct touched **out);
void touched_close(struct touched *t);

void touched_note(struct touched *t, const struct touched_name *n);
/* Has every glob reported once, touched or not. */
void touched_all(struct touched *t);
/* Calls fn for each glob that was touched since it was last reported. */
void touched_report(struct touched *t, void (*fn)(void *ctx, unsigned number, uint64_t lsn), void *ctx);

/* The next record up to LSN upto that touched a database; false: there is none. c->lsn is where it goes on (from a zeroed cursor with fd -1 and
 * that lsn, too). */
bool touched_next(struct rlog *log, struct rlog_cursor *c, uint64_t upto, struct touched_name *n);

#endif
