#include "lib/busy.h"

#include "lib/util.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#define NAMED_MAX 6
#define DEVICES_MAX 1024

/* What is compared: where one descriptor or mapping of a process leads. */
struct place {
    dev_t dev;
    ino_t ino;
    const char *path; /* as /proc shows it; for a mount that is gone relative to its root */
};

struct scan {
    const struct busy_query *q;
    dev_t devices[DEVICES_MAX]; /* of all mounts that can be seen */
    size_t n_devices;
};

static void load_devices(struct scan *s)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t size = 0;
    unsigned major, minor;
    while (f && s->n_devices < DEVICES_MAX && getline(&line, &size, f) > 0)
        if (sscanf(line, "%*d %*d %u:%u", &major, &minor) == 2)
            s->devices[s->n_devices++] = makedev(major, minor);
    free(line);
    if (f)
        (void)fclose(f); /* only read */
}

static bool matches(const struct scan *s, const struct place *p)
{
    const struct busy_query *q = s->q;
    if (q->on_device && p->dev == makedev(q->major, q->minor))
        return true;
    if (!q->name)
        return false;
    if (p->dev == q->dev && p->ino == q->ino)
        return true;
    /* FUSE has an anonymous device: major 0. */
    if (major(p->dev) != 0 || s->n_devices == DEVICES_MAX)
        return false;
    for (size_t i = 0; i < s->n_devices; i++)
        if (s->devices[i] == p->dev)
            return false;
    const char *slash = strrchr(p->path, '/');
    return !strcmp(slash ? slash + 1 : p->path, q->name);
}

/* A magic link of /proc. AT_STATX_DONT_SYNC: the kernel answers from what it has, whatever became of the server of the mount. */
static bool link_matches(const struct scan *s, int dirfd, const char *name)
{
    struct statx st;
    char path[PATH_MAX];
    ssize_t n = readlinkat(dirfd, name, path, sizeof path - 1);
    if (n < 0 || statx(dirfd, name, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_INO, &st))
        return false;
    path[n] = 0;
    struct place p = {makedev(st.stx_dev_major, st.stx_dev_minor), (ino_t)st.stx_ino, path};
    return matches(s, &p);
}

static bool descriptors_match(const struct scan *s, int pid_fd)
{
    int fd = openat(pid_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    bool found = false;
    for (struct dirent *entry; !found && (entry = readdir(d));)
        found = entry->d_name[0] != '.' && link_matches(s, fd, entry->d_name);
    (void)closedir(d); /* only read */
    return found;
}

static bool mappings_match(const struct scan *s, int pid_fd)
{
    int fd = openat(pid_fd, "maps", O_RDONLY | O_CLOEXEC);
    FILE *f = fd >= 0 ? fdopen(fd, "re") : NULL;
    if (!f) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    char *line = NULL;
    size_t size = 0;
    ssize_t n;
    bool found = false;
    while (!found && (n = getline(&line, &size, f)) > 0) {
        unsigned major, minor;
        unsigned long long ino;
        int at = 0;
        if (line[n - 1] == '\n')
            line[n - 1] = 0;
        if (sscanf(line, "%*s %*s %*s %x:%x %llu %n", &major, &minor, &ino, &at) < 3 || !ino)
            continue;
        struct place p = {makedev(major, minor), (ino_t)ino, line + at};
        found = matches(s, &p);
    }
    free(line);
    (void)fclose(f); /* only read */
    return found;
}

static bool process_matches(const struct scan *s, int pid_fd)
{
    return link_matches(s, pid_fd, "cwd") || link_matches(s, pid_fd, "root") || descriptors_match(s, pid_fd) ||
           mappings_match(s, pid_fd);
}

static void command_of(int pid_fd, char comm[32])
{
    int fd = openat(pid_fd, "comm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, comm, 31) : -1;
    if (fd >= 0)
        close(fd);
    comm[n > 0 ? n : 0] = 0;
    comm[strcspn(comm, "\n")] = 0;
}

struct found {
    int count;
    char text[BUSY_TEXT_MAX];
};

/* Looks through all processes; *found is shared with the parent, and complete in itself after each one. */
static void look(const struct busy_query *q, pid_t parent, struct found *found)
{
    struct scan *s = calloc(1, sizeof *s);
    DIR *proc = opendir("/proc");
    size_t at = 0;
    if (!s || !proc)
        return;
    s->q = q;
    load_devices(s);
    for (struct dirent *entry; (entry = readdir(proc));) {
        char *end, comm[32];
        long pid = strtol(entry->d_name, &end, 10);
        if (*end || pid <= 0 || pid == getpid() || pid == parent || pid == q->except)
            continue;
        int pid_fd = openat(dirfd(proc), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (pid_fd >= 0 && process_matches(s, pid_fd)) {
            command_of(pid_fd, comm);
            if (q->except_command && !strcmp(comm, q->except_command)) {
                close(pid_fd);
                continue;
            }
            if (found->count < NAMED_MAX) /* each takes at most 48 bytes */
                at += (size_t)snprintf(found->text + at, BUSY_TEXT_MAX - at, "%s%ld (%s)", found->count ? ", " : "", pid, comm);
            else
                snprintf(found->text + at, BUSY_TEXT_MAX - at, " and %d more", found->count + 1 - NAMED_MAX);
            found->count++;
        }
        if (pid_fd >= 0)
            close(pid_fd);
    }
}

int busy_name(const struct busy_query *q, char text[BUSY_TEXT_MAX])
{
    text[0] = 0;
    struct found *found = mmap(NULL, sizeof *found, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED)
        return 0;
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        look(q, parent, found);
        _exit(0);
    }
    struct pollfd p = {.fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1, .events = POLLIN};
    uint64_t end = now_ns() + BUSY_MS * UINT64_C(1000000);
    int done = 0;
    for (uint64_t now; p.fd >= 0 && done <= 0 && (now = now_ns()) < end;)
        done = poll(&p, 1, (int)((end - now) / 1000000u) + 1); /* interrupted: again */
    if (p.fd >= 0)
        close(p.fd);
    if (pid > 0) {
        (void)kill(pid, SIGKILL); /* one that hangs cannot be waited for: it is reaped whenever it gets there */
        (void)waitpid(pid, NULL, done == 1 ? 0 : WNOHANG);
    }
    struct found copy = *found;
    munmap(found, sizeof *found);
    copy.text[BUSY_TEXT_MAX - 1] = 0;
    memcpy(text, copy.text, BUSY_TEXT_MAX);
    return copy.count;
}
