#include "http-proxy/buf.h"

#include <stdlib.h>

struct pool {
    struct buf *free;
    size_t n_free, used, low; /* low: fewest free ones since the last tick: they were not needed */
};

static struct pool small, large;

static struct pool *pool_of(uint32_t size)
{
    return size == BUF_SMALL ? &small : &large;
}

struct buf *buf_get(uint32_t size)
{
    struct pool *p = pool_of(size);
    struct buf *b = p->free;
    if (b) {
        p->free = b->next;
        if (--p->n_free < p->low)
            p->low = p->n_free;
    } else if ((b = malloc(sizeof *b + size))) {
        b->size = size;
    } else {
        return NULL;
    }
    p->used++;
    b->refs = 1;
    return b;
}

void buf_put(struct buf *b)
{
    if (!b || --b->refs)
        return;
    struct pool *p = pool_of(b->size);
    b->next = p->free;
    p->free = b;
    p->n_free++;
    p->used--;
}

size_t buf_in_use(void)
{
    return small.used + large.used;
}

static void trim(struct pool *p)
{
    for (; p->low && p->free; p->low--) {
        struct buf *b = p->free;
        p->free = b->next;
        p->n_free--;
        free(b);
    }
    p->low = p->n_free;
}

void buf_tick(void)
{
    trim(&small);
    trim(&large);
}
