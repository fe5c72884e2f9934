/* Capture: turns what applications wrote into records. One thread; runs in every role, because hooks must be answered in every
 * role, but captures only on a primary. */
#ifndef EDGEFS_CAPTURE_H
#define EDGEFS_CAPTURE_H

#include "replicator/node.h"

/* A question "is everything captured that was committed by now?" that nobody waits for. The asker's, until done is called. */
struct capture_ask {
    struct database *db; /* NULL: all */
    void (*done)(struct capture_ask *a, int rc); /* capture's thread, no lock held. 0; -ECANCELED: capture ends */
    struct capture_ask *next; /* capture's */
    uint64_t round;
};

/* Starts the thread: connects to edgefs-fs (and again whenever that is restarted), watches the files
 * of the databases that applications have open. */
int capture_open(struct node *n, struct capture **out, struct err *e);
/* Ends the thread; requests are still taken, and lie. Then, when nobody can make any: capture_close. */
void capture_stop(struct capture *c);
void capture_close(struct capture *c);

/* Asks for a look at a database (any thread; does not wait). */
void capture_notice(struct capture *c, struct database *db);

/* The same without waking it: capture_wake is to follow. */
void capture_note(struct capture *c, struct database *db);
/* Nobody can be seen to have waited for the last transactions of db (capture_sync.c). db->lock is held, or no other thread is there yet. */
void capture_unproven(const struct node *n, struct database *db);

/* Has its thread go round. Any thread. */
void capture_wake(struct capture *c);

/* Waits until everything that was committed in this database (NULL: in all) before the call is in the log. Any thread but capture's; not with a
 * database lock held. 0; -ETIMEDOUT at the monotonic time deadline_ns; ERR_ROLE when this node is not
 * primary (nor handing over: then this is the drain of a promotion). */
int capture_now(struct capture *c, struct database *db, uint64_t deadline_ns, struct err *e);
/* The same without waiting, from capture's own thread (position_server_serve). done is called from the loop, never from inside. A node that is
 * no primary has nothing to capture: done comes at once. */
void capture_ask(struct capture *c, struct capture_ask *a);

#endif
