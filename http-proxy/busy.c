#include "http-proxy/busy.h"

#include "lib/util.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define SHORT_PERCENT 90  /* of its time: from here on it is short of it … */
#define ENOUGH_PERCENT 30 /* … until here: what splicing needs that much time for, copying would need less than 90 % for */

static struct {
    uint64_t at_ns, needed_ns; /* of the last tick; 0: there was none */
    bool is_short;
} busy;

bool busy_judge(bool was, uint64_t needed_ns, uint64_t passed_ns)
{
    uint64_t percent = passed_ns ? needed_ns * 100 / passed_ns : 0;
    return was ? percent > ENOUGH_PERCENT : percent >= SHORT_PERCENT;
}

/* Nanoseconds that this thread ran or was ready to run. A kernel that does not say the latter: that it ran. */
static uint64_t needed(void)
{
    char text[128];
    uint64_t ran, waited;
    int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (n > 0) {
        text[n] = 0;
        if (sscanf(text, "%" SCNu64 " %" SCNu64, &ran, &waited) == 2)
            return ran + waited;
    }
    struct timespec t;
    return clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) ? 0 : (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void busy_tick(void)
{
    uint64_t now = now_ns(), n = needed();
    if (busy.at_ns && now > busy.at_ns && n >= busy.needed_ns)
        busy.is_short = busy_judge(busy.is_short, n - busy.needed_ns, now - busy.at_ns);
    busy.at_ns = now;
    busy.needed_ns = n;
}

bool busy_short(void)
{
    return busy.is_short;
}
