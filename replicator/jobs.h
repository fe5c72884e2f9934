/* Threads for what an HTTP handler must not do in the loop: calls into the mount, fsync, waiting. Results come back to the loop.
 *
 *   jobs_submit ──► queue ──► work (a thread of the pool) ──► done (the loop's thread)
 *
 * Everything but `work` belongs to the loop's thread. */
#ifndef EDGEFS_JOBS_H
#define EDGEFS_JOBS_H

#include "lib/err.h"
#include <stdbool.h>
#include <sys/queue.h>

struct http_server;
struct jobs;

struct job { /* part of the owner's object, which must live until done is called */
    void (*work)(struct job *job);
    void (*done)(struct job *job); /* exactly once for each accepted job; may submit it again */
    bool cancelled;                /* the pool was closed before work ran */
    STAILQ_ENTRY(job) link;        /* the pool's */
};

/* At most max jobs wait. 0 or -errno. */
int jobs_open(struct http_server *http, unsigned threads, unsigned max, struct jobs **out, struct err *e);
/* Waits for the jobs that run, drops the others, calls done for all. Before the http_server is closed. NULL: nothing. */
void jobs_close(struct jobs *j);

/* 0, or -EBUSY: too many wait, or the pool is being closed, or was (j NULL); done is not called then. */
int jobs_submit(struct jobs *j, struct job *job);

#endif
