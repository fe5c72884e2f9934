/* Header fields that the proxy adds to one message: complete lines in a bounded buffer. Policy modules add, the engine sends. */
#ifndef EDGEFS_PROXY_EXTRA_H
#define EDGEFS_PROXY_EXTRA_H

#include "http-proxy/slice.h"

#define EXTRA_MAX 1536

struct extra {
    size_t n;
    char buf[EXTRA_MAX];
};

static inline void extra_clear(struct extra *x)
{
    x->n = 0;
}

/* Adds "name: value\r\n"; the caller vouches for the characters. false, and nothing is added, if there is no room. */
static inline bool extra_add(struct extra *x, struct slice name, struct slice value)
{
    if (x->n + name.n + value.n + 4 > EXTRA_MAX)
        return false;
    char *p = x->buf + x->n;
    memcpy(p, name.p, name.n);
    p += name.n;
    *p++ = ':';
    *p++ = ' ';
    memcpy(p, value.p, value.n);
    p += value.n;
    *p++ = '\r';
    *p++ = '\n';
    x->n = (size_t)(p - x->buf);
    return true;
}

#endif
