/* Small things every file needs: scoped clean-up, byte order, time. No state. */
#ifndef EDGEFS_UTIL_H
#define EDGEFS_UTIL_H

#include <endian.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#define cleanup(f) __attribute__((cleanup(f)))

static inline void cleanup_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
static inline void cleanup_free(void *p)
{
    free(*(void **)p);
}
#define _cleanup_fd_ cleanup(cleanup_fd)
#define _cleanup_free_ cleanup(cleanup_free)

/* Gives the descriptor or pointer away: the variable's clean-up then does nothing. */
static inline int steal_fd(int *fd)
{
    int f = *fd;
    *fd = -1;
    return f;
}
static inline void *steal_ptr(void *pp)
{
    void *p = *(void **)pp;
    *(void **)pp = NULL;
    return p;
}

/* Big-endian fields at any alignment. */
static inline uint16_t be16_get(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return be16toh(v);
}
static inline uint32_t be32_get(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return be32toh(v);
}
static inline uint64_t be64_get(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return be64toh(v);
}
static inline void be16_put(void *p, uint16_t v)
{
    v = htobe16(v);
    memcpy(p, &v, sizeof v);
}
static inline void be32_put(void *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof v);
}
static inline void be64_put(void *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof v);
}

/* Nanoseconds of CLOCK_MONOTONIC. */
static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
/* Microseconds of the wall clock. */
static inline uint64_t wall_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

#endif
