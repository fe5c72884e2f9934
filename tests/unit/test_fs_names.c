#include "fs/names.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

static void check(const char *name, enum name_kind kind, size_t base)
{
    size_t got = 9999;
    assert_int_equal(name_kind(name, strlen(name), &got), kind);
    assert_int_equal(got, base);
    assert_int_equal(name_kind(name, strlen(name), NULL), kind);
}

static void companions_are_told_by_suffix(void **state)
{
    (void)state;
    check("a.db", NAME_PLAIN, 4);
    check("a.db-wal", NAME_WAL, 4);
    check("a.db-shm", NAME_SHM, 4);
    check("a.db-journal", NAME_JOURNAL, 4);
    check("a.db-pos", NAME_POS, 4);
    check("a-wal-journal", NAME_JOURNAL, 5);
}

static void a_suffix_with_nothing_before_it_is_a_plain_name(void **state)
{
    (void)state;
    check("-wal", NAME_PLAIN, 4);
    check("-journal", NAME_PLAIN, 8);
    check("-", NAME_PLAIN, 1);
    check("", NAME_PLAIN, 0);
    check("a.db-walx", NAME_PLAIN, 9);
    check("a.db-WAL", NAME_PLAIN, 8);
}

static void private_names_stay_private_whatever_their_suffix(void **state)
{
    (void)state;
    check(".edgefs-", NAME_PRIVATE, 8);
    check(".edgefs-import-wal", NAME_PRIVATE, 18);
    check(".edgefs", NAME_PLAIN, 7);
    check("x.edgefs-", NAME_PLAIN, 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(companions_are_told_by_suffix),
        cmocka_unit_test(a_suffix_with_nothing_before_it_is_a_plain_name),
        cmocka_unit_test(private_names_stay_private_whatever_their_suffix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
