#include "replicator/image/image.h"

#include "lib/crc.h"
#include "lib/err.h"
#include "lib/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void the_header_has_the_documented_layout(void **state)
{
    (void)state;
    static const uint8_t expected[IMAGE_HEADER_SIZE] = {
        'E', 'F', 'I', '1', 0, 0, 0x10, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 4, 0xd2,
    };
    const struct image_header h = {.page_size = 4096, .commit = 0x10203, .epoch = 5, .lsn = 1234};
    struct image_header back;
    uint8_t buf[IMAGE_HEADER_SIZE];
    image_header_encode(&h, buf);
    assert_memory_equal(buf, expected, sizeof buf);
    assert_int_equal(image_header_decode(buf, &back), 0);
    assert_memory_equal(&back, &h, sizeof h);
}

static void a_header_that_cannot_be_is_refused(void **state)
{
    (void)state;
    static const uint32_t bad_sizes[] = {0, 1, 256, 511, 4097, 131072};
    struct image_header h = {.page_size = 512, .commit = 1}, back;
    uint8_t buf[IMAGE_HEADER_SIZE];
    for (size_t i = 0; i < ARRAY_SIZE(bad_sizes); i++) {
        h.page_size = bad_sizes[i];
        image_header_encode(&h, buf);
        assert_int_equal(image_header_decode(buf, &back), ERR_CORRUPT);
    }
    h = (struct image_header){0}; /* empty, no page size yet */
    image_header_encode(&h, buf);
    assert_int_equal(image_header_decode(buf, &back), 0);
    h.flags = 1;
    image_header_encode(&h, buf);
    assert_int_equal(image_header_decode(buf, &back), ERR_CORRUPT);
    h = (struct image_header){.page_size = 65536, .commit = UINT32_MAX};
    image_header_encode(&h, buf);
    assert_int_equal(image_header_decode(buf, &back), 0);
    buf[0] = 'X';
    assert_int_equal(image_header_decode(buf, &back), ERR_CORRUPT);
}

static void chunks_are_bounded_and_the_end_is_told_from_them(void **state)
{
    (void)state;
    struct image_chunk c = {.pgno = 7, .pages = 3, .crc = 0xdeadbeef}, back;
    uint8_t buf[IMAGE_END_SIZE] = {0};
    image_chunk_encode(&c, buf);
    assert_int_equal(be32_get(buf), 7);
    assert_int_equal(be32_get(buf + 8), 0xdeadbeef);
    assert_int_equal(image_chunk_decode(buf, &back), 0);
    assert_memory_equal(&back, &c, sizeof c);
    const struct image_chunk bad[] = {{1, 0, 0}, {1, IMAGE_CHUNK_PAGES_MAX + 1, 0}, {UINT32_MAX, 2, 0}};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        image_chunk_encode(&bad[i], buf);
        assert_int_equal(image_chunk_decode(buf, &back), ERR_CORRUPT);
    }
    c = (struct image_chunk){UINT32_MAX, 1, 0};
    image_chunk_encode(&c, buf);
    assert_int_equal(image_chunk_decode(buf, &back), 0);
    image_end_encode(&(struct image_end){.commit = 9, .page_size = 512}, buf);
    assert_int_equal(image_chunk_decode(buf, &back), 1);
    buf[15] = 1;
    assert_int_equal(image_chunk_decode(buf, &back), ERR_CORRUPT);
}

static void a_flipped_bit_in_the_end_is_found(void **state)
{
    (void)state;
    const struct image_end end = {.commit = 5, .page_size = 1024, .lsn = 99, .txid = 17, .checksum = CHECKSUM_FLAG | 42, .born = 7};
    struct image_end back;
    uint8_t buf[IMAGE_END_SIZE];
    image_end_encode(&end, buf);
    assert_int_equal(be64_get(buf + 16), 99);
    assert_int_equal(be64_get(buf + 40), 7);
    assert_int_equal(be32_get(buf + 48), crc32c(0, buf, 48));
    assert_int_equal(image_end_decode(buf, &back), 0);
    assert_memory_equal(&back, &end, sizeof end);
    for (size_t bit = 0; bit < IMAGE_END_SIZE * 8; bit++) {
        buf[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_int_equal(image_end_decode(buf, &back), ERR_CORRUPT);
        buf[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_header_has_the_documented_layout),
        cmocka_unit_test(a_header_that_cannot_be_is_refused),
        cmocka_unit_test(chunks_are_bounded_and_the_end_is_told_from_them),
        cmocka_unit_test(a_flipped_bit_in_the_end_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
