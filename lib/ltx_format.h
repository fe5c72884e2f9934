/* What LTX encoder and decoder share: sizes, page index entries, order of pages. Private to lib/ltx_*.c; layout in ltx.h. */
#ifndef EDGEFS_LTX_FORMAT_H
#define EDGEFS_LTX_FORMAT_H

#include "lib/ltx.h"
#include "lib/util.h"

#define LTX_PAGE_HEADER_SIZE 6u
#define LTX_PAGE_HEAD_SIZE (LTX_PAGE_HEADER_SIZE + 4u) /* with the size of the LZ4 block */
#define LTX_PAGE_FLAG_SIZE 1u
#define LTX_PAGE_SIZE_MAX 65536u
/* Largest LZ4 block of n bytes: LZ4_COMPRESSBOUND as a constant of its own type. */
#define LTX_BLOCK_MAX(n) ((n) + (n) / 255u + 16u)
#define LTX_INDEX_ENTRY_MAX 25u /* varints of 5, 10 and 10 bytes at most */

/* Writes the page index entry of one page frame (offset in the file, size in bytes). Returns its length. */
static inline size_t ltx_index_entry(uint32_t pgno, uint64_t offset, uint64_t size, uint8_t buf[LTX_INDEX_ENTRY_MAX])
{
    const uint64_t value[3] = {pgno, offset, size};
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_SIZE(value); i++) {
        uint64_t v = value[i];
        for (; v >= 0x80; v >>= 7)
            buf[n++] = (uint8_t)(v | 0x80);
        buf[n++] = (uint8_t)v;
    }
    return n;
}

/* Whether page pgno may follow page prev (0: none yet) in a file with this header. 0 or ERR_CORRUPT. */
int ltx_order_check(const struct ltx_header *h, uint32_t prev, uint32_t pgno, struct err *e);

/* Whether the pages may end after prev (a snapshot holds all), and whether post_checksum has the right form. 0 or ERR_CORRUPT. */
int ltx_end_check(const struct ltx_header *h, uint32_t prev, uint64_t post_checksum, struct err *e);

#endif
