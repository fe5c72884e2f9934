/* A position says where a node's copy of the whole cluster stands: (epoch, LSN). docs/ARCHITECTURE.md, "Words". */
#ifndef EDGEFS_POSITION_H
#define EDGEFS_POSITION_H

#include <stdint.h>

struct position {
    uint64_t epoch; /* +1 whenever a node becomes primary; 0: no epoch yet (an empty node) */
    uint64_t lsn;   /* +1 for each log record; 0: no record yet */
};

/* -1, 0 or 1: epochs compare first. Meaningful only between positions of one history. */
static inline int position_compare(struct position a, struct position b)
{
    if (a.epoch != b.epoch)
        return a.epoch < b.epoch ? -1 : 1;
    return a.lsn < b.lsn ? -1 : a.lsn > b.lsn;
}

#define POSITION_TEXT_MAX 42 /* two decimal u64, the dash, NUL */

/* Writes "EPOCH-LSN" in decimal, NUL-terminated; buf holds POSITION_TEXT_MAX bytes. lib/position.c. */
void position_format(struct position p, char *buf);

/* Parses exactly "EPOCH-LSN" (decimal, no sign, no blanks, no leading zeros, no overflow: what position_format writes) of n bytes,
 * which need not be NUL-terminated. 0, or -EINVAL and *p untouched. */
int position_parse(const char *text, unsigned long n, struct position *p);

#endif
