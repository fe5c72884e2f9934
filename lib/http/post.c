/* Work handed to the loop's thread by others: a queue under a mutex and an eventfd that is written only when the queue was empty, so
 * that a burst costs one wake-up. */
#include "lib/http/internal.h"
#include "lib/log.h"
#include "lib/util.h"

#include <errno.h>
#include <sys/eventfd.h>

static void put(struct http_wake *w)
{
    struct http_server *s = w->server;
    pthread_mutex_lock(&s->post_lock);
    bool first = TAILQ_EMPTY(&s->posts);
    w->queued = true;
    TAILQ_INSERT_TAIL(&s->posts, w, link);
    pthread_mutex_unlock(&s->post_lock);
    uint64_t one = 1;
    /* Can fail only with EAGAIN at 2^64-1 writes, and then the loop is being woken anyway. */
    if (first && write(s->post_fd, &one, sizeof one) < 0 && errno != EAGAIN)
        log_error("http", "eventfd: %s", strerror(errno));
}

static struct http_wake *take(struct http_server *s)
{
    pthread_mutex_lock(&s->post_lock);
    struct http_wake *w = TAILQ_FIRST(&s->posts);
    if (w) {
        TAILQ_REMOVE(&s->posts, w, link);
        w->queued = false;
    }
    pthread_mutex_unlock(&s->post_lock);
    return w;
}

static void run(struct http_wake *w)
{
    void (*fn)(void *) = w->fn;
    void *arg = w->arg;
    /* Before fn runs: whoever wakes from now on puts it in again. acq_rel: pairs with the exchange in http_wake, so that what a
     * waker wrote before a wake that found `pending` set is visible to fn. */
    atomic_exchange_explicit(&w->pending, false, memory_order_acq_rel);
    if (w->once)
        free(w);
    fn(arg); /* may free w if it is not `once` */
}

/* A function may post again: what was put in meanwhile waits for the next turn, so that sockets get theirs. */
static void on_posted(evutil_socket_t fd, short what, void *arg)
{
    struct http_server *s = arg;
    uint64_t n;
    (void)what;
    if (read(fd, &n, sizeof n) < 0 && errno != EAGAIN)
        log_error("http", "eventfd: %s", strerror(errno));
    pthread_mutex_lock(&s->post_lock);
    size_t count = 0;
    struct http_wake *w;
    TAILQ_FOREACH(w, &s->posts, link) count++;
    pthread_mutex_unlock(&s->post_lock);
    while (count-- && (w = take(s)))
        run(w);
    pthread_mutex_lock(&s->post_lock);
    bool more = !TAILQ_EMPTY(&s->posts);
    pthread_mutex_unlock(&s->post_lock);
    n = 1;
    if (more && write(s->post_fd, &n, sizeof n) < 0 && errno != EAGAIN)
        log_error("http", "eventfd: %s", strerror(errno));
}

int http_post_open(struct http_server *s)
{
    TAILQ_INIT(&s->posts);
    s->post_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->post_fd < 0)
        return -errno;
    pthread_mutex_init(&s->post_lock, NULL);
    s->ev_post = event_new(s->base, s->post_fd, EV_READ | EV_PERSIST, on_posted, s);
    if (!s->ev_post || event_add(s->ev_post, NULL) < 0) {
        if (s->ev_post)
            event_free(s->ev_post);
        pthread_mutex_destroy(&s->post_lock);
        close(s->post_fd);
        return -ENOMEM;
    }
    return 0;
}

void http_post_close(struct http_server *s)
{
    struct http_wake *w;
    while ((w = take(s)))
        run(w);
    event_free(s->ev_post);
    pthread_mutex_destroy(&s->post_lock);
    close(s->post_fd);
}

int http_server_post(struct http_server *s, void (*fn)(void *arg), void *arg)
{
    struct http_wake *w = http_wake_new(s, fn, arg);
    if (!w)
        return -ENOMEM;
    w->once = true;
    atomic_store_explicit(&w->pending, true, memory_order_relaxed);
    put(w);
    return 0;
}

struct http_wake *http_wake_new(struct http_server *s, void (*fn)(void *arg), void *arg)
{
    struct http_wake *w = calloc(1, sizeof *w);
    if (w) {
        w->server = s;
        w->fn = fn;
        w->arg = arg;
    }
    return w;
}

void http_wake(struct http_wake *w)
{
    if (!atomic_exchange_explicit(&w->pending, true, memory_order_acq_rel))
        put(w);
}

void http_wake_free(struct http_wake *w)
{
    if (!w)
        return;
    struct http_server *s = w->server;
    pthread_mutex_lock(&s->post_lock);
    if (w->queued)
        TAILQ_REMOVE(&s->posts, w, link);
    pthread_mutex_unlock(&s->post_lock);
    free(w);
}
