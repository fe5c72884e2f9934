#include "replicator/log/keeper.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/apply/apply_records.h"
#include "replicator/metrics.h"
#include "replicator/stream/replicas.h"
#include <errno.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>

#define ROUND_NS 200000000u
#define TRIM_ROUNDS 25u
#define ROOM_MIN ((uint64_t)4 << 20) /* bytes */

struct keeper {
    struct node *node;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stop;
};

/* What a connected replica or a waiting database still needs stays, whatever the retention says. */
static uint64_t keep_from(struct node *n)
{
    return MIN(replicas_need(n->replicas), apply_lowest_pending(n));
}

/* A replica that is away will have to compare its databases, or to fetch them, if the log does not reach back to where it was. */
static void say_cut_off(struct node *n, uint64_t before)
{
    char name[65];
    uint64_t needs, first = rlog_first(n->rlog);
    if (first != before && replicas_away(n->replicas, name, &needs) && needs < first && needs >= before)
        log_warn("keeper", "the log begins at LSN %llu now: %s, which is away, was at LSN %llu and cannot go on from there", (unsigned long long)first, name,
                 (unsigned long long)needs - 1);
}

/* What the log leaves to the applications on its disk, which write between two looks at it. */
static uint64_t room_for_others(const struct node *n)
{
    return MAX(n->config->log.segment_size, ROOM_MIN);
}

/* Less room than that, and than what the log is about to take: the oldest segments that no connected replica needs go at once. Whoever is away does not count, so
 * an application never has to stop writing because of it. */
static void watch_room(struct node *n, uint64_t wanted)
{
    struct statvfs v;
    struct err e;
    unsigned gone = 0;
    int rc = 0;
    if (fstatvfs(n->data_fd, &v))
        return;
    uint64_t left = (uint64_t)v.f_bavail * v.f_frsize;
    while (left < wanted + room_for_others(n) && (rc = rlog_make_room(n->rlog, keep_from(n), &e)) > 0 && !fstatvfs(n->data_fd, &v)) {
        left = (uint64_t)v.f_bavail * v.f_frsize;
        gone++;
    }
    if (rc < 0)
        log_warn("keeper", "cannot delete old segments of the log: %s", e.text);
    if (gone)
        log_warn("keeper", "the disk is filling: %u segments of the log were deleted before their time", gone);
    metrics_add(METRIC_LOG_TRIMMED, gone);
    bool low = left < room_for_others(n);
    atomic_store(&n->disk_free, left);
    if (!low) /* whoever could not write tries again, and says so again if it is still so */
        atomic_store(&n->disk_full, false);
    if (atomic_exchange(&n->disk_low, low) == low)
        return;
    if (low)
        log_warn("keeper", "the disk of the data directory is nearly full: %llu MiB are left, and the log has nothing more to give up",
                 (unsigned long long)(left >> 20));
    else
        log_info("keeper", "there is room on the disk of the data directory again: %llu MiB", (unsigned long long)(left >> 20));
}

void keeper_segment_begins(void *node, uint64_t bytes)
{
    struct node *n = node;
    if (n->replicas)
        watch_room(n, bytes);
}

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
        uint64_t first = rlog_first(k->node->rlog);
        watch_room(k->node, 0);
        if ((stop || ++round % TRIM_ROUNDS == 0) && replicas_save(k->node->replicas, k->node->data_fd, &e))
            log_warn("keeper", "%s", e.text);
        if (stop)
            return NULL;
        if (round % TRIM_ROUNDS == 0 && rlog_trim(k->node->rlog, keep_from(k->node), &e))
            log_warn("keeper", "cannot delete old segments of the log: %s", e.text);
        say_cut_off(k->node, first);
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
