/* A binary min-heap of pointers to objects that know their place in it, so that any of them can be taken out. One thread. */
#ifndef EDGEFS_PROXY_HEAP_H
#define EDGEFS_PROXY_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct heap {
    void **items; /* items[1..n] */
    unsigned n, size;
    size_t key, place; /* offsets in an item: uint64_t by which it is ordered; unsigned, its index, 0 when in none */
};

/* Room for one more; false: no memory. */
bool heap_reserve(struct heap *h);
/* After heap_reserve. */
void heap_add(struct heap *h, void *item);
/* Harmless if it is not in it. */
void heap_remove(struct heap *h, void *item);
static inline void *heap_first(const struct heap *h)
{
    return h->n ? h->items[1] : NULL;
}
/* The keys of any number of items have changed. */
void heap_rebuild(struct heap *h);
void heap_free(struct heap *h);

#endif
