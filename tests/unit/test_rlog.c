/* The log: appending, reading, segments, retention, reset. test_rlog_recover.c damages it, test_rlog_faults.c
 * makes system calls fail, test_rlog_threads.c reads while it grows. */
#include "tests/unit/rlog_helper.h"

#include "lib/crc.h"
#include "lib/log.h"
#include <sys/resource.h>

static void an_empty_log_has_no_position(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) {
        struct rlog *l = open_log(1 << 20);
        struct rlog_cursor c = {0};
        struct record_head h;
        int64_t offset;
        assert_int_equal(rlog_last(l).lsn, 0);
        assert_int_equal(rlog_last(l).epoch, 0);
        assert_int_equal(rlog_first(l), 1);
        assert_int_equal(rlog_bytes(l), 0);
        assert_int_equal(rlog_durable(l), 0);
        assert_ok(rlog_sync(l, &err));
        assert_ok(rlog_seek(l, 1, &c, &err));
        assert_int_equal(rlog_next(l, &c, &h, &offset, &err), 0);
        assert_int_equal(rlog_seek(l, 2, &c, &err), ERR_GONE);
        assert_int_equal(rlog_seek(l, 0, &c, &err), ERR_GONE);
        rlog_cursor_close(&c);
        rlog_close(l);
    }
}

static void records_come_back_as_they_were_appended(void **state)
{
    (void)state;
    struct rlog *l = open_log(100000);
    for (uint64_t lsn = 1; lsn <= 300; lsn++)
        append(l, lsn, (lsn * 37) % 1500);
    check_log(l, 1, 300);
    rlog_close(l);
    l = open_log(100000);
    check_log(l, 1, 300);
    assert_int_equal(rlog_durable(l), 300);
    assert_int_equal(rlog_last(l).epoch, 1);
    append(l, 301, 10);
    check_log(l, 1, 301);
    rlog_close(l);
}

/* From nothing over the sizes around the buffer to several buffers; in one piece and in odd ones. */
static void payloads_of_any_size_and_any_pieces(void **state)
{
    static const size_t sizes[] = {0, 1, 4095, 262143, 262144, 262145, 300000, 524288, 1500000};
    static const size_t pieces[] = {1500000, 262144, 262145, 99991};
    uint8_t *p = malloc(1500000);
    struct rlog *l = open_log(4 << 20);
    uint64_t lsn = 0;
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
        for (size_t k = 0; k < ARRAY_SIZE(pieces); k++) {
            struct record_head h = head_for(1, ++lsn);
            payload_fill(lsn, 0, p, sizes[i]);
            assert_ok(rlog_begin(l, &h, &err));
            for (size_t at = 0; at < sizes[i]; at += pieces[k])
                assert_ok(rlog_write(l, p + at, MIN(pieces[k], sizes[i] - at), &err));
            assert_ok(rlog_commit_expect(l, (uint32_t)sizes[i], crc32c(0, p, sizes[i]), &err));
        }
    free(p);
    check_log(l, 1, lsn);
    rlog_close(l);
    l = open_log(4 << 20);
    check_log(l, 1, lsn);
    rlog_close(l);
}

static void segments_are_named_by_lsn_sealed_and_cut(void **state)
{
    (void)state;
    char names[64][32], path[256];
    struct stat st;
    uint64_t total = 0;
    struct rlog *l = open_log(10000);
    for (uint64_t lsn = 1; lsn <= 30; lsn++)
        append(l, lsn, 1900);
    assert_ok(rlog_sync(l, &err));
    assert_int_equal(rlog_durable(l), 30);
    size_t n = list_segments(dir, names, 64);
    assert_int_equal(n, 6); /* 5 records of 1,953 bytes fit into 10,000 */
    for (size_t i = 0; i < n; i++) {
        char want[32];
        snprintf(want, sizeof want, "%016x.log", (unsigned)(1 + 5 * i));
        assert_string_equal(names[i], want);
        path_of(path, sizeof path, names[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 07777, i + 1 < n ? 0400 : 0600);
        assert_int_equal(st.st_size, i + 1 < n ? 5 * (RECORD_HEAD_MIN + 7 + 1900) : 10000);
        total += 5 * (RECORD_HEAD_MIN + 7 + 1900);
    }
    assert_int_equal(rlog_bytes(l), total);
    rlog_close(l);
    assert_int_equal(size_of(names[n - 1]),
                     5 * (RECORD_HEAD_MIN + 7 + 1900)); /* a closed log wastes no space */
    l = open_log(10000);
    assert_int_equal(rlog_bytes(l), total);
    rlog_close(l);
}

static void a_record_may_exceed_the_segment_size(void **state)
{
    (void)state;
    char names[16][32];
    struct rlog *l = open_log(100000);
    append(l, 1, 10);
    append(l, 2, 150000); /* buffered: known not to fit */
    append(l, 3, 600000); /* streamed */
    append(l, 4, 10);
    check_log(l, 1, 4);
    assert_int_equal(list_segments(dir, names, 16), 4);
    rlog_close(l);
    l = open_log(100000);
    check_log(l, 1, 4);
    rlog_close(l);
}

static void seek_finds_every_record(void **state)
{
    (void)state;
    struct rlog_cursor c = {0};
    struct record_head h;
    int64_t offset;
    const uint64_t n = 20000;
    for (int round = 0; round < 2; round++) { /* the writer's index; one that is built from the files */
        struct rlog *l = open_log(1 << 20);
        for (uint64_t lsn = rlog_last(l).lsn + 1; lsn <= n; lsn++)
            append(l, lsn, lsn % 400);
        for (uint64_t i = 0; i < 3000; i++) {
            uint64_t lsn = 1 + (i * 7919) % n;
            assert_ok(rlog_seek(l, lsn, &c, &err));
            assert_int_equal(rlog_next(l, &c, &h, &offset, &err), 1);
            assert_int_equal(h.pos.lsn, lsn);
        }
        assert_ok(rlog_seek(l, n + 1, &c, &err));
        assert_int_equal(rlog_next(l, &c, &h, &offset, &err), 0);
        if (round == 1) { /* a cursor at the end sees what is appended, also in a new segment */
            for (uint64_t lsn = n + 1; lsn <= n + 5000; lsn++) {
                append(l, lsn, 500);
                assert_int_equal(rlog_next(l, &c, &h, &offset, &err), 1);
                assert_int_equal(h.pos.lsn, lsn);
                assert_int_equal(rlog_next(l, &c, &h, &offset, &err), 0);
            }
        }
        assert_int_equal(rlog_seek(l, rlog_last(l).lsn + 2, &c, &err), ERR_GONE);
        rlog_cursor_close(&c);
        rlog_close(l);
    }
}

/* A failed seek leaves the cursor usable. */
static void a_failed_seek_moves_nothing(void **state)
{
    (void)state;
    struct rlog_cursor c = {0};
    struct record_head h;
    int64_t offset;
    struct rlog *l = open_log(10000);
    append(l, 1, 5);
    append(l, 2, 5);
    assert_ok(rlog_seek(l, 2, &c, &err));
    assert_int_equal(rlog_seek(l, 9, &c, &err), ERR_GONE);
    assert_int_equal(rlog_next(l, &c, &h, &offset, &err), 1);
    assert_int_equal(h.pos.lsn, 2);
    rlog_cursor_close(&c);
    rlog_cursor_close(&c);
    rlog_close(l);
}

static void what_does_not_belong_is_refused(void **state)
{
    (void)state;
    struct rlog *l = open_log(1 << 20);
    struct record_head h;
    append(l, 1, 5);
    assert_int_equal(rlog_write(l, "x", 1, &err), -EINVAL);
    assert_int_equal(rlog_commit(l, &err), -EINVAL);
    rlog_abort(l);

    h = head_for(1, 1); /* again */
    assert_int_equal(rlog_begin(l, &h, &err), -EINVAL);
    h = head_for(1, 3); /* a gap */
    assert_int_equal(rlog_begin(l, &h, &err), -EINVAL);
    assert_non_null(strstr(err.text, "record 1-3 does not follow 1-1"));
    h = head_for(0, 2); /* an older epoch */
    assert_int_equal(rlog_begin(l, &h, &err), -EINVAL);
    h = head_for(1, 2);
    h.type = RECORD_HEARTBEAT;
    assert_int_equal(rlog_begin(l, &h, &err), -EINVAL);
    h = head_for(1, 2);
    strcpy(h.name, "../x"); /* a header that no one could read again */
    h.name_len = 4;
    assert_int_equal(rlog_begin(l, &h, &err), -EINVAL);
    h = head_for(1, 2);
    assert_ok(rlog_begin(l, &h, &err));
    assert_int_equal(rlog_begin(l, &h, &err), -EINVAL); /* one at a time */
    rlog_abort(l);
    append(l, 2, 7);
    check_log(l, 1, 2);
    rlog_close(l);
}

static void an_aborted_record_leaves_no_trace(void **state)
{
    (void)state;
    struct rlog *l = open_log(2 << 20);
    uint8_t *p = malloc(1000000);
    memset(p, 0xee, 1000000);
    append(l, 1, 100);
    for (size_t n = 0; n <= 1000000; n += 333333) {
        struct record_head h = head_for(1, 2);
        assert_ok(rlog_begin(l, &h, &err));
        assert_ok(rlog_write(l, p, n, &err));
        rlog_abort(l);
        assert_int_equal(rlog_last(l).lsn, 1);
        assert_ok(rlog_begin(l, &h, &err));
        assert_ok(rlog_write(l, p, n, &err));
        assert_int_equal(rlog_commit_expect(l, (uint32_t)n, crc32c(0, p, n) ^ 1, &err), ERR_CORRUPT);
        assert_ok(rlog_begin(l, &h, &err));
        assert_ok(rlog_write(l, p, n, &err));
        assert_int_equal(rlog_commit_expect(l, (uint32_t)n + 1, crc32c(0, p, n), &err), ERR_CORRUPT);
        check_log(l, 1, 1);
    }
    free(p);
    append(l, 2, 100);
    /* nothing of the large payload is behind the short record */
    size_t n;
    uint8_t *file = load_file("0000000000000001.log", &n);
    assert_int_equal(n, 2 << 20);
    for (size_t i = rlog_bytes(l); i < n; i++)
        assert_int_equal(file[i], 0);
    free(file);
    rlog_close(l);
}

static void reset_empties_the_log_durably(void **state)
{
    (void)state;
    struct rlog_cursor c = {0}, at_end = {0};
    struct record_head h;
    int64_t offset;
    char names[16][32];
    struct rlog *l = open_log(10000);
    for (uint64_t lsn = 1; lsn <= 20; lsn++)
        append(l, lsn, 1900);
    assert_ok(rlog_seek(l, 3, &c, &err));
    assert_ok(rlog_seek(l, 21, &at_end, &err));
    assert_ok(rlog_reset(l, (struct position){7, 20}, &err));
    assert_int_equal(rlog_next(l, &c, &h, &offset, &err), ERR_GONE);
    assert_int_equal(rlog_next(l, &at_end, &h, &offset, &err), ERR_GONE);
    rlog_close(l);
    assert_int_equal(list_segments(dir, names, 16), 0);

    l = open_log(10000);
    assert_int_equal(rlog_last(l).epoch, 7);
    assert_int_equal(rlog_last(l).lsn, 20);
    assert_int_equal(rlog_first(l), 21);
    assert_int_equal(rlog_durable(l), 20);
    assert_ok(try_append(l, 7, 21, 100));
    /* back to a lower LSN: the same names come to mean other files */
    assert_ok(rlog_reset(l, (struct position){8, 2}, &err));
    assert_int_equal(rlog_seek(l, 21, &c, &err), ERR_GONE);
    assert_ok(try_append(l, 8, 3, 100));
    assert_int_equal(rlog_next(l, &c, &h, &offset, &err), ERR_GONE); /* of before */
    check_log(l, 3, 3);
    rlog_cursor_close(&c);
    rlog_cursor_close(&at_end);
    rlog_close(l);
    l = open_log(10000);
    check_log(l, 3, 3);
    assert_int_equal(rlog_last(l).epoch, 8);
    rlog_close(l);
}

static void trim_keeps_what_it_must(void **state)
{
    (void)state;
    const uint64_t size = RECORD_HEAD_MIN + 7 + 1900;
    struct rlog_options o = {.segment_size = 10000, .retention_bytes = 12 * 1953};
    struct rlog *l;
    assert_int_equal(size, 1953);
    assert_ok(rlog_open(dir, &o, &l, &err));
    for (uint64_t lsn = 1; lsn <= 28; lsn++) /* segments of 5 records */
        append(l, lsn, 1900);
    assert_ok(rlog_sync(l, &err));
    assert_ok(rlog_trim(l, 1, &err));
    assert_int_equal(rlog_first(l), 1);
    assert_ok(rlog_trim(l, 10, &err)); /* 10 is in the second segment */
    assert_int_equal(rlog_first(l), 6);
    assert_ok(rlog_trim(l, 11, &err));
    assert_int_equal(rlog_first(l), 11);
    assert_ok(rlog_trim(l, UINT64_MAX, &err)); /* 18 → 13 → 8 records: at most 12 stay */
    assert_int_equal(rlog_first(l), 21);
    assert_int_equal(rlog_bytes(l), 8 * size);
    check_log(l, 21, 28);
    rlog_close(l);

    o.retention_bytes = 1; /* never the newest */
    assert_ok(rlog_open(dir, &o, &l, &err));
    assert_ok(rlog_trim(l, UINT64_MAX, &err));
    check_log(l, 26, 28);
    rlog_close(l);
    o.retention_bytes = 0; /* no limit */
    assert_ok(rlog_open(dir, &o, &l, &err));
    for (uint64_t lsn = 29; lsn <= 60; lsn++)
        append(l, lsn, 1900);
    assert_ok(rlog_sync(l, &err));
    assert_ok(rlog_trim(l, UINT64_MAX, &err));
    check_log(l, 26, 60);
    rlog_close(l);
}

static void room_is_made_of_the_oldest_segments_that_nobody_needs(void **state)
{
    (void)state;
    struct rlog_options o = {.segment_size = 10000}; /* no retention */
    struct rlog *l;
    assert_ok(rlog_open(dir, &o, &l, &err));
    for (uint64_t lsn = 1; lsn <= 28; lsn++) /* segments of 5 records */
        append(l, lsn, 1900);
    assert_ok(rlog_sync(l, &err));
    assert_int_equal(rlog_make_room(l, 5, &err), 0); /* somebody needs 5 */
    assert_int_equal(rlog_make_room(l, 6, &err), 1);
    assert_int_equal(rlog_first(l), 6);
    assert_int_equal(rlog_make_room(l, 6, &err), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(rlog_make_room(l, UINT64_MAX, &err), 1);
    assert_int_equal(rlog_make_room(l, UINT64_MAX, &err), 0); /* never the newest */
    check_log(l, 26, 28);
    rlog_close(l);
}

/* A trimmed log whose last segment is empty would have forgotten its epoch. */
static void trim_keeps_the_last_record(void **state)
{
    (void)state;
    char names[16][32];
    struct rlog_options o = {.segment_size = 10000, .retention_bytes = 1};
    struct record_head h = head_for(3, 2);
    static uint8_t p[300000];
    struct rlog *l;
    assert_ok(rlog_open(dir, &o, &l, &err));
    assert_ok(try_append(l, 3, 1, 5000));
    assert_ok(rlog_begin(l, &h, &err));
    assert_ok(rlog_write(l, p, sizeof p, &err)); /* goes to a new segment */
    rlog_abort(l);
    assert_int_equal(list_segments(dir, names, 16), 2);
    assert_ok(rlog_sync(l, &err));
    assert_ok(rlog_trim(l, UINT64_MAX, &err));
    assert_int_equal(rlog_first(l), 1);
    rlog_close(l);
    assert_ok(rlog_open(dir, &o, &l, &err));
    assert_int_equal(rlog_last(l).epoch, 3);
    assert_int_equal(rlog_last(l).lsn, 1);
    assert_ok(try_append(l, 3, 2, 50));
    check_log(l, 1, 2);
    rlog_close(l);
}

static void trim_by_age_looks_at_timestamps(void **state)
{
    (void)state;
    struct rlog_options o = {.segment_size = 10000, .retention_age_ms = 60000};
    struct rlog *l;
    assert_ok(rlog_open(dir, &o, &l, &err));
    for (uint64_t lsn = 1; lsn <= 30; lsn++) {
        struct record_head h = head_for(1, lsn);
        h.timestamp = wall_us() - (lsn <= 16 ? 120000000u : 1000000u);
        static const uint8_t payload[1900];
        assert_ok(rlog_begin(l, &h, &err));
        assert_ok(rlog_write(l, payload, sizeof payload, &err));
        assert_ok(rlog_commit(l, &err));
    }
    assert_ok(rlog_trim(l, UINT64_MAX, &err));
    assert_int_equal(rlog_first(l), 16); /* the segment 16..20 has young records, too */
    rlog_close(l);
    assert_ok(rlog_open(dir, &o, &l, &err));
    assert_ok(rlog_trim(l, UINT64_MAX, &err));
    assert_int_equal(rlog_first(l), 16);
    rlog_close(l);
}

static void a_cursor_keeps_the_segment_it_is_in(void **state)
{
    (void)state;
    struct rlog_cursor c = {0}, s = {0}, late = {0};
    struct record_head h;
    int64_t offset, length;
    uint64_t upto;
    struct rlog_options o = {.segment_size = 10000, .retention_bytes = 1};
    struct rlog *l;
    assert_ok(rlog_open(dir, &o, &l, &err));
    for (uint64_t lsn = 1; lsn <= 15; lsn++)
        append(l, lsn, 1900);
    assert_ok(rlog_seek(l, 2, &c, &err));
    assert_ok(rlog_seek(l, 2, &s, &err));
    assert_ok(rlog_seek(l, 10, &late, &err)); /* in the segment 6..10 */
    assert_ok(rlog_sync(l, &err));
    assert_ok(rlog_trim(l, UINT64_MAX, &err));
    assert_int_equal(rlog_first(l), 11);
    assert_int_equal(rlog_seek(l, 2, &(struct rlog_cursor){0}, &err), ERR_GONE);
    for (uint64_t lsn = 2; lsn <= 5; lsn++) {
        assert_int_equal(rlog_next(l, &c, &h, &offset, &err), 1);
        assert_int_equal(h.pos.lsn, lsn);
        assert_true(payload_matches(c.fd, offset, &h));
    }
    assert_int_equal(rlog_next(l, &c, &h, &offset, &err), ERR_GONE);
    assert_int_equal(rlog_span(l, &s, 4000, &offset, &length, &upto, &err), 1);
    assert_int_equal(upto, 3);
    assert_int_equal(rlog_span(l, &s, 1 << 20, &offset, &length, &upto, &err), 1);
    assert_int_equal(upto, 5);
    assert_int_equal(rlog_span(l, &s, 1 << 20, &offset, &length, &upto, &err), ERR_GONE);
    for (uint64_t lsn = 10; lsn <= 15; lsn++) { /* from a trimmed segment into one that is there */
        assert_int_equal(rlog_next(l, &late, &h, &offset, &err), 1);
        assert_int_equal(h.pos.lsn, lsn);
    }
    assert_int_equal(rlog_next(l, &late, &h, &offset, &err), 0);
    rlog_cursor_close(&c);
    rlog_cursor_close(&s);
    rlog_cursor_close(&late);
    rlog_close(l);
}

/* 200 MB in pieces, as an import produces them. */
static void a_large_record_needs_little_memory(void **state)
{
    (void)state;
    enum { BLOCK = 65536, BLOCKS = 3200 };
    static uint8_t block[BLOCK], got[BLOCK];
    struct rusage before, after;
    struct rlog_cursor c = {0};
    struct record_head h = head_for(1, 2);
    int64_t offset;
    struct rlog *l = open_log(64 << 20);
    append(l, 1, 300000); /* all buffers have been used once */
    check_log(l, 1, 1);
    payload_fill(2, 0, block, BLOCK); /* PAYLOAD_PERIOD bytes, and so all that follow */
    getrusage(RUSAGE_SELF, &before);
    assert_ok(rlog_begin(l, &h, &err));
    for (int i = 0; i < BLOCKS; i++)
        assert_ok(rlog_write(l, block, BLOCK, &err));
    assert_ok(rlog_commit(l, &err));
    append(l, 3, 10);
    assert_ok(rlog_seek(l, 2, &c, &err));
    assert_int_equal(rlog_next(l, &c, &h, &offset, &err), 1);
    assert_int_equal(h.payload_len, (uint32_t)BLOCK * BLOCKS);
    for (int i = 0; i < BLOCKS; i++) {
        assert_int_equal(pread(c.fd, got, BLOCK, offset + (int64_t)i * BLOCK), BLOCK);
        assert_memory_equal(got, block, BLOCK);
    }
    assert_int_equal(rlog_next(l, &c, &h, &offset, &err), 1);
    assert_int_equal(h.pos.lsn, 3);
    rlog_cursor_close(&c);
    rlog_close(l);
    l = open_log(64 << 20);
    assert_int_equal(rlog_last(l).lsn, 3);
    rlog_close(l);
    getrusage(RUSAGE_SELF, &after);
    assert_true(after.ru_maxrss - before.ru_maxrss < 4096); /* KiB */
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(an_empty_log_has_no_position),
        T(records_come_back_as_they_were_appended),
        T(payloads_of_any_size_and_any_pieces),
        T(segments_are_named_by_lsn_sealed_and_cut),
        T(a_record_may_exceed_the_segment_size),
        T(seek_finds_every_record),
        T(a_failed_seek_moves_nothing),
        T(what_does_not_belong_is_refused),
        T(an_aborted_record_leaves_no_trace),
        T(reset_empties_the_log_durably),
        T(trim_keeps_what_it_must),
        T(room_is_made_of_the_oldest_segments_that_nobody_needs),
        T(trim_keeps_the_last_record),
        T(trim_by_age_looks_at_timestamps),
        T(a_cursor_keeps_the_segment_it_is_in),
        T(a_large_record_needs_little_memory),
    };
    log_init("test", NULL, LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
