/* Which pages of two copies of a database differ, found without sending them: first one number for each 1,024 pages (a block), then, of the blocks that
 * differ, one for each page. So what travels is 8 bytes a block, 4 bytes a page of those blocks, and the pages.
 *
 *   GET  /v1/databases/NAME/blocks         answer: head, then a u64 for each block (the last one may be short)
 *   POST /v1/databases/NAME/blocks[?wide]  body: block numbers (0-based), u32 each, ascending, at most DIFFERENCE_ASK_MAX
 *                                          answer: head, then for each of these blocks that is there u32 number, u32 pages, and a u32 (wide: u64) a page
 *   POST /v1/databases/NAME/image?format=pages   body: ranges of pages, u32 first, u32 number each, ascending: image.h, of these pages only
 *
 * All numbers big-endian. Nothing is locked in between, and the database may be written all the time: `from` is an LSN before the first number was
 * taken, so whatever differs from these numbers later is in a record after it, as a whole page, and whoever enters the pages of the records from+1 … over
 * what he has is right (as with images; the checksum at the end tells).
 *
 * Why not the XOR of page checksums for a block: CRCs are linear, so the same change made to two pages would cancel out. Why a mixed number of 32 bits for a page
 * and not half of its checksum: the last bytes of a page reach only some bits of a CRC-64/ISO. Two that are equal by chance (1 in 4 billion for each page
 * that differs) show as a checksum of the whole that is wrong; the next try is `wide`: whole checksums. */
#ifndef EDGEFS_DIFFERENCE_H
#define EDGEFS_DIFFERENCE_H

#include <stdint.h>

#define DIFFERENCE_MAGIC 0x45464231u /* "EFB1" */
#define DIFFERENCE_HEAD_SIZE 64u
#define DIFFERENCE_BLOCK 1024u /* pages */
#define DIFFERENCE_ASK_MAX 1024u
#define DIFFERENCE_RANGES_MAX (1u << 20) /* ranges of pages in one request: 8 MiB */

struct difference_head {
    uint32_t page_size, commit; /* bytes, pages: of the state at lsn. Page size 0: no page yet */
    uint64_t epoch, from;       /* see above */
    uint64_t lsn, txid, checksum, born; /* the state (see struct dbstate) when the last number had been taken */
};

/* The numbers of a block and of a page, from page checksums as the sidecar has them (lock page: 0). */
uint64_t difference_block(const uint64_t *sums, uint32_t n);
uint32_t difference_page(uint64_t sum);
/* Blocks of a database of commit pages. */
static inline uint32_t difference_blocks(uint32_t commit)
{
    return commit / DIFFERENCE_BLOCK + (commit % DIFFERENCE_BLOCK != 0);
}

void difference_head_encode(const struct difference_head *h, uint8_t buf[DIFFERENCE_HEAD_SIZE]);
int difference_head_decode(const uint8_t buf[DIFFERENCE_HEAD_SIZE], struct difference_head *h); /* 0 or ERR_CORRUPT */

/* The next range of a body of n bytes (a multiple of 8), *at moving on. 1: first and number ≥ 1, behind all before it; 0: end; ERR_CORRUPT. */
int difference_range(const uint8_t *body, uint64_t n, uint64_t *at, uint32_t *first, uint32_t *number);

#endif
