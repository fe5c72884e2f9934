#include "http-proxy/accesslog.h"

#include "lib/log.h"
#include "lib/util.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>

#define BUFFER 65536
#define TARGET_MAX 2048 /* bytes of a value that are kept */
#define VALUE_MAX 512
#define LINE_MAX_BYTES (6 * (TARGET_MAX + 4 * VALUE_MAX) + 1024) /* every byte escaped */

struct accesslog {
    bool json;
    char *path; /* NULL: standard error */
    const char *app; /* the configuration's */
    char *gather;    /* the loop's; BUFFER bytes, as is the other */
    size_t n;
    pthread_t thread;
    bool started;
    /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t work;
    char *writing;
    size_t n_writing; /* 0: the thread has nothing to do */
    int fd;
    bool reopen, stop;
};

/* ---- the writing thread: whatever the file is, the loop does not wait for it ---- */

static int open_file(const struct accesslog *l)
{
    return l->path ? open(l->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640) : fcntl(2, F_DUPFD_CLOEXEC, 3);
}

static void reopen(struct accesslog *l)
{
    int fd = open_file(l);
    if (fd < 0) {
        log_error("access-log", "%s: %s; the old file stays", l->path ? l->path : "standard error", err_name(errno));
        return;
    }
    close(l->fd);
    l->fd = fd;
}

static void write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return; /* a full disk, a closed pipe: these lines are lost */
        p += k;
        n -= (size_t)k;
    }
}

static void *run(void *arg)
{
    struct accesslog *l = arg;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->n_writing && !l->reopen && !l->stop)
            pthread_cond_wait(&l->work, &l->lock);
        if (l->n_writing) {
            size_t n = l->n_writing;
            pthread_mutex_unlock(&l->lock); /* nobody touches writing and fd while n_writing is set */
            write_all(l->fd, l->writing, n);
            pthread_mutex_lock(&l->lock);
            l->n_writing = 0;
        } else if (l->reopen) {
            l->reopen = false;
            reopen(l);
        } else {
            break;
        }
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* Hands what was gathered to the thread; false: it is still busy with the last. */
static bool hand_over(struct accesslog *l)
{
    pthread_mutex_lock(&l->lock);
    bool idle = !l->n_writing;
    if (idle && l->n) {
        char *p = l->writing;
        l->writing = l->gather;
        l->gather = p;
        l->n_writing = l->n;
        l->n = 0;
        pthread_cond_signal(&l->work);
    }
    pthread_mutex_unlock(&l->lock);
    return idle;
}

/* ---- lines ---- */

struct line {
    char *p;
    size_t n; /* LINE_MAX_BYTES are enough for every line */
    bool json, first;
};

static void put(struct line *o, const char *p, size_t n)
{
    if (n <= LINE_MAX_BYTES - o->n) {
        memcpy(o->p + o->n, p, n);
        o->n += n;
    }
}

static void puts_line(struct line *o, const char *s)
{
    put(o, s, strlen(s));
}

static void key(struct line *o, const char *name)
{
    if (!o->first)
        put(o, o->json ? "," : " ", 1);
    o->first = false;
    if (o->json)
        put(o, "\"", 1);
    puts_line(o, name);
    puts_line(o, o->json ? "\":" : "=");
}

/* Text from outside: quoted where it has to be; control characters, quotes and bytes that are no ASCII escaped as JSON does it, each byte for itself. */
static void text(struct line *o, const char *name, struct slice v, size_t max)
{
    bool quoted = o->json || !v.n;
    v.n = MIN(v.n, max);
    for (size_t i = 0; i < v.n && !quoted; i++)
        quoted = v.p[i] <= ' ' || v.p[i] > '~' || v.p[i] == '"' || v.p[i] == '=' || v.p[i] == '\\';
    key(o, name);
    if (quoted)
        put(o, "\"", 1);
    for (size_t i = 0; i < v.n; i++) {
        unsigned char c = (unsigned char)v.p[i];
        char escape[8];
        if (c == '"' || c == '\\')
            put(o, (char[]){'\\', (char)c}, 2);
        else if (c < ' ' || c > '~')
            put(o, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", c));
        else
            put(o, v.p + i, 1);
    }
    if (quoted)
        put(o, "\"", 1);
}

static void number(struct line *o, const char *name, uint64_t v)
{
    char s[24];
    key(o, name);
    put(o, s, (size_t)snprintf(s, sizeof s, "%llu", (unsigned long long)v));
}

static void seconds(struct line *o, const char *name, uint64_t us)
{
    char s[32];
    key(o, name);
    put(o, s, (size_t)snprintf(s, sizeof s, "%llu.%06u", (unsigned long long)(us / 1000000u), (unsigned)(us % 1000000u)));
}

static void cstring(struct line *o, const char *name, const char *s)
{
    text(o, name, (struct slice){s, strlen(s)}, VALUE_MAX);
}

static void put_time(struct line *o)
{
    char s[40];
    struct tm tm;
    uint64_t us = wall_us();
    time_t t = (time_t)(us / 1000000u);
    gmtime_r(&t, &tm);
    size_t n = strftime(s, sizeof s, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(s + n, sizeof s - n, ".%03uZ", (unsigned)(us / 1000u % 1000u));
    cstring(o, "time", s);
}

static void put_peer(struct line *o, const struct sockaddr *peer)
{
    char s[INET6_ADDRSTRLEN] = "-";
    if (peer && peer->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)peer)->sin_addr, s, sizeof s);
    else if (peer && peer->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)(const void *)peer)->sin6_addr, s, sizeof s);
    cstring(o, "peer", s);
}

static void put_decision(struct line *o, const struct decision *d)
{
    static const char *const kinds[] = {[DECIDE_READ] = "read", [DECIDE_WRITE] = "write", [DECIDE_PASSTHROUGH] = "passthrough"};
    cstring(o, "kind", kinds[d->kind]);
    if (d->reason)
        cstring(o, "reason", d->reason);
    if (d->waited)
        number(o, "waited", 1);
    if (d->stale)
        number(o, "stale", 1);
    if (d->replayed)
        number(o, "replayed", 1);
    if (d->degraded)
        number(o, "degraded", d->degraded);
    if (d->hop)
        number(o, "hop", d->hop);
}

void accesslog_write(struct accesslog *l, const struct proxy_exchange *x)
{
    static const char *const outcomes[] = {
#define X(id, text) text,
        PROXY_OUTCOMES(X)
#undef X
    };
    if (BUFFER - l->n < LINE_MAX_BYTES && !hand_over(l)) {
        proxy_count(PROXY_COUNT_LOG_DROPPED, 1);
        return;
    }
    struct line o = {.p = l->gather + l->n, .json = l->json, .first = true};
    if (o.json)
        put(&o, "{", 1);
    put_time(&o);
    cstring(&o, "app", l->app);
    put_peer(&o, x->peer);
    text(&o, "method", x->method, 32);
    text(&o, "target", x->target, TARGET_MAX);
    text(&o, "host", x->host, VALUE_MAX);
    number(&o, "status", (uint64_t)x->status);
    cstring(&o, "outcome", outcomes[x->outcome]);
    if (x->decision)
        put_decision(&o, x->decision);
    number(&o, "in", x->bytes_in);
    number(&o, "out", x->bytes_out);
    seconds(&o, "dur", x->total_us);
    seconds(&o, "wait", x->wait_us);
    seconds(&o, "upstream", x->upstream_us);
    if (x->user_agent.n)
        text(&o, "agent", x->user_agent, VALUE_MAX);
    if (x->referer.n)
        text(&o, "referer", x->referer, VALUE_MAX);
    puts_line(&o, o.json ? "}\n" : "\n");
    l->n += o.n;
}

void accesslog_tick(struct accesslog *l)
{
    if (l)
        (void)hand_over(l); /* busy: the next tick */
}

void accesslog_reopen(struct accesslog *l)
{
    if (!l)
        return;
    (void)hand_over(l); /* what is gathered belongs into the old file if the thread is free, else into the new one */
    pthread_mutex_lock(&l->lock);
    l->reopen = true;
    pthread_cond_signal(&l->work);
    pthread_mutex_unlock(&l->lock);
}

int accesslog_open(const struct config_proxy *app, struct accesslog **out, struct err *e)
{
    *out = NULL;
    if (app->access_log == CONFIG_ACCESS_LOG_OFF)
        return 0;
    struct accesslog *l = calloc(1, sizeof *l);
    if (!l)
        return err_errno(e, ENOMEM, "access log");
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    l->fd = -1;
    l->app = app->name;
    l->json = app->access_log == CONFIG_ACCESS_LOG_JSON;
    l->gather = malloc(BUFFER);
    l->writing = malloc(BUFFER);
    l->path = app->access_log_file ? strdup(app->access_log_file) : NULL;
    int rc = !l->gather || !l->writing || (app->access_log_file && !l->path) ? err_errno(e, ENOMEM, "access log") : 0;
    if (!rc && (l->fd = open_file(l)) < 0)
        rc = err_errno(e, errno, "%s", l->path ? l->path : "standard error");
    if (!rc && (rc = pthread_create(&l->thread, NULL, run, l)))
        rc = err_errno(e, rc, "start the thread of the access log");
    l->started = !rc;
    if (rc)
        accesslog_close(l);
    else
        *out = l;
    return rc;
}

void accesslog_close(struct accesslog *l)
{
    if (!l)
        return;
    if (l->started) {
        pthread_mutex_lock(&l->lock);
        l->stop = true;
        pthread_cond_signal(&l->work);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
        write_all(l->fd, l->gather, l->n);
    }
    if (l->fd >= 0)
        close(l->fd);
    free(l->gather);
    free(l->writing);
    free(l->path);
    pthread_cond_destroy(&l->work);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
