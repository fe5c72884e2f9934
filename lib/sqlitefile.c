#include "lib/sqlitefile.h"

#include "lib/util.h"

#define WAL_MAGIC 0x377f0682u /* bit 0: checksums over big-endian words */
#define WAL_VERSION 3007000u

static bool page_size_valid(uint32_t size)
{
    return size >= 512 && size <= 65536 && (size & (size - 1)) == 0;
}

int dbfile_header_decode(const void *p, size_t n, struct dbfile_header *h)
{
    static const char magic[16] = "SQLite format 3";
    const uint8_t *b = p;
    if (n < DBFILE_HEADER_SIZE || memcmp(b, magic, sizeof magic) != 0)
        return ERR_NOT_DATABASE;
    uint32_t page_size = be16_get(b + 16);
    if (page_size == 1) /* 65536 does not fit the field */
        page_size = 65536;
    if (!page_size_valid(page_size))
        return ERR_NOT_DATABASE;
    h->page_size = page_size;
    h->write_version = b[18];
    h->read_version = b[19];
    h->page_count = be32_get(b + 28);
    h->page_count_valid = h->page_count != 0 && be32_get(b + 24) == be32_get(b + 92);
    return 0;
}

uint32_t dbfile_pages(const struct dbfile_header *h, int64_t size)
{
    uint32_t in_file = (uint32_t)((size + h->page_size - 1) / h->page_size);
    return h->page_count_valid && h->page_count <= in_file ? h->page_count : in_file;
}

uint32_t freelist_leaf(const uint8_t *page, int i)
{
    return be32_get(page + 8 + 4 * i);
}

int freelist_trunk_leaves(const uint8_t *page, uint32_t page_size, uint32_t page_count)
{
    uint32_t next = be32_get(page), n = be32_get(page + 4);
    if (next > page_count || n > page_size / 4 - 2)
        return -1;
    for (int i = 0; i < (int)n; i++)
        if (freelist_leaf(page, i) < 2 || freelist_leaf(page, i) > page_count)
            return -1;
    return (int)n;
}

static inline uint32_t load32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Two loops, so that neither decides per word. */
void wal_checksum(bool big_endian, const void *p, size_t n, const uint32_t in[2], uint32_t out[2])
{
    const uint8_t *at = p, *end = at + (n & ~(size_t)7);
    uint32_t s1 = in[0], s2 = in[1];
    if (big_endian == (__BYTE_ORDER == __BIG_ENDIAN)) {
        for (; at != end; at += 8) {
            s1 += load32(at) + s2;
            s2 += load32(at + 4) + s1;
        }
    } else {
        for (; at != end; at += 8) {
            s1 += __builtin_bswap32(load32(at)) + s2;
            s2 += __builtin_bswap32(load32(at + 4)) + s1;
        }
    }
    out[0] = s1;
    out[1] = s2;
}

int wal_header_decode(const uint8_t buf[WAL_HEADER_SIZE], struct wal_header *h)
{
    static const uint32_t zero[2];
    uint32_t magic = be32_get(buf), page_size = be32_get(buf + 8), sum[2];
    if ((magic & ~1u) != WAL_MAGIC || be32_get(buf + 4) != WAL_VERSION || !page_size_valid(page_size))
        return ERR_CORRUPT;
    wal_checksum(magic & 1, buf, WAL_HEADER_SIZE - 8, zero, sum);
    if (sum[0] != be32_get(buf + 24) || sum[1] != be32_get(buf + 28))
        return ERR_CORRUPT;
    *h = (struct wal_header){
        .big_endian = magic & 1,
        .page_size = page_size,
        .checkpoint_seq = be32_get(buf + 12),
        .salt1 = be32_get(buf + 16),
        .salt2 = be32_get(buf + 20),
        .cksum = {sum[0], sum[1]},
    };
    return 0;
}

void wal_header_encode(struct wal_header *h, uint8_t buf[WAL_HEADER_SIZE])
{
    static const uint32_t zero[2];
    be32_put(buf, WAL_MAGIC | (h->big_endian ? 1u : 0u));
    be32_put(buf + 4, WAL_VERSION);
    be32_put(buf + 8, h->page_size);
    be32_put(buf + 12, h->checkpoint_seq);
    be32_put(buf + 16, h->salt1);
    be32_put(buf + 20, h->salt2);
    wal_checksum(h->big_endian, buf, WAL_HEADER_SIZE - 8, zero, h->cksum);
    be32_put(buf + 24, h->cksum[0]);
    be32_put(buf + 28, h->cksum[1]);
}

void wal_frame_header_decode(const uint8_t buf[WAL_FRAME_HEADER_SIZE], struct wal_frame_header *f)
{
    *f = (struct wal_frame_header){
        .pgno = be32_get(buf),
        .commit = be32_get(buf + 4),
        .salt1 = be32_get(buf + 8),
        .salt2 = be32_get(buf + 12),
        .cksum = {be32_get(buf + 16), be32_get(buf + 20)},
    };
}

/* The chain runs over page number and commit size of the frame's header (not its salts), then the page. */
static void chain(const struct wal_header *h, const uint8_t *header, const void *page, const uint32_t in[2],
                  uint32_t out[2])
{
    wal_checksum(h->big_endian, header, 8, in, out);
    wal_checksum(h->big_endian, page, h->page_size, out, out);
}

void wal_frame_header_encode(const struct wal_header *h, uint32_t pgno, uint32_t commit, const void *page,
                             uint32_t cksum[2], uint8_t buf[WAL_FRAME_HEADER_SIZE])
{
    be32_put(buf, pgno);
    be32_put(buf + 4, commit);
    be32_put(buf + 8, h->salt1);
    be32_put(buf + 12, h->salt2);
    chain(h, buf, page, cksum, cksum);
    be32_put(buf + 16, cksum[0]);
    be32_put(buf + 20, cksum[1]);
}

bool wal_frame_check(const struct wal_header *h, const uint8_t header[WAL_FRAME_HEADER_SIZE], const void *page,
                     uint32_t cksum[2])
{
    uint32_t sum[2];
    if (be32_get(header) == 0 || be32_get(header + 8) != h->salt1 || be32_get(header + 12) != h->salt2)
        return false;
    chain(h, header, page, cksum, sum);
    if (sum[0] != be32_get(header + 16) || sum[1] != be32_get(header + 20))
        return false;
    cksum[0] = sum[0];
    cksum[1] = sum[1];
    return true;
}
