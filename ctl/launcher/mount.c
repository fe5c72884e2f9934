#include "ctl/launcher/mount.h"

#include "lib/log.h"
#include "lib/util.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define LEFTOVERS_MAX 16 /* mounts on top of each other that are cleared away */
#define PROBE_MS 2000

/* ---- the mount table ------------------------------------------------------------------------------------------------------ */

/* The kernel writes blank, tab, newline and backslash as \ooo. Takes one field from *p. */
static int take_field(const char **p, char *out, size_t size)
{
    size_t n = 0;
    const char *s = *p + strspn(*p, " ");
    for (; *s && *s != ' ' && *s != '\n'; n++) {
        if (n + 1 >= size)
            return -EINVAL;
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' && s[3] <= '7') {
            out[n] = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 4;
        } else {
            out[n] = *s++;
        }
    }
    out[n] = 0;
    *p = s;
    return n ? 0 : -EINVAL;
}

int mount_parse_line(const char *line, struct mount_entry *entry)
{
    char skipped[PATH_MAX];
    int used = 0;
    if (sscanf(line, "%*d %*d %u:%u%n", &entry->major, &entry->minor, &used) != 2)
        return -EINVAL;
    const char *p = line + used;
    if (take_field(&p, skipped, sizeof skipped) || take_field(&p, entry->dir, sizeof entry->dir))
        return -EINVAL;
    do /* options of the mount, then any number of optional fields, then a dash */
        if (take_field(&p, skipped, sizeof skipped))
            return -EINVAL;
    while (strcmp(skipped, "-"));
    if (take_field(&p, entry->type, sizeof entry->type) || take_field(&p, entry->source, sizeof entry->source))
        return -EINVAL;
    return 0;
}

int mount_find(const char *dir, const char *type, const char *source, struct mount_entry *entry, struct err *e)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    if (!f)
        return err_errno(e, errno, "/proc/self/mountinfo");
    _cleanup_free_ struct mount_entry *m = malloc(sizeof *m);
    char *line = NULL;
    size_t size = 0;
    int found = 0;
    while (m && getline(&line, &size, f) > 0) {
        if (mount_parse_line(line, m)) /* a path longer than PATH_MAX: none of ours */
            continue;
        if ((!dir || !strcmp(dir, m->dir)) && (!type || !strcmp(type, m->type)) && (!source || !strcmp(source, m->source))) {
            *entry = *m;
            found = 1; /* go on: the last one lies on top */
        }
    }
    free(line);
    (void)fclose(f); /* only read */
    return m ? found : err_errno(e, ENOMEM, "mount table");
}

/* ---- the mount point ------------------------------------------------------------------------------------------------------ */

/* Runs work(dir) in a child process, so that a file system that does not answer cannot hang this one. What work returned (0 or -errno);
 * -ETIMEDOUT after timeout_ms: then the child is left to its fate, to be reaped when it gets there. */
static int in_child(int (*work)(const char *dir), const char *dir, int timeout_ms)
{
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0)
        _exit(-work(dir) & 0xff); /* every errno is below 256 */
    struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    if (p.fd < 0) {
        int rc = -errno;
        (void)kill(pid, SIGKILL);
        return rc;
    }
    uint64_t end = now_ns() + (uint64_t)timeout_ms * 1000000u;
    int st = 0, n;
    do {
        uint64_t now = now_ns();
        n = poll(&p, 1, now < end ? (int)((end - now) / 1000000u) + 1 : 0);
    } while (n < 0 && errno == EINTR);
    close(p.fd);
    if (n != 1) {
        (void)kill(pid, SIGKILL);
        return -ETIMEDOUT;
    }
    while (waitpid(pid, &st, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(st) ? -WEXITSTATUS(st) : -EIO;
}

static int ask(const char *dir)
{
    struct stat st;
    return stat(dir, &st) ? -errno : 0;
}

int mount_probe(const char *dir, int timeout_ms)
{
    return in_child(ask, dir, timeout_ms);
}

int mount_remove_now(const char *dir, bool lazily)
{
    return umount2(dir, UMOUNT_NOFOLLOW | (lazily ? MNT_DETACH : 0)) ? -errno : 0;
}

static int remove_politely(const char *dir)
{
    return mount_remove_now(dir, false);
}

static int remove_lazily(const char *dir)
{
    return mount_remove_now(dir, true);
}

int mount_remove(const char *dir, bool lazily)
{
    return in_child(lazily ? remove_lazily : remove_politely, dir, MOUNT_REMOVE_MS);
}

/* mkdir -p. An existing directory is not looked at: it may be a mount that does not answer. */
static int make_dirs(const char *path, struct err *e)
{
    char part[PATH_MAX];
    size_t n = strlen(path);
    if (n >= sizeof part)
        return err_errno(e, ENAMETOOLONG, "%s", path);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != 0)
            continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (mkdir(part, 0755) && errno != EEXIST)
            return err_errno(e, errno, "make the mount point: %s", part);
    }
    return 0;
}

/* Unmounts dead edgefs mounts from dir; others are left. -EBUSY: a living one. */
static int clear_leftovers(const char *dir, struct err *e)
{
    struct mount_entry m;
    for (int i = 0; i < LEFTOVERS_MAX; i++) {
        int rc = mount_find(dir, NULL, NULL, &m, e);
        if (rc <= 0 || strcmp(m.type, MOUNT_TYPE))
            return MIN(rc, 0);
        rc = mount_probe(dir, PROBE_MS);
        if (rc != -ENOTCONN)
            return err_set(e, -EBUSY, "%s is already an edgefs mount, of data directory %s%s", dir, m.source,
                           rc == -ETIMEDOUT ? ", that does not answer" : "");
        log_warn("launcher", "%s: unmounting what a dead edgefs (data directory %s) left there", dir, m.source);
        rc = mount_remove(dir, false);
        if (rc == -EBUSY)
            rc = mount_remove(dir, true);
        if (rc)
            return err_errno(e, -rc, "unmount %s", dir);
    }
    return err_set(e, -EBUSY, "%s: more than %d dead mounts on top of each other", dir, LEFTOVERS_MAX);
}

/* Opens and locks the directory; it must be empty. The descriptor, or -errno. */
static int take_empty(const char *dir, struct err *e)
{
    _cleanup_fd_ int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, errno, "the mount point %s", dir);
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        if (errno == EWOULDBLOCK)
            return err_set(e, -EBUSY, "another edgefs is about to mount on %s", dir);
        log_debug("launcher", "%s: flock: %s", dir, strerror(errno)); /* this file system has no locks: then without */
    }
    DIR *d = opendir(dir);
    if (!d)
        return err_errno(e, errno, "the mount point %s", dir);
    int rc = 0;
    for (struct dirent *entry; !rc && (entry = readdir(d));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            rc = err_set(e, -ENOTEMPTY, "the mount point %s is not empty (%.100s): mounting would hide that; move it away, or use another",
                         dir, entry->d_name);
    (void)closedir(d); /* only read */
    return rc ? rc : steal_fd(&fd);
}

int mount_point_prepare(const char *dir, char **real, int *lock, struct err *e)
{
    int rc = make_dirs(dir, e);
    if (rc)
        return rc;
    /* Resolving symbolic links asks the parents only: for the last part the kernel sees by itself that it is no link. */
    _cleanup_free_ char *path = realpath(dir, NULL);
    if (!path)
        return err_errno(e, errno, "the mount point %s", dir);
    if ((rc = clear_leftovers(path, e)) || (rc = take_empty(path, e)) < 0)
        return rc;
    *lock = rc;
    *real = steal_ptr(&path);
    return 0;
}

/* ---- mounting ------------------------------------------------------------------------------------------------------------- */

int mount_edgefs(const char *dir, const char *data, bool allow_other, struct err *e)
{
    _cleanup_fd_ int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, errno, "/dev/fuse%s", errno == ENOENT || errno == ENODEV ? " (modprobe fuse)" : "");
    char options[160];
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u,default_permissions%s", fd, geteuid(), getegid(),
             allow_other ? ",allow_other" : "");
    if (mount(data, dir, MOUNT_TYPE, MS_NOSUID | MS_NODEV, options))
        return err_errno(e, errno, "mount %s%s", dir, errno == EPERM ? " (this needs root, or CAP_SYS_ADMIN)" : "");
    return steal_fd(&fd);
}

bool mount_can_hand_over(const char *release)
{
    unsigned major = 0, minor = 0;
    return sscanf(release, "%u.%u", &major, &minor) == 2 && (major > 6 || (major == 6 && minor >= 9));
}

bool mount_connection_dead(int fuse)
{
    struct pollfd p = {.fd = fuse, .events = POLLIN};
    return poll(&p, 1, 0) == 1 && (p.revents & POLLERR) != 0; /* fs/fuse/dev.c, fuse_dev_poll */
}
