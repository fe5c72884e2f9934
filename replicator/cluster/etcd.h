/* A client of etcd, version 3.4 or later, through its JSON gateway (/v3/…; etcd documentation, "gRPC gateway"): leases, compare-and-swap,
 * listing and watching what is below one prefix. Blocking; one thread at a time per client, except etcd_abort.
 *
 * Traps of the gateway that this file knows: 64-bit numbers are strings; fields that are zero or false are left out; keys and values are
 * standard base64; keep-alive of a lease that is gone answers 200 without TTL; replies of streams are wrapped in {"result": …}, one a line. */
#ifndef EDGEFS_ETCD_H
#define EDGEFS_ETCD_H

#include "lib/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ETCD_ENDPOINTS_MAX 16
#define ETCD_VALUE_MAX 4096 /* bytes of a value that is read or written; longer ones are an error */

struct etcd;

struct etcd_options {
    char *const *endpoints; /* http(s)://HOST:PORT, at least one; copied */
    int n_endpoints;        /* at most ETCD_ENDPOINTS_MAX */
    const char *ca_file, *cert_file, *key_file; /* PEM, or NULL */
    const char *user, *password;                /* or NULL; copied */
    unsigned request_ms;    /* a whole request, all endpoints that were tried together */
};

/* NULL: out of memory. */
struct etcd *etcd_new(const struct etcd_options *o);
void etcd_free(struct etcd *c);
/* Any thread: the request that runs now, or else the next one, ends with -ECANCELED. */
void etcd_abort(struct etcd *c);
void etcd_set_timeout(struct etcd *c, unsigned request_ms);

/* All return 0 or a negative code with a message. Members that do not answer (or answer 503) are passed over: the next one is asked
 * within the same call, and first the next time. */

/* *lease and *ttl_s as granted (etcd may give more seconds than were asked for). */
int etcd_grant(struct etcd *c, uint64_t ttl_s, int64_t *lease, uint64_t *ttl_s_out, struct err *e);
/* *ttl_s: seconds from when etcd renewed it, so count from before the call; 0: the lease is gone. */
int etcd_keep_alive(struct etcd *c, int64_t lease, uint64_t *ttl_s, struct err *e);
int etcd_revoke(struct etcd *c, int64_t lease, struct err *e);

struct etcd_key {
    char *name;  /* without the prefix */
    char *value; /* NUL-terminated; of a value with NUL bytes what comes before the first */
    int64_t create_revision, mod_revision, lease;
};
struct etcd_list {
    struct etcd_key *keys;
    size_t n;
    int64_t revision; /* of the store when this was read */
};
/* Everything whose name begins with prefix (not empty), at most 4,096 keys. *out is the caller's (etcd_list_free). */
int etcd_list(struct etcd *c, const char *prefix, struct etcd_list *out, struct err *e);
void etcd_list_free(struct etcd_list *list);
const struct etcd_key *etcd_list_find(const struct etcd_list *list, const char *name);

struct etcd_put {
    const char *key;   /* whole name */
    const char *value; /* NULL: the key is deleted */
    int64_t lease;     /* 0: none */
};
/* All puts together, if key was last changed by revision mod_revision (0: does not exist; -1: whatever it is). *done: whether it was so. A
 * failure other than -ECONNREFUSED and -EHOSTUNREACH may mean that it was done and the answer is lost: look (etcd_list) before going on. Is
 * never sent twice. */
int etcd_swap(struct etcd *c, const char *key, int64_t mod_revision, const struct etcd_put *puts, size_t n, bool *done, struct err *e);

/* Calls on_change (in this thread) once when the watch stands and after each group of changes below prefix. Blocks until the stream ends: always with
 * a negative code. */
int etcd_watch(struct etcd *c, const char *prefix, void (*on_change)(void *ctx), void *ctx, struct err *e);

#endif
