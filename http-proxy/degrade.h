/* Degradation levels 0 to 5 (docs/proxy.md): worked out from the tracker's state and the times of writes; one object for the process, with a
 * state for each entry of `proxy:`, whose thresholds and switches count. The event loop's thread. */
#ifndef EDGEFS_PROXY_DEGRADE_H
#define EDGEFS_PROXY_DEGRADE_H

#include "http-proxy/position.h"
#include "lib/config.h"
#include <sys/queue.h>

#define DEGRADE_LEVELS 5

struct degrade;

/* The configuration must outlive it, or be replaced (degrade_reload). */
int degrade_open(const struct config *config, struct position_tracker *t, struct degrade **out, struct err *e);
void degrade_close(struct degrade *g);
/* Entries of another configuration; those that are also in this one (by name) keep their state. 0 or -ENOMEM (then no entry has a
 * level). */
int degrade_reload(struct degrade *g, const struct config *config, struct err *e);

/* Once a second, from the engine's tick, and whenever somebody wants to know it more exactly. now_ms: CLOCK_MONOTONIC. */
void degrade_tick(struct degrade *g, uint64_t now_ms);
/* A write took so long, from the request's end to the response's head. */
void degrade_wrote(struct degrade *g, uint64_t us);

/* A write that waits for its response; embedded in the caller's object, zero before the first use. What hangs is seen before it ends, if it ever does. */
struct degrade_write {
    TAILQ_ENTRY(degrade_write) link;
    uint64_t since_us; /* CLOCK_MONOTONIC; 0: none */
};
void degrade_write_begin(struct degrade *g, struct degrade_write *w);
void degrade_write_end(struct degrade *g, struct degrade_write *w); /* harmless if it has not begun */

/* The highest level whose trigger holds for any entry; 0: normal. */
uint8_t degrade_level(const struct degrade *g);
/* The same for one entry, known by its name. */
uint8_t degrade_app_level(const struct degrade *g, const struct config_proxy *app);
/* Whether level 1 to DEGRADE_LEVELS holds for it, whatever else does. */
bool degrade_holds(const struct degrade *g, const struct config_proxy *app, unsigned level);
/* Median of the last writes and of those under way, µs; 0: too few to say. */
uint64_t degrade_write_p50(const struct degrade *g);

/* ---- the state machine of one entry, for degrade.c and its test ---- */

struct degrade_inputs { /* what is measured */
    uint64_t lag_ms;    /* of a replica; UINT64_MAX: never had everything */
    uint64_t write_p50_us;
    bool primary_gone, lease_gone;
    uint64_t neighbours_gone;
};

struct degrade_trigger {
    bool holds;
    uint64_t since_ms; /* the other way round since then; 0: not */
};

/*  off ── the trigger is there for DEGRADE_ON_MS ──► on ── it is clearly gone for DEGRADE_OFF_MS ──► off
 *  Clearly gone: below half of the threshold, for those that have one. Levels 1 and 2 begin at once: what they look at is an average already. */
#define DEGRADE_ON_MS 2000u
#define DEGRADE_OFF_MS 3000u

void degrade_step(struct degrade_trigger triggers[DEGRADE_LEVELS + 1], const struct config_proxy *app, const struct degrade_inputs *in,
                  uint64_t now_ms);

#endif
