/* What this node's replicator says about positions and roles, as it changes: the client of the position socket (LAYOUT_POSITION_SOCK, protocol
 * in include/edgefs/position_feed.h). Event-driven: the state is memory, a check is a comparison, waiting is a parked struct.
 *
 * Everything runs in the thread of the event loop; nothing blocks. Callbacks come from the loop, never from inside the call that
 * registered them. If the replicator is away, the last state stays with connected = false; the connection is made again by itself. */
#ifndef EDGEFS_PROXY_POSITION_H
#define EDGEFS_PROXY_POSITION_H

#include "edgefs/position.h"
#include "lib/err.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct event_base;
struct position_tracker;

enum position_role { POSITION_ROLE_UNKNOWN, POSITION_ROLE_PRIMARY, POSITION_ROLE_REPLICA };

struct position_state {
    bool connected;          /* to the replicator */
    enum position_role role; /* of this node */
    bool holding;            /* primary in a planned promotion: writes that begin now must wait (position_write_begin) */
    bool primary_reachable;  /* replica: the stream from upstream is alive. Primary: true */
    struct position pos;     /* applied here: up to which reads see everything. Primary: the log's end */
    uint64_t lag_records;    /* how many records pos is behind what the primary last said; 0 on the primary */
    uint64_t lag_ms;         /* for how long; 0 on the primary */
    uint32_t generation;     /* changes whenever role, primary, its reachability or holding change */
    char primary[65];        /* name of the primary's node; "": unknown */
    char primary_url[256];   /* URL of its API (http://HOST:PORT); "": unknown */
    struct position last;    /* newest position that this node knows to exist; applied here or not */
    uint64_t nodes;          /* other configured nodes … */
    uint64_t nodes_unreachable; /* … and those of them that do not answer (level 4) */
    bool lease_reachable;    /* the lease engine answers (level 5); true with the static lease */
};

/* Starts to connect to path (retried for ever). 0 or -errno. */
int position_open(struct event_base *base, const char *path, struct position_tracker **out, struct err *e);
/* No waiter and no write may be left. */
void position_close(struct position_tracker *t);

/* The state as last heard; the pointer stays valid and its contents change between events. */
const struct position_state *position_state(const struct position_tracker *t);

/* The i-th (from 0) of the other nodes that can be reached, the primary left out; NULL: there are no more. Until the next event. */
const char *position_neighbour(const struct position_tracker *t, unsigned i);

/* Whether reads here see everything up to want. A position of an epoch that ended counts as the end of that epoch, if it lies beyond it. */
bool position_reached(const struct position_tracker *t, struct position want);

/* ---- waiting --------------------------------------------------------------------------------------------------------------- */

enum position_outcome {
    POSITION_REACHED,  /* wait: the position is applied. capture: pos is the one to give to the client */
    POSITION_TIMEOUT,  /* the deadline passed. capture: pos is the next one that this node knows of, the best there is to give */
    POSITION_CHANGED,  /* change: the generation moved */
};

/* One parked request; embedded in the caller's object, which must not go away while it is parked (position_wait_cancel). */
struct position_wait {
    void (*done)(struct position_wait *w, enum position_outcome outcome, struct position pos);
    struct position want;
    uint64_t deadline_ms; /* CLOCK_MONOTONIC; UINT64_MAX: none */
    /* the tracker's; zero before the first use */
    int list;                   /* what it is parked in; 0: nothing */
    unsigned in_lsns, in_times; /* places in the heaps; 0: in none */
    uint64_t lsn;               /* what want means on this node; UINT64_MAX: not known yet */
    struct position reply;
    enum position_outcome outcome;
    struct position_batch *batch;
    TAILQ_ENTRY(position_wait) link;
};

/* Parks w until want is reached (or its deadline). w->done is set by the caller before. */
void position_wait_reached(struct position_tracker *t, struct position_wait *w, struct position want, uint64_t deadline_ms);
/* Parks w until the generation changes: another role, another primary, the end of holding. */
void position_wait_change(struct position_tracker *t, struct position_wait *w, uint64_t deadline_ms);
/* "Capture now": asks the replicator to capture what is committed by now, and parks w until it answered with a position that covers it. */
void position_wait_capture(struct position_tracker *t, struct position_wait *w, uint64_t deadline_ms);
/* Takes it out of whatever it is parked in; done is not called. Harmless if it is parked nowhere. */
void position_wait_cancel(struct position_tracker *t, struct position_wait *w);

/* ---- which databases changed (the response cache) ---------------------------------------------------------------------------- */

#define POSITION_WATCHES_MAX 256

/* Asks to be told when databases whose names match glob ('*' matches '/' too) change. A number for position_touched, or -ENOSPC, -ENOMEM. The
 * same glob gets the same number. */
int position_watch(struct position_tracker *t, const char *glob);
/* LSN of the last change: what was read here when at least this was applied (position_state: pos), in the same epoch, is still true.
 * UINT64_MAX: it cannot be known now. */
uint64_t position_touched(const struct position_tracker *t, int number);

/* ---- writes under way ------------------------------------------------------------------------------------------------------ */

/* The engine counts the writes that this node's application is working on. Before a planned promotion fences, the replicator sets holding and
 * waits until the tracker tells it that none is left of those that had begun: so no application meets the fence in the middle of a request. If that
 * takes long it lets new ones begin meanwhile. begin returns what end wants to know. */
uint32_t position_write_begin(struct position_tracker *t);
/* The same for one that is noticed only now, and began before the hold that is going on: it must be waited for. */
uint32_t position_write_before(struct position_tracker *t);
void position_write_end(struct position_tracker *t, uint32_t began);
uint64_t position_writes(const struct position_tracker *t); /* that are under way */
/* Whether want exists as far as this node knows: that it lies in the log of some node. */
bool position_exists(const struct position_tracker *t, struct position want);

#endif
