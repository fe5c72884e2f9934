#include "lib/walindex.h"

#include <errno.h>
#include <fcntl.h>

/* OFD locks conflict with POSIX locks (SQLite's) exactly as locks of another process would, but belong to the open file
 * description: closing some other descriptor of the same file does not drop them. fcntl(2). */
int lock_range(int fd, short type, int64_t start, int64_t len)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len, .l_pid = 0};
    while (fcntl(fd, F_OFD_SETLK, &l) < 0) {
        if (errno == EINTR)
            continue;
        return errno == EACCES ? -EAGAIN : -errno;
    }
    return 0;
}
