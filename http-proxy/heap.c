#include "http-proxy/heap.h"

#include <stdlib.h>
#include <string.h>

static uint64_t key(const struct heap *h, unsigned i)
{
    uint64_t k;
    memcpy(&k, (const char *)h->items[i] + h->key, sizeof k);
    return k;
}

static unsigned *place(const struct heap *h, void *item)
{
    return (unsigned *)(void *)((char *)item + h->place);
}

static void put(struct heap *h, unsigned i, void *item)
{
    h->items[i] = item;
    *place(h, item) = i;
}

static void swap(struct heap *h, unsigned a, unsigned b)
{
    void *x = h->items[a];
    put(h, a, h->items[b]);
    put(h, b, x);
}

static void up(struct heap *h, unsigned i)
{
    for (; i > 1 && key(h, i) < key(h, i / 2); i /= 2)
        swap(h, i, i / 2);
}

static void down(struct heap *h, unsigned i)
{
    for (;;) {
        unsigned child = 2 * i;
        if (child > h->n)
            return;
        if (child < h->n && key(h, child + 1) < key(h, child))
            child++;
        if (key(h, i) <= key(h, child))
            return;
        swap(h, i, child);
        i = child;
    }
}

bool heap_reserve(struct heap *h)
{
    if (h->n + 1 < h->size)
        return true;
    unsigned size = h->size ? h->size * 2 : 64;
    void **p = realloc(h->items, size * sizeof *p);
    if (!p)
        return false;
    h->items = p;
    h->size = size;
    return true;
}

void heap_add(struct heap *h, void *item)
{
    put(h, ++h->n, item);
    up(h, h->n);
}

void heap_remove(struct heap *h, void *item)
{
    unsigned i = *place(h, item);
    if (!i)
        return;
    *place(h, item) = 0;
    void *last = h->items[h->n--];
    if (last == item)
        return;
    put(h, i, last);
    up(h, i);
    down(h, *place(h, last));
}

void heap_rebuild(struct heap *h)
{
    for (unsigned i = h->n / 2; i; i--)
        down(h, i);
}

void heap_free(struct heap *h)
{
    free(h->items);
    h->items = NULL;
    h->n = h->size = 0;
}
