#include "http-proxy/engine.h"
#include "http-proxy/busy.h"

#include "edgefs/layout.h"
#include "lib/log.h"
#include <errno.h>
#include <event2/dns.h>
#include <limits.h>
#include <openssl/ssl.h>
#include <stdio.h>

/* ---- applications ----------------------------------------------------------------------------------------------------------- */

struct app *app_ref(struct app *a)
{
    a->refs++;
    return a;
}

static void configuration_unref(struct configuration *c)
{
    if (--c->refs)
        return;
    config_free(c->config);
    free(c);
}

void app_unref(struct app *a)
{
    if (--a->refs)
        return;
    cache_close(a->cache);
    accesslog_close(a->log);
    decide_close(a->decide);
    if (a->target)
        pool_unref(a->target);
    if (a->peer)
        pool_unref(a->peer);
    SSL_CTX_free(a->tls);
    SSL_CTX_free(a->peer_tls);
    trust_free(a->trust);
    configuration_unref(a->of);
    free(a);
}

static int app_open(struct engine *e, struct configuration *of, const struct config_proxy *c, struct app **out, struct err *err)
{
    struct app *a = calloc(1, sizeof *a);
    if (!a)
        return err_errno(err, ENOMEM, "%s", c->name);
    a->e = e;
    a->c = c;
    a->of = of;
    a->refs = 1;
    of->refs++;
    int rc = tls_server(c, &a->tls, err);
    if (!rc)
        rc = tls_client(c, &a->peer_tls, err);
    if (!rc)
        rc = decide_open(of->config, c, e->positions, e->degrade, &a->decide, err);
    if (!rc)
        rc = cache_open(c, e->positions, &a->cache, err);
    if (!rc)
        cache_count(a->cache, e->gauges);
    if (!rc)
        rc = accesslog_open(c, &a->log, err);
    if (!rc && (!(a->trust = trust_new(of->config, c)) || !(a->target = pool_for_target(e, c))))
        rc = err_errno(err, ENOMEM, "%s", c->name);
    if (rc)
        app_unref(a);
    else
        *out = a;
    return rc;
}

/* ---- configurations --------------------------------------------------------------------------------------------------------- */

static struct listener *find_listener(struct engine *e, const char *name)
{
    struct listener *l;
    TAILQ_FOREACH (l, &e->listeners, link)
        if (!strcmp(l->name, name) && l->fd >= 0)
            return l;
    return NULL;
}

/* Each application to its listener; listeners without one stop. All or nothing, except that a new address may turn out to be taken. */
static int apply(struct engine *e, struct configuration *cf, struct err *err)
{
    struct app *apps[CONFIG_PROXIES_MAX] = {0};
    int n = cf->config->n_proxies, rc = 0;
    for (int i = 0; i < n && !rc; i++)
        rc = app_open(e, cf, &cf->config->proxies[i], &apps[i], err);
    struct listener *l, *next;
    TAILQ_FOREACH (l, &e->listeners, link)
        l->mark = false;
    for (int i = 0; i < n && !rc; i++) {
        char name[300];
        listener_name(apps[i]->c, name);
        if ((l = find_listener(e, name))) {
            app_unref(l->app);
            l->app = app_ref(apps[i]);
            listener_freed(l); /* the limit may have grown */
        } else if ((rc = listener_open(e, apps[i], err)) == 0) {
            l = TAILQ_LAST(&e->listeners, listener_list);
        }
        if (!rc)
            l->mark = true;
    }
    for (int i = 0; i < n; i++)
        if (apps[i])
            app_unref(apps[i]);
    TAILQ_FOREACH_SAFE (l, &e->listeners, link, next) {
        if (rc || l->mark || !l->app)
            continue;
        listener_stop(l, false);
        app_unref(l->app);
        l->app = NULL;
        struct client *c, *after;
        TAILQ_FOREACH_SAFE (c, &l->clients, link, after)
            if (!c->ex)
                client_close(c, false);
    }
    return rc;
}

void engine_reload(struct engine *e)
{
    struct err err = {0};
    struct configuration *cf = calloc(1, sizeof *cf);
    struct listener *l;
    if (!cf || e->draining) {
        free(cf);
        return;
    }
    int rc = config_load(&e->args, &cf->config, &err);
    if (!rc) {
        cf->refs = 1;
        rc = apply(e, cf, &err);
    } else {
        free(cf);
        cf = NULL;
    }
    if (rc) {
        log_error("engine", "reload: %s; the old configuration stays", err.text);
        if (cf)
            configuration_unref(cf);
        return;
    }
    if (degrade_reload(e->degrade, cf->config, &err))
        log_error("engine", "reload: %s", err.text); /* the levels are known by the names of entries: new ones have none */
    configuration_unref(e->configuration);
    e->configuration = cf;
    TAILQ_FOREACH (l, &e->listeners, link)
        if (l->app)
            accesslog_reopen(l->app->log);
    log_info("engine", "configuration read again: %d application%s", cf->config->n_proxies, cf->config->n_proxies == 1 ? "" : "s");
}

/* ---- turns of the loop ------------------------------------------------------------------------------------------------------ */

void engine_reap_soon(struct engine *e)
{
    event_active(&e->ev_reap, EV_TIMEOUT, 1);
}

static void reap(evutil_socket_t fd, short what, void *arg)
{
    struct engine *e = arg;
    struct client *c;
    struct upstream *u;
    (void)fd;
    (void)what;
    while ((c = SLIST_FIRST(&e->client_graves))) {
        SLIST_REMOVE_HEAD(&e->client_graves, grave);
        free(c);
    }
    while ((u = SLIST_FIRST(&e->upstream_graves))) {
        SLIST_REMOVE_HEAD(&e->upstream_graves, grave);
        free(u);
    }
}

static void tick(evutil_socket_t fd, short what, void *arg)
{
    struct engine *e = arg;
    struct listener *l, *next_l;
    struct client *c, *next_c;
    struct pool *p, *next_p;
    (void)fd;
    (void)what;
    uint64_t now_ms = engine_now_ms();
    uint64_t left = 0;
    e->now_s = (uint32_t)(now_ms / 1000);
    bool end = e->draining && e->now_s >= e->drain_until_s;
    degrade_tick(e->degrade, now_ms);
    TAILQ_FOREACH_SAFE (l, &e->listeners, link, next_l) {
        TAILQ_FOREACH_SAFE (c, &l->clients, link, next_c) {
            if (end)
                client_close(c, c->ex);
            else
                client_tick(c, e->now_s);
        }
        left += l->n_clients;
        if (l->app && l->app->log)
            accesslog_tick(l->app->log);
        if (!l->app && !l->n_clients)
            listener_close(l);
    }
    TAILQ_FOREACH_SAFE (p, &e->pools, link, next_p)
        pool_tick(p, e->now_s);
    buf_tick();
    pipe_tick();
    busy_tick();
    if (e->draining && !left)
        event_base_loopbreak(e->base);
}

void engine_drain(struct engine *e, bool patient)
{
    struct listener *l;
    struct client *c, *next;
    uint64_t longest = 0;
    if (e->draining)
        return;
    e->draining = true;
    e->patient = patient;
    TAILQ_FOREACH (l, &e->listeners, link) {
        if (l->app)
            longest = MAX(longest, l->app->c->drain_ms);
        listener_stop(l, true);
        TAILQ_FOREACH_SAFE (c, &l->clients, link, next)
            if (!c->ex)
                client_run(c); /* closes it, unless a request has begun */
    }
    e->drain_until_s = e->now_s + (uint32_t)(longest / 1000) + 1;
    event_del(&e->ev_tick);
    event_add(&e->ev_tick, &(struct timeval){.tv_usec = 20000});
    event_active(&e->ev_tick, EV_TIMEOUT, 1);
}

bool engine_busy(const struct engine *e)
{
    const struct listener *l;
    TAILQ_FOREACH (l, &e->listeners, link)
        if (l->n_clients)
            return true;
    return false;
}

/* ---- life ------------------------------------------------------------------------------------------------------------------- */

static int open_modules(struct engine *e, const struct config *config, struct err *err)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", config->data, LAYOUT_POSITION_SOCK) >= (int)sizeof path)
        return err_errno(err, ENAMETOOLONG, "%s", config->data);
    int rc = proxy_metrics_open(&e->metrics, err);
    if (rc)
        return rc;
    e->gauges = proxy_metrics_gauges(e->metrics);
    if ((rc = position_open(e->base, path, &e->positions, err)))
        return rc;
    return degrade_open(config, e->positions, &e->degrade, err);
}

int engine_open(struct engine *e, struct event_base *base, struct link *link, const struct config_args *args, struct config *config,
                struct err *err)
{
    *e = (struct engine){.base = base, .link = link, .args = *args, .now_s = (uint32_t)(engine_now_ms() / 1000)};
    TAILQ_INIT(&e->pools);
    TAILQ_INIT(&e->listeners);
    event_assign(&e->ev_reap, base, -1, 0, reap, e);
    event_assign(&e->ev_tick, base, -1, EV_PERSIST, tick, e);
    e->configuration = calloc(1, sizeof *e->configuration);
    e->dns = evdns_base_new(base, EVDNS_BASE_INITIALIZE_NAMESERVERS | EVDNS_BASE_DISABLE_WHEN_INACTIVE);
    if (!e->dns)
        e->dns = evdns_base_new(base, EVDNS_BASE_DISABLE_WHEN_INACTIVE); /* no resolv.conf: names of /etc/hosts only */
    if (!e->configuration || !e->dns)
        return err_errno(err, ENOMEM, "event loop");
    (void)evdns_base_load_hosts(e->dns, "/etc/hosts"); /* need not exist */
    e->configuration->config = config;
    e->configuration->refs = 1;
    int rc = open_modules(e, config, err);
    if (!rc)
        rc = apply(e, e->configuration, err);
    if (!rc && event_add(&e->ev_tick, &(struct timeval){.tv_sec = 1}))
        rc = err_errno(err, ENOMEM, "event loop");
    return rc;
}

void engine_close(struct engine *e)
{
    struct listener *l;
    struct client *c;
    while ((l = TAILQ_FIRST(&e->listeners))) {
        while ((c = TAILQ_FIRST(&l->clients)))
            client_close(c, true);
        listener_close(l);
    }
    reap(-1, 0, e);
    event_del(&e->ev_tick);
    event_del(&e->ev_reap);
    if (e->degrade)
        degrade_close(e->degrade);
    if (e->positions)
        position_close(e->positions);
    if (e->metrics)
        proxy_metrics_close(e->metrics);
    if (e->dns)
        evdns_base_free(e->dns, 0);
    struct exchange *ex;
    while ((ex = SLIST_FIRST(&e->spare))) {
        SLIST_REMOVE_HEAD(&e->spare, spare);
        free(ex);
    }
    if (e->configuration)
        configuration_unref(e->configuration);
}
