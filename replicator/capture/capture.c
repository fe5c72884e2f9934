#include "replicator/capture/capture_diff.h"
#include "replicator/capture/capture_private.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/stream/position_server.h"
#include "replicator/stream/sync.h"
#include "replicator/worker.h"
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#define RECONNECT_NS 20000000u

struct capture_file *capture_file_of(struct capture *c, struct database *db)
{
    if (db->capture)
        return db->capture;
    struct capture_file *cf = calloc(1, sizeof *cf);
    if (!cf) {
        log_error("capture", "%s: no memory to watch it", db->name);
        return NULL;
    }
    cf->db = db;
    cf->view.shm_fd = cf->view.wal_fd = -1;
    cf->next_all = c->all;
    c->all = cf;
    pthread_mutex_lock(&db->lock);
    db->capture = cf;
    pthread_mutex_unlock(&db->lock);
    return cf;
}

/* ---- lists ---- */

static struct capture_file **list_of(struct capture *c, enum capture_place place)
{
    return place == CAPTURE_HOT ? &c->hot : place == CAPTURE_BUSY ? &c->busy : &c->warm;
}

static void place(struct capture *c, struct capture_file *cf, enum capture_place where)
{
    if (cf->place == where)
        return;
    if (cf->place != CAPTURE_COLD) {
        *(cf->prev ? &cf->prev->next : list_of(c, cf->place)) = cf->next;
        if (cf->next)
            cf->next->prev = cf->prev;
        cf->next = cf->prev = NULL;
    }
    cf->place = where;
    if (where == CAPTURE_COLD)
        return;
    struct capture_file **head = list_of(c, where);
    cf->next = *head;
    if (cf->next)
        cf->next->prev = cf;
    *head = cf;
}

void capture_touch(struct capture *c, struct capture_file *cf)
{
    place(c, cf, CAPTURE_HOT);
}

void capture_dirty(struct capture *c, struct capture_file *cf, bool recheck)
{
    cf->dirty = true;
    cf->recheck |= recheck;
    place(c, cf, CAPTURE_HOT);
}

/* After a look: a file with nothing due leaves the list that each round goes through. */
static void settle_place(struct capture *c, struct capture_file *cf)
{
    if (cf->dirty || cf->look_ns || cf->diff_ns || cf->watch.muted || cf->open_hook || cf->early)
        return;
    pthread_mutex_lock(&cf->db->lock);
    bool busy = cf->mode == CAPTURE_MAPPING || cf->mode == CAPTURE_DIFFING;
    bool open = cf->mode != CAPTURE_IDLE || cf->db->apps_open || cf->db->watched;
    pthread_mutex_unlock(&cf->db->lock);
    place(c, cf, busy ? CAPTURE_BUSY : open ? CAPTURE_WARM : CAPTURE_COLD);
}

enum capture_mode capture_mode_of(struct capture_file *cf)
{
    pthread_mutex_lock(&cf->db->lock);
    enum capture_mode mode = cf->mode;
    pthread_mutex_unlock(&cf->db->lock);
    return mode;
}

/* ---- requests ---- */

void capture_wake(struct capture *c)
{
    uint64_t one = 1;
    if (write(c->wake_fd, &one, sizeof one) < 0) { /* EAGAIN: it is awake */
    }
}

static void add_to(struct database ***list, size_t *n, size_t *size, struct database *db)
{
    if (*n == *size) {
        size_t want = *size ? *size * 2 : 64;
        void *p = realloc(*list, want * sizeof **list);
        if (!p)
            return; /* it is looked at with the next event */
        *list = p;
        *size = want;
    }
    (*list)[(*n)++] = db;
}

void capture_note(struct capture *c, struct database *db)
{
    pthread_mutex_lock(&c->lock);
    add_to(&c->noticed, &c->n_noticed, &c->size_noticed, db);
    pthread_mutex_unlock(&c->lock);
}

void capture_notice(struct capture *c, struct database *db)
{
    capture_note(c, db);
    capture_wake(c);
}

void capture_request_diff(struct capture *c, struct database *db)
{
    pthread_mutex_lock(&c->lock);
    add_to(&c->diffs, &c->n_diffs, &c->size_diffs, db);
    pthread_mutex_unlock(&c->lock);
    capture_wake(c);
}

static void take_requests(struct capture *c)
{
    pthread_mutex_lock(&c->lock);
    struct database **noticed = c->noticed, **diffs = c->diffs;
    size_t n_noticed = c->n_noticed, n_diffs = c->n_diffs;
    c->noticed = c->diffs = NULL;
    c->n_noticed = c->size_noticed = c->n_diffs = c->size_diffs = 0;
    pthread_mutex_unlock(&c->lock);
    bool rescan = false;
    for (size_t i = 0; i < n_noticed; i++) {
        struct capture_file *cf = noticed[i] ? capture_file_of(c, noticed[i]) : NULL;
        if (cf)
            capture_dirty(c, cf, false);
        rescan |= !noticed[i];
    }
    for (size_t i = 0; i < n_diffs; i++) {
        struct capture_file *cf = capture_file_of(c, diffs[i]);
        if (cf) {
            cf->diff_ns = now_ns();
            capture_touch(c, cf);
            pthread_mutex_lock(&cf->db->lock);
            cf->suspect = true;
            pthread_mutex_unlock(&cf->db->lock);
        }
    }
    free(noticed);
    free(diffs);
    if (rescan)
        capture_rescan(c);
}

/* Takes note of questions that have come. What they ask about lies, from now on, in the queues of the kernel that are read next, or is known
 * already: a database whose WAL was written is dirty, or looked at again (look_ns), or to be compared (diff_ns). *all: somebody waits who wants
 * every database looked at all the same (a promotion must not depend on a watch that could not be set). */
static bool admit_waiters(struct capture *c, bool *all)
{
    bool any = c->asks != NULL;
    *all = false;
    for (struct capture_ask *a = c->asks; a && !a->round; a = a->next)
        a->round = c->round + 1;
    pthread_mutex_lock(&c->lock);
    for (struct capture_waiter *w = c->waiters; w; w = w->next) {
        any |= !w->done;
        *all |= !w->round;
        if (!w->round)
            w->round = c->round + 1;
    }
    pthread_mutex_unlock(&c->lock);
    return any;
}

static void hurry(struct capture *c, struct capture_file *cf)
{
    pthread_mutex_lock(&cf->db->lock);
    bool idle = cf->mode == CAPTURE_IDLE;
    pthread_mutex_unlock(&cf->db->lock);
    if (idle && !cf->diff_ns && !walview_exists(c->node, cf->db) && capture_file_differs(c, cf->db))
        capture_main_changed(c, cf, false); /* its files cannot be watched */
    if (cf->diff_ns)
        cf->diff_ns = now_ns();
    capture_dirty(c, cf, false);
}

/* While this node becomes a replica, events are not taken note of (on_inotify, on_event): who asks then has every database looked at. So it is until those of a
 * hand-over that was given up are noticed all (takeover_writable). After the queues were read, and before requests are taken. */
static bool noticing_nothing(const struct capture *c)
{
    return node_role(c->node) == NODE_HANDING_OVER || atomic_load(&c->node->unfencing);
}

/* After the queues were read and before the looks: has everything looked at now that would be looked at in a while. */
static void hurry_files(struct capture *c, bool all)
{
    struct capture_file *next;
    all = all || c->blind;
    for (struct capture_file *cf = all ? c->warm : NULL; cf; cf = next) {
        next = cf->next;
        hurry(c, cf);
    }
    for (struct capture_file *cf = c->hot; cf; cf = cf->next) {
        if (cf->diff_ns)
            cf->diff_ns = now_ns();
        if (all)
            hurry(c, cf);
        else if (cf->look_ns)
            cf->dirty = true;
    }
}

static bool all_captured(struct capture *c, const struct database *db)
{
    if (db)
        return !db->capture || (!db->capture->dirty && capture_settled(db->capture));
    for (struct capture_file *cf = c->hot; cf; cf = cf->next)
        if (cf->dirty || !capture_settled(cf))
            return false;
    return !c->busy;
}

/* Every database was looked at, be it that it is being written on. */
static bool all_seen(struct capture *c)
{
    for (struct capture_file *cf = c->hot; cf; cf = cf->next)
        if (!capture_settled(cf) || (cf->dirty && capture_mode_of(cf) != CAPTURE_MAPPED))
            return false;
    return !c->busy;
}

/* After the looks of a round that began when the question was there: what is settled is captured. */
static void serve_waiters(struct capture *c)
{
    bool all = all_captured(c, NULL);
    pthread_mutex_lock(&c->lock);
    for (struct capture_waiter *w = c->waiters; w; w = w->next)
        if (!w->done && w->round && w->round <= c->round && (all || (w->db && all_captured(c, w->db))))
            w->done = true;
    pthread_cond_broadcast(&c->answered);
    pthread_mutex_unlock(&c->lock);
    struct capture_ask *done = NULL, **p = &c->asks;
    for (struct capture_ask *a; (a = *p);) {
        if (a->round && a->round <= c->round && (all || (a->db && all_captured(c, a->db)))) {
            *p = a->next;
            a->next = done;
            done = a;
        } else {
            p = &a->next;
        }
    }
    for (struct capture_ask *a; (a = done);) {
        done = a->next;
        a->done(a, 0);
    }
}

void capture_ask(struct capture *c, struct capture_ask *a)
{
    a->round = 0;
    a->next = c->asks;
    c->asks = a;
}

static void cancel_asks(struct capture *c)
{
    for (struct capture_ask *a; (a = c->asks);) {
        c->asks = a->next;
        a->done(a, -ECANCELED);
    }
}

/* See CAPTURE_BUSY_NS. */
static bool busy(const struct capture *c, uint64_t now)
{
    return now < MAX(c->last_record_ns, c->hold_until_ns) + CAPTURE_BUSY_NS;
}

static void look(struct capture *c, struct capture_file *cf, uint64_t now)
{
    cf->moved = false;
    capture_step(c, cf);
    if (cf->moved && !cf->watch.muted && cf->db->watched && busy(c, now))
        capture_watch(c, cf, true);
    if (!cf->watch.muted || cf->moved || (cf->look_ns && now < cf->look_since_ns + CAPTURE_LOOK_SOON_NS))
        return;
    /* It has come to rest. First the watch, then a look, in the next round: what comes in between is seen by it. */
    capture_watch(c, cf, false);
    capture_unseen_changes(c, cf);
    capture_dirty(c, cf, true);
}

/* A WAL that was opened since the cut was taken is looked at in the next round. */
static bool in_cut(const struct capture *c, struct capture_file *cf)
{
    return cf->end_cut == c->cut || capture_mode_of(cf) != CAPTURE_MAPPED;
}

/* Looks at what is due; returns when the next is. */
static uint64_t run_files(struct capture *c)
{
    uint64_t now = now_ns(), next = UINT64_MAX;
    struct capture_file *after;
    c->round++;
    bool mapping = capture_mapping(c, now);
    if (!mapping && capture_cut(c) && capture_mapping(c, now)) { /* the cut has met another one */
        capture_cut_end(c);
        mapping = true;
    }
    for (struct capture_file *cf = c->hot; cf; cf = after) {
        after = cf->next;
        if (cf->diff_ns && cf->diff_ns <= now && !sync_waits(c->node->sync, cf->db)) /* it would not see what is prepared, and seem to supersede it */
            capture_start_diff(c, cf, false);
        bool due = cf->dirty || cf->fresh || (cf->look_ns && cf->look_ns <= now) || (cf->watch.muted && !cf->look_ns) || capture_opening_ns(c, cf) <= now;
        bool later = due && ((mapping && capture_mode_of(cf) == CAPTURE_MAPPED) || (c->cutting && !in_cut(c, cf)));
        cf->dirty |= later;
        if (due && !later)
            look(c, cf, now);
        if (cf->dirty || cf->early)
            next = MIN(next, mapping ? c->mapping_until_ns : now);
        if (cf->watch.muted && !cf->look_ns)
            next = MIN(next, now + CAPTURE_HOLD_NS);
        if (cf->diff_ns)
            next = MIN(next, cf->diff_ns);
        if (cf->look_ns && !later)
            next = MIN(next, cf->look_ns);
        next = MIN(next, capture_opening_ns(c, cf));
        settle_place(c, cf);
    }
    capture_cut_end(c);
    return next;
}

static void watch_fd(int epoll_fd, int fd)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev);
}

static void connect_hooks(struct capture *c)
{
    struct err e;
    if (c->hooks_fd >= 0 || now_ns() < c->reconnect_ns)
        return;
    int fd = hooks_connect(c->node->hooks, &e);
    if (fd < 0) {
        c->reconnect_ns = now_ns() + RECONNECT_NS;
        return;
    }
    c->hooks_fd = fd;
    watch_fd(c->epoll_fd, fd);
    c->hooks_ready = true;
}

/* Decides whether the next look is held back; see CAPTURE_BUSY_NS. */
static void note_records(struct capture *c)
{
    uint64_t lsn = rlog_last(c->node->rlog).lsn, now;
    if (lsn == c->last_lsn)
        return;
    now = now_ns();
    if (busy(c, now))
        c->hold_until_ns = now + CAPTURE_HOLD_NS;
    c->last_lsn = lsn;
    c->last_record_ns = now;
}

static void wait_for_events(struct capture *c, uint64_t next, bool hold)
{
    struct epoll_event ev[5];
    bool captures = node_captures(c->node);
    if (hold) /* then events count again, and looks that were due */
        next = c->hold_until_ns;
    if (c->hooks_fd < 0)
        next = MIN(next, c->reconnect_ns);
    if (c->rescan_ns)
        next = MIN(next, c->rescan_ns);
    if (c->resuming)
        next = MIN(next, c->resume_ns);
    next = MIN(next, sync_next_ns(c->node->sync));
    uint64_t now = now_ns(), wait = next <= now ? 0 : next - now;
    struct timespec t = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
    int from = hold || !captures ? c->epoll_fd : c->all_fd;
    int n = epoll_pwait2(from, ev, ARRAY_SIZE(ev), next == UINT64_MAX ? NULL : &t, NULL);
    c->inotify_ready |= from != c->all_fd; /* it was not waited for */
    for (int i = 0; i < n && from == c->all_fd; i++)
        c->inotify_ready |= ev[i].data.fd == filewatch_fd(c->filewatch);
    if (from == c->all_fd && n > 0) /* which of the inner ones: without waiting */
        n = epoll_wait(c->epoll_fd, ev, ARRAY_SIZE(ev), 0);
    for (int i = 0; i < n; i++) {
        uint64_t v;
        if (ev[i].data.fd == c->wake_fd && read(c->wake_fd, &v, sizeof v) < 0) { /* somebody else's wake was read with it */
        }
        c->hooks_ready |= ev[i].data.fd == c->hooks_fd;
        c->positions_ready |= c->node->positions && ev[i].data.fd == position_server_fd(c->node->positions);
    }
}

/* This node does not capture any more. Should it be primary again, everything is looked at. */
static void unwatch_all(struct capture *c)
{
    for (struct capture_file *cf = c->all; cf; cf = cf->next_all)
        capture_unwatch(c, cf->db);
    c->watching = false;
}

static void *run(void *arg)
{
    struct capture *c = arg;
    prctl(PR_SET_NAME, "capture");
    prctl(PR_SET_TIMERSLACK, 1000ul); /* ns: the looks for a publication are tens of µs apart */
    for (;;) {
        pthread_mutex_lock(&c->lock);
        bool stop = c->stop;
        pthread_mutex_unlock(&c->lock);
        if (stop) {
            cancel_asks(c);
            return NULL;
        }
        connect_hooks(c);
        if (c->positions_ready) {
            c->positions_ready = false;
            position_server_serve(c->node->positions);
        }
        bool all, waiters = admit_waiters(c, &all), hold = !waiters && now_ns() < c->hold_until_ns;
        uint64_t next = 0;
        bool inotify = !hold && (c->inotify_ready || waiters);
        if (inotify || c->hooks_ready || waiters)
            capture_events(c, inotify);
        all = all || (waiters && noticing_nothing(c));
        capture_sync_due(c);
        take_requests(c);
        if (c->watching && node_role(c->node) == NODE_REPLICA)
            unwatch_all(c);
        if (c->rescan_ns && c->rescan_ns <= now_ns())
            capture_rescan(c);
        if (waiters)
            hurry_files(c, all);
        if (!hold) {
            next = run_files(c);
            note_records(c);
            hold = !waiters && now_ns() < c->hold_until_ns;
        }
        if (c->resuming)
            capture_resumed(c, c->known && !c->rescan_ns && all_seen(c));
        if (waiters && !c->hooks_ready) /* all hooks that had been sent were read */
            serve_waiters(c);
        wait_for_events(c, next, hold);
    }
}

int capture_open(struct node *n, struct capture **out, struct err *e)
{
    struct capture *c = calloc(1, sizeof *c);
    if (!c)
        return err_errno(e, ENOMEM, "capture");
    c->node = n;
    c->hooks_fd = -1;
    c->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    c->all_fd = epoll_create1(EPOLL_CLOEXEC);
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&c->answered, &a);
    pthread_condattr_destroy(&a);
    *out = c;
    capture_resume(c);
    int rc = c->wake_fd < 0 || c->epoll_fd < 0 || c->all_fd < 0 ? err_errno(e, errno, "epoll") : capture_wal_open(&c->wal, e);
    if (!rc)
        rc = capture_journal_open(&c->journal, e);
    if (!rc)
        rc = filewatch_open(n, &c->filewatch, e);
    if (!rc) {
        watch_fd(c->epoll_fd, c->wake_fd);
        if (n->positions)
            watch_fd(c->epoll_fd, position_server_fd(n->positions));
        watch_fd(c->all_fd, c->epoll_fd);
        watch_fd(c->all_fd, filewatch_fd(c->filewatch));
        rc = pthread_create(&c->thread, NULL, run, c);
        if (rc)
            rc = err_errno(e, rc, "start the capture thread");
    }
    if (rc)
        *out = NULL; /* the process ends; nothing to take apart */
    return rc;
}

int capture_now(struct capture *c, struct database *db, uint64_t deadline_ns, struct err *e)
{
    struct capture_waiter w = {.db = db};
    enum node_role role = node_role(c->node);
    if (role != NODE_PRIMARY && role != NODE_HANDING_OVER)
        return err_set(e, ERR_ROLE, "this node is a %s", node_role_name(role));
    struct timespec t = {(time_t)(deadline_ns / 1000000000u), (long)(deadline_ns % 1000000000u)};
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    w.next = c->waiters;
    c->waiters = &w;
    capture_wake(c);
    while (!w.done && !rc)
        rc = pthread_cond_timedwait(&c->answered, &c->lock, &t);
    struct capture_waiter **p = &c->waiters;
    while (*p != &w)
        p = &(*p)->next;
    *p = w.next;
    pthread_mutex_unlock(&c->lock);
    return w.done ? 0 : err_set(e, -ETIMEDOUT, "changes of %s were not captured in time", db ? db->name : "some database");
}

void capture_stop(struct capture *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_mutex_unlock(&c->lock);
    capture_wake(c);
    pthread_join(c->thread, NULL);
}

void capture_close(struct capture *c)
{
    if (!c)
        return;
    while (c->all) {
        struct capture_file *cf = c->all;
        c->all = cf->next_all;
        cf->db->capture = NULL;
        if (cf->view_open)
            walview_close(cf->db, &cf->view);
        free(cf);
    }
    filewatch_close(c->filewatch);
    capture_wal_close(c->wal);
    capture_journal_close(c->journal);
    close(c->wake_fd);
    close(c->epoll_fd);
    close(c->all_fd);
    free(c->noticed);
    free(c->diffs);
    pthread_cond_destroy(&c->answered);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
