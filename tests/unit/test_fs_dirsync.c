/* A directory is not synced when nothing in it can be missing from the disk, and is in every other case. */
#include "fs/dirsync.h"
#include "lib/util.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cmocka.h>

#define DIR_A 1u
#define DIR_B 2u

static struct dirsync *d;
static uint64_t device;
static bool ext4;

static int setup(void **state)
{
    (void)state;
    struct stat st;
    struct statfs fs;
    _cleanup_fd_ int fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) || fstatfs(fd, &fs))
        return -1;
    device = st.st_dev;
    ext4 = fs.f_type == EXT4_SUPER_MAGIC;
    d = dirsync_new(fd);
    return d ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    free(d);
    return 0;
}

static bool clean(uint32_t dir)
{
    return dirsync_clean(d, dir, device);
}

static void a_directory_is_clean_from_its_fsync_to_the_next_change(void **state)
{
    (void)state;
    assert_false(clean(DIR_A)); /* what was before is not known */
    dirsync_synced(d, DIR_A, dirsync_now(d));
    assert_true(clean(DIR_A));
    assert_false(clean(DIR_B));
    dirsync_changed(d); /* wherever */
    assert_false(clean(DIR_A));
    dirsync_synced(d, DIR_B, dirsync_now(d));
    assert_false(clean(DIR_A));
    assert_true(clean(DIR_B));
}

static void a_change_during_the_fsync_is_not_covered(void **state)
{
    (void)state;
    uint64_t before = dirsync_now(d);
    dirsync_changed(d);
    dirsync_synced(d, DIR_A, before);
    assert_false(clean(DIR_A));
}

static void directories_that_share_a_place_do_not_vouch_for_each_other(void **state)
{
    (void)state;
    dirsync_synced(d, DIR_A, dirsync_now(d));
    dirsync_synced(d, DIR_A + 64, dirsync_now(d));
    assert_false(clean(DIR_A));
    assert_true(clean(DIR_A + 64));
}

/* On ext4 only. */
static void the_fsync_of_a_new_file_covers_its_name(void **state)
{
    (void)state;
    uint64_t before = dirsync_now(d);
    dirsync_made(d, 7, 1, device, before, dirsync_changed(d));
    assert_false(clean(DIR_A));
    dirsync_file_synced(d, 8, 1);
    assert_false(clean(DIR_A));
    dirsync_file_synced(d, 7, 1);
    assert_int_equal(clean(DIR_A), ext4);
    assert_false(dirsync_clean(d, DIR_A, device + 1)); /* another file system, mounted in it */
    dirsync_changed(d);
    dirsync_file_synced(d, 7, 1); /* it is not new any more */
    assert_false(clean(DIR_A));
}

static void another_file_with_the_number_of_one_that_is_gone_covers_nothing(void **state)
{
    (void)state;
    uint64_t before = dirsync_now(d);
    dirsync_made(d, 7, 1, device, before, dirsync_changed(d));
    dirsync_file_synced(d, 7, 2);
    assert_false(clean(DIR_A));
}

static void what_came_between_the_making_of_a_file_and_its_number_is_not_covered(void **state)
{
    (void)state;
    uint64_t before = dirsync_now(d);
    dirsync_changed(d);
    dirsync_made(d, 7, 1, device, before, dirsync_changed(d));
    dirsync_file_synced(d, 7, 1);
    assert_false(clean(DIR_A));
    before = dirsync_now(d);
    dirsync_made(d, 9, 1, device + 1, before, dirsync_changed(d)); /* on another file system */
    dirsync_file_synced(d, 9, 1);
    assert_false(clean(DIR_A));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_directory_is_clean_from_its_fsync_to_the_next_change),
        TEST(a_change_during_the_fsync_is_not_covered),
        TEST(directories_that_share_a_place_do_not_vouch_for_each_other),
        TEST(the_fsync_of_a_new_file_covers_its_name),
        TEST(another_file_with_the_number_of_one_that_is_gone_covers_nothing),
        TEST(what_came_between_the_making_of_a_file_and_its_number_is_not_covered),
    };
    return cmocka_run_group_tests_name("fs_dirsync", tests, NULL, NULL);
}
