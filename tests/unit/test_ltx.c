/* Reading LTX files: those built by hand, and what is wrong with them in every way. */
#include "tests/unit/ltx_helper.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_built_by_hand_is_read),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(every_flipped_bit_is_refused),
        cmocka_unit_test(bytes_after_the_file_are_refused_in_memory),
        cmocka_unit_test(stream_is_read_to_the_end_of_the_file_and_not_further),
        cmocka_unit_test(errors_of_the_reader_are_passed_on),
        cmocka_unit_test(end_before_the_last_page_was_read_is_refused),
        cmocka_unit_test(consistent_nonsense_is_refused),
        cmocka_unit_test(page_frames_are_checked),
        cmocka_unit_test(sizes_are_checked_before_they_are_read),
        cmocka_unit_test(header_fields_are_checked),
    };
    return cmocka_run_group_tests_name("ltx", tests, setup, teardown);
}
