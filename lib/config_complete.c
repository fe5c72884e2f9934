/* What no single line of the configuration says: what is left out and follows from the rest, and settings that do not go together. */
#include "lib/config_load.h"
#include "lib/config_value.h"
#include "lib/util.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>

static int complete_node(struct loader *l)
{
    if (l->c->node)
        return 0;
    char host[HOST_NAME_MAX + 1] = "";
    if (gethostname(host, sizeof host - 1))
        return err_errno(l->e, errno, "host name");
    int rc = config_set_value(l, CONFIG_KEY_NODE, host);
    if (rc == ERR_CONFIG) {
        err_set(l->e, rc, "the host name \"%.80s\" does not do as a node name; give one", host);
        config_at_key(l, CONFIG_KEY_NODE, rc);
    }
    return rc;
}

/* Whether b is a or lies under it. */
static bool path_within(const char *a, const char *b)
{
    size_t n = strlen(a);
    return !strncmp(a, b, n) && (b[n] == 0 || b[n] == '/');
}

static int complete_paths(struct loader *l)
{
    struct config *c = l->c;
    const char *dir = c->dir, *data = c->data;
    if (!dir || !data) {
        err_set(l->e, ERR_CONFIG, "%s is missing: give \"%s\" in the file, or %s on the command line",
                dir ? "the data directory" : "the mount point", dir ? "data" : "dir", dir ? "--data DIR" : "--dir DIR");
        return config_at_line(l, 0, ERR_CONFIG);
    }
    enum config_key_id id = l->line[CONFIG_KEY_DIR] ? CONFIG_KEY_DIR : CONFIG_KEY_DATA;
    if (!strcmp(dir, "/") || !strcmp(data, "/"))
        err_set(l->e, ERR_CONFIG, "\"/\" cannot be used");
    else if (path_within(dir, data) || path_within(data, dir))
        err_set(l->e, ERR_CONFIG, "the mount point %.160s and the data directory %.160s must not lie within each other", dir, data);
    else
        return 0;
    return config_at_key(l, id, ERR_CONFIG);
}

static int complete_http(struct loader *l)
{
    struct config *c = l->c;
    if (!config_host_is_loopback(c->http.host) && !c->token_file) {
        err_set(l->e, ERR_CONFIG, "%s can be reached from other machines; that needs auth: {token-file: PATH}", c->http.host);
        return config_at_key(l, CONFIG_KEY_HTTP_LISTEN, ERR_CONFIG);
    }
    if (c->http.advertise)
        return 0;
    const struct config_node *self = config_node(c, c->node);
    if (self) {
        c->http.advertise = strdup(self->url);
    } else if (!strcmp(c->http.host, "0.0.0.0") || !strcmp(c->http.host, "::")) {
        err_set(l->e, ERR_CONFIG,
                "%s is every address; say under which one the other nodes reach this one: http: {advertise: http://HOST:PORT}",
                c->http.host);
        return config_at_key(l, CONFIG_KEY_HTTP_LISTEN, ERR_CONFIG);
    } else {
        bool v6 = strchr(c->http.host, ':') != NULL;
        if (asprintf(&c->http.advertise, "http://%s%s%s:%u", v6 ? "[" : "", c->http.host, v6 ? "]" : "", c->http.port) < 0)
            c->http.advertise = NULL;
    }
    return c->http.advertise ? 0 : err_errno(l->e, ENOMEM, "configuration");
}

static int complete_nodes(struct loader *l)
{
    struct config *c = l->c;
    for (int i = 0; i < c->n_nodes; i++)
        for (int j = 0; j < i; j++) {
            bool same_name = !strcmp(c->nodes[i].name, c->nodes[j].name);
            if (!same_name && strcmp(c->nodes[i].url, c->nodes[j].url))
                continue;
            err_set(l->e, ERR_CONFIG, "nodes: %s \"%s\" is given twice (first in line %d)", same_name ? "name" : "url",
                    same_name ? c->nodes[i].name : c->nodes[i].url, l->node_line[j]);
            return config_at_line(l, l->node_line[i], ERR_CONFIG);
        }
    if (!c->lease.primary) {
        c->lease.primary = strdup(c->n_nodes ? c->nodes[0].name : c->node);
        return c->lease.primary ? 0 : err_errno(l->e, ENOMEM, "configuration");
    }
    if (strcmp(c->lease.primary, c->node) && !config_node(c, c->lease.primary)) {
        err_set(l->e, ERR_CONFIG, "\"%s\" is neither this node (%s) nor one of nodes", c->lease.primary, c->node);
        return config_at_key(l, CONFIG_KEY_LEASE_PRIMARY, ERR_CONFIG);
    }
    return 0;
}

static int complete_log(struct loader *l)
{
    struct config *c = l->c;
    if (c->log.retention_bytes >= c->log.segment_size)
        return 0;
    err_set(l->e, ERR_CONFIG, "%llu bytes is less than one segment (log.segment-size, %llu bytes)",
            (unsigned long long)c->log.retention_bytes, (unsigned long long)c->log.segment_size);
    return config_at_key(l, l->line[CONFIG_KEY_LOG_RETENTION_BYTES] ? CONFIG_KEY_LOG_RETENTION_BYTES : CONFIG_KEY_LOG_SEGMENT_SIZE, ERR_CONFIG);
}

static int complete_lease(struct loader *l)
{
    struct config *c = l->c;
    static const enum config_key_id only[] = {CONFIG_KEY_LEASE_ENDPOINTS, CONFIG_KEY_LEASE_CLUSTER, CONFIG_KEY_LEASE_TTL, CONFIG_KEY_LEASE_CANDIDATE, CONFIG_KEY_LEASE_PRIORITY,
                                       CONFIG_KEY_LEASE_CA_FILE, CONFIG_KEY_LEASE_CERT_FILE, CONFIG_KEY_LEASE_KEY_FILE, CONFIG_KEY_LEASE_USER, CONFIG_KEY_LEASE_PASSWORD_FILE};
    for (size_t i = 0; i < ARRAY_SIZE(only); i++)
        if (l->line[only[i]] && !c->lease.etcd) {
            err_set(l->e, ERR_CONFIG, "\"%s\" needs lease: {type: etcd}", config_keys[only[i]].path);
            return config_at_key(l, only[i], ERR_CONFIG);
        }
    if (c->lease.etcd && l->line[CONFIG_KEY_LEASE_PRIMARY]) {
        err_set(l->e, ERR_CONFIG, "\"lease.primary\" is for lease: {type: static}; with etcd the most advanced candidate becomes primary");
        return config_at_key(l, CONFIG_KEY_LEASE_PRIMARY, ERR_CONFIG);
    }
    if (c->lease.etcd && !c->lease.endpoints.n) {
        err_set(l->e, ERR_CONFIG, "lease: {type: etcd} needs endpoints: [http://HOST:2379]");
        return config_at_key(l, CONFIG_KEY_LEASE_TYPE, ERR_CONFIG);
    }
    if (c->lease.etcd && config_sync_most(c) && !c->n_nodes) {
        err_set(l->e, ERR_CONFIG, "with lease: {type: etcd} synchronous commit needs \"nodes\", all of them: how many must be heard before one takes over follows from it");
        return config_at_key(l, CONFIG_KEY_SYNC_REPLICAS, ERR_CONFIG);
    }
    if (!c->lease.cert_file != !c->lease.key_file || !c->lease.user != !c->lease.password_file) {
        bool tls = !c->lease.cert_file != !c->lease.key_file;
        err_set(l->e, ERR_CONFIG, tls ? "lease: cert-file and key-file belong together" : "lease: user and password-file belong together");
        return config_at_key(l, CONFIG_KEY_LEASE_TYPE, ERR_CONFIG);
    }
    return 0;
}

static int complete_databases(struct loader *l)
{
    struct config *c = l->c;
    enum config_key_id id = l->line[CONFIG_KEY_DATABASES_INCLUDE] ? CONFIG_KEY_DATABASES_INCLUDE : CONFIG_KEY_DATABASES_EXCLUDE;
    if (!config_partial(c))
        return 0;
    if (!c->lease.etcd && !strcmp(c->lease.primary, c->node)) {
        err_set(l->e, ERR_CONFIG, "this node is lease.primary, and a primary has all databases");
        return config_at_key(l, id, ERR_CONFIG);
    }
    if (l->line[CONFIG_KEY_LEASE_CANDIDATE] && c->lease.candidate) {
        err_set(l->e, ERR_CONFIG, "a node that has only some of the databases cannot become primary: lease: {candidate: false}");
        return config_at_key(l, id, ERR_CONFIG);
    }
    c->lease.candidate = false;
    return 0;
}

int config_complete(struct loader *l)
{
    static int (*const steps[])(struct loader *) = {complete_node, complete_paths, complete_nodes,     complete_http,
                                                    complete_log,  complete_lease, complete_databases, config_complete_proxies};
    int rc = 0;
    for (size_t i = 0; !rc && i < ARRAY_SIZE(steps); i++)
        rc = steps[i](l);
    return rc;
}
