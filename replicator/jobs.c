#include "replicator/jobs.h"

#include "lib/http/server.h"
#include "lib/util.h"
#include <errno.h>
#include <pthread.h>

#define THREADS_MAX 8u

STAILQ_HEAD(job_queue, job);

struct jobs {
    struct http_wake *wake;
    unsigned max, n_threads;
    pthread_t threads[THREADS_MAX];
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t more;
    struct job_queue waiting, finished;
    unsigned n_waiting;
    bool closing;
};

static void *run(void *arg)
{
    struct jobs *j = arg;
    pthread_mutex_lock(&j->lock);
    while (!j->closing) {
        struct job *job = STAILQ_FIRST(&j->waiting);
        if (!job) {
            pthread_cond_wait(&j->more, &j->lock);
            continue;
        }
        STAILQ_REMOVE_HEAD(&j->waiting, link);
        j->n_waiting--;
        pthread_mutex_unlock(&j->lock);
        job->work(job);
        pthread_mutex_lock(&j->lock);
        STAILQ_INSERT_TAIL(&j->finished, job, link);
        http_wake(j->wake);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

/* In the loop's thread. */
static void deliver(void *arg)
{
    struct jobs *j = arg;
    for (;;) {
        pthread_mutex_lock(&j->lock);
        struct job *job = STAILQ_FIRST(&j->finished);
        if (job)
            STAILQ_REMOVE_HEAD(&j->finished, link);
        pthread_mutex_unlock(&j->lock);
        if (!job)
            return;
        job->done(job);
    }
}

static void stop(struct jobs *j)
{
    pthread_mutex_lock(&j->lock);
    j->closing = true;
    pthread_cond_broadcast(&j->more);
    pthread_mutex_unlock(&j->lock);
    for (unsigned i = 0; i < j->n_threads; i++)
        pthread_join(j->threads[i], NULL);
}

int jobs_open(struct http_server *http, unsigned threads, unsigned max, struct jobs **out, struct err *e)
{
    struct jobs *j = calloc(1, sizeof *j);
    if (!j)
        return err_errno(e, ENOMEM, "threads of the API");
    j->max = max;
    STAILQ_INIT(&j->waiting);
    STAILQ_INIT(&j->finished);
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->more, NULL);
    j->wake = http_wake_new(http, deliver, j);
    int rc = j->wake ? 0 : ENOMEM;
    while (!rc && j->n_threads < MIN(threads, THREADS_MAX)) {
        rc = pthread_create(&j->threads[j->n_threads], NULL, run, j);
        if (!rc)
            j->n_threads++;
    }
    if (rc) {
        jobs_close(j);
        return err_errno(e, rc, "threads of the API");
    }
    *out = j;
    return 0;
}

void jobs_close(struct jobs *j)
{
    if (!j)
        return;
    stop(j);
    deliver(j);
    struct job *job;
    while ((job = STAILQ_FIRST(&j->waiting))) { /* no thread is left, so no lock is needed */
        STAILQ_REMOVE_HEAD(&j->waiting, link);
        job->cancelled = true;
        job->done(job);
    }
    http_wake_free(j->wake);
    pthread_cond_destroy(&j->more);
    pthread_mutex_destroy(&j->lock);
    free(j);
}

int jobs_submit(struct jobs *j, struct job *job)
{
    int rc = -EBUSY;
    if (!j)
        return rc;
    job->cancelled = false;
    pthread_mutex_lock(&j->lock);
    if (!j->closing && j->n_waiting < j->max) {
        STAILQ_INSERT_TAIL(&j->waiting, job, link);
        j->n_waiting++;
        pthread_cond_signal(&j->more);
        rc = 0;
    }
    pthread_mutex_unlock(&j->lock);
    return rc;
}
