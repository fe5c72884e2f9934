/* Optional response cache of one entry of `proxy:` (its `cache:` list): public GETs, bounded memory, single flight, stale-while-revalidate; what
 * was stored before the newest position that touched the databases named for a route is gone. The event loop's thread.
 *
 * A stored response is immutable and counted: the engine sends from it for as long as it holds a reference. */
#ifndef EDGEFS_PROXY_CACHE_H
#define EDGEFS_PROXY_CACHE_H

#include "http-proxy/extra.h"
#include "http-proxy/head.h"
#include "http-proxy/position.h"
#include "lib/config.h"

struct cache;
struct cache_entry;
struct cache_flight; /* a response that is being fetched and stored */

enum cache_result {
    CACHE_BYPASS, /* not for the cache: go on, and do not store */
    CACHE_FETCH,  /* not there (or stale: this request is the one that revalidates): go on, *flight is yours; feed it or abandon it */
    CACHE_HIT,    /* *entry is yours until cache_release */
    CACHE_WAIT,   /* somebody else fetches it right now: w is parked; ask again after w->done was called */
};

struct cache_wait {
    void (*done)(struct cache_wait *w); /* called from inside whatever ended the flight: must not call the cache, but ask again later */
    void *parked; /* the cache's; NULL: not parked */
    TAILQ_ENTRY(cache_wait) link;
};

/* *out is NULL if app has no cache routes. The tracker and app must outlive it. */
int cache_open(const struct config_proxy *app, struct position_tracker *t, struct cache **out, struct err *e);
/* No flight and no wait may be left. */
void cache_close(struct cache *c);
struct proxy_gauges;
/* Keeps the cache's gauges up to date. */
void cache_count(struct cache *c, struct proxy_gauges *gauges);

/* request stays where it is for as long as the flight lasts. */
enum cache_result cache_lookup(struct cache *c, const struct head *request, uint64_t now_ms, struct cache_wait *w, struct cache_entry **entry,
                               struct cache_flight **flight);
void cache_wait_cancel(struct cache *c, struct cache_wait *w);
void cache_release(struct cache *c, struct cache_entry *e);

/* What to send: the status line and end-to-end fields as complete lines (Age included in extra), and the whole body. */
struct slice cache_entry_head(const struct cache_entry *e);
struct slice cache_entry_body(const struct cache_entry *e);
int cache_entry_status(const struct cache_entry *e);
/* Whether the request's conditions make it 304, with the same fields and no body. */
bool cache_entry_unmodified(const struct cache_entry *e, const struct head *request);
void cache_entry_fields(const struct cache_entry *e, uint64_t now_ms, struct extra *out);

/* Feeding: head first; false: it may not be stored (the flight is over, waiters were woken, do not use it again). Data is copied: of a chunked
 * response the bytes as they came, framing and all. */
bool cache_flight_head(struct cache_flight *f, const struct head *response);
bool cache_flight_data(struct cache_flight *f, struct slice data);
void cache_flight_done(struct cache_flight *f);
void cache_flight_abandon(struct cache_flight *f);

#endif
