/* The one list of configuration keys: the parser, the defaults, the "did you mean" of an unknown key and the test that
 * docs/configuration.md is complete are all made from it. */
#ifndef EDGEFS_CONFIG_KEYS_H
#define EDGEFS_CONFIG_KEYS_H

#define CONFIG_MIB (UINT64_C(1) << 20)
#define CONFIG_GIB (UINT64_C(1) << 30)
#define CONFIG_PIB (UINT64_C(1) << 50)
#define CONFIG_DAY_MS (UINT64_C(86400) * 1000)

/* X(id, path, type, field of struct config, lowest, highest, choices, default)
 *
 * type: a CONFIG_TYPE_* of lib/config_value.h. lowest and highest: bytes of a size, milliseconds of a duration. choices: of a
 * FLAG or an INDEX the words it may be, separated by '|'; the value is the number of the word. default: written as in the
 * file; NULL: there is none, or it is worked out from other keys (config.c, complete()). */
#define CONFIG_KEYS(X)                                                                                                  \
    X(NODE, "node", NAME, node, 0, 0, NULL, NULL)                                                                       \
    X(DIR, "dir", PATH, dir, 0, 0, NULL, NULL)                                                                          \
    X(DATA, "data", PATH, data, 0, 0, NULL, NULL)                                                                       \
    X(FS_PASSTHROUGH, "fs.passthrough", FLAG, fs.passthrough, 0, 0, "off|auto", "auto")                                 \
    X(FS_CPU_LATENCY_QOS, "fs.cpu-latency-qos", FLAG, fs.cpu_latency_qos, 0, 0, "off|auto", "auto")                     \
    X(FS_ALLOW_OTHER, "fs.allow-other", FLAG, fs.allow_other, 0, 0, "false|true", NULL)                                 \
    X(REPLICA_OPEN, "replica-open", FLAG, replica_open_readonly, 0, 0, "readwrite|readonly", "readwrite")               \
    X(HTTP_LISTEN, "http.listen", LISTEN, http, 0, 0, NULL, "127.0.0.1:20202")                                          \
    X(HTTP_ADVERTISE, "http.advertise", URL, http.advertise, 0, 0, NULL, NULL)                                          \
    X(AUTH_TOKEN_FILE, "auth.token-file", PATH, token_file, 0, 0, NULL, NULL)                                           \
    X(LEASE_TYPE, "lease.type", FLAG, lease.etcd, 0, 0, "static|etcd", "static")                                        \
    X(LEASE_PRIMARY, "lease.primary", NAME, lease.primary, 0, 0, NULL, NULL)                                            \
    X(LEASE_ENDPOINTS, "lease.endpoints", ENDPOINTS, lease.endpoints, 0, 0, NULL, NULL)                                 \
    X(LEASE_CLUSTER, "lease.cluster", NAME, lease.cluster, 0, 0, NULL, "edgefs")                                        \
    X(LEASE_TTL, "lease.ttl", DURATION, lease.ttl_ms, 2000, 300000, NULL, "5s")                                         \
    X(LEASE_CANDIDATE, "lease.candidate", FLAG, lease.candidate, 0, 0, "false|true", "true")                            \
    X(LEASE_PRIORITY, "lease.priority", COUNT, lease.priority, 0, 1000, NULL, "0")                                      \
    X(LEASE_CA_FILE, "lease.ca-file", PATH, lease.ca_file, 0, 0, NULL, NULL)                                            \
    X(LEASE_CERT_FILE, "lease.cert-file", PATH, lease.cert_file, 0, 0, NULL, NULL)                                      \
    X(LEASE_KEY_FILE, "lease.key-file", PATH, lease.key_file, 0, 0, NULL, NULL)                                         \
    X(LEASE_USER, "lease.user", NAME, lease.user, 0, 0, NULL, NULL)                                                     \
    X(LEASE_PASSWORD_FILE, "lease.password-file", PATH, lease.password_file, 0, 0, NULL, NULL)                          \
    X(NODES, "nodes", NODES, nodes, 0, 0, NULL, NULL)                                                                   \
    X(UPSTREAM, "upstream", UPSTREAM, upstream, 0, 0, NULL, "primary")                                                  \
    X(UPSTREAM_INTERVAL, "upstream-interval", DURATION, upstream_interval_ms, 100, 3600 * 1000, NULL, "20s")            \
    X(DATABASES_INCLUDE, "databases.include", GLOBS, databases.include, 0, 0, NULL, NULL)                               \
    X(DATABASES_EXCLUDE, "databases.exclude", GLOBS, databases.exclude, 0, 0, NULL, NULL)                               \
    X(PROXY, "proxy", PROXIES, proxies, 0, 0, NULL, NULL)                                                               \
    X(LOG_SEGMENT_SIZE, "log.segment-size", SIZE, log.segment_size, CONFIG_MIB, CONFIG_GIB, NULL, "64MiB")              \
    X(LOG_RETENTION_BYTES, "log.retention-bytes", SIZE, log.retention_bytes, CONFIG_MIB, CONFIG_PIB, NULL, "1GiB")      \
    X(LOG_RETENTION_AGE, "log.retention-age", DURATION, log.retention_age_ms, 1000, 3650 * CONFIG_DAY_MS, NULL, "24h")  \
    X(SCRUB_INTERVAL, "scrub.interval", DURATION, scrub.interval_ms, 0, 3650 * CONFIG_DAY_MS, NULL, "24h")              \
    X(SCRUB_RATE, "scrub.rate", SIZE, scrub.rate, CONFIG_MIB, CONFIG_PIB, NULL, "50MiB")                                \
    X(APPLY_WAIT, "apply-wait", DURATION, apply_wait_ms, 0, 3600 * 1000, NULL, "1s")                                    \
    X(SYNC_REPLICAS, "sync-replicas", COUNT, sync.replicas, 0, CONFIG_SYNC_MAX, NULL, "0")                                           \
    X(SYNC_TIMEOUT, "sync-timeout", DURATION, sync.timeout_ms, 10, 300 * 1000, NULL, "5s")                              \
    X(SYNC_POLICY, "sync-policy", FLAG, sync.refuse, 0, 0, "degrade|refuse", "degrade")                                 \
    X(SYNC_DATABASES, "sync-databases", GLOBS, sync.databases, 0, 0, NULL, NULL)                                     \
    X(LOGGING_LEVEL, "logging.level", INDEX, log_level, 0, 0, "debug|info|warn|error", "info")

#endif
