/* Layouts of SQLite's database header and write-ahead log. https://sqlite.org/fileformat2.html §1.3 and §4. Pure functions. */
#ifndef EDGEFS_SQLITEFILE_H
#define EDGEFS_SQLITEFILE_H

#include "lib/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DBFILE_HEADER_SIZE 100u

struct dbfile_header {
    uint32_t page_size;      /* bytes, 512..65536 */
    uint32_t page_count;     /* "in-header database size"; may be stale, see §1.3.7 */
    bool page_count_valid;   /* change counter equals version-valid-for, and page_count is not 0 */
    uint8_t write_version;   /* 1: rollback journal, 2: WAL */
    uint8_t read_version;
};

/* Decodes the first n bytes of a database file. 0, or ERR_NOT_DATABASE (shorter than 100 bytes, as an empty database is; wrong magic;
 * impossible page size) and *h untouched. */
int dbfile_header_decode(const void *p, size_t n, struct dbfile_header *h);

/* Pages of a database whose file is size bytes long: what its header says, if that is valid and the file has as many (a transaction that shrank the database
 * cuts the file only after its journal has ended); otherwise what the file has, a last one that is cut off included. */
uint32_t dbfile_pages(const struct dbfile_header *h, int64_t size);

/* Freelist (§1.5): a trunk page holds the next trunk's number, a count, and that many numbers of leaf pages. A page that a transaction takes from the list
 * is written without having been journaled, since its contents meant nothing: only the trunk that named it is in the journal.
 *
 * How many leaves page would name if it were a trunk, in a database of page_count pages; -1: it is none. A page of another kind may look
 * like one by chance, so this only says what may be. */
int freelist_trunk_leaves(const uint8_t *page, uint32_t page_size, uint32_t page_count);
/* Number of leaf i (0 …) of such a page. */
uint32_t freelist_leaf(const uint8_t *page, int i);

#define WAL_HEADER_SIZE 32u
#define WAL_FRAME_HEADER_SIZE 24u

struct wal_header {
    bool big_endian; /* checksums are computed over big-endian words: magic 0x377f0683 */
    uint32_t page_size;
    uint32_t checkpoint_seq;
    uint32_t salt1, salt2; /* as numbers: decoded big-endian */
    uint32_t cksum[2];     /* of the header; where the frames' chain begins */
};

struct wal_frame_header {
    uint32_t pgno;
    uint32_t commit; /* database size in pages for a commit frame, otherwise 0 */
    uint32_t salt1, salt2;
    uint32_t cksum[2];
};

/* SQLite's WAL checksum of n bytes (multiple of 8) continued from in[2] to out[2] (may be the same). */
void wal_checksum(bool big_endian, const void *p, size_t n, const uint32_t in[2], uint32_t out[2]);

/* 0 or ERR_CORRUPT (magic, version, page size, checksum) and *h untouched. */
int wal_header_decode(const uint8_t buf[WAL_HEADER_SIZE], struct wal_header *h);
/* Fills in h->cksum too. */
void wal_header_encode(struct wal_header *h, uint8_t buf[WAL_HEADER_SIZE]);

void wal_frame_header_decode(const uint8_t buf[WAL_FRAME_HEADER_SIZE], struct wal_frame_header *f);
/* Encodes the header of the frame that carries page, continuing the chain: cksum is the previous frame's (or the WAL header's)
 * and becomes this frame's. */
void wal_frame_header_encode(const struct wal_header *h, uint32_t pgno, uint32_t commit, const void *page, uint32_t cksum[2],
                             uint8_t buf[WAL_FRAME_HEADER_SIZE]);
/* True if the frame (header and page) continues the chain of cksum, carries h's salts and a page number; then cksum becomes the
 * frame's, otherwise it is untouched. */
bool wal_frame_check(const struct wal_header *h, const uint8_t header[WAL_FRAME_HEADER_SIZE], const void *page, uint32_t cksum[2]);

/* Byte offset of frame n (1-based) in the WAL. */
static inline int64_t wal_frame_offset(uint32_t n, uint32_t page_size)
{
    return (int64_t)WAL_HEADER_SIZE + (int64_t)(n - 1) * (int64_t)(WAL_FRAME_HEADER_SIZE + page_size);
}

#endif
