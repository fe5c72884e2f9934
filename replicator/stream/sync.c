#include "replicator/stream/sync.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/capture/capture.h"
#include "replicator/capture/hooks.h"
#include "replicator/metrics.h"
#include "replicator/stream/replicas.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#define CLOSE_NS 1000000000u /* degraded: who has everything that there was so long ago is back */

struct sync {
    struct node *node;
    pthread_mutex_t lock; /* guards all below */
    struct sync_wait *waiting; /* in no order; SYNC_WAITING_MAX entries */
    unsigned n;
    unsigned ready; /* of these are for sync_next */
    atomic_uint count; /* n, for who does not want to lock */
    unsigned degraded;        /* nobody waits who wants this many or more; 0: not degraded */
    uint64_t since_ns;        /* degraded since */
    uint64_t from;            /* degraded: what has this LSN or a later one was not waited for */
    uint64_t mark, mark_ns;   /* degraded: the log's end at that time */
};

int sync_open(struct node *n, struct sync **out, struct err *e)
{
    struct sync *s = calloc(1, sizeof *s);
    if (s)
        s->waiting = malloc(SYNC_WAITING_MAX * sizeof *s->waiting);
    if (!s || !s->waiting) {
        free(s);
        return err_errno(e, ENOMEM, "synchronous commit");
    }
    s->node = n;
    pthread_mutex_init(&s->lock, NULL);
    *out = s;
    return 0;
}

void sync_close(struct sync *s)
{
    if (!s)
        return;
    pthread_mutex_destroy(&s->lock);
    free(s->waiting);
    free(s);
}

unsigned sync_wanted(struct sync *s, const struct database *db)
{
    unsigned n = config_sync_replicas(s->node->config, db->name);
    if (!n)
        return 0;
    pthread_mutex_lock(&s->lock);
    bool degraded = s->degraded && n >= s->degraded;
    pthread_mutex_unlock(&s->lock);
    return degraded ? 0 : n;
}

static struct sync_wait take(struct sync *s, unsigned i)
{
    struct sync_wait w = s->waiting[i];
    s->waiting[i] = s->waiting[--s->n];
    atomic_store(&s->count, s->n);
    return w;
}

bool sync_wait(struct sync *s, const struct sync_wait *w)
{
    pthread_mutex_lock(&s->lock);
    bool room = s->n < SYNC_WAITING_MAX;
    if (room) {
        s->waiting[s->n] = *w;
        s->waiting[s->n++].acknowledged = false;
        atomic_store(&s->count, s->n);
    }
    pthread_mutex_unlock(&s->lock);
    if (room)
        sync_vouched(s); /* it may be durable there already */
    return room;
}

/* lock held: enough replicas are (nearly) up to date again. */
static void try_return(struct sync *s)
{
    uint64_t now = now_ns(), vouched = replicas_vouched(s->node->replicas, s->degraded);
    if (!s->mark_ns || now - s->mark_ns >= CLOSE_NS) {
        s->mark = rlog_last(s->node->rlog).lsn;
        s->mark_ns = now;
    }
    if (vouched < s->mark)
        return;
    log_info("sync", "synchronous commit again: %u replicas are up to date, and have what was committed meanwhile, LSN %" PRIu64 " to %" PRIu64 " (it was degraded for %" PRIu64 " s)",
             s->degraded, s->from, s->mark, (now - s->since_ns) / 1000000000u);
    s->degraded = 0;
}

void sync_vouched(struct sync *s)
{
    struct sync_wait answer[64];
    unsigned n, commits;
    bool wake;
    do {
        n = commits = 0;
        wake = false;
        pthread_mutex_lock(&s->lock);
        if (s->degraded)
            try_return(s);
        unsigned asked = 0;
        uint64_t vouched = 0;
        for (unsigned i = 0; i < s->n && n < ARRAY_SIZE(answer);) {
            struct sync_wait *w = &s->waiting[i];
            if (w->replicas != asked) { /* mostly the same for all */
                asked = w->replicas;
                vouched = replicas_vouched(s->node->replicas, asked);
            }
            if (w->acknowledged || vouched < w->lsn) {
                i++;
            } else if (!node_holds_lease(s->node)) {
                i++; /* an election that did not hear of this record may be over: its time will be, too */
            } else if (w->kind == SYNC_JOURNAL) {
                w->acknowledged = wake = true;
                s->ready++;
                i++;
            } else {
                answer[n++] = take(s, i);
            }
        }
        pthread_mutex_unlock(&s->lock);
        for (unsigned i = 0; i < n; i++) {
            commits += answer[i].kind != SYNC_OPEN;
            /* Noted first: whoever asks for a position as soon as the call has returned must not be served by a round that does not look here. */
            capture_note(s->node->capture, answer[i].db);
            hooks_answer(s->node->hooks, answer[i].hook, 0, NULL);
        }
        metrics_add(METRIC_SYNC_COMMITS, commits);
        if (wake || n)
            capture_wake(s->node->capture);
    } while (n == ARRAY_SIZE(answer));
}

/* lock held */
static void degrade(struct sync *s, const struct sync_wait *w)
{
    if (s->degraded && s->degraded <= w->replicas)
        return;
    uint64_t from = s->degraded ? MIN(s->from, w->lsn) : w->lsn;
    for (unsigned i = 0; i < s->n; i++) /* their time is over, too */
        if (!s->waiting[i].acknowledged && s->waiting[i].replicas >= w->replicas)
            from = MIN(from, s->waiting[i].lsn);
    s->degraded = w->replicas;
    s->since_ns = now_ns();
    s->mark_ns = 0;
    s->from = from;
    log_warn("sync", "%s: %u replicas did not have a commit within %" PRIu64 " ms: going on without waiting for them; what is committed from LSN %" PRIu64
             " on is lost if this node is lost before they have it", w->db->name, w->replicas, s->node->config->sync.timeout_ms, from);
}

/* lock held: it has gone over to not waiting for as many. */
static bool over(const struct sync *s, const struct sync_wait *w)
{
    return s->degraded && w->replicas >= s->degraded;
}

bool sync_next(struct sync *s, struct sync_wait *w)
{
    bool found = false;
    uint64_t now = now_ns();
    if (!atomic_load(&s->count))
        return false;
    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < s->n && !found; i++)
        if (s->waiting[i].acknowledged || over(s, &s->waiting[i]) || s->waiting[i].deadline_ns <= now) {
            *w = take(s, i);
            found = true;
        }
    if (found && w->acknowledged)
        s->ready--;
    if (found && !w->acknowledged && !s->node->config->sync.refuse)
        degrade(s, w);
    pthread_mutex_unlock(&s->lock);
    if (found && w->kind != SYNC_OPEN)
        metrics_add(w->acknowledged ? METRIC_SYNC_COMMITS : METRIC_SYNC_TIMEOUTS, 1);
    return found;
}

uint64_t sync_next_ns(struct sync *s)
{
    uint64_t next = UINT64_MAX;
    if (!atomic_load(&s->count))
        return next;
    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < s->n; i++)
        next = MIN(next, over(s, &s->waiting[i]) ? 0 : s->waiting[i].deadline_ns);
    if (s->ready)
        next = s->n ? 0 : next;
    pthread_mutex_unlock(&s->lock);
    return next;
}

void sync_forget(struct sync *s)
{
    pthread_mutex_lock(&s->lock);
    s->n = s->ready = 0;
    atomic_store(&s->count, 0);
    pthread_mutex_unlock(&s->lock);
}

bool sync_waits(struct sync *s, const struct database *db)
{
    bool any = false;
    if (!atomic_load(&s->count))
        return false;
    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < s->n && !any; i++)
        any = s->waiting[i].db == db && s->waiting[i].kind != SYNC_OPEN;
    pthread_mutex_unlock(&s->lock);
    return any;
}

unsigned sync_waiting(struct sync *s)
{
    return atomic_load(&s->count);
}

bool sync_is_degraded(struct sync *s)
{
    pthread_mutex_lock(&s->lock);
    bool degraded = s->degraded != 0;
    pthread_mutex_unlock(&s->lock);
    return degraded && node_role(s->node) == NODE_PRIMARY;
}

void sync_warning(struct sync *s, char *text, size_t size)
{
    text[0] = 0;
    if (!sync_is_degraded(s))
        return;
    pthread_mutex_lock(&s->lock);
    unsigned n = s->degraded;
    pthread_mutex_unlock(&s->lock);
    snprintf(text, size, "synchronous commit is degraded: commits do not wait for %u replicas until they are up to date again", n);
}

json_t *sync_json(struct sync *s)
{
    const struct config *c = s->node->config;
    unsigned most = config_sync_most(c);
    bool primary = node_role(s->node) == NODE_PRIMARY;
    const char *state = !most ? "off" : !primary ? "idle" : sync_is_degraded(s) ? "degraded" : "synchronous";
    uint64_t vouched = most ? replicas_vouched(s->node->replicas, most) : 0;
    uint64_t unwaited = atomic_load(&metrics_values[METRIC_SYNC_TIMEOUTS]) + atomic_load(&metrics_values[METRIC_SYNC_ASYNC]);
    return json_pack("{s:s,s:I,s:I,s:s,s:i,s:I,s:I}", "state", state, "replicas", (json_int_t)most, "timeout_ms",
                     (json_int_t)c->sync.timeout_ms, "policy", c->sync.refuse ? "refuse" : "degrade", "waiting", (int)sync_waiting(s),
                     "durable_lsn", (json_int_t)vouched, "unwaited", (json_int_t)unwaited);
}
