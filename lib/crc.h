/* Checksums (isa-l does the work; tables are not ours). Thread-safe, no state. */
#ifndef EDGEFS_CRC_H
#define EDGEFS_CRC_H

#include <stddef.h>
#include <stdint.h>

/* Set in every LTX checksum, so that none is zero. */
#define CHECKSUM_FLAG (UINT64_C(1) << 63)

/* CRC-64/ISO as Go's hash/crc64 computes it ("123456789" → b90956c775a41001). Start with crc = 0; feed pieces in order, each
 * with what the one before returned. p may be NULL if n is 0. */
uint64_t crc64_iso(uint64_t crc, const void *p, size_t n);

/* CRC-32C (Castagnoli, RFC 3720 §B.4: "123456789" → e3069283). Start and continue as above. */
uint32_t crc32c(uint32_t crc, const void *p, size_t n);

/* Page checksum: CRC-64/ISO over pgno as big-endian u32, then the page's bytes; bit 63 set. LTX format. */
uint64_t page_checksum(uint32_t pgno, const void *page, size_t page_size);

/* Page number of the lock page (the one with byte 1 GiB), which never belongs to a checksum. SQLite file format §1.4. */
static inline uint32_t lock_pgno(uint32_t page_size)
{
    return page_size ? 0x40000000u / page_size + 1 : 0; /* page size 0: no database yet, no lock page */
}

#endif
