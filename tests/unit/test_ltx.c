/* Files are built here byte by byte from the format (lib/ltx.h), with a CRC of our own, and compared both ways. */
#include "lib/crc.h"
#include "lib/ltx.h"
#include "lib/util.h"

#include <errno.h>
#include <lz4.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

/* ---- a file being built, or written by the encoder ---- */

struct file {
    uint8_t *p;
    size_t n, size;
    uint64_t crc; /* of the file checksum */
    size_t fail_after; /* write_file fails once n would pass it; 0: never */
    size_t calls;
};

static uint64_t slow_crc64(uint64_t crc, const void *p, size_t n)
{
    const uint8_t *at = p;
    for (crc = ~crc; n > 0; n--) {
        crc ^= *at++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ UINT64_C(0xd800000000000000) : crc >> 1;
    }
    return ~crc;
}

static void raw(struct file *f, const void *p, size_t n)
{
    if (f->n + n > f->size) {
        f->size = (f->n + n) * 2;
        f->p = realloc(f->p, f->size);
        assert_non_null(f->p);
    }
    memcpy(f->p + f->n, p, n);
    f->n += n;
}

static void hashed(struct file *f, const void *p, size_t n)
{
    raw(f, p, n);
    f->crc = slow_crc64(f->crc, p, n);
}

#define BYTES(f, ...) hashed(f, (const uint8_t[]){__VA_ARGS__}, sizeof(const uint8_t[]){__VA_ARGS__})

/* The data of a page frame: stored as block, hashed as page. */
static void block(struct file *f, const void *lz4, size_t n, const void *page, size_t page_size)
{
    raw(f, lz4, n);
    f->crc = slow_crc64(f->crc, page, page_size);
}

static void trailer(struct file *f, uint64_t post_checksum)
{
    uint8_t be[8];
    be64_put(be, post_checksum);
    hashed(f, be, 8);
    be64_put(be, f->crc | CHECKSUM_FLAG);
    raw(f, be, 8);
}

static void file_free(struct file *f)
{
    free(f->p);
    *f = (struct file){0};
}

static int write_file(void *ctx, const void *p, size_t n, struct err *e)
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

static void fill_noise(uint8_t *p, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        p[i] = (uint8_t)(seed >> 56);
    }
}

/* Pages like a database's: some text, some zeros, some noise. */
static void fill_mixed(uint8_t *p, size_t n, uint32_t pgno)
{
    memset(p, 0, n);
    fill_noise(p, n / 8, pgno);
    for (size_t i = n / 2; i + 40 < n; i += 40)
        snprintf((char *)p + i, 40, "row %u of page %u, and so on", (unsigned)i, pgno);
}

/* Page 1 of 4 all the same byte, page 3 of 4 noise, in transactions 5 to 7. */
static const struct ltx_header small_header = {
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

static void small_file_header(struct file *f)
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
static const uint8_t same_lz4[12] = {0x1f, 0xab, 1, 0, 255, 232, 0x50, 0xab, 0xab, 0xab, 0xab, 0xab};

static void small_file_pages(struct file *f)
{
    BYTES(f, 0, 0, 0, 1, 0, 1, 0, 0, 0, sizeof same_lz4); /* at 100 */
    block(f, same_lz4, sizeof same_lz4, same, sizeof same);
    uint8_t noise_lz4[3 + 512] = {0xf0, 255, 242}; /* 15 + 255 + 242 = 512 literals */
    memcpy(noise_lz4 + 3, noise, 512);
    BYTES(f, 0, 0, 0, 3, 0, 1, 0, 0, 2, 3); /* at 122 */
    block(f, noise_lz4, sizeof noise_lz4, noise, sizeof noise);
    BYTES(f, 0, 0, 0, 0, 0, 0);
}

static void small_file_build(struct file *f)
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

static struct ltx_encoder *enc;
static struct ltx_decoder *dec;

static int decode_rest(struct got *g)
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

static int decode_memory(const void *p, size_t n, struct got *g)
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

static long read_source(void *ctx, void *p, size_t n, struct err *e)
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

static int decode_stream(struct source *s, struct got *g)
{
    *g = (struct got){0};
    int rc = ltx_decode_begin(dec, read_source, s, &g->h, &g->e);
    return rc < 0 ? rc : decode_rest(g);
}

/* From a block of exactly n bytes, so that a sanitizer sees any read past it; both forms must agree. */
static int decode_exact(const uint8_t *p, size_t n, struct got *g)
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

static uint64_t small_sum(void)
{
    return page_checksum(1, same, 512) ^ page_checksum(3, noise, 512);
}

static void check_header(const struct ltx_header *h, const struct ltx_header *want)
{
    assert_true(h->flags == want->flags && h->page_size == want->page_size && h->commit == want->commit);
    assert_true(h->min_txid == want->min_txid && h->max_txid == want->max_txid);
    assert_true(h->timestamp_ms == want->timestamp_ms && h->pre_checksum == want->pre_checksum);
    assert_true(h->wal_offset == want->wal_offset && h->wal_size == want->wal_size);
    assert_true(h->wal_salt1 == want->wal_salt1 && h->wal_salt2 == want->wal_salt2);
    assert_true(h->node_id == want->node_id);
}

static void check_small(const struct got *g)
{
    check_header(&g->h, &small_header);
    assert_int_equal(g->n_pages, 2);
    assert_int_equal(g->pgno[0], 1);
    assert_int_equal(g->pgno[1], 3);
    assert_true(g->sum == small_sum());
    assert_true(g->t.post_checksum == POST);
}

/* ---- tests ---- */

static void file_built_by_hand_is_read(void **state)
{
    (void)state;
    struct file f = {0};
    struct got g;
    small_file_build(&f);
    assert_int_equal(decode_exact(f.p, f.n, &g), 0);
    check_small(&g);
    assert_true(g.t.file_checksum == (f.crc | CHECKSUM_FLAG));
    file_free(&f);
}

static void encoder_writes_the_file_built_by_hand(void **state)
{
    (void)state;
    struct file want = {0}, f = {0};
    small_file_build(&want);
    assert_int_equal(ltx_encode_begin(enc, &small_header, write_file, &f, NULL), 0);
    assert_int_equal(ltx_encode_page(enc, 1, same, NULL), 0);
    assert_int_equal(ltx_encode_page(enc, 3, noise, NULL), 0);
    assert_int_equal(ltx_encode_end(enc, POST, NULL), 0);
    assert_int_equal(f.n, want.n);
    assert_memory_equal(f.p, want.p, f.n);
    assert_int_equal(f.calls, 1); /* a small transaction is written in one piece */
    file_free(&f);
    file_free(&want);
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    struct file f = {0};
    struct got g;
    small_file_build(&f);
    for (size_t n = 0; n < f.n; n++)
        if (decode_exact(f.p, n, &g) != ERR_CORRUPT)
            fail_msg("took %zu bytes of %zu", n, f.n);
    file_free(&f);
}

/* Two blocks that differ may hold the same page, which is all that the file checksum cannot see (ltx.h): here it is the low half of
 * each block's last token, the length of a match that does not follow. */
static void every_flipped_bit_is_refused(void **state)
{
    (void)state;
    struct file f = {0};
    struct got g;
    size_t harmless = 0;
    small_file_build(&f);
    for (size_t bit = 0; bit < f.n * 8; bit++) {
        f.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int rc = decode_exact(f.p, f.n, &g);
        if (rc == 0) {
            if ((bit / 8 != 116 && bit / 8 != 132) || bit % 8 >= 4)
                fail_msg("took the file with bit %zu flipped", bit);
            check_small(&g);
            harmless++;
        } else {
            assert_int_equal(rc, ERR_CORRUPT);
            assert_true(g.e.text[0] != '\0');
        }
        f.p[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_true(harmless <= 8);
    assert_int_equal(decode_exact(f.p, f.n, &g), 0);
    file_free(&f);
}

static void bytes_after_the_file_are_refused_in_memory(void **state)
{
    (void)state;
    struct file f = {0};
    struct got g;
    small_file_build(&f);
    raw(&f, "x", 1);
    assert_int_equal(decode_memory(f.p, f.n, &g), ERR_CORRUPT);
    file_free(&f);
}

static void stream_is_read_to_the_end_of_the_file_and_not_further(void **state)
{
    (void)state;
    struct file f = {0};
    struct got g;
    small_file_build(&f);
    size_t one = f.n;
    struct file again = {0};
    small_file_build(&again);
    raw(&f, again.p, again.n);
    file_free(&again);
    for (size_t step = 1; step < 1000; step = step * 3 + 1) {
        struct source s = {.p = f.p, .n = f.n, .step = step};
        assert_int_equal(decode_stream(&s, &g), 0);
        check_small(&g);
        assert_int_equal(s.at, one);
        assert_int_equal(decode_stream(&s, &g), 0);
        check_small(&g);
        assert_int_equal(s.at, f.n);
    }
    file_free(&f);
}

static void errors_of_the_reader_are_passed_on(void **state)
{
    (void)state;
    struct file f = {0};
    struct got g;
    small_file_build(&f);
    for (size_t n = 0; n < f.n; n++) {
        struct source s = {.p = f.p, .n = n, .step = SIZE_MAX, .error = -ECONNRESET};
        assert_int_equal(decode_stream(&s, &g), -ECONNRESET);
        assert_string_equal(g.e.text, "the network is gone");
        uint32_t pgno;
        const uint8_t *page;
        assert_int_equal(ltx_decode_page(dec, &pgno, &page, NULL), -EINVAL);
        assert_int_equal(ltx_decode_end(dec, &g.t, NULL), -EINVAL);
    }
    file_free(&f);
}

static void end_before_the_last_page_was_read_is_refused(void **state)
{
    (void)state;
    struct file f = {0};
    struct got g = {0};
    uint32_t pgno;
    const uint8_t *page;
    small_file_build(&f);
    assert_int_equal(ltx_decode_begin_memory(dec, f.p, f.n, &g.h, NULL), 0);
    assert_int_equal(ltx_decode_end(dec, &g.t, NULL), -EINVAL);
    assert_int_equal(ltx_decode_page(dec, &pgno, &page, NULL), 1);
    assert_int_equal(ltx_decode_end(dec, &g.t, NULL), -EINVAL);
    assert_int_equal(decode_rest(&g), 0);
    assert_int_equal(ltx_decode_end(dec, &g.t, NULL), -EINVAL);
    assert_int_equal(ltx_decode_page(dec, &pgno, &page, NULL), -EINVAL);
    file_free(&f);
}

/* Files whose checksums are right and which are wrong all the same. */
static void consistent_nonsense_is_refused(void **state)
{
    (void)state;
    static const uint8_t index_right[] = {1, 100, 22, 3, 122, 0x8d, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 8};
    static const uint8_t index_wrong[][16] = {
        {2, 100, 22, 3, 122, 0x8d, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 8}, /* another page */
        {1, 101, 22, 3, 122, 0x8d, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 8}, /* another offset */
        {1, 100, 23, 3, 122, 0x8d, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 8}, /* another size */
        {1, 100, 22, 3, 122, 0x8d, 0x04, 1, 0, 0, 0, 0, 0, 0, 0, 8}, /* no end mark */
        {1, 100, 22, 3, 122, 0x8d, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 9}, /* wrong length */
        {1, 100, 22, 3, 122, 0x8d, 0x04, 0, 1, 0, 0, 0, 0, 0, 0, 8},
        {3, 122, 0x8d, 0x04, 1, 100, 22, 0, 0, 0, 0, 0, 0, 0, 0, 8}, /* not sorted */
    };
    struct got g;
    for (size_t i = 0; i <= ARRAY_SIZE(index_wrong); i++) {
        struct file f = {0};
        small_file_header(&f);
        small_file_pages(&f);
        hashed(&f, i == ARRAY_SIZE(index_wrong) ? index_right : index_wrong[i], sizeof index_right);
        trailer(&f, POST);
        assert_int_equal(decode_exact(f.p, f.n, &g), i == ARRAY_SIZE(index_wrong) ? 0 : ERR_CORRUPT);
        file_free(&f);
    }
    static const uint64_t post_wrong[] = {0, 1, POST & ~CHECKSUM_FLAG};
    for (size_t i = 0; i < ARRAY_SIZE(post_wrong); i++) {
        struct file f = {0};
        small_file_header(&f);
        small_file_pages(&f);
        hashed(&f, index_right, sizeof index_right);
        trailer(&f, post_wrong[i]);
        assert_int_equal(decode_exact(f.p, f.n, &g), ERR_CORRUPT);
        file_free(&f);
    }
}

/* One page frame with this head and these data bytes, then an index that names it. */
static int decode_one_frame(const uint8_t head[10], const uint8_t *lz4, size_t n)
{
    struct file f = {0};
    struct got g;
    small_file_header(&f);
    hashed(&f, head, 10);
    block(&f, lz4, n, same, sizeof same);
    BYTES(&f, 0, 0, 0, 0, 0, 0);
    BYTES(&f, head[3], 100, (uint8_t)(10 + n), 0, 0, 0, 0, 0, 0, 0, 0, 4);
    trailer(&f, POST);
    int rc = decode_exact(f.p, f.n, &g);
    file_free(&f);
    return rc;
}

static void page_frames_are_checked(void **state)
{
    (void)state;
    static const struct {
        uint8_t head[10];
        int rc;
    } cases[] = {
        {{0, 0, 0, 1, 0, 1, 0, 0, 0, 12}, 0},
        {{0, 0, 0, 4, 0, 1, 0, 0, 0, 12}, 0},
        {{0, 0, 0, 5, 0, 1, 0, 0, 0, 12}, ERR_CORRUPT},             /* beyond commit */
        {{0, 0, 0, 0, 0, 1, 0, 0, 0, 12}, ERR_CORRUPT},             /* page 0 */
        {{0, 0, 0, 1, 0, 0, 0, 0, 0, 12}, ERR_CORRUPT},             /* no size flag */
        {{0, 0, 0, 1, 0, 3, 0, 0, 0, 12}, ERR_CORRUPT},             /* unknown flag */
        {{0, 0, 0, 1, 0x80, 1, 0, 0, 0, 12}, ERR_CORRUPT},
        {{0, 0, 0, 1, 0, 1, 0, 0, 0, 0}, ERR_CORRUPT},              /* no data */
        {{0, 0, 0, 1, 0, 1, 0, 0, 0, 11}, ERR_CORRUPT},             /* block cut */
        {{0, 0, 0, 1, 0, 1, 0, 0, 0, 13}, ERR_CORRUPT},
        {{0, 0, 0, 1, 0, 1, 0xff, 0xff, 0xff, 0xff}, ERR_CORRUPT},  /* 4 GiB */
        {{0, 0, 0, 1, 0, 1, 0x80, 0, 0, 0}, ERR_CORRUPT},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        assert_int_equal(decode_one_frame(cases[i].head, same_lz4, sizeof same_lz4), cases[i].rc);

    static const uint8_t shorter[] = {0x1f, 0xab, 1, 0, 255, 231, 0x50, 0xab, 0xab, 0xab, 0xab, 0xab}; /* 511 bytes */
    static const uint8_t longer[] = {0x1f, 0xab, 1, 0, 255, 233, 0x50, 0xab, 0xab, 0xab, 0xab, 0xab};  /* 513 */
    static const uint8_t before[] = {0x1f, 0xab, 2, 0, 255, 232, 0x50, 0xab, 0xab, 0xab, 0xab, 0xab};  /* from before the page */
    static const uint8_t head[10] = {0, 0, 0, 1, 0, 1, 0, 0, 0, 12};
    assert_int_equal(decode_one_frame(head, shorter, sizeof shorter), ERR_CORRUPT);
    assert_int_equal(decode_one_frame(head, longer, sizeof longer), ERR_CORRUPT);
    assert_int_equal(decode_one_frame(head, before, sizeof before), ERR_CORRUPT);
}

static long read_endless(void *ctx, void *p, size_t n, struct err *e)
{
    struct source *s = ctx;
    (void)e;
    if (s->at >= s->n) {
        memset(p, 0x11, n);
        s->at += n;
        return (long)n;
    }
    return read_source(ctx, p, n, NULL);
}

/* A stream that never ends: a size beyond what a page can need is refused before anything of it is read. */
static void sizes_are_checked_before_they_are_read(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {0, 512 + 2 + 16 + 1, 65536, 70000, INT32_MAX, UINT32_MAX - 9, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct file f = {0};
        struct ltx_header h;
        uint32_t pgno;
        const uint8_t *page;
        uint8_t be[4];
        small_file_header(&f);
        BYTES(&f, 0, 0, 0, 1, 0, 1);
        be32_put(be, sizes[i]);
        hashed(&f, be, 4);
        struct source s = {.p = f.p, .n = f.n, .step = SIZE_MAX};
        assert_int_equal(ltx_decode_begin(dec, read_endless, &s, &h, NULL), 0);
        assert_int_equal(ltx_decode_page(dec, &pgno, &page, NULL), ERR_CORRUPT);
        assert_int_equal(s.at, f.n);
        file_free(&f);
    }
}

static void file_that_was_given_up_leaves_nothing_in_the_next(void **state)
{
    (void)state;
    struct file want = {0}, half = {0}, f = {0};
    struct ltx_header h;
    uint32_t pgno;
    const uint8_t *page;
    struct got g;
    small_file_build(&want);
    assert_int_equal(ltx_encode_begin(enc, &small_header, write_file, &half, NULL), 0);
    assert_int_equal(ltx_encode_page(enc, 2, noise, NULL), 0);
    assert_int_equal(ltx_encode_begin(enc, &small_header, write_file, &f, NULL), 0);
    assert_int_equal(ltx_encode_page(enc, 1, same, NULL), 0);
    assert_int_equal(ltx_encode_page(enc, 3, noise, NULL), 0);
    assert_int_equal(ltx_encode_end(enc, POST, NULL), 0);
    assert_int_equal(half.n, 0);
    assert_int_equal(f.n, want.n);
    assert_memory_equal(f.p, want.p, f.n);
    assert_int_equal(ltx_decode_begin_memory(dec, f.p, f.n, &h, NULL), 0);
    assert_int_equal(ltx_decode_page(dec, &pgno, &page, NULL), 1);
    assert_int_equal(decode_exact(f.p, f.n, &g), 0);
    check_small(&g);
    file_free(&f);
    file_free(&want);
}

static void header_fields_are_checked(void **state)
{
    (void)state;
    uint8_t buf[LTX_HEADER_SIZE];
    struct ltx_header h, got;
    struct err e;
    ltx_header_encode(&small_header, buf);
    assert_int_equal(ltx_header_decode(buf, &got, NULL), 0);
    check_header(&got, &small_header);
#define CASE(want, ...)                                                                                                \
    do {                                                                                                               \
        h = small_header;                                                                                              \
        __VA_ARGS__;                                                                                                   \
        memset(&got, 0x77, sizeof got);                                                                                \
        ltx_header_encode(&h, buf);                                                                                    \
        assert_int_equal(ltx_header_check(&h, &e), want);                                                              \
        assert_int_equal(ltx_header_decode(buf, &got, &e), want);                                                      \
        assert_true((want) == 0 || got.flags == 0x77777777);                                                           \
    } while (0)
    CASE(0, h.commit = 0);
    CASE(0, h.max_txid = 5);
    CASE(0, h.min_txid = 1, h.pre_checksum = 0);
    CASE(0, h.flags = LTX_NO_CHECKSUM, h.pre_checksum = 0);
    CASE(0, h.wal_offset = 0, h.wal_size = 0, h.wal_salt1 = 0, h.wal_salt2 = 0);
    CASE(0, h.page_size = 65536);
    CASE(0, h.timestamp_ms = -1);
    CASE(ERR_CORRUPT, h.flags = 1);
    CASE(ERR_CORRUPT, h.flags = 0x80000000);
    CASE(ERR_CORRUPT, h.page_size = 0);
    CASE(ERR_CORRUPT, h.page_size = 256);
    CASE(ERR_CORRUPT, h.page_size = 513);
    CASE(ERR_CORRUPT, h.page_size = 131072);
    CASE(ERR_CORRUPT, h.min_txid = 0);
    CASE(ERR_CORRUPT, h.max_txid = 4);
    CASE(ERR_CORRUPT, h.max_txid = 0);
    CASE(ERR_CORRUPT, h.min_txid = 1);
    CASE(ERR_CORRUPT, h.pre_checksum = 0);
    CASE(ERR_CORRUPT, h.pre_checksum = 1);
    CASE(ERR_CORRUPT, h.flags = LTX_NO_CHECKSUM);
    CASE(ERR_CORRUPT, h.wal_offset = -1);
    CASE(ERR_CORRUPT, h.wal_size = -1);
    CASE(ERR_CORRUPT, h.wal_offset = 0);
    CASE(ERR_CORRUPT, h.wal_offset = 0, h.wal_size = 0);
    CASE(ERR_CORRUPT, h.wal_offset = 0, h.wal_size = 0, h.wal_salt1 = 0);
#undef CASE
    ltx_header_encode(&small_header, buf);
    buf[3] = '2';
    assert_int_equal(ltx_header_decode(buf, &got, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "magic"));
}

static int encode_pages(const struct ltx_header *h, const uint32_t *pgno, size_t n, uint64_t post, struct file *f)
{
    static uint8_t page[65536];
    int rc = ltx_encode_begin(enc, h, write_file, f, NULL);
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = ltx_encode_page(enc, pgno[i], page, NULL);
    return rc < 0 ? rc : ltx_encode_end(enc, post, NULL);
}

static void encoder_refuses_what_no_file_may_hold(void **state)
{
    (void)state;
    struct ltx_header h = small_header, snapshot = small_header, none = small_header;
    struct file f = {0};
    snapshot.min_txid = 1;
    snapshot.pre_checksum = 0;
    none.flags = LTX_NO_CHECKSUM;
    none.pre_checksum = 0;
#define ENCODE(header, post, ...)                                                                                      \
    encode_pages(header, (const uint32_t[]){__VA_ARGS__}, sizeof(const uint32_t[]){__VA_ARGS__} / 4, post, &f)
    assert_int_equal(ENCODE(&h, POST, 1, 2, 3, 4), 0);
    assert_int_equal(ENCODE(&h, POST, 4), 0);
    assert_int_equal(ENCODE(&h, POST, 0), ERR_CORRUPT);
    assert_int_equal(ENCODE(&h, POST, 5), ERR_CORRUPT);
    assert_int_equal(ENCODE(&h, POST, 2, 1), ERR_CORRUPT);
    assert_int_equal(ENCODE(&h, POST, 2, 2), ERR_CORRUPT);
    assert_int_equal(ENCODE(&h, 0, 1), ERR_CORRUPT);
    assert_int_equal(ENCODE(&h, POST & ~CHECKSUM_FLAG, 1), ERR_CORRUPT);
    assert_int_equal(ENCODE(&snapshot, POST, 1, 2, 3, 4), 0); /* the checksum is the caller's; the decoder would refuse it */
    assert_int_equal(ENCODE(&snapshot, POST, 1, 2, 3), ERR_CORRUPT);
    assert_int_equal(ENCODE(&snapshot, POST, 1, 3, 4), ERR_CORRUPT);
    assert_int_equal(ENCODE(&snapshot, POST, 2, 3, 4), ERR_CORRUPT);
    assert_int_equal(ENCODE(&none, 0, 1), 0);
    assert_int_equal(ENCODE(&none, POST, 1), ERR_CORRUPT);
    h.commit = UINT32_MAX;
    assert_int_equal(ENCODE(&h, POST, lock_pgno(512) - 1, lock_pgno(512) + 1, UINT32_MAX), 0);
    assert_int_equal(ENCODE(&h, POST, lock_pgno(512)), ERR_CORRUPT);
    h.page_size = 1000;
    assert_int_equal(ENCODE(&h, POST, 1), ERR_CORRUPT);
#undef ENCODE
    /* After an error, and outside of a file, nothing but a new file is taken. */
    assert_int_equal(ltx_encode_page(enc, 1, same, NULL), -EINVAL);
    assert_int_equal(ltx_encode_end(enc, POST, NULL), -EINVAL);
    assert_int_equal(ltx_encode_begin(enc, &small_header, write_file, &f, NULL), 0);
    assert_int_equal(ltx_encode_page(enc, 9, same, NULL), ERR_CORRUPT);
    assert_int_equal(ltx_encode_page(enc, 1, same, NULL), -EINVAL);
    assert_int_equal(ltx_encode_end(enc, POST, NULL), -EINVAL);
    file_free(&f);
}

static void file_of_an_emptied_database_has_no_pages(void **state)
{
    (void)state;
    struct ltx_header h = small_header;
    struct file f = {0};
    struct got g;
    h.commit = 0;
    assert_int_equal(encode_pages(&h, NULL, 0, POST, &f), ERR_CORRUPT);
    assert_int_equal(encode_pages(&h, NULL, 0, CHECKSUM_FLAG, &f), 0);
    assert_int_equal(f.n, 100 + 6 + 1 + 8 + 16);
    assert_int_equal(decode_exact(f.p, f.n, &g), 0);
    assert_int_equal(g.n_pages, 0);
    assert_true(g.t.post_checksum == CHECKSUM_FLAG);
    for (size_t n = 0; n < f.n; n++)
        assert_int_equal(decode_exact(f.p, n, &g), ERR_CORRUPT);
    file_free(&f);
}

static void file_without_checksums_is_read(void **state)
{
    (void)state;
    struct ltx_header h = small_header;
    struct file f = {0};
    struct got g;
    h.flags = LTX_NO_CHECKSUM;
    h.pre_checksum = 0;
    h.min_txid = 1;
    assert_int_equal(encode_pages(&h, (const uint32_t[]){1, 2, 3, 4}, 4, 0, &f), 0);
    assert_int_equal(decode_exact(f.p, f.n, &g), 0);
    assert_int_equal(g.n_pages, 4);
    assert_true(g.t.post_checksum == 0);
    file_free(&f);
}

static void snapshot_checksum_must_be_that_of_its_pages(void **state)
{
    (void)state;
    static const uint8_t zero[512];
    struct ltx_header h = small_header;
    struct file f = {0}, wrong = {0};
    struct got g;
    uint64_t sum = 0;
    h.min_txid = 1;
    h.pre_checksum = 0;
    for (uint32_t pgno = 1; pgno <= 4; pgno++)
        sum ^= page_checksum(pgno, zero, 512);
    assert_int_equal(encode_pages(&h, (const uint32_t[]){1, 2, 3, 4}, 4, sum | CHECKSUM_FLAG, &f), 0);
    assert_int_equal(decode_exact(f.p, f.n, &g), 0);
    assert_int_equal(encode_pages(&h, (const uint32_t[]){1, 2, 3, 4}, 4, (sum ^ 1) | CHECKSUM_FLAG, &wrong), 0);
    assert_int_equal(decode_exact(wrong.p, wrong.n, &g), ERR_CORRUPT);
    file_free(&f);
    file_free(&wrong);
}

/* Walks a file by the format alone. */
static void walk(const struct file *f, uint32_t page_size, uint32_t n_pages)
{
    static uint8_t page[65536];
    uint64_t crc = crc64_iso(0, f->p, 100);
    size_t at = 100, index = 0;
    uint8_t *want_index = malloc((size_t)n_pages * 25 + 1);
    assert_non_null(want_index);
    for (uint32_t i = 0; i < n_pages; i++) {
        uint32_t size = be32_get(f->p + at + 6);
        uint64_t entry[3] = {be32_get(f->p + at), at, 10 + size};
        assert_int_equal(be16_get(f->p + at + 4), 1);
        assert_int_equal(LZ4_decompress_safe((const char *)f->p + at + 10, (char *)page, (int)size, (int)page_size),
                         page_size);
        crc = crc64_iso(crc64_iso(crc, f->p + at, 10), page, page_size);
        at += 10 + size;
        for (int k = 0; k < 3; k++) {
            do {
                want_index[index++] = (uint8_t)((entry[k] & 0x7f) | (entry[k] > 0x7f ? 0x80 : 0));
                entry[k] >>= 7;
            } while (entry[k] > 0);
        }
    }
    want_index[index++] = 0;
    assert_memory_equal(f->p + at, "\0\0\0\0\0\0", 6);
    assert_memory_equal(f->p + at + 6, want_index, index);
    assert_int_equal(be64_get(f->p + at + 6 + index), index);
    crc = crc64_iso(crc, f->p + at, 6 + index + 8 + 8);
    at += 6 + index + 8 + 8;
    assert_true(be64_get(f->p + at) == (crc | CHECKSUM_FLAG));
    assert_int_equal(at + 8, f->n);
    free(want_index);
}

static void files_of_all_page_sizes_round_trip(void **state)
{
    (void)state;
    static uint8_t page[65536];
    for (uint32_t size = 512; size <= 65536; size *= 2) {
        const uint32_t n = size == 512 ? 20000 : 300; /* enough for several buffers, and once for an index beyond what is kept */
        struct ltx_header h = small_header;
        struct file f = {0};
        struct got g;
        uint64_t sum = 0;
        h.page_size = size;
        h.commit = n * 7;
        assert_int_equal(ltx_encode_begin(enc, &h, write_file, &f, NULL), 0);
        for (uint32_t i = 1; i <= n; i++) {
            if (i % 5 == 0)
                fill_noise(page, size, i);
            else
                fill_mixed(page, size, i);
            sum ^= page_checksum(i * 7, page, size);
            assert_int_equal(ltx_encode_page(enc, i * 7, page, NULL), 0);
        }
        assert_int_equal(ltx_encode_end(enc, POST, NULL), 0);
        walk(&f, size, n);
        assert_int_equal(decode_memory(f.p, f.n, &g), 0);
        assert_int_equal(g.n_pages, n);
        assert_true(g.sum == sum);
        struct source s = {.p = f.p, .n = f.n, .step = SIZE_MAX};
        assert_int_equal(decode_stream(&s, &g), 0);
        assert_true(g.sum == sum);
        assert_in_range(s.calls, n, n + 400); /* one call a page, not one a field */
        file_free(&f);
    }
}

static void snapshot_beyond_one_gib_leaves_out_the_lock_page(void **state)
{
    (void)state;
    static const uint8_t zero[65536];
    const uint32_t lock = lock_pgno(65536);
    struct ltx_header h = {.page_size = 65536, .commit = lock + 1, .min_txid = 1, .max_txid = 9};
    struct file f = {0};
    struct got g;
    uint64_t sum = 0;
    assert_int_equal(ltx_encode_begin(enc, &h, write_file, &f, NULL), 0);
    for (uint32_t pgno = 1; pgno <= h.commit; pgno++) {
        if (pgno == lock)
            continue;
        sum ^= page_checksum(pgno, zero, sizeof zero);
        assert_int_equal(ltx_encode_page(enc, pgno, zero, NULL), 0);
    }
    assert_int_equal(ltx_encode_end(enc, sum | CHECKSUM_FLAG, NULL), 0);
    assert_int_equal(decode_memory(f.p, f.n, &g), 0);
    assert_int_equal(g.n_pages, lock);
    file_free(&f);
}

static void errors_of_the_writer_end_the_file(void **state)
{
    (void)state;
    static uint8_t page[65536];
    struct ltx_header h = small_header;
    h.page_size = 65536;
    h.commit = 100;
    fill_noise(page, sizeof page, 1);
    for (size_t limit = 1; limit < 700000; limit += 65536) {
        struct file f = {.fail_after = limit};
        struct err e = {0};
        int rc = ltx_encode_begin(enc, &h, write_file, &f, &e);
        for (uint32_t pgno = 1; pgno <= 10 && rc == 0; pgno++)
            rc = ltx_encode_page(enc, pgno, page, &e);
        if (rc == 0)
            rc = ltx_encode_end(enc, POST, &e);
        assert_int_equal(rc, f.n < 655000 ? -ENOSPC : 0);
        if (rc != 0) {
            assert_string_equal(e.text, "the disk is full");
            assert_int_equal(ltx_encode_page(enc, 50, page, NULL), -EINVAL);
            assert_int_equal(ltx_encode_end(enc, POST, NULL), -EINVAL);
        }
        file_free(&f);
    }
}

static int setup(void **state)
{
    (void)state;
    memset(same, 0xab, sizeof same);
    fill_noise(noise, sizeof noise, 42);
    enc = ltx_encoder_new();
    dec = ltx_decoder_new();
    return enc && dec ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    ltx_encoder_free(enc);
    ltx_decoder_free(dec);
    ltx_encoder_free(NULL);
    ltx_decoder_free(NULL);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_built_by_hand_is_read),
        cmocka_unit_test(encoder_writes_the_file_built_by_hand),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(every_flipped_bit_is_refused),
        cmocka_unit_test(bytes_after_the_file_are_refused_in_memory),
        cmocka_unit_test(stream_is_read_to_the_end_of_the_file_and_not_further),
        cmocka_unit_test(errors_of_the_reader_are_passed_on),
        cmocka_unit_test(end_before_the_last_page_was_read_is_refused),
        cmocka_unit_test(consistent_nonsense_is_refused),
        cmocka_unit_test(page_frames_are_checked),
        cmocka_unit_test(sizes_are_checked_before_they_are_read),
        cmocka_unit_test(file_that_was_given_up_leaves_nothing_in_the_next),
        cmocka_unit_test(header_fields_are_checked),
        cmocka_unit_test(encoder_refuses_what_no_file_may_hold),
        cmocka_unit_test(file_of_an_emptied_database_has_no_pages),
        cmocka_unit_test(file_without_checksums_is_read),
        cmocka_unit_test(snapshot_checksum_must_be_that_of_its_pages),
        cmocka_unit_test(files_of_all_page_sizes_round_trip),
        cmocka_unit_test(snapshot_beyond_one_gib_leaves_out_the_lock_page),
        cmocka_unit_test(errors_of_the_writer_end_the_file),
    };
    return cmocka_run_group_tests_name("ltx", tests, setup, teardown);
}
