/* edgefs-proxy: HTTP/1.1 in front of an application, with read-your-writes and forwarding of writes. Started by the launcher when `proxy:` is
 * configured. docs/proxy.md. */
#include "http-proxy/engine.h"
#include "lib/config.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

struct program {
    struct event_base *base;
    struct link link;
    struct engine engine;
    struct event *gone; /* the launcher's end of its socket; NULL: there is none */
};

static void stop_loop(evutil_socket_t fd, short what, void *arg)
{
    struct program *p = arg;
    (void)fd;
    (void)what;
    if (p->engine.draining) /* the second time: at once */
        event_base_loopbreak(p->base);
    else
        engine_drain(&p->engine, false);
}

static void reload(evutil_socket_t fd, short what, void *arg)
{
    struct program *p = arg;
    (void)fd;
    (void)what;
    engine_reload(&p->engine);
}

/* A successor is to take over (SIGUSR2): the listening sockets are the launcher's, so it can begin at once; what is under way here is finished by
 * a copy of this process that holds nothing of the node's. */
static void retire(evutil_socket_t fd, short what, void *arg)
{
    struct program *p = arg;
    (void)fd;
    (void)what;
    if (p->engine.draining)
        return;
    engine_drain(&p->engine, true);
    pid_t pid = engine_busy(&p->engine) ? fork() : -1;
    if (pid) { /* no copy: nothing is lost, or there is no memory for it */
        if (pid > 0)
            log_info("main", "process %d finishes what is under way", (int)pid);
        _exit(0);
    }
    const char *lock = getenv("EDGEFS_LOCK_FD");
    if (lock)
        close(atoi(lock));
    if (p->gone)
        event_del(p->gone);
    link_close(&p->link);
}

static void launcher_gone(evutil_socket_t fd, short what, void *arg)
{
    char c;
    if (recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
        log_warn("main", "the launcher is gone: stopping");
        stop_loop(fd, what, arg);
    }
}

static int serve(struct program *p, struct err *e)
{
    struct event *term = evsignal_new(p->base, SIGTERM, stop_loop, p), *intr = evsignal_new(p->base, SIGINT, stop_loop, p);
    struct event *hup = evsignal_new(p->base, SIGHUP, reload, p);
    struct event *usr2 = evsignal_new(p->base, SIGUSR2, retire, p);
    if (!term || !intr || !hup || !usr2 || event_add(term, NULL) || event_add(intr, NULL) || event_add(hup, NULL) || event_add(usr2, NULL))
        return err_set(e, -ENOMEM, "signals");
    if (p->link.fd >= 0 && (p->gone = event_new(p->base, p->link.fd, EV_READ | EV_PERSIST | EV_ET, launcher_gone, p)))
        event_add(p->gone, NULL);
    link_close_rest(&p->link);
    link_ready(&p->link);
    event_base_dispatch(p->base);
    event_free(term);
    event_free(intr);
    event_free(hup);
    event_free(usr2);
    if (p->gone)
        event_free(p->gone);
    return 0;
}

/* Descriptors are what it serves with. */
static void raise_limits(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r))
        return;
    r.rlim_cur = r.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &r))
        log_warn("main", "limit of open files: %s", strerror(errno));
}

int main(int argc, char **argv)
{
    static struct program p;
    struct err e = {0};
    struct config_args args = {0};
    argc = config_take_args(argc, argv, &args, &e);
    if (argc < 0)
        config_die("edgefs-proxy", &e);
    if (argc > 1) {
        fprintf(stderr, "edgefs-proxy %s: started by `edgefs mount`; takes only -c FILE, --dir DIR, --data DIR\n", EDGEFS_VERSION);
        return 2;
    }
    struct config *config;
    if (config_load(&args, &config, &e))
        config_die("edgefs-proxy", &e);
    log_init("edgefs-proxy", config->node, config->log_level);
    signal(SIGPIPE, SIG_IGN);
    raise_limits();
    p.base = event_base_new();
    int rc = p.base ? link_open(&p.link, &e) : err_set(&e, -ENOMEM, "event loop");
    if (!rc)
        rc = engine_open(&p.engine, p.base, &p.link, &args, config, &e);
    if (!rc)
        rc = serve(&p, &e);
    if (rc) {
        log_error("main", "cannot start: %s", e.text);
        return 1;
    }
    engine_close(&p.engine);
    link_close(&p.link);
    event_base_free(p.base);
    return 0;
}
