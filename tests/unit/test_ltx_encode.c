/* Writing LTX files: as those built by hand, of all page sizes, and what no file may hold. */
#include "tests/unit/ltx_helper.h"

#include <lz4.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encoder_writes_the_file_built_by_hand),
        cmocka_unit_test(file_that_was_given_up_leaves_nothing_in_the_next),
        cmocka_unit_test(encoder_refuses_what_no_file_may_hold),
        cmocka_unit_test(file_of_an_emptied_database_has_no_pages),
        cmocka_unit_test(file_without_checksums_is_read),
        cmocka_unit_test(snapshot_checksum_must_be_that_of_its_pages),
        cmocka_unit_test(files_of_all_page_sizes_round_trip),
        cmocka_unit_test(snapshot_beyond_one_gib_leaves_out_the_lock_page),
        cmocka_unit_test(errors_of_the_writer_end_the_file),
    };
    return cmocka_run_group_tests_name("ltx_encode", tests, setup, teardown);
}
