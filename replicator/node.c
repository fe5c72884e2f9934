#include "replicator/node.h"

#include "lib/log.h"
#include "lib/util.h"
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>

#define LAG_HEARTBEATS_NS 2500000000u /* two heartbeats and a half */

static const char *const role_names[] = {
    [NODE_STARTING] = "starting",
    [NODE_REPLICA] = "replica",
    [NODE_PRIMARY] = "primary",
    [NODE_HANDING_OVER] = "handing-over",
};

const char *node_role_name(enum node_role r)
{
    return role_names[r];
}

struct position node_applied(const struct node *n)
{
    struct position p = rlog_last(n->rlog);
    enum node_role r = node_role(n);
    if (r != NODE_PRIMARY && r != NODE_HANDING_OVER)
        p.lsn = atomic_load(&n->applied);
    return p;
}

bool node_holds_lease(const struct node *n)
{
    return now_ns() < atomic_load(&n->lease_until);
}

uint64_t node_lag_ms(const struct node *n)
{
    enum node_role r = node_role(n);
    if (r == NODE_PRIMARY || r == NODE_HANDING_OVER)
        return 0;
    uint64_t t = atomic_load(&n->current_ns);
    if (!t)
        return UINT64_MAX;
    uint64_t now = now_ns();
    /* While the stream is up and all of it applied there is nothing to be behind of: heartbeats, a second apart, would say otherwise. */
    if (atomic_load(&n->connected) && atomic_load(&n->applied) >= rlog_last(n->rlog).lsn && now - t < LAG_HEARTBEATS_NS)
        return 0;
    return now > t ? (now - t) / 1000000u : 0;
}

void node_primary(struct node *n, char name[128], char url[256])
{
    pthread_mutex_lock(&n->lock);
    memcpy(name, n->primary, sizeof n->primary);
    memcpy(url, n->primary_url, sizeof n->primary_url);
    pthread_mutex_unlock(&n->lock);
}

void node_set_primary(struct node *n, const char *name, const char *url)
{
    pthread_mutex_lock(&n->lock);
    snprintf(n->primary, sizeof n->primary, "%s", name);
    snprintf(n->primary_url, sizeof n->primary_url, "%s", url);
    pthread_mutex_unlock(&n->lock);
}

void node_upstream(struct node *n, char name[128], char url[256], char path[NODE_PATH_MAX])
{
    pthread_mutex_lock(&n->lock);
    memcpy(name, n->upstream, sizeof n->upstream);
    memcpy(url, n->upstream_url, sizeof n->upstream_url);
    if (path)
        memcpy(path, n->path, sizeof n->path);
    pthread_mutex_unlock(&n->lock);
}

void node_set_upstream(struct node *n, const char *name, const char *url, const char *path)
{
    pthread_mutex_lock(&n->lock);
    snprintf(n->upstream, sizeof n->upstream, "%s", name ? name : "");
    snprintf(n->upstream_url, sizeof n->upstream_url, "%s", url ? url : "");
    snprintf(n->path, sizeof n->path, "%s", path ? path : "");
    pthread_mutex_unlock(&n->lock);
}

bool node_live(const struct node *n)
{
    enum node_role r = node_role(n);
    return r == NODE_PRIMARY || r == NODE_HANDING_OVER || (atomic_load(&n->connected) && atomic_load(&n->live));
}

void node_warn(struct node *n, const char *fmt, ...)
{
    char text[sizeof n->warning] = "";
    if (fmt) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
    }
    pthread_mutex_lock(&n->lock);
    bool changed = strcmp(text, n->warning) != 0;
    memcpy(n->warning, text, sizeof text);
    pthread_mutex_unlock(&n->lock);
    if (changed && text[0])
        log_warn("node", "%s", text);
}

static char *join(const char *dir, const char *name)
{
    char *p;
    return asprintf(&p, "%s/%s", dir, name) < 0 ? NULL : p;
}

char *node_mount_path(const struct node *n, const char *name)
{
    return join(n->config->dir, name);
}

char *node_backing_path(const struct node *n, const char *name)
{
    char *p;
    return asprintf(&p, "%s/%s/%s", n->config->data, LAYOUT_DB, name) < 0 ? NULL : p;
}

void node_stop(struct node *n)
{
    atomic_store(&n->stopping, true);
    kill(getpid(), SIGTERM);
}
