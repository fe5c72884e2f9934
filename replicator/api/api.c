#include "replicator/api/api.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/api/api_private.h"
#include "replicator/image/difference.h"
#include "replicator/image/difference_server.h"
#include "replicator/stream/follower.h"
#include "replicator/image/image_server.h"
#include "replicator/image/import.h"
#include "replicator/image/import_feed.h"
#include "replicator/image/lent.h"
#include "replicator/metrics.h"
#include "replicator/cluster/lease_etcd.h"
#include "replicator/cluster/promotion.h"
#include "replicator/stream/replicas.h"
#include "replicator/stream/stream_server.h"
#include "replicator/stream/sync.h"
#include "replicator/stream/upstream.h"
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>

#define LAG_OK_MS 60000u
#define WARNINGS_MAX 100u
#define JOBS_THREADS 2
#define JOBS_MAX 64

/* ---- calls ---- */

static void call_free(struct call *c)
{
    json_decref(c->answer);
    json_decref(c->body);
    if (c->fd >= 0)
        close(c->fd);
    if (c->free_extra)
        c->free_extra(c->extra);
    free(c);
}

static void call_closed(struct http_request *req, enum http_closed why, void *arg)
{
    struct call *c = arg;
    (void)req;
    (void)why;
    c->req = NULL;
    if (c->finished)
        call_free(c);
}

static void call_work(struct job *job)
{
    struct call *c = (struct call *)job; /* job is its first member */
    c->run(c);
}

static void call_done(struct job *job)
{
    struct call *c = (struct call *)job;
    if (job->cancelled) {
        c->status = 503;
        err_set(&c->e, -EBUSY, "this node stops");
    }
    call_finish(c);
}

struct call *call_new(struct api *a, struct http_request *req, void (*run)(struct call *c))
{
    struct call *c = calloc(1, sizeof *c);
    if (!c) {
        request_busy(req, "no memory");
        return NULL;
    }
    *c = (struct call){.job = {.work = call_work, .done = call_done}, .api = a, .req = req, .run = run, .status = 200, .fd = -1};
    http_set_closed(req, call_closed, c);
    return c;
}

void call_submit(struct call *c, struct jobs *j)
{
    if (jobs_submit(j, &c->job) == 0)
        return;
    metrics_add(METRIC_JOBS_REFUSED, 1);
    c->status = 503;
    err_set(&c->e, -EBUSY, "this node has too much to do already, try again");
    call_finish(c);
}

void call_error(struct call *c, const struct err *e)
{
    c->status = request_status(e->code);
    c->e = *e;
}

void call_finish(struct call *c)
{
    c->finished = true;
    if (!c->req) {
        call_free(c);
        return;
    }
    if (c->status == 503)
        http_set_header(c->req, "Retry-After", "1");
    if (c->status == 421 && !c->answer)
        c->answer = request_not_primary(c->api->node);
    if (c->status == 200 && c->reply) {
        c->reply(c);
    } else if (c->answer || c->status == 200) {
        http_reply_json(c->req, c->status, c->answer);
        c->answer = NULL;
    } else {
        http_reply_error(c->req, c->status, "%s", c->e.text);
    }
}

/* ---- status ---- */

struct totals {
    json_t *warnings;
    json_int_t count, bytes, others, warned;
};

static int add_database(void *ctx, struct database *db)
{
    struct totals *t = ctx;
    pthread_mutex_lock(&db->lock);
    if (db->state != DATABASE_ABSENT && db->state != DATABASE_OTHER) {
        const struct dbstate *st = database_dbstate(db);
        t->count++;
        t->bytes += (json_int_t)st->commit * st->page_size;
    }
    t->others += db->state == DATABASE_OTHER;
    if (db->damaged && db->state != DATABASE_ABSENT && ++t->warned <= WARNINGS_MAX)
        json_array_append_new(t->warnings, json_sprintf("%s: %u pages changed on the disk by themselves (page %u …) and could not be mended", db->name,
                                                        db->damaged, db->damaged_page));
    if (db->warning[0] && db->state != DATABASE_ABSENT && ++t->warned <= WARNINGS_MAX)
        json_array_append_new(t->warnings, json_sprintf("%s: %s", db->name, db->warning));
    pthread_mutex_unlock(&db->lock);
    return 0;
}

static json_t *node_list(struct node *n, const char *own_url, const json_t *replicas)
{
    json_t *list = json_array(), *r;
    const struct config *cfg = n->config;
    size_t i;
    if (!config_node(cfg, cfg->node))
        json_array_append_new(list, json_pack("{s:s,s:s}", "name", cfg->node, "url", own_url));
    for (int k = 0; k < cfg->n_nodes; k++)
        json_array_append_new(list, json_pack("{s:s,s:s}", "name", cfg->nodes[k].name, "url", cfg->nodes[k].url));
    json_array_foreach(replicas, i, r)
    {
        const char *name = json_string_value(json_object_get(r, "node"));
        const char *url = json_string_value(json_object_get(r, "url"));
        if (name && url && url[0] && json_is_true(json_object_get(r, "connected")) && !config_node(cfg, name) &&
            strcmp(name, cfg->node) != 0)
            json_array_append_new(list, json_pack("{s:s,s:s}", "name", name, "url", url));
    }
    return list;
}

static json_t *lag_json(const struct node *n)
{
    uint64_t lag = node_lag_ms(n);
    return lag == UINT64_MAX ? json_null() : json_integer((json_int_t)lag);
}

static void add_node_warnings(struct node *n, json_t *warnings)
{
    char text[sizeof n->warning];
    pthread_mutex_lock(&n->lock);
    memcpy(text, n->warning, sizeof text);
    pthread_mutex_unlock(&n->lock);
    if (text[0])
        json_array_append_new(warnings, json_string(text));
    if (atomic_load(&n->disk_low))
        json_array_append_new(warnings, json_sprintf("the disk of the data directory is nearly full: %lld MiB are left, and the log has given up all that no connected "
                                                     "replica needs (it takes %lld MiB)",
                                                     (long long)(atomic_load(&n->disk_free) >> 20), (long long)(rlog_bytes(n->rlog) >> 20)));
    sync_warning(n->sync, text, sizeof text);
    if (text[0])
        json_array_append_new(warnings, json_string(text));
    if (atomic_load(&n->disk_full))
        json_array_append_new(warnings, json_string("the disk of the data directory is full: the log cannot be written"));
}

static void on_status(struct http_request *req, void *arg)
{
    struct api *a = arg;
    struct node *n = a->node;
    char primary[128], primary_url[256], url[256];
    node_primary(n, primary, primary_url);
    api_own_url(n, url);
    struct position last = rlog_last(n->rlog), applied = node_applied(n);
    struct totals t = {.warnings = json_array()};
    char upstream[128], upstream_url[256], path[NODE_PATH_MAX];
    node_upstream(n, upstream, upstream_url, path);
    add_node_warnings(n, t.warnings);
    databases_each(n->databases, add_database, &t);
    json_t *replicas = replicas_json(n->replicas);
    json_t *o = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:I}", "node", n->config->node, "version", EDGEFS_VERSION, "role",
                          node_role_name(node_role(n)), "url", url, "primary", primary, "primary_url", primary_url, "epoch",
                          (json_int_t)last.epoch, "lsn", (json_int_t)last.lsn);
    json_t *more = json_pack(
        "{s:{s:I,s:I},s:{s:I,s:I,s:I,s:I},s:o,s:b,s:s,s:s,s:b,s:I,s:i,s:{s:I,s:I,s:I,s:I},s:O,s:O,s:o,s:o,s:o,s:o}", "applied", "epoch",
        (json_int_t)applied.epoch, "lsn", (json_int_t)applied.lsn, "log", "first_lsn", (json_int_t)rlog_first(n->rlog), "last_lsn",
        (json_int_t)last.lsn, "durable_lsn", (json_int_t)rlog_durable(n->rlog), "bytes", (json_int_t)rlog_bytes(n->rlog), "lag_ms",
        lag_json(n), "connected", node_live(n), "dir", n->config->dir, "data", n->config->data, "passthrough",
        (int)atomic_load(&n->passthrough), "uptime_s", (json_int_t)((now_ns() - n->start_ns) / 1000000000u), "pid", (int)getpid(),
        "databases", "count", t.count, "bytes", t.bytes, "others", t.others, "warnings", t.warned, "warnings", t.warnings, "replicas", replicas, "nodes",
        node_list(n, url, replicas), "promotion", promotion_status(n), "lease",
        n->lease ? lease_etcd_status(n->lease) : json_pack("{s:s}", "type", "static"), "sync", sync_json(n->sync));
    if (o && more)
        json_object_update(o, more);
    if (o && node_role(n) == NODE_REPLICA)
        json_object_set_new(o, "upstream", *upstream_url ? json_pack("{s:s,s:s,s:s,s:b}", "node", upstream, "url", upstream_url, "path", path, "live",
                                                                     node_live(n)) : json_null());
    json_decref(replicas);
    json_decref(t.warnings);
    if (!more) {
        json_decref(o);
        o = NULL;
    }
    json_decref(more);
    http_reply_json(req, 200, o);
}

static void on_healthz(struct http_request *req, void *arg)
{
    struct node *n = ((struct api *)arg)->node;
    enum node_role r = node_role(n);
    const char *status = "ok";
    if (r == NODE_STARTING)
        status = "starting";
    else if (r == NODE_REPLICA && !node_live(n))
        status = "disconnected";
    else if (r == NODE_REPLICA && node_lag_ms(n) >= LAG_OK_MS)
        status = "lagging";
    http_set_header(req, "Cache-Control", "no-store");
    http_reply_json(req, strcmp(status, "ok") == 0 ? 200 : 503, json_pack("{s:s,s:s}", "status", status, "role", node_role_name(r)));
}

static void on_metrics(struct http_request *req, void *arg)
{
    struct api *a = arg;
    _cleanup_free_ char *text = metrics_text(a->node, a->streams);
    if (text)
        http_reply(req, 200, "text/plain; version=0.0.4; charset=utf-8", text, strlen(text));
    else
        request_busy(req, "no memory");
}

static void on_ack(struct http_request *req, void *arg)
{
    struct api *a = arg;
    uint64_t received, applied, durable;
    json_t *o = request_json(req);
    if (!o)
        return;
    const char *node = request_string(o, "node", 64);
    if (!node || request_number(o, "received", 0, &received) || request_number(o, "applied", 0, &applied) ||
        request_number(o, "durable", 0, &durable)) {
        http_reply_error(req, 400, "needed: {\"node\": name, \"received\": LSN, \"applied\": LSN, \"durable\": LSN}");
    } else {
        replicas_ack(a->node->replicas, node, received, applied, durable);
        /* Of the epoch that this node is writing (so the histories are the same up to there), and with every database whole. */
        if (json_is_true(json_object_get(o, "whole")) && (uint64_t)json_integer_value(json_object_get(o, "epoch")) == rlog_last(a->node->rlog).epoch) {
            replicas_vouch(a->node->replicas, node, durable);
            sync_vouched(a->node->sync);
        }
        http_reply(req, 204, NULL, NULL, 0);
    }
    json_decref(o);
}

/* A promotion's target comes to the primary itself, by whatever relay it follows otherwise. */
static void on_upstream(struct http_request *req, void *arg)
{
    struct node *n = ((struct api *)arg)->node;
    uint64_t ms;
    json_t *o = request_json(req);
    if (!o)
        return;
    char name[128], primary[256];
    const char *url = request_string(o, "url", UPSTREAM_URL_MAX - 1);
    node_primary(n, name, primary);
    if (!url || request_number(o, "for_ms", 0, &ms) || ms > UPSTREAM_FOLLOW_MAX_MS)
        http_reply_error(req, 400, "needed: {\"url\": URL, \"for_ms\": 0 to %u}", UPSTREAM_FOLLOW_MAX_MS);
    else if (node_role(n) != NODE_REPLICA)
        http_reply_error(req, 409, "this node is no replica");
    else if (strcmp(url, primary) != 0)
        http_reply_error(req, 409, "this node knows %s (%s) as primary, not %.200s", name, primary, url);
    else {
        upstream_follow(n->upstream_choice, url, ms * 1000000u);
        char now[128], now_url[256];
        node_upstream(n, now, now_url, NULL);
        if (strcmp(now_url, url) != 0)
            follower_restart(n->follower);
        http_reply(req, 204, NULL, NULL, 0);
    }
    json_decref(o);
}

static void on_stream(struct http_request *req, void *arg)
{
    stream_server_handle(req, ((struct api *)arg)->streams);
}

/* ---- below /v1/databases/ ---- */

/* ?lsn=N: not the state before that record. A replica that is not there yet does not answer with an older one, nor say that there is no such database. */
static bool recent_enough(struct http_request *req, struct node *n)
{
    const char *lsn = http_query(req, "lsn");
    uint64_t least = 0, applied = node_applied(n).lsn;
    if (lsn && request_u64(lsn, INT64_MAX, &least)) {
        http_reply_error(req, 400, "lsn is a decimal number");
        return false;
    }
    if (node_role(n) == NODE_REPLICA && applied < least) {
        request_busy(req, "this replica has applied the log up to LSN %llu only", (unsigned long long)applied);
        return false;
    }
    return true;
}

void api_database(struct http_request *req, void *arg)
{
    struct api *a = arg;
    char name[LAYOUT_NAME_MAX + 1], verb[32];
    if (request_database(req, name, verb)) {
        http_reply_error(req, 404, "not /v1/databases/NAME[/checksum|/sums|/blocks|/image|/repair]; NAME is a path inside the mount, percent-encoded "
                                   "('/' as %%2F), and no companion file (-wal, -shm, -journal, -pos)");
        return;
    }
    bool get = (http_method(req) & (HTTP_M_GET | HTTP_M_HEAD)) != 0, post = http_method(req) == HTTP_M_POST;
    if ((get || post) && !recent_enough(req, a->node))
        return;
    if (!verb[0] && http_method(req) == HTTP_M_PUT)
        import_put(a, req, name);
    else if (!verb[0] && http_method(req) == HTTP_M_DELETE)
        import_delete(a, req, name);
    else if (get && strcmp(verb, "checksum") == 0)
        api_checksum(a, req, name);
    else if (get && strcmp(verb, "sums") == 0)
        api_sums(a, req, name);
    else if ((get || post) && strcmp(verb, "blocks") == 0)
        difference_server_blocks(a, req, name);
    else if ((get || post) && strcmp(verb, "image") == 0)
        image_server_get(a, req, name);
    else if (post && strcmp(verb, "repair") == 0)
        api_repair(a, req, name);
    else if (!verb[0] || !get)
        http_reply_error(req, 405, "GET goes to /v1/databases/NAME/checksum, /sums, /blocks or /image; POST to /blocks, /image and /repair; PUT and DELETE to "
                                   "/v1/databases/NAME");
    else
        http_reply_error(req, 404, "there is nothing called \"%s\" below a database", verb);
}

/* What a program on the same host may use besides HTTP. */
static void on_local(struct http_request *req, void *arg)
{
    struct api *a = arg;
    if (a->lent)
        http_reply_json(req, 200, json_pack("{s:s}", "files", lent_path(a->lent)));
    else
        http_reply_error(req, 404, "this node takes files by upload only");
}

/* ---- the server ---- */

static int listen_on(struct api *a, struct err *e)
{
    const struct config *cfg = a->node->config;
    const struct http_route routes[] = {
        {HTTP_M_GET, "/healthz", HTTP_OPEN, on_healthz, a, 0},
        {HTTP_M_GET, "/metrics", 0, on_metrics, a, 0},
        {HTTP_M_GET, "/v1/status", 0, on_status, a, 0},
        {HTTP_M_GET, "/v1/databases", 0, api_databases, a, 0},
        {HTTP_M_GET | HTTP_M_PUT | HTTP_M_DELETE, "/v1/databases/", HTTP_PREFIX | HTTP_STREAM_BODY, api_database, a, 0},
        {HTTP_M_POST, "/v1/databases/", HTTP_PREFIX, api_database, a, DIFFERENCE_RANGES_MAX * 8},
        {HTTP_M_GET, "/v1/imports/", HTTP_PREFIX, import_feed_get, a, 0},
        {HTTP_M_GET, "/v1/local", 0, on_local, a, 0},
        {HTTP_M_GET, "/v1/log", 0, api_log, a, 0},
        {HTTP_M_GET, "/v1/log/", HTTP_PREFIX, api_log_record, a, 0},
        {HTTP_M_GET, "/v1/quarantine", 0, api_quarantine, a, 0},
        {HTTP_M_GET | HTTP_M_DELETE, "/v1/quarantine/", HTTP_PREFIX, api_quarantine_file, a, 0},
        {HTTP_M_POST, "/v1/wait", 0, api_wait, a, 4096},
        {HTTP_M_POST, "/v1/promote", 0, api_promote, a, 4096},
        {HTTP_M_GET, "/v1/stream", HTTP_EOF_IS_GONE, on_stream, a, 0},
        {HTTP_M_POST, "/v1/ack", 0, on_ack, a, 4096},
        {HTTP_M_POST, "/v1/upstream", 0, on_upstream, a, 4096},
        {HTTP_M_POST, "/v1/handover", 0, api_handover, a, 65536},
        {HTTP_M_POST, "/v1/handover/cancel", 0, api_handover_cancel, a, 65536},
    };
    struct http_server_options o = {.host = cfg->http.host, .port = cfg->http.port, .token = a->node->token};
    return http_server_open(a->base, &o, routes, ARRAY_SIZE(routes), &a->http, e);
}

int api_open(struct node *n, struct event_base *base, struct api **out, struct err *e)
{
    struct api *a = calloc(1, sizeof *a);
    if (!a)
        return err_errno(e, ENOMEM, "API");
    a->node = n;
    a->base = base;
    TAILQ_INIT(&a->waiters);
    pthread_mutex_init(&a->lock, NULL);
    int rc = listen_on(a, e);
    n->http = a->http;
    if (!rc)
        rc = stream_server_open(n, base, &a->streams, e);
    n->streams = a->streams;
    if (!rc)
        rc = jobs_open(a->http, JOBS_THREADS, JOBS_MAX, &a->jobs, e);
    if (!rc)
        rc = jobs_open(a->http, 1, JOBS_MAX, &a->urgent, e);
    if (!rc)
        rc = jobs_open(a->http, 1, JOBS_MAX, &a->copying, e);
    if (rc) {
        api_close(a);
        return rc;
    }
    struct err lent;
    if (lent_open(n->config->data, base, &a->lent, &lent))
        log_warn("api", "edgefs-ctl cannot lend files for imports, and has to upload them: %s", lent.text);
    log_info("api", "listening on %s port %u", n->config->http.host, http_server_port(a->http));
    *out = a;
    return 0;
}

int api_post(struct api *a, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&a->lock); /* while it is held the server is there */
    int rc = a->stopped ? -ESHUTDOWN : http_server_post(a->http, fn, arg);
    pthread_mutex_unlock(&a->lock);
    return rc;
}

void api_stop(struct api *a)
{
    if (!a || a->stopped)
        return;
    jobs_close(a->urgent);
    jobs_close(a->jobs);
    jobs_close(a->copying);
    a->urgent = a->jobs = a->copying = NULL; /* what ends below finds no pool, and does the rest itself */
    api_wait_close(a);
    stream_server_stop(a->streams);
    pthread_mutex_lock(&a->lock);
    a->stopped = true;
    pthread_mutex_unlock(&a->lock);
    http_server_close(a->http);
    lent_close(a->lent);
}

void api_close(struct api *a)
{
    if (!a)
        return;
    api_stop(a);
    stream_server_close(a->streams);
    a->node->http = NULL;
    a->node->streams = NULL;
    pthread_mutex_destroy(&a->lock);
    free(a);
}

void api_own_url(struct node *n, char url[256])
{
    const struct config *cfg = n->config;
    snprintf(url, 256, "%s", cfg->http.advertise ? cfg->http.advertise : "");
    if (cfg->http.port != 0 || !n->http)
        return;
    size_t len = strlen(url);
    if (len > 2 && strcmp(url + len - 2, ":0") == 0)
        snprintf(url + len - 1, 256 - (len - 1), "%u", http_server_port(n->http));
}
