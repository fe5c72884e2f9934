/* LTX, format version 3: the file format of LiteFS and Litestream (github.com/superfly/ltx, releases 0.5) for a range of
 * transactions of one database. All integers big-endian.
 *
 *   header, 100 bytes
 *   offset size
 *        0    4  magic "LTX1"
 *        4    4  flags: bit 1 (LTX_NO_CHECKSUM): database checksums are not kept, both are 0
 *        8    4  page size, bytes
 *       12    4  commit: size of the database afterwards, in pages
 *       16    8  first TXID
 *       24    8  last TXID
 *       32    8  timestamp, ms since 1970
 *       40    8  database checksum before (bit 63 set); 0 in a snapshot (first TXID 1)
 *       48    8  offset in the original WAL; 0: not from a WAL, and then the next three are 0 too
 *       56    8  size of that stretch of WAL, bytes
 *       64    4  salt-1 of that WAL
 *       68    4  salt-2
 *       72    8  node id; 0: none
 *       80   20  zero
 *
 *   one page frame for each page, page numbers ascending
 *        0    4  page number, 1..commit, never the lock page
 *        4    2  flags: 1: the size follows and the data is one LZ4 block. (Without it the data is an LZ4 frame, as earlier
 *                writers of the format had it: not read here.)
 *        6    4  n, size of the data
 *       10    n  LZ4 block; decompresses to exactly one page
 *   6 zero bytes: no more pages
 *
 *   page index: for each page frame three unsigned varints (7 bits a byte, lowest first, bit 7: another follows): page number, offset
 *   of the frame in the file, size of the frame (10 + n); then one zero byte
 *        0    8  size of the page index, that zero byte included
 *
 *   trailer, 16 bytes
 *        0    8  database checksum afterwards (bit 63 set)
 *        8    8  file checksum: CRC-64/ISO, bit 63 set, of all bytes above, but with each page's *decompressed* bytes in place
 *                of its LZ4 block
 *
 * A file whose first TXID is 1 is a *snapshot*: it starts from nothing, so it holds every page 1..commit (but the lock page), and
 * its database checksum must be the XOR of its pages' checksums. A first transaction that does not have all pages at hand
 * (SQLite need not write pages that it frees again) is therefore written as TXID 2, with CHECKSUM_FLAG, the checksum of
 * an empty database, as the one before.
 *
 * What the file checksum cannot see: LZ4 blocks that differ and decompress to the same page. Every other flipped bit is found.
 * (The records that carry LTX files have a CRC-32C of the bytes as they are.)
 *
 * Encoder and decoder stream: memory does not grow with the number of pages but for the encoder's page index (some 10 bytes a page,
 * until the end). Nothing is allocated for each page. Neither blocks but in write_fn and read_fn. Not thread-safe; one
 * object, one thread. */
#ifndef EDGEFS_LTX_H
#define EDGEFS_LTX_H

#include "lib/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LTX_HEADER_SIZE 100u
#define LTX_TRAILER_SIZE 16u
#define LTX_NO_CHECKSUM 2u /* flag: no database checksums in header and trailer */

struct ltx_header {
    uint32_t flags;     /* 0 or LTX_NO_CHECKSUM */
    uint32_t page_size; /* bytes, power of two, 512..65536 */
    uint32_t commit;    /* size of the database after it, in pages; 0: the database is empty */
    uint64_t min_txid, max_txid;
    int64_t timestamp_ms;    /* since 1970 */
    uint64_t pre_checksum;   /* 0 when min_txid is 1 (a snapshot) */
    int64_t wal_offset;      /* of the first frame in the original WAL; 0: not from a WAL */
    int64_t wal_size;        /* bytes */
    uint32_t wal_salt1, wal_salt2;
    uint64_t node_id;
};

struct ltx_trailer {
    uint64_t post_checksum;
    uint64_t file_checksum;
};

/* 0 or ERR_CORRUPT with a message that names the field. */
int ltx_header_check(const struct ltx_header *h, struct err *e);
void ltx_header_encode(const struct ltx_header *h, uint8_t buf[LTX_HEADER_SIZE]);
/* Decodes and checks. 0, or ERR_CORRUPT and *h untouched. */
int ltx_header_decode(const uint8_t buf[LTX_HEADER_SIZE], struct ltx_header *h, struct err *e);

/* Takes the next n bytes of the file, in order (pieces of up to 128 KiB, or one larger page index). 0, or a negative code with
 * e set, which ends the encoding. p is valid during the call only. */
typedef int (*ltx_write_fn)(void *ctx, const void *p, size_t n, struct err *e);

/* After an error from any of the ltx_encode_ functions the file is void: only ltx_encode_begin (or free) may follow. */
struct ltx_encoder;
/* Allocates an encoder (150 KiB) to be used again and again. NULL: out of memory. */
struct ltx_encoder *ltx_encoder_new(void);
/* NULL is allowed. Needs no end before. */
void ltx_encoder_free(struct ltx_encoder *enc);

/* Starts a file (giving up one that was not ended). ERR_CORRUPT if h is not valid (ltx_header_check). write_fn and ctx are used until
 * the end; h is copied. */
int ltx_encode_begin(struct ltx_encoder *enc, const struct ltx_header *h, ltx_write_fn write_fn, void *ctx, struct err *e);
/* Pages in strictly ascending pgno, 1..commit, never the lock page; all of them if min_txid is 1. page is header.page_size bytes,
 * used during the call only. 0, ERR_CORRUPT (order), -ENOMEM, -EINVAL (no file begun) or write_fn's code. */
int ltx_encode_page(struct ltx_encoder *enc, uint32_t pgno, const void *page, struct err *e);
/* Page index and trailer. post_checksum has bit 63 set; it is CHECKSUM_FLAG if commit is 0, and 0 with LTX_NO_CHECKSUM. Everything has been
 * given to write_fn when it returns 0. Errors as ltx_encode_page. */
int ltx_encode_end(struct ltx_encoder *enc, uint64_t post_checksum, struct err *e);

/* Gives up to n bytes; returns how many (>0), 0 at end of file, or a negative code with e set. Never asked for bytes beyond the LTX
 * file, so another may follow in the same stream. */
typedef long (*ltx_read_fn)(void *ctx, void *p, size_t n, struct err *e);

/* Bytes are not trusted: any input ends in an error or in a file that is right. After an error only a begin (or free) may follow. */
struct ltx_decoder;
/* Allocates a decoder (130 KiB) to be used again and again. NULL: out of memory. */
struct ltx_decoder *ltx_decoder_new(void);
/* NULL is allowed. */
void ltx_decoder_free(struct ltx_decoder *dec);

/* Starts to read a file and decodes its header. ERR_CORRUPT for bad data, or read_fn's code. */
int ltx_decode_begin(struct ltx_decoder *dec, ltx_read_fn read_fn, void *ctx, struct ltx_header *h, struct err *e);
/* Same, from n bytes in memory, which must stay until the end; the fast way for small files. */
int ltx_decode_begin_memory(struct ltx_decoder *dec, const void *p, size_t n, struct ltx_header *h, struct err *e);
/* Next page: 1 and *pgno, *page (page_size bytes, aligned to 1, valid until the next call); 0: no more pages, call ltx_decode_end;
 * negative: ERR_CORRUPT or the reader's code. Nothing that was given may be relied on before ltx_decode_end says 0. */
int ltx_decode_page(struct ltx_decoder *dec, uint32_t *pgno, const uint8_t **page, struct err *e);
/* Checks page index, file checksum, a snapshot's database checksum, and that nothing follows (memory form). */
int ltx_decode_end(struct ltx_decoder *dec, struct ltx_trailer *t, struct err *e);

#endif
