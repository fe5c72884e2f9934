/* When a rollback journal that is passed through has ended, as far as an fsync can tell. */
#include "fs/journals.h"
#include "lib/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>

#include <cmocka.h>

static struct journals *notes;
static int file;

static int setup(void **state)
{
    (void)state;
    notes = journals_new();
    file = memfd_create("journal", MFD_CLOEXEC);
    return !notes || file < 0;
}

static int teardown(void **state)
{
    (void)state;
    free(notes);
    return close(file);
}

/* A header as SQLite writes it, with this nonce; magic: or zeros in place of magic and count. */
static void write_header(uint32_t nonce, bool magic)
{
    uint8_t h[JOURNAL_HEADER_SIZE] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7, 0, 0, 0, 3};
    if (!magic)
        memset(h, 0, 12);
    be32_put(h + 12, nonce);
    be32_put(h + 16, 10);
    be32_put(h + 20, 512);
    be32_put(h + 24, 4096);
    assert_int_equal(pwrite(file, h, sizeof h, 0), sizeof h);
}

static void write_zeros(void)
{
    uint8_t h[JOURNAL_HEADER_SIZE] = {0};
    assert_int_equal(pwrite(file, h, sizeof h, 0), sizeof h);
}

/* -1: nothing has ended; 0: something, and its header is not known; otherwise its nonce. */
static int sync_it(uint32_t ino)
{
    uint8_t h[JOURNAL_HEADER_SIZE];
    bool known = false;
    if (journals_sync(notes, ino, file, h, &known) == JOURNALS_GOES_ON)
        return -1;
    return known ? (int)be32_get(h + 12) : 0;
}

static void transaction(uint32_t ino, uint32_t nonce)
{
    write_header(nonce, false);
    assert_int_equal(sync_it(ino), -1);
    write_header(nonce, true);
    assert_int_equal(sync_it(ino), -1);
    write_zeros();
    assert_int_equal(sync_it(ino), (int)nonce);
}

static void zeros_at_an_fsync_end_what_an_fsync_before_has_noted(void **state)
{
    (void)state;
    journals_opened(notes, 5, file, true);
    transaction(5, 77);
    transaction(5, 78); /* locking_mode=EXCLUSIVE: it stays open */
    journals_opened(notes, 5, file, false);
    transaction(5, 79);
    assert_int_equal(sync_it(5), -1); /* once more: it has ended already */
    assert_false(journals_closed(notes, 5));
}

/* Rolled back before anything was synced, hence before anything could be written to the database. */
static void zeros_over_a_header_that_was_never_valid_end_nothing(void **state)
{
    (void)state;
    journals_opened(notes, 5, file, true);
    write_header(77, false);
    write_zeros();
    assert_int_equal(sync_it(5), -1);
    transaction(5, 78);
    write_header(79, false);
    assert_int_equal(sync_it(5), -1);
    write_zeros();
    assert_int_equal(sync_it(5), -1);
}

static void a_hot_journal_is_noted_when_it_is_opened(void **state)
{
    (void)state;
    write_header(77, true);
    journals_opened(notes, 5, file, true);
    write_zeros();
    assert_int_equal(sync_it(5), 77);
}

/* A successor has seen neither open nor header. */
static void without_a_note_an_end_is_told_and_its_header_is_not_known(void **state)
{
    (void)state;
    write_zeros();
    assert_int_equal(sync_it(5), 0);
    transaction(5, 78);
    write_header(79, true);
    journals_opened(notes, 5 + 4096, file, true); /* takes its place */
    write_zeros();
    assert_int_equal(sync_it(5), 0);
}

/* … also if the first that it sees is a header that is being prepared: the one before may have ended in between. */
static void a_header_under_way_says_nothing_of_what_was_before(void **state)
{
    (void)state;
    write_header(77, false);
    assert_int_equal(sync_it(5), -1);
    write_zeros();
    assert_int_equal(sync_it(5), 0);
}

static void what_was_never_synced_is_told_at_the_close(void **state)
{
    (void)state;
    journals_opened(notes, 5, file, true);
    write_header(77, true);
    write_zeros();
    assert_true(journals_closed(notes, 5));
    assert_true(journals_zeroed(file));
    assert_false(journals_valid(file));
    journals_opened(notes, 5, file, true);
    write_header(78, true);
    assert_true(journals_closed(notes, 5));
    assert_false(journals_zeroed(file)); /* died in the middle: hot */
    assert_true(journals_valid(file));
    assert_int_equal(ftruncate(file, 0), 0);
    assert_false(journals_zeroed(file)); /* truncated: that was a call */
    assert_false(journals_valid(file));
    assert_false(journals_closed(notes, 6)); /* of this one nothing is known */
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(zeros_at_an_fsync_end_what_an_fsync_before_has_noted),
        TEST(zeros_over_a_header_that_was_never_valid_end_nothing),
        TEST(a_hot_journal_is_noted_when_it_is_opened),
        TEST(without_a_note_an_end_is_told_and_its_header_is_not_known),
        TEST(a_header_under_way_says_nothing_of_what_was_before),
        TEST(what_was_never_synced_is_told_at_the_close),
    };
    return cmocka_run_group_tests_name("fs_journals", tests, NULL, NULL);
}
