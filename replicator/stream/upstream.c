#include "replicator/stream/upstream.h"

#include "lib/http/client.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <stdio.h>

#define ROUND_TRIPS 3           /* of which the shortest counts */
#define ASK_MS 1500u

struct shunned {
    char url[UPSTREAM_URL_MAX];
    uint64_t until_ns, for_ns;
};

struct upstream {
    struct node *node;
    pthread_mutex_t lock; /* guards what follows */
    struct shunned shunned[16];
    unsigned n_shunned; /* the oldest one gives way */
    char wish[UPSTREAM_URL_MAX]; /* of upstream_follow */
    uint64_t wish_until_ns;
    uint64_t looked_ns;
    char said[UPSTREAM_URL_MAX]; /* in the log */
};

int upstream_open(struct node *n, struct upstream **out, struct err *e)
{
    struct upstream *u = calloc(1, sizeof *u);
    if (!u)
        return err_errno(e, ENOMEM, "upstream");
    u->node = n;
    u->looked_ns = now_ns();
    pthread_mutex_init(&u->lock, NULL);
    *out = u;
    return 0;
}

void upstream_close(struct upstream *u)
{
    if (!u)
        return;
    pthread_mutex_destroy(&u->lock);
    free(u);
}

static uint64_t interval_ns(const struct upstream *u)
{
    return u->node->config->upstream_interval_ms * 1000000u;
}

static struct shunned *find(struct upstream *u, const char *url)
{
    for (unsigned i = 0; i < MIN(u->n_shunned, (unsigned)ARRAY_SIZE(u->shunned)); i++)
        if (!strcmp(u->shunned[i].url, url))
            return &u->shunned[i];
    return NULL;
}

static bool shunned(struct upstream *u, const char *url)
{
    pthread_mutex_lock(&u->lock);
    const struct shunned *s = find(u, url);
    bool yes = s && now_ns() < s->until_ns;
    pthread_mutex_unlock(&u->lock);
    return yes;
}

void upstream_lost(struct upstream *u, const char *url, uint64_t ns)
{
    char name[128], primary[256];
    node_primary(u->node, name, primary);
    if (!strcmp(url, primary))
        return; /* there is nobody else to go to; the follower has its own pauses */
    pthread_mutex_lock(&u->lock);
    struct shunned *s = find(u, url);
    if (!s) {
        s = &u->shunned[u->n_shunned++ % ARRAY_SIZE(u->shunned)];
        *s = (struct shunned){0};
        snprintf(s->url, sizeof s->url, "%s", url);
    }
    /* Who served for long is not blamed for what was before. */
    s->for_ns = !s->for_ns || ns > 3 * interval_ns(u) ? interval_ns(u) / 4 : MIN(s->for_ns * 2, 8 * interval_ns(u));
    s->until_ns = now_ns() + s->for_ns;
    if (!strcmp(u->wish, url))
        u->wish_until_ns = 0;
    pthread_mutex_unlock(&u->lock);
}

void upstream_follow(struct upstream *u, const char *url, uint64_t ns)
{
    pthread_mutex_lock(&u->lock);
    snprintf(u->wish, sizeof u->wish, "%s", url);
    u->wish_until_ns = now_ns() + ns;
    pthread_mutex_unlock(&u->lock);
}

static bool wished(struct upstream *u, char url[UPSTREAM_URL_MAX])
{
    pthread_mutex_lock(&u->lock);
    bool yes = now_ns() < u->wish_until_ns;
    if (yes)
        memcpy(url, u->wish, UPSTREAM_URL_MAX);
    pthread_mutex_unlock(&u->lock);
    return yes;
}

/* Nanoseconds of a round trip, or UINT64_MAX: it does not answer, or is not in a state to be followed. */
static uint64_t distance(struct upstream *u, const char *url, bool primary)
{
    char target[UPSTREAM_URL_MAX + 16];
    uint64_t best = UINT64_MAX;
    struct http_client *c = http_client_new(&(struct http_client_options){.token = u->node->token, .connect_ms = ASK_MS, .idle_ms = ASK_MS, .total_ms = ASK_MS,
                                                                          .max_body = 65536});
    snprintf(target, sizeof target, "%s/healthz", url);
    for (int i = 0; c && i < ROUND_TRIPS; i++) {
        struct http_response r;
        uint64_t began = now_ns();
        if (http_client_request(c, "GET", target, NULL, NULL, 0, &r, NULL))
            break;
        bool well = r.status == 200 || primary;
        http_response_free(&r);
        if (!well)
            break;
        if (i) /* the first one has opened the connection */
            best = MIN(best, now_ns() - began);
    }
    http_client_free(c);
    return best;
}

static void nearest(struct upstream *u, const char *primary, char url[UPSTREAM_URL_MAX])
{
    const struct config *c = u->node->config;
    uint64_t best = UINT64_MAX;
    url[0] = '\0';
    for (int i = 0; i < c->n_nodes && strcmp(c->nodes[i].name, c->node) != 0 && !atomic_load(&u->node->stopping); i++) {
        const char *other = c->nodes[i].url;
        if (!strcmp(other, primary) || strlen(other) >= UPSTREAM_URL_MAX || shunned(u, other))
            continue;
        uint64_t d = distance(u, other, false);
        if (d >= best)
            continue;
        best = d;
        snprintf(url, UPSTREAM_URL_MAX, "%s", other);
    }
    uint64_t d = best < UINT64_MAX && *primary ? distance(u, primary, true) : UINT64_MAX;
    if (best == UINT64_MAX || best > d / 2 || d - best < UPSTREAM_GAIN_US * 1000u)
        snprintf(url, UPSTREAM_URL_MAX, "%s", primary);
}

static void choose(struct upstream *u, char url[UPSTREAM_URL_MAX])
{
    const struct config *c = u->node->config;
    char name[128], primary[256];
    node_primary(u->node, name, primary);
    if (!strcmp(name, c->node)) /* as far as we know, ourselves: not to be followed */
        primary[0] = '\0';
    if (wished(u, url))
        return;
    if (!strcmp(c->upstream, CONFIG_UPSTREAM_NEAREST))
        nearest(u, primary, url);
    else if (!strcmp(c->upstream, CONFIG_UPSTREAM_PRIMARY) || !strcmp(c->upstream, c->http.advertise) || shunned(u, c->upstream))
        snprintf(url, UPSTREAM_URL_MAX, "%s", primary);
    else
        snprintf(url, UPSTREAM_URL_MAX, "%s", c->upstream);
}

bool upstream_pick(struct upstream *u, char url[UPSTREAM_URL_MAX])
{
    choose(u, url);
    pthread_mutex_lock(&u->lock);
    u->looked_ns = now_ns();
    bool news = *url && strcmp(u->said, url) != 0;
    if (news)
        memcpy(u->said, url, sizeof u->said);
    pthread_mutex_unlock(&u->lock);
    if (news)
        log_info("upstream", "following %s", url);
    return *url != '\0';
}

bool upstream_elsewhere(struct upstream *u, const char *url)
{
    char other[UPSTREAM_URL_MAX];
    if (wished(u, other))
        return strcmp(other, url) != 0;
    pthread_mutex_lock(&u->lock);
    bool due = now_ns() - u->looked_ns > interval_ns(u);
    if (due)
        u->looked_ns = now_ns();
    pthread_mutex_unlock(&u->lock);
    if (!strcmp(u->node->config->upstream, CONFIG_UPSTREAM_NEAREST) && !due)
        return false;
    choose(u, other);
    return *other && strcmp(other, url) != 0;
}
