#include "lib/filter.h"
#include "edgefs/layout.h"
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *include, *exclude, *name;
    bool wanted;
} cases[] = {
    {"", "", "a.db", true},           {"*", "", "dir/a.db", true},      {"a.db", "", "a.db", true},        {"a.db", "", "aa.db", false},
    {"a.db,b.db", "", "b.db", true},  {"a.db,b.db", "", "c.db", false}, {"eu/*", "", "eu/x/y.db", true},   {"eu/*", "", "eu", false},
    {"", "eu/*", "us/a.db", true},    {"", "eu/*", "eu/a.db", false},   {"eu/*", "*/s*", "eu/s.db", false}, {"eu/*", "*/s*", "eu/t.db", true},
    {"[ab].db", "", "b.db", true},    {"[ab].db", "", "c.db", false},   {"a.db,", "", "a.db", true},       {",a.db", "", "a.db", true},
};

static void names_are_wanted_or_not(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct filter f;
        snprintf(f.include, sizeof f.include, "%s", cases[i].include);
        snprintf(f.exclude, sizeof f.exclude, "%s", cases[i].exclude);
        if (filter_wants(&f, cases[i].name) != cases[i].wanted)
            fail_msg("include %s, exclude %s: %s", cases[i].include, cases[i].exclude, cases[i].name);
    }
}

static void the_lists_of_a_configuration_are_joined(void **state)
{
    (void)state;
    char *items[] = {(char[]){"a"}, (char[]){"b/*"}};
    struct config c = {.databases.include = {items, 2}, .databases.exclude = {items, 1}};
    struct filter f, none;
    assert_int_equal(filter_of_config(&c, &f), 0);
    assert_string_equal(f.include, "a,b/*");
    assert_string_equal(f.exclude, "a");
    assert_false(filter_everything(&f));
    assert_int_equal(filter_of_config(&(struct config){0}, &none), 0);
    assert_true(filter_everything(&none));
    assert_false(filter_same(&f, &none));
    assert_true(filter_same(&none, &(struct filter){.include = "*"}));
    char *longs[8], text[200];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (int i = 0; i < 8; i++)
        longs[i] = text;
    struct config big = {.databases.include = {longs, 8}};
    assert_true(filter_of_config(&big, &f) < 0);
}

static void a_query_carries_any_pattern(void **state)
{
    (void)state;
    char buf[64] = "x?y=1";
    assert_true(filter_add_query(&(struct filter){.include = "e u/*,&", .exclude = "\xc3\xa4"}, buf, sizeof buf));
    assert_string_equal(buf, "x?y=1&include=e%20u%2F%2A%2C%26&exclude=%C3%A4");
    char same[] = "x?y=1";
    assert_true(filter_add_query(&(struct filter){0}, same, sizeof same));
    assert_string_equal(same, "x?y=1");
    for (size_t room = sizeof "x?y=1"; room < sizeof "x?y=1&include=e%20u%2F%2A%2C%26&exclude=%C3%A4"; room++) {
        char small[64] = "x?y=1";
        if (filter_add_query(&(struct filter){.include = "e u/*,&", .exclude = "\xc3\xa4"}, small, room))
            fail_msg("%zu bytes of room cannot be enough: %s", room, small);
        assert_true(strlen(small) < room);
    }
}

static void a_data_directory_remembers_its_filter(void **state)
{
    (void)state;
    char folder[] = "/tmp/test_filter.XXXXXX";
    struct err e;
    struct filter some = {.include = "a", .exclude = "b"}, other = {.include = "a"}, all = {0};
    assert_non_null(mkdtemp(folder));
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_true(filter_unchanged(fd, &all));
    assert_false(filter_unchanged(fd, &some));
    assert_int_equal(filter_save(fd, &some, &e), 0);
    assert_true(filter_unchanged(fd, &some));
    assert_false(filter_unchanged(fd, &other));
    assert_false(filter_unchanged(fd, &all));
    assert_int_equal(filter_save(fd, &all, &e), 0);
    assert_true(filter_unchanged(fd, &all));
    unlinkat(fd, LAYOUT_FILTER, 0);
    close(fd);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_wanted_or_not),
        cmocka_unit_test(the_lists_of_a_configuration_are_joined),
        cmocka_unit_test(a_query_carries_any_pattern),
        cmocka_unit_test(a_data_directory_remembers_its_filter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
