#include "http-proxy/degrade.h"

#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>

#define WRITES 128        /* that are remembered */
#define WRITES_FEWEST 8   /* that say something about the median */
#define WRITES_MS 30000u  /* for how long they count */
#define SEVERAL_NODES 2u  /* level 4 */

struct entry {
    char *name;
    const struct config_proxy *app;
    struct degrade_trigger triggers[DEGRADE_LEVELS + 1]; /* [0] unused */
    uint8_t level;
};

struct degrade {
    struct position_tracker *tracker;
    struct entry *entries;
    int n_entries;
    uint64_t now_ms; /* of the last tick */
    uint64_t p50_us;
    struct {
        uint64_t us, ms;
    } writes[WRITES]; /* a ring */
    unsigned n_writes; /* ever, modulo 2^32 */
    TAILQ_HEAD(, degrade_write) waiting; /* the oldest first */
};

/* ---- triggers ---- */

enum reading { CLEAR, BETWEEN, PRESENT };

static enum reading against(uint64_t value, uint64_t threshold)
{
    return value > threshold ? PRESENT : value <= threshold / 2 ? CLEAR : BETWEEN;
}

static void step(struct degrade_trigger *t, bool enabled, enum reading r, uint64_t on_ms, uint64_t now_ms)
{
    if (!enabled) {
        *t = (struct degrade_trigger){0};
        return;
    }
    if (r != (t->holds ? CLEAR : PRESENT)) {
        t->since_ms = 0;
        return;
    }
    if (!t->since_ms)
        t->since_ms = now_ms;
    if (now_ms - t->since_ms < (t->holds ? DEGRADE_OFF_MS : on_ms))
        return;
    t->holds = !t->holds;
    t->since_ms = 0;
}

void degrade_step(struct degrade_trigger t[DEGRADE_LEVELS + 1], const struct config_proxy *app, const struct degrade_inputs *in, uint64_t now_ms)
{
    step(&t[1], app->degrade.lag, against(in->lag_ms, app->degrade.lag_ms), 0, now_ms);
    step(&t[2], app->degrade.write_slow, against(in->write_p50_us, app->degrade.write_p50_ms * 1000u), 0, now_ms);
    step(&t[3], app->degrade.primary, in->primary_gone ? PRESENT : CLEAR, DEGRADE_ON_MS, now_ms);
    step(&t[4], app->degrade.neighbours, in->neighbours_gone >= SEVERAL_NODES ? PRESENT : CLEAR, DEGRADE_ON_MS, now_ms);
    step(&t[5], app->degrade.control, in->lease_gone ? PRESENT : CLEAR, DEGRADE_ON_MS, now_ms);
}

/* ---- what is measured ---- */

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* One under way will have taken longer than it has by now: it counts as soon as that is more than what is usual. */
static uint64_t median(const struct degrade *g, uint64_t now_ms)
{
    uint64_t v[2 * WRITES], usual, now_us = now_ns() / 1000u;
    unsigned n = 0;
    for (unsigned i = 0; i < MIN(g->n_writes, WRITES); i++)
        if (now_ms - g->writes[i].ms <= WRITES_MS)
            v[n++] = g->writes[i].us;
    qsort(v, n, sizeof *v, by_value);
    usual = n ? v[n / 2] : 0;
    const struct degrade_write *w;
    TAILQ_FOREACH (w, &g->waiting, link) {
        if (n == ARRAY_SIZE(v) || now_us - w->since_us <= usual)
            break;
        v[n++] = now_us - w->since_us;
    }
    qsort(v, n, sizeof *v, by_value);
    return n < WRITES_FEWEST ? 0 : v[n / 2];
}

void degrade_write_begin(struct degrade *g, struct degrade_write *w)
{
    w->since_us = now_ns() / 1000u;
    TAILQ_INSERT_TAIL(&g->waiting, w, link);
}

void degrade_write_end(struct degrade *g, struct degrade_write *w)
{
    if (w->since_us)
        TAILQ_REMOVE(&g->waiting, w, link);
    w->since_us = 0;
}

void degrade_wrote(struct degrade *g, uint64_t us)
{
    unsigned i = g->n_writes % WRITES;
    g->writes[i].us = us;
    g->writes[i].ms = now_ns() / 1000000u;
    g->n_writes = g->n_writes + 1 ? g->n_writes + 1 : WRITES; /* never looks empty again */
}

void degrade_tick(struct degrade *g, uint64_t now_ms)
{
    const struct position_state *s = position_state(g->tracker);
    g->p50_us = median(g, now_ms);
    struct degrade_inputs in = {
        .lag_ms = s->role == POSITION_ROLE_PRIMARY ? 0 : s->lag_ms,
        .write_p50_us = g->p50_us,
        .primary_gone = s->role != POSITION_ROLE_PRIMARY && (!s->connected || !s->primary_reachable),
        .neighbours_gone = s->nodes_unreachable,
        .lease_gone = !s->lease_reachable,
    };
    for (int i = 0; i < g->n_entries; i++) {
        struct entry *e = &g->entries[i];
        uint8_t before = e->level;
        degrade_step(e->triggers, e->app, &in, now_ms);
        e->level = 0;
        for (unsigned k = 1; k <= DEGRADE_LEVELS; k++)
            if (e->triggers[k].holds)
                e->level = (uint8_t)k;
        if (e->level != before)
            log_warn("degrade", "%s: level %u (was %u)", e->name, e->level, before);
    }
}

/* ---- */

static const struct entry *find(const struct degrade *g, const struct config_proxy *app)
{
    for (int i = 0; i < g->n_entries; i++)
        if (g->entries[i].app == app)
            return &g->entries[i];
    for (int i = 0; i < g->n_entries; i++) /* of a former configuration, for requests that began under it */
        if (!strcmp(g->entries[i].name, app->name))
            return &g->entries[i];
    return NULL;
}

uint8_t degrade_level(const struct degrade *g)
{
    uint8_t level = 0;
    for (int i = 0; i < g->n_entries; i++)
        level = MAX(level, g->entries[i].level);
    return level;
}

uint8_t degrade_app_level(const struct degrade *g, const struct config_proxy *app)
{
    const struct entry *e = find(g, app);
    return e ? e->level : 0;
}

bool degrade_holds(const struct degrade *g, const struct config_proxy *app, unsigned level)
{
    const struct entry *e = find(g, app);
    return e && e->triggers[level].holds;
}

uint64_t degrade_write_p50(const struct degrade *g)
{
    return g->p50_us;
}

static void free_entries(struct entry *e, int n)
{
    for (int i = 0; e && i < n; i++)
        free(e[i].name);
    free(e);
}

int degrade_reload(struct degrade *g, const struct config *config, struct err *e)
{
    struct entry *fresh = calloc((size_t)config->n_proxies + 1, sizeof *fresh);
    for (int i = 0; fresh && i < config->n_proxies; i++) {
        const struct config_proxy *app = &config->proxies[i];
        const struct entry *old = find(g, app);
        if (old)
            fresh[i] = *old;
        fresh[i].app = app;
        if (!(fresh[i].name = strdup(app->name))) {
            free_entries(fresh, config->n_proxies);
            fresh = NULL;
        }
    }
    free_entries(g->entries, g->n_entries); /* in any case: the configuration that they point into goes */
    g->entries = fresh;
    g->n_entries = fresh ? config->n_proxies : 0;
    return fresh ? 0 : err_errno(e, ENOMEM, "degradation levels");
}

int degrade_open(const struct config *config, struct position_tracker *t, struct degrade **out, struct err *e)
{
    struct degrade *g = calloc(1, sizeof *g);
    if (!g)
        return err_errno(e, ENOMEM, "degradation levels");
    g->tracker = t;
    TAILQ_INIT(&g->waiting);
    int rc = degrade_reload(g, config, e);
    if (rc) {
        free(g);
        return rc;
    }
    *out = g;
    return 0;
}

void degrade_close(struct degrade *g)
{
    if (!g)
        return;
    free_entries(g->entries, g->n_entries);
    free(g);
}
