/* Inside capture: capture.c (thread, requests), capture_events.c (inotify and hooks), capture_step.c (one look at one database). */
#ifndef EDGEFS_CAPTURE_PRIVATE_H
#define EDGEFS_CAPTURE_PRIVATE_H

#include "replicator/capture.h"
#include "replicator/capture_file.h"
#include "replicator/dirwatch.h"
#include "replicator/hooks.h"

/* When records follow each other this closely, the next look waits a little: what is committed meanwhile goes into one record, and the cores are
 * left to the application. A commit after a pause is captured at once. */
#define CAPTURE_BUSY_NS 1000000u
#define CAPTURE_HOLD_NS 400000u

#define CAPTURE_QUIET_NS 100000000u   /* a change without a commit signal is looked at this long after the last one … */
#define CAPTURE_QUIET_MAX_NS 1000000000u /* … but no later than this after the first */

struct capture_waiter {
    struct capture_waiter *next;
    struct database *db; /* NULL: all */
    uint64_t round;      /* the first that began after the question came; 0: not seen yet */
    bool done;
};

struct capture {
    struct node *node;
    pthread_t thread;
    int wake_fd;
    int epoll_fd; /* hooks, wake_fd */
    int all_fd;   /* those, and inotify: what is waited for unless looks are held back, or this node does not capture */
    struct dirwatch *dirwatch;
    struct capture_wal *wal;
    /* capture thread only */
    struct capture_file *files;
    uint64_t round; /* counts rounds of the loop, from 1 */
    int hooks_fd;
    bool hooks_ready;
    bool positions_ready;
    struct capture_ask *asks;
    uint64_t reconnect_ns;
    uint64_t last_lsn, last_record_ns, hold_until_ns;
    /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t answered;
    bool stop;
    struct database **noticed; /* asked for from outside */
    size_t n_noticed, size_noticed;
    struct database **diffs;
    size_t n_diffs, size_diffs;
    struct capture_waiter *waiters;
};

/* capture thread: the file of db, made on first use (NULL: no memory, logged). */
struct capture_file *capture_file_of(struct capture *c, struct database *db);

/* capture_step.c: looks at one database: captures what is published, decides when to look again. */
void capture_step(struct capture *c, struct capture_file *cf);
/* Asks the worker for a diff now. */
void capture_start_diff(struct capture *c, struct capture_file *cf);
/* True when nothing is under way or scheduled for it. */
bool capture_settled(struct capture_file *cf);
/* Answers the hooks that wait for cf. */
void capture_answer_deferred(struct capture *c, struct capture_file *cf);
/* NAME-wal is about to vanish (unlink, truncate): capture to its end, then the database file alone is the state. */
void capture_wal_vanishes(struct capture *c, struct capture_file *cf);
/* The database has been removed. */
void capture_dropped(struct capture *c, struct capture_file *cf);

/* capture_events.c */
void capture_events_inotify(struct capture *c);
/* Handles what edgefs-fs sent; on a broken connection hooks_fd is -1 afterwards. */
void capture_events_hooks(struct capture *c);
/* Looks at every file of the backing directory, and at every database known before. */
void capture_rescan(struct capture *c);

#endif
