/* edgefs-replicator: captures, logs, serves, follows and applies. Started by the launcher beside edgefs-fs. */
#include "lib/config.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/api/api.h"
#include "replicator/apply/apply_file.h"
#include "replicator/capture/capture.h"
#include "replicator/apply/fences.h"
#include "replicator/database/filecalls.h"
#include "replicator/stream/follower.h"
#include "replicator/capture/hooks.h"
#include "replicator/image/image_client.h"
#include "replicator/image/incoming.h"
#include "replicator/image/import.h"
#include "replicator/log/keeper.h"
#include "replicator/cluster/lease_etcd.h"
#include "replicator/apply/linger.h"
#include "replicator/cluster/neighbours.h"
#include "replicator/stream/position_server.h"
#include "replicator/stream/replicas.h"
#include "replicator/database/scrub.h"
#include "replicator/startup.h"
#include "replicator/stream/stream_server.h"
#include "replicator/stream/sync.h"
#include "replicator/stream/upstream.h"
#include "replicator/worker.h"
#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>

struct program {
    struct node node;
    struct event_base *base;
    struct api *api;
    struct keeper *keeper;
    uint64_t stop_ns;
    struct event *sent; /* looks whether the last changes got out; NULL: no need to */
    bool release; /* stopped for good (the launcher says so with SIGINT, or is gone): another node may be primary at once */
    bool orphaned; /* the launcher is gone: linger.h */
};

#define HELLO_NS 2000000000u
#define STOP_NS 3000000000u /* how long an orderly end waits for the last changes to get out */

/* The last changes are captured; the loop runs on until every connected replica has them. */
static void stop_when_sent(evutil_socket_t fd, short what, void *arg)
{
    struct program *p = arg;
    (void)fd;
    (void)what;
    bool whole = !p->release || !p->node.lease || lease_etcd_retired(p->node.lease);
    if ((whole && replicas_received(p->node.replicas) >= rlog_last(p->node.rlog).lsn) || now_ns() >= p->stop_ns)
        event_base_loopbreak(p->base);
}

static void stop_loop(evutil_socket_t fd, short what, void *arg)
{
    struct program *p = arg;
    struct err e;
    (void)fd;
    (void)what;
    if (atomic_exchange(&p->node.stopping, true))
        return;
    p->release = p->orphaned || fd == SIGINT; /* of a signal's event the number */
    p->stop_ns = now_ns() + STOP_NS;
    bool primary = node_role(&p->node) == NODE_PRIMARY;
    if (primary && p->release && p->node.lease)
        lease_etcd_retire(p->node.lease);
    if (primary && capture_now(p->node.capture, NULL, p->stop_ns, &e))
        log_warn("main", "%s: the next start will find them", e.text);
    if (primary && (p->sent = event_new(p->base, -1, EV_PERSIST, stop_when_sent, p)))
        event_add(p->sent, &(struct timeval){.tv_usec = 2000});
    else
        event_base_loopbreak(p->base);
}

static void launcher_gone(evutil_socket_t fd, short what, void *arg)
{
    char c;
    ssize_t n = recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
    /* An answer of the launcher's that has not been read yet may lie before the end: EV_CLOSED tells it all the same. And the end is ECONNRESET, and
     * no EV_CLOSED, if the launcher died before it read what we had sent. */
    if ((what & EV_CLOSED) || n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        struct program *p = arg;
        if (!p->orphaned)
            log_warn("main", "the launcher is gone: stopping");
        p->orphaned = true;
        stop_loop(fd, what, arg);
    }
}

static int start_threads(struct program *p, struct err *e)
{
    struct node *n = &p->node;
    int rc = hooks_open(n, &n->hooks, e);
    if (!rc)
        rc = fences_open(n, &n->fences, e);
    if (!rc)
        rc = replicas_open(&n->replicas, e);
    if (!rc)
        replicas_load(n->replicas, n->data_fd);
    if (!rc)
        rc = sync_open(n, &n->sync, e);
    if (!rc)
        rc = startup_role(n, e);
    if (!rc)
        fences_settle(n);
    if (!rc)
        rc = worker_open(n, &n->worker, e);
    if (!rc)
        rc = worker_open(n, &n->differ, e);
    if (!rc)
        rc = incoming_open(n, e);
    if (!rc)
        rc = image_client_open(n, e);
    if (!rc)
        rc = api_open(n, p->base, &p->api, e);
    if (rc)
        return rc;
    rc = position_server_open(n, p->base, &n->positions, e);
    if (rc)
        return rc;
    sequencer_on_append(n->sequencer, stream_server_wake, n->streams);
    sequencer_on_append(n->sequencer, position_server_appended, n->positions);
    if (node_role(n) == NODE_PRIMARY) /* a predecessor was a replica, or in the middle of a promotion */
        fences_drop_rest(n);
    rc = capture_open(n, &n->capture, e);
    /* From here on threads call into the mount. edgefs-fs must know by then who they are: what it takes for an application's first open waits for a fence, that is
     * for us, and a replicator that is killed in there cannot end, so that no successor comes that could answer. */
    if (!rc && hooks_wait_role(n->hooks, now_ns() + HELLO_NS))
        log_warn("main", "edgefs-fs does not answer yet");
    if (!rc) {
        apply_finish_moves(n);
        import_clean(n);
    }
    if (!rc)
        rc = upstream_open(n, &n->upstream_choice, e);
    if (!rc)
        rc = follower_open(n, &n->follower, e);
    if (!rc)
        rc = scrub_open(n, e);
    if (!rc)
        rc = keeper_open(n, &p->keeper, e);
    if (!rc)
        rc = neighbours_open(n, &n->neighbours, e); /* it may take this node's role away */
    if (!rc && n->lease)
        rc = lease_etcd_run(n->lease, e);
    return rc;
}

static int close_file(void *ctx, struct database *db)
{
    pthread_mutex_lock(&db->sqlite);
    pthread_mutex_lock(&db->lock);
    apply_file_close(ctx, db);
    free(db->apply);
    db->apply = NULL;
    pthread_mutex_unlock(&db->lock);
    pthread_mutex_unlock(&db->sqlite);
    return 0;
}

static void stop_replicating(struct program *p)
{
    struct node *n = &p->node;
    scrub_stop(n);
    api_stop(p->api);
    scrub_close(n);
    neighbours_close(n->neighbours);
    n->neighbours = NULL;
    lease_etcd_close(n->lease, p->release);
    n->lease = NULL;
    keeper_close(p->keeper);
    incoming_stop(n); /* it kicks the image thread, which hurries the follower, which kicks both */
    image_client_stop(n);
    follower_close(n->follower);
    upstream_close(n->upstream_choice);
}

static void stop_threads(struct program *p)
{
    struct node *n = &p->node;
    image_client_close(n); /* until here an open that finds its database damaged may kick it */
    incoming_close(n);
    capture_stop(n->capture); /* it posts jobs, and jobs post to it: neither is freed before both stand still */
    worker_close(n->worker);
    worker_close(n->differ);
    position_server_close(n->positions);
    n->positions = NULL;
    capture_close(n->capture);
    api_close(p->api);
    if (node_role(n) != NODE_STARTING)
        databases_each(n->databases, close_file, n);
    fences_close(n->fences);
    hooks_close(n->hooks);
    sync_close(n->sync);
    replicas_close(n->replicas);
}

static void ready(struct node *n)
{
    /* Applications must not meet a file system that does not know its role yet. */
    if (hooks_wait_role(n->hooks, now_ns() + 30000000000u))
        log_warn("main", "edgefs-fs has not confirmed the role within 30 s");
    startup_step_down(n);
    if (n->lease) /* an application that starts now would meet a node that is fenced for a moment */
        lease_etcd_wait_primary(n->lease, now_ns() + 3000000000u);
    fences_ready(n->fences);
    char name[128], url[256];
    node_primary(n, name, url);
    log_info("main", "ready: %s, LSN %llu, primary %s", node_role_name(node_role(n)), (unsigned long long)rlog_last(n->rlog).lsn, name);
}

static int serve(struct program *p, struct err *e)
{
    struct node *n = &p->node;
    struct event *term = evsignal_new(p->base, SIGTERM, stop_loop, p), *intr = evsignal_new(p->base, SIGINT, stop_loop, p);
    struct event *gone = NULL;
    if (!term || !intr)
        return err_errno(e, ENOMEM, "signals");
    event_add(term, NULL);
    event_add(intr, NULL);
    if (fences_launcher_fd(n->fences) >= 0) {
        gone = event_new(p->base, fences_launcher_fd(n->fences), EV_READ | EV_CLOSED | EV_PERSIST | EV_ET, launcher_gone, p);
        if (gone)
            event_add(gone, NULL);
    }
    event_base_dispatch(p->base);
    event_free(term);
    event_free(intr);
    if (gone)
        event_free(gone);
    if (p->sent)
        event_free(p->sent);
    return 0;
}

int main(int argc, char **argv)
{
    static struct program p;
    struct err e = {0};
    struct config_args args = {0};
    struct config *config;
    argc = config_take_args(argc, argv, &args, &e);
    if (argc < 0)
        config_die("edgefs-replicator", &e);
    if (argc > 1) {
        fprintf(stderr, "edgefs-replicator %s: started by `edgefs mount`; takes only -c FILE, --dir DIR, --data DIR\n", EDGEFS_VERSION);
        return 2;
    }
    if (config_load(&args, &config, &e))
        config_die("edgefs-replicator", &e);
    log_init("edgefs-replicator", config->node, config->log_level);
    signal(SIGPIPE, SIG_IGN);
    /* Checksum lists of whole databases come and go: they must not stay in the heap. (glibc raises the threshold by itself otherwise.) */
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
    mallopt(M_TRIM_THRESHOLD, 256 << 10);
    mallopt(M_ARENA_MAX, 2);
    evthread_use_pthreads();
    filecalls_install();
    p.base = event_base_new();
    int rc = p.base ? startup_open(&p.node, config, &e) : err_errno(&e, ENOMEM, "event loop");
    if (!rc) {
        import_clean_copies(&p.node);
        rc = start_threads(&p, &e);
    }
    if (rc) {
        log_error("main", "cannot start: %s", e.text);
        return 1;
    }
    ready(&p.node);
    rc = serve(&p, &e);
    log_info("main", "stopping");
    stop_replicating(&p);
    if (p.orphaned && node_role(&p.node) != NODE_PRIMARY)
        linger(&p.node);
    stop_threads(&p);
    startup_close(&p.node);
    event_base_free(p.base);
    config_free(config);
    return rc ? 1 : 0;
}
