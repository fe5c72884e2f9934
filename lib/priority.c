#include "lib/priority.h"

#include "lib/util.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>

void priority_set(int nice)
{
    char text[16];
    int n = snprintf(text, sizeof text, "%d", nice);
    if (setpriority(PRIO_PROCESS, 0, nice))
        return;
    _cleanup_fd_ int fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, text, (size_t)n) < 0) { /* no CAP_SYS_ADMIN, or asked too often: the group keeps its share */
    }
}
