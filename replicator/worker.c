#include "replicator/worker.h"

#include "lib/util.h"
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

struct job {
    struct job *next;
    uint64_t due_ns;
    worker_fn fn;
    struct database *db;
    uint64_t arg;
};

struct worker {
    struct node *node;
    pthread_t thread;
    pthread_mutex_t lock; /* guards the queue and stop */
    pthread_cond_t changed;
    struct job *queue, *last; /* by due_ns */
    bool stop;
};

static void *run(void *arg)
{
    struct worker *w = arg;
    pthread_mutex_lock(&w->lock);
    while (!w->stop) {
        struct job *j = w->queue;
        if (!j) {
            pthread_cond_wait(&w->changed, &w->lock);
            continue;
        }
        if (j->due_ns > now_ns()) {
            struct timespec t = {(time_t)(j->due_ns / 1000000000u), (long)(j->due_ns % 1000000000u)};
            pthread_cond_timedwait(&w->changed, &w->lock, &t);
            continue;
        }
        w->queue = j->next;
        pthread_mutex_unlock(&w->lock);
        j->fn(w->node, j->db, j->arg);
        free(j);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

int worker_open(struct node *n, struct worker **out, struct err *e)
{
    struct worker *w = calloc(1, sizeof *w);
    if (!w)
        return err_errno(e, ENOMEM, "worker");
    w->node = n;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&w->changed, &a);
    pthread_condattr_destroy(&a);
    *out = w; /* jobs may look at node->worker as soon as the thread runs */
    int rc = pthread_create(&w->thread, NULL, run, w);
    if (rc) {
        *out = NULL;
        free(w);
        return err_errno(e, rc, "start the worker thread");
    }
    return 0;
}

void worker_close(struct worker *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    while (w->queue) {
        struct job *j = w->queue;
        w->queue = j->next;
        free(j);
    }
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

int worker_post(struct worker *w, worker_fn fn, struct database *db, uint64_t arg, uint64_t delay_ns)
{
    struct job *j = malloc(sizeof *j);
    if (!j)
        return -ENOMEM;
    *j = (struct job){.due_ns = now_ns() + delay_ns, .fn = fn, .db = db, .arg = arg};
    pthread_mutex_lock(&w->lock);
    struct job **p = w->queue && w->last->due_ns <= j->due_ns ? &w->last->next : &w->queue; /* thousands may be waiting */
    while (*p && (*p)->due_ns <= j->due_ns)
        p = &(*p)->next;
    j->next = *p;
    *p = j;
    if (!j->next)
        w->last = j;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return 0;
}
