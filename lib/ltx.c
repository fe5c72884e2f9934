/* LTX header, and the rules that encoder and decoder both keep. */
#include "lib/crc.h"
#include "lib/ltx_format.h"
#include <inttypes.h>

static const uint8_t magic[4] = {'L', 'T', 'X', '1'};

static int bad(struct err *e, const char *field, uint64_t value)
{
    return err_set(e, ERR_CORRUPT, "LTX header: %s %#" PRIx64, field, value);
}

int ltx_header_check(const struct ltx_header *h, struct err *e)
{
    if (h->flags & ~LTX_NO_CHECKSUM)
        return bad(e, "unknown flags", h->flags);
    if (h->page_size < 512 || h->page_size > LTX_PAGE_SIZE_MAX || (h->page_size & (h->page_size - 1)) != 0)
        return bad(e, "impossible page size", h->page_size);
    if (h->min_txid == 0)
        return bad(e, "minimum TXID", h->min_txid);
    if (h->max_txid < h->min_txid)
        return bad(e, "maximum TXID below the minimum:", h->max_txid);
    if (h->wal_offset < 0)
        return bad(e, "negative WAL offset", (uint64_t)h->wal_offset);
    if (h->wal_size < 0)
        return bad(e, "negative WAL size", (uint64_t)h->wal_size);
    if (h->wal_offset == 0 && h->wal_size != 0)
        return bad(e, "no WAL offset, but WAL size", (uint64_t)h->wal_size);
    if (h->wal_offset == 0 && (h->wal_salt1 != 0 || h->wal_salt2 != 0))
        return bad(e, "no WAL offset, but salt", h->wal_salt1 != 0 ? h->wal_salt1 : h->wal_salt2);
    if (h->min_txid == 1 || h->flags & LTX_NO_CHECKSUM) {
        if (h->pre_checksum != 0)
            return bad(e, "checksum before it, where there can be none:", h->pre_checksum);
    } else if (!(h->pre_checksum & CHECKSUM_FLAG)) {
        return bad(e, "checksum before it without bit 63:", h->pre_checksum);
    }
    return 0;
}

void ltx_header_encode(const struct ltx_header *h, uint8_t buf[LTX_HEADER_SIZE])
{
    memset(buf, 0, LTX_HEADER_SIZE);
    memcpy(buf, magic, sizeof magic);
    be32_put(buf + 4, h->flags);
    be32_put(buf + 8, h->page_size);
    be32_put(buf + 12, h->commit);
    be64_put(buf + 16, h->min_txid);
    be64_put(buf + 24, h->max_txid);
    be64_put(buf + 32, (uint64_t)h->timestamp_ms);
    be64_put(buf + 40, h->pre_checksum);
    be64_put(buf + 48, (uint64_t)h->wal_offset);
    be64_put(buf + 56, (uint64_t)h->wal_size);
    be32_put(buf + 64, h->wal_salt1);
    be32_put(buf + 68, h->wal_salt2);
    be64_put(buf + 72, h->node_id);
}

int ltx_header_decode(const uint8_t buf[LTX_HEADER_SIZE], struct ltx_header *h, struct err *e)
{
    if (memcmp(buf, magic, sizeof magic) != 0)
        return bad(e, "magic", be32_get(buf));
    struct ltx_header got = {
        .flags = be32_get(buf + 4),
        .page_size = be32_get(buf + 8),
        .commit = be32_get(buf + 12),
        .min_txid = be64_get(buf + 16),
        .max_txid = be64_get(buf + 24),
        .timestamp_ms = (int64_t)be64_get(buf + 32),
        .pre_checksum = be64_get(buf + 40),
        .wal_offset = (int64_t)be64_get(buf + 48),
        .wal_size = (int64_t)be64_get(buf + 56),
        .wal_salt1 = be32_get(buf + 64),
        .wal_salt2 = be32_get(buf + 68),
        .node_id = be64_get(buf + 72),
    };
    int rc = ltx_header_check(&got, e);
    if (rc == 0)
        *h = got;
    return rc;
}

/* The page that must follow prev in a snapshot. */
static uint64_t snapshot_next(const struct ltx_header *h, uint32_t prev)
{
    uint64_t next = (uint64_t)prev + 1;
    return next == lock_pgno(h->page_size) ? next + 1 : next;
}

int ltx_order_check(const struct ltx_header *h, uint32_t prev, uint32_t pgno, struct err *e)
{
    if (pgno == 0 || pgno > h->commit)
        return err_set(e, ERR_CORRUPT, "LTX: page %u of a database of %u pages", pgno, h->commit);
    if (pgno <= prev)
        return err_set(e, ERR_CORRUPT, "LTX: page %u after page %u", pgno, prev);
    if (pgno == lock_pgno(h->page_size))
        return err_set(e, ERR_CORRUPT, "LTX: page %u is the lock page", pgno);
    if (h->min_txid == 1 && pgno != snapshot_next(h, prev))
        return err_set(e, ERR_CORRUPT, "LTX: page %u after page %u in a snapshot", pgno, prev);
    return 0;
}

int ltx_end_check(const struct ltx_header *h, uint32_t prev, uint64_t post_checksum, struct err *e)
{
    if (h->min_txid == 1 && snapshot_next(h, prev) <= h->commit)
        return err_set(e, ERR_CORRUPT, "LTX: snapshot of %u pages ends after page %u", h->commit, prev);
    bool right;
    if (h->flags & LTX_NO_CHECKSUM)
        right = post_checksum == 0;
    else if (h->commit == 0)
        right = post_checksum == CHECKSUM_FLAG;
    else
        right = (post_checksum & CHECKSUM_FLAG) != 0;
    if (!right)
        return err_set(e, ERR_CORRUPT, "LTX trailer: impossible database checksum %#" PRIx64, post_checksum);
    return 0;
}
