#include "replicator/image/difference.h"

#include "lib/crc.h"
#include "lib/err.h"
#include "lib/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void a_head_comes_back_as_it_was(void **state)
{
    (void)state;
    const struct difference_head h = {.page_size = 4096, .commit = 77, .epoch = 3, .from = 10, .lsn = 12, .txid = 5, .checksum = CHECKSUM_FLAG | 9, .born = 4};
    struct difference_head back;
    uint8_t buf[DIFFERENCE_HEAD_SIZE];
    difference_head_encode(&h, buf);
    assert_int_equal(difference_head_decode(buf, &back), 0);
    assert_memory_equal(&back, &h, sizeof h);
}

static void a_head_that_cannot_be_is_refused(void **state)
{
    (void)state;
    static const struct difference_head bad[] = {
        {.page_size = 100, .commit = 1},
        {.page_size = 0, .commit = 1},
        {.page_size = 131072, .commit = 1},
        {.page_size = 4096, .commit = 1, .from = 2, .lsn = 1},
    };
    struct difference_head back;
    uint8_t buf[DIFFERENCE_HEAD_SIZE];
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        difference_head_encode(&bad[i], buf);
        assert_int_equal(difference_head_decode(buf, &back), ERR_CORRUPT);
    }
    difference_head_encode(&(struct difference_head){.page_size = 4096}, buf);
    buf[0] ^= 1;
    assert_int_equal(difference_head_decode(buf, &back), ERR_CORRUPT);
    difference_head_encode(&(struct difference_head){.page_size = 4096}, buf);
    be32_put(buf + 12, DIFFERENCE_BLOCK * 2); /* blocks of another size: not comparable */
    assert_int_equal(difference_head_decode(buf, &back), ERR_CORRUPT);
}

static void ranges_ascend_and_do_not_wrap(void **state)
{
    (void)state;
    uint8_t body[24];
    uint64_t at = 0;
    uint32_t first, n;
    be32_put(body, 1), be32_put(body + 4, 2), be32_put(body + 8, 3), be32_put(body + 12, 1);
    assert_int_equal(difference_range(body, 16, &at, &first, &n), 1);
    assert_true(first == 1 && n == 2);
    assert_int_equal(difference_range(body, 16, &at, &first, &n), 1);
    assert_true(first == 3 && n == 1);
    assert_int_equal(difference_range(body, 16, &at, &first, &n), 0);

    static const uint32_t bad[][2] = {{0, 1}, {1, 0}, {2, UINT32_MAX}, {UINT32_MAX, 2}};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        at = 0;
        be32_put(body, bad[i][0]), be32_put(body + 4, bad[i][1]);
        assert_int_equal(difference_range(body, 8, &at, &first, &n), ERR_CORRUPT);
    }
    at = 0;
    be32_put(body, UINT32_MAX), be32_put(body + 4, 1); /* the last page that a number can name */
    assert_int_equal(difference_range(body, 8, &at, &first, &n), 1);
    at = 0;
    be32_put(body, 5), be32_put(body + 4, 3), be32_put(body + 8, 7), be32_put(body + 12, 1); /* 7 again */
    assert_int_equal(difference_range(body, 16, &at, &first, &n), 1);
    assert_int_equal(difference_range(body, 16, &at, &first, &n), ERR_CORRUPT);
    at = 0;
    assert_int_equal(difference_range(body, 7, &at, &first, &n), ERR_CORRUPT); /* cut off */
}

/* The same change of two pages: their checksums change by the same bits, and their XOR does not change at all. */
static void the_same_change_of_two_pages_of_a_block_shows(void **state)
{
    (void)state;
    uint8_t pages[2][512] = {{1, 2, 3}, {9, 8, 7}};
    uint64_t before[2], after[2];
    for (uint32_t i = 0; i < 2; i++) {
        before[i] = page_checksum(i + 1, pages[i], sizeof pages[i]);
        pages[i][300] ^= 0x55;
        after[i] = page_checksum(i + 1, pages[i], sizeof pages[i]);
    }
    assert_true((before[0] ^ before[1]) == (after[0] ^ after[1])); /* why XOR is not enough */
    assert_true(difference_block(before, 2) != difference_block(after, 2));
}

/* A change of the last bytes reaches the upper bits of the checksum only. */
static void a_change_of_any_single_bit_shows_in_the_number_of_a_page(void **state)
{
    (void)state;
    uint8_t page[512] = {42};
    uint32_t before = difference_page(page_checksum(7, page, sizeof page));
    for (unsigned bit = 0; bit < sizeof page * 8; bit++) {
        page[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_true(difference_page(page_checksum(7, page, sizeof page)) != before);
        page[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void a_block_that_is_shorter_is_another_one(void **state)
{
    (void)state;
    const uint64_t sums[3] = {CHECKSUM_FLAG | 1, CHECKSUM_FLAG | 2, 0};
    assert_true(difference_block(sums, 2) != difference_block(sums, 3));
    assert_true(difference_block(sums, 0) != difference_block(sums, 1));
    assert_int_equal(difference_blocks(0), 0);
    assert_int_equal(difference_blocks(1), 1);
    assert_int_equal(difference_blocks(1024), 1);
    assert_int_equal(difference_blocks(1025), 2);
    assert_int_equal(difference_blocks(UINT32_MAX), 1u << 22);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_head_comes_back_as_it_was),
        cmocka_unit_test(a_head_that_cannot_be_is_refused),
        cmocka_unit_test(ranges_ascend_and_do_not_wrap),
        cmocka_unit_test(the_same_change_of_two_pages_of_a_block_shows),
        cmocka_unit_test(a_change_of_any_single_bit_shows_in_the_number_of_a_page),
        cmocka_unit_test(a_block_that_is_shorter_is_another_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
