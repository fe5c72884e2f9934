/* Stand-ins, as weak symbols, for modules that are being written: everything is answered by the local application. Each of them gives way to
 * the real module as soon as that is linked; the file goes when the last one is there. Not in libparts.a. */
#include "http-proxy/engine.h"
#include "http-proxy/health.h"

#include <errno.h>
#include <stdio.h>

#define WEAK __attribute__((weak))

struct proxy_metrics {
    struct proxy_gauges gauges;
};

WEAK int proxy_metrics_open(struct proxy_metrics **out, struct err *e)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : err_errno(e, ENOMEM, "metrics");
}
WEAK void proxy_metrics_close(struct proxy_metrics *m)
{
    free(m);
}
WEAK void proxy_metrics_record(struct proxy_metrics *m, const struct proxy_exchange *x)
{
    (void)m;
    (void)x;
}
WEAK struct proxy_gauges *proxy_metrics_gauges(struct proxy_metrics *m)
{
    return &m->gauges;
}
WEAK char *proxy_metrics_text(struct proxy_metrics *m, const struct position_state *state, uint8_t degraded, size_t *len)
{
    (void)m;
    (void)state;
    (void)degraded;
    *len = 0;
    return strdup("");
}
WEAK int accesslog_open(const struct config_proxy *app, struct accesslog **out, struct err *e)
{
    (void)app;
    (void)e;
    *out = NULL;
    return 0;
}
WEAK void accesslog_close(struct accesslog *l)
{
    (void)l;
}
WEAK void accesslog_write(struct accesslog *l, const struct proxy_exchange *x)
{
    (void)l;
    (void)x;
}
WEAK void accesslog_tick(struct accesslog *l)
{
    (void)l;
}
WEAK void accesslog_reopen(struct accesslog *l)
{
    (void)l;
}
WEAK char *health_text(const struct config *config, const struct position_tracker *t, const struct degrade *g, bool draining, int *status,
                       size_t *len)
{
    (void)config;
    (void)t;
    (void)g;
    *status = draining ? 503 : 200;
    char *text = strdup("{}\n");
    *len = text ? strlen(text) : 0;
    return text;
}
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
