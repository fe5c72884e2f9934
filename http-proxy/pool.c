#include "http-proxy/engine.h"

#include "lib/log.h"
#include <arpa/inet.h>
#include <errno.h>
#include <event2/dns.h>
#include <event2/util.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <sys/un.h>

#define RESOLVED_S 30 /* a name is looked up again after this */

static void upstream_ready(struct transport *t);
static void connect_next(struct upstream *u, int error);

/* ---- pools ------------------------------------------------------------------------------------------------------------------ */

static struct pool *pool_new(struct engine *e)
{
    struct pool *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->e = e;
    p->refs = 1;
    TAILQ_INIT(&p->idle);
    TAILQ_INIT(&p->busy);
    TAILQ_INIT(&p->waiting);
    TAILQ_INSERT_TAIL(&e->pools, p, link);
    return p;
}

static void set_limits(struct pool *p, const struct config_proxy *c)
{
    p->max_total = (unsigned)c->limits.target_connections;
    p->max_idle = (unsigned)c->limits.idle_target_connections;
    p->idle_s = (unsigned)((c->limits.idle_target_ms + 999) / 1000);
    p->connect_s = (unsigned)((c->limits.connect_ms + 999) / 1000);
}

static bool same(const char *a, const char *b)
{
    return a == b || (a && b && !strcmp(a, b));
}

struct pool *pool_for_target(struct engine *e, const struct config_proxy *c)
{
    struct pool *p;
    TAILQ_FOREACH (p, &e->pools, link)
        if (!p->peer && same(p->address.host, c->target.host) && same(p->address.path, c->target.path) && p->address.port == c->target.port) {
            p->refs++;
            set_limits(p, c);
            return p;
        }
    if (!(p = pool_new(e)))
        return NULL;
    p->address.host = c->target.host ? strdup(c->target.host) : NULL;
    p->address.path = c->target.path ? strdup(c->target.path) : NULL;
    p->address.port = c->target.port;
    set_limits(p, c);
    return p;
}

/* "http[s]://HOST:PORT" → address. */
static bool parse_url(struct pool *p, const char *url)
{
    const char *host = strstr(url, "://"), *colon = host ? strrchr(host + 3, ':') : NULL;
    if (!colon)
        return false;
    host += 3;
    size_t n = (size_t)(colon - host);
    if (n > 2 && *host == '[') {
        host++;
        n -= 2;
    }
    if (n >= sizeof p->host_name)
        return false;
    memcpy(p->host_name, host, n);
    p->host_name[n] = 0;
    p->address.port = (uint16_t)strtoul(colon + 1, NULL, 10);
    return (p->address.host = strdup(p->host_name));
}

struct pool *pool_for_peer(struct engine *e, struct app *a, const char *url)
{
    if (a->peer && !strcmp(a->peer->url, url))
        return a->peer;
    SSL_CTX *tls = !strncmp(url, "https:", 6) ? a->peer_tls : NULL;
    struct pool *p;
    TAILQ_FOREACH (p, &e->pools, link)
        if (p->peer && !strcmp(p->url, url) && p->tls == tls)
            break;
    if (p) {
        p->refs++;
    } else if (!(p = pool_new(e))) {
        return NULL;
    } else {
        p->peer = true;
        snprintf(p->url, sizeof p->url, "%s", url);
        p->tls = tls;
        if (tls)
            SSL_CTX_up_ref(tls);
        if (!parse_url(p, url)) {
            pool_unref(p);
            return NULL;
        }
    }
    set_limits(p, a->c);
    if (a->peer)
        pool_unref(a->peer);
    a->peer = p;
    return p;
}

static void pool_free(struct pool *p)
{
    struct upstream *u;
    p->refs = 1; /* while its last connections go */
    while ((u = TAILQ_FIRST(&p->idle)))
        upstream_close(u, false);
    TAILQ_REMOVE(&p->e->pools, p, link);
    SSL_CTX_free(p->tls);
    free(p->address.host);
    free(p->address.path);
    free(p);
}

/* Without a reference it lives for as long as connections of it are used, or its name is looked up. */
static void pool_gone(struct pool *p)
{
    if (!p->refs && TAILQ_EMPTY(&p->busy) && TAILQ_EMPTY(&p->waiting) && !p->resolved.asking)
        pool_free(p);
}

void pool_unref(struct pool *p)
{
    p->refs--;
    pool_gone(p);
}

/* ---- names ------------------------------------------------------------------------------------------------------------------ */

static void add_address(struct pool *p, const struct sockaddr *sa, socklen_t len)
{
    if (p->resolved.n == (int)ARRAY_SIZE(p->resolved.list) || len > sizeof p->resolved.list[0])
        return;
    memcpy(&p->resolved.list[p->resolved.n], sa, len);
    p->resolved.len[p->resolved.n++] = len;
}

/* An address in digits or a unix socket needs nobody. */
static bool resolve_at_once(struct pool *p)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(p->address.port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(p->address.port)};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if (p->resolved.n && p->e->now_s < p->resolved.until_s)
        return true;
    p->resolved.n = 0;
    p->resolved.until_s = UINT32_MAX;
    if (p->address.path) {
        snprintf(un.sun_path, sizeof un.sun_path, "%s", p->address.path);
        add_address(p, (struct sockaddr *)&un, sizeof un);
    } else if (inet_pton(AF_INET, p->address.host, &v4.sin_addr) == 1) {
        add_address(p, (struct sockaddr *)&v4, sizeof v4);
    } else if (inet_pton(AF_INET6, p->address.host, &v6.sin6_addr) == 1) {
        add_address(p, (struct sockaddr *)&v6, sizeof v6);
    } else {
        return false;
    }
    return true;
}

static void resolved(int error, struct evutil_addrinfo *list, void *arg)
{
    struct pool *p = arg;
    p->resolved.asking = false;
    p->resolved.n = 0;
    for (struct evutil_addrinfo *a = error ? NULL : list; a; a = a->ai_next)
        add_address(p, a->ai_addr, a->ai_addrlen);
    p->resolved.until_s = p->e->now_s + RESOLVED_S;
    if (list)
        evutil_freeaddrinfo(list);
    if (error)
        log_warn("pool", "%s: %s", p->address.host, evutil_gai_strerror(error));
    struct upstream *u, *next;
    p->refs++; /* not from below us */
    TAILQ_FOREACH_SAFE (u, &p->busy, link, next)
        if (u->t.fd < 0 && !u->dead)
            connect_next(u, -EHOSTUNREACH);
    pool_unref(p);
}

static void resolve(struct pool *p)
{
    char port[8];
    struct evutil_addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_protocol = IPPROTO_TCP, .ai_flags = EVUTIL_AI_ADDRCONFIG};
    if (p->resolved.asking)
        return;
    snprintf(port, sizeof port, "%u", p->address.port);
    p->resolved.asking = true;
    (void)evdns_getaddrinfo(p->e->dns, p->address.host, port, &hints, resolved, p); /* NULL: it has called back already */
}

/* ---- connecting ------------------------------------------------------------------------------------------------------------- */

static SSL *new_session(struct pool *p)
{
    SSL *ssl = SSL_new(p->tls);
    struct in6_addr any;
    bool digits = inet_pton(AF_INET, p->host_name, &any) == 1 || inet_pton(AF_INET6, p->host_name, &any) == 1;
    if (!ssl)
        return NULL;
    if (digits ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), p->host_name) != 1
               : SSL_set1_host(ssl, p->host_name) != 1 || SSL_set_tlsext_host_name(ssl, p->host_name) != 1) {
        SSL_free(ssl);
        return NULL;
    }
    SSL_set_connect_state(ssl);
    return ssl;
}

/* A socket that connects to resolved.list[i]; 0 or -errno. */
static int connect_to(struct upstream *u, int i)
{
    struct pool *p = u->pool;
    const struct sockaddr *sa = (const struct sockaddr *)&p->resolved.list[i];
    int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (sa->sa_family != AF_UNIX)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)); /* slower without */
    p->e->gauges->connects++;
    if (connect(fd, sa, p->resolved.len[i]) && errno != EINPROGRESS) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    SSL *ssl = NULL;
    if (p->tls && !(ssl = new_session(p))) {
        close(fd);
        return -ENOMEM;
    }
    return transport_open(&u->t, p->e->base, fd, ssl, true, upstream_ready);
}

/* Tries the addresses behind u->address, in order; error: what became of the one before. */
static void connect_next(struct upstream *u, int error)
{
    struct pool *p = u->pool;
    while (++u->address < p->resolved.n)
        if (!(error = connect_to(u, u->address))) {
            u->deadline_s = p->e->now_s + p->connect_s + 1;
            return;
        }
    struct exchange *ex = u->ex;
    p->e->gauges->connect_failures++;
    if (p->resolved.until_s != UINT32_MAX)
        p->resolved.until_s = 0; /* a name may mean something else by now */
    u->ex = NULL;
    upstream_close(u, false);
    if (ex)
        exchange_unconnected(ex, error);
}

static void connect_new(struct pool *p, struct exchange *ex)
{
    struct upstream *u = calloc(1, sizeof *u);
    if (!u) {
        exchange_unconnected(ex, -ENOMEM);
        return;
    }
    u->pool = p;
    u->ex = ex;
    u->t.fd = -1;
    u->address = -1;
    ex->u = u;
    p->total++;
    TAILQ_INSERT_TAIL(&p->busy, u, link);
    (*(p->peer ? &p->e->gauges->peers : &p->e->gauges->upstreams))++;
    u->deadline_s = p->e->now_s + p->connect_s + 1;
    if (resolve_at_once(p))
        connect_next(u, -EHOSTUNREACH);
    else
        resolve(p);
}

/* Whether a connection without a request has nothing to say: what it says would be its end, or bytes that nobody asked for. Under TLS there may be
 * messages of the protocol's own (session tickets), which reading takes in. */
static bool quiet(struct upstream *u)
{
    char c;
    if (u->t.can_read || u->t.peer_closed)
        return !u->t.broken && transport_recv(&u->t, &c, 1) == -EAGAIN;
    return !u->t.broken;
}

static void upstream_ready(struct transport *t)
{
    struct upstream *u = (struct upstream *)t;
    if (t->connecting) {
        int rc = transport_connect(t);
        if (rc == -EAGAIN)
            return;
        if (rc) {
            transport_close(t, false);
            connect_next(u, rc);
            return;
        }
        if (!u->ex) {
            pool_put(u);
            return;
        }
        exchange_connected(u->ex, u);
        return;
    }
    if (u->ex)
        exchange_pump(u->ex);
    else if (!quiet(u))
        upstream_close(u, false);
}

/* ---- taking and giving back ------------------------------------------------------------------------------------------------- */

static unsigned *idle_gauge(struct pool *p, uint64_t **g)
{
    *g = p->peer ? &p->e->gauges->peers_idle : &p->e->gauges->upstreams_idle;
    return &p->n_idle;
}

static void leave_idle(struct upstream *u)
{
    uint64_t *g;
    TAILQ_REMOVE(&u->pool->idle, u, link);
    --*idle_gauge(u->pool, &g);
    --*g;
    u->idle = false;
    TAILQ_INSERT_TAIL(&u->pool->busy, u, link);
}

/* Whether the target has closed it and the loop has not told us yet: asked before a request that could not be sent twice. */
static bool stale(struct upstream *u)
{
    char c;
    ssize_t n = recv(u->t.fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n > 0 && u->t.ssl) {
        u->t.can_read = true;
        return !quiet(u);
    }
    return n >= 0 || errno != EAGAIN;
}

struct upstream *pool_get(struct pool *p, struct exchange *ex)
{
    struct upstream *u;
    bool safe = slice_equal(ex->req.method, SLICE("GET")) || slice_equal(ex->req.method, SLICE("HEAD"));
    while ((u = TAILQ_FIRST(&p->idle))) {
        leave_idle(u);
        if (safe || !stale(u))
            return u;
        upstream_close(u, false);
    }
    if (p->total < p->max_total) {
        connect_new(p, ex);
        return NULL;
    }
    ex->pool_waiting = true;
    ex->progress_s = p->e->now_s;
    TAILQ_INSERT_TAIL(&p->waiting, ex, pool_link);
    client_probe(ex->c);
    return NULL;
}

void pool_cancel(struct pool *p, struct exchange *ex)
{
    if (ex->pool_waiting)
        TAILQ_REMOVE(&p->waiting, ex, pool_link);
    ex->pool_waiting = false;
    ex->pool = NULL;
    pool_gone(p);
}

/* The next that waits for a connection: one is free, or may be made. */
static struct exchange *next_waiting(struct pool *p)
{
    struct exchange *ex = TAILQ_FIRST(&p->waiting);
    if (ex) {
        TAILQ_REMOVE(&p->waiting, ex, pool_link);
        ex->pool_waiting = false;
    }
    return ex;
}

void pool_put(struct upstream *u)
{
    struct pool *p = u->pool;
    uint64_t *g;
    u->reused = true;
    if (u->t.shut || !p->refs || p->e->draining || !quiet(u)) {
        upstream_close(u, false);
        return;
    }
    struct exchange *ex = next_waiting(p);
    if (ex) {
        exchange_connected(ex, u);
        return;
    }
    TAILQ_REMOVE(&p->busy, u, link);
    TAILQ_INSERT_HEAD(&p->idle, u, link);
    u->idle = true;
    u->deadline_s = p->e->now_s + p->idle_s + 1;
    ++*idle_gauge(p, &g);
    ++*g;
    if (p->n_idle > p->max_idle)
        upstream_close(TAILQ_LAST(&p->idle, upstream_list), false);
}

void upstream_close(struct upstream *u, bool reset)
{
    struct pool *p = u->pool;
    if (u->dead)
        return;
    u->dead = true;
    if (u->idle)
        leave_idle(u);
    TAILQ_REMOVE(&p->busy, u, link);
    p->total--;
    (*(p->peer ? &p->e->gauges->peers : &p->e->gauges->upstreams))--;
    transport_close(&u->t, reset);
    SLIST_INSERT_HEAD(&p->e->upstream_graves, u, grave);
    engine_reap_soon(p->e);
    struct exchange *ex = p->total < p->max_total ? next_waiting(p) : NULL;
    if (ex)
        connect_new(p, ex);
    else
        pool_gone(p);
}

void pool_tick(struct pool *p, uint32_t now_s)
{
    struct upstream *u, *next;
    p->refs++;
    TAILQ_FOREACH_SAFE (u, &p->idle, link, next)
        if (now_s >= u->deadline_s)
            upstream_close(u, false);
    TAILQ_FOREACH_SAFE (u, &p->busy, link, next) {
        if (u->dead || (u->t.fd >= 0 && !u->t.connecting) || now_s < u->deadline_s)
            continue;
        struct exchange *ex = u->ex;
        u->ex = NULL;
        upstream_close(u, false);
        if (ex)
            exchange_unconnected(ex, -ETIMEDOUT);
    }
    pool_unref(p);
}
