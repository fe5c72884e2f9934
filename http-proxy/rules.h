/* The decision itself: a pure function of what is asked, where the node stands, and the configuration (docs/proxy.md, "Which way a request
 * goes"). decide.c gathers the facts; tests/unit/test_proxy_rules.c is the table. */
#ifndef EDGEFS_PROXY_RULES_H
#define EDGEFS_PROXY_RULES_H

#include "http-proxy/decide.h"

#define RULES_HOPS_MAX 3   /* forwarded so often already: no further, it waits here */
#define RULES_RELAYS_MAX 3 /* neighbours that are asked for a way to the primary */
#define RULES_RETRY_MS 200 /* between attempts to reach the primary for a read */

struct rules_facts {
    enum decide_kind kind;
    struct position want;  /* epoch 0: none */
    bool reached;          /* want is applied here */
    bool stale_ok;         /* a route that may be behind … */
    uint64_t max_stale_ms; /* … or a client that takes it: Cache-Control: max-stale; 0: no, UINT64_MAX: any */
    unsigned hop;
    bool relayed;          /* by a node that does not reach the primary: it does not take this one for it */
    bool credit;           /* the client may have one more request wait for a position that nobody has seen yet (credit.h) */
};

struct rules_node {
    const struct position_state *state;
    bool self_primary_name; /* state->primary names this node */
    bool slow;              /* level 2 holds: writes are limited */
    bool behind;            /* level 1 holds */
    uint64_t writes;        /* under way here */
    bool scattered;         /* level 4 holds */
    unsigned neighbours;    /* then: how many nodes but the primary can be reached; at most RULES_RELAYS_MAX count */
};

/* elapsed_ms: since the request came; 0 for the first decision, whose event is DECIDE_EV_CHANGED. d->step is the rules' own. */
void rules_apply(const struct config_proxy *app, const struct rules_facts *f, const struct rules_node *n, enum decide_event event,
                 uint64_t elapsed_ms, struct decision *d);

#endif
