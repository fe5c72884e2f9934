#include "lib/crc.h"

#include "lib/util.h"
#include <limits.h>
#include <stdbool.h>

#include <isa-l.h>

/* isa-l inverts the value on the way in and on the way out, as Go does: what it returned continues it. */
uint64_t crc64_iso(uint64_t crc, const void *p, size_t n)
{
    return crc64_iso_refl(crc, p, n);
}

/* crc32_iscsi() leaves both inversions to its caller, takes an int length, and lacks the const. */
uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
    const unsigned char *at = p;
    crc = ~crc;
    while (n > 0) {
        int piece = n > INT_MAX ? INT_MAX : (int)n;
        crc = crc32_iscsi((unsigned char *)(uintptr_t)at, piece, crc);
        at += piece;
        n -= (size_t)piece;
    }
    return ~crc;
}

uint64_t page_checksum(uint32_t pgno, const void *page, size_t page_size)
{
    uint8_t be[4];
    be32_put(be, pgno);
    return crc64_iso(crc64_iso(0, be, sizeof be), page, page_size) | CHECKSUM_FLAG;
}
