/* Buffers for heads and bodies, from free lists: an idle connection holds none. Two sizes. The event loop's thread. */
#ifndef EDGEFS_PROXY_BUF_H
#define EDGEFS_PROXY_BUF_H

#include <stddef.h>
#include <stdint.h>

#define BUF_SMALL (20u << 10) /* a head of the largest size with what is added to it; bodies of ordinary size */
#define BUF_LARGE (256u << 10) /* bodies that are longer; half of it costs a tenth of the throughput (docs/performance.md) */
#define BUF_READ_HEAD (16u << 10) /* of a small one, for reading heads: the rest is room for what is added */

struct buf {
    struct buf *next; /* in the free list */
    uint32_t size;
    uint32_t refs;
    char data[];
};

struct buf *buf_get(uint32_t size); /* BUF_SMALL or BUF_LARGE; one reference. NULL: no memory */
static inline struct buf *buf_ref(struct buf *b)
{
    b->refs++;
    return b;
}
void buf_put(struct buf *b); /* NULL is fine */
/* How many are in use, both sizes. */
size_t buf_in_use(void);
/* Once a second: gives back to the system what the last second did not need. */
void buf_tick(void);

#endif
