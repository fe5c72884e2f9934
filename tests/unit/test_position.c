#include "edgefs/position.h"
#include "lib/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static void formats_decimal_with_a_dash(void **state)
{
    (void)state;
    char buf[POSITION_TEXT_MAX];
    position_format((struct position){0, 0}, buf);
    assert_string_equal(buf, "0-0");
    position_format((struct position){3, 1234567890123}, buf);
    assert_string_equal(buf, "3-1234567890123");
    position_format((struct position){UINT64_MAX, UINT64_MAX}, buf);
    assert_string_equal(buf, "18446744073709551615-18446744073709551615");
    assert_int_equal(strlen(buf), POSITION_TEXT_MAX - 1);
}

static void parses_what_it_formats(void **state)
{
    (void)state;
    static const uint64_t values[] = {0, 1, 9, 10, 99, 100, 1ull << 32, 9999999999999999999ull, 10000000000000000000ull,
                                      UINT64_MAX - 1, UINT64_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(values); i++)
        for (size_t k = 0; k < ARRAY_SIZE(values); k++) {
            struct position p = {values[i], values[k]}, got = {77, 77};
            char buf[POSITION_TEXT_MAX];
            position_format(p, buf);
            assert_int_equal(position_parse(buf, strlen(buf), &got), 0);
            assert_true(got.epoch == p.epoch && got.lsn == p.lsn);
        }
}

static void refuses_everything_else_and_leaves_the_position(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "-",
        "1",
        "1-",
        "-1",
        "-1-2",
        "1--2",
        "1-2-",
        "1-2-3",
        "-",
        "+1-2",
        "1-+2",
        " 1-2",
        "1 -2",
        "1- 2",
        "1-2 ",
        "1-2\n",
        "1-2\r",
        "\t1-2",
        "01-2",
        "1-02",
        "00-0",
        "0-00",
        "0x1-2",
        "1-0x2",
        "a-b",
        "1-2a",
        "1.0-2",
        "1,2",
        "1_2",
        "1/2",
        "1e3-1",
        "18446744073709551616-1",
        "1-18446744073709551616",
        "99999999999999999999-1",
        "1-99999999999999999999",
        "18446744073709551615-184467440737095516150",
        "100000000000000000000000000000000000000000000-1",
        "1\xe2\x80\x93\x32",
        "\xd9\xa1-\xd9\xa2",
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct position p = {77, 78};
        if (position_parse(bad[i], strlen(bad[i]), &p) != -EINVAL)
            fail_msg("took \"%s\"", bad[i]);
        assert_true(p.epoch == 77 && p.lsn == 78);
    }
    struct position p = {77, 78};
    assert_int_equal(position_parse("1-2\0", 4, &p), -EINVAL);
    assert_int_equal(position_parse("1\0-2", 4, &p), -EINVAL);
    assert_int_equal(position_parse("\0", 1, &p), -EINVAL);
    assert_true(p.epoch == 77 && p.lsn == 78);
}

static void reads_n_bytes_and_no_more(void **state)
{
    (void)state;
    struct position p;
    assert_int_equal(position_parse("12-345 and more", 6, &p), 0);
    assert_true(p.epoch == 12 && p.lsn == 345);
    assert_int_equal(position_parse("12-345", 4, &p), 0);
    assert_true(p.epoch == 12 && p.lsn == 3);
    char *exact = test_malloc(3); /* no NUL behind it */
    memcpy(exact, "4-5", 3);
    assert_int_equal(position_parse(exact, 3, &p), 0);
    assert_true(p.epoch == 4 && p.lsn == 5);
    test_free(exact);
}

static void epochs_compare_before_lsns(void **state)
{
    (void)state;
    static const struct position sorted[] = {{0, 0},  {0, 1}, {0, UINT64_MAX}, {1, 0}, {1, 5},
                                             {1, 6},  {2, 0}, {2, 5},          {UINT64_MAX, 0}};
    for (size_t i = 0; i < ARRAY_SIZE(sorted); i++)
        for (size_t k = 0; k < ARRAY_SIZE(sorted); k++)
            assert_int_equal(position_compare(sorted[i], sorted[k]), i < k ? -1 : i > k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats_decimal_with_a_dash),
        cmocka_unit_test(parses_what_it_formats),
        cmocka_unit_test(refuses_everything_else_and_leaves_the_position),
        cmocka_unit_test(reads_n_bytes_and_no_more),
        cmocka_unit_test(epochs_compare_before_lsns),
    };
    return cmocka_run_group_tests_name("position", tests, NULL, NULL);
}
