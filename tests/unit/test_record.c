#include "edgefs/record.h"
#include "lib/crc.h"
#include "lib/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

static struct record_head sample(const char *name)
{
    struct record_head h = {
        .type = RECORD_TX,
        .flags = 0x5a,
        .pos = {.epoch = 0x1112131415161718, .lsn = 0x2122232425262728},
        .timestamp = 0x3132333435363738,
        .payload_len = 0x41424344,
        .payload_crc = 0x51525354,
        .name_len = (uint16_t)strlen(name),
    };
    strcpy(h.name, name);
    return h;
}

/* Makes the CRC of an encoded header right again after a change. */
static void reseal(uint8_t *buf, size_t size)
{
    be32_put(buf + size - 4, crc32c(0, buf, size - 4));
}

/* Decodes from a block of exactly n bytes, so that a sanitizer sees any read past it. */
static long decode(const uint8_t *buf, size_t n, struct record_head *h)
{
    uint8_t *exact = malloc(n > 0 ? n : 1);
    assert_non_null(exact);
    memcpy(exact, buf, n);
    long rc = record_head_decode(exact, n, h);
    free(exact);
    return rc;
}

static void layout_is_as_documented(void **state)
{
    (void)state;
    struct record_head h = sample("a/b.db");
    static const uint8_t want[48] = {
        'E',  'F',  'R',  '1',  1,    0x5a, 0,    52,                       /* magic, type, flags, header length */
        0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28,                     /* LSN */
        0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,                     /* epoch */
        0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38,                     /* timestamp */
        0x41, 0x42, 0x43, 0x44, 0x51, 0x52, 0x53, 0x54,                     /* payload length and CRC */
        0,    6,    'a',  '/',  'b',  '.',  'd',  'b',                      /* name */
    };
    uint8_t buf[RECORD_HEAD_MAX];
    assert_int_equal(record_head_encode(&h, buf), 52);
    assert_memory_equal(buf, want, sizeof want);
    assert_int_equal(be32_get(buf + 48), crc32c(0, want, sizeof want));
}

static void decode_returns_what_was_encoded(void **state)
{
    (void)state;
    char longest[LAYOUT_NAME_MAX + 1];
    memset(longest, 'x', LAYOUT_NAME_MAX);
    longest[LAYOUT_NAME_MAX] = '\0';
    const char *names[] = {"a", "dir/sub/app.db", ".hidden", "...", "..a/a..b", "\xc3\xa4.db", " ", longest};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        struct record_head h = sample(names[i]), got;
        uint8_t buf[RECORD_HEAD_MAX + 8] = {0};
        size_t size = record_head_encode(&h, buf);
        assert_int_equal(size, record_head_size(&h));
        assert_int_equal(decode(buf, sizeof buf, &got), (long)size);
        assert_int_equal(decode(buf, size, &got), (long)size);
        assert_string_equal(got.name, names[i]);
        assert_true(got.type == h.type && got.flags == h.flags && position_compare(got.pos, h.pos) == 0 &&
                    got.timestamp == h.timestamp && got.payload_len == h.payload_len &&
                    got.payload_crc == h.payload_crc && got.name_len == h.name_len);
    }
}

static void every_truncation_asks_for_more(void **state)
{
    (void)state;
    struct record_head h = sample("some/name.db"), got = {.type = 99};
    uint8_t buf[RECORD_HEAD_MAX];
    size_t size = record_head_encode(&h, buf);
    for (size_t n = 0; n < size; n++)
        assert_int_equal(decode(buf, n, &got), 0);
    assert_int_equal(record_head_decode(NULL, 0, &got), 0);
    assert_int_equal(got.type, 99);
}

static void every_flipped_bit_is_refused(void **state)
{
    (void)state;
    struct record_head h = sample("some/name.db"), got = {.type = 99};
    uint8_t buf[RECORD_HEAD_MAX] = {0};
    size_t size = record_head_encode(&h, buf);
    for (size_t bit = 0; bit < size * 8; bit++) {
        buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(decode(buf, sizeof buf, &got), -EBADMSG);
        /* Cut at every place it is refused or asks for more, never taken. */
        for (size_t n = 0; n <= size; n++) {
            long rc = decode(buf, n, &got);
            assert_true(rc == 0 || rc == -EBADMSG);
        }
        buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(got.type, 99);
}

static void wrong_magic_is_refused_at_its_first_byte(void **state)
{
    (void)state;
    struct record_head got;
    assert_int_equal(decode((const uint8_t *)"H", 1, &got), -EBADMSG);
    assert_int_equal(decode((const uint8_t *)"EFR2", 4, &got), -EBADMSG);
    assert_int_equal(decode((const uint8_t *)"EFR1\1\0\0\0", 8, &got), -EBADMSG); /* header length 0 */
    assert_int_equal(decode((const uint8_t *)"EFR1\1\0\xff\xff", 8, &got), -EBADMSG);
}

static void names_that_leave_the_mount_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"/a", "a/", "/", "a//b", ".", "..", "../a", "a/..", "a/../b", "./a", "a/./b", "a/.", "//"};
    struct record_head got;
    uint8_t buf[RECORD_HEAD_MAX];
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct record_head h = sample(bad[i]);
        size_t size = record_head_encode(&h, buf);
        if (decode(buf, size, &got) != -EBADMSG)
            fail_msg("took \"%s\"", bad[i]);
    }
    struct record_head h = sample("abc");
    size_t size = record_head_encode(&h, buf);
    buf[43] = '\0';
    reseal(buf, size);
    assert_int_equal(decode(buf, size, &got), -EBADMSG);
}

static void only_records_about_a_database_need_a_name(void **state)
{
    (void)state;
    uint8_t buf[RECORD_HEAD_MAX];
    for (int type = 0; type < 256; type++) {
        struct record_head h = sample(""), got;
        h.type = (uint8_t)type;
        size_t size = record_head_encode(&h, buf);
        bool needs = type == RECORD_TX || type == RECORD_DROP || type == RECORD_RENAME || type == RECORD_STATE ||
                     type == RECORD_PREPARE || type == RECORD_ABORT;
        assert_int_equal(decode(buf, size, &got), needs ? -EBADMSG : (long)RECORD_HEAD_MIN);
        if (!needs)
            assert_string_equal(got.name, "");
    }
}

static void lengths_that_disagree_are_refused(void **state)
{
    (void)state;
    struct record_head h = sample("abc"), got;
    uint8_t buf[RECORD_HEAD_MAX + 64] = {0};
    size_t size = record_head_encode(&h, buf);
    be16_put(buf + 40, 2); /* name shorter than the header says */
    reseal(buf, size);
    assert_int_equal(decode(buf, size, &got), -EBADMSG);
    be16_put(buf + 40, UINT16_MAX);
    reseal(buf, size);
    assert_int_equal(decode(buf, sizeof buf, &got), -EBADMSG);
    memset(buf + 42, 'x', sizeof buf - 42); /* one byte longer than the longest name */
    be16_put(buf + 6, RECORD_HEAD_MAX + 1);
    be16_put(buf + 40, LAYOUT_NAME_MAX + 1);
    reseal(buf, RECORD_HEAD_MAX + 1);
    assert_int_equal(decode(buf, sizeof buf, &got), -EBADMSG);
}

static void state_payload_round_trips_and_is_checked(void **state)
{
    (void)state;
    struct record_state s = {.page_size = 4096, .commit = 0x01020304, .txid = 0x1122334455667788, .checksum = UINT64_MAX}, got;
    static const uint8_t want[RECORD_STATE_SIZE] = {0,    0,    0x10, 0,    1,    2,    3,    4,    0x11, 0x22, 0x33, 0x44,
                                                    0x55, 0x66, 0x77, 0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    uint8_t buf[RECORD_STATE_SIZE + 1] = {0};
    record_state_encode(&s, buf);
    assert_memory_equal(buf, want, sizeof want);
    assert_int_equal(record_state_decode(buf, RECORD_STATE_SIZE, &got), 0);
    assert_memory_equal(&got, &s, sizeof s);
    for (size_t n = 0; n <= sizeof buf; n++)
        assert_int_equal(record_state_decode(buf, n, &got), n == RECORD_STATE_SIZE ? 0 : -EBADMSG);
    for (uint32_t size = 1; size != 0; size <<= 1) {
        s.page_size = size;
        record_state_encode(&s, buf);
        assert_int_equal(record_state_decode(buf, RECORD_STATE_SIZE, &got), size >= 512 && size <= 65536 ? 0 : -EBADMSG);
        s.page_size = size + 1;
        record_state_encode(&s, buf);
        assert_int_equal(record_state_decode(buf, RECORD_STATE_SIZE, &got), -EBADMSG);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layout_is_as_documented),
        cmocka_unit_test(decode_returns_what_was_encoded),
        cmocka_unit_test(every_truncation_asks_for_more),
        cmocka_unit_test(every_flipped_bit_is_refused),
        cmocka_unit_test(wrong_magic_is_refused_at_its_first_byte),
        cmocka_unit_test(names_that_leave_the_mount_are_refused),
        cmocka_unit_test(only_records_about_a_database_need_a_name),
        cmocka_unit_test(lengths_that_disagree_are_refused),
        cmocka_unit_test(state_payload_round_trips_and_is_checked),
    };
    return cmocka_run_group_tests_name("record", tests, NULL, NULL);
}
