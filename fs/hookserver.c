#include "fs/hookserver.h"

#include "fs/names.h"
#include "fs/passthrough.h"
#include "fs/role.h"
#include "lib/localsock.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define TICK_MS 250 /* granularity of time-outs */

struct packet {
    struct packet *next;
    size_t len;
    bool end_of_sync;
    uint8_t data[];
};

struct hookserver {
    struct fs *fs;
    int listen_fd, epoll_fd, wake_fd;
    pthread_t thread;
    int candidate_fd; /* connected, HELLO not yet received; the server's thread only */

    pthread_mutex_t mutex; /* guards what follows; innermost of all locks */
    int fd;                /* the replicator, non-blocking; -1: none */
    bool broken;           /* a send failed: the thread will disconnect it */
    bool synced;           /* SYNCED has left: marks that were sent can be cleared */
    struct packet *head, **tail; /* what the socket did not take yet, in order */
    size_t backlog;              /* bytes */
    uint64_t expected_until;     /* now_ns() until which a replicator is expected back */
    struct hook_ask *asks[HOOKSERVER_ASKS_MAX]; /* at index id % HOOKSERVER_ASKS_MAX */
    unsigned n_asks;
    uint64_t last_id;
};

static uint64_t after_ms(uint64_t ms)
{
    return now_ns() + ms * 1000000u;
}

static void wake(struct hookserver *h)
{
    uint64_t one = 1;
    if (write(h->wake_fd, &one, sizeof one) < 0) {
        /* the counter is full: the thread has been woken already */
    }
}

/* ---- sending (mutex held) ---- */

static void watch(struct hookserver *h, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.fd = h->fd};
    if (epoll_ctl(h->epoll_fd, EPOLL_CTL_MOD, h->fd, &ev))
        h->broken = true;
}

static void send_failed(struct hookserver *h, int rc)
{
    if (!h->broken && rc != -EPIPE && rc != -ECONNRESET)
        log_warn("hooks", "the replicator's connection failed: %s", err_name(rc));
    h->broken = true;
    wake(h);
}

static void enqueue(struct hookserver *h, const struct hook_msg *m, const void *body, size_t body_len, bool end_of_sync)
{
    struct packet *p = malloc(sizeof *p + sizeof *m + body_len);
    if (!p || h->backlog + body_len > HOOKSERVER_BACKLOG_MAX) {
        log_error("hooks", "the replicator does not read its events (%zu bytes waiting): disconnecting it", h->backlog);
        free(p);
        send_failed(h, -EPIPE);
        return;
    }
    p->next = NULL;
    p->len = sizeof *m + body_len;
    p->end_of_sync = end_of_sync;
    memcpy(p->data, m, sizeof *m);
    memcpy(p->data + sizeof *m, body, body_len);
    if (!h->head)
        watch(h, EPOLLIN | EPOLLOUT);
    *h->tail = p;
    h->tail = &p->next;
    h->backlog += p->len;
}

/* Sends now, or queues behind what waits. False: nobody is connected. */
static bool post(struct hookserver *h, enum hooks_kind kind, uint64_t id, uint64_t value, const char *path, const char *text)
{
    if (h->fd < 0 || h->broken)
        return false;
    size_t path_len = path ? strlen(path) : 0, text_len = text ? strlen(text) : 0;
    char body[2 * (FS_PATH_MAX + 1)];
    if (path_len + text_len > sizeof body)
        return false;
    struct hook_msg m = {
        .kind = kind, .id = id, .value = value, .path_len = (uint16_t)path_len, .text_len = (uint16_t)text_len};
    if (kind == HOOK_HELLO)
        m.flags = (uint32_t)passthrough_active(h->fs);
    if (path_len)
        memcpy(body, path, path_len);
    if (text_len)
        memcpy(body + path_len, text, text_len);
    if (!h->head) {
        int rc = localsock_send(h->fd, &m, sizeof m, body, path_len + text_len, NULL, 0);
        if (rc == 0) {
            h->synced |= kind == HOOK_SYNCED;
            return true;
        }
        if (rc != -EAGAIN) {
            send_failed(h, rc);
            return false;
        }
    }
    enqueue(h, &m, body, path_len + text_len, kind == HOOK_SYNCED);
    return !h->broken;
}

static void flush(struct hookserver *h)
{
    while (h->head && !h->broken) {
        struct packet *p = h->head;
        int rc = localsock_send(h->fd, p->data, p->len, NULL, 0, NULL, 0);
        if (rc == -EAGAIN)
            return;
        if (rc) {
            send_failed(h, rc);
            return;
        }
        h->synced |= p->end_of_sync;
        h->head = p->next;
        h->backlog -= p->len;
        free(p);
    }
    h->tail = &h->head;
    if (h->fd >= 0 && !h->broken)
        watch(h, EPOLLIN);
}

/* ---- questions ---- */

static void run_done(void *arg)
{
    struct hook_ask *a = arg;
    a->done(a);
}

/* Mutex held: takes it out; nobody else will call done. */
static void take_out(struct hookserver *h, struct hook_ask *a)
{
    h->asks[a->id % HOOKSERVER_ASKS_MAX] = NULL;
    h->n_asks--;
}

static uint64_t deadline_of(const struct hook_ask *a)
{
    return after_ms(a->wait_ms ? a->wait_ms : HOOKS_TIMEOUT_MS);
}

static bool park(struct hookserver *h, struct hook_ask *a)
{
    if (h->n_asks >= HOOKSERVER_ASKS_MAX - 1) {
        log_warn("hooks", "more than %u questions are waiting for the replicator", HOOKSERVER_ASKS_MAX);
        return false;
    }
    do
        h->last_id++;
    while (h->last_id == 0 || h->asks[h->last_id % HOOKSERVER_ASKS_MAX]);
    a->id = h->last_id;
    h->asks[a->id % HOOKSERVER_ASKS_MAX] = a;
    h->n_asks++;
    return true;
}

static bool ask_locked(struct hookserver *h, struct hook_ask *a)
{
    bool connected = h->fd >= 0 && !h->broken;
    a->answered = false;
    a->error = -1;
    a->text_len = 0;
    a->sent = false;
    if (a->policy == ASK_GO_ON && !connected && now_ns() >= h->expected_until)
        return false;
    if (!park(h, a))
        return false;
    a->deadline = deadline_of(a);
    if (connected)
        a->sent = post(h, a->kind, a->id, a->value, a->path, a->question);
    if (a->sent)
        return true;
    if (a->policy == ASK_GO_ON)
        a->deadline = h->expected_until;
    else if (a->policy == ASK_QUERY)
        a->deadline = after_ms(HOOKSERVER_QUERY_WAIT_MS);
    wake(h); /* the thread may be asleep without a time-out */
    return true;
}

/* Table's mutex held. */
static void mark_unseen(struct fs *fs, const char *path, bool emptied)
{
    size_t len = strlen(path), base;
    const char *slash = strrchr(path, '/');
    size_t dir = slash ? (size_t)(slash + 1 - path) : 0;
    if (name_kind(path + dir, len - dir, &base) == NAME_PRIVATE)
        return;
    int rc = table_mark_unseen(fs->table, path, dir + base, emptied);
    if (rc)
        log_error("hooks", "%s: cannot note that it changed while no replicator was connected: %s", path, err_name(rc));
}

static bool empties(const struct hook_ask *a)
{
    return a->kind == HOOK_EMPTIED || (a->kind == HOOK_CHECKPOINT && a->value == 0);
}

/* What a question would have said is found by comparing pages; but the sync of a WAL says nothing that its frames do not say. */
static void mark_missed(struct fs *fs, const struct hook_ask *a)
{
    if (a->kind != HOOK_WAL_SYNC)
        mark_unseen(fs, a->path, empties(a));
}

static void refuse(struct hook_ask *a)
{
    a->answered = true;
    a->error = EIO;
}

bool hookserver_ask(struct fs *fs, struct hook_ask *a)
{
    struct hookserver *h = fs->hooks;
    pthread_mutex_lock(&h->mutex);
    bool parked = ask_locked(h, a);
    pthread_mutex_unlock(&h->mutex);
    if (!parked && a->policy == ASK_GO_ON) {
        table_lock(fs->table);
        mark_missed(fs, a);
        table_unlock(fs->table);
    }
    if (!parked && a->policy == ASK_REFUSE) {
        refuse(a);
        spare_defer(fs->spare, &a->work, run_done, a);
        return true;
    }
    return parked;
}

bool hookserver_tell_value(struct fs *fs, enum hooks_kind kind, uint64_t value, const char *path, const char *text)
{
    struct hookserver *h = fs->hooks;
    pthread_mutex_lock(&h->mutex);
    bool sent = post(h, kind, 0, value, path, text);
    pthread_mutex_unlock(&h->mutex);
    return sent;
}

bool hookserver_tell(struct fs *fs, enum hooks_kind kind, const char *path, const char *text)
{
    return hookserver_tell_value(fs, kind, 0, path, text);
}

void hookserver_tell_or_mark(struct fs *fs, enum hooks_kind kind, const char *path, const char *text)
{
    if (hookserver_tell(fs, kind, path, text))
        return;
    mark_unseen(fs, path, false);
    if (text && (kind == HOOK_RENAMED || kind == HOOK_EXCHANGED))
        mark_unseen(fs, text, false);
}

/* Ends questions for which give_up says so: their calls go on. Table's mutex held (marks). */
static void end_asks(struct hookserver *h, bool (*give_up)(struct hookserver *h, struct hook_ask *a))
{
    struct hook_ask *over[HOOKSERVER_ASKS_MAX];
    unsigned n = 0;
    pthread_mutex_lock(&h->mutex);
    for (unsigned i = 0; i < HOOKSERVER_ASKS_MAX && h->n_asks; i++)
        if (h->asks[i] && give_up(h, h->asks[i])) {
            over[n++] = h->asks[i];
            take_out(h, h->asks[i]);
        }
    pthread_mutex_unlock(&h->mutex);
    for (unsigned i = 0; i < n; i++) {
        if (!over[i]->answered && over[i]->policy == ASK_GO_ON && over[i]->kind != HOOK_WAL_SYNC) {
            mark_unseen(h->fs, over[i]->path, empties(over[i]));
            hookserver_tell(h->fs, HOOK_UNSEEN, over[i]->path, NULL);
        } else if (!over[i]->answered && over[i]->policy == ASK_REFUSE) {
            refuse(over[i]);
        }
        spare_defer(h->fs->spare, &over[i]->work, run_done, over[i]);
    }
}

static bool timed_out(struct hookserver *h, struct hook_ask *a)
{
    (void)h;
    if (now_ns() < a->deadline)
        return false;
    if (a->sent)
        log_warn("hooks", "%s: no answer to hook %u within %llu ms", a->path, a->kind, (unsigned long long)(a->wait_ms ? a->wait_ms : HOOKS_TIMEOUT_MS));
    return true;
}

static bool lost_connection(struct hookserver *h, struct hook_ask *a)
{
    (void)h;
    if (a->policy == ASK_GO_ON)
        return true;
    a->sent = false; /* the next replicator is asked again */
    if (a->policy == ASK_QUERY)
        a->deadline = MIN(a->deadline, after_ms(HOOKSERVER_QUERY_WAIT_MS));
    return false;
}

static bool needs_no_fence(struct hookserver *h, struct hook_ask *a)
{
    (void)h;
    if (a->policy != ASK_FENCE || a->any_role)
        return false;
    a->answered = true;
    a->error = 0;
    return true;
}

/* ---- connection (the server's thread) ---- */

/* Table's mutex held. */
static void disconnect(struct hookserver *h)
{
    pthread_mutex_lock(&h->mutex);
    if (h->fd >= 0) {
        close(h->fd);
        log_info("hooks", "the replicator is gone");
    }
    h->fd = -1;
    h->broken = h->synced = false;
    for (struct packet *p = h->head, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    h->head = NULL;
    h->tail = &h->head;
    h->backlog = 0;
    pthread_mutex_unlock(&h->mutex);
    role_set_replicator(h->fs, 0);
    end_asks(h, lost_connection);
}

static void say_opened(struct table *t, uint32_t ino, void *arg)
{
    struct hookserver *h = arg;
    const struct shared_inode *i = table_inode(t, ino);
    char path[FS_PATH_MAX + 1];
    if (i->opens_app && !(i->flags & (INODE_VIRTUAL | INODE_DIR)) && name_is_database(name_kind(i->name, i->name_len, NULL)) &&
        table_path(t, ino, path, sizeof path) > 0)
        post(h, HOOK_OPENED, 0, 0, path, NULL);
}

static void say_unseen(struct table *t, uint32_t ino, void *arg)
{
    struct hookserver *h = arg;
    struct shared_inode *i = table_inode(t, ino);
    char path[FS_PATH_MAX + 1];
    if (!(i->flags & INODE_UNSEEN))
        return;
    if (table_path(t, ino, path, sizeof path) > 0) /* otherwise its directory is gone, and it with that */
        post(h, HOOK_UNSEEN, 0, i->flags & INODE_EMPTIED ? 1 : 0, path, NULL);
    table_set(t, i->flags, i->flags | INODE_UNSEEN_SENT);
    table_commit(t);
}

static void connected(struct hookserver *h, int fd, pid_t pid)
{
    struct fs *fs = h->fs;
    table_lock(fs->table);
    if (h->fd >= 0)
        disconnect(h); /* the new one replaces it */
    role_set_replicator(fs, pid);
    /* With both mutexes held no change comes between the lists and the first event after them. */
    pthread_mutex_lock(&h->mutex);
    h->fd = fd;
    h->expected_until = 0;
    post(h, HOOK_HELLO, 0, HOOKS_VERSION, NULL, NULL);
    table_each(fs->table, say_opened, h);
    table_each(fs->table, say_unseen, h);
    post(h, HOOK_SYNCED, 0, 0, NULL, NULL);
    for (unsigned i = 0; i < HOOKSERVER_ASKS_MAX && h->n_asks; i++) {
        struct hook_ask *a = h->asks[i];
        if (!a)
            continue;
        if (a->policy != ASK_FENCE && a->policy != ASK_REFUSE)
            a->deadline = deadline_of(a);
        a->sent = post(h, a->kind, a->id, a->value, a->path, a->question);
    }
    pthread_mutex_unlock(&h->mutex);
    table_unlock(fs->table);
    log_info("hooks", "replicator connected (process %d)", pid);
}

static void accept_one(struct hookserver *h)
{
    int fd = accept4(h->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    struct ucred peer;
    socklen_t n = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) || peer.uid != geteuid()) {
        log_warn("hooks", "connection of another user refused");
        close(fd);
        return;
    }
    if (h->candidate_fd >= 0)
        close(h->candidate_fd); /* a newer one has come: the older said nothing yet */
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, fd, &ev)) {
        close(fd);
        fd = -1;
    }
    h->candidate_fd = fd;
}

static void candidate_readable(struct hookserver *h)
{
    struct hook_msg m;
    int fd = h->candidate_fd;
    ssize_t n = localsock_recv(fd, &m, sizeof m, NULL, NULL);
    if (n == -EAGAIN)
        return;
    h->candidate_fd = -1;
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (n != sizeof m || m.kind != HOOK_HELLO || m.value != HOOKS_VERSION ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size)) {
        if (n > 0)
            log_warn("hooks", "a connection was refused: it does not speak version %d of the hook protocol", HOOKS_VERSION);
        close(fd);
        return;
    }
    connected(h, fd, peer.pid);
}

static void take_answer(struct hookserver *h, const struct hook_msg *m, const char *text)
{
    pthread_mutex_lock(&h->mutex);
    struct hook_ask *a = h->asks[m->id % HOOKSERVER_ASKS_MAX];
    if (!a || a->id != m->id || !a->sent) {
        pthread_mutex_unlock(&h->mutex); /* timed out meanwhile */
        return;
    }
    take_out(h, a);
    a->answered = true;
    a->error = m->value < 4096 ? (int)m->value : EIO;
    a->text_len = MIN((size_t)m->text_len, sizeof a->text - 1);
    memcpy(a->text, text, a->text_len);
    a->text[a->text_len] = 0;
    bool here = a->quick && h->n_asks == 0; /* waking another thread would cost more than what is left to do */
    pthread_mutex_unlock(&h->mutex);
    if (here)
        a->done(a);
    else
        spare_defer(h->fs->spare, &a->work, run_done, a);
}

static void take_role(struct hookserver *h, const struct hook_msg *m, const char *text)
{
    static const char *const names[] = {"unknown", "replica", "primary"};
    if (m->value > HOOKS_ROLE_PRIMARY || m->text_len > SHARED_PRIMARY_MAX || memchr(text, '\n', m->text_len)) {
        log_warn("hooks", "the replicator named a role that does not exist (%llu)", (unsigned long long)m->value);
        return;
    }
    if (role_get(h->fs) != (enum hooks_role)m->value)
        log_info("hooks", "this node is %s now (primary: %.*s)", names[m->value], (int)m->text_len, text);
    /* Creations check the role and happen under this lock: after it, none that the old role allowed is under way. */
    pthread_rwlock_wrlock(&h->fs->ns);
    role_set(h->fs, (enum hooks_role)m->value, text, m->text_len);
    pthread_rwlock_unlock(&h->fs->ns);
    if (m->value == HOOKS_ROLE_PRIMARY) {
        table_lock(h->fs->table);
        end_asks(h, needs_no_fence);
        table_unlock(h->fs->table);
    }
    /* Whoever waits for the role to be in force hears it after everything that happened before. */
    (void)hookserver_tell(h->fs, HOOK_ROLE, "", names[m->value]);
}

/* False: the connection is over. */
static bool replicator_readable(struct hookserver *h)
{
    union {
        struct hook_msg m;
        char bytes[HOOKS_PACKET_MAX];
    } p;
    for (;;) {
        ssize_t n = localsock_recv(h->fd, &p, sizeof p, NULL, NULL);
        if (n == -EAGAIN)
            return true;
        if (n <= 0)
            return false;
        if ((size_t)n < sizeof p.m || (size_t)n != sizeof p.m + p.m.path_len + p.m.text_len) {
            log_warn("hooks", "the replicator sent a malformed message (%zd bytes): disconnecting it", n);
            return false;
        }
        const char *text = p.bytes + sizeof p.m + p.m.path_len;
        if (p.m.kind == HOOK_ANSWER)
            take_answer(h, &p.m, text);
        else if (p.m.kind == HOOK_ROLE)
            take_role(h, &p.m, text);
        else
            log_warn("hooks", "the replicator sent a message of unknown kind %u: ignored", p.m.kind);
    }
}

static void handle(struct hookserver *h, const struct epoll_event *ev)
{
    int fd = ev->data.fd;
    if (fd == h->wake_fd) {
        uint64_t n;
        if (read(h->wake_fd, &n, sizeof n) < 0) {
            /* nothing there: woken already */
        }
    } else if (fd == h->listen_fd)
        accept_one(h);
    else if (fd == h->candidate_fd)
        candidate_readable(h);
    else if (fd == h->fd) {
        if (ev->events & EPOLLOUT) {
            pthread_mutex_lock(&h->mutex);
            flush(h);
            pthread_mutex_unlock(&h->mutex);
        }
        if ((ev->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !replicator_readable(h)) {
            pthread_mutex_lock(&h->mutex);
            h->broken = true;
            pthread_mutex_unlock(&h->mutex);
        }
    }
}

/* Time-outs and what handlers left to do. Returns the time-out of the next wait, ms. */
static int housekeeping(struct hookserver *h)
{
    struct table *t = h->fs->table;
    pthread_mutex_lock(&h->mutex);
    bool broken = h->broken, synced = h->synced, waiting = h->n_asks > 0;
    h->synced = false;
    pthread_mutex_unlock(&h->mutex);
    if (!broken && waiting && h->fd >= 0 && role_replicator_dying(h->fs)) {
        log_warn("hooks", "the replicator has been killed and waits for us: going on without its answers");
        broken = true;
    }
    if (broken || synced || waiting) {
        table_lock(t);
        if (broken)
            disconnect(h);
        else if (synced)
            table_clear_unseen_sent(t);
        end_asks(h, timed_out);
        table_unlock(t);
    }
    return h->fd >= 0 || waiting ? TICK_MS : -1;
}

static void *serve(void *arg)
{
    struct hookserver *h = arg;
    for (int timeout = TICK_MS;;) {
        struct epoll_event ev[8];
        int n = epoll_wait(h->epoll_fd, ev, 8, timeout);
        for (int i = 0; i < n; i++)
            handle(h, &ev[i]);
        timeout = housekeeping(h);
    }
    return NULL;
}

int hookserver_start(struct fs *fs, int listen_fd, bool expect, struct err *e)
{
    struct hookserver *h = calloc(1, sizeof *h);
    if (!h)
        return err_set(e, -ENOMEM, "hooks: out of memory");
    h->fs = fs;
    h->listen_fd = listen_fd;
    h->fd = h->candidate_fd = -1;
    h->tail = &h->head;
    h->expected_until = expect ? after_ms(HOOKSERVER_RETURN_MS) : 0;
    pthread_mutex_init(&h->mutex, NULL);
    h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int flags = fcntl(listen_fd, F_GETFL);
    struct epoll_event l = {.events = EPOLLIN, .data.fd = listen_fd}, w = {.events = EPOLLIN, .data.fd = h->wake_fd};
    int rc;
    if (h->epoll_fd < 0 || h->wake_fd < 0 || flags < 0 || fcntl(listen_fd, F_SETFL, flags | O_NONBLOCK) || epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, listen_fd, &l) ||
        epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, h->wake_fd, &w)) {
        rc = err_errno(e, errno, "hooks");
        goto fail;
    }
    fs->hooks = h;
    rc = pthread_create(&h->thread, NULL, serve, h);
    if (rc == 0)
        return 0;
    rc = err_errno(e, rc, "hooks: thread");
fail:
    if (h->epoll_fd >= 0)
        close(h->epoll_fd);
    if (h->wake_fd >= 0)
        close(h->wake_fd);
    pthread_mutex_destroy(&h->mutex);
    free(h);
    fs->hooks = NULL;
    return rc;
}
