#include "ctl/launcher/supervisor_private.h"

#include "ctl/launcher/mount.h"
#include "edgefs/layout.h"
#include "lib/localsock.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <signal.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>

#define FS_READY_NS (30 * SECOND)      /* applications wait while nobody serves the mount */
#define REPLICATOR_EOF_NS (10 * SECOND) /* launch.h: it exits by itself */
#define DESCRIPTORS_SPARE 256u          /* the launcher's own, beside the fences */

static const char *const names[CHILDREN] = {[FS] = "edgefs-fs", [REPLICATOR] = "edgefs-replicator", [PROXY] = "edgefs-proxy"};

/* The programs get the launcher's configuration; folders spelled out, so that a file that was edited meanwhile cannot send a
 * successor elsewhere. */
static void fill_args(struct supervisor *s)
{
    const struct config_args *a = s->o->args;
    const struct config *c = s->o->config;
    const char *given[][2] = {{"-c", a->file}, {"--dir", c->dir}, {"--data", c->data}, {"--node", c->node}};
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_SIZE(given); i++)
        if (given[i][1]) {
            s->args[n++] = (char *)(uintptr_t)given[i][0];
            s->args[n++] = (char *)(uintptr_t)given[i][1];
        }
}

static int find_programs(struct supervisor *s, struct err *e)
{
    for (int i = 0; i < CHILDREN; i++) {
        if (snprintf(s->paths[i], PATH_MAX, "%s/%s", s->o->programs, names[i]) >= PATH_MAX)
            return err_errno(e, ENAMETOOLONG, "%s", s->o->programs);
        if (supervisor_has(s, i) && access(s->paths[i], X_OK))
            return err_errno(e, errno, "%s, which must lie beside edgefs", s->paths[i]);
    }
    return 0;
}

static void init_children(struct supervisor *s)
{
    struct child_spec fs = {.name = names[FS],
                            .path = s->paths[FS],
                            .args = s->args,
                            .ready_timeout = FS_READY_NS,
                            .fds = {{"EDGEFS_FUSE_FD", s->fuse},
                                    {"EDGEFS_TABLE_FD", s->table},
                                    {"EDGEFS_HOOKS_FD", s->hooks},
                                    {"EDGEFS_LOCK_FD", s->data.db}}};
    struct child_spec replicator = {.name = names[REPLICATOR],
                                    .path = s->paths[REPLICATOR],
                                    .args = s->args,
                                    .last_signal = SIGINT, /* a node that stops for good gives its lease up */
                                    .keeps_fences = true,
                                    .eof_timeout = REPLICATOR_EOF_NS,
                                    .fds = {{"EDGEFS_LOCK_FD", s->data.db}, {NULL, -1}, {NULL, -1}, {NULL, -1}}};
    child_init(&s->children[FS], &fs);
    child_init(&s->children[REPLICATOR], &replicator);
}

static void init_proxy(struct supervisor *s)
{
    struct child_spec proxy = {.name = names[PROXY],
                               .path = s->paths[PROXY],
                               .args = s->args,
                               .keeps_fences = true,
                               .replace_signal = SIGUSR2,
                               .eof_timeout = REPLICATOR_EOF_NS,
                               .fds = {{"EDGEFS_LOCK_FD", s->data.db}, {NULL, -1}, {NULL, -1}, {NULL, -1}}};
    child_init(&s->children[PROXY], &proxy);
}

/* The successor of the one that died out of memory would find no fences, no table, no mount: let the kernel choose somebody else. */
static void avoid_oom_killer(struct inherited *in)
{
    in->oom_score_adj = INT32_MIN;
    FILE *f = fopen("/proc/self/oom_score_adj", "r+e");
    int old;
    if (!f)
        return;
    if (fscanf(f, "%d", &old) == 1 && old > -900) {
        rewind(f);
        if (fprintf(f, "-900\n") > 0 && fflush(f) == 0)
            in->oom_score_adj = old;
    }
    (void)fclose(f); /* without CAP_SYS_RESOURCE it stays as it was */
}

static void prepare_process(struct supervisor *s)
{
    struct rlimit all;
    sigprocmask(SIG_SETMASK, NULL, &s->inherited.mask);
    sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, &s->inherited.pipe);
    avoid_oom_killer(&s->inherited);
    if (getrlimit(RLIMIT_NOFILE, &s->inherited.files))
        s->inherited.files = (struct rlimit){1024, 1024};
    all = s->inherited.files;
    all.rlim_cur = all.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &all))
        log_warn("launcher", "limit of open files: %s", strerror(errno));
}

static int make_keeper(struct supervisor *s, struct err *e)
{
    struct rlimit r;
    rlim_t max = KEEPER_MAX;
    if (!getrlimit(RLIMIT_NOFILE, &r) && r.rlim_cur != RLIM_INFINITY && r.rlim_cur < DESCRIPTORS_SPARE + max * LAUNCH_FENCE_FDS)
        max = r.rlim_cur > DESCRIPTORS_SPARE ? (r.rlim_cur - DESCRIPTORS_SPARE) / LAUNCH_FENCE_FDS : 1;
    s->keeper = keeper_new((unsigned)max);
    s->listeners = keeper_new(CONFIG_PROXIES_MAX);
    return s->keeper && s->listeners ? 0 : err_errno(e, ENOMEM, "fences");
}

static int open_sockets(struct supervisor *s, struct err *e)
{
    char path[PATH_MAX];
    s->hooks = localsock_listen(datadir_path(s->data.path, LAYOUT_HOOKS_SOCK, path), e);
    if (s->hooks < 0)
        return s->hooks;
    int rc = control_open(&s->control, datadir_path(s->data.path, LAYOUT_LAUNCHER_SOCK, path), e);
    if (rc)
        return rc;
    s->mountinfo = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    return s->mountinfo < 0 ? err_errno(e, errno, "/proc/self/mountinfo") : 0;
}

/* From here on signals are read, not delivered: nothing may end this process between mount and unmount. */
static int open_signals(struct supervisor *s, struct err *e)
{
    static const int which[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCHLD};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_SIZE(which); i++)
        sigaddset(&set, which[i]);
    sigprocmask(SIG_BLOCK, &set, NULL);
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return s->signals < 0 ? err_errno(e, errno, "signalfd") : 0;
}

int supervisor_mount(struct supervisor *s, struct err *e)
{
    if (s->table >= 0)
        close(s->table);
    s->table = memfd_create("edgefs-table", MFD_CLOEXEC);
    if (s->table < 0)
        return err_errno(e, errno, "memory file");
    s->fuse = mount_edgefs(s->mount_point, s->data.path, s->o->config->fs.allow_other, e);
    if (s->fuse < 0)
        return s->fuse;
    s->mounted = true;
    init_children(s);
    return 0;
}

static bool within(const char *a, const char *b)
{
    size_t n = strlen(a);
    return !strncmp(a, b, n) && (b[n] == 0 || b[n] == '/');
}

int supervisor_prepare(struct supervisor *s, struct err *e)
{
    const struct config *c = s->o->config;
    struct utsname u = {0};
    s->fuse = s->table = s->hooks = s->mountinfo = s->signals = s->mount_point_lock = s->control.listener = -1;
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++)
        s->control.clients[i].fd = -1;
    s->data.lock = s->data.db = -1;
    s->app_status = s->status = -1;
    s->due = CHILD_NEVER;
    s->began = now_ns();
    s->upgrade.step = CHILDREN;
    (void)uname(&u);
    s->can_hand_over = mount_can_hand_over(u.release) && !getenv("EDGEFS_TEST_NO_HAND_OVER");
    fill_args(s);
    prepare_process(s);
    int rc = find_programs(s, e);
    if (rc || (rc = make_keeper(s, e)) || (rc = datadir_open(&s->data, c->data, e)) ||
        (rc = mount_point_prepare(c->dir, &s->mount_point, &s->mount_point_lock, e)))
        return rc;
    if (within(s->mount_point, s->data.path) || within(s->data.path, s->mount_point)) /* by way of a symbolic link */
        return err_set(e, -EINVAL, "the mount point %.160s and the data directory %.160s must not lie within each other", s->mount_point,
                       s->data.path);
    if ((rc = datadir_adopt_owner(&s->data, s->mount_point, e)) || (rc = datadir_check_unused(&s->data, e)) ||
        (rc = datadir_remove_indexes(&s->data, e)) ||
        (rc = open_sockets(s, e)) || (rc = open_signals(s, e)))
        return rc;
    init_proxy(s);
    return supervisor_mount(s, e);
}

void supervisor_release(struct supervisor *s)
{
    keeper_free(s->keeper);
    keeper_free(s->listeners);
    int *const fds[] = {&s->fuse, &s->table, &s->hooks, &s->mountinfo, &s->signals, &s->mount_point_lock};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        if (*fds[i] >= 0)
            close(*fds[i]);
    char path[PATH_MAX];
    if (s->data.path && s->hooks >= 0) { /* the sockets are ours: whoever comes next finds nobody listening */
        (void)unlink(datadir_path(s->data.path, LAYOUT_HOOKS_SOCK, path));
        (void)unlink(datadir_path(s->data.path, LAYOUT_LAUNCHER_SOCK, path));
    }
    free(s->mount_point);
    datadir_close(&s->data);
    /* Who waits for the end wants to start anew: now the locks are free. */
    control_say(&s->control, s->stop_client, '0', "stopped");
    control_close(&s->control);
}
