#include "lib/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    int number;
    const char *text;
} table[] = {
#define X(name, number, text) {number, text},
    ERR_TABLE(X)
#undef X
};

const char *err_name(int code)
{
    static _Thread_local char buf[128];
    int n = abs(code);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i].number == n)
            return table[i].text;
    return strerror_r(n, buf, sizeof buf);
}

static void mark_truncation(struct err *e, int wanted)
{
    static const char dots[] = "\xe2\x80\xa6"; /* … */
    if (wanted >= (int)sizeof e->text)
        memcpy(e->text + sizeof e->text - sizeof dots, dots, sizeof dots);
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    if (!e)
        return code;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    mark_truncation(e, n);
    e->code = code;
    return code;
}

int err_errno(struct err *e, int errnum, const char *fmt, ...)
{
    if (!e)
        return -errnum;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    if (n >= 0 && n < (int)sizeof e->text)
        n += snprintf(e->text + n, sizeof e->text - (size_t)n, ": %s", err_name(errnum));
    mark_truncation(e, n);
    e->code = -errnum;
    return -errnum;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
    if (!e)
        return -1;
    char old[ERR_TEXT_MAX];
    memcpy(old, e->text, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    if (n >= 0 && n < (int)sizeof e->text)
        n += snprintf(e->text + n, sizeof e->text - (size_t)n, ": %s", old);
    mark_truncation(e, n);
    return e->code;
}
