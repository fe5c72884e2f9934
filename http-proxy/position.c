#include "http-proxy/position.h"

#include "http-proxy/feed.h"
#include "http-proxy/heap.h"
#include "lib/util.h"
#include <errno.h>
#include <event2/event.h>
#include <stdio.h>

#define BATCHES 4 /* questions that may be open at a time; who comes later shares the next */
#define CURRENT_NS UINT64_C(2500000000) /* a heartbeat comes each second */

TAILQ_HEAD(wait_list, position_wait);

enum { PARKED_NOWHERE, PARKED_REACHED, PARKED_CHANGE, PARKED_CAPTURE, PARKED_READY };

/* One CAPTURE, and who waits for its answer. */
struct position_batch {
    uint64_t id; /* 0: not sent */
    struct wait_list waits;
};

struct position_tracker {
    struct event_base *base;
    struct feed *feed;
    struct position_state state;
    struct position_feed_now now; /* as last heard */
    struct feed_state heard;
    struct heap lsns, times;
    struct wait_list changes;
    struct position_batch batches[BATCHES], next;
    uint64_t last_id;
    struct wait_list ready; /* their outcome is known; told from the loop */
    struct event *tell, *timer;
    uint64_t timer_ms; /* when it is set to; UINT64_MAX: it is not */
    unsigned writes, old_writes; /* under way; and those of them that began before the last hold */
    uint32_t era;         /* +1 with each hold: what a write began in */
    uint32_t hold, quiet; /* number of the last hold, going on or not, and of the last that was answered; 0: none of this connection */
    int n_watches;
    bool watches_sent;
    struct {
        char *glob;
        bool known;
        uint64_t lsn;
    } watches[POSITION_WATCHES_MAX];
};

static uint64_t now_ms(void)
{
    return now_ns() / 1000000u;
}

/* ---- parking ---- */

static void unpark(struct position_tracker *t, struct position_wait *w)
{
    switch (w->list) {
    case PARKED_CHANGE:
        TAILQ_REMOVE(&t->changes, w, link);
        break;
    case PARKED_CAPTURE:
        TAILQ_REMOVE(&w->batch->waits, w, link);
        break;
    case PARKED_READY:
        TAILQ_REMOVE(&t->ready, w, link);
        break;
    default:
        break;
    }
    heap_remove(&t->lsns, w);
    heap_remove(&t->times, w);
    w->list = PARKED_NOWHERE;
    w->batch = NULL;
}

static void make_ready(struct position_tracker *t, struct position_wait *w, enum position_outcome outcome, struct position reply)
{
    unpark(t, w);
    w->outcome = outcome;
    w->reply = reply;
    w->list = PARKED_READY;
    TAILQ_INSERT_TAIL(&t->ready, w, link);
}

/* Tells those whose outcome is known. Who is parked by a callback with an outcome that is known already has its turn in the next event. */
static void tell_ready(struct position_tracker *t)
{
    struct position_wait *last = TAILQ_LAST(&t->ready, wait_list), *w;
    struct position_wait mark = {.list = PARKED_READY};
    if (!last)
        return;
    TAILQ_INSERT_TAIL(&t->ready, &mark, link);
    while ((w = TAILQ_FIRST(&t->ready)) != &mark) {
        unpark(t, w);
        w->done(w, w->outcome, w->reply);
    }
    TAILQ_REMOVE(&t->ready, &mark, link);
    if (!TAILQ_EMPTY(&t->ready))
        event_active(t->tell, EV_TIMEOUT, 0);
}

static void on_tell(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    tell_ready(arg);
}

static struct position best_guess(const struct position_tracker *t)
{
    return (struct position){t->now.last.epoch, t->now.last.lsn + 1};
}

static void set_timer(struct position_tracker *t)
{
    const struct position_wait *first = heap_first(&t->times);
    uint64_t now = now_ms();
    if (!first || first->deadline_ms >= t->timer_ms)
        return; /* it fires in time; too early does no harm */
    uint64_t ms = first->deadline_ms > now ? first->deadline_ms - now : 0;
    t->timer_ms = first->deadline_ms;
    event_add(t->timer, &(struct timeval){.tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000) * 1000});
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct position_tracker *t = arg;
    uint64_t now = now_ms();
    (void)fd;
    (void)what;
    t->timer_ms = UINT64_MAX;
    for (struct position_wait *w; (w = heap_first(&t->times)) && w->deadline_ms <= now;)
        make_ready(t, w, POSITION_TIMEOUT, w->list == PARKED_CAPTURE ? best_guess(t) : t->state.pos);
    tell_ready(t);
    set_timer(t);
}

/* Parks w, which is in no list; false: no memory, and w is ready as if its time had come. */
static bool park(struct position_tracker *t, struct position_wait *w, int list, uint64_t deadline_ms)
{
    w->deadline_ms = deadline_ms;
    w->list = list;
    if (!heap_reserve(&t->lsns) || !heap_reserve(&t->times)) {
        w->list = PARKED_NOWHERE;
        make_ready(t, w, POSITION_TIMEOUT, list == PARKED_CAPTURE ? best_guess(t) : t->state.pos);
        event_active(t->tell, EV_TIMEOUT, 0);
        return false;
    }
    if (deadline_ms != UINT64_MAX)
        heap_add(&t->times, w);
    set_timer(t);
    return true;
}

/* What want means here: the LSN that must be applied; UINT64_MAX: of an epoch that this node has not heard of. */
static uint64_t needed(const struct position_tracker *t, struct position want)
{
    uint64_t lsn;
    return position_judge(want, t->heard.epochs, t->heard.head.n_epochs, &lsn) ? UINT64_MAX : lsn;
}

/* A primary has everything that exists: what lies beyond its log is no position. */
static bool reached(const struct position_tracker *t, uint64_t lsn)
{
    return lsn != UINT64_MAX && (lsn <= t->state.pos.lsn || t->state.role == POSITION_ROLE_PRIMARY);
}

bool position_reached(const struct position_tracker *t, struct position want)
{
    return reached(t, needed(t, want));
}

void position_wait_reached(struct position_tracker *t, struct position_wait *w, struct position want, uint64_t deadline_ms)
{
    w->want = want;
    w->lsn = needed(t, want);
    if (reached(t, w->lsn)) {
        make_ready(t, w, POSITION_REACHED, t->state.pos);
        event_active(t->tell, EV_TIMEOUT, 0);
    } else if (park(t, w, PARKED_REACHED, deadline_ms)) {
        heap_add(&t->lsns, w);
    }
}

void position_wait_change(struct position_tracker *t, struct position_wait *w, uint64_t deadline_ms)
{
    if (park(t, w, PARKED_CHANGE, deadline_ms))
        TAILQ_INSERT_TAIL(&t->changes, w, link);
}

void position_wait_cancel(struct position_tracker *t, struct position_wait *w)
{
    if (w->list)
        unpark(t, w);
}

/* ---- capture ---- */

static void send_batch(struct position_tracker *t, struct position_batch *b)
{
    if (feed_send(t->feed, POSITION_FEED_CAPTURE, ++t->last_id, NULL, 0))
        b->id = t->last_id;
}

static struct position_batch *free_batch(struct position_tracker *t)
{
    for (int i = 0; i < BATCHES; i++)
        if (TAILQ_EMPTY(&t->batches[i].waits) && !t->batches[i].id)
            return &t->batches[i];
    return NULL;
}

static void move_waits(struct position_batch *to, struct position_batch *from)
{
    struct position_wait *w;
    TAILQ_FOREACH(w, &from->waits, link)
        w->batch = to;
    TAILQ_CONCAT(&to->waits, &from->waits, link);
}

void position_wait_capture(struct position_tracker *t, struct position_wait *w, uint64_t deadline_ms)
{
    if (!park(t, w, PARKED_CAPTURE, deadline_ms))
        return;
    struct position_batch *b = free_batch(t);
    w->batch = b ? b : &t->next;
    TAILQ_INSERT_TAIL(&w->batch->waits, w, link);
    if (b && t->state.connected)
        send_batch(t, b);
}

static void on_captured(struct position_tracker *t, const struct position_feed_msg *m)
{
    struct position_batch *b = NULL;
    for (int i = 0; i < BATCHES; i++)
        if (t->batches[i].id == m->id)
            b = &t->batches[i];
    if (!b)
        return;
    b->id = 0;
    if (m->result) { /* too many questions, or the replicator is ending: ask again */
        move_waits(&t->next, b);
    } else {
        while (!TAILQ_EMPTY(&b->waits))
            make_ready(t, TAILQ_FIRST(&b->waits), POSITION_REACHED, m->now.last);
    }
    if (!TAILQ_EMPTY(&t->next.waits)) {
        move_waits(b, &t->next);
        send_batch(t, b);
    }
}

/* A new connection knows nothing of the questions that the old one had. */
static void ask_again(struct position_tracker *t)
{
    for (int i = 0; i < BATCHES; i++) {
        t->batches[i].id = 0;
        move_waits(&t->next, &t->batches[i]);
    }
    if (!TAILQ_EMPTY(&t->next.waits)) {
        move_waits(&t->batches[0], &t->next);
        send_batch(t, &t->batches[0]);
    }
}

/* ---- what the replicator says ---- */

static void release_reached(struct position_tracker *t)
{
    for (struct position_wait *w; (w = heap_first(&t->lsns)) && reached(t, w->lsn);)
        make_ready(t, w, POSITION_REACHED, t->state.pos);
}

static void judge_again(struct position_tracker *t)
{
    for (unsigned i = 1; i <= t->lsns.n; i++) {
        struct position_wait *w = t->lsns.items[i];
        w->lsn = needed(t, w->want);
    }
    heap_rebuild(&t->lsns);
}

static void say_quiet(struct position_tracker *t)
{
    if (t->quiet != t->hold && t->old_writes == 0 && feed_send(t->feed, POSITION_FEED_QUIET, t->hold, NULL, 0))
        t->quiet = t->hold;
}

static void changed(struct position_tracker *t)
{
    t->state.generation++;
    while (!TAILQ_EMPTY(&t->changes))
        make_ready(t, TAILQ_FIRST(&t->changes), POSITION_CHANGED, t->state.pos);
}

static void take_now(struct position_tracker *t, const struct position_feed_now *now)
{
    t->now = *now;
    t->state.pos = now->applied;
    t->state.last = now->last;
    t->state.lag_records = now->last.lsn > now->applied.lsn ? now->last.lsn - now->applied.lsn : 0;
}

static enum position_role role_of(uint8_t role)
{
    return role == POSITION_FEED_PRIMARY || role == POSITION_FEED_HANDING_OVER ? POSITION_ROLE_PRIMARY
           : role == POSITION_FEED_REPLICA                                     ? POSITION_ROLE_REPLICA
                                                                               : POSITION_ROLE_UNKNOWN;
}

/* A new hold: what is under way now began before it. */
static void take_hold(struct position_tracker *t, uint32_t hold)
{
    if (!hold || hold == t->hold)
        return;
    t->hold = hold;
    t->era++;
    t->old_writes = t->writes;
}

static void take_state(struct position_tracker *t, const struct feed_state *s)
{
    struct position_state *st = &t->state, old = *st;
    t->heard = *s;
    take_hold(t, s->head.hold);
    st->connected = true;
    st->role = role_of(s->head.role);
    st->holding = (s->head.flags & POSITION_FEED_HOLDING) || s->head.role == POSITION_FEED_HANDING_OVER;
    st->primary_reachable = st->role == POSITION_ROLE_PRIMARY || (s->head.flags & POSITION_FEED_CONNECTED);
    st->lease_reachable = s->head.lease != POSITION_FEED_LEASE_UNREACHABLE;
    st->nodes = s->head.n_neighbours;
    st->nodes_unreachable = s->unreachable;
    memcpy(st->primary, s->primary, sizeof st->primary);
    memcpy(st->primary_url, s->primary_url, sizeof st->primary_url);
    judge_again(t);
    if (!old.connected || old.role != st->role || old.holding != st->holding || old.primary_reachable != st->primary_reachable ||
        strcmp(old.primary, st->primary) != 0 || strcmp(old.primary_url, st->primary_url) != 0)
        changed(t);
}

static void send_watches(struct position_tracker *t)
{
    char globs[POSITION_FEED_PACKET_MAX - sizeof(struct position_feed_msg)];
    size_t n = 0;
    for (int i = 0; i < t->n_watches; i++) {
        size_t k = strlen(t->watches[i].glob) + 1;
        memcpy(globs + n, t->watches[i].glob, k); /* position_watch has seen to it that there is room */
        n += k;
        t->watches[i].known = false;
    }
    t->watches_sent = n && feed_send(t->feed, POSITION_FEED_SUBSCRIBE, 0, globs, n);
}

static void on_touched(struct position_tracker *t, const struct position_feed_msg *m)
{
    if (m->id >= (uint64_t)t->n_watches)
        return;
    /* The first report after a SUBSCRIBE says nothing about what came before it. */
    bool first = !t->watches[m->id].known;
    t->watches[m->id].known = true;
    t->watches[m->id].lsn = first ? MAX(m->touched, m->now.applied.lsn) : m->touched;
}

static void on_message(void *ctx, const struct position_feed_msg *m, const struct feed_state *s)
{
    struct position_tracker *t = ctx;
    bool first = !t->state.connected;
    if (first)
        t->hold = t->quiet = 0;
    take_now(t, &m->now);
    if (s) {
        take_state(t, s);
        if (first) {
            feed_send(t->feed, POSITION_FEED_QUIET, 0, NULL, 0);
            ask_again(t);
            send_watches(t);
        }
    } else if (m->kind == POSITION_FEED_CAPTURED) {
        on_captured(t, m);
    } else if (m->kind == POSITION_FEED_TOUCHED) {
        on_touched(t, m);
    }
    release_reached(t);
    tell_ready(t);
    say_quiet(t); /* last: who was told of a hold may have found that it is in the middle of a write */
}

static void on_lost(void *ctx)
{
    struct position_tracker *t = ctx;
    bool was = t->state.connected;
    t->state.connected = false;
    t->watches_sent = false;
    for (int i = 0; i < t->n_watches; i++)
        t->watches[i].known = false;
    if (was) {
        changed(t);
        tell_ready(t);
    }
}

/* ---- the rest ---- */

static uint64_t lag_ms(const struct position_tracker *t)
{
    const struct position_state *s = &t->state;
    uint64_t now = now_ns(), since = t->now.current_ns;
    if (s->role == POSITION_ROLE_PRIMARY)
        return 0;
    if (!since)
        return UINT64_MAX;
    if (now <= since || (s->connected && s->primary_reachable && !s->lag_records && now - since < CURRENT_NS))
        return 0;
    return (now - since) / 1000000u;
}

const struct position_state *position_state(const struct position_tracker *t)
{
    ((struct position_tracker *)(uintptr_t)t)->state.lag_ms = lag_ms(t); /* time passes without messages */
    return &t->state;
}

const char *position_neighbour(const struct position_tracker *t, unsigned i)
{
    for (unsigned k = 0; k < t->heard.head.n_neighbours; k++)
        if (t->heard.neighbours[k].reached && strcmp(t->heard.neighbours[k].name, t->state.primary) != 0 && !i--)
            return t->heard.neighbours[k].name;
    return NULL;
}

int position_watch(struct position_tracker *t, const char *glob)
{
    size_t room = POSITION_FEED_PACKET_MAX - sizeof(struct position_feed_msg);
    for (int i = 0; i < t->n_watches; i++) {
        if (!strcmp(t->watches[i].glob, glob))
            return i;
        room -= strlen(t->watches[i].glob) + 1;
    }
    if (t->n_watches == POSITION_WATCHES_MAX || !*glob || strlen(glob) > LAYOUT_NAME_MAX || strlen(glob) + 1 > room)
        return -ENOSPC;
    char *copy = strdup(glob);
    if (!copy)
        return -ENOMEM;
    t->watches[t->n_watches].glob = copy;
    t->watches[t->n_watches].known = false;
    t->n_watches++;
    if (t->state.connected)
        send_watches(t);
    return t->n_watches - 1;
}

uint64_t position_touched(const struct position_tracker *t, int number)
{
    return t->watches_sent && t->watches[number].known ? t->watches[number].lsn : UINT64_MAX;
}

uint32_t position_write_begin(struct position_tracker *t)
{
    t->writes++;
    return t->era;
}

uint32_t position_write_before(struct position_tracker *t)
{
    t->writes++;
    t->old_writes++;
    return t->era - 1;
}

void position_write_end(struct position_tracker *t, uint32_t began)
{
    t->writes--;
    if (began != t->era)
        t->old_writes--;
    say_quiet(t);
}

uint64_t position_writes(const struct position_tracker *t)
{
    return t->writes;
}

bool position_exists(const struct position_tracker *t, struct position want)
{
    return needed(t, want) <= t->now.last.lsn;
}

int position_open(struct event_base *base, const char *path, struct position_tracker **out, struct err *e)
{
    struct position_tracker *t = calloc(1, sizeof *t);
    if (!t)
        return err_errno(e, ENOMEM, "position tracker");
    t->base = base;
    t->timer_ms = UINT64_MAX;
    t->state.lease_reachable = true;
    t->lsns = (struct heap){.key = offsetof(struct position_wait, lsn), .place = offsetof(struct position_wait, in_lsns)};
    t->times = (struct heap){.key = offsetof(struct position_wait, deadline_ms), .place = offsetof(struct position_wait, in_times)};
    TAILQ_INIT(&t->changes);
    TAILQ_INIT(&t->ready);
    TAILQ_INIT(&t->next.waits);
    for (int i = 0; i < BATCHES; i++)
        TAILQ_INIT(&t->batches[i].waits);
    t->tell = event_new(base, -1, 0, on_tell, t);
    t->timer = evtimer_new(base, on_timer, t);
    struct feed_handler handler = {.message = on_message, .lost = on_lost, .ctx = t};
    int rc = t->tell && t->timer ? feed_open(base, path, &handler, &t->feed, e) : err_errno(e, ENOMEM, "position tracker");
    if (rc) {
        position_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

void position_close(struct position_tracker *t)
{
    if (!t)
        return;
    feed_close(t->feed);
    if (t->tell)
        event_free(t->tell);
    if (t->timer)
        event_free(t->timer);
    heap_free(&t->lsns);
    heap_free(&t->times);
    for (int i = 0; i < t->n_watches; i++)
        free(t->watches[i].glob);
    free(t);
}
