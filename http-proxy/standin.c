/* Stand-ins, as weak symbols, for modules that are being written: everything is answered by the local application. Each of them gives way to
 * the real module as soon as that is linked; the file goes when the last one is there. Not in libparts.a. */
#include "http-proxy/engine.h"
#include "http-proxy/health.h"

#include <errno.h>
#include <stdio.h>

#define WEAK __attribute__((weak))


WEAK int cache_open(const struct config_proxy *app, struct position_tracker *t, struct cache **out, struct err *e)
{
    (void)app;
    (void)t;
    (void)e;
    *out = NULL;
    return 0;
}
WEAK void cache_close(struct cache *c)
{
    (void)c;
}
WEAK void cache_wait_cancel(struct cache *c, struct cache_wait *w)
{
    (void)c;
    (void)w;
}
WEAK void cache_release(struct cache *c, struct cache_entry *e)
{
    (void)c;
    (void)e;
}
WEAK bool cache_flight_head(struct cache_flight *f, const struct head *response)
{
    (void)f;
    (void)response;
    return false;
}
WEAK bool cache_flight_data(struct cache_flight *f, struct slice data)
{
    (void)f;
    (void)data;
    return false;
}
WEAK void cache_flight_done(struct cache_flight *f)
{
    (void)f;
}
WEAK void cache_flight_abandon(struct cache_flight *f)
{
    (void)f;
}
