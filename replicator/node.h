/* What the parts of the replicator share: one struct node a process, passed to every module.
 *
 * Threads: the HTTP loop (main thread: API, streams to replicas), capture (capture.c: inotify, hooks, capturing), the worker
 * (worker.c: everything that calls into the mount and may take long), on a replica the follower (follower.c: receives and applies)
 * and the image fetcher (image_client.c), the log keeper (keeper.c: fdatasync, retention), and one for a promotion while it lasts.
 * Pointers are set before threads start and constant from then on; what changes is atomic or names its lock. */
#ifndef EDGEFS_NODE_H
#define EDGEFS_NODE_H

#include "edgefs/position.h"
#include "lib/config.h"
#include "lib/err.h"
#include "replicator/database/database.h"
#include "replicator/log/epochs.h"
#include "replicator/log/rlog.h"
#include "replicator/log/sequencer.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum node_role {
    NODE_STARTING,     /* databases are being looked at; nobody is told a role yet */
    NODE_REPLICA,      /* fenced; follows a primary, or looks for one */
    NODE_PRIMARY,      /* captures */
    NODE_HANDING_OVER, /* primary in a promotion: fenced, captured to the end, waiting for the target */
};
const char *node_role_name(enum node_role r); /* as docs/api.md has it */

#define NODE_PATH_MAX 1024

struct capture;
struct worker;
struct apply;
struct filter;
struct follower;
struct fences;
struct hooks;
struct replicas;
struct scrub;
struct http_server;
struct image_client;
struct incoming;
struct lease_etcd;
struct neighbours;
struct position_server;
struct stream_server;
struct sync;
struct upstream;

struct node {
    const struct config *config;
    char *token;        /* of auth.token-file, or NULL */
    int data_fd;        /* <data> */
    int db_fd;          /* <data>/db, the backing directory */
    int mount_fd;       /* root of the mount */
    int sums_fd;        /* <data>/sums */
    uint64_t start_ns;
    bool crashed;       /* the machine stopped without warning since the last run: what was not synced then may be anything */
    uint64_t unsure_epoch; /* it was primary in this epoch when its machine stopped: its log may lack records of it that replicas have; 0: not so */

    struct rlog *rlog;
    struct sequencer *sequencer;
    struct epochs *epochs;
    struct databases *databases;
    struct worker *worker; /* short jobs */
    struct worker *differ; /* jobs that read whole databases */
    struct hooks *hooks;
    struct fences *fences;
    struct capture *capture;
    struct apply *apply;
    struct upstream *upstream_choice;
    struct follower *follower;
    struct image_client *image_client;
    struct incoming *incoming;
    struct replicas *replicas;
    struct scrub *scrub;
    struct http_server *http;
    struct stream_server *streams;
    struct lease_etcd *lease; /* NULL: lease.type static */
    struct neighbours *neighbours;
    struct position_server *positions;
    struct sync *sync;

    const struct filter *filter; /* which databases this node has as a replica */
    atomic_int role;               /* enum node_role */
    atomic_uint_fast64_t lease_until; /* monotonic time before which nobody else can become primary if this node is; UINT64_MAX: lease.type static */
    atomic_bool unfencing;         /* primary, but fences of its time as a replica are still being taken down */
    atomic_bool passthrough;       /* as edgefs-fs said */
    atomic_bool stopping;
    atomic_bool disk_low;          /* less room than a segment of the log takes is left for it: keeper.c */
    atomic_uint_fast64_t disk_free; /* bytes that the data directory's file system has left, as the keeper last saw */
    atomic_bool disk_full;         /* the log could not be written for lack of room; cleared by the next success, or when there is room again */
    atomic_uint_fast64_t applied;  /* LSN: every database reflects the log up to here (primary: the log's last) */
    atomic_uint_fast64_t current_ns; /* replica: monotonic time when it last had everything that its upstream had; 0 never */
    atomic_bool connected;         /* replica: the stream is up */
    atomic_bool live;              /* replica: whom it follows is the primary, or reaches it, one way or the other */
    atomic_uint_fast64_t upstream_lsn; /* replica: last LSN that its upstream said to have; 0: it said nothing yet */

    pthread_mutex_t lock;          /* guards the strings and warnings below */
    char primary[128];             /* name of the primary as far as known; "" unknown */
    char primary_url[256];
    char upstream[128];            /* replica: whom it follows now; "" nobody */
    char upstream_url[256];
    char path[NODE_PATH_MAX];      /* replica: names from the primary down to whom it follows, '/' between them; "" nobody */
    char warning[256];             /* one line for status; "" none */
};

/* Position whose effects a reader of this node's mount sees: (epoch, applied). Any thread. */
struct position node_applied(const struct node *n);
static inline enum node_role node_role(const struct node *n)
{
    return (enum node_role)atomic_load(&n->role);
}

/* What applications write here is captured: this node is primary, or hands over. Any thread. */
static inline bool node_captures(const struct node *n)
{
    enum node_role role = node_role(n);
    return role == NODE_PRIMARY || role == NODE_HANDING_OVER;
}
/* Milliseconds since this node last had everything its upstream had; 0 on the primary; UINT64_MAX never. */
uint64_t node_lag_ms(const struct node *n);
/* Whether no other node can have become primary yet, if this one is. Any thread. */
bool node_holds_lease(const struct node *n);
/* Copies name and URL of the primary ("" if unknown); buffers as large as the fields. */
void node_primary(struct node *n, char name[128], char url[256]);
/* The same of the node that this replica follows; path may be NULL. NULL, NULL, NULL: nobody. */
void node_upstream(struct node *n, char name[128], char url[256], char path[NODE_PATH_MAX]);
void node_set_upstream(struct node *n, const char *name, const char *url, const char *path);
/* Whether what this node has is what the primary has, but for what is on its way: it is the primary, or follows it. */
bool node_live(const struct node *n);
void node_set_primary(struct node *n, const char *name, const char *url);
/* One line for status and log; fmt NULL clears. */
void node_warn(struct node *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Path of name inside the mount, or inside the backing directory: freshly allocated; NULL: no memory. */
char *node_mount_path(const struct node *n, const char *name);
char *node_backing_path(const struct node *n, const char *name);

/* Asks the process to end in order (any thread, async-signal-safe). */
void node_stop(struct node *n);

#endif
