/* How long to wait before a program that died is started again: not at all if it had lived for a while, else longer each time. */
#ifndef EDGEFS_LAUNCHER_BACKOFF_H
#define EDGEFS_LAUNCHER_BACKOFF_H

#include <stdint.h>

#define BACKOFF_LIVED_NS UINT64_C(300000000) /* who lives that long did not die of its start */
#define BACKOFF_FIRST_MS 10u
#define BACKOFF_LAST_MS 400u /* back within a second, whatever happens */

struct backoff {
    uint32_t delay_ms; /* of the last death; 0: none yet, or it had lived long enough */
};

/* Milliseconds to wait, after a life of lived_ns. */
static inline uint32_t backoff_next(struct backoff *b, uint64_t lived_ns)
{
    if (lived_ns >= BACKOFF_LIVED_NS)
        b->delay_ms = 0;
    else if (b->delay_ms == 0)
        b->delay_ms = BACKOFF_FIRST_MS;
    else
        b->delay_ms = b->delay_ms * 2 < BACKOFF_LAST_MS ? b->delay_ms * 2 : BACKOFF_LAST_MS;
    return b->delay_ms;
}

#endif
