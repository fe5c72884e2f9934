/* Configuration: one YAML file a node (docs/configuration.md), or arguments alone. Parsed once at start; read-only after. */
#ifndef EDGEFS_CONFIG_H
#define EDGEFS_CONFIG_H

#include "lib/config_proxy.h"
#include "lib/err.h"
#include "lib/log.h"
#include <stdbool.h>
#include <stdint.h>

#define CONFIG_NODES_MAX 256
#define CONFIG_SYNC_MAX 64 /* replicas that a commit may wait for */
#define CONFIG_UPSTREAM_PRIMARY "primary"
#define CONFIG_UPSTREAM_NEAREST "nearest"

struct config_node {
    char *name; /* unique */
    char *url;  /* http://host:port, no trailing slash */
    char *proxy; /* http(s)://host:port at which its edgefs-proxy takes what others forward; NULL: not said */
};

struct config {
    char *node; /* name of this node; default: host name. 1 to 64 of [A-Za-z0-9._-] */
    char *dir;  /* absolute path of the mount point; required (here or --dir) */
    char *data; /* absolute path of the data directory; required (here or --data) */

    struct {
        bool passthrough; /* fs: {passthrough: auto|off}; auto: true */
        bool cpu_latency_qos; /* fs: {cpu-latency-qos: auto|off}; auto: true. Ask for quick wake-ups while syncs follow each other */
        bool allow_other; /* fs: {allow-other: true|false}; default true when root */
    } fs;
    bool replica_open_readonly; /* replica-open: readwrite|readonly; default readwrite */

    struct {
        char *host;      /* http: {listen: HOST:PORT}; default 127.0.0.1:20202; [::1]:N for IPv6; port 0: any free port */
        uint16_t port;
        char *advertise; /* http: {advertise: URL}; default http://HOST:PORT */
    } http;
    char *token_file; /* auth: {token-file: PATH}; NULL: none. Required when http.listen is not loopback */

    struct {
        bool etcd;     /* lease: {type: static|etcd} */
        char *primary; /* static: {primary: NODE}; default: this node if `nodes` is empty, else the first of them */
        struct config_list endpoints; /* etcd, as all that follows: http(s)://HOST:PORT of its members */
        char *cluster;     /* nodes that agree on one primary have the same: keys are below edgefs/CLUSTER/ */
        uint64_t ttl_ms;   /* how long a primary that says nothing more stays primary; etcd counts in whole seconds: rounded up */
        bool candidate;    /* this node may become primary without being asked */
        uint64_t priority; /* of candidates that have the same position the highest one goes first */
        char *ca_file, *cert_file, *key_file; /* PEM; NULL: none */
        char *user, *password_file;           /* NULL: none */
    } lease;
    struct config_node *nodes; /* nodes: [{name: a, url: http://…}, …]; may include this node itself */
    int n_nodes;
    char *upstream; /* whom a replica follows: CONFIG_UPSTREAM_* or the URL of a node */
    uint64_t upstream_interval_ms; /* how often it is asked whether that is still right; a quarter of it: how long one that let this node down is left alone */
    struct {
        struct config_list include, exclude; /* patterns of names of databases that a replica has; no include: all */
    } databases;
    struct config_proxy *proxies; /* proxy: [{listen: …, target: …}, …]; docs/proxy.md */
    int n_proxies;

    struct {
        uint64_t segment_size;    /* log: {segment-size: 64MiB}; 1MiB..1GiB */
        uint64_t retention_bytes; /* log: {retention-bytes: 1GiB}; at least segment-size */
        uint64_t retention_age_ms; /* log: {retention-age: 24h} */
    } log;
    struct {
        uint64_t interval_ms; /* scrub: {interval: 24h}; 0: never */
        uint64_t rate;        /* scrub: {rate: 50MiB}; bytes a second */
    } scrub;
    uint64_t apply_wait_ms; /* apply-wait: 1s */
    struct { /* synchronous commit: docs/synchronous-commit.md */
        uint64_t replicas;            /* sync-replicas: that many have a transaction durable before its commit returns; 0: asynchronous */
        uint64_t timeout_ms;          /* sync-timeout: so long is waited for them */
        bool refuse;                  /* sync-policy: degrade|refuse; what then */
        struct config_list databases; /* sync-databases: names (patterns); empty: all */
        uint64_t *numbers; /* one for each of these, if it is a mapping: the first that fits counts instead of `replicas`. NULL: a list, all others wait for none */
    } sync;
    enum log_level log_level; /* logging: {level: info} */
};

/* Command-line settings that stand above (or in place of) a file; NULL: not given. */
struct config_args {
    const char *file; /* -c FILE */
    const char *dir;  /* --dir DIR */
    const char *data; /* --data DIR */
    const char *node; /* --node NAME */
};

/* Takes the options of config_args (and only those) out of argv[1..argc) wherever they stand before "--"; `-c FILE`,
 * `-cFILE`, `--dir DIR`, `--dir=DIR` forms. The rest stays in argv, in order; returns the new argc, or -EINVAL with a message
 * (an option without its value, an option given twice). Strings point into argv. */
int config_take_args(int argc, char **argv, struct config_args *args, struct err *e);

/* Loads, checks and completes. On success *out is the caller's (config_free). On failure returns ERR_CONFIG (or -errno if the file
 * cannot be read) and e->text is "FILE:LINE: message" naming the key, the bad value and what would be right; *out untouched. */
int config_load(const struct config_args *args, struct config **out, struct err *e);
void config_free(struct config *c);

/* Whether this node replicates only some of the databases (databases.include, databases.exclude). */
bool config_partial(const struct config *c);
/* How many replicas a commit of that database waits for; 0: none. Any thread. */
unsigned config_sync_replicas(const struct config *c, const char *database);
/* The most that any database may wait for; 0: commits are asynchronous, all of them. */
unsigned config_sync_most(const struct config *c);
/* The fewest that a database waits for of those that wait at all; 0: none does. */
unsigned config_sync_least(const struct config *c);

/* The node of that name in c->nodes, or NULL. */
const struct config_node *config_node(const struct config *c, const char *name);

/* Prints "program: message" to standard error and exits 2: what every program does with a bad configuration. */
_Noreturn void config_die(const char *program, const struct err *e);

#endif
