#include "edgefs/position.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>

void position_format(struct position p, char *buf)
{
    snprintf(buf, POSITION_TEXT_MAX, "%" PRIu64 "-%" PRIu64, p.epoch, p.lsn);
}

/* A decimal number that is all of text[0..n). One spelling for each number: no leading zero. */
static bool parse_u64(const char *text, unsigned long n, uint64_t *out)
{
    uint64_t v = 0;
    if (n == 0 || (n > 1 && text[0] == '0'))
        return false;
    for (unsigned long i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
            __builtin_add_overflow(v, (uint64_t)(text[i] - '0'), &v))
            return false;
    }
    *out = v;
    return true;
}

int position_parse(const char *text, unsigned long n, struct position *p)
{
    struct position got;
    unsigned long dash = 0;
    if (n >= POSITION_TEXT_MAX)
        return -EINVAL;
    while (dash < n && text[dash] != '-')
        dash++;
    if (dash == n || !parse_u64(text, dash, &got.epoch) || !parse_u64(text + dash + 1, n - dash - 1, &got.lsn))
        return -EINVAL;
    *p = got;
    return 0;
}
