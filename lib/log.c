#include "lib/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char who[128] = "edgefs";
static enum log_level lowest_level = LOG_LEVEL_INFO;
static const char *const names[] = {"debug", "info", "warn", "error"};

void log_init(const char *program, const char *node, enum log_level lowest)
{
    if (node && *node)
        snprintf(who, sizeof who, "%s[%s]", program, node);
    else
        snprintf(who, sizeof who, "%s", program);
    lowest_level = lowest;
}

int log_level_parse(const char *name, enum log_level *level)
{
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(name, names[i])) {
            *level = (enum log_level)i;
            return 0;
        }
    return -EINVAL;
}

void log_write(enum log_level level, const char *component, const char *fmt, ...)
{
    if (level < lowest_level)
        return;
    int saved = errno;
    char line[1400];
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
    int k = snprintf(line + n, sizeof line - n, ".%03ldZ %s %s %s: ", now.tv_nsec / 1000000, who, names[level], component);
    n += (size_t)k;
    va_list ap;
    va_start(ap, fmt);
    k = vsnprintf(line + n, sizeof line - n - 1, fmt, ap);
    va_end(ap);
    n = k < 0 ? n : (size_t)k < sizeof line - n - 1 ? n + (size_t)k : sizeof line - 2;
    for (size_t i = 0; i < n; i++) /* one event, one line: what strangers sent must not forge another */
        if ((unsigned char)line[i] < 0x20)
            line[i] = ' ';
    line[n++] = '\n';
    /* One write a line, so that lines of several processes on one descriptor do not mix. Nothing can be done on failure. */
    if (write(STDERR_FILENO, line, n) < 0) {
    }
    errno = saved;
}
