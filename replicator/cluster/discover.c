#include "replicator/cluster/discover.h"

#include "lib/http/client.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/capture/hooks.h"
#include "replicator/cluster/lease.h"
#include <errno.h>
#include <jansson.h>
#include <stdio.h>

static void copy_string(char *to, size_t size, const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    snprintf(to, size, "%s", s ? s : "");
}

int discover_ask(struct node *n, const char *url, struct discovered *d, struct err *e)
{
    char target[320];
    struct http_response r;
    memset(d, 0, sizeof *d);
    struct http_client *c = http_client_new(
        &(struct http_client_options){.token = n->token, .connect_ms = 1000, .idle_ms = 2000, .total_ms = 3000, .max_body = 4u << 20});
    if (!c)
        return err_errno(e, ENOMEM, "discover");
    snprintf(target, sizeof target, "%s/v1/status", url);
    int rc = http_client_request(c, "GET", target, NULL, NULL, 0, &r, e);
    if (!rc)
        rc = http_response_check(&r, "GET", target, e);
    json_t *o = rc ? NULL : json_loadb(r.body, r.body_len, JSON_REJECT_DUPLICATES, NULL);
    if (!rc && !json_is_object(o))
        rc = err_set(e, -EBADMSG, "%s does not answer like a node", target);
    if (!rc) {
        char role[32];
        copy_string(role, sizeof role, o, "role");
        for (int i = NODE_STARTING; i <= NODE_HANDING_OVER; i++)
            if (!strcmp(role, node_role_name((enum node_role)i)))
                d->role = (enum node_role)i;
        d->reached = true;
        d->pos.epoch = (uint64_t)json_integer_value(json_object_get(o, "epoch"));
        d->pos.lsn = (uint64_t)json_integer_value(json_object_get(o, "lsn"));
        copy_string(d->node, sizeof d->node, o, "node");
        snprintf(d->url, sizeof d->url, "%s", url);
        copy_string(d->primary, sizeof d->primary, o, "primary");
        copy_string(d->primary_url, sizeof d->primary_url, o, "primary_url");
    }
    json_decref(o);
    http_response_free(&r);
    http_client_free(c);
    return rc;
}

static void consider(struct node *n, const char *url, struct discovered *best)
{
    struct discovered d;
    if (!*url || !strcmp(url, n->config->http.advertise) || discover_ask(n, url, &d, NULL))
        return;
    /* A node in the middle of handing over is still the one whose log counts. */
    if (d.role != NODE_PRIMARY && d.role != NODE_HANDING_OVER)
        return;
    if (!best->reached || d.pos.epoch > best->pos.epoch)
        *best = d;
}

bool discover_primary(struct node *n, struct discovered *best)
{
    char name[128], url[256];
    *best = (struct discovered){0};
    node_primary(n, name, url);
    consider(n, url, best);
    for (int i = 0; i < n->config->n_nodes; i++)
        if (strcmp(n->config->nodes[i].url, url) != 0)
            consider(n, n->config->nodes[i].url, best);
    return best->reached;
}

void discover_believe(struct node *n, const struct discovered *d)
{
    char name[128], url[256];
    node_primary(n, name, url);
    if (!strcmp(d->node, name) && !strcmp(d->url, url))
        return;
    log_info("discover", "%s (%s) is primary, epoch %llu", d->node, d->url, (unsigned long long)d->pos.epoch);
    node_set_primary(n, d->node, d->url);
    lease_save(n);
    hooks_send_role(n->hooks);
}
