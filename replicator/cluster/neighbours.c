#include "replicator/cluster/neighbours.h"

#include "lib/util.h"
#include "replicator/cluster/lease.h"
#include "replicator/stream/position_server.h"
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#define LOOK_NS 1000000000u    /* from one attempt to the next */
#define CONNECT_NS 1000000000u /* what an attempt may take */
#define FAILURES 2u            /* in a row, until a node counts as unreachable */
#define ASK_EVERY 10u          /* looks, from one question who is primary to the next, of a node that can be reached all the time */

struct neighbour {
    const struct config_node *config;
    unsigned failures, looks; /* the thread's; looks: since it was asked last, 0: to be asked now */
    atomic_bool lost;
};

struct neighbours {
    struct node *node;
    pthread_t thread;
    pthread_mutex_t lock; /* guards stop */
    pthread_cond_t stopped;
    bool stop;
    bool ending; /* this node is giving way to a later primary. The thread's */
    unsigned n; /* constant, as are the configurations below */
    struct neighbour of[];
};

/* A connection that is being made to http://HOST:PORT, or -1. */
static int begin_connect(const char *url)
{
    char host[256];
    const char *p = strstr(url, "://");
    p = p ? p + 3 : url;
    const char *colon = strrchr(p, ':');
    size_t n = colon ? (size_t)(colon - p) : 0;
    if (n && *p == '[' && p[n - 1] == ']') {
        p++;
        n -= 2;
    }
    if (!n || n >= sizeof host)
        return -1;
    memcpy(host, p, n);
    host[n] = 0;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *list;
    if (getaddrinfo(host, colon + 1, &hints, &list))
        return -1;
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, list->ai_addr, list->ai_addrlen) && errno != EINPROGRESS) {
        close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    return fd;
}

/* Waits until every connection is made or refused, at most CONNECT_NS; reached[i] says which were made. Closes all. */
static void finish_connects(struct pollfd *p, bool *reached, unsigned n)
{
    uint64_t deadline = now_ns() + CONNECT_NS, now;
    for (unsigned left = n; left && (now = now_ns()) < deadline;) {
        if (poll(p, n, (int)((deadline - now) / 1000000u) + 1) <= 0)
            break;
        left = 0;
        for (unsigned i = 0; i < n; i++) {
            int error = 0;
            socklen_t len = sizeof error;
            if (p[i].fd >= 0 && p[i].revents) {
                reached[i] = getsockopt(p[i].fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && !error;
                close(p[i].fd);
                p[i].fd = -1;
            }
            left += p[i].fd >= 0;
        }
    }
    for (unsigned i = 0; i < n; i++)
        if (p[i].fd >= 0)
            close(p[i].fd);
}

static void look(struct neighbours *h)
{
    struct pollfd p[CONFIG_NODES_MAX];
    bool reached[CONFIG_NODES_MAX] = {false}, ask[CONFIG_NODES_MAX], changed = false;
    for (unsigned i = 0; i < h->n; i++)
        p[i] = (struct pollfd){.fd = begin_connect(h->of[i].config->url), .events = POLLOUT};
    finish_connects(p, reached, h->n);
    for (unsigned i = 0; i < h->n; i++) {
        h->of[i].failures = reached[i] ? 0 : MIN(h->of[i].failures + 1, FAILURES);
        bool lost = h->of[i].failures == FAILURES;
        changed |= atomic_exchange(&h->of[i].lost, lost) != lost;
        ask[i] = reached[i] && !h->of[i].looks;
        h->of[i].looks = !reached[i] || h->ending ? 0 : (h->of[i].looks + 1) % ASK_EVERY;
    }
    if (changed)
        position_server_changed(h->node->positions);
    /* With a static lease nobody else tells a primary that was cut off, or paused, that another one was promoted meanwhile. */
    for (unsigned i = 0; i < h->n && !h->node->lease; i++)
        if (ask[i])
            lease_give_way(h->node, h->of[i].config->url, &h->ending);
}

static void *run(void *arg)
{
    struct neighbours *h = arg;
    prctl(PR_SET_NAME, "neighbours");
    pthread_mutex_lock(&h->lock);
    while (!h->stop) {
        pthread_mutex_unlock(&h->lock);
        uint64_t until = now_ns() + LOOK_NS;
        look(h);
        struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
        pthread_mutex_lock(&h->lock);
        while (!h->stop && pthread_cond_timedwait(&h->stopped, &h->lock, &t) == 0)
            continue;
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

int neighbours_open(struct node *n, struct neighbours **out, struct err *e)
{
    const struct config *c = n->config;
    struct neighbours *h = calloc(1, sizeof *h + (size_t)c->n_nodes * sizeof *h->of);
    if (!h)
        return err_errno(e, ENOMEM, "neighbours");
    h->node = n;
    for (int i = 0; i < c->n_nodes; i++)
        if (strcmp(c->nodes[i].name, c->node) != 0)
            h->of[h->n++].config = &c->nodes[i];
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&h->stopped, &a);
    pthread_condattr_destroy(&a);
    int rc = h->n ? pthread_create(&h->thread, NULL, run, h) : 0;
    if (rc) {
        free(h);
        return err_errno(e, rc, "start the neighbours' thread");
    }
    *out = h;
    return 0;
}

void neighbours_close(struct neighbours *h)
{
    if (!h)
        return;
    pthread_mutex_lock(&h->lock);
    h->stop = true;
    pthread_cond_broadcast(&h->stopped);
    pthread_mutex_unlock(&h->lock);
    if (h->n)
        pthread_join(h->thread, NULL);
    pthread_cond_destroy(&h->stopped);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

unsigned neighbours_count(struct neighbours *h)
{
    return h ? h->n : 0;
}

void neighbours_each(struct neighbours *h, void (*fn)(void *ctx, const char *name, bool reached), void *ctx)
{
    for (unsigned i = 0; h && i < h->n; i++)
        fn(ctx, h->of[i].config->name, !atomic_load(&h->of[i].lost));
}
