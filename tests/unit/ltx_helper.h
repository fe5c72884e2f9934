/* What the tests of LTX files share. Files are built here byte by byte from the format (lib/ltx.h), with a CRC of our own, and compared both ways. */
#ifndef EDGEFS_TESTS_LTX_HELPER_H
#define EDGEFS_TESTS_LTX_HELPER_H

#include "lib/crc.h"
#include "lib/ltx.h"
#include "lib/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#define HELPER __attribute__((unused)) static

/* ---- a file being built, or written by the encoder ---- */

struct file {
    uint8_t *p;
    size_t n, size;
    uint64_t crc; /* of the file checksum */
    size_t fail_after; /* write_file fails once n would pass it; 0: never */
    size_t calls;
};

HELPER uint64_t slow_crc64(uint64_t crc, const void *p, size_t n)
{
    const uint8_t *at = p;
    for (crc = ~crc; n > 0; n--) {
        crc ^= *at++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ UINT64_C(0xd800000000000000) : crc >> 1;
    }
    return ~crc;
}

HELPER void raw(struct file *f, const void *p, size_t n)
{
    if (f->n + n > f->size) {
        f->size = (f->n + n) * 2;
        f->p = realloc(f->p, f->size);
        assert_non_null(f->p);
    }
    memcpy(f->p + f->n, p, n);
    f->n += n;
}

HELPER void hashed(struct file *f, const void *p, size_t n)
{
    raw(f, p, n);
    f->crc = slow_crc64(f->crc, p, n);
}

#define BYTES(f, ...) hashed(f, (const uint8_t[]){__VA_ARGS__}, sizeof(const uint8_t[]){__VA_ARGS__})

/* The data of a page frame: stored as block, hashed as page. */
HELPER void block(struct file *f, const void *lz4, size_t n, const void *page, size_t page_size)
{
    raw(f, lz4, n);
    f->crc = slow_crc64(f->crc, page, page_size);
}

HELPER void trailer(struct file *f, uint64_t post_checksum)
{
    uint8_t be[8];
    be64_put(be, post_checksum);
    hashed(f, be, 8);
    be64_put(be, f->crc | CHECKSUM_FLAG);
    raw(f, be, 8);
}

HELPER void file_free(struct file *f)
{
    free(f->p);
    *f = (struct file){0};
}

HELPER int write_file(void *ctx, const void *p, size_t n, struct err *e)
{
    struct file *f = ctx;
    f->calls++;
    if (f->fail_after != 0 && f->n + n > f->fail_after)
        return err_set(e, -ENOSPC, "the disk is full");
    raw(f, p, n);
    return 0;
}

/* ---- pages ---- */

#define POST UINT64_C(0x8123456789abcdef)
#define PRE UINT64_C(0xfedcba9876543210)

static uint8_t same[512];  /* 0xab everywhere */
static uint8_t noise[512]; /* nothing to compress */

HELPER void fill_noise(uint8_t *p, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        p[i] = (uint8_t)(seed >> 56);
    }
}

/* Pages like a database's: some text, some zeros, some noise. */
HELPER void fill_mixed(uint8_t *p, size_t n, uint32_t pgno)
{
    memset(p, 0, n);
    fill_noise(p, n / 8, pgno);
    for (size_t i = n / 2; i + 40 < n; i += 40)
        snprintf((char *)p + i, 40, "row %u of page %u, and so on", (unsigned)i, pgno);
}

/* Page 1 of 4 all the same byte, page 3 of 4 noise, in transactions 5 to 7. */
HELPER const struct ltx_header small_header = {
    .page_size = 512,
    .commit = 4,
    .min_txid = 5,
    .max_txid = 7,
    .timestamp_ms = 0x018c0102030405,
    .pre_checksum = PRE,
    .wal_offset = 32,
    .wal_size = 0x0460,
    .wal_salt1 = 0xa1a2a3a4,
    .wal_salt2 = 0xb1b2b3b4,
    .node_id = 0xc1c2c3c4c5c6c7c8,
};

HELPER void small_file_header(struct file *f)
{
    BYTES(f, 'L', 'T', 'X', '1', 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 4);          /* magic, flags, page size, commit */
    BYTES(f, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 7);                  /* TXIDs */
    BYTES(f, 0, 1, 0x8c, 1, 2, 3, 4, 5);                                       /* time */
    BYTES(f, 0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10);                  /* checksum before */
    BYTES(f, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 4, 0x60);              /* WAL offset, size */
    BYTES(f, 0xa1, 0xa2, 0xa3, 0xa4, 0xb1, 0xb2, 0xb3, 0xb4);                  /* salts */
    BYTES(f, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8);                  /* node */
    BYTES(f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(f->n, LTX_HEADER_SIZE);
}

/* One literal ab, a match at distance 1 of 15 + 4 + 255 + 232 = 506 bytes, five literals. */
HELPER const uint8_t same_lz4[12] = {0x1f, 0xab, 1, 0, 255, 232, 0x50, 0xab, 0xab, 0xab, 0xab, 0xab};

HELPER void small_file_pages(struct file *f)
{
    BYTES(f, 0, 0, 0, 1, 0, 1, 0, 0, 0, sizeof same_lz4); /* at 100 */
    block(f, same_lz4, sizeof same_lz4, same, sizeof same);
    uint8_t noise_lz4[3 + 512] = {0xf0, 255, 242}; /* 15 + 255 + 242 = 512 literals */
    memcpy(noise_lz4 + 3, noise, 512);
    BYTES(f, 0, 0, 0, 3, 0, 1, 0, 0, 2, 3); /* at 122 */
    block(f, noise_lz4, sizeof noise_lz4, noise, sizeof noise);
    BYTES(f, 0, 0, 0, 0, 0, 0);
}

HELPER void small_file_build(struct file *f)
{
    small_file_header(f);
    small_file_pages(f);
    BYTES(f, 1, 100, 22);              /* page 1 at 100, 22 bytes */
    BYTES(f, 3, 122, 0x8d, 0x04);      /* page 3 at 122, 525 = 4 * 128 + 13 bytes */
    BYTES(f, 0);                       /* end of the index */
    BYTES(f, 0, 0, 0, 0, 0, 0, 0, 8);  /* its size */
    trailer(f, POST);
}

/* ---- decoding whole files ---- */

struct got {
    struct ltx_header h;
    struct ltx_trailer t;
    uint32_t n_pages, pgno[16];
    uint64_t sum; /* XOR of page checksums */
    struct err e;
};

HELPER struct ltx_encoder *enc;
HELPER struct ltx_decoder *dec;

HELPER int decode_rest(struct got *g)
{
    uint32_t pgno;
    const uint8_t *page;
    int rc;
    while ((rc = ltx_decode_page(dec, &pgno, &page, &g->e)) > 0) {
        g->sum ^= page_checksum(pgno, page, g->h.page_size);
        g->pgno[g->n_pages++ % ARRAY_SIZE(g->pgno)] = pgno;
    }
    return rc < 0 ? rc : ltx_decode_end(dec, &g->t, &g->e);
}

HELPER int decode_memory(const void *p, size_t n, struct got *g)
{
    *g = (struct got){0};
    int rc = ltx_decode_begin_memory(dec, p, n, &g->h, &g->e);
    return rc < 0 ? rc : decode_rest(g);
}

struct source {
    const uint8_t *p;
    size_t n, at, step; /* gives at most step bytes at once */
    int error;          /* after the last byte; 0: end of file */
    size_t calls;
};

HELPER long read_source(void *ctx, void *p, size_t n, struct err *e)
{
    struct source *s = ctx;
    s->calls++;
    n = MIN(MIN(n, s->step), s->n - s->at);
    if (n == 0 && s->error != 0)
        return err_set(e, s->error, "the network is gone");
    memcpy(p, s->p + s->at, n);
    s->at += n;
    return (long)n;
}

HELPER int decode_stream(struct source *s, struct got *g)
{
    *g = (struct got){0};
    int rc = ltx_decode_begin(dec, read_source, s, &g->h, &g->e);
    return rc < 0 ? rc : decode_rest(g);
}

/* From a block of exactly n bytes, so that a sanitizer sees any read past it; both forms must agree. */
HELPER int decode_exact(const uint8_t *p, size_t n, struct got *g)
{
    uint8_t *exact = malloc(n > 0 ? n : 1);
    struct got streamed;
    assert_non_null(exact);
    memcpy(exact, p, n);
    int rc = decode_memory(exact, n, g);
    struct source s = {.p = exact, .n = n, .step = SIZE_MAX};
    assert_int_equal(decode_stream(&s, &streamed), rc);
    free(exact);
    return rc;
}

HELPER uint64_t small_sum(void)
{
    return page_checksum(1, same, 512) ^ page_checksum(3, noise, 512);
}

HELPER void check_header(const struct ltx_header *h, const struct ltx_header *want)
{
    assert_true(h->flags == want->flags && h->page_size == want->page_size && h->commit == want->commit);
    assert_true(h->min_txid == want->min_txid && h->max_txid == want->max_txid);
    assert_true(h->timestamp_ms == want->timestamp_ms && h->pre_checksum == want->pre_checksum);
    assert_true(h->wal_offset == want->wal_offset && h->wal_size == want->wal_size);
    assert_true(h->wal_salt1 == want->wal_salt1 && h->wal_salt2 == want->wal_salt2);
    assert_true(h->node_id == want->node_id);
}

HELPER void check_small(const struct got *g)
{
    check_header(&g->h, &small_header);
    assert_int_equal(g->n_pages, 2);
    assert_int_equal(g->pgno[0], 1);
    assert_int_equal(g->pgno[1], 3);
    assert_true(g->sum == small_sum());
    assert_true(g->t.post_checksum == POST);
}

HELPER int setup(void **state)
{
    (void)state;
    memset(same, 0xab, sizeof same);
    fill_noise(noise, sizeof noise, 42);
    enc = ltx_encoder_new();
    dec = ltx_decoder_new();
    return enc && dec ? 0 : -1;
}

HELPER int teardown(void **state)
{
    (void)state;
    ltx_encoder_free(enc);
    ltx_decoder_free(dec);
    ltx_encoder_free(NULL);
    ltx_decoder_free(NULL);
    return 0;
}

#endif
