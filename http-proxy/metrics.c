#include "http-proxy/metrics.h"

#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <stdio.h>

uint64_t proxy_counters[PROXY_COUNT_N];

/* X(µs, as Prometheus writes it in seconds) */
#define BUCKETS(X)                                                                                                                         \
    X(50, "0.00005") X(100, "0.0001") X(250, "0.00025") X(500, "0.0005") X(1000, "0.001") X(2500, "0.0025") X(5000, "0.005")               \
    X(10000, "0.01") X(25000, "0.025") X(50000, "0.05") X(100000, "0.1") X(250000, "0.25") X(500000, "0.5") X(1000000, "1")                \
    X(2500000, "2.5") X(5000000, "5") X(10000000, "10")

static const uint64_t bounds[] = {
#define X(us, text) us,
    BUCKETS(X)
#undef X
};
static const char *const bound_texts[] = {
#define X(us, text) text,
    BUCKETS(X)
#undef X
};

struct histogram {
    uint64_t counts[ARRAY_SIZE(bounds) + 1];
    uint64_t sum_us;
};

/* X(id, name, help): histograms of an entry. */
#define HISTOGRAMS(X)                                                                                                                      \
    X(REQUEST, "edgefs_proxy_request_seconds", "From a request's head to the end of its response.")                                        \
    X(WAIT, "edgefs_proxy_wait_seconds", "How long requests were parked, those that were: for a position, a primary, or capture.")         \
    X(UPSTREAM, "edgefs_proxy_upstream_seconds", "From sending a request on to the head of the response.")

enum {
#define X(id, name, help) HISTOGRAM_##id,
    HISTOGRAMS(X)
#undef X
        HISTOGRAM_N
};

/* X(id, name, help): counters of an entry without further labels. */
#define ENTRY_COUNTERS(X)                                                                                                                  \
    X(BYTES_IN, "edgefs_proxy_received_bytes_total", "Bytes from clients.")                                                                \
    X(BYTES_OUT, "edgefs_proxy_sent_bytes_total", "Bytes to clients.")                                                                     \
    X(WAITED, "edgefs_proxy_waited_total", "Reads that waited for their position here.")                                                   \
    X(STALE, "edgefs_proxy_stale_total", "Reads answered here although this node was behind.")                                             \
    X(FORWARDED_READS, "edgefs_proxy_forwarded_reads_total", "Reads that went to the primary.")                                            \
    X(FORWARDED_WRITES, "edgefs_proxy_forwarded_writes_total", "Writes that went to the primary.")                                         \
    X(REPLAYED, "edgefs_proxy_replayed_total", "Requests that the application wanted replayed at the primary.")                            \
    X(REUSED, "edgefs_proxy_upstream_reused_total", "Requests served over a connection of a pool.")

enum {
#define X(id, name, help) ENTRY_##id,
    ENTRY_COUNTERS(X)
#undef X
        ENTRY_N
};

/* X(field of struct proxy_gauges, name, type, help) */
#define GAUGES(X)                                                                                                                          \
    X(clients, "edgefs_proxy_clients", "gauge", "Connections of clients.")                                                                 \
    X(clients_idle, "edgefs_proxy_clients_idle", "gauge", "… without a request.")                                                         \
    X(upstreams, "edgefs_proxy_upstreams", "gauge", "Connections to applications.")                                                        \
    X(upstreams_idle, "edgefs_proxy_upstreams_idle", "gauge", "… in the pool.")                                                           \
    X(peers, "edgefs_proxy_peers", "gauge", "Connections to other proxies.")                                                               \
    X(peers_idle, "edgefs_proxy_peers_idle", "gauge", "… in the pool.")                                                                   \
    X(parked, "edgefs_proxy_parked", "gauge", "Requests that wait for a position or a primary.")                                           \
    X(writes, "edgefs_proxy_writes", "gauge", "Requests that write and that the application here works on; a promotion waits for them.") \
    X(tunnels, "edgefs_proxy_tunnels", "gauge", "Connections that became tunnels (Upgrade).")                                              \
    X(accepted, "edgefs_proxy_accepted_total", "counter", "Connections accepted.")                                                         \
    X(connects, "edgefs_proxy_connects_total", "counter", "Connections made to applications and other proxies.")                           \
    X(connect_failures, "edgefs_proxy_connect_failures_total", "counter", "… that could not be made.")                                    \
    X(retries, "edgefs_proxy_retries_total", "counter", "Requests sent a second time.")                                                    \
    X(buffers, "edgefs_proxy_buffers", "gauge", "Buffers in use.")                                                                         \
    X(cache_bytes, "edgefs_proxy_cache_bytes", "gauge", "Memory of the response caches.")                                                  \
    X(cache_entries, "edgefs_proxy_cache_entries", "gauge", "Stored responses.")

struct entry {
    char name[65];
    uint64_t outcomes[PROXY_OUTCOME_COUNT];
    uint64_t classes[6]; /* of statuses; [0]: none was sent */
    uint64_t counters[ENTRY_N];
    struct histogram histograms[HISTOGRAM_N];
};

struct proxy_metrics {
    struct proxy_gauges gauges;
    const struct config_proxy *last; /* whose entry was used last */
    struct entry *last_entry;
    int n;
    struct entry entries[CONFIG_PROXIES_MAX];
};

int proxy_metrics_open(struct proxy_metrics **out, struct err *e)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : err_errno(e, ENOMEM, "metrics");
}

void proxy_metrics_close(struct proxy_metrics *m)
{
    free(m);
}

struct proxy_gauges *proxy_metrics_gauges(struct proxy_metrics *m)
{
    return &m->gauges;
}

/* By name: an entry goes on counting through reloads. Names that came and went in many reloads share the last one. */
static struct entry *entry_of(struct proxy_metrics *m, const struct config_proxy *app)
{
    if (app == m->last && !strcmp(m->last_entry->name, app->name))
        return m->last_entry;
    int i = 0;
    while (i < m->n && strcmp(m->entries[i].name, app->name) != 0)
        i++;
    if (i == m->n && m->n < CONFIG_PROXIES_MAX) {
        snprintf(m->entries[i].name, sizeof m->entries[i].name, "%s", app->name);
        m->n++;
    }
    m->last = app;
    m->last_entry = &m->entries[MIN(i, CONFIG_PROXIES_MAX - 1)];
    return m->last_entry;
}

static void observe(struct histogram *h, uint64_t us)
{
    unsigned i = 0;
    while (i < ARRAY_SIZE(bounds) && us > bounds[i])
        i++;
    h->counts[i]++;
    h->sum_us += us;
}

static void record_decision(struct entry *e, const struct proxy_exchange *x)
{
    const struct decision *d = x->decision;
    e->counters[ENTRY_WAITED] += d->waited && d->verdict == DECIDE_LOCAL;
    e->counters[ENTRY_STALE] += d->stale && d->verdict == DECIDE_LOCAL;
    e->counters[ENTRY_REPLAYED] += d->replayed;
    if (x->outcome == PROXY_OUTCOME_FORWARDED)
        e->counters[d->kind == DECIDE_READ ? ENTRY_FORWARDED_READS : ENTRY_FORWARDED_WRITES]++;
}

void proxy_metrics_record(struct proxy_metrics *m, const struct proxy_exchange *x)
{
    struct entry *e = entry_of(m, x->app);
    e->outcomes[x->outcome]++;
    e->classes[x->status >= 100 && x->status < 600 ? x->status / 100 : 0]++;
    e->counters[ENTRY_BYTES_IN] += x->bytes_in;
    e->counters[ENTRY_BYTES_OUT] += x->bytes_out;
    e->counters[ENTRY_REUSED] += x->upstream_reused;
    if (x->decision)
        record_decision(e, x);
    if (x->outcome != PROXY_OUTCOME_UPGRADED) /* a tunnel lasts as long as somebody likes */
        observe(&e->histograms[HISTOGRAM_REQUEST], x->total_us);
    if (x->wait_us)
        observe(&e->histograms[HISTOGRAM_WAIT], x->wait_us);
    if (x->upstream_us)
        observe(&e->histograms[HISTOGRAM_UPSTREAM], x->upstream_us);
}

/* ---- the page ---- */

static void head(FILE *f, const char *name, const char *type, const char *help)
{
    fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void one(FILE *f, const char *name, const char *type, const char *help, uint64_t value)
{
    head(f, name, type, help);
    fprintf(f, "%s %llu\n", name, (unsigned long long)value);
}

static void write_outcomes(FILE *f, const struct proxy_metrics *m)
{
    static const char *const texts[] = {
#define X(id, text) text,
        PROXY_OUTCOMES(X)
#undef X
    };
    head(f, "edgefs_proxy_requests_total", "counter", "Requests by how they ended.");
    for (int i = 0; i < m->n; i++)
        for (unsigned k = 0; k < PROXY_OUTCOME_COUNT; k++)
            fprintf(f, "edgefs_proxy_requests_total{app=\"%s\",outcome=\"%s\"} %llu\n", m->entries[i].name, texts[k],
                    (unsigned long long)m->entries[i].outcomes[k]);
    head(f, "edgefs_proxy_responses_total", "counter", "Responses by the class of their status.");
    for (int i = 0; i < m->n; i++)
        for (unsigned k = 1; k < ARRAY_SIZE(m->entries[i].classes); k++)
            fprintf(f, "edgefs_proxy_responses_total{app=\"%s\",code=\"%uxx\"} %llu\n", m->entries[i].name, k,
                    (unsigned long long)m->entries[i].classes[k]);
}

static void write_entry_counter(FILE *f, const struct proxy_metrics *m, unsigned id, const char *name, const char *help)
{
    head(f, name, "counter", help);
    for (int i = 0; i < m->n; i++)
        fprintf(f, "%s{app=\"%s\"} %llu\n", name, m->entries[i].name, (unsigned long long)m->entries[i].counters[id]);
}

static void write_histogram(FILE *f, const struct proxy_metrics *m, unsigned id, const char *name, const char *help)
{
    head(f, name, "histogram", help);
    for (int i = 0; i < m->n; i++) {
        const struct histogram *h = &m->entries[i].histograms[id];
        unsigned long long sum = 0;
        for (unsigned k = 0; k < ARRAY_SIZE(h->counts); k++) {
            sum += h->counts[k];
            fprintf(f, "%s_bucket{app=\"%s\",le=\"%s\"} %llu\n", name, m->entries[i].name, k < ARRAY_SIZE(bounds) ? bound_texts[k] : "+Inf", sum);
        }
        fprintf(f, "%s_sum{app=\"%s\"} %llu.%06u\n%s_count{app=\"%s\"} %llu\n", name, m->entries[i].name,
                (unsigned long long)(h->sum_us / 1000000u), (unsigned)(h->sum_us % 1000000u), name, m->entries[i].name, sum);
    }
}

static void write_state(FILE *f, const struct position_state *s, uint8_t degraded)
{
    one(f, "edgefs_proxy_degraded", "gauge", "Degradation level, 0 to 5.", degraded);
    one(f, "edgefs_proxy_replicator_connected", "gauge", "1 while the node's replicator is there.", s->connected);
    one(f, "edgefs_proxy_primary", "gauge", "1 on the primary, else 0.", s->role == POSITION_ROLE_PRIMARY);
    one(f, "edgefs_proxy_primary_reachable", "gauge", "1 while the stream from the primary is up.", s->primary_reachable);
    one(f, "edgefs_proxy_position_lsn", "gauge", "LSN that reads here see.", s->pos.lsn);
    one(f, "edgefs_proxy_lag_records", "gauge", "Records that are known and not applied here.", s->lag_records);
    if (s->lag_ms != UINT64_MAX) {
        head(f, "edgefs_proxy_lag_seconds", "gauge", "Time since this node last had everything.");
        fprintf(f, "edgefs_proxy_lag_seconds %llu.%03u\n", (unsigned long long)(s->lag_ms / 1000u), (unsigned)(s->lag_ms % 1000u));
    }
}

char *proxy_metrics_text(struct proxy_metrics *m, const struct position_state *state, uint8_t degraded, size_t *len)
{
    char *text = NULL;
    FILE *f = open_memstream(&text, len);
    if (!f)
        return NULL;
    write_outcomes(f, m);
#define X(id, name, help) write_entry_counter(f, m, ENTRY_##id, name, help);
    ENTRY_COUNTERS(X)
#undef X
#define X(id, name, help) write_histogram(f, m, HISTOGRAM_##id, name, help);
    HISTOGRAMS(X)
#undef X
#define X(id, name, help) one(f, name, "counter", help, proxy_counters[PROXY_COUNT_##id]);
    PROXY_COUNTERS(X)
#undef X
#define X(field, name, type, help) one(f, name, type, help, m->gauges.field);
    GAUGES(X)
#undef X
    write_state(f, state, degraded);
    if (fclose(f)) {
        free(text);
        return NULL;
    }
    return text;
}
