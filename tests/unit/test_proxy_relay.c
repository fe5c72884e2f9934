/* One direction of an exchange over socket pairs: back-pressure, where bodies end, what is held while nothing happens. */
#include "http-proxy/busy.h"
#include "http-proxy/engine.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

struct side {
    struct transport t;
    int other; /* our end of the pair */
};

static struct event_base *base;
static struct side from, to;

static void nothing(struct transport *t)
{
    (void)t;
}

static void open_side(struct side *s)
{
    int fd[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
    assert_int_equal(transport_open(&s->t, base, fd[0], NULL, false, nothing), 0);
    s->other = fd[1];
}

static int set_up(void **state)
{
    (void)state;
    base = event_base_new();
    open_side(&from);
    open_side(&to);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    transport_close(&from.t, false);
    transport_close(&to.t, false);
    if (from.other >= 0)
        close(from.other);
    if (to.other >= 0)
        close(to.other);
    event_base_free(base);
    return 0;
}

static void events(void)
{
    assert_true(event_base_loop(base, EVLOOP_NONBLOCK) >= 0);
}

static void put(const char *text)
{
    assert_int_equal(write(from.other, text, strlen(text)), strlen(text));
    events();
}

static void got(const char *text)
{
    char buf[256];
    ssize_t n = read(to.other, buf, sizeof buf);
    if (n != (ssize_t)strlen(text) || memcmp(buf, text, (size_t)n) != 0)
        fail_msg("\"%.*s\" instead of \"%s\"", (int)MAX(n, 0), buf, text);
}

static struct flow begin(enum head_body kind, uint64_t length)
{
    struct flow f = {0};
    body_begin(&f.body, kind, length);
    return f;
}

static void a_sized_body_ends_after_its_last_byte(void **state)
{
    (void)state;
    struct flow f = begin(HEAD_BODY_LENGTH, 5);
    put("abc");
    assert_int_equal(flow_pump(&f, &from.t, &to.t, NULL, NULL), FLOW_WAIT);
    assert_null(f.buf); /* nothing is held while it waits */
    got("abc");
    put("deNEXT");
    assert_int_equal(flow_pump(&f, &from.t, &to.t, NULL, NULL), FLOW_DONE);
    got("de");
    assert_int_equal(f.len - f.end, 4);
    assert_memory_equal(f.buf->data + f.end, "NEXT", 4);
    flow_clear(&f);
    assert_int_equal(buf_in_use(), 0);
}

static void chunks_are_passed_on_as_they_are_or_decoded(void **state)
{
    (void)state;
    static const char body[] = "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n";
    for (int decode = 0; decode < 2; decode++) {
        struct flow f = begin(HEAD_BODY_CHUNKED, 0);
        f.body.decode = decode;
        put(body);
        put("NEXT");
        assert_int_equal(flow_pump(&f, &from.t, &to.t, NULL, NULL), FLOW_DONE);
        got(decode ? "abcde" : body);
        assert_int_equal(f.len - f.end, 4);
        assert_memory_equal(f.buf->data + f.end, "NEXT", 4);
        flow_clear(&f);
    }
    struct flow f = begin(HEAD_BODY_CHUNKED, 0);
    put("3\r\nabcX");
    assert_int_equal(flow_pump(&f, &from.t, &to.t, NULL, NULL), FLOW_BAD);
    flow_clear(&f);
}

static void the_end_of_the_source_means_what_the_framing_says(void **state)
{
    (void)state;
    struct flow f = begin(HEAD_BODY_TO_EOF, 0);
    put("abc");
    close(from.other);
    from.other = -1;
    events();
    assert_int_equal(flow_pump(&f, &from.t, &to.t, NULL, NULL), FLOW_DONE);
    got("abc");
    flow_clear(&f);
    f = begin(HEAD_BODY_LENGTH, 1);
    assert_int_equal(flow_pump(&f, &from.t, &to.t, NULL, NULL), FLOW_TRUNCATED);
    flow_clear(&f);
}

/* A sink that does not read stops the source: what is on its way stays bounded. */
/* Writes a part of a stream whose byte i is i modulo 251. */
static void write_part(size_t *written, size_t total)
{
    char block[64 << 10];
    size_t len = MIN(sizeof block, total - *written);
    for (size_t i = 0; i < len; i++)
        block[i] = (char)((*written + i) % 251);
    ssize_t n = len ? write(from.other, block, len) : 0;
    *written += n > 0 ? (size_t)n : 0;
}

static uint64_t kept;

static void keep_count(void *arg, const char *p, size_t n)
{
    (void)arg;
    (void)p;
    kept += n;
}

static void back_pressure(void (*keep)(void *arg, const char *p, size_t n), enum config_splice splice)
{
    enum { TOTAL = 8 << 20 };
    static char in[64 << 10];
    struct flow f = begin(HEAD_BODY_LENGTH, TOTAL);
    f.splice = splice;
    size_t written = 0, seen = 0, stalled = 0;
    while (stalled < 3) {
        size_t before = written;
        write_part(&written, TOTAL);
        events();
        enum flow_result r = flow_pump(&f, &from.t, &to.t, keep, NULL);
        assert_true(r == FLOW_WAIT || r == FLOW_AGAIN);
        stalled = written == before && r == FLOW_WAIT ? stalled + 1 : 0;
    }
    assert_true(written < 2 << 20);
    assert_true(flow_pending(&f));
    if (keep || splice != CONFIG_SPLICE_ON)
        assert_true(!f.pipe && f.buf->size <= BUF_LARGE);
    else
        assert_true(!f.buf && f.pipe->n <= PIPE_BYTES);
    while (seen < TOTAL) {
        ssize_t n = read(to.other, in, sizeof in);
        for (ssize_t i = 0; i < n; i++)
            if (in[i] != (char)((seen + (size_t)i) % 251))
                fail_msg("byte %zu", seen + (size_t)i);
        seen += n > 0 ? (size_t)n : 0;
        write_part(&written, TOTAL);
        events();
        enum flow_result r = flow_pump(&f, &from.t, &to.t, keep, NULL);
        assert_true(r == FLOW_WAIT || r == FLOW_AGAIN || r == FLOW_DONE);
    }
    assert_int_equal(seen, TOTAL);
    assert_int_equal(flow_pump(&f, &from.t, &to.t, keep, NULL), FLOW_DONE);
    assert_int_equal(f.bytes, TOTAL);
    flow_clear(&f);
    assert_int_equal(buf_in_use(), 0);
}

/* Ticks after 50 ms of work, or of sleep, until what was asked for is said. */
static void wait_for_busy(bool want)
{
    uint64_t end = now_ns() + 30000000000u;
    do {
        assert_true(now_ns() < end);
        busy_tick();
        if (!want)
            usleep(50000);
        for (uint64_t until = now_ns() + 50000000u; want && now_ns() < until;)
            ;
        busy_tick();
    } while (busy_short() != want);
}

static void a_sink_that_does_not_read_stops_the_source(void **state)
{
    (void)state;
    kept = 0;
    back_pressure(keep_count, CONFIG_SPLICE_ON);
    assert_int_equal(kept, 8 << 20);
}

static void a_long_body_that_nobody_looks_at_goes_through_a_pipe(void **state)
{
    (void)state;
    back_pressure(NULL, CONFIG_SPLICE_ON);
}

static void a_long_body_is_copied_while_there_is_time_for_it(void **state)
{
    (void)state;
    back_pressure(NULL, CONFIG_SPLICE_OFF);
    busy_tick();
    wait_for_busy(false);
    back_pressure(NULL, CONFIG_SPLICE_AUTO);
}

static void a_body_changes_over_between_copying_and_splicing(void **state)
{
    enum { TOTAL = 8 << 20 };
    static char in[64 << 10];
    (void)state;
    struct flow f = begin(HEAD_BODY_LENGTH, TOTAL);
    size_t written = 0, seen = 0, copied = 0, spliced = 0;
    for (unsigned i = 0; seen < TOTAL; i++) {
        f.splice = i / 7 % 2 ? CONFIG_SPLICE_ON : CONFIG_SPLICE_OFF;
        write_part(&written, TOTAL);
        events();
        enum flow_result r = flow_pump(&f, &from.t, &to.t, NULL, NULL);
        assert_true(r == FLOW_WAIT || r == FLOW_AGAIN || r == FLOW_DONE);
        copied += f.buf != NULL;
        spliced += f.pipe != NULL;
        ssize_t n = read(to.other, in, 1 + i * 4099 % sizeof in);
        for (ssize_t k = 0; k < n; k++)
            if (in[k] != (char)((seen + (size_t)k) % 251))
                fail_msg("byte %zu", seen + (size_t)k);
        seen += n > 0 ? (size_t)n : 0;
    }
    assert_true(copied && spliced);
    events();
    assert_int_equal(flow_pump(&f, &from.t, &to.t, NULL, NULL), FLOW_DONE);
    flow_clear(&f);
    assert_int_equal(buf_in_use(), 0);
}

static void a_thread_is_short_of_time_from_90_percent_on_until_30(void **state)
{
    (void)state;
    assert_false(busy_judge(false, 0, 0));
    assert_false(busy_judge(false, 899, 1000));
    assert_true(busy_judge(false, 900, 1000));
    assert_true(busy_judge(true, 310, 1000));
    assert_false(busy_judge(true, 300, 1000));
    wait_for_busy(true); /* this thread itself, as the kernel sees it */
    wait_for_busy(false);
}

static void what_is_left_in_a_pipe_goes_to_nobody_else(void **state)
{
    (void)state;
    struct flow f = begin(HEAD_BODY_LENGTH, 8 << 20);
    f.splice = CONFIG_SPLICE_ON;
    size_t written = 0;
    for (size_t before = 1; before != written || !flow_pending(&f);) {
        before = written;
        write_part(&written, 8 << 20);
        events();
        flow_pump(&f, &from.t, &to.t, NULL, NULL);
    }
    assert_true(f.pipe->n > 0);
    flow_clear(&f);
    struct pipe *p = pipe_get();
    char c;
    assert_int_equal(read(p->out, &c, 1), -1);
    assert_int_equal(errno, EAGAIN);
    pipe_put(p);
}

static void a_head_goes_with_the_body_that_is_there(void **state)
{
    (void)state;
    struct flow f = begin(HEAD_BODY_LENGTH, 2);
    f.head = buf_get(BUF_SMALL);
    memcpy(f.head->data, "HEAD", 4);
    f.head_len = 4;
    f.mid = "kept";
    f.mid_n = 4;
    f.body.left = 2;
    put("ab");
    assert_int_equal(flow_pump(&f, &from.t, &to.t, NULL, NULL), FLOW_DONE);
    got("HEADkeptab");
    assert_int_equal(f.bytes, 10);
    flow_clear(&f);
}

/* The end may arrive with the last bytes: no further event tells of it. */
static void an_end_that_came_with_the_last_bytes_is_seen(void **state)
{
    (void)state;
    struct flow f = begin(HEAD_BODY_TO_EOF, 0);
    assert_int_equal(write(from.other, "abc", 3), 3);
    assert_int_equal(shutdown(from.other, SHUT_WR), 0);
    events();
    assert_int_equal(flow_pump(&f, &from.t, &to.t, NULL, NULL), FLOW_DONE);
    got("abc");
    flow_clear(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_sized_body_ends_after_its_last_byte, set_up, tear_down),
        cmocka_unit_test_setup_teardown(chunks_are_passed_on_as_they_are_or_decoded, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_end_of_the_source_means_what_the_framing_says, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_sink_that_does_not_read_stops_the_source, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_long_body_that_nobody_looks_at_goes_through_a_pipe, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_long_body_is_copied_while_there_is_time_for_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_body_changes_over_between_copying_and_splicing, set_up, tear_down),
        cmocka_unit_test(a_thread_is_short_of_time_from_90_percent_on_until_30),
        cmocka_unit_test_setup_teardown(what_is_left_in_a_pipe_goes_to_nobody_else, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_head_goes_with_the_body_that_is_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_end_that_came_with_the_last_bytes_is_seen, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
