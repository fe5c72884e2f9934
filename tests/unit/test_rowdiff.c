#include "ctl/rowdiff.h"
#include "lib/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct files {
    char folder[64], first[80], second[80];
};

static int setup(void **state)
{
    struct files *f = calloc(1, sizeof *f);
    snprintf(f->folder, sizeof f->folder, "/tmp/rowdiff-XXXXXX");
    if (!mkdtemp(f->folder))
        return -1;
    snprintf(f->first, sizeof f->first, "%s/first", f->folder);
    snprintf(f->second, sizeof f->second, "%s/second", f->folder);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct files *f = *state;
    unlink(f->first);
    unlink(f->second);
    rmdir(f->folder);
    free(f);
    return 0;
}

static void run(const char *path, const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

/* What rowdiff says, as text with sorted keys. */
static void expect(const struct files *f, uint64_t limit, const char *want)
{
    struct err e;
    json_t *out = NULL;
    int rc = rowdiff(f->first, f->second, limit, &out, &e);
    if (rc)
        fail_msg("%s", e.text);
    char *got = json_dumps(out, JSON_COMPACT | JSON_SORT_KEYS);
    assert_string_equal(got, want);
    free(got);
    json_decref(out);
}

static void equal_databases_have_no_difference(void **state)
{
    const struct files *f = *state;
    static const char sql[] = "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (NULL, x'00'); CREATE TABLE k (a PRIMARY KEY) WITHOUT ROWID; INSERT INTO k VALUES (1)";
    run(f->first, sql);
    run(f->second, sql);
    expect(f, 0, "[]");
}

static void rows_only_here_only_there_and_changed(void **state)
{
    const struct files *f = *state;
    run(f->first, "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (2, 'y'), (3, 'z')");
    run(f->second, "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (2, 'Y'); INSERT INTO t (rowid, a) VALUES (9, 9)");
    expect(f, 0,
           "[{\"changed\":1,\"only_first\":1,\"only_second\":1,\"rows\":[{\"key\":{\"rowid\":3},\"kind\":\"only_first\",\"row\":{\"a\":3,\"b\":\"z\"}},"
           "{\"key\":{\"rowid\":9},\"kind\":\"only_second\",\"row\":{\"a\":9,\"b\":null}},"
           "{\"first\":{\"b\":\"y\"},\"key\":{\"rowid\":2},\"kind\":\"changed\",\"second\":{\"b\":\"Y\"}}],\"table\":\"t\"}]");
}

static void the_limit_leaves_the_counts_alone(void **state)
{
    const struct files *f = *state;
    run(f->first, "CREATE TABLE t (a); INSERT INTO t VALUES (1), (2), (3)");
    run(f->second, "CREATE TABLE t (a)");
    expect(f, 1, "[{\"changed\":0,\"only_first\":3,\"only_second\":0,\"rows\":[{\"key\":{\"rowid\":1},\"kind\":\"only_first\",\"row\":{\"a\":1}}],\"table\":\"t\"}]");
}

static void primary_keys_tell_rows_apart_where_there_are_no_rowids(void **state)
{
    const struct files *f = *state;
    run(f->first, "CREATE TABLE k (v, a TEXT, b INT, PRIMARY KEY (b, a)) WITHOUT ROWID; INSERT INTO k VALUES (1, 'x', 1), (2, 'y', 1)");
    run(f->second, "CREATE TABLE k (v, a TEXT, b INT, PRIMARY KEY (b, a)) WITHOUT ROWID; INSERT INTO k VALUES (1, 'x', 1), (3, 'y', 1)");
    expect(f, 0,
           "[{\"changed\":1,\"only_first\":0,\"only_second\":0,\"rows\":[{\"first\":{\"v\":2},\"key\":{\"a\":\"y\",\"b\":1},\"kind\":\"changed\",\"second\":{\"v\":3}}],"
           "\"table\":\"k\"}]");
}

static void types_and_cases_count(void **state)
{
    const struct files *f = *state;
    run(f->first, "CREATE TABLE t (a, b COLLATE NOCASE, c); INSERT INTO t VALUES (1, 'x', x'61')");
    run(f->second, "CREATE TABLE t (a, b COLLATE NOCASE, c); INSERT INTO t VALUES (1.0, 'X', 'a')");
    expect(f, 0,
           "[{\"changed\":1,\"only_first\":0,\"only_second\":0,\"rows\":[{\"first\":{\"a\":1,\"b\":\"x\",\"c\":{\"hex\":\"61\"}},\"key\":{\"rowid\":1},"
           "\"kind\":\"changed\",\"second\":{\"a\":1.0,\"b\":\"X\",\"c\":\"a\"}}],\"table\":\"t\"}]");
}

static void names_of_any_kind(void **state)
{
    const struct files *f = *state;
    run(f->first, "CREATE TABLE \"a \"\"b'; --\" (rowid, \"x \"\" y\"); INSERT INTO \"a \"\"b'; --\" VALUES (7, 'o''k')");
    run(f->second, "CREATE TABLE \"a \"\"b'; --\" (rowid, \"x \"\" y\")");
    expect(f, 0,
           "[{\"changed\":0,\"only_first\":1,\"only_second\":0,\"rows\":[{\"key\":{\"_rowid_\":1},\"kind\":\"only_first\",\"row\":{\"rowid\":7,\"x \\\" y\":\"o'k\"}}],"
           "\"table\":\"a \\\"b'; --\"}]");
}

static void tables_that_only_one_has_and_tables_declared_differently(void **state)
{
    const struct files *f = *state;
    run(f->first, "CREATE TABLE old (a); INSERT INTO old VALUES (1); CREATE TABLE t (a); INSERT INTO t VALUES (5)");
    run(f->second, "CREATE TABLE new (a); INSERT INTO new VALUES (2); CREATE TABLE t (a, b); INSERT INTO t VALUES (5, 6)");
    expect(f, 0,
           "[{\"changed\":0,\"only_first\":0,\"only_second\":1,\"rows\":[{\"key\":{\"rowid\":1},\"kind\":\"only_second\",\"row\":{\"a\":2}}],\"table\":\"new\"},"
           "{\"changed\":0,\"only_first\":1,\"only_second\":0,\"rows\":[{\"key\":{\"rowid\":1},\"kind\":\"only_first\",\"row\":{\"a\":1}}],\"table\":\"old\"},"
           "{\"changed\":0,\"only_first\":0,\"only_second\":0,\"rows\":[],\"schema\":true,\"table\":\"t\"}]");
}

static void a_database_that_is_not_there_has_no_rows(void **state)
{
    const struct files *f = *state;
    struct err e;
    json_t *out;
    run(f->first, "CREATE TABLE t (a); INSERT INTO t VALUES (1)");
    assert_int_equal(rowdiff(f->first, NULL, 0, &out, &e), 0);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(out, 0), "only_first")), 1);
    json_decref(out);
}

static void what_is_no_database_is_refused(void **state)
{
    const struct files *f = *state;
    struct err e;
    json_t *out;
    FILE *file = fopen(f->first, "w");
    for (int i = 0; i < 5000; i++)
        fputs("rubbish", file);
    fclose(file);
    run(f->second, "CREATE TABLE t (a)");
    assert_int_equal(rowdiff(f->first, f->second, 0, &out, &e), ERR_CORRUPT);
    assert_int_equal(rowdiff(f->second, f->first, 0, &out, &e), ERR_CORRUPT);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(equal_databases_have_no_difference),
        TEST(rows_only_here_only_there_and_changed),
        TEST(the_limit_leaves_the_counts_alone),
        TEST(primary_keys_tell_rows_apart_where_there_are_no_rowids),
        TEST(types_and_cases_count),
        TEST(names_of_any_kind),
        TEST(tables_that_only_one_has_and_tables_declared_differently),
        TEST(a_database_that_is_not_there_has_no_rows),
        TEST(what_is_no_database_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
