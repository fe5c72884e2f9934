/* SQLite's rollback journal: which pages a transaction is about to change, and what they were. https://sqlite.org/fileformat2.html §3; what that page leaves
 * open is as in SQLite's pager.c (readJournalHdr, pager_playback).
 *
 * A journal is one or more segments. Each begins at a multiple of the sector size with a header that fills one sector, and holds records back to back: page
 * number (4), the page as it was (page size), checksum (4). A segment is closed, and another one begun, each time the journal is synced so that
 * pages can be written to the database in the middle of a transaction (cache spill).
 *
 * The header's count of records is 0 until the segment is synced, and 0xffffffff in a journal that is never synced (PRAGMA synchronous=OFF). A segment after the first
 * has no magic either until it is synced. In all these cases records go on as long as their checksums are right: the nonce in the header, new with each one, tells them from what an older
 * transaction has left in the file (PRAGMA journal_mode=PERSIST). In place of a page number, the number of the lock page announces the name of the
 * super-journal of a transaction over several databases; that ends the records. */
#ifndef EDGEFS_JOURNAL_H
#define EDGEFS_JOURNAL_H

#include "lib/err.h"
#include <stddef.h>
#include <stdint.h>

#define JOURNAL_HEADER_SIZE 28u /* bytes that mean something; the rest of the sector does not */
#define JOURNAL_RECORDS_UNKNOWN 0xffffffffu

struct journal_header {
    uint32_t records;     /* JOURNAL_RECORDS_UNKNOWN: see above */
    uint32_t nonce;
    uint32_t page_count;  /* size of the database before the transaction */
    uint32_t sector_size; /* bytes, 32..65536, a power of two */
    uint32_t page_size;   /* bytes, 512..65536 */
};

/* 0; ERR_CORRUPT: no journal header (short, magic, impossible sizes; a header that was zeroed: PERSIST after commit) and *h untouched. */
int journal_header_decode(const void *p, size_t n, struct journal_header *h);
/* Checksum of a record: the nonce plus every 200th byte of the page, counted from its end. */
uint32_t journal_checksum(uint32_t nonce, const void *page, uint32_t page_size);

struct journal; /* a reader with its buffer; can be used for any number of journals, one after the other; one thread */
struct journal *journal_new(void); /* NULL: no memory */
void journal_free(struct journal *j);

/* Reads n bytes at offset at into p: as many as there are, or -errno. */
typedef long journal_read_fn(void *ctx, void *p, size_t n, int64_t at);
/* Begins with a journal; *h becomes its first header. ERR_CORRUPT: there is none (no valid journal), -errno. */
int journal_begin(struct journal *j, journal_read_fn *read, void *ctx, struct journal_header *h, struct err *e);
/* The next record: 1, with *page valid until the next call; 0: that were all; -errno. A record that is torn, or that SQLite would not play back, ends the
 * journal. Page numbers are as in the file: not 0 and not the lock page, but perhaps beyond the database. */
int journal_next(struct journal *j, uint32_t *pgno, const uint8_t **page, struct err *e);
/* Offset in the file of the page that journal_next gave last. */
int64_t journal_page_at(const struct journal *j);

#endif
