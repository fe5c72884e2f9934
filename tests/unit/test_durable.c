#include "lib/durable.h"
#include "lib/util.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <signal.h>

static char folder[] = "/tmp/test_durable.XXXXXX";
static int dirfd_;

static int count_files(void)
{
    DIR *d = opendir(folder);
    int n = 0;
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static void contents_and_mode_are_replaced_whole(void **state)
{
    (void)state;
    struct err e = {0};
    char *data = NULL;
    size_t n = 0;
    struct stat st;
    mode_t old = umask(077);
    assert_int_equal(durable_replace(dirfd_, "f", "one\0two", 7, 0644, &e), 0);
    umask(old);
    assert_int_equal(fstatat(dirfd_, "f", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0644);
    assert_int_equal(durable_read(dirfd_, "f", 7, &data, &n, &e), 0);
    assert_int_equal(n, 7);
    assert_memory_equal(data, "one\0two", 8);
    free(data);
    assert_int_equal(durable_replace(dirfd_, "f", NULL, 0, 0600, &e), 0);
    assert_int_equal(durable_read(dirfd_, "f", 0, &data, &n, &e), 0);
    assert_int_equal(n, 0);
    assert_string_equal(data, "");
    free(data);
    assert_int_equal(count_files(), 1);
}

static void a_leftover_of_a_dead_writer_is_removed(void **state)
{
    (void)state;
    int fd = openat(dirfd_, ".g.new", O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(durable_replace(dirfd_, "g", "x", 1, 0600, NULL), 0);
    assert_int_equal(faccessat(dirfd_, ".g.new", F_OK, 0), -1);
    assert_int_equal(unlinkat(dirfd_, "g", 0), 0);
}

static void a_failed_write_leaves_the_old_file(void **state)
{
    (void)state;
    struct rlimit old, low = {.rlim_cur = 1000};
    struct err e = {0};
    char *data = NULL, big[4096] = {0};
    size_t n = 0;
    assert_int_equal(durable_replace(dirfd_, "f", "old", 3, 0600, NULL), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    int rc = durable_replace(dirfd_, "f", big, sizeof big, 0600, &e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(rc, -EFBIG);
    assert_string_equal(e.text, "write .f.new: File too large");
    assert_int_equal(durable_read(dirfd_, "f", 100, &data, &n, NULL), 0);
    assert_string_equal(data, "old");
    free(data);
    assert_int_equal(count_files(), 1);
}

static void bad_names_and_files_are_refused(void **state)
{
    (void)state;
    char longname[300];
    char *data = NULL;
    size_t n = 0;
    struct err e = {0};
    memset(longname, 'a', sizeof longname);
    longname[241] = 0;
    const char *const names[] = {"", ".", "..", "a/b", "/a", longname};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        assert_int_equal(durable_replace(dirfd_, names[i], "x", 1, 0600, &e), -EINVAL);
        assert_int_equal(durable_read(dirfd_, names[i], 1, &data, &n, &e), -EINVAL);
    }
    longname[240] = 0;
    assert_int_equal(durable_replace(dirfd_, longname, "x", 1, 0600, &e), 0);
    assert_int_equal(unlinkat(dirfd_, longname, 0), 0);

    assert_int_equal(durable_read(dirfd_, "absent", 1, &data, &n, &e), -ENOENT);
    assert_string_equal(e.text, "open absent: No such file or directory");
    assert_int_equal(durable_replace(dirfd_, "f", "1234", 4, 0600, &e), 0);
    assert_int_equal(durable_read(dirfd_, "f", 3, &data, &n, &e), -EFBIG);
    assert_int_equal(mkdirat(dirfd_, "d", 0700), 0);
    assert_int_equal(mkfifoat(dirfd_, "p", 0600), 0);
    assert_int_equal(durable_read(dirfd_, "d", 10, &data, &n, &e), -EINVAL);
    assert_int_equal(durable_read(dirfd_, "p", 10, &data, &n, &e), -EINVAL); /* and does not wait for a writer */
    assert_int_equal(durable_replace(dirfd_, "d", "x", 1, 0600, &e), -EISDIR);
    assert_null(data);
    assert_int_equal(unlinkat(dirfd_, "d", AT_REMOVEDIR), 0);
    assert_int_equal(unlinkat(dirfd_, "p", 0), 0);
    assert_int_equal(count_files(), 1);
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    dirfd_ = open(folder, O_RDONLY | O_DIRECTORY);
    return dirfd_ < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlinkat(dirfd_, "f", 0);
    close(dirfd_);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contents_and_mode_are_replaced_whole),
        cmocka_unit_test(a_leftover_of_a_dead_writer_is_removed),
        cmocka_unit_test(a_failed_write_leaves_the_old_file),
        cmocka_unit_test(bad_names_and_files_are_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
