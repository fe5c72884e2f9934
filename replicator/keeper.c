#include "replicator/keeper.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/apply_records.h"
#include "replicator/replicas.h"
#include <errno.h>
#include <sys/prctl.h>

#define ROUND_NS 200000000u
#define TRIM_ROUNDS 25u

struct keeper {
    struct node *node;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stop;
};

static void *run(void *arg)
{
    struct keeper *k = arg;
    unsigned round = 0;
    prctl(PR_SET_NAME, "keeper");
    for (;;) {
        struct err e;
        uint64_t until = now_ns() + ROUND_NS;
        struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
        pthread_mutex_lock(&k->lock);
        while (!k->stop && pthread_cond_timedwait(&k->changed, &k->lock, &t) == 0)
            continue;
        bool stop = k->stop;
        pthread_mutex_unlock(&k->lock);
        if (rlog_durable(k->node->rlog) < rlog_last(k->node->rlog).lsn && rlog_sync(k->node->rlog, &e))
            node_warn(k->node, "the log cannot be made durable: %s", e.text);
        if (stop)
            return NULL;
        if (++round % TRIM_ROUNDS == 0) {
            /* What a connected replica or a waiting database still needs stays, whatever the retention says. */
            uint64_t keep = MIN(replicas_need(k->node->replicas), apply_lowest_pending(k->node));
            if (rlog_trim(k->node->rlog, keep, &e))
                log_warn("keeper", "cannot delete old segments of the log: %s", e.text);
        }
    }
}

int keeper_open(struct node *n, struct keeper **out, struct err *e)
{
    struct keeper *k = calloc(1, sizeof *k);
    if (!k)
        return err_errno(e, ENOMEM, "keeper");
    k->node = n;
    pthread_mutex_init(&k->lock, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&k->changed, &a);
    pthread_condattr_destroy(&a);
    int rc = pthread_create(&k->thread, NULL, run, k);
    if (rc) {
        free(k);
        return err_errno(e, rc, "start the keeper thread");
    }
    *out = k;
    return 0;
}

void keeper_close(struct keeper *k)
{
    if (!k)
        return;
    pthread_mutex_lock(&k->lock);
    k->stop = true;
    pthread_cond_signal(&k->changed);
    pthread_mutex_unlock(&k->lock);
    pthread_join(k->thread, NULL);
    pthread_cond_destroy(&k->changed);
    pthread_mutex_destroy(&k->lock);
    free(k);
}
