#include "lib/crc.h"
#include "lib/ltx_format.h"
#include <errno.h>
#include <lz4.h>

#define LZ4_ACCELERATION 8 /* compressing is what capture spends most on; 8 costs a few per cent of size and halves that */

/* Output is gathered here: a small transaction reaches write_fn in one piece. Holds the largest page frame with room to spare. */
#define OUT_SIZE 131072u
#define INDEX_KEEP 65536u /* an index that grew larger is given back at the end of the file */

_Static_assert(OUT_SIZE >= LTX_PAGE_HEAD_SIZE + LTX_BLOCK_MAX(LTX_PAGE_SIZE_MAX), "a page frame fits the buffer");
_Static_assert(LTX_BLOCK_MAX(LTX_PAGE_SIZE_MAX) >= LZ4_COMPRESSBOUND(LTX_PAGE_SIZE_MAX), "as LZ4 says");

struct ltx_encoder {
    bool open; /* between a successful begin and the end, or an error */
    struct ltx_header header;
    ltx_write_fn write_fn;
    void *ctx;
    uint64_t offset; /* bytes of the file so far, those in out included */
    uint64_t crc;    /* of the file checksum, so far */
    uint32_t prev;   /* last page, 0: none */
    uint8_t *index;  /* encoded page index, so far */
    size_t index_len, index_size;
    size_t fill; /* bytes in out */
    uint8_t out[OUT_SIZE];
    LZ4_stream_t lz4;
};

struct ltx_encoder *ltx_encoder_new(void)
{
    struct ltx_encoder *enc = malloc(sizeof *enc);
    if (!enc)
        return NULL;
    enc->open = false;
    enc->index = NULL;
    enc->index_len = enc->index_size = 0;
    return enc;
}

void ltx_encoder_free(struct ltx_encoder *enc)
{
    if (!enc)
        return;
    free(enc->index);
    free(enc);
}

static int flush(struct ltx_encoder *enc, struct err *e)
{
    int rc = enc->fill == 0 ? 0 : enc->write_fn(enc->ctx, enc->out, enc->fill, e);
    enc->fill = 0;
    return rc < 0 ? rc : 0;
}

static int put(struct ltx_encoder *enc, const void *p, size_t n, struct err *e)
{
    int rc = 0;
    enc->offset += n;
    if (n > OUT_SIZE - enc->fill)
        rc = flush(enc, e);
    if (rc == 0 && n > OUT_SIZE) {
        rc = enc->write_fn(enc->ctx, p, n, e);
    } else if (rc == 0) {
        memcpy(enc->out + enc->fill, p, n);
        enc->fill += n;
    }
    return rc < 0 ? rc : 0;
}

static int put_hashed(struct ltx_encoder *enc, const void *p, size_t n, struct err *e)
{
    enc->crc = crc64_iso(enc->crc, p, n);
    return put(enc, p, n, e);
}

int ltx_encode_begin(struct ltx_encoder *enc, const struct ltx_header *h, ltx_write_fn write_fn, void *ctx,
                     struct err *e)
{
    uint8_t buf[LTX_HEADER_SIZE];
    enc->open = false;
    int rc = ltx_header_check(h, e);
    if (rc < 0)
        return rc;
    enc->header = *h;
    enc->write_fn = write_fn;
    enc->ctx = ctx;
    enc->offset = enc->crc = 0;
    enc->prev = 0;
    enc->index_len = enc->fill = 0;
    enc->open = true;
    ltx_header_encode(h, buf);
    return put_hashed(enc, buf, sizeof buf, e); /* only gathered: cannot fail */
}

/* Room for one more entry and the end mark. */
static int index_reserve(struct ltx_encoder *enc, struct err *e)
{
    if (enc->index_size - enc->index_len > LTX_INDEX_ENTRY_MAX)
        return 0;
    size_t size = enc->index_size + enc->index_size / 2 + 1024;
    uint8_t *index = realloc(enc->index, size);
    if (!index)
        return err_errno(e, ENOMEM, "LTX: page index of %zu bytes", size);
    enc->index = index;
    enc->index_size = size;
    return 0;
}

static int encode_page(struct ltx_encoder *enc, uint32_t pgno, const void *page, struct err *e)
{
    uint32_t page_size = enc->header.page_size;
    size_t room = LTX_BLOCK_MAX(page_size);
    int rc = ltx_order_check(&enc->header, enc->prev, pgno, e);
    if (rc == 0)
        rc = index_reserve(enc, e);
    if (rc == 0 && LTX_PAGE_HEAD_SIZE + room > OUT_SIZE - enc->fill)
        rc = flush(enc, e);
    if (rc < 0)
        return rc;

    uint8_t *head = enc->out + enc->fill;
    int n = LZ4_compress_fast_extState(&enc->lz4, page, (char *)head + LTX_PAGE_HEAD_SIZE, (int)page_size, (int)room, LZ4_ACCELERATION);
    if (n <= 0)
        return err_set(e, -EIO, "LTX: page %u cannot be compressed", pgno);
    be32_put(head, pgno);
    be16_put(head + 4, LTX_PAGE_FLAG_SIZE);
    be32_put(head + LTX_PAGE_HEADER_SIZE, (uint32_t)n);
    enc->crc = crc64_iso(crc64_iso(enc->crc, head, LTX_PAGE_HEAD_SIZE), page, page_size);

    size_t size = LTX_PAGE_HEAD_SIZE + (size_t)n;
    enc->index_len += ltx_index_entry(pgno, enc->offset, size, enc->index + enc->index_len);
    enc->offset += size;
    enc->fill += size;
    enc->prev = pgno;
    return 0;
}

int ltx_encode_page(struct ltx_encoder *enc, uint32_t pgno, const void *page, struct err *e)
{
    if (!enc->open)
        return err_set(e, -EINVAL, "LTX: page %u outside of a file", pgno);
    int rc = encode_page(enc, pgno, page, e);
    enc->open = rc == 0;
    return rc;
}

static int encode_end(struct ltx_encoder *enc, uint64_t post_checksum, struct err *e)
{
    static const uint8_t no_page[LTX_PAGE_HEADER_SIZE];
    uint8_t tail[8 + LTX_TRAILER_SIZE];
    int rc = ltx_end_check(&enc->header, enc->prev, post_checksum, e);
    if (rc == 0)
        rc = index_reserve(enc, e);
    if (rc == 0)
        rc = put_hashed(enc, no_page, sizeof no_page, e);
    if (rc < 0)
        return rc;
    enc->index[enc->index_len++] = 0;
    rc = put_hashed(enc, enc->index, enc->index_len, e);
    if (rc < 0)
        return rc;
    be64_put(tail, enc->index_len);
    be64_put(tail + 8, post_checksum);
    enc->crc = crc64_iso(enc->crc, tail, 16);
    be64_put(tail + 16, enc->crc | CHECKSUM_FLAG);
    rc = put(enc, tail, sizeof tail, e);
    return rc < 0 ? rc : flush(enc, e);
}

int ltx_encode_end(struct ltx_encoder *enc, uint64_t post_checksum, struct err *e)
{
    if (!enc->open)
        return err_set(e, -EINVAL, "LTX: end outside of a file");
    enc->open = false;
    int rc = encode_end(enc, post_checksum, e);
    if (enc->index_size > INDEX_KEEP) {
        free(enc->index);
        enc->index = NULL;
        enc->index_size = 0;
    }
    enc->index_len = 0;
    return rc;
}
