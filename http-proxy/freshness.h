/* What may be stored and for how long: RFC 9111 for a shared cache, on the careful side. Pure functions. */
#ifndef EDGEFS_PROXY_FRESHNESS_H
#define EDGEFS_PROXY_FRESHNESS_H

#include "http-proxy/head.h"

struct freshness {
    uint64_t fresh_ms; /* from now on; what the response's Age says is taken off */
    uint64_t stale_ms; /* and after that may be served while it is revalidated (RFC 5861) */
    uint64_t age_ms;   /* as it came */
};

enum freshness_asks {
    FRESHNESS_ANY,      /* a stored response will do */
    FRESHNESS_REFRESH,  /* no-cache, max-age=0: wants the application's, which may be stored */
    FRESHNESS_STORED,   /* HEAD, conditions: a stored response answers it; if there is none the application does, and that is not stored */
    FRESHNESS_NOTHING,  /* not for the cache: another method, a body, Authorization, Range and its conditions, no-store, Upgrade */
};

enum freshness_asks freshness_of_request(const struct head *request);

/* Whether the response may be given to others, and *f. Only with explicit freshness (s-maxage or max-age above 0) and status 200, 203, 301, 308,
 * 404 or 410; never with no-store, private, no-cache, Set-Cookie, Vary: *, Content-Range. If the request carried cookies but the position's, only if
 * the response says public or s-maxage. */
bool freshness_of_response(const struct head *request, const struct head *response, struct freshness *f);

#endif
