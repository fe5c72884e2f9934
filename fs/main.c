/* edgefs-fs: the file system of a node. Started by the launcher (edgefs/launch.h); serves until the mount is gone, then exits 0.
 *
 * SIGTERM exits at once, without tidying up: what a kill leaves behind is what the successor knows how to take over (session.c), and there
 * is no second way of stopping that could be wrong. SIGINT and SIGHUP reach us with the terminal's whole process group; what they
 * mean is for the launcher to decide. */
#include "edgefs/launch.h"
#include "fs/cpulatency.h"
#include "fs/dirsync.h"
#include "fs/files.h"
#include "fs/journals.h"
#include "fs/hookserver.h"
#include "fs/ops.h"
#include "fs/passthrough.h"
#include "fs/role.h"
#include "fs/session.h"
#include "fs/spare.h"
#include "lib/localsock.h"
#include "lib/log.h"
#include "lib/priority.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* Whoever is served here waits meanwhile, and would do this work itself were the file system in the kernel. */
#define FS_NICE (-10)

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    /* No splice: read and write requests are rare (passthrough) or small (journals). Truncation on open comes as a SETATTR of its own, so
     * that there is one place for its hooks. Cached pages stay valid: every change comes through this mount. */
    conn->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_ATOMIC_O_TRUNC |
                              FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_WRITEBACK_CACHE |
                              FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS | FUSE_CAP_IOCTL_DIR);
    conn->want |= conn->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_EXPLICIT_INVAL_DATA);
    conn->time_gran = 1;
    ops_dir_init(conn);
    passthrough_negotiate(userdata, conn);
}

/* Absent on purpose: getlk, setlk, flock (the kernel keeps locks itself); flush, access, *xattr, copy_file_range, ioctl, poll
 * (ENOSYS: the kernel asks once, and does without); releasedir (listings have no state); readdirplus. */
static const struct fuse_lowlevel_ops operations = {
    .init = op_init,
    .lookup = op_lookup,
    .forget = op_forget,
    .forget_multi = op_forget_multi,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .mknod = op_mknod,
    .mkdir = op_mkdir,
    .unlink = op_unlink,
    .rmdir = op_rmdir,
    .symlink = op_symlink,
    .rename = op_rename,
    .link = op_link,
    .open = op_open,
    .read = op_read,
    .write = op_write,
    .release = op_release,
    .fsync = op_fsync,
    .opendir = op_opendir,
    .readdir = op_readdir,
    .fsyncdir = op_fsyncdir,
    .statfs = op_statfs,
    .create = op_create,
    .fallocate = op_fallocate,
    .lseek = op_lseek,
};

/* The descriptor that an environment variable names, close-on-exec from now on; or -1. */
static int inherited(const char *variable)
{
    const char *s = getenv(variable);
    char *end;
    if (!s || !*s)
        return -1;
    errno = 0;
    long fd = strtol(s, &end, 10);
    if (errno || *end || fd < 0 || fd > 1 << 20 || fcntl((int)fd, F_SETFD, FD_CLOEXEC))
        return -1;
    return (int)fd;
}

static void on_term(int sig)
{
    (void)sig;
    _exit(0);
}

static void set_signals(void)
{
    struct sigaction term = {.sa_handler = on_term}, ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGTERM, &term, NULL);
    sigaction(SIGINT, &ignore, NULL);
    sigaction(SIGHUP, &ignore, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
}

/* As many descriptors as we may have; returns how many backing files may be kept open. */
static unsigned raise_limit(void)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l))
        return 256;
    l.rlim_cur = l.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &l); /* refused: the old limit stays */
    (void)getrlimit(RLIMIT_NOFILE, &l);
    rlim_t keep = l.rlim_cur / 4 * 3;
    return (unsigned)MIN(keep, (rlim_t)1 << 20);
}

static int open_directory(int at, const char *path, mode_t mode, struct err *e)
{
    if (mkdirat(at, path, mode) && errno != EEXIST)
        return err_errno(e, errno, "make %s", path);
    int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? err_errno(e, errno, "open %s", path) : fd;
}

static int open_data(struct fs *fs, struct err *e)
{
    _cleanup_fd_ int data = open(fs->config->data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (data < 0)
        return err_errno(e, errno, "open %s", fs->config->data);
    fs->db_fd = open_directory(data, LAYOUT_DB, 0755, e);
    if (fs->db_fd < 0)
        return fs->db_fd;
    fs->orphans_fd = open_directory(data, LAYOUT_ORPHANS, 0700, e);
    return fs->orphans_fd < 0 ? fs->orphans_fd : 0;
}

static void ready(struct fs *fs)
{
    static const char version[] = EDGEFS_VERSION;
    struct launch_msg m = {.kind = LAUNCH_READY, .name_len = sizeof version - 1};
    int rc = fs->launcher_fd >= 0 ? localsock_send(fs->launcher_fd, &m, sizeof m, version, sizeof version - 1, NULL, 0) : 0;
    if (rc)
        log_warn("fs", "the launcher cannot be told that the mount is served: %s", err_name(rc));
    log_info("fs", "serving %s (%s)", fs->config->dir, passthrough_active(fs) ? "passthrough" : "fallback: no passthrough");
}

static int init_locks(struct fs *fs, struct err *e)
{
    pthread_rwlockattr_t a;
    pthread_rwlockattr_init(&a);
    /* Otherwise a stream of look-ups could keep an unlink waiting for ever. */
    pthread_rwlockattr_setkind_np(&a, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    int rc = pthread_rwlock_init(&fs->ns, &a);
    pthread_rwlockattr_destroy(&a);
    return rc ? err_errno(e, rc, "locks") : 0;
}

static int run(struct fs *fs, int table_fd, int hooks_fd, struct err *e)
{
    bool fresh;
    int rc = init_locks(fs, e);
    if (rc == 0)
        rc = open_data(fs, e);
    if (rc == 0)
        rc = table_open(table_fd, &fs->table, &fresh, e);
    if (rc)
        return rc;
    fs->files = files_new(raise_limit());
    fs->passthrough = passthrough_new(fs->dev_fd, fs->config->fs.passthrough);
    fs->journals = journals_new();
    fs->dirsync = dirsync_new(fs->db_fd);
    if (!fs->files || !fs->passthrough || !fs->journals || !fs->dirsync)
        return err_set(e, -ENOMEM, "out of memory");
    ops_sweep_orphans(fs, fresh);
    rc = session_open(fs, &operations, sizeof operations, e);
    if (rc == 0 && !fresh)
        passthrough_reclaim(fs, table_fd);
    if (rc == 0)
        rc = spare_start(&fs->spare, e);
    if (rc == 0)
        rc = cpulatency_start(fs->config->fs.cpu_latency_qos, &fs->cpulatency, e);
    if (rc == 0)
        rc = hookserver_start(fs, hooks_fd, !fresh && role_replicator_alive(fs), e);
    if (rc == 0)
        rc = session_run(fs, ready, e);
    return rc;
}

int main(int argc, char **argv)
{
    struct err e = {0};
    struct config_args args = {0};
    struct config *config;
    set_signals();
    umask(0);
    argc = config_take_args(argc, argv, &args, &e);
    if (argc < 0 || config_load(&args, &config, &e))
        config_die("edgefs-fs", &e);
    if (argc > 1) {
        fprintf(stderr, "edgefs-fs: unexpected argument %s\n", argv[1]);
        return 2;
    }
    log_init("edgefs-fs", config->node, config->log_level);
    priority_set(FS_NICE);
    struct fs fs = {.config = config, .dev_fd = inherited("EDGEFS_FUSE_FD"), .db_fd = -1, .orphans_fd = -1};
    fs.launcher_fd = inherited("EDGEFS_LAUNCHER_FD");
    int table_fd = inherited("EDGEFS_TABLE_FD"), hooks_fd = inherited("EDGEFS_HOOKS_FD");
    if (fs.dev_fd < 0 || table_fd < 0 || hooks_fd < 0) {
        fprintf(stderr, "edgefs-fs: is started by `edgefs mount`, which gives it its descriptors\n");
        return 2;
    }
    int rc = run(&fs, table_fd, hooks_fd, &e);
    if (rc)
        log_error("fs", "%s", e.text);
    /* Other threads are still about: no handlers, no freeing. */
    _exit(rc == 0 ? 0 : rc == -EOPNOTSUPP ? LAUNCH_EXIT_NO_RESEND : 1);
}
