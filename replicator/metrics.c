#include "replicator/metrics.h"

#include "lib/http/server.h"
#include "lib/util.h"
#include "replicator/node.h"
#include "replicator/stream/stream_server.h"
#include "replicator/stream/sync.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>

atomic_uint_fast64_t metrics_values[METRICS_N];

enum gauge {
#define X(id, name, type, help) GAUGE_##id,
    METRICS_GAUGES(X)
#undef X
        GAUGES_N
};

static const struct {
    const char *name, *type, *help;
} gauges[GAUGES_N] = {
#define X(id, name, type, help) [GAUGE_##id] = {name, type, help},
    METRICS_GAUGES(X)
#undef X
};

static const struct {
    const char *name, *help;
} counters[METRICS_N] = {
#define X(id, name, help) [METRIC_##id] = {name, help},
    METRICS_COUNTERS(X)
#undef X
};

static double resident_bytes(void)
{
    char buf[128] = "";
    unsigned long pages = 0;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, buf, sizeof buf - 1);
    close(fd);
    if (n <= 0 || sscanf(buf, "%*u %lu", &pages) != 1)
        return 0;
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static double open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    double n = -3; /* ".", "..", and d's own */
    if (!d)
        return 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static int add_database(void *ctx, struct database *db)
{
    double *v = ctx;
    pthread_mutex_lock(&db->lock);
    if (db->state != DATABASE_ABSENT && db->state != DATABASE_OTHER) {
        const struct dbstate *st = database_dbstate(db);
        v[GAUGE_DATABASES]++;
        v[GAUGE_DATABASE_BYTES] += (double)st->commit * st->page_size;
    }
    if (db->warning[0] && db->state != DATABASE_ABSENT)
        v[GAUGE_WARNINGS]++;
    pthread_mutex_unlock(&db->lock);
    return 0;
}

static void read_gauges(struct node *n, const struct stream_server *streams, double v[GAUGES_N])
{
    struct position last = rlog_last(n->rlog);
    uint64_t lag = node_lag_ms(n);
    struct http_server_stats h;
    http_server_stats(n->http, &h);
    v[GAUGE_UP] = (double)(now_ns() - n->start_ns) / 1e9;
    v[GAUGE_PRIMARY] = node_role(n) == NODE_PRIMARY;
    v[GAUGE_CONNECTED] = node_live(n);
    v[GAUGE_EPOCH] = (double)last.epoch;
    v[GAUGE_LSN] = (double)last.lsn;
    v[GAUGE_FIRST_LSN] = (double)rlog_first(n->rlog);
    v[GAUGE_DURABLE_LSN] = (double)rlog_durable(n->rlog);
    v[GAUGE_APPLIED_LSN] = (double)node_applied(n).lsn;
    v[GAUGE_LOG_BYTES] = (double)rlog_bytes(n->rlog);
    v[GAUGE_LAG] = lag == UINT64_MAX ? (double)(now_ns() - n->start_ns) / 1e9 : (double)lag / 1e3;
    databases_each(n->databases, add_database, v);
    v[GAUGE_DISK_FULL] = atomic_load(&n->disk_full);
    v[GAUGE_DISK_LOW] = atomic_load(&n->disk_low);
    v[GAUGE_DISK_FREE] = (double)atomic_load(&n->disk_free);
    v[GAUGE_SYNC_DEGRADED] = sync_is_degraded(n->sync);
    v[GAUGE_SYNC_WAITING] = sync_waiting(n->sync);
    v[GAUGE_STREAMS_OPEN] = stream_server_count(streams);
    v[GAUGE_HTTP_CONNECTIONS] = h.connections;
    v[GAUGE_HTTP_REQUESTS] = (double)h.requests;
    v[GAUGE_HTTP_BAD] = (double)h.bad;
    v[GAUGE_HTTP_UNAUTHORIZED] = (double)h.unauthorized;
    v[GAUGE_HTTP_TIMED_OUT] = (double)h.timed_out;
    v[GAUGE_HTTP_REFUSED] = (double)h.refused;
    v[GAUGE_MEMORY] = resident_bytes();
    v[GAUGE_CPU] = cpu_seconds();
    v[GAUGE_FDS] = open_fds();
}

char *metrics_text(struct node *n, const struct stream_server *streams)
{
    char *text = NULL;
    size_t size;
    double v[GAUGES_N] = {0};
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    read_gauges(n, streams, v);
    for (int i = 0; i < GAUGES_N; i++)
        fprintf(f, "# HELP %s %s\n# TYPE %s %s\n%s %.17g\n", gauges[i].name, gauges[i].help, gauges[i].name, gauges[i].type,
                gauges[i].name, v[i]);
    for (int i = 0; i < METRICS_N; i++)
        fprintf(f, "# HELP %s %s\n# TYPE %s counter\n%s %llu\n", counters[i].name, counters[i].help, counters[i].name,
                counters[i].name, (unsigned long long)atomic_load_explicit(&metrics_values[i], memory_order_relaxed));
    if (fclose(f)) {
        free(text);
        return NULL;
    }
    return text;
}
