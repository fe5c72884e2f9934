/* Image format (GET /v1/databases/NAME/image?format=pages), big-endian:
 *
 *   header, 32 bytes: "EFI1", page size u32, commit u32 (pages), flags u32 (0), start epoch u64, start LSN u64
 *   chunk: first page number u32 (≥ 1), number of pages u32 (1..4096), CRC-32C of the bytes u32, 0 u32, then number × page size bytes;
 *          pages may come more than once (the later one counts) and in any order
 *   end, 56 bytes: first page number 0 u32, commit u32, page size u32, 0 u32, end LSN u64, TXID u64, checksum u64, LSN with which the file began u64 (born in
 *          struct dbstate), CRC-32C of the 48 bytes before u32, 0 u32
 *
 * The pages are read while the database is being written, each compared with its tracked checksum at that moment. So a page is either as it
 * was at some LSN between start and end, or it is missing because it kept changing: then a record after start holds it whole.
 * Whoever enters the pages of the records start+1 … end of this database over the image has exactly the state at end, and compares
 * checksums to be sure; if they differ he asks again. Nothing is locked, so a slow client holds up nobody. */
#ifndef EDGEFS_IMAGE_H
#define EDGEFS_IMAGE_H

#include <stdint.h>

#define IMAGE_MAGIC 0x45464931u /* "EFI1" */
#define IMAGE_HEADER_SIZE 32u
#define IMAGE_CHUNK_SIZE 16u
#define IMAGE_CHUNK_PAGES_MAX 4096u
#define IMAGE_END_SIZE 56u

struct image_header {
    uint32_t page_size, commit, flags;
    uint64_t epoch, lsn;
};
struct image_chunk {
    uint32_t pgno, pages, crc;
};
struct image_end {
    uint32_t commit, page_size;
    uint64_t lsn, txid, checksum, born;
};

void image_header_encode(const struct image_header *h, uint8_t buf[IMAGE_HEADER_SIZE]);
int image_header_decode(const uint8_t buf[IMAGE_HEADER_SIZE], struct image_header *h); /* 0 or ERR_CORRUPT */
void image_chunk_encode(const struct image_chunk *c, uint8_t buf[IMAGE_CHUNK_SIZE]);
/* 0: a chunk; 1: these are the first bytes of the end; ERR_CORRUPT */
int image_chunk_decode(const uint8_t buf[IMAGE_CHUNK_SIZE], struct image_chunk *c);
void image_end_encode(const struct image_end *e, uint8_t buf[IMAGE_END_SIZE]);
int image_end_decode(const uint8_t buf[IMAGE_END_SIZE], struct image_end *e);

#endif
