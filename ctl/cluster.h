/* The nodes of a cluster, as edgefs-ctl sees them: which to ask, how to ask, who is primary. docs/api.md is what they answer.
 *
 * Errors, everywhere below: -EHOSTUNREACH no connection, or it broke, or no answer in time; ERR_REMOTE the node answered with an error
 * status or with something unusable; ERR_CONFIG; -ENOMEM. Messages name the URL and say what to do. All functions block.
 * A struct cluster may be used by several threads at once after cluster_open. */
#ifndef EDGEFS_CTL_CLUSTER_H
#define EDGEFS_CTL_CLUSTER_H

#include "edgefs/layout.h"
#include "lib/config.h"
#include "lib/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLUSTER_URLS_MAX 64
#define CLUSTER_STATUS_MS 3000          /* a node that takes longer for its status counts as unreachable */
#define CLUSTER_ANSWER_MS 30000         /* ordinary requests */
#define CLUSTER_JSON_MAX (64u << 20)    /* bytes of one JSON answer */
#define CLUSTER_DEFAULT_URL "http://127.0.0.1:20202"

struct cluster_options {
    const char *urls[CLUSTER_URLS_MAX]; /* --url, in order */
    int n_urls;
    const char *token_file;    /* --token-file */
    struct config_args config; /* -c, --dir, --data, --node */
};

struct cluster;

/* Which URLs to try: --url, else the configuration's advertise URL and then its nodes, else EDGEFS_URL (several: separated by blanks or
 * commas), else CLUSTER_DEFAULT_URL. The token: --token-file, else the configuration's, else EDGEFS_TOKEN_FILE, else none. Connects to nobody. */
int cluster_open(const struct cluster_options *o, struct cluster **out, struct err *e);
void cluster_close(struct cluster *c);

/* ---- one request ---- */

struct request {
    const char *method; /* NULL: GET */
    const char *url;    /* of the node, without trailing slash */
    const char *path;   /* "/v1/…", percent-encoded */
    json_t *body;       /* sent as JSON; NULL: none; stays the caller's */
    uint64_t timeout_ms; /* for the whole answer; 0: CLUSTER_ANSWER_MS */
};

/* JSON there and back. 0: a 2xx answer, *out is the caller's (an object). ERR_REMOTE: *status is the answer's status, or 0 if the answer was
 * unusable, and *out may be the error object (caller's) or NULL. Otherwise *status is 0, *out NULL. */
int cluster_ask(struct cluster *c, const struct request *r, int *status, json_t **out, struct err *e);

/* Takes the next n bytes of a body; 0, or a negative code with e set, which ends the transfer. */
typedef int (*cluster_sink)(void *ctx, const void *p, size_t n, struct err *e);

struct download {
    cluster_sink sink;
    void *ctx;
    /* Called once before the first byte of a 2xx answer; may be NULL. total: bytes, or 0 if the node did not say. */
    void (*begin)(void *ctx, uint64_t total);
    char position[40]; /* out: X-Edgefs-Position, or "" */
    uint64_t received; /* out: bytes given to sink */
    bool length_known; /* out: the answer said its length, or was chunked: its end cannot be missed */
};

/* GETs a body of any length; r->timeout_ms is the time without any byte. Whether it is complete is checked (Content-Length, last chunk). Errors
 * and *status as with cluster_ask; the sink's code is passed on. */
int cluster_download(struct cluster *c, const struct request *r, struct download *d, int *status, struct err *e);

/* PUTs size bytes from fd's beginning; sent(n) is told of progress. A file that ends early: -EIO. Answer as with cluster_ask. */
int cluster_upload(struct cluster *c, const struct request *r, int fd, uint64_t size, void (*sent)(uint64_t bytes), int *status,
                   json_t **out, struct err *e);

/* name as one path segment (RFC 3986 §2.1: all but the unreserved characters are encoded). The caller frees it; NULL: out of memory. */
char *cluster_escape(const char *name);

/* Formats a path; every %s must have been escaped. The caller frees it; NULL: out of memory. */
char *cluster_path(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* 0, or -EINVAL if name cannot be the name of a database: 1 to LAYOUT_NAME_MAX bytes, relative, no empty, "." or ".." parts, no control characters. */
int cluster_check_name(const char *name, struct err *e);

/* ---- nodes ---- */

struct node {
    char *name;     /* from the list of nodes or its own status; never NULL ("?" if nobody knows) */
    char *url;      /* where it is reached */
    json_t *status; /* its /v1/status; NULL: not reachable */
    char error[ERR_TEXT_MAX]; /* why status is NULL */
    int code;                 /* … the code of that error */
    char role[16];            /* "" if not reachable */
};

struct nodes {
    struct node *items;
    int n;
    int first; /* the one that was asked first: "the" node of commands that concern one */
};

/* Finds a node that answers and then asks all nodes that it names, at the same time. Sorted: primary first, then as configured. When none answers: the error of
 * the first. An unreachable or refusing node is not an error, but an entry without status. */
int cluster_nodes(struct cluster *c, struct nodes *out, struct err *e);
void nodes_free(struct nodes *ns);

/* The primary's index: who says so of itself, in the highest epoch; -1 if nobody reachable does. */
int nodes_primary(const struct nodes *ns);

/* URL of the node that this command talks to: the first that answers. *url is the caller's. */
int cluster_one(struct cluster *c, char **url, struct err *e);

/* URL of the primary. If none is reachable: -EHOSTUNREACH, with a message that says who it should be. */
int cluster_primary(struct cluster *c, char **url, struct err *e);

/* After a 421 whose answer names the primary: *url is replaced by the primary's and true is returned; false if there is none in it. */
bool cluster_redirect(const json_t *answer, char **url);

/* Runs fn(i, ctx) for i in 0..n-1 on up to 32 threads and waits for all; keeps a progress bar moving meanwhile. */
void cluster_each(int n, void (*fn)(int i, void *ctx), void *ctx);

#endif
