/* Counters of the proxy, in the text format of Prometheus. One object for the process; the event loop's thread; nothing blocks. */
#ifndef EDGEFS_PROXY_METRICS_H
#define EDGEFS_PROXY_METRICS_H

#include "http-proxy/decide.h"
#include <netinet/in.h>

struct proxy_metrics;

/* How a request ended: X(id, text for metric label and log). */
#define PROXY_OUTCOMES(X)                                                                                                                  \
    X(LOCAL, "local")           /* answered by this node's application */                                                                 \
    X(FORWARDED, "forwarded")   /* by the primary's proxy */                                                                               \
    X(CACHED, "cached")         /* from the response cache */                                                                              \
    X(OWN, "own")               /* health, metrics */                                                                                      \
    X(REFUSED, "refused")       /* by policy: 503 */                                                                                       \
    X(BAD_REQUEST, "bad-request") /* 4xx of our own */                                                                                     \
    X(UPSTREAM_ERROR, "upstream-error") /* 502, 504: application or other proxy failed */                                                  \
    X(CLIENT_ABORT, "client-abort") /* the client went away */                                                                             \
    X(UPGRADED, "upgraded")     /* became a tunnel */

enum proxy_outcome {
#define X(id, text) PROXY_OUTCOME_##id,
    PROXY_OUTCOMES(X)
#undef X
        PROXY_OUTCOME_COUNT
};

/* One finished exchange, filled by the engine. The slices are valid during the call only. */
struct proxy_exchange {
    const struct config_proxy *app;
    const struct sockaddr *peer; /* the client's address as connected */
    struct slice method, target, host, user_agent, referer; /* n = 0: not known */
    int status;                  /* sent to the client; 0: none */
    enum proxy_outcome outcome;
    const struct decision *decision; /* NULL: it never came so far */
    uint64_t bytes_in, bytes_out;    /* on the client's connection, heads included */
    uint64_t total_us, wait_us, upstream_us; /* whole; parked; from sending upstream to the response's head */
    bool upstream_reused;            /* a pooled connection served it */
};

/* What modules count: X(id, name, help). One array for the process; the event loop's thread. */
#define PROXY_COUNTERS(X)                                                                                                                  \
    X(POSITIONS, "edgefs_proxy_positions_total", "Reads that demanded a position.")                                                        \
    X(POSITIONS_IGNORED, "edgefs_proxy_positions_ignored_total", "Positions that could not be read, or cannot exist.")                     \
    X(CACHE_HITS, "edgefs_proxy_cache_hits_total", "Responses from the cache, fresh.")                                                     \
    X(CACHE_STALE, "edgefs_proxy_cache_stale_total", "Responses from the cache while another request revalidated them.")                   \
    X(CACHE_MISSES, "edgefs_proxy_cache_misses_total", "Requests for a cached route that the cache could not answer.")                     \
    X(CACHE_SHARED, "edgefs_proxy_cache_shared_total", "Requests that waited for another one's response.")                                 \
    X(CACHE_STORED, "edgefs_proxy_cache_stored_total", "Responses that were stored.")                                                      \
    X(CACHE_CHANGED, "edgefs_proxy_cache_changed_total", "Stored responses dropped because a database of their route changed.")            \
    X(CACHE_EVICTED, "edgefs_proxy_cache_evicted_total", "Stored responses dropped for room.")                                             \
    X(LOG_DROPPED, "edgefs_proxy_access_log_dropped_total", "Lines of the access log that were dropped because it was not written fast "   \
                                                            "enough.")

enum proxy_counter {
#define X(id, name, help) PROXY_COUNT_##id,
    PROXY_COUNTERS(X)
#undef X
        PROXY_COUNT_N
};
extern uint64_t proxy_counters[PROXY_COUNT_N];
static inline void proxy_count(enum proxy_counter c, uint64_t n)
{
    proxy_counters[c] += n;
}

int proxy_metrics_open(struct proxy_metrics **out, struct err *e);
void proxy_metrics_close(struct proxy_metrics *m);
/* On the hot path: no allocation, no formatting. */
void proxy_metrics_record(struct proxy_metrics *m, const struct proxy_exchange *x);

/* Gauges that the engine keeps and metrics show. */
struct proxy_gauges {
    uint64_t clients, clients_idle, upstreams, upstreams_idle, peers, peers_idle, parked, writes, tunnels, accepted, connects, connect_failures,
        retries, buffers, cache_bytes, cache_entries;
};
struct proxy_gauges *proxy_metrics_gauges(struct proxy_metrics *m);

/* The page, malloc'ed; NULL: no memory. */
char *proxy_metrics_text(struct proxy_metrics *m, const struct position_state *state, uint8_t degraded, size_t *len);

#endif
