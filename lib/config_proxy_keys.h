/* The one list of keys of an entry of `proxy:`: parser, defaults, "did you mean", and the test that docs/proxy.md is complete. */
#ifndef EDGEFS_CONFIG_PROXY_KEYS_H
#define EDGEFS_CONFIG_PROXY_KEYS_H

#define CONFIG_KIB (UINT64_C(1) << 10)
#define CONFIG_HOUR_MS UINT64_C(3600000)

/* X(id, path, type, field of struct config_proxy, lowest, highest, choices, default); see config_keys.h. Beyond its types: TARGET (HOST:PORT or
 * unix:PATH), COUNT (a number), LIST (of patterns, or of words), PEERS (node: url), CACHE (list of {path, databases}). */
#define CONFIG_PROXY_KEYS(X)                                                                                                               \
    X(NAME, "name", NAME, name, 0, 0, NULL, NULL)                                                                                          \
    X(LISTEN, "listen", LISTEN, listen, 0, 0, NULL, NULL)                                                                                  \
    X(TARGET, "target", TARGET, target, 0, 0, NULL, NULL)                                                                                  \
    X(PEERS, "peers", PEERS, peers, 0, 0, NULL, NULL)                                                                                      \
    X(TLS_CERTIFICATE, "tls.certificate", PATH, tls.certificate, 0, 0, NULL, NULL)                                                         \
    X(TLS_KEY, "tls.key", PATH, tls.key, 0, 0, NULL, NULL)                                                                                 \
    X(PEER_TLS_CA, "peer-tls.ca", PATH, peer_tls.ca, 0, 0, NULL, NULL)                                                                     \
    X(TRUST, "trust", LIST, trust, 0, 0, NULL, NULL)                                                                                       \
    X(PASSTHROUGH, "passthrough", LIST, passthrough, 0, 0, NULL, NULL)                                                                     \
    X(ALWAYS_FORWARD, "always-forward", LIST, always_forward, 0, 0, NULL, NULL)                                                            \
    X(UPGRADE_WRITES, "upgrade-writes", LIST, upgrade_writes, 0, 0, NULL, NULL)                                                            \
    X(STALE_OK, "stale-ok", LIST, stale_ok, 0, 0, NULL, NULL)                                                                              \
    X(READ_ONLY_METHODS, "read-only-methods", LIST, read_only_methods, 0, 0, NULL, NULL)                                                   \
    X(MAX_WAIT, "max-wait", DURATION, max_wait_ms, 0, CONFIG_HOUR_MS, NULL, "100ms")                                                       \
    X(FAILOVER_WAIT, "failover-wait", DURATION, failover_wait_ms, 0, CONFIG_HOUR_MS, NULL, "10s")                                          \
    X(FAILOVER_QUEUE, "failover-queue", COUNT, failover_queue, 0, 1000000, NULL, "1000")                                                   \
    X(CAPTURE_WAIT, "capture-wait", DURATION, capture_wait_ms, 1, CONFIG_HOUR_MS, NULL, "1s")                                              \
    X(LAG_WAIT_RECORDS, "lag.wait-records", COUNT, lag.wait_records, 0, UINT32_MAX, NULL, "100")                                           \
    X(LAG_WAIT, "lag.wait", DURATION, lag.wait_ms, 0, CONFIG_HOUR_MS, NULL, "50ms")                                                        \
    X(LAG_STALE_RECORDS, "lag.stale-records", COUNT, lag.stale_records, 0, UINT32_MAX, NULL, "1000")                                       \
    X(DEGRADE_LAG, "degrade.lag", FLAG, degrade.lag, 0, 0, "off|on", "on")                                                                 \
    X(DEGRADE_LAG_TIME, "degrade.lag-time", DURATION, degrade.lag_ms, 1, 24 * CONFIG_HOUR_MS, NULL, "1m")                                  \
    X(DEGRADE_WRITES, "degrade.writes", FLAG, degrade.write_slow, 0, 0, "off|on", "on")                                                    \
    X(DEGRADE_WRITE_P50, "degrade.write-p50", DURATION, degrade.write_p50_ms, 1, CONFIG_HOUR_MS, NULL, "500ms")                            \
    X(DEGRADE_WRITE_QUEUE, "degrade.write-queue", COUNT, degrade.write_queue, 1, 1000000, NULL, "100")                                     \
    X(DEGRADE_PRIMARY, "degrade.primary", FLAG, degrade.primary, 0, 0, "off|on", "on")                                                     \
    X(DEGRADE_NEIGHBOURS, "degrade.neighbours", FLAG, degrade.neighbours, 0, 0, "off|on", "on")                                            \
    X(DEGRADE_CONTROL, "degrade.control", FLAG, degrade.control, 0, 0, "off|on", "on")                                                     \
    X(REPLAY_BODY, "replay-body", SIZE, replay_body, 0, CONFIG_GIB, NULL, "64KiB")                                                         \
    X(FORWARDED, "forwarded", FLAG, forwarded, 0, 0, "off|on", "on")                                                                       \
    X(METRICS, "metrics", FLAG, metrics, 0, 0, "off|on", "on")                                                                             \
    X(ACCESS_LOG, "access-log", INDEX, access_log, 0, 0, "off|logfmt|json", "off")                                                         \
    X(ACCESS_LOG_FILE, "access-log-file", PATH, access_log_file, 0, 0, NULL, NULL)                                                         \
    X(HEADER_SIZE, "limits.header-size", SIZE, limits.header_size, 1024, 15 * CONFIG_KIB, NULL, "15KiB")                                   \
    X(HEADER_COUNT, "limits.header-count", COUNT, limits.header_count, 8, 128, NULL, "100")                                                \
    X(BODY_SIZE, "limits.body-size", SIZE, limits.body_size, 0, CONFIG_PIB, NULL, "0")                                                     \
    X(CONNECTIONS, "limits.connections", COUNT, limits.connections, 1, 1000000, NULL, "20000")                                             \
    X(HEADER_TIME, "limits.header-time", DURATION, limits.header_ms, 1000, CONFIG_HOUR_MS, NULL, "10s")                                    \
    X(IDLE_TIME, "limits.idle-time", DURATION, limits.idle_ms, 1000, 24 * CONFIG_HOUR_MS, NULL, "75s")                                     \
    X(BODY_TIME, "limits.body-time", DURATION, limits.body_ms, 1000, 24 * CONFIG_HOUR_MS, NULL, "1m")                                      \
    X(CONNECT_TIME, "limits.connect-time", DURATION, limits.connect_ms, 10, CONFIG_HOUR_MS, NULL, "5s")                                    \
    X(RESPONSE_TIME, "limits.response-time", DURATION, limits.response_ms, 1000, 24 * CONFIG_HOUR_MS, NULL, "10m")                         \
    X(TARGET_CONNECTIONS, "limits.target-connections", COUNT, limits.target_connections, 1, 100000, NULL, "1024")                          \
    X(QUEUE_TIME, "limits.queue-time", DURATION, limits.queue_ms, 1000, CONFIG_HOUR_MS, NULL, "10s")                                       \
    X(IDLE_TARGETS, "limits.idle-target-connections", COUNT, limits.idle_target_connections, 0, 100000, NULL, "64")                        \
    X(IDLE_TARGET_TIME, "limits.idle-target-time", DURATION, limits.idle_target_ms, 1000, CONFIG_HOUR_MS, NULL, "30s")                     \
    X(SPLICE, "splice", INDEX, splice, 0, 0, "auto|off|on", "auto")                                                                        \
    X(DRAIN_TIME, "drain-time", DURATION, drain_ms, 0, CONFIG_HOUR_MS, NULL, "10s")                                                        \
    X(CACHE, "cache", CACHE, cache, 0, 0, NULL, NULL)                                                                                      \
    X(CACHE_SIZE, "cache-size", SIZE, cache_size, CONFIG_KIB, CONFIG_GIB * 64, NULL, "64MiB")                                              \
    X(CACHE_OBJECT, "cache-object", SIZE, cache_object, 1, CONFIG_GIB, NULL, "1MiB")

#endif
