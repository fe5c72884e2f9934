#include "replicator/cluster/lease_etcd.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/cluster/election.h"
#include "replicator/cluster/etcd.h"
#include "replicator/stream/follower.h"
#include "replicator/capture/hooks.h"
#include "replicator/cluster/lease.h"
#include "replicator/stream/position_server.h"
#include "replicator/cluster/promotion.h"
#include "replicator/startup.h"
#include "replicator/cluster/takeover.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/prctl.h>

#define MS UINT64_C(1000000)
#define LOOK_NS (1000 * MS)     /* keys are read this often even if the watch says nothing */
#define PUBLISH_NS (1000 * MS)  /* a position that has changed is published this often */
#define PATIENCE_NS (1500 * MS) /* how long an election waits for candidates that have not said where they stand */
#define HANDOVER_NS (1000 * MS) /* how long a target that the key names waits for the request of the old primary */
#define REQUEST_MS_MAX 1000u
#define CONTENDERS_MAX 256

struct primary_key {
    bool present, ours; /* ours: it names this node */
    char node[65], url[256];
    uint64_t epoch, lsn;
    int64_t mod_revision, lease;
};

struct lease_etcd {
    struct node *n;
    struct etcd *etcd, *watch;
    char *password;
    char prefix[96], primary_name[128], epoch_name[128], node_name[192]; /* whole key names */
    uint64_t ttl_s;
    pthread_t thread, watcher;
    bool running;
    bool acts; /* this node has stepped down at its start if it had to. The thread's */

    pthread_mutex_t lock;    /* guards what follows; never held while etcd is asked */
    pthread_cond_t changed;  /* monotonic clock */
    bool stop, dirty;        /* dirty: keys have changed */
    bool retire, retired;
    bool reachable;
    bool decided;            /* somebody is primary */
    char holder[65];
    uint64_t renewed_ns;     /* when the request of the last success was sent */

    pthread_mutex_t etcd_lock; /* one request at a time on `etcd`; guards what follows. Outside of `lock` */
    int64_t lease;             /* 0: none */
    uint64_t valid_until, renew_at;
    struct primary_key key;    /* as last read */
    uint64_t epoch_key;        /* value of "epoch"; 0: it does not exist */
    struct contender *nodes;   /* CONTENDERS_MAX; n_nodes of them, this node left out */
    size_t n_nodes;
    uint64_t looked_ns, vacant_ns, named_ns; /* named_ns: since when the key names us while we are a replica */
    struct contender published;
    uint64_t published_ns;
};

/* ---- keys ---- */

static uint64_t ttl_ns(const struct lease_etcd *l)
{
    return l->ttl_s * 1000 * MS;
}

/* When a primary that cannot renew begins to fence itself. */
static uint64_t fence_at(const struct lease_etcd *l)
{
    return l->valid_until - ttl_ns(l) / 5;
}

static void note_reachable(struct lease_etcd *l, bool ok, const char *why)
{
    pthread_mutex_lock(&l->lock);
    bool changed = l->reachable != ok;
    l->reachable = ok;
    pthread_mutex_unlock(&l->lock);
    if (!changed)
        return;
    if (ok)
        log_info("lease", "etcd answers");
    else
        log_warn("lease", "etcd does not answer: %s", why);
    position_server_changed(l->n->positions);
}

static json_t *parse(const char *text)
{
    return json_loads(text, JSON_REJECT_DUPLICATES, NULL);
}

static void copy_text(char *to, size_t size, const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    snprintf(to, size, "%s", s ? s : "");
}

static uint64_t get_number(const json_t *o, const char *key)
{
    json_int_t v = json_integer_value(json_object_get(o, key));
    return v > 0 ? (uint64_t)v : 0;
}

static void take_node(struct lease_etcd *l, const struct etcd_key *k)
{
    struct contender *c = &l->nodes[l->n_nodes];
    const char *name = k->name + strlen("nodes/");
    json_t *o = parse(k->value);
    if (l->n_nodes < CONTENDERS_MAX && strlen(name) < sizeof c->node && strcmp(name, l->n->config->node) && json_is_object(o)) {
        *c = (struct contender){.epoch = get_number(o, "epoch"), .lsn = get_number(o, "lsn"), .priority = get_number(o, "priority"),
                                .election = get_number(o, "election"), .candidate = json_is_true(json_object_get(o, "candidate")),
                                .complete = json_is_true(json_object_get(o, "complete"))};
        c->counts = c->candidate && !json_is_true(json_object_get(o, "unsure")) && config_node(l->n->config, name);
        memcpy(c->node, name, strlen(name) + 1);
        copy_text(c->url, sizeof c->url, o, "url");
        l->n_nodes++;
    }
    json_decref(o);
}

/* Reads all keys. etcd_lock held. */
static int look(struct lease_etcd *l, struct err *e)
{
    struct etcd_list list;
    pthread_mutex_lock(&l->lock);
    l->dirty = false;
    pthread_mutex_unlock(&l->lock);
    int rc = etcd_list(l->etcd, l->prefix, &list, e);
    if (rc)
        return rc;
    l->looked_ns = now_ns();
    l->n_nodes = 0;
    l->key = (struct primary_key){0};
    for (size_t i = 0; i < list.n; i++) {
        const struct etcd_key *k = &list.keys[i];
        if (!strncmp(k->name, "nodes/", 6))
            take_node(l, k);
        else if (!strcmp(k->name, "epoch"))
            l->epoch_key = strtoull(k->value, NULL, 10);
        else if (!strcmp(k->name, "primary")) {
            json_t *o = parse(k->value);
            l->key = (struct primary_key){.present = true, .epoch = get_number(o, "epoch"), .lsn = get_number(o, "lsn"),
                                          .mod_revision = k->mod_revision, .lease = k->lease};
            copy_text(l->key.node, sizeof l->key.node, o, "node");
            copy_text(l->key.url, sizeof l->key.url, o, "url");
            l->key.ours = !strcmp(l->key.node, l->n->config->node);
            json_decref(o);
        }
    }
    etcd_list_free(&list);
    pthread_mutex_lock(&l->lock);
    bool changed = strcmp(l->holder, l->key.node) != 0;
    memcpy(l->holder, l->key.node, sizeof l->holder);
    l->decided = l->key.present && (!l->key.ours || node_role(l->n) == NODE_PRIMARY);
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    if (changed && l->key.present)
        log_info("lease", "%s holds the lease, epoch %" PRIu64, l->key.node, l->key.epoch);
    return 0;
}

/* Writes the key "primary" for node with a lease, if it was last changed by `revision` (0: does not exist), and the epoch with it. An answer that
 * was lost is found out by reading. etcd_lock held. 0: done; ERR_AGAIN_LATER: it is another's; or what kept us from knowing. */
static int write_primary(struct lease_etcd *l, const char *node, const char *url, int64_t lease, struct position from, int64_t revision,
                         struct err *e)
{
    char epoch[24];
    bool done = false;
    snprintf(epoch, sizeof epoch, "%" PRIu64, from.epoch);
    json_t *o = json_pack("{s:s,s:s,s:I,s:I}", "node", node, "url", url, "epoch", (json_int_t)from.epoch, "lsn", (json_int_t)from.lsn);
    _cleanup_free_ char *value = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (!value)
        return err_errno(e, ENOMEM, "lease");
    struct etcd_put puts[] = {{l->primary_name, value, lease}, {l->epoch_name, epoch, 0}};
    int rc = etcd_swap(l->etcd, l->primary_name, revision, puts, from.epoch >= l->epoch_key ? 2 : 1, &done, e);
    struct err le;
    int looked = look(l, &le);
    if (looked)
        return rc ? rc : done ? 0 : err_set(e, looked, "%s", le.text);
    if (l->key.present && l->key.lease == lease && !strcmp(l->key.node, node) && l->key.epoch == from.epoch && l->key.mod_revision != revision)
        return 0;
    return rc ? rc : err_set(e, ERR_AGAIN_LATER, "%s holds the lease", l->key.present ? l->key.node : "nobody");
}

/* ---- this node's lease ---- */

static void renewed(struct lease_etcd *l, uint64_t sent, uint64_t seconds)
{
    l->valid_until = sent + seconds * 1000 * MS;
    atomic_store(&l->n->lease_until, l->valid_until);
    l->renew_at = sent + ttl_ns(l) / 3;
    pthread_mutex_lock(&l->lock);
    l->renewed_ns = sent;
    pthread_mutex_unlock(&l->lock);
    note_reachable(l, true, NULL);
}

/* Gets or renews the lease. etcd_lock held. ERR_GONE: it has run out in etcd; there is no lease now. */
static int renew(struct lease_etcd *l, struct err *e)
{
    uint64_t sent = now_ns(), seconds = 0;
    l->renew_at = sent + ttl_ns(l) / 6; /* if it fails */
    if (!l->lease) {
        int64_t lease = 0;
        int rc = etcd_grant(l->etcd, l->ttl_s, &lease, &seconds, e);
        if (rc)
            return rc;
        l->lease = lease;
        l->published_ns = 0; /* this node's key went with the old one */
        renewed(l, sent, seconds);
        return 0;
    }
    int rc = etcd_keep_alive(l->etcd, l->lease, &seconds, e);
    if (rc)
        return rc;
    if (!seconds) {
        l->lease = 0;
        atomic_store(&l->n->lease_until, 0);
        l->renew_at = 0;
        return err_set(e, ERR_GONE, "etcd let our lease run out");
    }
    renewed(l, sent, seconds);
    return 0;
}

/* Where this node stands, under its lease. etcd_lock held. */
static void publish(struct lease_etcd *l, uint64_t election)
{
    struct position last = rlog_last(l->n->rlog);
    struct contender now = {.epoch = last.epoch, .lsn = last.lsn, .priority = l->n->config->lease.priority, .election = election,
                            .candidate = l->n->config->lease.candidate};
    now.complete = node_role(l->n) == NODE_PRIMARY || takeover_possible(l->n, NULL);
    now.counts = now.candidate && (!l->n->unsure_epoch || last.epoch > l->n->unsure_epoch);
    const struct contender *was = &l->published;
    bool same = now.epoch == was->epoch && now.lsn == was->lsn && now.election == was->election && now.complete == was->complete && now.counts == was->counts;
    if (!l->lease || (l->published_ns && (same || (now.election == was->election && now_ns() < l->published_ns + PUBLISH_NS))))
        return;
    json_t *o = json_pack("{s:s,s:I,s:I,s:b,s:b,s:b,s:I,s:I}", "url", l->n->config->http.advertise, "epoch", (json_int_t)now.epoch, "lsn",
                          (json_int_t)now.lsn, "candidate", now.candidate, "complete", now.complete, "unsure", now.candidate && !now.counts, "priority",
                          (json_int_t)now.priority, "election", (json_int_t)election);
    _cleanup_free_ char *value = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    bool done;
    struct err e = {0};
    if (value && !etcd_swap(l->etcd, l->node_name, -1, &(struct etcd_put){l->node_name, value, l->lease}, 1, &done, &e)) {
        l->published = now;
        l->published_ns = now_ns();
    } else if (e.code == ERR_REMOTE) {
        log_warn("lease", "%s", e.text); /* "requested lease not found": the next renewal will tell */
    }
}

/* ---- acting ---- */

/* The lease is lost, or will be before it can be renewed. Called again until it has succeeded. */
static void fence(struct lease_etcd *l)
{
    struct err e;
    struct node *n = l->n;
    if (node_role(n) == NODE_PRIMARY)
        log_warn("lease", "%s: no more writes here",
                 l->key.present && !l->key.ours ? "another node holds the lease" : "the lease could not be renewed in time");
    int rc = takeover_fence(n, now_ns() + 1000 * MS, &e);
    if (rc) {
        node_warn(n, "fencing this node: %s", e.text);
        return;
    }
    bool known = l->key.present && !l->key.ours;
    takeover_follow(n, known ? l->key.node : "", known ? l->key.url : "", known ? l->key.epoch : 0);
    position_server_changed(n->positions);
    log_warn("lease", "this node is a replica now");
}

static void follow(struct lease_etcd *l)
{
    struct node *n = l->n;
    char name[128], url[256];
    node_primary(n, name, url);
    if (!strcmp(name, l->key.node) && !strcmp(url, l->key.url))
        return;
    node_set_primary(n, l->key.node, l->key.url);
    lease_save(n);
    hooks_send_role(n->hooks);
    position_server_changed(n->positions);
    follower_restart(n->follower);
}

static uint64_t next_epoch(struct lease_etcd *l)
{
    uint64_t own = MAX(rlog_last(l->n->rlog).epoch, epochs_current(l->n->epochs).epoch);
    return MAX(l->epoch_key, own) + 1;
}

/* The key is ours: begins the epoch that it names. Gives the key up if this node cannot. */
static void become_primary(struct lease_etcd *l)
{
    struct err e;
    struct position at;
    uint64_t epoch = MAX(l->key.epoch, MAX(rlog_last(l->n->rlog).epoch, epochs_current(l->n->epochs).epoch) + 1);
    int rc = takeover_run(l->n, epoch, &at, &e);
    if (!rc) {
        node_warn(l->n, NULL);
        position_server_changed(l->n->positions);
        log_info("lease", "this node is primary now, epoch %" PRIu64 " from LSN %" PRIu64, at.epoch, at.lsn);
        pthread_mutex_lock(&l->lock);
        l->decided = true;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
        return;
    }
    log_error("lease", "cannot take over: %s; giving the lease up", e.text);
    bool done;
    (void)etcd_swap(l->etcd, l->primary_name, l->key.mod_revision, &(struct etcd_put){.key = l->primary_name}, 1, &done, &e);
}

/* How many candidates, this node included, must have said where they stand before one of them takes over. A commit that was acknowledged is on the primary of then
 * and on N replicas, so of any M - N of the M nodes that may have been these at least one has it. Those that are known not to be candidates have vouched for nothing. */
static unsigned needed(const struct lease_etcd *l)
{
    const struct config *c = l->n->config;
    unsigned least = config_sync_least(c), nodes = 1;
    if (!least)
        return 1;
    for (int i = 0; i < c->n_nodes; i++) {
        bool candidate = strcmp(c->nodes[i].name, c->node) != 0;
        for (size_t k = 0; k < l->n_nodes; k++)
            candidate &= l->nodes[k].candidate || strcmp(l->nodes[k].node, c->nodes[i].name) != 0;
        nodes += candidate;
    }
    return nodes > least ? nodes - least : 1;
}

static void elect(struct lease_etcd *l)
{
    char why[200];
    struct err e;
    uint64_t now = now_ns(), epoch = next_epoch(l), election = l->epoch_key + 1;
    if (!l->vacant_ns)
        l->vacant_ns = now;
    publish(l, election);
    struct contender self = l->published;
    snprintf(self.node, sizeof self.node, "%s", l->n->config->node);
    if (!l->lease || self.election != election)
        return;
    switch (election_judge(&self, l->nodes, l->n_nodes, election, needed(l), now - l->vacant_ns > PATIENCE_NS, why)) {
    case ELECTION_TAKE:
        break;
    case ELECTION_WAIT:
    case ELECTION_REFUSE:
        node_warn(l->n, "%s", why);
        return;
    }
    struct position from = {epoch, self.lsn};
    if (!write_primary(l, l->n->config->node, l->n->config->http.advertise, l->lease, from, 0, &e))
        become_primary(l);
    else
        log_info("lease", "not elected: %s", e.text);
}

/* The key names this node, and it is a replica: the old primary handed over. It will ask; if it cannot any more, its word is in the key. */
static void named(struct lease_etcd *l)
{
    if (!l->named_ns)
        l->named_ns = now_ns();
    if (now_ns() - l->named_ns < HANDOVER_NS)
        return;
    if (rlog_last(l->n->rlog).lsn < l->key.lsn) {
        struct err e;
        bool done;
        log_error("lease", "handed over to at LSN %" PRIu64 ", but this node stands at %" PRIu64 ": giving the lease up", l->key.lsn,
                  rlog_last(l->n->rlog).lsn);
        (void)etcd_swap(l->etcd, l->primary_name, l->key.mod_revision, &(struct etcd_put){.key = l->primary_name}, 1, &done, &e);
        return;
    }
    /* Written again, so that the old primary cannot take it back any more. */
    struct err e;
    if (!write_primary(l, l->n->config->node, l->n->config->http.advertise, l->lease, (struct position){l->key.epoch, l->key.lsn},
                       l->key.mod_revision, &e))
        become_primary(l);
}

/* After a look: what follows from what the keys say. etcd_lock held. */
static void act(struct lease_etcd *l)
{
    struct err e;
    enum node_role role = node_role(l->n);
    struct position last = rlog_last(l->n->rlog);
    if (l->key.present)
        l->vacant_ns = 0;
    if (!l->key.ours || role == NODE_PRIMARY)
        l->named_ns = 0;
    if (role == NODE_HANDING_OVER)
        return; /* a promotion is at work, or fence() is called again */
    if (l->key.present && !l->key.ours) {
        if (role == NODE_PRIMARY)
            fence(l);
        else
            follow(l);
        publish(l, 0);
    } else if (l->key.present && l->key.lease != l->lease) {
        /* A predecessor of this process wrote it: same node, same data directory, and only one runs at a time. */
        if (l->lease)
            (void)write_primary(l, l->n->config->node, l->n->config->http.advertise, l->lease, (struct position){l->key.epoch, l->key.lsn},
                                l->key.mod_revision, &e);
    } else if (l->key.present) {
        if (role == NODE_REPLICA)
            named(l);
        else if (l->key.epoch != last.epoch) /* a new epoch began after a crash of the machine */
            (void)write_primary(l, l->n->config->node, l->n->config->http.advertise, l->lease, last, l->key.mod_revision, &e);
        publish(l, 0);
    } else if (role == NODE_PRIMARY) {
        if (l->lease) /* somebody removed it, or etcd lost it; our lease is good */
            (void)write_primary(l, l->n->config->node, l->n->config->http.advertise, l->lease, last, 0, &e);
    } else if (role == NODE_REPLICA) {
        elect(l);
    }
}

/* The process ends and gives the lease up: nobody writes here any more. */
static bool retire(struct lease_etcd *l)
{
    struct err e;
    pthread_mutex_lock(&l->lock);
    bool wanted = l->retire, done = l->retired;
    l->dirty = l->dirty && !wanted;
    pthread_mutex_unlock(&l->lock);
    if (!wanted || done)
        return wanted;
    bool writable = node_role(l->n) == NODE_PRIMARY;
    if (writable && takeover_fence(l->n, now_ns() + 1000 * MS, &e)) {
        log_warn("lease", "stopping: %s", e.text);
        return true;
    }
    pthread_mutex_lock(&l->lock);
    l->retired = true;
    pthread_mutex_unlock(&l->lock);
    return true;
}

/* One round. Returns when the next one is due. */
static uint64_t step(struct lease_etcd *l)
{
    struct err e = {0};
    uint64_t now = now_ns();
    if (retire(l))
        return now + 50 * MS;
    l->acts = l->acts || node_role(l->n) != NODE_HANDING_OVER;
    bool primary = node_role(l->n) == NODE_PRIMARY;
    if (primary && now >= fence_at(l)) {
        fence(l);
        primary = node_role(l->n) == NODE_PRIMARY;
    } else if (l->acts && node_role(l->n) == NODE_HANDING_OVER && (now >= fence_at(l) || (l->key.present && !l->key.ours)) && !promotion_running()) {
        fence(l);
    }
    uint64_t left = primary && fence_at(l) > now ? (fence_at(l) - now) / MS : REQUEST_MS_MAX;
    etcd_set_timeout(l->etcd, (unsigned)MAX(MIN(left, (uint64_t)MIN(REQUEST_MS_MAX, l->ttl_s * 200)), 100u));
    int rc = 0;
    if (now >= l->renew_at) {
        rc = renew(l, &e);
        if (rc == ERR_GONE) {
            log_warn("lease", "%s", e.text);
            if (node_role(l->n) == NODE_PRIMARY)
                fence(l);
            rc = renew(l, &e);
        }
        if (rc)
            note_reachable(l, false, e.text);
    }
    pthread_mutex_lock(&l->lock);
    bool due = l->dirty || !l->key.present;
    pthread_mutex_unlock(&l->lock);
    if (!rc && (due || l->named_ns || now >= l->looked_ns + LOOK_NS)) {
        rc = look(l, &e);
        if (rc) {
            note_reachable(l, false, e.text);
        } else {
            note_reachable(l, true, NULL);
            act(l);
        }
    }
    now = now_ns();
    uint64_t next = MIN(now + (l->key.present ? LOOK_NS : 100 * MS), MAX(l->renew_at, now + 50 * MS));
    if (l->named_ns || node_role(l->n) == NODE_HANDING_OVER)
        next = MIN(next, now + 100 * MS);
    return node_role(l->n) == NODE_PRIMARY ? MIN(next, MAX(fence_at(l), now + MS)) : next;
}

static void *run(void *arg)
{
    struct lease_etcd *l = arg;
    prctl(PR_SET_NAME, "lease");
    for (;;) {
        pthread_mutex_lock(&l->etcd_lock);
        uint64_t next = step(l);
        pthread_mutex_unlock(&l->etcd_lock);
        struct timespec t = {(time_t)(next / 1000000000u), (long)(next % 1000000000u)};
        pthread_mutex_lock(&l->lock);
        while (!l->stop && !l->dirty && pthread_cond_timedwait(&l->changed, &l->lock, &t) != ETIMEDOUT)
            continue;
        bool stop = l->stop;
        pthread_mutex_unlock(&l->lock);
        if (stop)
            return NULL;
    }
}

static void on_change(void *ctx)
{
    struct lease_etcd *l = ctx;
    pthread_mutex_lock(&l->lock);
    l->dirty = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static void *run_watch(void *arg)
{
    struct lease_etcd *l = arg;
    prctl(PR_SET_NAME, "lease-watch");
    for (;;) {
        struct err e;
        (void)etcd_watch(l->watch, l->prefix, on_change, l, &e); /* what it missed is seen by the look that follows */
        uint64_t until = now_ns() + 300 * MS;
        struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
        pthread_mutex_lock(&l->lock);
        while (!l->stop && pthread_cond_timedwait(&l->changed, &l->lock, &t) != ETIMEDOUT)
            continue;
        bool stop = l->stop;
        pthread_mutex_unlock(&l->lock);
        if (stop)
            return NULL;
    }
}

/* ---- start and end ---- */

int lease_etcd_open(struct node *n, struct lease_etcd **out, struct err *e)
{
    const struct config *c = n->config;
    struct lease_etcd *l = calloc(1, sizeof *l);
    if (!l || !(l->nodes = calloc(CONTENDERS_MAX + 1, sizeof *l->nodes))) {
        free(l);
        return err_errno(e, ENOMEM, "lease");
    }
    l->n = n;
    l->ttl_s = (c->lease.ttl_ms + 999) / 1000;
    snprintf(l->prefix, sizeof l->prefix, "edgefs/%s/", c->lease.cluster);
    snprintf(l->primary_name, sizeof l->primary_name, "%sprimary", l->prefix);
    snprintf(l->epoch_name, sizeof l->epoch_name, "%sepoch", l->prefix);
    snprintf(l->node_name, sizeof l->node_name, "%snodes/%s", l->prefix, c->node);
    if (c->lease.password_file && !(l->password = startup_first_line(c->lease.password_file, e))) {
        lease_etcd_close(l, false);
        return err_wrap(e, "lease.password-file");
    }
    struct etcd_options o = {.endpoints = c->lease.endpoints.items, .n_endpoints = c->lease.endpoints.n, .ca_file = c->lease.ca_file,
                             .cert_file = c->lease.cert_file, .key_file = c->lease.key_file, .user = c->lease.user, .password = l->password,
                             .request_ms = REQUEST_MS_MAX};
    l->etcd = etcd_new(&o);
    l->watch = etcd_new(&o);
    pthread_mutex_init(&l->lock, NULL);
    pthread_mutex_init(&l->etcd_lock, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&l->changed, &a);
    pthread_condattr_destroy(&a);
    if (!l->etcd || !l->watch) {
        lease_etcd_close(l, false);
        return err_errno(e, ENOMEM, "lease");
    }
    *out = l;
    return 0;
}

bool lease_etcd_starts(struct lease_etcd *l, bool crashed)
{
    struct err e = {0};
    int rc = renew(l, &e);
    if (!rc)
        rc = look(l, &e);
    if (rc) {
        note_reachable(l, false, e.text);
        log_warn("lease", "starting as a replica: %s", e.text);
        return false;
    }
    struct position last = rlog_last(l->n->rlog);
    /* Another epoch in the key: it was handed to this node, which did not get to begin it. The thread will see to that. */
    if (!l->key.ours || (l->key.epoch != last.epoch && !crashed)) {
        if (l->key.present && !l->key.ours)
            node_set_primary(l->n, l->key.node, l->key.url);
        return false;
    }
    rc = write_primary(l, l->n->config->node, l->n->config->http.advertise, l->lease, (struct position){l->key.epoch, last.lsn},
                       l->key.mod_revision, &e);
    if (rc)
        log_warn("lease", "starting as a replica: %s", e.text);
    return !rc;
}

int lease_etcd_run(struct lease_etcd *l, struct err *e)
{
    int rc = pthread_create(&l->thread, NULL, run, l);
    if (!rc && (rc = pthread_create(&l->watcher, NULL, run_watch, l))) {
        pthread_mutex_lock(&l->lock);
        l->stop = true;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
    }
    l->running = !rc;
    return rc ? err_errno(e, rc, "start the lease's threads") : 0;
}

void lease_etcd_wait_primary(struct lease_etcd *l, uint64_t deadline_ns)
{
    struct timespec t = {(time_t)(deadline_ns / 1000000000u), (long)(deadline_ns % 1000000000u)};
    pthread_mutex_lock(&l->lock);
    while (!l->decided && !l->stop && pthread_cond_timedwait(&l->changed, &l->lock, &t) != ETIMEDOUT)
        continue;
    pthread_mutex_unlock(&l->lock);
}

void lease_etcd_retire(struct lease_etcd *l)
{
    pthread_mutex_lock(&l->lock);
    l->retire = l->dirty = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

bool lease_etcd_retired(struct lease_etcd *l)
{
    pthread_mutex_lock(&l->lock);
    bool done = l->retired;
    pthread_mutex_unlock(&l->lock);
    return done;
}

void lease_etcd_close(struct lease_etcd *l, bool release)
{
    struct err e;
    if (!l)
        return;
    if (l->running) {
        pthread_mutex_lock(&l->lock);
        l->stop = true;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
        etcd_abort(l->watch);
        pthread_join(l->thread, NULL);
        pthread_join(l->watcher, NULL);
    }
    atomic_store(&l->n->lease_until, 0);
    if (release && l->lease && etcd_revoke(l->etcd, l->lease, &e))
        log_warn("lease", "the lease stays until it runs out: %s", e.text);
    etcd_free(l->etcd);
    etcd_free(l->watch);
    free(l->nodes);
    free(l->password);
    free(l);
}

/* ---- promotions ---- */

int lease_etcd_hand_over(struct lease_etcd *l, const char *target, const char *url, struct position from, int64_t *moved, struct err *e)
{
    int64_t lease = 0;
    struct etcd_list list;
    char name[80];
    snprintf(name, sizeof name, "nodes/%s", target);
    pthread_mutex_lock(&l->etcd_lock);
    int rc = etcd_list(l->etcd, l->prefix, &list, e);
    const struct etcd_key *k = rc ? NULL : etcd_list_find(&list, name);
    lease = k ? k->lease : 0;
    if (!rc)
        etcd_list_free(&list);
    if (!rc && !lease)
        rc = err_set(e, ERR_AGAIN_LATER, "%s has no live lease in etcd", target);
    if (!rc && !(l->key.present && l->key.ours))
        rc = err_set(e, ERR_ROLE, "etcd does not say that this node is primary");
    if (!rc) {
        int64_t was = l->key.mod_revision;
        rc = write_primary(l, target, url, lease, from, was, e);
        /* Unknown whether it was written: nobody may write before it is known, or before the lease has run out anyway. */
        while (rc && rc != ERR_AGAIN_LATER && now_ns() < l->valid_until) {
            struct err le;
            nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
            if (look(l, &le))
                continue;
            rc = l->key.present && l->key.lease == lease ? 0 : l->key.mod_revision == was ? err_set(e, ERR_AGAIN_LATER, "etcd did not answer in time") : rc;
        }
        *moved = l->key.mod_revision;
    }
    pthread_mutex_unlock(&l->etcd_lock);
    return rc;
}

bool lease_etcd_take_back(struct lease_etcd *l, int64_t moved)
{
    struct err e;
    pthread_mutex_lock(&l->etcd_lock);
    int rc = write_primary(l, l->n->config->node, l->n->config->http.advertise, l->lease, rlog_last(l->n->rlog), moved, &e);
    pthread_mutex_unlock(&l->etcd_lock);
    if (rc)
        log_warn("lease", "the lease stays with the target: %s", e.text);
    return rc != 0;
}

bool lease_etcd_is_ours(struct lease_etcd *l)
{
    struct err e;
    pthread_mutex_lock(&l->etcd_lock);
    bool ours = !look(l, &e) && l->key.present && l->key.ours && l->key.lease == l->lease;
    pthread_mutex_unlock(&l->etcd_lock);
    return ours;
}

int lease_etcd_force(struct lease_etcd *l, struct position *at, struct err *e)
{
    pthread_mutex_lock(&l->etcd_lock);
    int rc = look(l, e);
    if (!rc && l->key.present)
        rc = err_set(e, ERR_ROLE, "%s holds the lease; `edgefs-ctl promote %s` asks it to hand over, or stop it first", l->key.node,
                     l->n->config->node);
    if (!rc && !l->lease)
        rc = err_set(e, ERR_AGAIN_LATER, "this node has no lease in etcd");
    if (!rc)
        rc = write_primary(l, l->n->config->node, l->n->config->http.advertise, l->lease,
                           (struct position){next_epoch(l), rlog_last(l->n->rlog).lsn}, 0, e);
    if (!rc)
        rc = takeover_run(l->n, l->key.epoch, at, e);
    pthread_mutex_unlock(&l->etcd_lock);
    return rc;
}

bool lease_etcd_reachable(struct lease_etcd *l)
{
    pthread_mutex_lock(&l->lock);
    bool ok = l->reachable;
    pthread_mutex_unlock(&l->lock);
    return ok;
}

json_t *lease_etcd_status(struct lease_etcd *l)
{
    pthread_mutex_lock(&l->lock);
    json_t *o = json_pack("{s:s,s:b,s:s,s:I,s:I}", "type", "etcd", "reachable", l->reachable, "holder", l->holder, "ttl_ms",
                          (json_int_t)(l->ttl_s * 1000), "renewed_ms",
                          (json_int_t)(l->renewed_ns ? (now_ns() - l->renewed_ns) / MS : 0));
    pthread_mutex_unlock(&l->lock);
    return o;
}
