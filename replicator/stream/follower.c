#include "replicator/stream/follower.h"

#include "lib/crc.h"
#include "lib/http/client.h"
#include "lib/http/pipeline.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/apply/apply_records.h"
#include "replicator/cluster/discover.h"
#include "lib/filter.h"
#include "replicator/capture/hooks.h"
#include "replicator/image/image_client.h"
#include "replicator/image/incoming.h"
#include "replicator/cluster/lease.h"
#include "replicator/stream/position_server.h"
#include "replicator/database/quarantine.h"
#include "replicator/stream/stream_server.h"
#include "replicator/cluster/takeover.h"
#include "replicator/stream/fork.h"
#include "replicator/stream/group.h"
#include "replicator/stream/upstream.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/prctl.h>

#define IDLE_MS 3500            /* three heartbeats and a half */
#define RETRY_FIRST_MS 20u
#define RETRY_MAX_MS 2000u
#define CONTROL_MAX (16u << 20) /* payload of a control frame (RESET names every database) */
#define ACK_MS 8
#define LOOK_NS 1000000000u
#define CUT_OFF_NS 3000000000u /* an upstream that does not reach the primary any more gets this long to find it again */

struct follower {
    struct node *node;
    pthread_t thread, acker, looker;
    bool looks; /* there is a looker */
    struct http_client *client;
    pthread_mutex_t lock;  /* guards restart, stop */
    pthread_cond_t changed;
    bool restart, stop;
    pthread_cond_t sync_wanted;
    bool sync; /* guarded by lock: a commit waits until what has been received is durable and the upstream knows it */
    pthread_mutex_t work;  /* held while what arrived is worked on; see follower_quiesced */
    /* follower thread only */
    struct apply *apply;
    uint8_t head[RECORD_HEAD_MAX];
    size_t head_len;
    bool in_payload;
    struct record_head h;  /* of the payload that is being received */
    uint32_t received;     /* bytes of it */
    uint8_t *payload;      /* control frames, and records up to APPLY_IN_MEMORY; grows as needed */
    size_t payload_size;
    bool in_log;           /* a record is begun in the log */
    struct group group;
    bool first_frame;
    bool prepared;         /* since the acker was told last, a record came that somebody waits for */
    uint64_t server_lsn;   /* last LSN the server said it has */
    char url[UPSTREAM_URL_MAX]; /* whom it follows */
    bool afresh;           /* it wants other databases than those it was made with: the server is to name them all */
    uint64_t cut_off_ns;   /* since when the server says that it has lost its own upstream; 0: it has not */
    struct err error;      /* why the stream was ended from here */
};

/* ---- control frames ---- */

static int adopt_epochs(struct follower *f, const json_t *list, struct err *e)
{
    struct epoch_entry *v = NULL;
    size_t n = 0;
    int rc = list ? epochs_from_json(list, &v, &n, e) : 0;
    if (!rc && n)
        rc = epochs_replace(f->node->epochs, v, n, e);
    free(v);
    return rc;
}

/* With etcd the lease says who it is, and a node that is about to become primary still names the one before. */
static void learn_primary(struct follower *f, const json_t *o)
{
    if (f->node->lease)
        return;
    const char *primary = json_string_value(json_object_get(o, "primary"));
    const char *url = json_string_value(json_object_get(o, "primary_url"));
    char name[128], old_url[256];
    node_primary(f->node, name, old_url);
    if (!primary || !*primary || !strcmp(primary, name) || !strcmp(primary, f->node->config->node))
        return;
    node_set_primary(f->node, primary, url ? url : "");
    hooks_send_role(f->node->hooks);
    stream_server_greet(f->node->streams);
}

static bool in_path(const char *path, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = path; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL)
        if (!strncmp(p, name, n) && (p[n] == '/' || !p[n]))
            return true;
    return false;
}

/* Where the server stands: it is the primary, or a replica that says so in each frame. An error: it is not to be followed. */
static int learn_place(struct follower *f, const json_t *o, struct err *e)
{
    struct node *n = f->node;
    char name[128], url[256], path[NODE_PATH_MAX];
    const char *role = json_string_value(json_object_get(o, "role")), *node = json_string_value(json_object_get(o, "node"));
    const char *above = json_string_value(json_object_get(o, "path"));
    node_upstream(n, name, url, NULL);
    if (role) /* a greeting */
        snprintf(name, sizeof name, "%s", node ? node : "");
    /* Without a path it is the primary: perhaps since a moment ago, and was a replica when it greeted. */
    bool live = above ? json_is_true(json_object_get(o, "live")) : true;
    if ((size_t)snprintf(path, sizeof path, "%s%s%s", above ? above : "", above && *above ? "/" : "", name) >= sizeof path)
        return err_set(e, -ELOOP, "%s is too far from the primary: %.200s…", f->url, path);
    if (in_path(path, n->config->node))
        return err_set(e, -ELOOP, "%s follows this node, by way of %.300s: not followed", f->url, path);
    node_set_upstream(n, name, f->url, path);
    if (atomic_exchange(&n->live, live) != live)
        position_server_moved(n->positions);
    if (live)
        f->cut_off_ns = 0;
    else if (!f->cut_off_ns)
        f->cut_off_ns = now_ns();
    else if (now_ns() - f->cut_off_ns > CUT_OFF_NS)
        return err_set(e, -ENETUNREACH, "%s (%s) has lost its own way to the primary", name, f->url);
    return 0;
}

/* What is not wanted any more; the primary has it. */
/* keep: a copy goes into quarantine first. */
static void drop(struct node *n, struct database *db, bool keep, const char *why)
{
    struct err e;
    pthread_mutex_lock(&db->sqlite);
    pthread_mutex_lock(&db->lock);
    if ((keep && quarantine_database(n, db, &e)) || apply_remove(n, db, &e))
        database_mark(db, DATABASE_WAITING, "%s, and it cannot be removed here: %s", why, e.text);
    else
        database_forget(n->databases, db, 0);
    pthread_mutex_unlock(&db->lock);
    pthread_mutex_unlock(&db->sqlite);
}

static int drop_unlisted(void *ctx, struct database *db)
{
    const json_t *names = ((void **)ctx)[1];
    struct node *n = ((void **)ctx)[0];
    size_t i;
    json_t *v;
    pthread_mutex_lock(&db->lock);
    bool there = db->state != DATABASE_ABSENT && db->state != DATABASE_OTHER;
    pthread_mutex_unlock(&db->lock);
    if (there && !filter_wants(n->filter, db->name)) {
        log_info("follower", "%s is not one of those that this node has: removed here", db->name);
        drop(n, db, false, "this node is to have it no longer");
        return 0;
    }
    json_array_foreach(names, i, v)
    {
        const char *s = json_string_value(json_object_get(v, "name"));
        if (s && !strcmp(s, db->name))
            there = false;
    }
    if (!there)
        return 0;
    log_warn("follower", "%s does not exist on the primary: removed here; a copy is in %s/" LAYOUT_QUARANTINE, db->name, n->config->data);
    drop(n, db, true, "it does not exist on the primary");
    return 0;
}

/* The server's log does not continue ours: start anew after its position; every database needs an image. */
static int on_reset(struct follower *f, const json_t *o, struct err *e)
{
    const json_t *list = json_object_get(o, "databases");
    size_t i;
    json_t *v;
    int rc = fork_keep(f->node, f->h.pos.lsn, o, e);
    if (rc)
        return err_wrap(e, "not starting anew on the primary's word");
    log_warn("follower", "our log (last LSN %" PRIu64 ") is not continued by the primary's: starting anew at LSN %" PRIu64
                         ", databases come as images",
             rlog_last(f->node->rlog).lsn, f->h.pos.lsn);
    /* What is here belongs to an epoch that has ended, and from now on the log says otherwise: no position has been reached before the images are there. */
    atomic_store(&f->node->applied, 0);
    position_server_moved(f->node->positions);
    group_forget(&f->group);
    rc = rlog_reset(f->node->rlog, f->h.pos, e);
    if (!rc)
        rc = adopt_epochs(f, json_object_get(o, "epochs"), e);
    if (rc)
        return rc;
    databases_each(f->node->databases, drop_unlisted, (void *[]){f->node, (void *)(uintptr_t)list});
    json_array_foreach(list, i, v)
    {
        const char *name = json_string_value(json_object_get(v, "name"));
        struct database *db = name && database_name_possible(name) && filter_wants(f->node->filter, name) ? databases_get(f->node->databases, name, e) : NULL;
        if (!db)
            continue;
        pthread_mutex_lock(&db->lock);
        if (db->state == DATABASE_ABSENT || db->state == DATABASE_OTHER)
            database_mark(db, DATABASE_UNKNOWN, NULL);
        pthread_mutex_unlock(&db->lock);
    }
    apply_records_reset(f->apply, f->h.pos.lsn);
    if (f->afresh && !(rc = filter_save(f->node->data_fd, f->node->filter, e)))
        f->afresh = false;
    image_client_kick(f->node);
    return rc;
}

static int on_handoff(struct follower *f, const json_t *o, struct err *e)
{
    const char *name = json_string_value(json_object_get(o, "primary"));
    const char *url = json_string_value(json_object_get(o, "url"));
    if (!name || !url)
        return err_set(e, -EBADMSG, "HANDOFF without a primary");
    log_info("follower", "%s is primary now (%s)", name, url);
    node_set_primary(f->node, name, url);
    lease_save(f->node);
    hooks_send_role(f->node->hooks);
    stream_server_greet(f->node->streams);
    return err_set(e, -ECANCELED, "the primary handed over");
}

static void on_incoming(struct follower *f, const json_t *o)
{
    const char *name = json_string_value(json_object_get(o, "name")), *id = json_string_value(json_object_get(o, "id"));
    char *end;
    uint64_t number = id ? strtoull(id, &end, 16) : 0;
    if (name && id && !*end && filter_wants(f->node->filter, name))
        incoming_announced(f->node, f->url, name, number, json_integer_value(json_object_get(o, "size")));
}

static int on_control(struct follower *f, struct err *e)
{
    json_error_t je;
    json_t *o = f->h.payload_len ? json_loadb((const char *)f->payload, f->h.payload_len, JSON_REJECT_DUPLICATES, &je) : NULL;
    int rc = 0;
    if (f->h.payload_len && !json_is_object(o)) {
        json_decref(o);
        return err_set(e, -EBADMSG, "a control frame (type %u) is not JSON: %s", f->h.type, je.text);
    }
    switch (f->h.type) {
    case RECORD_HEARTBEAT:
        f->server_lsn = f->h.pos.lsn;
        atomic_store(&f->node->upstream_lsn, f->server_lsn);
        rc = learn_place(f, o, e); /* a primary's has no payload */
        if (!rc && o && f->first_frame) { /* it continues our log */
            takeover_doubt(f->node, false);
            rc = adopt_epochs(f, json_object_get(o, "epochs"), e);
            node_warn(f->node, NULL);
        }
        if (!rc && o)
            learn_primary(f, o);
        break;
    case RECORD_RESET:
        rc = learn_place(f, o, e);
        if (!rc)
            rc = on_reset(f, o, e);
        if (!rc)
            learn_primary(f, o);
        f->server_lsn = f->h.pos.lsn;
        atomic_store(&f->node->upstream_lsn, f->server_lsn);
        break;
    case RECORD_HANDOFF:
        rc = on_handoff(f, o, e);
        break;
    case RECORD_INCOMING:
        on_incoming(f, o);
        break;
    case RECORD_GOODBYE: {
        const char *why = json_string_value(json_object_get(o, "reason"));
        rc = err_set(e, -ECONNRESET, "the server ends the stream: %.200s", why ? why : "no reason given");
        break;
    }
    default:
        break; /* of a later version: ignored */
    }
    json_decref(o);
    return rc;
}

/* ---- receiving ---- */

/* It has entered the log. */
static int taken(struct follower *f, const struct record_head *h, const uint8_t *payload, struct err *e)
{
    int rc = 0;
    if (h->type == RECORD_EPOCH && h->pos.epoch > epochs_current(f->node->epochs).epoch) /* the greeting may have told of it, and of later ones */
        rc = epochs_begin(f->node->epochs, h->pos.epoch, h->pos.lsn, e);
    if (rc)
        return rc;
    f->server_lsn = MAX(f->server_lsn, h->pos.lsn);
    f->prepared |= h->type == RECORD_PREPARE;
    apply_records_add(f->apply, h, payload);
    return 0;
}

/* Puts the records that belong together into the log, and hands them over. */
static int group_take(struct follower *f, struct err *e)
{
    struct record_head h = {0};
    size_t n = f->group.len;
    int rc = n ? sequencer_append_group(f->node->sequencer, f->group.bytes, n, f->h.timestamp, e) : 0;
    group_forget(&f->group);
    for (size_t at = 0; at < n && !rc; at += h.payload_len) {
        at += (size_t)record_head_decode(f->group.bytes + at, n - at, &h); /* as it was encoded */
        rc = taken(f, &h, f->group.bytes + at, e);
    }
    return rc;
}

static int begin_frame(struct follower *f, struct err *e)
{
    bool control = f->h.type >= RECORD_CONTROL;
    f->received = 0;
    if (group_takes(&f->group, &f->h) && !group_has_room(&f->group, &f->h)) { /* too much: what is there is taken as it is */
        int rc = group_take(f, e);
        if (rc)
            return rc;
    }
    bool grouped = group_takes(&f->group, &f->h) && group_has_room(&f->group, &f->h);
    if (control && f->h.payload_len > CONTROL_MAX)
        return err_set(e, -EBADMSG, "a control frame of %u bytes", f->h.payload_len);
    if (control || grouped || f->h.payload_len <= APPLY_IN_MEMORY) {
        if (f->h.payload_len > f->payload_size) {
            void *p = realloc(f->payload, f->h.payload_len);
            if (!p)
                return err_errno(e, ENOMEM, "frame of %u bytes", f->h.payload_len);
            f->payload = p;
            f->payload_size = f->h.payload_len;
        }
    }
    if (!control) {
        uint64_t next = rlog_last(f->node->rlog).lsn + f->group.records + 1;
        if (f->h.pos.lsn != next)
            return err_set(e, -EBADMSG, "record %" PRIu64 " came, %" PRIu64 " is next", f->h.pos.lsn, next);
        if (!grouped && f->h.payload_len > APPLY_IN_MEMORY) { /* goes into the log as it comes; a small one whole, at its end */
            int rc = sequencer_begin_received(f->node->sequencer, &f->h, e);
            if (rc)
                return rc;
            f->in_log = true;
        }
    }
    f->in_payload = true;
    return 0;
}

static int end_frame(struct follower *f, struct err *e)
{
    int rc;
    f->in_payload = false;
    f->head_len = 0;
    if (f->h.type >= RECORD_CONTROL) {
        if (crc32c(0, f->payload, f->h.payload_len) != f->h.payload_crc)
            return err_set(e, -EBADMSG, "a control frame arrived damaged");
        rc = on_control(f, e);
        f->first_frame = false;
        return rc;
    }
    bool whole = !f->in_log;
    if (whole && group_takes(&f->group, &f->h)) {
        rc = group_add(&f->group, &f->h, f->payload, e);
        if (!rc && !(f->h.flags & RECORD_MORE))
            rc = group_take(f, e);
        if (!rc && !f->group.len && apply_records_full(f->apply))
            apply_records_flush(f->apply);
        return rc;
    }
    rc = whole ? sequencer_begin_received(f->node->sequencer, &f->h, e) : 0;
    if (!rc && whole && f->h.payload_len) {
        rc = sequencer_write(f->node->sequencer, f->payload, f->h.payload_len, e);
        if (rc)
            sequencer_abort(f->node->sequencer);
    }
    if (rc)
        return rc;
    f->in_log = false;
    rc = sequencer_commit_received(f->node->sequencer, &f->h, e);
    if (rc)
        return rc;
    rc = taken(f, &f->h, f->h.payload_len <= APPLY_IN_MEMORY ? f->payload : NULL, e);
    if (rc)
        return rc;
    if (apply_records_full(f->apply))
        apply_records_flush(f->apply);
    return 0;
}

static int take_payload(struct follower *f, const uint8_t **p, size_t *n, struct err *e)
{
    size_t k = MIN(*n, (size_t)(f->h.payload_len - f->received));
    if (k && !f->in_log)
        memcpy(f->payload + f->received, *p, k);
    if (k && f->in_log) {
        int rc = sequencer_write(f->node->sequencer, *p, k, e);
        if (rc)
            return rc;
    }
    f->received += (uint32_t)k;
    *p += k;
    *n -= k;
    return f->received == f->h.payload_len ? end_frame(f, e) : 0;
}

static int take_head(struct follower *f, const uint8_t **p, size_t *n, struct err *e)
{
    size_t k = MIN(*n, sizeof f->head - f->head_len);
    memcpy(f->head + f->head_len, *p, k);
    long size = record_head_decode(f->head, f->head_len + k, &f->h);
    if (size < 0)
        return err_set(e, -EBADMSG, "what arrives is not a record");
    if (size == 0) {
        f->head_len += k;
        *p += k;
        *n -= k;
        return f->head_len == sizeof f->head ? err_set(e, -EBADMSG, "a record's header is too long") : 0;
    }
    size_t used = (size_t)size - f->head_len; /* of what was just copied */
    *p += used;
    *n -= used;
    int rc = begin_frame(f, e);
    return rc || f->h.payload_len ? rc : end_frame(f, e);
}

static bool wanted(struct follower *f)
{
    pthread_mutex_lock(&f->lock);
    bool ok = !f->restart && !f->stop;
    pthread_mutex_unlock(&f->lock);
    return ok && node_role(f->node) == NODE_REPLICA;
}

static int on_data(void *ctx, const void *data, size_t n)
{
    struct follower *f = ctx;
    const uint8_t *p = data;
    int rc = 0;
    pthread_mutex_lock(&f->work);
    if (!wanted(f))
        rc = err_set(&f->error, -ECANCELED, "no longer wanted");
    atomic_store(&f->node->connected, true);
    while (n && !rc)
        rc = f->in_payload ? take_payload(f, &p, &n, &f->error) : take_head(f, &p, &n, &f->error);
    if (rc && f->in_log) {
        sequencer_abort(f->node->sequencer);
        f->in_log = false;
    }
    pthread_mutex_unlock(&f->work);
    if (f->prepared) { /* before anything is applied, which may take long */
        f->prepared = false;
        pthread_mutex_lock(&f->lock);
        f->sync = true;
        pthread_cond_signal(&f->sync_wanted);
        pthread_mutex_unlock(&f->lock);
    }
    return rc;
}

/* All that has arrived was taken: apply it. */
static int on_idle(void *ctx)
{
    struct follower *f = ctx;
    pthread_mutex_lock(&f->work);
    if (node_role(f->node) == NODE_REPLICA) {
        apply_records_flush(f->apply);
        apply_records_retry(f->apply);
        uint64_t last = rlog_last(f->node->rlog).lsn;
        if (!f->first_frame && atomic_load(&f->node->live) && atomic_load(&f->node->applied) >= last && last >= f->server_lsn)
            atomic_store(&f->node->current_ns, now_ns());
        position_server_moved(f->node->positions);
    }
    pthread_mutex_unlock(&f->work);
    return apply_records_wait_ms(f->apply);
}

void follower_hurry(struct follower *f)
{
    apply_records_hurry(f->apply);
    http_client_wake(f->client);
}

static int follow(struct follower *f, struct err *e)
{
    char target[1024 + 6 * FILTER_MAX + 64];
    struct position p = rlog_last(f->node->rlog);
    bool bystander = f->node->config->lease.etcd && !f->node->config->lease.candidate;
    f->cut_off_ns = 0;
    snprintf(target, sizeof target, "%s/v1/stream?epoch=%" PRIu64 "&lsn=%" PRIu64 "&node=%s&url=%s%s", f->url, p.epoch, p.lsn,
             f->node->config->node, f->node->config->http.advertise, bystander ? "&candidate=0" : "");
    if (!filter_add_query(f->node->filter, target, sizeof target))
        return err_set(e, -ENAMETOOLONG, "the patterns of databases.include and databases.exclude are too long");
    if (f->afresh)
        strcat(target, "&afresh");
    f->head_len = 0;
    f->in_payload = false;
    group_forget(&f->group);
    f->first_frame = true;
    f->error = (struct err){0};
    int rc = http_client_download(f->client, target, on_data, f, NULL, e);
    if (rc && f->error.code == rc)
        *e = f->error;
    pthread_mutex_lock(&f->work);
    group_forget(&f->group); /* the next stream brings it whole */
    if (f->in_log) {
        sequencer_abort(f->node->sequencer);
        f->in_log = false;
    }
    if (node_role(f->node) == NODE_REPLICA)
        apply_records_flush(f->apply);
    pthread_mutex_unlock(&f->work);
    atomic_store(&f->node->connected, false);
    node_set_upstream(f->node, NULL, NULL, NULL);
    position_server_moved(f->node->positions);
    return rc ? rc : err_set(e, -ECONNRESET, "%s ended the stream", f->url);
}

/* Waits ms, or until something changes. False: stop. */
static bool pause_for(struct follower *f, unsigned ms)
{
    uint64_t until = now_ns() + (uint64_t)ms * 1000000u;
    struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
    pthread_mutex_lock(&f->lock);
    while (!f->restart && !f->stop && pthread_cond_timedwait(&f->changed, &f->lock, &t) == 0)
        continue;
    f->restart = false;
    bool go_on = !f->stop;
    pthread_mutex_unlock(&f->lock);
    return go_on;
}

/* Or nobody is known to be. */
static bool is_primary_url(struct node *n, const char *url)
{
    char name[128], primary[256];
    node_primary(n, name, primary);
    return !*primary || !strcmp(url, primary);
}

/* Who is primary? The answers take a while, and this node may become primary meanwhile (promoted by force): with `work` it does not. */
static void ask_around(struct follower *f)
{
    struct discovered d;
    if (!discover_primary(f->node, &d))
        return;
    pthread_mutex_lock(&f->work);
    if (node_role(f->node) == NODE_REPLICA)
        discover_believe(f->node, &d);
    pthread_mutex_unlock(&f->work);
}

static void *run(void *arg)
{
    struct follower *f = arg;
    unsigned wait = RETRY_FIRST_MS;
    bool recovered = false;
    prctl(PR_SET_NAME, "follower");
    for (;;) {
        struct err e = {0};
        pthread_mutex_lock(&f->lock);
        bool stop = f->stop;
        f->restart = false;
        pthread_mutex_unlock(&f->lock);
        if (stop)
            return NULL;
        if (node_role(f->node) != NODE_REPLICA) {
            recovered = false;
            if (!pause_for(f, 1000))
                return NULL;
            continue;
        }
        if (!recovered) {
            pthread_mutex_lock(&f->work);
            apply_records_recover(f->apply);
            pthread_mutex_unlock(&f->work);
            image_client_kick(f->node);
            recovered = true;
        }
        bool known = upstream_pick(f->node->upstream_choice, f->url);
        uint64_t began = now_ns();
        int rc = known ? follow(f, &e) : err_set(&e, -ENOTCONN, "no primary is known");
        if (rc == -ECANCELED) {
            wait = RETRY_FIRST_MS;
            continue;
        }
        if (known)
            upstream_lost(f->node->upstream_choice, f->url, now_ns() - began);
        if (now_ns() - began > 5000000000u)
            wait = RETRY_FIRST_MS;
        log_info("follower", "%s; trying again in %u ms", e.text, wait);
        node_warn(f->node, "not connected to a primary: %s", e.text);
        if (is_primary_url(f->node, f->url)) /* otherwise the primary is the one to go to now */
            ask_around(f);
        if (!pause_for(f, wait))
            return NULL;
        wait = MIN(wait * 2, RETRY_MAX_MS);
    }
}

/* No database waits for an image: what is in the log, and what is here, is all there is. */
static bool all_whole(struct node *n)
{
    size_t count;
    bool whole = true;
    if (databases_lowest_pending(n->databases) == UINT64_MAX)
        return true;
    struct database **list = databases_pending(n->databases, &count);
    for (size_t i = 0; i < count && whole; i++) {
        pthread_mutex_lock(&list[i]->lock);
        whole = list[i]->state != DATABASE_IMAGE;
        pthread_mutex_unlock(&list[i]->lock);
    }
    free(list);
    return whole;
}

struct ack {
    uint64_t epoch, received, applied, durable;
};

/* The epoch first: should the log be reset meanwhile, the upstream takes the rest for what it is, old. */
static struct ack where(struct node *n)
{
    struct position last = rlog_last(n->rlog);
    struct ack a = {.epoch = last.epoch, .received = last.lsn};
    a.durable = rlog_durable(n->rlog);
    a.applied = atomic_load(&n->applied);
    return a;
}

static int tell(struct node *n, struct http_pipeline *c, const struct ack *a)
{
    char name[128], url[256], target[300], body[320];
    struct err e;
    node_upstream(n, name, url, NULL);
    if (!*url)
        return -ENOTCONN;
    snprintf(target, sizeof target, "%s/v1/ack", url);
    int len = snprintf(body, sizeof body,
                       "{\"node\":\"%s\",\"epoch\":%" PRIu64 ",\"received\":%" PRIu64 ",\"applied\":%" PRIu64 ",\"durable\":%" PRIu64 ",\"whole\":%s}",
                       n->config->node, a->epoch, a->received, a->applied, a->durable, all_whole(n) ? "true" : "false");
    return http_pipeline_post(c, target, body, (size_t)len, &e);
}

/* Waits until something is to be told: a moment, or not at all if a commit waits. *sync: it does. False: stop. */
static bool wait_ack(struct follower *f, bool busy, bool *sync)
{
    uint64_t until = now_ns() + (busy ? 1u : 4u) * ACK_MS * 1000000u;
    struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
    pthread_mutex_lock(&f->lock);
    while (!f->stop && !f->sync && !pthread_cond_timedwait(&f->sync_wanted, &f->lock, &t))
        continue;
    *sync = f->sync;
    f->sync = false;
    bool go_on = !f->stop;
    pthread_mutex_unlock(&f->lock);
    return go_on;
}

/* Tells the upstream how far this node is, whenever that has changed, at most each ACK_MS; but when a commit waits for it, at once, after making it durable:
 * one fdatasync and one message for all that have come in while the last ones were under way. The answer is waited for when there is more
 * to say. */
static void *acknowledge(void *arg)
{
    struct follower *f = arg;
    struct http_pipeline *c = http_pipeline_new(f->node->token, 2000, 5000);
    struct ack said = {0};
    struct err e;
    uint64_t said_ns = 0;
    bool busy = false, sync;
    prctl(PR_SET_NAME, "acker");
    while (c && wait_ack(f, busy, &sync)) {
        /* The upstream may be busy: what comes meanwhile shares the sync and the message. */
        if (sync && http_pipeline_wait(c, &e) && e.code != ERR_REMOTE)
            said = (struct ack){0}; /* it may not have arrived */
        if (sync && rlog_sync(f->node->rlog, &e))
            node_warn(f->node, "the log cannot be made durable: %s", e.text);
        struct ack now = where(f->node);
        busy = memcmp(&now, &said, sizeof now) != 0 || now_ns() - said_ns > 1000000000u;
        if (!busy && http_pipeline_check(c, &e) && e.code != ERR_REMOTE)
            busy = true; /* what was said last may not have arrived */
        if (busy && node_role(f->node) == NODE_REPLICA && atomic_load(&f->node->connected) && !tell(f->node, c, &now)) {
            said = now;
            said_ns = now_ns();
        }
    }
    http_pipeline_free(c);
    return NULL;
}

/* Looks for a better upstream now and then. */
static void *look(void *arg)
{
    struct follower *f = arg;
    prctl(PR_SET_NAME, "upstream");
    for (;;) {
        char name[128], url[256];
        uint64_t until = now_ns() + LOOK_NS;
        struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
        pthread_mutex_lock(&f->lock);
        while (!f->stop && pthread_cond_timedwait(&f->changed, &f->lock, &t) == 0)
            continue;
        bool stop = f->stop;
        pthread_mutex_unlock(&f->lock);
        if (stop)
            return NULL;
        node_upstream(f->node, name, url, NULL);
        if (*url && node_role(f->node) == NODE_REPLICA && upstream_elsewhere(f->node->upstream_choice, url))
            follower_restart(f);
    }
}

int follower_open(struct node *n, struct follower **out, struct err *e)
{
    struct follower *f = calloc(1, sizeof *f);
    if (!f)
        return err_errno(e, ENOMEM, "follower");
    f->node = n;
    f->afresh = !filter_unchanged(n->data_fd, n->filter);
    f->client = http_client_new(&(struct http_client_options){.token = n->token, .connect_ms = 2000, .idle_ms = IDLE_MS});
    int rc = f->client ? apply_records_open(n, &f->apply, e) : err_errno(e, ENOMEM, "follower");
    if (rc)
        return rc;
    n->apply = f->apply;
    http_client_on_idle(f->client, on_idle, f);
    pthread_mutex_init(&f->lock, NULL);
    pthread_mutex_init(&f->work, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&f->changed, &a);
    pthread_cond_init(&f->sync_wanted, &a);
    pthread_condattr_destroy(&a);
    *out = f;
    rc = pthread_create(&f->thread, NULL, run, f);
    if (!rc)
        rc = pthread_create(&f->acker, NULL, acknowledge, f);
    f->looks = strcmp(n->config->upstream, CONFIG_UPSTREAM_PRIMARY) != 0;
    if (!rc && f->looks)
        rc = pthread_create(&f->looker, NULL, look, f);
    return rc ? err_errno(e, rc, "start the follower's threads") : 0;
}

void follower_restart(struct follower *f)
{
    pthread_mutex_lock(&f->lock);
    f->restart = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    http_client_abort(f->client);
}

int follower_quiesced(struct follower *f, void (*fn)(void *ctx), void *ctx)
{
    pthread_mutex_lock(&f->work);
    int rc = f->in_log ? -EBUSY : 0; /* part of a group is nowhere yet */
    if (!rc) {
        apply_records_flush(f->apply);
        fn(ctx);
    }
    pthread_mutex_unlock(&f->work);
    return rc;
}

void follower_close(struct follower *f)
{
    if (!f)
        return;
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_cond_broadcast(&f->changed);
    pthread_cond_broadcast(&f->sync_wanted);
    pthread_mutex_unlock(&f->lock);
    http_client_abort(f->client);
    pthread_join(f->thread, NULL);
    pthread_join(f->acker, NULL);
    if (f->looks)
        pthread_join(f->looker, NULL);
    apply_records_close(f->apply);
    http_client_free(f->client);
    free(f->payload);
    group_free(&f->group);
    pthread_cond_destroy(&f->changed);
    pthread_cond_destroy(&f->sync_wanted);
    pthread_mutex_destroy(&f->lock);
    pthread_mutex_destroy(&f->work);
    free(f);
}
