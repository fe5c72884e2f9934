#include "ctl/launcher/supervisor.h"

#include "ctl/launcher/app.h"
#include "lib/busy.h"
#include "ctl/launcher/mount.h"
#include "ctl/launcher/notify.h"
#include "ctl/launcher/supervisor_private.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define PROBE_NS (5 * SECOND)
#define REPLICATOR_NEWS_NS (60 * SECOND)
#define APP_GRACE_NS (30 * SECOND)
#define PROXY_GRACE_NS (2 * SECOND)
#define REPLICATOR_GRACE_NS (10 * SECOND)
#define UNMOUNT_PATIENCE_NS (5 * SECOND)
#define UNMOUNT_RETRY_NS (50 * MS)
#define FS_GRACE_NS (2 * SECOND)
#define STARTS_MAX 10u /* a program that never became ready and died that often will not */

/* ---- stopping ------------------------------------------------------------------------------------------------------------- */

/* What the proxy takes to finish the requests that it has, and a little. */
static uint64_t proxy_grace(const struct supervisor *s)
{
    uint64_t ms = 0;
    for (int i = 0; i < s->o->config->n_proxies; i++)
        ms = MAX(ms, s->o->config->proxies[i].drain_ms);
    return ms * MS + PROXY_GRACE_NS;
}

/* Begins to stop; status: what to exit with, -1: the application's. Once only. */
static void __attribute__((format(printf, 3, 4))) stop(struct supervisor *s, int status, const char *fmt, ...)
{
    if (s->state >= STATE_STOP_PROXY)
        return;
    char why[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    log_write(status > 0 ? LOG_LEVEL_ERROR : LOG_LEVEL_INFO, "launcher", "stopping: %s", why);
    (void)notify_manager("STOPPING=1"); /* nobody has to listen */
    s->status = status;
    s->state = STATE_STOP_PROXY;
    s->due = CHILD_NEVER;
    keeper_close_all(s->listeners); /* newcomers are refused by the proxy's end of listening, not only when it has finished what it has */
    child_end(&s->children[PROXY], proxy_grace(s), false);
    if (s->helper)
        (void)kill(s->helper, SIGKILL);
    s->helper = 0;
}

/* In a helper: looking into other processes may block, too. */
static void say_busy(const struct supervisor *s)
{
    struct mount_entry *m = calloc(1, sizeof *m);
    char who[BUSY_TEXT_MAX] = "";
    if (m && mount_find(s->mount_point, MOUNT_TYPE, s->data.path, m, NULL) == 1) {
        struct busy_query q = {.on_device = true, .major = m->major, .minor = m->minor};
        (void)busy_name(&q, who);
    }
    free(m);
    log_warn("launcher", "%s is still used by %s; waiting up to %d s", s->mount_point, *who ? who : "a process that cannot be seen from here",
             (int)(UNMOUNT_PATIENCE_NS / SECOND));
}

/* Whether our mount is (still) on top of the mount point. */
static bool mount_present(const struct supervisor *s)
{
    struct mount_entry *m = calloc(1, sizeof *m);
    int rc = m ? mount_find(s->mount_point, NULL, NULL, m, NULL) : -ENOMEM;
    bool present = rc < 0 || (rc == 1 && !strcmp(m->type, MOUNT_TYPE) && !strcmp(m->source, s->data.path));
    free(m);
    return present;
}

/* A process that does what could block this one: the state's helper. Its exit status is an errno. */
static bool start_helper(struct supervisor *s, int (*work)(const struct supervisor *s))
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(-work(s) & 0xff);
    s->helper = pid > 0 ? pid : 0;
    return pid > 0;
}

static int unmount(const struct supervisor *s)
{
    int rc = mount_remove_now(s->mount_point, s->lazily);
    if (rc == -EBUSY && !s->said_busy)
        say_busy(s);
    return rc;
}

static void unmounted(struct supervisor *s, uint64_t now)
{
    s->mounted = false;
    /* The kernel tells edgefs-fs that it is unmounted (ENODEV), and it exits; if somebody is inside, it does not. */
    s->children[FS].wanted = false;
    s->state = STATE_STOP_FS;
    s->due = now + FS_GRACE_NS;
}

/* The outcome of one attempt: 0 or -errno. */
static void unmount_tried(struct supervisor *s, int rc, uint64_t now)
{
    if (rc == 0) {
        unmounted(s, now);
    } else if (s->lazily) {
        log_error("launcher", "unmount %s: %s", s->mount_point, err_name(rc));
        unmounted(s, now);
    } else if (rc == -EBUSY && now < s->deadline) {
        s->said_busy = true;
        s->due = now + UNMOUNT_RETRY_NS;
    } else {
        log_warn("launcher", "%s: %s; unmounting it lazily: who is still inside gets errors from now on", s->mount_point, err_name(rc));
        s->lazily = true;
        s->due = now;
    }
}

/* STATE_UNMOUNT is due: for an attempt, or for giving one up. */
static void try_unmount(struct supervisor *s, uint64_t now)
{
    if (s->helper) {
        (void)kill(s->helper, SIGKILL); /* it may hang in the kernel: whoever reaps it later does not matter */
        s->helper = 0;
        unmount_tried(s, -ETIMEDOUT, now);
    } else if (!mount_present(s)) {
        unmounted(s, now);
    } else if (start_helper(s, unmount)) {
        s->due = now + UNMOUNT_PATIENCE_NS;
    } else {
        s->due = now + UNMOUNT_RETRY_NS; /* no process to be had */
    }
}

/* ---- starting ------------------------------------------------------------------------------------------------------------- */

/* Asks the mount for the attributes of its root: "ready" means that it answers. */
static int probe(const struct supervisor *s)
{
    struct stat st;
    return stat(s->mount_point, &st) ? -errno : 0;
}

static void start_probe(struct supervisor *s, uint64_t now)
{
    if (!start_helper(s, probe)) {
        stop(s, 1, "fork: %s", strerror(errno));
        return;
    }
    s->state = STATE_PROBE;
    s->due = now + PROBE_NS;
}

static void probed(struct supervisor *s, int rc, uint64_t now)
{
    if (rc) {
        stop(s, 1, "the mount %s does not answer: %s", s->mount_point, err_name(rc));
        return;
    }
    log_info("launcher", "%s is mounted", s->mount_point);
    child_start(&s->children[REPLICATOR], &s->inherited);
    s->state = STATE_REPLICATOR;
    s->due = now + REPLICATOR_NEWS_NS;
}

static void start_app(struct supervisor *s, uint64_t now)
{
    s->state = STATE_UP;
    s->due = CHILD_NEVER;
    log_info("launcher", "node %s is up after %llu ms: %s, data in %s", s->o->config->node, (unsigned long long)((now - s->began) / MS),
             s->mount_point, s->data.path);
    int rc = notify_manager("READY=1");
    if (rc < 0)
        log_warn("launcher", "NOTIFY_SOCKET: %s", err_name(rc));
    if (supervisor_has(s, PROXY))
        child_start(&s->children[PROXY], &s->inherited);
    if (!s->o->app)
        return;
    pid_t pid = app_start(s->o->app, &s->inherited);
    if (pid < 0) {
        stop(s, 1, "fork: %s", err_name((int)pid));
        return;
    }
    s->app = pid;
    log_info("launcher", "%s: pid %d", s->o->app[0], (int)pid);
}

/* ---- states --------------------------------------------------------------------------------------------------------------- */

static void step_start(struct supervisor *s, uint64_t now, bool due)
{
    if (s->state == STATE_FS && s->children[FS].state == CHILD_READY) {
        start_probe(s, now);
    } else if (s->state == STATE_PROBE && due) {
        probed(s, -ETIMEDOUT, now);
    } else if (s->state == STATE_REPLICATOR && s->children[REPLICATOR].state == CHILD_READY) {
        start_app(s, now);
    } else if (s->state == STATE_REPLICATOR && due) {
        log_warn("launcher", "still waiting for edgefs-replicator (since %llu s): it has not told edgefs-fs this node's role yet%s",
                 (unsigned long long)((now - s->began) / SECOND), s->o->app ? "; the application is started after that" : "");
        (void)notify_manager("EXTEND_TIMEOUT_USEC=120000000\nSTATUS=waiting for edgefs-replicator"); /* nobody has to listen */
        s->due = now + REPLICATOR_NEWS_NS;
    }
}

static void step_stop(struct supervisor *s, uint64_t now, bool due)
{
    if (s->state == STATE_STOP_PROXY && s->children[PROXY].state == CHILD_OFF) {
        keeper_close_all(s->listeners);
        s->state = STATE_STOP_APP;
        s->due = CHILD_NEVER;
        if (s->app) {
            (void)kill(s->app, SIGTERM); /* not reaped yet */
            s->due = now + APP_GRACE_NS;
        }
    } else if (s->state == STATE_STOP_APP && !s->app) {
        s->due = CHILD_NEVER;
        child_end(&s->children[REPLICATOR], REPLICATOR_GRACE_NS, false);
        s->state = STATE_STOP_REPLICATOR;
    } else if (s->state == STATE_STOP_APP && due) {
        log_warn("launcher", "%s (pid %d) did not end %d s after SIGTERM: killing it", s->o->app[0], (int)s->app,
                 (int)(APP_GRACE_NS / SECOND));
        (void)kill(s->app, SIGKILL);
        s->due = CHILD_NEVER;
    } else if (s->state == STATE_STOP_REPLICATOR && s->children[REPLICATOR].state == CHILD_OFF) {
        keeper_close_all(s->keeper);
        s->deadline = now + UNMOUNT_PATIENCE_NS;
        s->due = now;
        s->state = STATE_UNMOUNT;
    } else if (s->state == STATE_UNMOUNT && due) {
        try_unmount(s, now);
    } else if (s->state == STATE_STOP_FS && s->children[FS].pid == 0) {
        child_end(&s->children[FS], 0, false);
        s->state = STATE_DONE;
    } else if (s->state == STATE_STOP_FS && due) {
        child_end(&s->children[FS], FS_GRACE_NS, false);
        s->due = CHILD_NEVER;
    }
}

/* Moves on as far as it goes without waiting. */
static void step(struct supervisor *s, uint64_t now)
{
    enum state before;
    do {
        before = s->state;
        if (before < STATE_STOP_PROXY)
            step_start(s, now, s->due <= now);
        else
            step_stop(s, now, s->due <= now);
    } while (s->state != before);
    upgrade_step(s, now);
}

/* ---- deaths --------------------------------------------------------------------------------------------------------------- */

/* The mount died: this kernel cannot hand it over, or somebody aborted the connection. A new mount has new locks, so nothing of the
 * old may go on. */
static void mount_afresh(struct supervisor *s, const char *why)
{
    struct err e;
    log_error("launcher", "%s: mounting afresh; applications get errors from files that they have open", why);
    close(s->fuse); /* the last descriptor: the kernel aborts the connection, and what waited for an answer gets an error */
    s->fuse = -1;
    (void)mount_remove(s->mount_point, true); /* gone already is as good */
    s->mounted = false;
    struct child *replicator = &s->children[REPLICATOR];
    struct child old = *replicator;
    keeper_close_all(s->keeper);
    if (supervisor_mount(s, &e)) {
        *replicator = old;
        stop(s, 1, "%s", e.text);
        return;
    }
    old.spec = replicator->spec;
    *replicator = old;
    if (replicator->wanted)
        child_end(replicator, REPLICATOR_GRACE_NS, true);
    s->children[FS].ever_ready = true;
    child_start(&s->children[FS], &s->inherited);
}

static void child_reaped(struct supervisor *s, int which, int wait_status, uint64_t now)
{
    struct child *c = &s->children[which];
    if (which == FS && s->state == STATE_UNMOUNT && !mount_present(s))
        c->wanted = false; /* the kernel told it so before the helper could tell us */
    child_died(c, wait_status, now);
    if (s->state < STATE_UP && !c->ever_ready) {
        if (c->starts_failed == 1 && WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 2)
            stop(s, 2, "%s does not accept its configuration", c->spec.name);
        else if (c->starts_failed >= STARTS_MAX)
            stop(s, 1, "%s died %u times without becoming ready", c->spec.name, c->starts_failed);
    }
    if (which != FS || s->state >= STATE_STOP_PROXY)
        return;
    if (!mount_present(s))
        stop(s, s->o->app ? 1 : 0, "%s was unmounted by somebody", s->mount_point);
    if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == LAUNCH_EXIT_NO_RESEND)
        s->can_hand_over = false; /* it knows better than the release's number */
    if (s->state >= STATE_STOP_PROXY)
        return;
    if (mount_connection_dead(s->fuse))
        mount_afresh(s, "the connection of the mount was aborted by somebody");
    else if (!s->can_hand_over && c->ever_ready)
        mount_afresh(s, "this kernel cannot hand the mount to a new edgefs-fs");
}

static void reap(struct supervisor *s, uint64_t now)
{
    int st;
    pid_t pid;
    while ((pid = waitpid(-1, &st, WNOHANG)) > 0) {
        if (pid == s->app) {
            s->app = 0;
            s->app_status = app_exit_status(st);
            log_info("launcher", "%s (pid %d) ended: %s", s->o->app[0], (int)pid, wait_status_text(st));
            stop(s, -1, "the application ended");
        } else if (pid == s->helper) {
            int rc = WIFEXITED(st) ? -WEXITSTATUS(st) : -EIO;
            s->helper = 0;
            if (s->state == STATE_PROBE)
                probed(s, rc, now);
            else
                unmount_tried(s, rc, now);
        } else {
            for (int i = 0; i < CHILDREN; i++)
                if (pid == s->children[i].pid)
                    child_reaped(s, i, st, now);
            /* Anybody else's orphan (as process 1 of a container) needed nothing but this. */
        }
    }
}

/* ---- events --------------------------------------------------------------------------------------------------------------- */

static void on_signal(struct supervisor *s, const struct signalfd_siginfo *si, uint64_t now)
{
    int sig = (int)si->ssi_signo;
    if (sig == SIGCHLD) {
        reap(s, now);
    } else if (s->app) {
        if (!app_got_it_too(s->app, si->ssi_code))
            (void)kill(s->app, sig); /* not reaped yet */
    } else if (sig == SIGUSR1 || sig == SIGUSR2) {
        log_info("launcher", "%s: there is no application to pass it on to", strsignal(sig));
    } else {
        stop(s, s->o->app ? 128 + sig : 0, "%s", strsignal(sig));
    }
}

static void read_signals(struct supervisor *s, uint64_t now)
{
    struct signalfd_siginfo si;
    while (read(s->signals, &si, sizeof si) == (ssize_t)sizeof si)
        on_signal(s, &si, now);
}

static void on_request(void *context, uint64_t client, enum control_request request)
{
    struct supervisor *s = context;
    if (request == CONTROL_UPGRADE) {
        upgrade_begin(s, client);
    } else if (s->stop_client) {
        control_say(&s->control, client, '!', "the node is stopping already");
    } else {
        s->stop_client = client;
        control_say(&s->control, client, '+', "stopping%s", s->app ? ": waiting for the application first" : "");
        stop(s, -1, "edgefs stop");
    }
}

static int poll_timeout(const struct supervisor *s, uint64_t now)
{
    uint64_t due = MIN(s->due, s->control.accept_after > now ? s->control.accept_after : CHILD_NEVER);
    for (int i = 0; i < CHILDREN; i++)
        due = MIN(due, child_due(&s->children[i]));
    if (upgrade_running(s))
        due = MIN(due, s->upgrade.due);
    if (due == CHILD_NEVER)
        return -1;
    if (due <= now)
        return 0;
    uint64_t ms = (due - now + MS - 1) / MS;
    return ms > INT_MAX ? INT_MAX : (int)ms;
}

static void turn(struct supervisor *s)
{
    struct pollfd p[2 + CHILDREN + CONTROL_POLL_MAX];
    uint64_t now = now_ns();
    int n = 0;
    p[n++] = (struct pollfd){.fd = s->signals, .events = POLLIN};
    p[n++] = (struct pollfd){.fd = s->mountinfo, .events = POLLPRI}; /* proc(5): the mount table changed */
    for (int i = 0; i < CHILDREN; i++) /* a negative fd is passed over */
        p[n++] = (struct pollfd){.fd = s->children[i].sock, .events = child_poll_events(&s->children[i])};
    int first_control = n;
    n += control_poll(&s->control, p + n, now);
    if (poll(p, (nfds_t)n, poll_timeout(s, now)) < 0) {
        if (errno != EINTR && errno != EAGAIN)
            log_error("launcher", "poll: %s", strerror(errno));
        return;
    }
    now = now_ns();
    /* Packets before deaths: who says READY and dies has been ready. */
    for (int i = 0; i < CHILDREN; i++)
        if (p[2 + i].revents && p[2 + i].fd == s->children[i].sock)
            child_talk(&s->children[i], supervisor_keeper(s, i), now);
    if (p[0].revents)
        read_signals(s, now);
    if (p[1].revents && s->state < STATE_STOP_PROXY && !mount_present(s))
        stop(s, s->o->app ? 1 : 0, "%s was unmounted by somebody", s->mount_point);
    control_serve(&s->control, p + first_control, n - first_control, now, on_request, s);
    for (int i = 0; i < CHILDREN; i++)
        if (child_timer(&s->children[i], now))
            child_start(&s->children[i], &s->inherited);
    step(s, now_ns());
}

int supervisor_run(const struct supervisor_options *options)
{
    struct supervisor *s = calloc(1, sizeof *s);
    struct err e;
    if (!s) {
        log_error("launcher", "out of memory");
        return 1;
    }
    s->o = options;
    if (supervisor_prepare(s, &e)) {
        log_error("launcher", "%s", e.text);
        supervisor_release(s);
        free(s);
        return 1;
    }
    child_start(&s->children[FS], &s->inherited);
    while (s->state != STATE_DONE)
        turn(s);
    int status = s->status >= 0 ? s->status : MAX(s->app_status, 0);
    log_info("launcher", "stopped; exit status %d", status);
    supervisor_release(s);
    free(s);
    return status;
}
