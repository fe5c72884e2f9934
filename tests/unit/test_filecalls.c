/* Whom SQLite gives its files to in this process, and how often it asks the kernel for that. fchown(2) is counted: libsqlite3 and the code under test find the
 * one of this program before the C library's. As root only: SQLite does not try otherwise. */
#include "replicator/database/filecalls.h"
#include "lib/util.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SOMEBODY 4711u

static char folder[] = "/tmp/test_filecalls.XXXXXX";
static char database[PATH_MAX];
static int calls;

__attribute__((visibility("default"))) int fchown(int fd, uid_t uid, gid_t gid)
{
    calls++;
    return (int)syscall(SYS_fchown, fd, uid, gid);
}

static sqlite3 *opened(const char *mode)
{
    char sql[256];
    sqlite3 *db;
    snprintf(sql, sizeof sql, "PRAGMA journal_mode=%s; CREATE TABLE IF NOT EXISTS t (x); BEGIN; INSERT INTO t VALUES (1)", mode);
    assert_int_equal(sqlite3_open(database, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    return db;
}

static void closed(sqlite3 *db)
{
    assert_int_equal(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

/* Waiting for the lock of a file's inode, as fchown does, may be waiting for a commit that waits for replicas. */
static void a_file_that_has_its_owner_is_left_alone(void **state)
{
    (void)state;
    static const char *const modes[] = {"wal", "delete", "persist"};
    calls = 0;
    for (size_t i = 0; i < ARRAY_SIZE(modes); i++)
        for (int again = 0; again < 2; again++)
            closed(opened(modes[i]));
    assert_int_equal(calls, 0);
}

static void the_companions_of_somebody_elses_database_become_theirs(void **state)
{
    (void)state;
    static const struct {
        const char *mode, *companion;
    } cases[] = {{"wal", "-wal"}, {"wal", "-shm"}, {"delete", "-journal"}};
    if (geteuid() != 0)
        skip();
    assert_int_equal(chown(database, SOMEBODY, SOMEBODY), 0);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char path[PATH_MAX + 16];
        struct stat st;
        sqlite3 *db = opened(cases[i].mode);
        snprintf(path, sizeof path, "%s%s", database, cases[i].companion);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_uid, SOMEBODY);
        assert_int_equal(st.st_gid, SOMEBODY);
        closed(db);
    }
}

static int set_up(void **state)
{
    (void)state;
    filecalls_install();
    if (!mkdtemp(folder))
        return -1;
    snprintf(database, sizeof database, "%s/a.db", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    static const char *const left[] = {"", "-wal", "-shm", "-journal"};
    char path[PATH_MAX + 16];
    for (size_t i = 0; i < ARRAY_SIZE(left); i++) {
        snprintf(path, sizeof path, "%s%s", database, left[i]);
        (void)unlink(path);
    }
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_that_has_its_owner_is_left_alone),
        cmocka_unit_test(the_companions_of_somebody_elses_database_become_theirs),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
