/* Page checksums of a database file that comes in pieces of any length, in order. No thread of its own; one user at a time. */
#ifndef EDGEFS_PAGESUMS_H
#define EDGEFS_PAGESUMS_H

#include "lib/err.h"
#include <stddef.h>
#include <stdint.h>

struct pagesums { /* zeroed before pagesums_begin */
    uint32_t page_size, commit; /* bytes; pages that will come */
    uint32_t pages;             /* that have come, whole */
    uint64_t checksum;          /* of those: the database checksum when pages == commit */
    uint64_t *sums;             /* commit of them; whoever takes it sets it to NULL */
    uint8_t *page;
    uint32_t page_len;
};

/* first: the beginning of the file (n bytes; it is to be given to pagesums_add as well), size: how long it will be. ERR_NOT_DATABASE: it is no whole
 * number of pages, or first is shorter than a database's header; -ENOMEM. */
int pagesums_begin(struct pagesums *s, const uint8_t *first, size_t n, int64_t size, struct err *e);
/* No more than the announced size in all. */
void pagesums_add(struct pagesums *s, const uint8_t *p, size_t n);
/* Also without pagesums_begin, and after it has failed. */
void pagesums_free(struct pagesums *s);

#endif
