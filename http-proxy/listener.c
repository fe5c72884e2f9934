#include "http-proxy/engine.h"

#include "lib/log.h"
#include <errno.h>
#include <netdb.h>
#include <stdio.h>

#define ACCEPTS_A_TURN 64

void listener_name(const struct config_proxy *c, char name[300])
{
    bool v6 = strchr(c->listen.host, ':');
    snprintf(name, 300, "%s%s%s:%u", v6 ? "[" : "", c->listen.host, v6 ? "]" : "", c->listen.port);
}

static void accept_more(struct listener *l)
{
    bool want = l->fd >= 0 && l->app && l->n_clients < l->app->c->limits.connections;
    if (want && !l->accepting)
        (void)event_add(&l->ev, NULL); /* without memory: tried again when the next client leaves */
    else if (!want && l->accepting)
        event_del(&l->ev);
    l->accepting = want;
}

static void on_accept(evutil_socket_t fd, short what, void *arg)
{
    struct listener *l = arg;
    (void)what;
    for (int i = 0; i < ACCEPTS_A_TURN && l->accepting; i++) {
        struct sockaddr_storage peer = {0};
        socklen_t len = sizeof peer;
        int c = accept4(fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (c < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
                log_warn("listener", "%s: %s: accepting again when a connection ends", l->name, strerror(errno));
                event_del(&l->ev);
                l->accepting = false;
            }
            return;
        }
        client_accept(l, c, &peer);
        accept_more(l);
    }
}

void listener_freed(struct listener *l)
{
    if (!l->accepting)
        accept_more(l);
}

static int bind_new(const struct config_proxy *c, const char *name, struct err *e)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    char port[8];
    snprintf(port, sizeof port, "%u", c->listen.port);
    int rc = getaddrinfo(c->listen.host, port, &hints, &list);
    if (rc)
        return err_set(e, -EADDRNOTAVAIL, "%s: %s", name, gai_strerror(rc));
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)); /* else bind says what is wrong */
    if (fd < 0 || bind(fd, list->ai_addr, list->ai_addrlen) || listen(fd, SOMAXCONN)) {
        rc = err_errno(e, errno, "%s", name);
        if (fd >= 0)
            close(fd);
        fd = rc;
    }
    freeaddrinfo(list);
    return fd;
}

int listener_open(struct engine *e, struct app *a, struct err *err)
{
    struct listener *l = calloc(1, sizeof *l);
    if (!l)
        return err_errno(err, ENOMEM, "listener");
    listener_name(a->c, l->name);
    l->fd = link_take(e->link, l->name);
    bool kept = l->fd >= 0;
    if (!kept)
        l->fd = bind_new(a->c, l->name, err);
    if (l->fd < 0) {
        int rc = l->fd;
        free(l);
        return rc;
    }
    int rc = kept ? 0 : link_keep(e->link, l->name, l->fd);
    if (rc)
        log_warn("listener", "%s: the launcher does not keep its socket: %s", l->name, err_name(rc));
    l->e = e;
    l->app = app_ref(a);
    TAILQ_INIT(&l->clients);
    event_assign(&l->ev, e->base, l->fd, EV_READ | EV_PERSIST, on_accept, l);
    TAILQ_INSERT_TAIL(&e->listeners, l, link);
    accept_more(l);
    struct sockaddr_storage sa = {0};
    uint16_t port = a->c->listen.port;
    if (!getsockname(l->fd, (struct sockaddr *)&sa, &(socklen_t){sizeof sa}))
        port = ntohs(sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&sa)->sin6_port : ((struct sockaddr_in *)&sa)->sin_port);
    log_info("listener", "%s: listening on %s, port %u%s", a->c->name, l->name, port, a->tls ? ", TLS" : "");
    return 0;
}

void listener_stop(struct listener *l, bool keep)
{
    if (l->accepting)
        event_del(&l->ev);
    l->accepting = false;
    if (l->fd < 0)
        return;
    close(l->fd);
    l->fd = -1;
    int rc = keep ? 0 : link_drop(l->e->link, l->name);
    if (rc)
        log_warn("listener", "%s: the launcher goes on keeping its socket: %s", l->name, err_name(rc));
}

void listener_close(struct listener *l)
{
    listener_stop(l, true);
    TAILQ_REMOVE(&l->e->listeners, l, link);
    if (l->app)
        app_unref(l->app);
    free(l);
}
