/* Where a request goes, and what its response says about that: the policy of one entry of `proxy:` (docs/proxy.md). Uses route.h (path rules),
 * cookie.h, position.h, degrade.h. No I/O of its own; the event loop's thread. */
#ifndef EDGEFS_PROXY_DECIDE_H
#define EDGEFS_PROXY_DECIDE_H

#include "edgefs/position.h"
#include "http-proxy/extra.h"
#include "http-proxy/head.h"
#include "http-proxy/position.h"
#include "lib/config.h"

struct decide;
struct degrade;
struct proxy_metrics;

enum decide_kind { DECIDE_READ, DECIDE_WRITE, DECIDE_PASSTHROUGH };

enum decide_verdict {
    DECIDE_LOCAL,   /* to this node's application. A write: position_write_begin/end around it, and capture before its response */
    DECIDE_WAIT,    /* park until `want` is reached or `wait_ms` passed, then decide_again */
    DECIDE_FORWARD, /* to the primary's proxy; with `via` to that node's, which knows a way, or has what is asked for */
    DECIDE_HOLD,    /* nobody can take it now: park until the generation changes, at most until `hold_ms` after the request came, then
                     * decide_again */
    DECIDE_REFUSE,  /* answer `status` (503 …) with what decide_response adds (Retry-After) */
};

/* One per request, kept by the engine from the first decision to the end of the response. */
struct decision {
    enum decide_kind kind;
    enum decide_verdict verdict;
    struct position want;    /* READ with a position; epoch 0: none */
    uint32_t wait_ms, hold_ms;
    int status;              /* REFUSE */
    const char *reason;      /* static: "write", "replica-lag", "no-primary", …: for X-Reason, log and metrics; may be NULL */
    uint64_t brought_epoch;    /* WRITE: epoch of the position that the client brought; 0: none */
    bool waited;             /* it was parked for its position */
    bool replayed;           /* the application asked for it with fly-replay */
    bool stale;              /* served locally although behind: X-Edge-Staleness */
    uint8_t degraded;        /* level when it was decided */
    uint64_t began_ms;       /* when decide_request was called, CLOCK_MONOTONIC */
    uint64_t client;         /* credit_client() of whoever sent it; set by the engine before decide_request; 0: not known */
    uint8_t hop;             /* of decide_request */
    uint8_t step;            /* rules.c */
    bool held;               /* rules.c */
    bool relayed;            /* another proxy sent it here because it does not reach the primary; set by the engine, as `client` */
    bool as_write;           /* another proxy's application asked for a replay of it: a write, whatever its method; set by the engine, too */
    uint8_t relays;          /* rules.c: neighbours that were tried since the primary was; `via` is the last of them */
    char via[65];            /* "": the primary */
    bool credit;             /* one was taken for it (credit.h) */
    bool unknown;            /* this is the primary, and the position that is demanded does not exist */
};

enum decide_event {
    DECIDE_EV_REACHED,   /* WAIT ended well */
    DECIDE_EV_TIMEOUT,   /* WAIT or HOLD ended at its time */
    DECIDE_EV_CHANGED,   /* HOLD ended because the generation changed */
    DECIDE_EV_NO_ROUTE,  /* FORWARD was tried and nothing was sent: no connection to the primary's proxy, or its address is unknown */
    DECIDE_EV_REPLAY,    /* the application answered with fly-replay: now FORWARD it, or LOCAL if this is the primary */
};

/* Rules of one entry. The configuration must outlive it. hop: 0 for a client's request. */
int decide_open(const struct config *config, const struct config_proxy *app, struct position_tracker *t, struct degrade *g,
                struct decide **out, struct err *e);
void decide_close(struct decide *d);

/* The first decision; sets all of *out but `client`. hop: how often other proxies of the cluster forwarded it already (Edgefs-Hop; 0: it comes from a client). */
void decide_request(struct decide *d, const struct head *request, unsigned hop, struct decision *out);
/* Something happened to it; out is changed to what comes next. */
void decide_again(struct decide *d, const struct head *request, enum decide_event event, struct decision *out);

/* Fields for the response to the client. response: NULL if the proxy answers itself. written: what capture said after a write, or a
 * read with X-Read-After-Position (epoch 0: nothing to say).
 * total_us: since the request was decided. Adds Server-Timing, Set-Cookie, X-Write-Position, X-Read-Position, X-Routed-To, X-Reason, X-Edge-…, Retry-After.
 * If the response comes from another proxy of the cluster (verdict FORWARD), its own fields are passed on by the engine and not added again. */
void decide_response(struct decide *d, const struct decision *decision, const struct head *response, struct position written,
                     uint64_t total_us, struct extra *out);

/* The response to a write is complete (for write p50): from the request's end to the application's head. */
void decide_wrote(struct decide *d, uint64_t us);

#endif
