#include "replicator/stream/replicas.h"

#include "edgefs/layout.h"
#include "lib/durable.h"
#include "lib/log.h"
#include "lib/util.h"
#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define NAME_SIZE 65u /* as in the configuration: 1 to 64 of [A-Za-z0-9._-] */
#define URL_SIZE 256u
#define FILE_MAX (1u << 20)

/* A stream that takes records and acknowledges none for this long no longer keeps the log from being trimmed. */
#define SILENT_NS UINT64_C(60000000000)

struct replica {
    char name[NAME_SIZE];
    char url[URL_SIZE];
    unsigned streams; /* open now; two for a moment when a node reconnects before its old connection is known dead */
    uint64_t sent, received, applied, durable;
    uint64_t vouched; /* see replicas_vouch */
    bool bystander;
    uint64_t last_durable; /* ever said, also before this process started; 0: nothing */
    uint64_t ack_ns;  /* monotonic; of the last acknowledgement, 0: none since it connected */
    uint64_t seen_ns; /* monotonic; connected, disconnected, or acknowledged */
    UT_hash_handle hh;
};

struct replicas {
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    struct replica *by_name;
    bool dirty; /* differs from the file */
};

int replicas_open(struct replicas **out, struct err *e)
{
    struct replicas *r = calloc(1, sizeof *r);
    if (!r)
        return err_errno(e, ENOMEM, "table of replicas");
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&r->changed, &a);
    pthread_condattr_destroy(&a);
    *out = r;
    return 0;
}

void replicas_close(struct replicas *r)
{
    if (!r)
        return;
    struct replica *p, *next;
    HASH_ITER(hh, r->by_name, p, next)
    {
        HASH_DEL(r->by_name, p);
        free(p);
    }
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

static bool name_allowed(const char *name)
{
    size_t n = strnlen(name, NAME_SIZE);
    if (n == 0 || n >= NAME_SIZE || !isalnum((unsigned char)name[0]))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
            return false;
    return true;
}

/* It is shown to people and followed by other nodes: plain http://, visible ASCII, nothing that ends a JSON string or a line. */
static bool url_allowed(const char *url)
{
    size_t n = strnlen(url, URL_SIZE);
    if (n == 0)
        return true;
    if (n >= URL_SIZE || (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0))
        return false;
    for (size_t i = 0; i < n; i++)
        if (url[i] <= ' ' || url[i] > '~' || url[i] == '"' || url[i] == '\\')
            return false;
    return true;
}

static struct replica *find(struct replicas *r, const char *node)
{
    struct replica *p;
    HASH_FIND_STR(r->by_name, node, p);
    return p;
}

/* Makes room by forgetting the node that has been away the longest. */
static bool evict(struct replicas *r)
{
    struct replica *oldest = NULL;
    for (struct replica *p = r->by_name; p; p = p->hh.next)
        if (!p->streams && (!oldest || p->seen_ns < oldest->seen_ns))
            oldest = p;
    if (!oldest)
        return false;
    HASH_DEL(r->by_name, oldest);
    free(oldest);
    return true;
}

static struct replica *add(struct replicas *r, const char *node, struct err *e)
{
    if (HASH_COUNT(r->by_name) >= REPLICAS_MAX && !evict(r)) {
        err_set(e, -EBUSY, "%u replicas are connected already", REPLICAS_MAX);
        return NULL;
    }
    struct replica *p = calloc(1, sizeof *p);
    if (p) {
        memcpy(p->name, node, strlen(node) + 1);
        HASH_ADD_STR(r->by_name, name, p);
        if (!p->hh.tbl) { /* no memory for the table */
            free(p);
            p = NULL;
        }
    }
    if (!p)
        err_errno(e, ENOMEM, "table of replicas");
    return p;
}

int replicas_connected(struct replicas *r, const char *node, const char *url, struct err *e)
{
    if (!name_allowed(node))
        return err_set(e, -EINVAL, "the name of a node is 1 to 64 letters, digits, '.', '_', '-'");
    if (!url_allowed(url ? url : ""))
        return err_set(e, -EINVAL, "the url of node %s is not http://HOST:PORT of at most %u bytes", node, URL_SIZE - 1);
    int rc = 0;
    pthread_mutex_lock(&r->lock);
    struct replica *p = find(r, node);
    if (!p)
        p = add(r, node, e);
    if (!p) {
        rc = e ? e->code : -ENOMEM;
    } else {
        p->streams++;
        snprintf(p->url, sizeof p->url, "%s", url ? url : "");
        /* What it acknowledged before may no longer be so (a reset in between). */
        p->sent = p->received = p->applied = p->durable = p->vouched = 0;
        p->bystander = false;
        p->ack_ns = 0;
        p->seen_ns = now_ns();
    }
    pthread_mutex_unlock(&r->lock);
    return rc;
}

void replicas_disconnected(struct replicas *r, const char *node)
{
    pthread_mutex_lock(&r->lock);
    struct replica *p = find(r, node);
    if (p && p->streams) {
        p->streams--;
        p->seen_ns = now_ns();
        pthread_cond_broadcast(&r->changed); /* who waits for it gives up */
    }
    pthread_mutex_unlock(&r->lock);
}

void replicas_sent(struct replicas *r, const char *node, uint64_t lsn)
{
    pthread_mutex_lock(&r->lock);
    struct replica *p = find(r, node);
    if (p)
        p->sent = lsn;
    pthread_mutex_unlock(&r->lock);
}

void replicas_ack(struct replicas *r, const char *node, uint64_t received, uint64_t applied, uint64_t durable)
{
    pthread_mutex_lock(&r->lock);
    struct replica *p = find(r, node);
    if (p && p->streams) {
        p->received = received;
        p->applied = applied;
        p->durable = durable;
        r->dirty |= p->last_durable != durable;
        p->last_durable = durable;
        p->ack_ns = p->seen_ns = now_ns();
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->lock);
}

void replicas_bystander(struct replicas *r, const char *node)
{
    pthread_mutex_lock(&r->lock);
    struct replica *p = find(r, node);
    if (p)
        p->bystander = true;
    pthread_mutex_unlock(&r->lock);
}

void replicas_vouch(struct replicas *r, const char *node, uint64_t lsn)
{
    pthread_mutex_lock(&r->lock);
    struct replica *p = find(r, node);
    /* What was never sent on this connection is of another history: the node has not seen yet that it must start afresh. */
    if (p && p->streams && !p->bystander && lsn <= p->sent)
        p->vouched = MAX(p->vouched, lsn);
    pthread_mutex_unlock(&r->lock);
}

uint64_t replicas_vouched(struct replicas *r, unsigned n)
{
    uint64_t best[REPLICAS_VOUCH_MAX] = {0}; /* descending */
    n = MIN(n, REPLICAS_VOUCH_MAX);
    pthread_mutex_lock(&r->lock);
    for (struct replica *p = r->by_name; p; p = p->hh.next) {
        uint64_t v = p->streams ? p->vouched : 0;
        for (unsigned i = 0; i < n; i++)
            if (v > best[i]) {
                uint64_t worse = best[i];
                best[i] = v;
                v = worse;
            }
    }
    pthread_mutex_unlock(&r->lock);
    return best[n - 1];
}

bool replicas_find(struct replicas *r, const char *node, char *url)
{
    pthread_mutex_lock(&r->lock);
    struct replica *p = find(r, node);
    bool found = p && p->streams;
    if (found && url)
        memcpy(url, p->url, URL_SIZE);
    pthread_mutex_unlock(&r->lock);
    return found;
}

int replicas_wait_applied(struct replicas *r, const char *node, uint64_t lsn, uint64_t deadline_ns)
{
    struct timespec until = {(time_t)(deadline_ns / 1000000000u), (long)(deadline_ns % 1000000000u)};
    int rc = 0;
    pthread_mutex_lock(&r->lock);
    for (;;) {
        struct replica *p = find(r, node); /* again each time: it may have been evicted while we waited */
        if (!p || !p->streams) {
            rc = -ENOTCONN;
            break;
        }
        if (p->ack_ns && p->applied >= lsn) {
            rc = 0;
            break;
        }
        if (rc)
            break;
        rc = -pthread_cond_timedwait(&r->changed, &r->lock, &until);
    }
    pthread_mutex_unlock(&r->lock);
    return rc;
}

uint64_t replicas_need(struct replicas *r)
{
    uint64_t need = UINT64_MAX, now = now_ns();
    pthread_mutex_lock(&r->lock);
    for (struct replica *p = r->by_name; p; p = p->hh.next)
        if (p->streams && p->durable + 1 < need && (p->durable >= p->sent || now - p->seen_ns < SILENT_NS))
            need = p->durable + 1;
    pthread_mutex_unlock(&r->lock);
    return need;
}

uint64_t replicas_received(struct replicas *r)
{
    uint64_t low = UINT64_MAX;
    pthread_mutex_lock(&r->lock);
    for (struct replica *p = r->by_name; p; p = p->hh.next)
        if (p->streams)
            low = MIN(low, p->received);
    pthread_mutex_unlock(&r->lock);
    return low;
}

bool replicas_away(struct replicas *r, char *name, uint64_t *lsn)
{
    bool found = false;
    pthread_mutex_lock(&r->lock);
    for (struct replica *p = r->by_name; p; p = p->hh.next)
        if (!p->streams && p->last_durable && (!found || p->last_durable + 1 < *lsn)) {
            memcpy(name, p->name, NAME_SIZE);
            *lsn = p->last_durable + 1;
            found = true;
        }
    pthread_mutex_unlock(&r->lock);
    return found;
}

/* ---- the file ---- */

void replicas_load(struct replicas *r, int dirfd)
{
    char *text = NULL;
    size_t n, i;
    struct err e;
    json_error_t je;
    json_t *v;
    int rc = durable_read(dirfd, LAYOUT_REPLICAS, FILE_MAX, &text, &n, &e);
    json_t *list = rc ? NULL : json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
    free(text);
    if ((rc && rc != -ENOENT) || (!rc && !json_is_array(list)))
        log_warn("replicas", "how far the replicas were is not known any more: %s", rc ? e.text : "the file is damaged");
    json_array_foreach(list, i, v)
    {
        const char *name = json_string_value(json_object_get(v, "node")), *url = json_string_value(json_object_get(v, "url"));
        json_int_t lsn = json_integer_value(json_object_get(v, "durable_lsn"));
        if (!name || !name_allowed(name) || !url_allowed(url ? url : "") || lsn < 0)
            continue;
        pthread_mutex_lock(&r->lock);
        struct replica *p = find(r, name) ? NULL : add(r, name, &e);
        if (p) {
            snprintf(p->url, sizeof p->url, "%s", url ? url : "");
            p->durable = p->last_durable = (uint64_t)lsn;
        }
        pthread_mutex_unlock(&r->lock);
    }
    json_decref(list);
}

int replicas_save(struct replicas *r, int dirfd, struct err *e)
{
    pthread_mutex_lock(&r->lock);
    json_t *list = r->dirty ? json_array() : NULL;
    for (struct replica *p = r->by_name; list && p; p = p->hh.next)
        if (p->last_durable)
            json_array_append_new(list, json_pack("{s:s,s:s,s:I}", "node", p->name, "url", p->url, "durable_lsn", (json_int_t)p->last_durable));
    bool dirty = r->dirty;
    r->dirty = false;
    pthread_mutex_unlock(&r->lock);
    if (!dirty)
        return 0;
    _cleanup_free_ char *text = list ? json_dumps(list, JSON_INDENT(1)) : NULL;
    json_decref(list);
    int rc = text ? durable_replace(dirfd, LAYOUT_REPLICAS, text, strlen(text), 0600, e) : err_errno(e, ENOMEM, "%s", LAYOUT_REPLICAS);
    if (rc) {
        pthread_mutex_lock(&r->lock);
        r->dirty = true;
        pthread_mutex_unlock(&r->lock);
    }
    return rc;
}

static int by_name(struct replica *a, struct replica *b)
{
    return strcmp(a->name, b->name);
}

json_t *replicas_json(struct replicas *r)
{
    json_t *list = json_array();
    pthread_mutex_lock(&r->lock);
    HASH_SORT(r->by_name, by_name);
    uint64_t now = now_ns();
    for (struct replica *p = r->by_name; list && p; p = p->hh.next) {
        json_t *o = json_pack("{s:s,s:s,s:b,s:I,s:I,s:I,s:I}", "node", p->name, "url", p->url, "connected", p->streams > 0,
                              "sent_lsn", (json_int_t)p->sent, "received_lsn", (json_int_t)p->received, "applied_lsn",
                              (json_int_t)p->applied, "durable_lsn", (json_int_t)p->durable);
        if (!o)
            continue;
        json_object_set_new(o, "ack_age_ms", p->ack_ns ? json_integer((json_int_t)((now - p->ack_ns) / 1000000u)) : json_null());
        json_array_append_new(list, o);
    }
    pthread_mutex_unlock(&r->lock);
    return list;
}
