/* The `proxy:` list of the configuration: one entry an application (docs/proxy.md). Part of lib/config.h; parsed by config_proxy.c. */
#ifndef EDGEFS_CONFIG_PROXY_H
#define EDGEFS_CONFIG_PROXY_H

#include <stdbool.h>
#include <stdint.h>

#define CONFIG_PROXIES_MAX 64
#define CONFIG_LIST_MAX 1000 /* elements of one list in an entry */

struct config_list {
    char **items;
    int n;
};

struct config_address { /* of a target */
    char *host;     /* NULL: unix socket */
    uint16_t port;
    char *path;     /* unix socket; NULL: host and port */
};

struct config_peer {
    char *node; /* name of a node */
    char *url;  /* http://HOST:PORT or https://HOST:PORT: where that node's proxy for this application listens */
};

struct config_cache_route {
    char *path;                   /* pattern */
    struct config_list databases; /* names of databases (patterns); empty: all */
};

enum config_access_log { CONFIG_ACCESS_LOG_OFF, CONFIG_ACCESS_LOG_LOGFMT, CONFIG_ACCESS_LOG_JSON };

enum config_splice { CONFIG_SPLICE_AUTO, CONFIG_SPLICE_OFF, CONFIG_SPLICE_ON };

struct config_proxy {
    int line; /* where it begins in the file */
    char *name;
    struct {
        char *host;
        uint16_t port;
    } listen;
    struct config_address target;
    struct config_peer *peers;
    int n_peers;
    struct {
        char *certificate, *key; /* both or none */
    } tls;
    struct {
        char *ca; /* NULL: the system's */
    } peer_tls;
    struct config_list trust;                                                  /* addresses or CIDR blocks */
    struct config_list passthrough, always_forward, stale_ok, upgrade_writes; /* path patterns */
    struct config_list read_only_methods;
    uint64_t max_wait_ms, failover_wait_ms, capture_wait_ms;
    uint64_t failover_queue; /* requests */
    struct {
        uint64_t wait_records, wait_ms, stale_records;
    } lag;
    struct {
        bool lag, write_slow, primary, neighbours, control; /* levels 1 to 5: whether they are announced and acted upon */
        uint64_t lag_ms, write_p50_ms, write_queue;
    } degrade;
    uint64_t replay_body;
    bool metrics, forwarded;
    enum config_access_log access_log;
    char *access_log_file; /* NULL: standard error */
    struct {
        uint64_t header_size, header_count, body_size, connections, target_connections, idle_target_connections;
        uint64_t header_ms, idle_ms, body_ms, connect_ms, response_ms, queue_ms, idle_target_ms;
    } limits;
    enum config_splice splice; /* long response bodies; see http-proxy/busy.h */
    uint64_t drain_ms;
    struct config_cache_route *cache;
    int n_cache;
    uint64_t cache_size, cache_object;
};

/* The url of node's proxy for this application: of `peers`, else the `proxy` of the node in `nodes`, else made of the node's `url` in `nodes` and this entry's port. Into url (256
 * bytes). 0, or -ENOENT: neither is known. */
struct config;
int config_proxy_peer(const struct config *c, const struct config_proxy *p, const char *node, const char *api_url, char *url);

#endif
