#include "replicator/stream/position_server.h"

#include "edgefs/position_feed.h"
#include "lib/localsock.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/capture/capture.h"
#include "replicator/stream/position_state.h"
#include "replicator/stream/position_touched.h"
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define SEND_BUFFER 65536 /* bytes of messages that may wait in a client's socket */
#define CURRENT_NS 200000000u /* a time that moved by less is no news */
#define SERVE_BUDGET 64   /* messages of one client that are read before others have their turn */

struct client {
    struct client *next;
    int fd;
    bool behind; /* its socket was full: it gets a STATE when there is room */
    bool broken; /* closed by the capture thread */
    bool writes; /* it has sent a QUIET */
    uint32_t quiet; /* number of the last hold that it confirmed */
    unsigned questions; /* that are open */
    unsigned n_unsent;  /* answers that found no room */
    struct answer {
        uint64_t id;
        int result;
    } unsent[POSITION_FEED_QUESTIONS];
    struct touched *subscriptions; /* NULL: none */
};

/* A CAPTURE that waits. Its client may be gone by the time it is answered. */
struct question {
    struct capture_ask ask; /* first */
    struct position_server *server;
    struct client *client;
    uint64_t id;
    struct question *next;
};

struct position_server {
    struct node *node;
    struct event *accepting;
    int listen_fd, epoll_fd;
    struct question *questions; /* capture thread only */
    pthread_mutex_t lock;       /* guards all below; leaf but for the node's own small locks */
    struct client *clients;
    unsigned n_clients;
    uint64_t seq;
    struct position_feed_now now;      /* as last sent */
    struct position_snapshot snapshot; /* what the last STATE was made of, but for the positions */
    uint32_t hold, last_hold;          /* going on (0: none), and the last number given */
    pthread_cond_t quieter;
    struct rlog_cursor cursor;         /* behind the last record that subscriptions were compared with */
};

static bool blocked(int rc)
{
    return rc == -EAGAIN || rc == -ENOBUFS || rc == -ENOMEM;
}

static void watch(struct position_server *s, struct client *c, int op)
{
    struct epoll_event ev = {.events = EPOLLIN | (c->behind ? EPOLLOUT : 0u), .data.ptr = c};
    epoll_ctl(s->epoll_fd, op, c->fd, &ev);
}

/* One packet to one client. A client whose socket is full is behind until it has room again; one that is gone shows when it is read from. */
static void give(struct position_server *s, struct client *c, const struct position_feed_msg *m, const void *tail, size_t tail_len)
{
    if (c->broken)
        return;
    int rc = localsock_send(c->fd, m, sizeof *m, tail, tail_len, NULL, 0);
    if (blocked(rc) && !c->behind) {
        c->behind = true;
        watch(s, c, EPOLL_CTL_MOD);
    }
}

static void give_state(struct position_server *s, struct client *c)
{
    struct position_feed_msg m = {.kind = POSITION_FEED_STATE, .version = POSITION_FEED_VERSION, .now = s->now};
    give(s, c, &m, s->snapshot.tail, s->snapshot.tail_len);
}

struct giving {
    struct position_server *s;
    struct client *c;
    const struct position_feed_now *now;
};

static void give_touched(void *ctx, unsigned number, uint64_t lsn)
{
    struct giving *g = ctx;
    struct position_feed_msg m = {
        .kind = POSITION_FEED_TOUCHED, .version = POSITION_FEED_VERSION, .id = number, .touched = lsn, .now = *g->now};
    give(g->s, g->c, &m, NULL, 0);
}

/* ---- changes ---- */

/* Takes the present positions into s->now; true if they differ from what was sent. */
static bool take_now(struct position_server *s)
{
    struct position_feed_now now;
    position_state_now(s->node, &now);
    bool moved = position_compare(now.applied, s->now.applied) || position_compare(now.last, s->now.last) ||
                 now.current_ns - s->now.current_ns >= CURRENT_NS;
    now.seq = s->seq;
    if (moved) {
        now.seq = ++s->seq;
        s->now = now;
    }
    return moved;
}

/* Tells subscribers which of their databases the records up to s->now.applied touched. before: what they know by now. */
static void tell_touched(struct position_server *s, const struct position_feed_now *before)
{
    bool any = false;
    for (struct client *c = s->clients; c; c = c->next)
        any |= c->subscriptions != NULL;
    if (!any) {
        rlog_cursor_close(&s->cursor);
        s->cursor = (struct rlog_cursor){.fd = -1};
        return;
    }
    for (struct touched_name n; touched_next(s->node->rlog, &s->cursor, s->now.applied.lsn, &n);)
        for (struct client *c = s->clients; c; c = c->next)
            if (c->subscriptions)
                touched_note(c->subscriptions, &n);
    for (struct client *c = s->clients; c; c = c->next)
        if (c->subscriptions && !c->behind)
            touched_report(c->subscriptions, give_touched, &(struct giving){s, c, before});
}

static void tell(struct position_server *s, bool look)
{
    struct position_feed_now before = s->now;
    bool moved = take_now(s);
    if (moved)
        tell_touched(s, &before);
    bool changed = (look || position_state_stale(s->node, &s->snapshot)) && position_state_take(s->node, s->hold, &s->snapshot);
    if (changed && !moved)
        s->now.seq = ++s->seq;
    struct position_feed_msg m = {.kind = POSITION_FEED_MOVED, .version = POSITION_FEED_VERSION, .now = s->now};
    for (struct client *c = s->clients; c; c = c->next) {
        if (c->behind)
            continue;
        if (changed)
            give_state(s, c);
        else if (moved)
            give(s, c, &m, NULL, 0);
    }
}

void position_server_moved(struct position_server *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    if (s->clients)
        tell(s, false);
    pthread_mutex_unlock(&s->lock);
}

void position_server_appended(void *position_server)
{
    struct position_server *s = position_server;
    if (node_role(s->node) != NODE_REPLICA)
        position_server_moved(s);
}

void position_server_changed(struct position_server *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    if (s->clients)
        tell(s, true);
    pthread_mutex_unlock(&s->lock);
}

/* ---- holds ---- */

static bool all_quiet(const struct position_server *s)
{
    for (const struct client *c = s->clients; c; c = c->next)
        if (c->writes && c->quiet != s->last_hold)
            return false;
    return true;
}

/* With the lock. */
static int await_quiet(struct position_server *s, uint64_t deadline_ns)
{
    struct timespec t = {(time_t)(deadline_ns / 1000000000u), (long)(deadline_ns % 1000000000u)};
    int rc = 0;
    while (!all_quiet(s) && !rc)
        rc = pthread_cond_timedwait(&s->quieter, &s->lock, &t);
    return -rc;
}

int position_server_hold(struct position_server *s, uint64_t deadline_ns)
{
    if (!s)
        return 0;
    pthread_mutex_lock(&s->lock);
    s->hold = ++s->last_hold;
    tell(s, true);
    int rc = await_quiet(s, deadline_ns);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int position_server_wait_quiet(struct position_server *s, uint64_t deadline_ns)
{
    if (!s)
        return 0;
    pthread_mutex_lock(&s->lock);
    int rc = await_quiet(s, deadline_ns);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

void position_server_release(struct position_server *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->hold = 0;
    tell(s, true);
    pthread_mutex_unlock(&s->lock);
}

/* ---- questions (capture thread) ---- */

/* With the lock. A position that is newer than the question asks for does no harm. */
static void give_answer(struct position_server *s, struct client *c, uint64_t id, int result)
{
    struct position_feed_msg m = {
        .kind = POSITION_FEED_CAPTURED, .version = POSITION_FEED_VERSION, .id = id, .result = result, .now = s->now};
    m.now.last = rlog_last(s->node->rlog);
    if (!c->behind)
        give(s, c, &m, NULL, 0);
    if (!c->behind)
        return;
    if (c->n_unsent == ARRAY_SIZE(c->unsent))
        c->broken = true; /* it asks, and does not listen */
    else
        c->unsent[c->n_unsent++] = (struct answer){id, result};
}

static void answer(struct position_server *s, struct client *c, uint64_t id, int result)
{
    pthread_mutex_lock(&s->lock);
    tell(s, false); /* positions first: who has the answer must not know less than what it says */
    give_answer(s, c, id, result);
    pthread_mutex_unlock(&s->lock);
}

static void forget(struct question *q)
{
    struct question **p = &q->server->questions;
    while (*p != q)
        p = &(*p)->next;
    *p = q->next;
    if (q->client)
        q->client->questions--;
    free(q);
}

static void answered(struct capture_ask *ask, int rc)
{
    struct question *q = (struct question *)ask;
    if (q->client)
        answer(q->server, q->client, q->id, rc);
    forget(q);
}

/* 0, or a reason to drop the client. */
static int on_capture(struct position_server *s, struct client *c, const struct position_feed_msg *m, const char *name, size_t len)
{
    struct database *db = NULL;
    char text[LAYOUT_NAME_MAX + 1];
    if (!m->id || len > LAYOUT_NAME_MAX || memchr(name, 0, len))
        return -EBADMSG;
    if (len) {
        memcpy(text, name, len);
        text[len] = 0;
        if (!(db = databases_find(s->node->databases, text))) {
            answer(s, c, m->id, -ENOENT);
            return 0;
        }
    }
    struct question *q = c->questions + c->n_unsent < POSITION_FEED_QUESTIONS ? calloc(1, sizeof *q) : NULL;
    if (!q) {
        answer(s, c, m->id, -EBUSY);
        return 0;
    }
    *q = (struct question){.ask = {.db = db, .done = answered}, .server = s, .client = c, .id = m->id, .next = s->questions};
    s->questions = q;
    c->questions++;
    capture_ask(s->node->capture, &q->ask);
    return 0;
}

static int on_subscribe(struct position_server *s, struct client *c, const char *globs, size_t len)
{
    struct touched *t = NULL;
    int rc = touched_open(globs, len, &t);
    if (rc)
        return rc;
    pthread_mutex_lock(&s->lock);
    bool first = s->cursor.fd < 0;
    touched_close(c->subscriptions);
    c->subscriptions = t;
    tell(s, false);
    if (first) { /* nobody was interested in what came before */
        struct err e;
        if (rlog_seek(s->node->rlog, s->now.applied.lsn + 1, &s->cursor, &e))
            s->cursor.lsn = s->now.applied.lsn + 1;
    }
    touched_all(t);
    touched_report(t, give_touched, &(struct giving){s, c, &s->now});
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static int on_message(struct position_server *s, struct client *c, const uint8_t *buf, size_t n)
{
    struct position_feed_msg m;
    if (n < sizeof m)
        return -EBADMSG;
    memcpy(&m, buf, sizeof m);
    if (m.version != POSITION_FEED_VERSION)
        return -EPROTONOSUPPORT;
    if (m.kind == POSITION_FEED_CAPTURE)
        return on_capture(s, c, &m, (const char *)buf + sizeof m, n - sizeof m);
    if (m.kind == POSITION_FEED_QUIET) {
        pthread_mutex_lock(&s->lock);
        c->writes = true;
        c->quiet = (uint32_t)m.id;
        pthread_cond_broadcast(&s->quieter);
        pthread_mutex_unlock(&s->lock);
        return 0;
    }
    if (m.kind == POSITION_FEED_SUBSCRIBE)
        return on_subscribe(s, c, (const char *)buf + sizeof m, n - sizeof m);
    return -EBADMSG;
}

static void drop(struct position_server *s, struct client *c)
{
    for (struct question *q = s->questions; q; q = q->next)
        if (q->client == c)
            q->client = NULL;
    pthread_mutex_lock(&s->lock);
    struct client **p = &s->clients;
    while (*p != c)
        p = &(*p)->next;
    *p = c->next;
    s->n_clients--;
    pthread_cond_broadcast(&s->quieter);
    pthread_mutex_unlock(&s->lock);
    close(c->fd);
    touched_close(c->subscriptions);
    free(c);
}

static int read_from(struct position_server *s, struct client *c)
{
    uint8_t buf[POSITION_FEED_PACKET_MAX];
    for (int budget = SERVE_BUDGET; budget > 0; budget--) {
        ssize_t n = localsock_recv(c->fd, buf, sizeof buf, NULL, NULL);
        if (n == -EAGAIN)
            return 0;
        int rc = n > 0 ? on_message(s, c, buf, (size_t)n) : n < 0 ? (int)n : -EPIPE;
        if (rc)
            return rc;
    }
    return 0;
}

static void catch_up(struct position_server *s, struct client *c)
{
    pthread_mutex_lock(&s->lock);
    c->behind = false;
    watch(s, c, EPOLL_CTL_MOD);
    tell(s, false);
    if (c->subscriptions)
        touched_report(c->subscriptions, give_touched, &(struct giving){s, c, &s->now});
    give_state(s, c);
    unsigned n = c->n_unsent;
    struct answer unsent[POSITION_FEED_QUESTIONS];
    memcpy(unsent, c->unsent, n * sizeof *unsent);
    c->n_unsent = 0;
    for (unsigned i = 0; i < n; i++)
        give_answer(s, c, unsent[i].id, unsent[i].result);
    pthread_mutex_unlock(&s->lock);
}

int position_server_fd(const struct position_server *s)
{
    return s->epoll_fd;
}

void position_server_serve(struct position_server *s)
{
    struct epoll_event ev[16];
    int n = epoll_wait(s->epoll_fd, ev, ARRAY_SIZE(ev), 0);
    for (int i = 0; i < n; i++) {
        struct client *c = ev[i].data.ptr;
        int rc = ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) ? read_from(s, c) : 0;
        if (!rc && (ev[i].events & EPOLLOUT))
            catch_up(s, c);
        if (rc || c->broken) {
            if (rc != -EPIPE && rc != -ECONNRESET)
                log_warn("position", "a client of the position feed is dropped: %s", rc ? err_name(rc) : "it does not read its answers");
            drop(s, c);
        }
    }
}

/* ---- clients (HTTP loop) ---- */

static void on_accept(evutil_socket_t fd, short what, void *arg)
{
    struct position_server *s = arg;
    (void)what;
    int size = SEND_BUFFER, client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client < 0)
        return;
    struct client *c = calloc(1, sizeof *c);
    pthread_mutex_lock(&s->lock);
    if (!c || s->n_clients == POSITION_CLIENTS_MAX) {
        pthread_mutex_unlock(&s->lock);
        log_warn("position", "%u clients have the position feed already: refused", POSITION_CLIENTS_MAX);
        close(client);
        free(c);
        return;
    }
    (void)setsockopt(client, SOL_SOCKET, SO_SNDBUF, &size, sizeof size); /* the default does, too: it is only larger */
    c->fd = client;
    c->next = s->clients;
    s->clients = c;
    s->n_clients++;
    tell(s, true); /* what changed while nobody listened, to the others too */
    give_state(s, c);
    watch(s, c, EPOLL_CTL_ADD);
    pthread_mutex_unlock(&s->lock);
}

int position_server_open(struct node *n, struct event_base *base, struct position_server **out, struct err *e)
{
    char *path = NULL;
    struct position_server *s = calloc(1, sizeof *s);
    if (!s || asprintf(&path, "%s/%s", n->config->data, LAYOUT_POSITION_SOCK) < 0) {
        free(s);
        return err_errno(e, ENOMEM, "position feed");
    }
    s->node = n;
    s->cursor.fd = -1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&s->quieter, &a);
    pthread_condattr_destroy(&a);
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->listen_fd = localsock_listen(path, e);
    free(path);
    int rc = s->listen_fd < 0 ? s->listen_fd : 0;
    if (!rc && (s->epoll_fd < 0 || evutil_make_socket_nonblocking(s->listen_fd)))
        rc = err_errno(e, errno, "position feed");
    if (!rc) {
        s->accepting = event_new(base, s->listen_fd, EV_READ | EV_PERSIST, on_accept, s);
        rc = s->accepting && event_add(s->accepting, NULL) == 0 ? 0 : err_errno(e, ENOMEM, "position feed");
    }
    if (rc) {
        position_server_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void position_server_close(struct position_server *s)
{
    if (!s)
        return;
    if (s->accepting)
        event_free(s->accepting);
    while (s->questions)
        forget(s->questions);
    while (s->clients)
        drop(s, s->clients);
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    if (s->epoll_fd >= 0)
        close(s->epoll_fd);
    rlog_cursor_close(&s->cursor);
    pthread_cond_destroy(&s->quieter);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
