#include "replicator/image/difference.h"

#include "lib/err.h"
#include "lib/util.h"
#include <stdbool.h>

/* Every bit of the result depends on every bit of x, and not linearly (the finaliser of SplitMix64; Steele, Lea, Flood, OOPSLA 2014). */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t difference_block(const uint64_t *sums, uint32_t n)
{
    uint64_t h = n;
    for (uint32_t i = 0; i < n; i++)
        h = mix(h + sums[i]);
    return h;
}

uint32_t difference_page(uint64_t sum)
{
    return (uint32_t)(mix(sum) >> 32);
}

void difference_head_encode(const struct difference_head *h, uint8_t buf[DIFFERENCE_HEAD_SIZE])
{
    be32_put(buf, DIFFERENCE_MAGIC);
    be32_put(buf + 4, h->page_size);
    be32_put(buf + 8, h->commit);
    be32_put(buf + 12, DIFFERENCE_BLOCK);
    be64_put(buf + 16, h->epoch);
    be64_put(buf + 24, h->from);
    be64_put(buf + 32, h->lsn);
    be64_put(buf + 40, h->txid);
    be64_put(buf + 48, h->checksum);
    be64_put(buf + 56, h->born);
}

int difference_head_decode(const uint8_t buf[DIFFERENCE_HEAD_SIZE], struct difference_head *h)
{
    if (be32_get(buf) != DIFFERENCE_MAGIC || be32_get(buf + 12) != DIFFERENCE_BLOCK)
        return ERR_CORRUPT;
    *h = (struct difference_head){
        .page_size = be32_get(buf + 4),
        .commit = be32_get(buf + 8),
        .epoch = be64_get(buf + 16),
        .from = be64_get(buf + 24),
        .lsn = be64_get(buf + 32),
        .txid = be64_get(buf + 40),
        .checksum = be64_get(buf + 48),
        .born = be64_get(buf + 56),
    };
    bool size_valid = h->page_size >= 512 && h->page_size <= 65536 && (h->page_size & (h->page_size - 1)) == 0;
    return (size_valid || (!h->page_size && !h->commit)) && h->from <= h->lsn ? 0 : ERR_CORRUPT;
}

int difference_range(const uint8_t *body, uint64_t n, uint64_t *at, uint32_t *first, uint32_t *number)
{
    if (*at == n)
        return 0;
    if (n - *at < 8)
        return ERR_CORRUPT;
    const uint8_t *p = body + *at;
    uint64_t after = *at ? (uint64_t)be32_get(p - 8) + be32_get(p - 4) : 1; /* the page behind the last one */
    *first = be32_get(p);
    *number = be32_get(p + 4);
    *at += 8;
    return *first >= after && *number >= 1 && *number - 1 <= UINT32_MAX - *first ? 1 : ERR_CORRUPT;
}
