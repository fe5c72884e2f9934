/* Opening a log that a crash, a disk or a person has damaged. */
#include "tests/unit/rlog_helper.h"

#include "lib/log.h"

#define SEGMENT "0000000000000001.log"

/* A log of one segment whose records end at ends[1], ends[2] … */
static void small_log(int64_t ends[6])
{
    struct rlog *l = open_log(1 << 20);
    for (uint64_t lsn = 1; lsn <= 5; lsn++) {
        append(l, lsn, 20 + lsn * 13);
        ends[lsn] = (int64_t)rlog_bytes(l);
    }
    ends[0] = 0;
    rlog_close(l);
}

/* Opens, finds 1..last, appends two records, opens again. */
static void opens_with(uint64_t last)
{
    struct rlog *l = open_log(1 << 20);
    assert_int_equal(rlog_last(l).lsn, last);
    check_next(l, 1, last);
    append(l, last + 1, 33);
    append(l, last + 2, 44);
    check_next(l, 1, last + 2);
    rlog_close(l);
    l = open_log(1 << 20);
    assert_int_equal(rlog_last(l).lsn, last + 2);
    check_next(l, 1, last + 2);
    rlog_close(l);
}

static uint64_t whole_records(const int64_t ends[6], int64_t size)
{
    uint64_t n = 0;
    while (n < 5 && ends[n + 1] <= size)
        n++;
    return n;
}

static void a_log_cut_anywhere_keeps_its_whole_records(void **state)
{
    (void)state;
    int64_t ends[6];
    size_t n;
    small_log(ends);
    uint8_t *file = load_file(SEGMENT, &n);
    assert_int_equal(n, ends[5]);
    uint8_t *padded = calloc(1, n + 10000);
    for (size_t cut = 0; cut <= n; cut++) {
        store_file(SEGMENT, file, cut);
        opens_with(whole_records(ends, (int64_t)cut));
        memset(padded, 0, n + 10000); /* the same in preallocated space */
        memcpy(padded, file, cut);
        store_file(SEGMENT, padded, n + 10000);
        uint64_t last = whole_records(ends, (int64_t)cut);
        while (last < 5 && memcmp(padded, file, (size_t)ends[last + 1]) == 0)
            last++; /* the bytes cut off happened to be zeros */
        opens_with(last);
    }
    free(padded);
    free(file);
}

static void a_flipped_byte_in_the_last_record_cuts_it(void **state)
{
    (void)state;
    int64_t ends[6];
    size_t n;
    small_log(ends);
    uint8_t *file = load_file(SEGMENT, &n);
    for (int64_t at = ends[4]; at < ends[5]; at++) {
        file[at] ^= 0x10;
        store_file(SEGMENT, file, n);
        opens_with(4);
        file[at] ^= 0x10;
    }
    for (int64_t at = ends[1]; at < ends[2];
         at++) { /* in the middle: what follows is lost with it, there must be no gap */
        file[at] ^= 0x01;
        store_file(SEGMENT, file, n);
        opens_with(1);
        file[at] ^= 0x01;
    }
    free(file);
}

/* Records that were valid once must not come back behind a shorter new tail. */
static void cut_records_never_come_back(void **state)
{
    (void)state;
    int64_t ends[6];
    size_t n;
    small_log(ends);
    uint8_t *file = load_file(SEGMENT, &n);
    file[ends[2] + 3] ^= 1; /* record 3; 4 and 5 are good */
    store_file(SEGMENT, file, n);
    struct rlog *l = open_log(1 << 20);
    assert_int_equal(rlog_last(l).lsn, 2);
    append(l, 3, (size_t)(ends[3] - ends[2]) - RECORD_HEAD_MIN - 7); /* ends exactly where 4 began */
    assert_int_equal(rlog_bytes(l), ends[3]);
    rlog_close(l);
    l = open_log(1 << 20);
    assert_int_equal(rlog_last(l).lsn, 3);
    rlog_close(l);
    free(file);
}

/* Whole and good, but not the next one. */
static void a_record_with_another_lsn_ends_the_log(void **state)
{
    (void)state;
    int64_t ends[6];
    size_t n;
    char names[8][32];
    small_log(ends);
    uint8_t *file = load_file(SEGMENT, &n);
    memmove(file + ends[2], file + ends[3], (size_t)(ends[5] - ends[3])); /* 1 2 4 5 */
    store_file(SEGMENT, file, n - (size_t)(ends[3] - ends[2]));
    opens_with(2);
    memcpy(file + ends[2], file, (size_t)ends[2]); /* 1 2 1 2 */
    store_file(SEGMENT, file, (size_t)(2 * ends[2]));
    opens_with(2);
    free(file);

    file = load_file(SEGMENT, &n); /* a file under a wrong name */
    store_file("0000000000000005.log", file, n);
    struct rlog *l = open_log(1 << 20);
    check_log(l, 1, 4);
    assert_int_equal(list_segments(dir, names, 8), 2);
    append(l, 5, 10);
    check_log(l, 1, 5);
    rlog_close(l);
    free(file);
}

/* Three segments of two records, the older two sealed. */
static void three_segments(void)
{
    struct rlog *l = open_log(2200);
    for (uint64_t lsn = 1; lsn <= 6; lsn++)
        append(l, lsn, 1000);
    rlog_close(l);
}

static void damage_in_an_older_segment_is_reported_when_it_is_read(void **state)
{
    (void)state;
    const size_t record = RECORD_HEAD_MIN + 7 + 1000;
    size_t n;
    three_segments();
    uint8_t *file = load_file(SEGMENT, &n);
    assert_int_equal(n, 2 * record);
    for (size_t at = record; at < n; at += at < record + RECORD_HEAD_MIN + 7 ? 1 : 97) {
        struct rlog_cursor c = {0};
        struct record_head h;
        int64_t offset;
        char path[PATH_BUF], where[64];
        file[at] ^= 0x40;
        store_file(SEGMENT, file, n);
        path_of(path, sizeof path, SEGMENT);
        assert_int_equal(chmod(path, 0400), 0);
        struct rlog *l = open_log(2200);
        assert_int_equal(rlog_last(l).lsn, 6);
        assert_ok(rlog_seek(l, 1, &c, &err));
        assert_int_equal(rlog_next(l, &c, &h, &offset, &err), 1);
        for (int again = 0; again < 2; again++) {
            assert_int_equal(rlog_next(l, &c, &h, &offset, &err), ERR_CORRUPT);
            assert_non_null(strstr(err.text, path));
            snprintf(where, sizeof where, "offset %zu", record);
            assert_non_null(strstr(err.text, where));
        }
        check_next(l, 3, 6); /* the rest is as good as it was */
        rlog_cursor_close(&c);
        rlog_close(l);
        file[at] ^= 0x40;
    }
    free(file);
}

static void a_damaged_first_header_of_an_older_segment_refuses_the_log(void **state)
{
    (void)state;
    struct rlog_options o = {.segment_size = 2200};
    struct rlog *l = NULL;
    char path[PATH_BUF];
    three_segments();
    path_of(path, sizeof path, SEGMENT);
    assert_int_equal(chmod(path, 0600), 0);
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, "x", 1, 9), 1);
    close(fd);
    assert_int_equal(chmod(path, 0400), 0);
    assert_int_equal(rlog_open(dir, &o, &l, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, SEGMENT ": offset 0: "));
    assert_null(l);
}

/* A sealed segment that lost records at its end. */
static void a_gap_between_older_segments_is_reported_when_it_is_read(void **state)
{
    (void)state;
    char path[PATH_BUF];
    struct rlog_cursor c = {0};
    struct record_head h;
    int64_t offset, length;
    uint64_t upto;
    three_segments();
    path_of(path, sizeof path, SEGMENT);
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(truncate(path, RECORD_HEAD_MIN + 7 + 1000), 0);
    assert_int_equal(chmod(path, 0400), 0);
    struct rlog *l = open_log(2200);
    assert_ok(rlog_seek(l, 1, &c, &err));
    assert_int_equal(rlog_next(l, &c, &h, &offset, &err), 1);
    assert_int_equal(rlog_next(l, &c, &h, &offset, &err), ERR_CORRUPT);
    assert_int_equal(rlog_span(l, &c, 9999, &offset, &length, &upto, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "records are missing"));
    assert_ok(
        rlog_seek(l, 2, &c, &err)); /* where the next record would be; only reading tells that it is not */
    assert_int_equal(rlog_next(l, &c, &h, &offset, &err), ERR_CORRUPT);
    rlog_cursor_close(&c);
    rlog_close(l);
}

/* After a power cut the closed segments that were not durable yet may have lost anything, the newest nothing.
 */
static void a_torn_unsealed_segment_ends_the_log(void **state)
{
    (void)state;
    char path[PATH_BUF], names[8][32];
    three_segments();
    path_of(path, sizeof path, "0000000000000003.log");
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(truncate(path, 1500), 0);
    struct rlog *l = open_log(2200);
    check_log(l, 1, 3);
    assert_int_equal(list_segments(dir, names, 8), 2);
    append(l, 4, 500);
    check_log(l, 1, 4);
    rlog_close(l);
    l = open_log(2200);
    check_log(l, 1, 4);
    rlog_close(l);
}

/* The newest segment has no whole record; so has the one before, or it is damaged. */
static void an_empty_newest_segment_is_no_end(void **state)
{
    (void)state;
    char path[PATH_BUF], names[8][32];
    three_segments();
    store_file("0000000000000005.log", "EFR1 torn", 9);
    struct rlog *l = open_log(2200);
    check_log(l, 1, 4);
    assert_int_equal(rlog_last(l).epoch, 1);
    rlog_close(l);

    path_of(path, sizeof path, "0000000000000003.log");
    store_file("0000000000000005.log", "", 0);
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(truncate(path, 1500), 0);
    assert_int_equal(chmod(path, 0400), 0);
    l = open_log(2200);
    check_log(l, 1, 3);
    assert_int_equal(list_segments(dir, names, 8), 2);
    rlog_close(l);

    store_file("0000000000000003.log", "", 0);
    store_file(SEGMENT, "", 0);
    l = open_log(2200);
    check_log(l, 1, 0);
    assert_int_equal(rlog_last(l).epoch, 0);
    append(l, 1, 100);
    check_log(l, 1, 1);
    rlog_close(l);
}

static void other_files_in_the_directory_are_left_alone(void **state)
{
    (void)state;
    static const char *const others[] = {"0000000000000007.LOG", "000000000000000A.log",
                                         "0x00000000000002.log", "README",
                                         "0000000000000000.log", "0000000000000009.log.bak"};
    three_segments();
    for (size_t i = 0; i < ARRAY_SIZE(others); i++)
        store_file(others[i], "mine", 4);
    struct rlog *l = open_log(2200);
    check_log(l, 1, 6);
    assert_ok(rlog_reset(l, (struct position){2, 3}, &err));
    rlog_close(l);
    for (size_t i = 0; i < ARRAY_SIZE(others); i++)
        assert_int_equal(size_of(others[i]), 4);
}

static void what_is_no_file_is_refused(void **state)
{
    (void)state;
    struct rlog_options o = {.segment_size = 2200};
    struct rlog *l;
    char path[PATH_BUF];
    three_segments();
    path_of(path, sizeof path, "0000000000000007.log");
    assert_int_equal(symlink("0000000000000005.log", path), 0);
    assert_int_equal(rlog_open(dir, &o, &l, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "0000000000000007.log: not a regular file"));
}

/* rlog_reset was interrupted: by what it wrote first, it is finished. */
static void an_interrupted_reset_is_finished(void **state)
{
    (void)state;
    char names[8][32];
    size_t n;
    three_segments();
    store_file("base", "edgefs-log 1\n9 77 resetting\n", 28);
    struct rlog *l = open_log(2200);
    assert_int_equal(rlog_last(l).epoch, 9);
    check_log(l, 78, 77);
    assert_int_equal(list_segments(dir, names, 8), 0);
    rlog_close(l);
    uint8_t *base = load_file("base", &n);
    assert_int_equal(n, 24);
    assert_memory_equal(base, "edgefs-log 1\n9 77 ready\n", 24);
    free(base);
}

static void a_bad_base_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "edgefs-log 2\n1 2 ready\n",
                                      "edgefs-log 1\n",
                                      "edgefs-log 1\n1 2\n",
                                      "edgefs-log 1\n1 2 readyy\n",
                                      "edgefs-log 1\n1 x ready\n",
                                      "edgefs-log 1\n1 2 ready",
                                      "edgefs-log 1\n1 2 ready\nmore\n",
                                      "edgefs-log 1\n1 4 ready\n"}; /* but there are older segments */
    struct rlog_options o = {.segment_size = 2200};
    three_segments();
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct rlog *l;
        store_file("base", bad[i], strlen(bad[i]));
        assert_int_equal(rlog_open(dir, &o, &l, &err), ERR_CORRUPT);
        assert_non_null(strstr(err.text, dir));
        assert_non_null(strstr(err.text, "base"));
    }
    store_file("base", "edgefs-log 1\n1 0 ready\n", 23);
    struct rlog *l = open_log(2200);
    check_log(l, 1, 6);
    rlog_close(l);
}

/* Payloads may hold anything, also records: what an aborted large record leaves must not be found by
 * recovery. */
static void a_payload_that_looks_like_records_is_not_one(void **state)
{
    (void)state;
    int64_t ends[6];
    size_t n;
    small_log(ends);
    uint8_t *file = load_file(SEGMENT, &n);
    struct rlog *l = open_log(4 << 20);
    struct record_head h = head_for(1, 6);
    assert_ok(rlog_begin(l, &h, &err));
    for (size_t at = 0; at < 2000000; at += n)
        assert_ok(rlog_write(l, file, n, &err));
    rlog_abort(l);
    append(l, 6, 0);
    rlog_close(l);
    l = open_log(4 << 20);
    check_log(l, 1, 6);
    assert_int_equal(size_of(SEGMENT), rlog_bytes(l));
    rlog_close(l);
    free(file);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_log_cut_anywhere_keeps_its_whole_records),
        T(a_flipped_byte_in_the_last_record_cuts_it),
        T(cut_records_never_come_back),
        T(a_record_with_another_lsn_ends_the_log),
        T(damage_in_an_older_segment_is_reported_when_it_is_read),
        T(a_damaged_first_header_of_an_older_segment_refuses_the_log),
        T(a_gap_between_older_segments_is_reported_when_it_is_read),
        T(a_torn_unsealed_segment_ends_the_log),
        T(an_empty_newest_segment_is_no_end),
        T(other_files_in_the_directory_are_left_alone),
        T(what_is_no_file_is_refused),
        T(an_interrupted_reset_is_finished),
        T(a_bad_base_is_refused),
        T(a_payload_that_looks_like_records_is_not_one),
    };
    log_init("test", NULL, LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
