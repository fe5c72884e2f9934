/* The worker: one thread for what calls into the mount and may take long (mapping a wal-index, diffs, fences, checkpoints), so
 * that capture never waits for it. Jobs run one after the other, in order of their time. */
#ifndef EDGEFS_WORKER_H
#define EDGEFS_WORKER_H

#include "lib/err.h"
#include <stdint.h>

struct node;
struct database;
struct worker;

typedef void (*worker_fn)(struct node *n, struct database *db, uint64_t arg);

int worker_open(struct node *n, struct worker **out, struct err *e);
/* Ends after the job that is running; jobs that have not begun are dropped. */
void worker_close(struct worker *w);

/* Queues a job to be run delay_ns from now at the earliest. Any thread. 0 or -ENOMEM. */
int worker_post(struct worker *w, worker_fn fn, struct database *db, uint64_t arg, uint64_t delay_ns);

#endif
