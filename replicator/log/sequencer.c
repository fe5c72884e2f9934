#include "replicator/log/sequencer.h"

#include "lib/util.h"
#include <errno.h>
#include <pthread.h>

#define LISTENERS_MAX 4

struct sequencer {
    struct rlog *log;
    pthread_mutex_t lock; /* held from begin to commit or abort; guards all below */
    uint64_t epoch;
    uint64_t last_timestamp;
    bool group; /* records begun here have RECORD_MORE */
    int n_listeners;
    struct {
        void (*fn)(void *ctx);
        void *ctx;
    } listeners[LISTENERS_MAX]; /* constant once threads run */
    pthread_mutex_t wait_lock;
    pthread_cond_t grown;
    int waiters; /* guarded by wait_lock */
};

int sequencer_open(struct rlog *log, struct sequencer **out, struct err *e)
{
    struct sequencer *s = calloc(1, sizeof *s);
    if (!s)
        return err_errno(e, ENOMEM, "sequencer");
    s->log = log;
    s->epoch = rlog_last(log).epoch;
    s->group = rlog_in_group(log); /* whatever comes belongs to it, until it is ended */
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->wait_lock, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&s->grown, &a);
    pthread_condattr_destroy(&a);
    *out = s;
    return 0;
}

void sequencer_close(struct sequencer *s)
{
    if (!s)
        return;
    pthread_cond_destroy(&s->grown);
    pthread_mutex_destroy(&s->wait_lock);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

void sequencer_set_epoch(struct sequencer *s, uint64_t epoch)
{
    pthread_mutex_lock(&s->lock);
    s->epoch = epoch;
    pthread_mutex_unlock(&s->lock);
}

void sequencer_on_append(struct sequencer *s, void (*fn)(void *ctx), void *ctx)
{
    if (s->n_listeners < LISTENERS_MAX) {
        s->listeners[s->n_listeners].fn = fn;
        s->listeners[s->n_listeners++].ctx = ctx;
    }
}

static void tell(struct sequencer *s)
{
    for (int i = 0; i < s->n_listeners; i++)
        s->listeners[i].fn(s->listeners[i].ctx);
    pthread_mutex_lock(&s->wait_lock);
    if (s->waiters)
        pthread_cond_broadcast(&s->grown);
    pthread_mutex_unlock(&s->wait_lock);
}

int sequencer_begin(struct sequencer *s, uint8_t type, const char *name, uint64_t *lsn, struct err *e)
{
    struct record_head h = {.type = type, .name_len = (uint16_t)strlen(name)};
    memcpy(h.name, name, h.name_len + 1u);
    pthread_mutex_lock(&s->lock);
    h.flags = s->group ? RECORD_MORE : 0;
    h.pos.epoch = s->epoch;
    h.pos.lsn = rlog_last(s->log).lsn + 1;
    /* A hybrid clock: the wall clock where it goes forward, never backwards (DESIGN §6). */
    h.timestamp = MAX(wall_us(), s->last_timestamp + 1);
    int rc = rlog_begin(s->log, &h, e);
    if (rc) {
        pthread_mutex_unlock(&s->lock);
        return rc;
    }
    s->last_timestamp = h.timestamp;
    *lsn = h.pos.lsn;
    return 0;
}

int sequencer_begin_received(struct sequencer *s, const struct record_head *h, struct err *e)
{
    pthread_mutex_lock(&s->lock);
    int rc = rlog_begin(s->log, h, e);
    if (rc) {
        pthread_mutex_unlock(&s->lock);
        return rc;
    }
    s->last_timestamp = MAX(s->last_timestamp, h->timestamp);
    s->epoch = h->pos.epoch;
    s->group = false;
    return 0;
}

int sequencer_write(struct sequencer *s, const void *p, size_t n, struct err *e)
{
    return rlog_write(s->log, p, n, e);
}

static int finish(struct sequencer *s, int rc)
{
    pthread_mutex_unlock(&s->lock);
    if (!rc)
        tell(s);
    return rc;
}

int sequencer_commit(struct sequencer *s, struct err *e)
{
    return finish(s, rlog_commit(s->log, e));
}

int sequencer_commit_received(struct sequencer *s, const struct record_head *h, struct err *e)
{
    return finish(s, rlog_commit_expect(s->log, h->payload_len, h->payload_crc, e));
}

void sequencer_abort(struct sequencer *s)
{
    rlog_abort(s->log);
    pthread_mutex_unlock(&s->lock);
}

int sequencer_append(struct sequencer *s, uint8_t type, const char *name, const void *payload, size_t n, uint64_t *lsn,
                     struct err *e)
{
    int rc = sequencer_begin(s, type, name, lsn, e);
    if (rc)
        return rc;
    rc = n ? sequencer_write(s, payload, n, e) : 0;
    if (rc) {
        sequencer_abort(s);
        return rc;
    }
    return sequencer_commit(s, e);
}

int sequencer_append_group(struct sequencer *s, const uint8_t *bytes, size_t n, uint64_t timestamp, struct err *e)
{
    pthread_mutex_lock(&s->lock);
    int rc = rlog_append_group(s->log, bytes, n, e);
    if (!rc) {
        s->last_timestamp = MAX(s->last_timestamp, timestamp);
        s->epoch = rlog_last(s->log).epoch;
        s->group = false;
    }
    return finish(s, rc);
}

void sequencer_group(struct sequencer *s, bool on)
{
    pthread_mutex_lock(&s->lock);
    s->group = on;
    pthread_mutex_unlock(&s->lock);
}

bool sequencer_in_group(struct sequencer *s)
{
    pthread_mutex_lock(&s->lock);
    bool yes = rlog_in_group(s->log);
    pthread_mutex_unlock(&s->lock);
    return yes;
}

int sequencer_wait(struct sequencer *s, uint64_t lsn, uint64_t deadline_ns)
{
    struct timespec until = {(time_t)(deadline_ns / 1000000000u), (long)(deadline_ns % 1000000000u)};
    int rc = 0;
    pthread_mutex_lock(&s->wait_lock);
    s->waiters++;
    while (rlog_last(s->log).lsn < lsn && !rc)
        rc = pthread_cond_timedwait(&s->grown, &s->wait_lock, &until);
    s->waiters--;
    pthread_mutex_unlock(&s->wait_lock);
    return rlog_last(s->log).lsn >= lsn ? 0 : -rc;
}
