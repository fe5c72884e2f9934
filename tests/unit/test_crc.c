#include "lib/crc.h"
#include "lib/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* Bit by bit, reflected, inverted at both ends: slow, and nothing of what it checks. */
static uint64_t slow_crc(uint64_t poly, uint64_t ones, uint64_t crc, const uint8_t *p, size_t n)
{
    crc ^= ones;
    while (n-- > 0) {
        crc ^= *p++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ poly : crc >> 1;
    }
    return crc ^ ones;
}

static uint64_t slow_crc64(uint64_t crc, const void *p, size_t n)
{
    return slow_crc(UINT64_C(0xd800000000000000), UINT64_MAX, crc, p, n);
}

static uint32_t slow_crc32c(uint32_t crc, const void *p, size_t n)
{
    return (uint32_t)slow_crc(0x82f63b78u, UINT32_MAX, crc, p, n);
}

static uint8_t data[70000];

static void fill(void)
{
    uint32_t x = 12345;
    for (size_t i = 0; i < sizeof data; i++) {
        x = x * 1664525u + 1013904223u;
        data[i] = (uint8_t)(x >> 24);
    }
}

static void known_vectors(void **state)
{
    (void)state;
    static const uint8_t zeros[32];
    assert_true(crc64_iso(0, "123456789", 9) == UINT64_C(0xb90956c775a41001));
    assert_true(crc64_iso(0, "", 0) == 0);
    assert_true(crc64_iso(7, NULL, 0) == 7);
    assert_true(crc32c(0, "123456789", 9) == 0xe3069283u);
    assert_true(crc32c(0, zeros, sizeof zeros) == 0x8a9136aau); /* RFC 3720 §B.4 */
    assert_true(crc32c(0, "", 0) == 0);
    assert_true(crc32c(7, NULL, 0) == 7);
}

static void every_length_and_alignment_agrees_with_bit_by_bit(void **state)
{
    (void)state;
    for (size_t n = 0; n < 700; n++) {
        const uint8_t *p = data + n % 17;
        assert_true(crc64_iso(0, p, n) == slow_crc64(0, p, n));
        assert_true(crc32c(0, p, n) == slow_crc32c(0, p, n));
    }
    assert_true(crc64_iso(0, data, sizeof data) == slow_crc64(0, data, sizeof data));
    assert_true(crc32c(0, data, sizeof data) == slow_crc32c(0, data, sizeof data));
}

static void pieces_give_what_the_whole_gives(void **state)
{
    (void)state;
    const size_t n = 600;
    uint64_t whole64 = crc64_iso(0, data, n);
    uint32_t whole32 = crc32c(0, data, n);
    for (size_t cut = 0; cut <= n; cut++) {
        assert_true(crc64_iso(crc64_iso(0, data, cut), data + cut, n - cut) == whole64);
        assert_true(crc32c(crc32c(0, data, cut), data + cut, n - cut) == whole32);
    }
    uint64_t by_one = 0;
    for (size_t i = 0; i < n; i++)
        by_one = crc64_iso(by_one, data + i, 1);
    assert_true(by_one == whole64);
}

static void page_checksum_covers_number_and_bytes(void **state)
{
    (void)state;
    for (uint32_t size = 512; size <= 65536; size *= 2) {
        static uint8_t both[4 + 65536];
        const uint32_t pgno = 0x01020304u;
        be32_put(both, pgno);
        memcpy(both + 4, data, size);
        assert_true(page_checksum(pgno, data, size) == (slow_crc64(0, both, 4 + size) | CHECKSUM_FLAG));
        assert_true(page_checksum(pgno + 1, data, size) != page_checksum(pgno, data, size));
    }
}

static void lock_page_holds_byte_one_gib(void **state)
{
    (void)state;
    assert_int_equal(lock_pgno(512), 2097153);
    assert_int_equal(lock_pgno(4096), 262145);
    assert_int_equal(lock_pgno(65536), 16385);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_vectors),
        cmocka_unit_test(every_length_and_alignment_agrees_with_bit_by_bit),
        cmocka_unit_test(pieces_give_what_the_whole_gives),
        cmocka_unit_test(page_checksum_covers_number_and_bytes),
        cmocka_unit_test(lock_page_holds_byte_one_gib),
    };
    fill();
    return cmocka_run_group_tests_name("crc", tests, NULL, NULL);
}
