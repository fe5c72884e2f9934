#include "replicator/image/tempfile.h"

#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

int tempfile_open(struct node *n, struct err *e)
{
    int dir = openat(n->data_fd, LAYOUT_RUN, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return err_errno(e, errno, "%s/%s", n->config->data, LAYOUT_RUN);
    int fd = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) { /* a file system without O_TMPFILE: named for a moment */
        static atomic_uint counter;
        char name[64];
        snprintf(name, sizeof name, "temp.%d.%u", (int)getpid(), atomic_fetch_add(&counter, 1));
        fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd >= 0)
            unlinkat(dir, name, 0);
    }
    int rc = fd < 0 ? err_errno(e, errno, "temporary file in %s/%s", n->config->data, LAYOUT_RUN) : fd;
    close(dir);
    return rc;
}

int tempfile_write(int fd, const void *p, size_t n, int64_t *at, struct err *e)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = pwrite(fd, (const char *)p + done, n - done, *at + (off_t)done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return err_errno(e, k < 0 ? errno : ENOSPC, "temporary file");
        done += (size_t)k;
    }
    *at += (int64_t)n;
    return 0;
}
