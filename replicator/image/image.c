#include "replicator/image/image.h"

#include "lib/crc.h"
#include "lib/err.h"
#include "lib/util.h"
#include <stdbool.h>

static bool page_size_valid(uint32_t n)
{
    return n >= 512 && n <= 65536 && (n & (n - 1)) == 0;
}

void image_header_encode(const struct image_header *h, uint8_t buf[IMAGE_HEADER_SIZE])
{
    be32_put(buf, IMAGE_MAGIC);
    be32_put(buf + 4, h->page_size);
    be32_put(buf + 8, h->commit);
    be32_put(buf + 12, h->flags);
    be64_put(buf + 16, h->epoch);
    be64_put(buf + 24, h->lsn);
}

int image_header_decode(const uint8_t buf[IMAGE_HEADER_SIZE], struct image_header *h)
{
    if (be32_get(buf) != IMAGE_MAGIC || be32_get(buf + 12) != 0)
        return ERR_CORRUPT;
    *h = (struct image_header){
        .page_size = be32_get(buf + 4),
        .commit = be32_get(buf + 8),
        .epoch = be64_get(buf + 16),
        .lsn = be64_get(buf + 24),
    };
    /* An empty database may not have a page size yet. */
    return page_size_valid(h->page_size) || (h->commit == 0 && h->page_size == 0) ? 0 : ERR_CORRUPT;
}

void image_chunk_encode(const struct image_chunk *c, uint8_t buf[IMAGE_CHUNK_SIZE])
{
    be32_put(buf, c->pgno);
    be32_put(buf + 4, c->pages);
    be32_put(buf + 8, c->crc);
    be32_put(buf + 12, 0);
}

int image_chunk_decode(const uint8_t buf[IMAGE_CHUNK_SIZE], struct image_chunk *c)
{
    c->pgno = be32_get(buf);
    c->pages = be32_get(buf + 4);
    c->crc = be32_get(buf + 8);
    if (be32_get(buf + 12) != 0)
        return ERR_CORRUPT;
    if (c->pgno == 0)
        return 1;
    return c->pages >= 1 && c->pages <= IMAGE_CHUNK_PAGES_MAX && c->pages - 1 <= UINT32_MAX - c->pgno ? 0 : ERR_CORRUPT;
}

void image_end_encode(const struct image_end *e, uint8_t buf[IMAGE_END_SIZE])
{
    be32_put(buf, 0);
    be32_put(buf + 4, e->commit);
    be32_put(buf + 8, e->page_size);
    be32_put(buf + 12, 0);
    be64_put(buf + 16, e->lsn);
    be64_put(buf + 24, e->txid);
    be64_put(buf + 32, e->checksum);
    be64_put(buf + 40, e->born);
    be32_put(buf + 48, crc32c(0, buf, 48));
    be32_put(buf + 52, 0);
}

int image_end_decode(const uint8_t buf[IMAGE_END_SIZE], struct image_end *e)
{
    if (be32_get(buf) != 0 || be32_get(buf + 12) != 0 || be32_get(buf + 52) != 0 || be32_get(buf + 48) != crc32c(0, buf, 48))
        return ERR_CORRUPT;
    *e = (struct image_end){
        .commit = be32_get(buf + 4),
        .page_size = be32_get(buf + 8),
        .lsn = be64_get(buf + 16),
        .txid = be64_get(buf + 24),
        .checksum = be64_get(buf + 32),
        .born = be64_get(buf + 40),
    };
    return page_size_valid(e->page_size) || (e->commit == 0 && e->page_size == 0) ? 0 : ERR_CORRUPT;
}
