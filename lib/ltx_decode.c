#include "lib/crc.h"
#include "lib/ltx_format.h"
#include <errno.h>
#include <inttypes.h>
#include <lz4.h>

#define IN_SIZE (LTX_BLOCK_MAX(LTX_PAGE_SIZE_MAX) + LTX_PAGE_HEAD_SIZE)
#define PIECE 4096u /* of the page index */

/* A page frame's head is fetched together with the frame before it (or the file header): one call of read_fn a page. That never
 * asks for bytes beyond the file: after the mark that ends the pages (6 bytes) come at least 25 more. */
struct ltx_decoder {
    enum { CLOSED, PAGES, INDEX } state; /* CLOSED also after an error */
    struct ltx_header header;
    ltx_read_fn read_fn; /* NULL: memory form, from at to end */
    void *ctx;
    const uint8_t *at, *end;
    uint64_t offset; /* in the file, of the frame whose head was fetched */
    uint64_t crc;    /* of the file checksum, so far */
    uint32_t prev;   /* last page, 0: none */
    /* The page index as these pages make it, as length and CRC: memory does not grow with the pages. */
    uint64_t index_len, index_crc;
    uint64_t checksum; /* of a snapshot's pages */
    uint8_t head[LTX_PAGE_HEAD_SIZE];
    uint8_t in[IN_SIZE];
    uint8_t page[LTX_PAGE_SIZE_MAX];
};

struct ltx_decoder *ltx_decoder_new(void)
{
    struct ltx_decoder *dec = malloc(sizeof *dec);
    if (dec)
        dec->state = CLOSED;
    return dec;
}

void ltx_decoder_free(struct ltx_decoder *dec)
{
    free(dec);
}

/* The next n bytes of the file (n ≤ IN_SIZE): *p is valid until the next call. */
static int need(struct ltx_decoder *dec, size_t n, const uint8_t **p, struct err *e)
{
    if (!dec->read_fn) {
        if ((size_t)(dec->end - dec->at) < n)
            return err_set(e, ERR_CORRUPT, "LTX: the file is cut short");
        *p = dec->at;
        dec->at += n;
        return 0;
    }
    for (size_t have = 0; have < n;) {
        long got = dec->read_fn(dec->ctx, dec->in + have, n - have, e);
        if (got < 0)
            return (int)got;
        if (got == 0 || (size_t)got > n - have)
            return err_set(e, ERR_CORRUPT, "LTX: the file is cut short");
        have += (size_t)got;
    }
    *p = dec->in;
    return 0;
}

static int begin(struct ltx_decoder *dec, struct ltx_header *h, struct err *e)
{
    const uint8_t *p;
    dec->state = CLOSED;
    int rc = need(dec, LTX_HEADER_SIZE + LTX_PAGE_HEAD_SIZE, &p, e);
    if (rc == 0)
        rc = ltx_header_decode(p, &dec->header, e);
    if (rc < 0)
        return rc;
    memcpy(dec->head, p + LTX_HEADER_SIZE, sizeof dec->head);
    dec->offset = LTX_HEADER_SIZE;
    dec->crc = crc64_iso(0, p, LTX_HEADER_SIZE);
    dec->prev = 0;
    dec->index_len = dec->index_crc = 0;
    dec->checksum = 0;
    dec->state = PAGES;
    *h = dec->header;
    return 0;
}

int ltx_decode_begin(struct ltx_decoder *dec, ltx_read_fn read_fn, void *ctx, struct ltx_header *h, struct err *e)
{
    dec->read_fn = read_fn;
    dec->ctx = ctx;
    return begin(dec, h, e);
}

int ltx_decode_begin_memory(struct ltx_decoder *dec, const void *p, size_t n, struct ltx_header *h, struct err *e)
{
    dec->read_fn = NULL;
    dec->at = p;
    dec->end = dec->at + n;
    return begin(dec, h, e);
}

static void index_add(struct ltx_decoder *dec, const uint8_t *entry, size_t n)
{
    dec->index_crc = crc64_iso(dec->index_crc, entry, n);
    dec->index_len += n;
}

/* Checks the head that was fetched: 1 and *size of its LZ4 block, 0 after the last page, or an error. */
static int page_head(struct ltx_decoder *dec, uint32_t *pgno, uint32_t *size, struct err *e)
{
    uint32_t flags = be16_get(dec->head + 4);
    *pgno = be32_get(dec->head);
    if (*pgno == 0 && flags == 0)
        return 0;
    int rc = ltx_order_check(&dec->header, dec->prev, *pgno, e);
    if (rc < 0)
        return rc;
    if (flags != LTX_PAGE_FLAG_SIZE)
        return err_set(e, ERR_CORRUPT, "LTX: page %u has flags %#x (only LZ4 blocks with their size are read)", *pgno,
                       flags);
    *size = be32_get(dec->head + LTX_PAGE_HEADER_SIZE);
    if (*size == 0 || *size > LTX_BLOCK_MAX(dec->header.page_size))
        return err_set(e, ERR_CORRUPT, "LTX: page %u is an LZ4 block of %u bytes", *pgno, *size);
    return 1;
}

static int decode_page(struct ltx_decoder *dec, uint32_t *pgno, struct err *e)
{
    uint8_t entry[LTX_INDEX_ENTRY_MAX];
    uint32_t size = 0, page_size = dec->header.page_size;
    const uint8_t *p;
    int rc = page_head(dec, pgno, &size, e);
    if (rc < 0)
        return rc;
    if (rc == 0) {
        dec->crc = crc64_iso(dec->crc, dec->head, LTX_PAGE_HEADER_SIZE);
        dec->state = INDEX;
        return 0;
    }
    rc = need(dec, size + LTX_PAGE_HEAD_SIZE, &p, e);
    if (rc < 0)
        return rc;
    if (LZ4_decompress_safe((const char *)p, (char *)dec->page, (int)size, (int)page_size) != (int)page_size)
        return err_set(e, ERR_CORRUPT, "LTX: page %u does not decompress to %u bytes", *pgno, page_size);
    dec->crc = crc64_iso(crc64_iso(dec->crc, dec->head, sizeof dec->head), dec->page, page_size);
    index_add(dec, entry, ltx_index_entry(*pgno, dec->offset, LTX_PAGE_HEAD_SIZE + size, entry));
    if (dec->header.min_txid == 1 && !(dec->header.flags & LTX_NO_CHECKSUM))
        dec->checksum ^= page_checksum(*pgno, dec->page, page_size);
    dec->prev = *pgno;
    dec->offset += LTX_PAGE_HEAD_SIZE + size;
    memcpy(dec->head, p + size, sizeof dec->head);
    return 1;
}

int ltx_decode_page(struct ltx_decoder *dec, uint32_t *pgno, const uint8_t **page, struct err *e)
{
    if (dec->state != PAGES)
        return err_set(e, -EINVAL, "LTX: no page is due");
    int rc = decode_page(dec, pgno, e);
    if (rc < 0)
        dec->state = CLOSED;
    *page = dec->page;
    return rc;
}

/* Copies the next n bytes (n ≤ PIECE) of what follows the pages; the first of them were fetched with the head. */
static int take_rest(struct ltx_decoder *dec, size_t *ahead, uint8_t *buf, size_t n, struct err *e)
{
    const uint8_t *p;
    size_t early = MIN(*ahead, n);
    memcpy(buf, dec->head + sizeof dec->head - *ahead, early);
    *ahead -= early;
    int rc = need(dec, n - early, &p, e);
    if (rc == 0)
        memcpy(buf + early, p, n - early);
    return rc;
}

static int decode_end(struct ltx_decoder *dec, struct ltx_trailer *t, struct err *e)
{
    static const uint8_t mark[1];
    uint8_t buf[PIECE];
    uint64_t crc = 0;
    size_t ahead = LTX_PAGE_HEAD_SIZE - LTX_PAGE_HEADER_SIZE;
    int rc;
    index_add(dec, mark, sizeof mark);
    for (uint64_t left = dec->index_len; left > 0;) {
        size_t n = left < PIECE ? (size_t)left : PIECE;
        rc = take_rest(dec, &ahead, buf, n, e);
        if (rc < 0)
            return rc;
        crc = crc64_iso(crc, buf, n);
        dec->crc = crc64_iso(dec->crc, buf, n);
        left -= n;
    }
    rc = take_rest(dec, &ahead, buf, 8 + LTX_TRAILER_SIZE, e);
    if (rc < 0)
        return rc;
    dec->crc = crc64_iso(dec->crc, buf, 16);
    if (crc != dec->index_crc || be64_get(buf) != dec->index_len)
        return err_set(e, ERR_CORRUPT, "LTX: the page index does not fit the pages");
    struct ltx_trailer got = {.post_checksum = be64_get(buf + 8), .file_checksum = be64_get(buf + 16)};
    rc = ltx_end_check(&dec->header, dec->prev, got.post_checksum, e);
    if (rc < 0)
        return rc;
    if (got.file_checksum != (dec->crc | CHECKSUM_FLAG))
        return err_set(e, ERR_CORRUPT, "LTX: file checksum %016" PRIx64 ", its bytes give %016" PRIx64,
                       got.file_checksum, dec->crc | CHECKSUM_FLAG);
    if (dec->header.min_txid == 1 && !(dec->header.flags & LTX_NO_CHECKSUM) &&
        got.post_checksum != (dec->checksum | CHECKSUM_FLAG))
        return err_set(e, ERR_CORRUPT, "LTX: database checksum %016" PRIx64 ", the snapshot's pages give %016" PRIx64,
                       got.post_checksum, dec->checksum | CHECKSUM_FLAG);
    if (!dec->read_fn && dec->at != dec->end)
        return err_set(e, ERR_CORRUPT, "LTX: %td bytes after the end of the file", dec->end - dec->at);
    *t = got;
    return 0;
}

int ltx_decode_end(struct ltx_decoder *dec, struct ltx_trailer *t, struct err *e)
{
    if (dec->state != INDEX)
        return err_set(e, -EINVAL, "LTX: the pages were not read to their end");
    dec->state = CLOSED;
    return decode_end(dec, t, e);
}
