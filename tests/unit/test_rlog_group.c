/* Records that belong together (RECORD_MORE): in the helper's records those with an odd LSN go on with the next one. */
#include "tests/unit/rlog_helper.h"

#include "lib/crc.h"

#define SEGMENT "0000000000000001.log"

static size_t put(uint8_t *p, uint64_t lsn, uint32_t len)
{
    struct record_head h = head_for(1, lsn);
    h.payload_len = len;
    size_t n = record_head_size(&h);
    payload_fill(lsn, 0, p + n, len);
    h.payload_crc = crc32c(0, p + n, len);
    record_head_encode(&h, p);
    return n + len;
}

/* Records first..last, as they come on the wire. */
static size_t group(uint8_t *p, uint64_t first, uint64_t last)
{
    size_t n = 0;
    for (uint64_t lsn = first; lsn <= last; lsn++)
        n += put(p + n, lsn, (uint32_t)(100 + 37 * lsn));
    return n;
}

static struct rlog *open_whole(uint64_t segment_size)
{
    struct rlog_options o = {.segment_size = segment_size, .whole_groups = true};
    struct rlog *l = NULL;
    assert_ok(rlog_open(dir, &o, &l, &err));
    return l;
}

static void they_are_in_the_log_like_any_others(void **state)
{
    (void)state;
    uint8_t bytes[8192];
    struct rlog *l = open_log(900); /* each group begins a segment */
    for (uint64_t lsn = 1; lsn < 41; lsn += 4) {
        assert_ok(rlog_append_group(l, bytes, group(bytes, lsn, lsn + 1), &err));
        append(l, lsn + 2, 10);
        append(l, lsn + 3, 20);
    }
    assert_false(rlog_in_group(l));
    check_next(l, 1, 40);
    check_spans(l, 1, 40, 500);
    rlog_close(l);
    l = open_log(900);
    check_next(l, 1, 40);
    rlog_close(l);
}

static void what_does_not_follow_is_refused(void **state)
{
    (void)state;
    uint8_t bytes[8192];
    struct rlog *l = open_log(1 << 20);
    append(l, 1, 10);
    assert_true(rlog_in_group(l));
    assert_int_equal(rlog_append_group(l, bytes, group(bytes, 3, 4), &err), -EINVAL);
    size_t n = group(bytes, 2, 4);
    assert_int_equal(rlog_append_group(l, bytes, n - 1, &err), ERR_CORRUPT);
    assert_int_equal(rlog_append_group(l, bytes, 0, &err), ERR_CORRUPT);
    size_t second = put(bytes, 2, 50);
    assert_int_equal(rlog_append_group(l, bytes, second + put(bytes + second, 4, 50), &err), ERR_CORRUPT);
    check_next(l, 1, 1);
    assert_ok(rlog_append_group(l, bytes, group(bytes, 2, 4), &err));
    check_next(l, 1, 4);
    rlog_close(l);
}

/* The first header is written last: without it there is nothing, whatever is behind it. */
static void killed_while_it_is_written_none_of_it_is_there(void **state)
{
    (void)state;
    uint8_t bytes[8192];
    size_t n, first = 0;
    struct rlog *l = open_log(1 << 20);
    append(l, 1, 10);
    append(l, 2, 10);
    int64_t before = (int64_t)rlog_bytes(l);
    assert_ok(rlog_append_group(l, bytes, group(bytes, 3, 6), &err));
    rlog_close(l);
    uint8_t *file = load_file(SEGMENT, &n);
    struct record_head h = head_for(1, 3);
    first = record_head_size(&h);
    memset(file + before, 0, first);
    for (size_t cut = (size_t)before; cut <= n; cut += 17) {
        store_file(SEGMENT, file, cut);
        l = open_log(1 << 20);
        assert_int_equal(rlog_last(l).lsn, 2);
        append(l, 3, 400);
        check_next(l, 1, 3);
        rlog_close(l);
    }
    free(file);
}

static void after_a_stop_of_the_machine_the_log_ends_with_a_whole_one(void **state)
{
    (void)state;
    uint8_t bytes[8192];
    size_t n;
    struct rlog *l = open_log(1 << 20);
    for (uint64_t lsn = 1; lsn < 9; lsn += 2)
        assert_ok(rlog_append_group(l, bytes, group(bytes, lsn, lsn + 1), &err));
    rlog_close(l);
    uint8_t *file = load_file(SEGMENT, &n);
    for (size_t cut = 0; cut <= n; cut += 13) {
        store_file(SEGMENT, file, cut);
        l = open_whole(1 << 20);
        uint64_t last = rlog_last(l).lsn;
        assert_int_equal(last % 2, 0);
        assert_false(rlog_in_group(l));
        check_next(l, 1, last);
        append(l, last + 1, 30);
        append(l, last + 2, 40);
        rlog_close(l);
        l = open_log(1 << 20);
        check_next(l, 1, last + 2);
        rlog_close(l);
    }
    free(file);
}

/* A primary's replicator that is killed goes on with it. */
static void after_a_kill_it_is_known_that_it_goes_on(void **state)
{
    (void)state;
    struct rlog *l = open_log(1 << 20);
    append(l, 1, 10);
    append(l, 2, 10);
    append(l, 3, 10);
    rlog_close(l);
    l = open_log(1 << 20);
    assert_int_equal(rlog_last(l).lsn, 3);
    assert_true(rlog_in_group(l));
    append(l, 4, 10);
    assert_false(rlog_in_group(l));
    rlog_close(l);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(they_are_in_the_log_like_any_others),
        T(what_does_not_follow_is_refused),
        T(killed_while_it_is_written_none_of_it_is_there),
        T(after_a_stop_of_the_machine_the_log_ends_with_a_whole_one),
        T(after_a_kill_it_is_known_that_it_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
