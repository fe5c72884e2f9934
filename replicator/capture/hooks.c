#include "replicator/capture/hooks.h"

#include "lib/localsock.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/stream/position_server.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

struct hooks {
    struct node *node;
    char *path;
    pthread_mutex_t lock; /* guards fd against a send while it is being closed */
    int fd;
    pthread_cond_t role_changed;
    enum hooks_role in_force; /* guarded by lock */
};

int hooks_open(struct node *n, struct hooks **out, struct err *e)
{
    struct hooks *h = calloc(1, sizeof *h);
    if (!h || asprintf(&h->path, "%s/%s", n->config->data, LAYOUT_HOOKS_SOCK) < 0) {
        free(h);
        return err_errno(e, ENOMEM, "hooks");
    }
    h->node = n;
    h->fd = -1;
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&h->role_changed, &a);
    pthread_condattr_destroy(&a);
    *out = h;
    return 0;
}

void hooks_close(struct hooks *h)
{
    if (!h)
        return;
    hooks_disconnect(h);
    pthread_cond_destroy(&h->role_changed);
    pthread_mutex_destroy(&h->lock);
    free(h->path);
    free(h);
}

static void send_msg(struct hooks *h, struct hook_msg *m, const char *text)
{
    m->text_len = (uint16_t)(text ? strlen(text) : 0);
    pthread_mutex_lock(&h->lock);
    int rc = h->fd < 0 ? 0 : localsock_send(h->fd, m, sizeof *m, text, m->text_len, NULL, 0);
    pthread_mutex_unlock(&h->lock);
    /* A lost connection shows at the next receive; there is nobody else to tell. */
    if (rc)
        log_debug("hooks", "cannot send to edgefs-fs: %s", err_name(rc));
}

int hooks_connect(struct hooks *h, struct err *e)
{
    int fd = localsock_connect(h->path, e);
    if (fd < 0)
        return fd;
    pthread_mutex_lock(&h->lock);
    h->fd = fd;
    pthread_mutex_unlock(&h->lock);
    send_msg(h, &(struct hook_msg){.kind = HOOK_HELLO, .value = HOOKS_VERSION}, NULL);
    hooks_send_role(h);
    return fd;
}

void hooks_disconnect(struct hooks *h)
{
    pthread_mutex_lock(&h->lock);
    if (h->fd >= 0)
        close(h->fd);
    h->fd = -1;
    h->in_force = HOOKS_ROLE_UNKNOWN;
    pthread_mutex_unlock(&h->lock);
    position_server_changed(h->node->positions);
}

int hooks_recv(struct hooks *h, struct hook_msg *m, char *path, char *text)
{
    uint8_t buf[HOOKS_PACKET_MAX];
    struct pollfd p = {.fd = h->fd, .events = POLLIN};
    if (h->fd < 0)
        return -ENOTCONN;
    if (poll(&p, 1, 0) == 0)
        return 0;
    ssize_t n = localsock_recv(h->fd, buf, sizeof buf, NULL, NULL);
    if (n <= 0)
        return n ? (int)n : -EPIPE;
    if ((size_t)n < sizeof *m)
        return -EBADMSG;
    memcpy(m, buf, sizeof *m);
    if ((size_t)n != sizeof *m + m->path_len + m->text_len)
        return -EBADMSG;
    memcpy(path, buf + sizeof *m, m->path_len);
    path[m->path_len] = 0;
    memcpy(text, buf + sizeof *m + m->path_len, m->text_len);
    text[m->text_len] = 0;
    return 1;
}

void hooks_answer(struct hooks *h, uint64_t id, uint64_t value, const char *text)
{
    send_msg(h, &(struct hook_msg){.kind = HOOK_ANSWER, .id = id, .value = value}, text);
}

static enum hooks_role present_role(struct hooks *h)
{
    switch (node_role(h->node)) {
    case NODE_STARTING:
        break;
    case NODE_PRIMARY:
        return HOOKS_ROLE_PRIMARY;
    case NODE_REPLICA:
    case NODE_HANDING_OVER:
        return HOOKS_ROLE_REPLICA;
    }
    return HOOKS_ROLE_UNKNOWN;
}

void hooks_send_role(struct hooks *h)
{
    char name[128], url[256];
    node_primary(h->node, name, url);
    enum hooks_role r = present_role(h);
    if (r != HOOKS_ROLE_UNKNOWN) /* while starting edgefs-fs keeps the role it knows */
        send_msg(h, &(struct hook_msg){.kind = HOOK_ROLE, .value = r}, name);
    position_server_changed(h->node->positions);
}

void hooks_role_in_force(struct hooks *h, const char *role)
{
    pthread_mutex_lock(&h->lock);
    h->in_force = !strcmp(role, "primary") ? HOOKS_ROLE_PRIMARY : HOOKS_ROLE_REPLICA;
    pthread_cond_broadcast(&h->role_changed);
    pthread_mutex_unlock(&h->lock);
    position_server_changed(h->node->positions);
}

bool hooks_connected(struct hooks *h)
{
    pthread_mutex_lock(&h->lock);
    bool yes = h->fd >= 0;
    pthread_mutex_unlock(&h->lock);
    return yes;
}

bool hooks_in_force(struct hooks *h)
{
    pthread_mutex_lock(&h->lock);
    bool yes = h->in_force == present_role(h);
    pthread_mutex_unlock(&h->lock);
    return yes;
}

int hooks_wait_role(struct hooks *h, uint64_t deadline_ns)
{
    struct timespec t = {(time_t)(deadline_ns / 1000000000u), (long)(deadline_ns % 1000000000u)};
    int rc = 0;
    pthread_mutex_lock(&h->lock);
    while (h->in_force != present_role(h) && !rc)
        rc = pthread_cond_timedwait(&h->role_changed, &h->lock, &t);
    pthread_mutex_unlock(&h->lock);
    return -rc;
}
