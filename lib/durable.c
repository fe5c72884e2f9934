#include "lib/durable.h"

#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define NAME_BYTES_MAX 240 /* NAME_MAX is 255; ".NAME.new" must fit */

static int check_name(const char *name, struct err *e)
{
    size_t n = strlen(name);
    if (n < 1 || n > NAME_BYTES_MAX || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
        return err_set(e, -EINVAL, "\"%.260s\" cannot be a file name here", name);
    return 0;
}

static int write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return k < 0 ? errno : EIO;
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

/* One fixed temporary name: a crash leaves at most one such file, and the next writer removes it. */
int durable_replace(int dirfd, const char *name, const void *data, size_t n, mode_t mode, struct err *e)
{
    int rc = check_name(name, e);
    if (rc)
        return rc;
    char temporary[NAME_BYTES_MAX + 8];
    snprintf(temporary, sizeof temporary, ".%s.new", name);
    if (unlinkat(dirfd, temporary, 0) && errno != ENOENT)
        return err_errno(e, errno, "remove old %s", temporary);
    _cleanup_fd_ int fd = openat(dirfd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_errno(e, errno, "create %s", temporary);
    const char *step = "write";
    int failed = write_all(fd, data, n);
    if (!failed) {
        step = "set the mode of";
        failed = fchmod(fd, mode) ? errno : 0;
    }
    if (!failed) {
        step = "fsync";
        failed = fsync(fd) ? errno : 0;
    }
    if (!failed) {
        step = "rename";
        failed = renameat(dirfd, temporary, dirfd, name) ? errno : 0;
    }
    if (failed) {
        (void)unlinkat(dirfd, temporary, 0); /* the first error is the one to tell */
        return err_errno(e, failed, "%s %s", step, temporary);
    }
    if (fsync(dirfd))
        return err_errno(e, errno, "fsync the folder of %s", name);
    return 0;
}

int durable_read(int dirfd, const char *name, size_t max, char **data, size_t *n, struct err *e)
{
    int rc = check_name(name, e);
    if (rc)
        return rc;
    _cleanup_fd_ int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return err_errno(e, errno, "open %s", name);
    struct stat st;
    if (fstat(fd, &st))
        return err_errno(e, errno, "stat %s", name);
    if (!S_ISREG(st.st_mode))
        return err_set(e, -EINVAL, "%s is not a regular file", name);
    if ((uint64_t)st.st_size > max)
        return err_set(e, -EFBIG, "%s: %lld bytes, more than the %zu that make sense here", name, (long long)st.st_size, max);
    size_t size = (size_t)st.st_size, at = 0;
    _cleanup_free_ char *buf = malloc(size + 1);
    if (!buf)
        return err_errno(e, ENOMEM, "read %s", name);
    while (at < size) { /* a file that shrinks meanwhile just ends earlier */
        ssize_t k = read(fd, buf + at, size - at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return err_errno(e, errno, "read %s", name);
        if (k == 0)
            break;
        at += (size_t)k;
    }
    buf[at] = 0;
    *data = steal_ptr(&buf);
    *n = at;
    return 0;
}
