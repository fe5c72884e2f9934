/* Synchronous commit, who waits: applications' calls (hooks that edgefs-fs has asked) that are answered when enough replicas have a record durable.
 *
 *   SYNCHRONOUS ──sync-timeout, policy degrade──► DEGRADED: nobody waits
 *        ▲                                            │
 *        └── enough replicas are less than a second behind ┘      (with policy refuse it is always SYNCHRONOUS)
 *
 * Databases may wait for different numbers (sync-databases): a time-out of one that waits for N degrades those that wait for N or more.
 *
 * What waits is taken out by whoever comes first: the acknowledgement that suffices (HTTP loop, which answers at once), or the time-out (capture's
 * thread). Any thread, unless said otherwise; takes only its own lock and, inside, that of replicas. */
#ifndef EDGEFS_SYNC_H
#define EDGEFS_SYNC_H

#include "replicator/node.h"
#include <jansson.h>

#define SYNC_WAITING_MAX 4096u

struct sync;

/* n->replicas and n->hooks are set. */
int sync_open(struct node *n, struct sync **out, struct err *e);
void sync_close(struct sync *s); /* NULL: nothing */

/* How many replicas commits of db wait for now; 0: none, because the configuration says so or because it is degraded. */
unsigned sync_wanted(struct sync *s, const struct database *db);

enum sync_kind {
    SYNC_WAL,     /* answered with 0 as soon as it is acknowledged; then db is looked at (capture_notice) */
    SYNC_OPEN,    /* the same, for an application that opens db; it keeps nobody else waiting */
    SYNC_JOURNAL, /* comes out of sync_next in any case: the record of the transaction must be in the log before the answer */
};

struct sync_wait {
    uint64_t hook; /* to be answered */
    struct database *db;
    uint64_t lsn;      /* of the record that must be durable */
    unsigned replicas; /* on so many */
    uint64_t deadline_ns;
    enum sync_kind kind;
    bool acknowledged; /* sync_next: enough replicas have it; otherwise its time is over */
};

/* Waits. False: too many wait already, it counts as timed out. w is copied; acknowledged is ignored. */
bool sync_wait(struct sync *s, const struct sync_wait *w);
/* A replica has vouched for more (replicas_vouch). */
void sync_vouched(struct sync *s);
/* capture's thread: what is to be answered there now: true and *w; false: nothing. A time-out with the policy degrade has changed the state, and everybody else's
 * time is over, too. */
bool sync_next(struct sync *s, struct sync_wait *w);
/* When sync_next may have something, if nothing happens before; UINT64_MAX: never. It wakes capture's thread when there is something before. */
uint64_t sync_next_ns(struct sync *s);
/* The connection to edgefs-fs is gone, and with it all questions. */
void sync_forget(struct sync *s);
/* A commit of this database waits. */
bool sync_waits(struct sync *s, const struct database *db);

unsigned sync_waiting(struct sync *s);
bool sync_is_degraded(struct sync *s);
/* One line for status, "" if there is nothing to say. */
void sync_warning(struct sync *s, char *text, size_t size);
/* For GET /v1/status; a new reference. */
json_t *sync_json(struct sync *s);

#endif
