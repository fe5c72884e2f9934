/* Pipes that long bodies go through without being copied (splice(2)): from a socket into the pipe, from there into the other socket; what moves are
 * references to the kernel's own buffers. From a free list, as buffers are (buf.h). The event loop's thread. */
#ifndef EDGEFS_PROXY_PIPE_H
#define EDGEFS_PROXY_PIPE_H

#include <stdbool.h>
#include <stddef.h>

#define PIPE_BYTES (256u << 10) /* at most in one at a time */

struct pipe {
    struct pipe *next; /* in the free list */
    int in, out;       /* written to, read from; non-blocking */
    size_t n;          /* bytes in it; the caller's to keep */
};

/* An empty one. NULL: there are enough in use, or no descriptors are left; then bytes have to be copied. */
struct pipe *pipe_get(void);
/* Not empty: what is in it is dropped. NULL is fine. */
void pipe_put(struct pipe *p);
/* Once a second: closes what the last second did not need. */
void pipe_tick(void);

#endif
