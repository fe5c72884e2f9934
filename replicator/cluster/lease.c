#include "replicator/cluster/lease.h"

#include "lib/durable.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/cluster/discover.h"
#include "replicator/cluster/promotion.h"
#include "replicator/cluster/takeover.h"
#include <errno.h>
#include <jansson.h>
#include <stdio.h>

#define GIVE_WAY_NS 1000000000u /* how long one attempt to fence this node waits for transactions that are being written */

static pthread_mutex_t save_lock = PTHREAD_MUTEX_INITIALIZER; /* one writer of role.json at a time */

int lease_load(struct node *n, struct err *e)
{
    char *data = NULL;
    size_t size = 0;
    int rc = durable_read(n->data_fd, LAYOUT_ROLE, 65536, &data, &size, e);
    if (rc == -ENOENT && n->config->lease.etcd)
        return 0;
    if (rc == -ENOENT) {
        const struct config_node *c = config_node(n->config, n->config->lease.primary);
        bool self = !strcmp(n->config->lease.primary, n->config->node);
        node_set_primary(n, n->config->lease.primary, self ? n->config->http.advertise : c ? c->url : "");
        return 0;
    }
    if (rc)
        return rc;
    json_error_t je;
    json_t *o = json_loadb(data, size, JSON_REJECT_DUPLICATES, &je);
    const char *name = json_string_value(json_object_get(o, "primary"));
    const char *url = json_string_value(json_object_get(o, "primary_url"));
    if (name && url) {
        const struct config_node *c = config_node(n->config, name); /* addresses may have changed; the configuration knows */
        bool self = !strcmp(name, n->config->node);
        node_set_primary(n, name, self ? n->config->http.advertise : c ? c->url : url);
    } else {
        rc = err_set(e, ERR_CORRUPT, "%s/%s does not say who is primary; remove it to go by the configuration", n->config->data,
                     LAYOUT_ROLE);
    }
    json_decref(o);
    free(data);
    return rc;
}

void lease_save(struct node *n)
{
    char name[128], url[256];
    struct err e;
    pthread_mutex_lock(&save_lock);
    node_primary(n, name, url);
    json_t *o = json_pack("{s:s,s:s}", "primary", name, "primary_url", url);
    char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    if (!text || durable_replace(n->data_fd, LAYOUT_ROLE, text, strlen(text), 0600, &e))
        log_error("lease", "cannot write %s: %s", LAYOUT_ROLE, text ? e.text : "no memory");
    free(text);
    json_decref(o);
    pthread_mutex_unlock(&save_lock);
}

/* This node's current epoch gets another number in its history: one of its own. The records keep the old one. */
static int renumber(struct node *n, struct err *e)
{
    struct epoch_entry *list = calloc(EPOCHS_MAX, sizeof *list);
    if (!list)
        return err_errno(e, ENOMEM, "history of epochs");
    size_t k = epochs_newest(n->epochs, list, EPOCHS_MAX);
    if (k)
        list[k - 1].epoch = lease_next_epoch(n, n->config->node, list[k - 1].epoch);
    int rc = k ? epochs_replace(n->epochs, list, k, e) : 0;
    free(list);
    return rc;
}

/* Another node is primary of an epoch with the same number (one of the two has a `nodes` without itself, so that the number was not its own). A position that names this
 * number says nothing: it may mean either history. So the one that stays primary takes the number out of its history and begins an epoch that is its own. Whoever comes with
 * the old number starts afresh, and what it had from where the histories part goes into its quarantine; the other primary is among them, as it gives way to a later epoch. */
static void stand_apart(struct node *n, const struct discovered *d)
{
    struct err e;
    uint64_t lsn, known = epochs_current(n->epochs).epoch;
    log_warn("lease", "%s is primary of an epoch with the same number, %llu: this node goes on with another one", d->node, (unsigned long long)known);
    if (takeover_fence(n, now_ns() + GIVE_WAY_NS, &e) || renumber(n, &e) ||
        takeover_begin_epoch(n, lease_next_epoch(n, n->config->node, epochs_current(n->epochs).epoch), &lsn, &e))
        node_warn(n, "a new epoch: %s", e.text);
    takeover_writable(n);
}

void lease_give_way(struct node *n, const char *url, bool *ending)
{
    struct discovered d;
    struct err e;
    enum node_role role = node_role(n);
    if (promotion_running() || (role != NODE_PRIMARY && !(role == NODE_HANDING_OVER && *ending)))
        return;
    if (discover_ask(n, url, &d, NULL) || d.role != NODE_PRIMARY || d.pos.epoch < epochs_current(n->epochs).epoch)
        return;
    if (d.pos.epoch == epochs_current(n->epochs).epoch) {
        if (role == NODE_PRIMARY && strcmp(n->config->node, d.node) < 0) /* any rule that both judge alike */
            stand_apart(n, &d);
        else
            *ending = *ending || role == NODE_PRIMARY; /* asked again soon */
        return;
    }
    log_warn("lease", "%s is primary in epoch %llu, later than our %llu: no more writes here", d.node, (unsigned long long)d.pos.epoch,
             (unsigned long long)epochs_current(n->epochs).epoch);
    *ending = true;
    if (takeover_fence(n, now_ns() + GIVE_WAY_NS, &e)) {
        node_warn(n, "fencing this node: %s", e.text);
        return;
    }
    takeover_follow(n, d.node, d.url, d.pos.epoch);
    *ending = false;
}

bool lease_still_ours(struct node *n)
{
    struct epoch_entry mine = epochs_current(n->epochs);
    for (int i = 0; i < n->config->n_nodes; i++) {
        struct discovered d;
        const struct config_node *c = &n->config->nodes[i];
        if (!strcmp(c->name, n->config->node) || discover_ask(n, c->url, &d, NULL))
            continue;
        if (d.role == NODE_PRIMARY && d.pos.epoch > mine.epoch) {
            log_warn("lease", "%s is primary in epoch %llu, later than our %llu: following it", d.node, (unsigned long long)d.pos.epoch,
                     (unsigned long long)mine.epoch);
            node_set_primary(n, d.node, d.url);
            lease_save(n);
            return false;
        }
    }
    return true;
}

uint64_t lease_next_epoch(const struct node *n, const char *name, uint64_t known)
{
    const struct config *c = n->config;
    if (n->lease || !config_node(c, name))
        return known + 1;
    uint64_t nodes = (uint64_t)c->n_nodes, before = 0;
    for (int i = 0; i < c->n_nodes; i++)
        before += strcmp(c->nodes[i].name, name) < 0;
    /* Epoch e is of the node with (e - 1) % nodes others before it. */
    return known + 1 + (before + nodes - known % nodes) % nodes;
}
