#include "ctl/launcher/children.h"

#include "edgefs/layout.h"
#include "lib/localsock.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define MS UINT64_C(1000000)
#define PACKETS_A_TURN 64

/* ---- processes ------------------------------------------------------------------------------------------------------------ */

void child_init(struct child *c, const struct child_spec *spec)
{
    *c = (struct child){.spec = *spec, .sock = -1, .due = CHILD_NEVER, .eof_due = CHILD_NEVER};
}

const char *wait_status_text(int st)
{
    static char text[64];
    if (WIFSIGNALED(st))
        snprintf(text, sizeof text, "signal %d (%s)%s", WTERMSIG(st), strsignal(WTERMSIG(st)), WCOREDUMP(st) ? ", core dumped" : "");
    else
        snprintf(text, sizeof text, "exit status %d", WEXITSTATUS(st));
    return text;
}

void inherited_restore(const struct inherited *in)
{
    (void)sigaction(SIGPIPE, &in->pipe, NULL); /* it was in force before */
    (void)setrlimit(RLIMIT_NOFILE, &in->files); /* lowering cannot fail */
    if (in->oom_score_adj != INT32_MIN) {
        FILE *f = fopen("/proc/self/oom_score_adj", "we");
        if (f) {
            fprintf(f, "%d\n", in->oom_score_adj);
            (void)fclose(f); /* then it is killed later than it should be */
        }
    }
    sigprocmask(SIG_SETMASK, &in->mask, NULL);
}

/* In the new process. Its own session: Ctrl-C and a hang-up of the terminal are for the application and the launcher, which decides. */
static _Noreturn void become(const struct child_spec *spec, int sock, const struct inherited *inherited)
{
    char number[16];
    char *argv[16] = {(char *)(uintptr_t)spec->name};
    for (size_t i = 0; i + 2 < ARRAY_SIZE(argv) && spec->args[i]; i++)
        argv[i + 1] = spec->args[i];
    (void)setsid();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0)
        (void)dup2(null, STDIN_FILENO);
    (void)dup2(STDERR_FILENO, STDOUT_FILENO); /* standard output is the application's */
    unsetenv("NOTIFY_SOCKET"); /* the launcher alone talks to the service manager */
    snprintf(number, sizeof number, "%d", sock);
    int failed = setenv("EDGEFS_LAUNCHER_FD", number, 1) || fcntl(sock, F_SETFD, 0);
    for (size_t i = 0; i < ARRAY_SIZE(spec->fds); i++) {
        if (!spec->fds[i].variable || spec->fds[i].fd < 0)
            continue;
        snprintf(number, sizeof number, "%d", spec->fds[i].fd);
        failed |= setenv(spec->fds[i].variable, number, 1) || fcntl(spec->fds[i].fd, F_SETFD, 0);
    }
    struct inherited mine = *inherited;
    (void)getrlimit(RLIMIT_NOFILE, &mine.files); /* these two keep the raised limit */
    inherited_restore(&mine);
    if (!failed)
        execv(spec->path, argv);
    log_error("launcher", "cannot run %s: %s", spec->path, strerror(errno));
    _exit(127);
}

static void start_failed(struct child *c, const char *what)
{
    log_error("launcher", "%s: %s: %s", c->spec.name, what, strerror(errno));
    if (!c->ever_ready)
        c->starts_failed++;
    c->state = CHILD_DELAYED;
    c->due = now_ns() + backoff_next(&c->backoff, 0) * MS;
}

void child_start(struct child *c, const struct inherited *inherited)
{
    int pair[2];
    c->wanted = true;
    c->acks = 0;
    c->listing = false;
    c->version[0] = 0;
    c->eof_due = CHILD_NEVER;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
        start_failed(c, "socketpair");
        return;
    }
    if (fcntl(pair[0], F_SETFL, O_NONBLOCK)) /* the launcher's end only; the flag is the open file's, and each end is its own */
        log_warn("launcher", "%s: O_NONBLOCK: %s", c->spec.name, strerror(errno));
    pid_t pid = fork();
    if (pid == 0)
        become(&c->spec, pair[1], inherited);
    int failed = errno;
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        errno = failed;
        start_failed(c, "fork");
        return;
    }
    c->sock = pair[0];
    c->pid = pid;
    c->state = CHILD_STARTING;
    c->started = now_ns();
    c->due = c->spec.ready_timeout ? c->started + c->spec.ready_timeout : CHILD_NEVER;
    log_debug("launcher", "%s: pid %d", c->spec.name, (int)pid);
}

static void hang_up(struct child *c)
{
    if (c->sock >= 0)
        close(c->sock);
    c->sock = -1;
    c->acks = 0;
    c->listing = false;
}

void child_end(struct child *c, uint64_t grace, bool again)
{
    c->wanted = again;
    if (c->pid) {
        int signal = again ? c->spec.replace_signal : c->spec.last_signal;
        (void)kill(c->pid, signal ? signal : SIGTERM); /* not reaped yet: the pid is its own */
        if (c->state != CHILD_ENDING)
            c->due = now_ns() + grace;
        c->state = CHILD_ENDING;
    } else if (again) {
        c->state = CHILD_DELAYED;
        c->due = 0;
    } else {
        c->state = CHILD_OFF;
        c->due = CHILD_NEVER;
    }
}

void child_kill(struct child *c)
{
    if (c->pid)
        (void)kill(c->pid, SIGKILL);
}

void child_died(struct child *c, int wait_status, uint64_t now)
{
    bool asked = c->state == CHILD_ENDING;
    uint64_t lived = now - c->started;
    pid_t pid = c->pid;
    hang_up(c);
    c->pid = 0;
    c->eof_due = CHILD_NEVER;
    if (!c->ever_ready)
        c->starts_failed++;
    if (!c->wanted) {
        c->state = CHILD_OFF;
        c->due = CHILD_NEVER;
        log_info("launcher", "%s (pid %d) ended: %s", c->spec.name, (int)pid, wait_status_text(wait_status));
        return;
    }
    uint32_t delay = asked ? 0 : backoff_next(&c->backoff, lived);
    c->state = CHILD_DELAYED;
    c->due = now + delay * MS;
    if (asked)
        log_info("launcher", "%s (pid %d) ended: %s; starting its successor", c->spec.name, (int)pid, wait_status_text(wait_status));
    else
        log_warn("launcher", "%s (pid %d) died: %s; starting it again%s%.0d%s", c->spec.name, (int)pid, wait_status_text(wait_status),
                 delay ? " in " : "", (int)delay, delay ? " ms" : "");
}

uint64_t child_due(const struct child *c)
{
    return MIN(c->due, c->eof_due);
}

bool child_timer(struct child *c, uint64_t now)
{
    if (c->pid && c->eof_due <= now) {
        c->eof_due = CHILD_NEVER;
        log_warn("launcher", "%s (pid %d) closed its socket and did not exit: killing it", c->spec.name, (int)c->pid);
        child_kill(c);
    }
    if (c->due > now)
        return false;
    c->due = CHILD_NEVER;
    if (c->state == CHILD_DELAYED)
        return true;
    if (c->state == CHILD_STARTING)
        log_warn("launcher", "%s (pid %d) is not ready after %llu s: killing it", c->spec.name, (int)c->pid,
                 (unsigned long long)(c->spec.ready_timeout / (1000 * MS)));
    else
        log_warn("launcher", "%s (pid %d) did not end when asked to: killing it", c->spec.name, (int)c->pid);
    child_kill(c);
    return false;
}

/* ---- packets -------------------------------------------------------------------------------------------------------------- */

short child_poll_events(const struct child *c)
{
    return c->acks || c->listing ? POLLOUT : POLLIN;
}

/* 0, or -errno: -EAGAIN if it has to wait. */
static int send_packet(struct child *c, enum launch_kind kind, const char *name, size_t len, const int *fds, int nfds)
{
    struct launch_msg m = {.kind = kind, .name_len = (uint16_t)len};
    return localsock_send(c->sock, &m, sizeof m, name, len, fds, nfds);
}

/* Answers what is owed, as far as the socket takes it. 0, -EAGAIN, or -errno. */
static int flush(struct child *c)
{
    int rc = 0;
    for (; c->acks && !rc; c->acks -= !rc)
        rc = send_packet(c, LAUNCH_FENCE_ACK, NULL, 0, NULL, 0);
    while (c->listing && !rc) {
        int fds[LAUNCH_FENCE_FDS];
        size_t len;
        if (!c->list_at) {
            rc = send_packet(c, LAUNCH_FENCE_END, NULL, 0, NULL, 0);
            c->listing = rc != 0;
            continue;
        }
        const char *name = kept_name(c->list_at, &len);
        rc = send_packet(c, LAUNCH_FENCE, name, len, fds, kept_fds(c->list_at, fds));
        if (!rc)
            c->list_at = keeper_next(c->list_at);
    }
    return rc;
}

static void ready(struct child *c, const char *name, size_t len)
{
    len = MIN(len, (size_t)CHILD_VERSION_MAX);
    memcpy(c->version, name, len);
    c->version[len] = 0;
    c->ever_ready = true;
    if (c->state != CHILD_STARTING)
        return; /* said twice, or while it is being ended */
    c->state = CHILD_READY;
    c->due = CHILD_NEVER;
    log_info("launcher", "%s is ready (pid %d%s%s)", c->spec.name, (int)c->pid, len ? ", version " : "", c->version);
}

/* Carries out one packet; fds become its own. NULL, or what is wrong with it. */
static const char *obey(struct child *c, struct keeper *keeper, const char *packet, size_t n, const int *fds, int nfds)
{
    struct launch_msg m;
    const char *name = packet + sizeof m;
    const char *wrong = NULL;
    if (n >= sizeof m)
        memcpy(&m, packet, sizeof m);
    if (n < sizeof m || m.name_len != n - sizeof m)
        wrong = "its length";
    else if (m.kind != LAUNCH_READY && !c->spec.keeps_fences)
        wrong = "its kind";
    else if (nfds && m.kind != LAUNCH_FENCE_PUT)
        wrong = "descriptors where none belong";
    if (wrong) {
        for (int i = 0; i < nfds; i++)
            close(fds[i]);
        return wrong;
    }
    int rc = 0;
    switch (m.kind) {
    case LAUNCH_READY:
        ready(c, name, m.name_len);
        return NULL;
    case LAUNCH_FENCE_PUT:
        rc = keeper_put(keeper, name, m.name_len, fds, nfds);
        break;
    case LAUNCH_FENCE_DROP:
        rc = keeper_drop(keeper, name, m.name_len);
        break;
    case LAUNCH_FENCE_LIST:
        c->listing = true;
        c->list_at = keeper_first(keeper);
        return NULL;
    default:
        return "its kind";
    }
    if (rc)
        return rc == -ENOSPC ? "more fences than can be kept" : err_name(rc);
    c->acks++;
    return NULL;
}

static void end_of_socket(struct child *c, uint64_t now, const char *why)
{
    log_write(why ? LOG_LEVEL_ERROR : LOG_LEVEL_DEBUG, "launcher", "%s (pid %d): %s%s", c->spec.name, (int)c->pid,
              why ? "closing its socket: bad packet: " : "end of its socket", why ? why : "");
    hang_up(c);
    uint64_t patience = c->spec.eof_timeout;
    if (!patience && c->state == CHILD_STARTING)
        patience = c->spec.ready_timeout; /* it can never become READY now */
    c->eof_due = patience ? now + patience : CHILD_NEVER;
}

void child_talk(struct child *c, struct keeper *keeper, uint64_t now)
{
    for (int i = 0; i < PACKETS_A_TURN && c->sock >= 0; i++) {
        int rc = flush(c);
        if (rc == -EAGAIN)
            return;
        if (rc) {
            end_of_socket(c, now, rc == -EPIPE || rc == -ECONNRESET ? NULL : err_name(rc));
            return;
        }
        char packet[LAUNCH_PACKET_MAX];
        int fds[LOCALSOCK_FDS_MAX], nfds = 0;
        ssize_t n = localsock_recv(c->sock, packet, sizeof packet, fds, &nfds);
        if (n == -EAGAIN)
            return;
        const char *wrong = NULL;
        if (n > 0)
            wrong = obey(c, keeper, packet, (size_t)n, fds, nfds);
        else if (n < 0 && n != -ECONNRESET)
            wrong = err_name((int)n);
        if (n <= 0) { /* an empty packet looks like the end, and may still have brought descriptors */
            for (int k = 0; k < nfds; k++)
                close(fds[k]);
        }
        if (n <= 0 || wrong)
            end_of_socket(c, now, wrong);
    }
}
