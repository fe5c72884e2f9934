/* The values that can stand in a configuration file, as text → checked value. No state, no blocking, any thread.
 * Each function returns 0, or ERR_CONFIG with a message that starts with the bad value and says what would be right. */
#ifndef EDGEFS_CONFIG_VALUE_H
#define EDGEFS_CONFIG_VALUE_H

#include "lib/err.h"
#include <stdbool.h>
#include <stdint.h>

enum config_type {
    CONFIG_TYPE_NAME,     /* char *: name of a node */
    CONFIG_TYPE_PATH,     /* char *: a path; relative ones are completed by the caller */
    CONFIG_TYPE_URL,      /* char *: http://HOST:PORT */
    CONFIG_TYPE_LISTEN,   /* char *host and uint16_t port, as struct config's http begins */
    CONFIG_TYPE_FLAG,     /* bool: one of two words */
    CONFIG_TYPE_INDEX,    /* an enum: one of several words */
    CONFIG_TYPE_SIZE,     /* uint64_t bytes */
    CONFIG_TYPE_DURATION, /* uint64_t ms */
    CONFIG_TYPE_UPSTREAM, /* char *: "primary", "nearest" or http://HOST:PORT */
    CONFIG_TYPE_ENDPOINTS, /* struct config_list: http(s)://HOST:PORT */
    CONFIG_TYPE_GLOBS,    /* struct config_list: patterns of names of databases */
    CONFIG_TYPE_NODES,    /* a sequence; config.c */
    CONFIG_TYPE_PROXIES,  /* a sequence; config_proxy.c, which also knows the types below */
    CONFIG_TYPE_TARGET,   /* struct config_address */
    CONFIG_TYPE_COUNT,    /* uint64_t */
    CONFIG_TYPE_LIST,     /* struct config_list */
    CONFIG_TYPE_PEERS,    /* struct config_peer *, and the number of them */
    CONFIG_TYPE_CACHE,    /* struct config_cache_route *, and the number of them */
};

#define CONFIG_NAME_MAX 64
#define CONFIG_GLOB_MAX 255
#define CONFIG_HOST_MAX 253 /* RFC 1035 §2.3.4 */

/* Bytes: "64MiB", "1GiB", "512KiB", "2TiB", or a plain number; within lowest..highest. */
int config_parse_size(const char *text, uint64_t lowest, uint64_t highest, uint64_t *bytes, struct err *e);

/* Milliseconds: "500ms", "1s", "5m", "24h", "7d"; a unit is required. Within lowest..highest. */
int config_parse_duration(const char *text, uint64_t lowest, uint64_t highest, uint64_t *ms, struct err *e);

/* Number of text among choices, which '|' separates. */
int config_parse_choice(const char *text, const char *choices, int *index, struct err *e);

/* A node name: 1 to CONFIG_NAME_MAX of [A-Za-z0-9._-], not starting with a dot or a dash. */
int config_parse_name(const char *text, struct err *e);

/* "HOST:PORT" or "[IPv6]:PORT"; HOST is an address or a host name. *host (without brackets) becomes the caller's. */
int config_parse_listen(const char *text, char **host, uint16_t *port, struct err *e);

/* A decimal number within lowest..highest. */
int config_parse_count(const char *text, uint64_t lowest, uint64_t highest, uint64_t *count, struct err *e);

/* "http://HOST:PORT", one trailing slash forgiven; *url (without it) becomes the caller's. */
int config_parse_url(const char *text, char **url, struct err *e);
/* The same, or with https. */
int config_parse_proxy_url(const char *text, char **url, struct err *e);

/* "primary", "nearest", or as config_parse_url; *upstream becomes the caller's. */
int config_parse_upstream(const char *text, char **upstream, struct err *e);
/* A pattern of names of databases as fnmatch takes it ('*' also matches '/'): not empty, no comma, no control character, at most CONFIG_GLOB_MAX bytes. */
int config_parse_glob(const char *text, char **glob, struct err *e);

/* Whether only this machine can reach it: 127.0.0.0/8, ::1 or "localhost". */
bool config_host_is_loopback(const char *host);

/* The candidate nearest to text (few enough letters apart to be a slip of the pen), or NULL. A candidate "a.b" is compared whole and by
 * its last part. */
const char *config_nearest(const char *text, const char *const *candidates, int n);

#endif
