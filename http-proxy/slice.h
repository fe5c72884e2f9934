/* Counted bytes that belong to somebody else. Never NUL-terminated by promise. */
#ifndef EDGEFS_PROXY_SLICE_H
#define EDGEFS_PROXY_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

struct slice {
    const char *p;
    size_t n;
};

#define SLICE(literal) ((struct slice){"" literal, sizeof(literal) - 1})

static inline bool slice_equal(struct slice a, struct slice b)
{
    return a.n == b.n && !memcmp(a.p, b.p, a.n);
}

/* ASCII letters without regard to their case: names of fields, tokens. */
static inline bool slice_equal_case(struct slice a, struct slice b)
{
    return a.n == b.n && !strncasecmp(a.p, b.p, a.n);
}

#endif
