/* One writer, readers that follow it, threads that make it durable and trim it. Run it also with TSAN=1. */
#include "tests/unit/rlog_helper.h"

#include "lib/log.h"
#include <pthread.h>
#include <stdatomic.h>

/* cmocka's asserts work on the test's own thread only: the others say what went wrong in words. */
struct reader {
    struct rlog *l;
    uint64_t last; /* LSN to read up to */
    bool by_span;
    char trouble[200]; /* empty: none */
};

#define TROUBLE(r, ...)                                                                                      \
    do {                                                                                                     \
        snprintf((r)->trouble, sizeof(r)->trouble, __VA_ARGS__);                                             \
        return;                                                                                              \
    } while (0)

static size_t length_for(uint64_t lsn)
{
    return lsn % 10007 == 0 ? 700000 : (lsn * 13) % 180;
}

static void follow_by_next(struct reader *r, struct rlog_cursor *c)
{
    struct record_head h;
    struct err e;
    int64_t offset;
    for (uint64_t lsn = 1; lsn <= r->last;) {
        int rc = rlog_next(r->l, c, &h, &offset, &e);
        if (rc < 0)
            TROUBLE(r, "LSN %" PRIu64 ": %.150s", lsn, e.text);
        if (rc == 0) {
            sched_yield();
            continue;
        }
        if (h.pos.lsn != lsn || h.payload_len != length_for(lsn) || !payload_matches(c->fd, offset, &h))
            TROUBLE(r, "expected %" PRIu64 ", got %" PRIu64 " with %" PRIu32 " bytes", lsn, h.pos.lsn,
                    h.payload_len);
        lsn++;
    }
}

static void follow_by_span(struct reader *r, struct rlog_cursor *c)
{
    uint8_t *buf = malloc(1 << 20);
    struct record_head h;
    struct err e;
    int64_t offset, length;
    uint64_t upto;
    for (uint64_t lsn = 1; lsn <= r->last;) {
        int rc = rlog_span(r->l, c, 100000, &offset, &length, &upto, &e);
        if (rc == 0) {
            sched_yield();
            continue;
        }
        if (rc < 0 || length > 1 << 20 || pread(c->fd, buf, (size_t)length, offset) != length) {
            free(buf);
            TROUBLE(r, "LSN %" PRIu64 ": %.150s", lsn, rc < 0 ? e.text : "bad range");
        }
        size_t at = 0;
        for (; at < (size_t)length; lsn++) {
            long size = record_head_decode(buf + at, (size_t)length - at, &h);
            if (size <= 0 || h.pos.lsn != lsn || h.payload_len != length_for(lsn) ||
                !payload_is(lsn, 0, buf + at + size, h.payload_len)) {
                free(buf);
                TROUBLE(r, "range: expected %" PRIu64, lsn);
            }
            at += (size_t)size + h.payload_len;
        }
        if (at != (size_t)length || upto != lsn - 1) {
            free(buf);
            TROUBLE(r, "a range of %" PRId64 " bytes up to %" PRIu64 " ended at %zu", length, upto, at);
        }
    }
    free(buf);
}

static void *follow(void *arg)
{
    struct reader *r = arg;
    struct rlog_cursor c = {0};
    struct err e;
    if (rlog_seek(r->l, 1, &c, &e) < 0)
        snprintf(r->trouble, sizeof r->trouble, "%.150s", e.text);
    else if (r->by_span)
        follow_by_span(r, &c);
    else
        follow_by_next(r, &c);
    rlog_cursor_close(&c);
    return NULL;
}

static void every_reader_sees_every_record_once(void **state)
{
    (void)state;
    const uint64_t n = 100000;
    struct rlog *l = open_log(1 << 20);
    struct reader readers[3];
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        readers[i] = (struct reader){.l = l, .last = n, .by_span = i == 2};
        assert_int_equal(pthread_create(&threads[i], NULL, follow, &readers[i]), 0);
    }
    for (uint64_t lsn = 1; lsn <= n; lsn++)
        append(l, lsn, length_for(lsn));
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        assert_string_equal(readers[i].trouble, "");
    }
    assert_int_equal(rlog_last(l).lsn, n);
    rlog_close(l);
}

/* ---- everything at once ---- */

struct churn {
    struct rlog *l;
    atomic_bool stop;
    atomic_uint bad;
};

static void *sync_on(void *arg)
{
    struct churn *t = arg;
    struct err e;
    while (!atomic_load(&t->stop)) {
        uint64_t wanted = rlog_last(t->l).lsn;
        if (rlog_sync(t->l, &e) < 0 || rlog_durable(t->l) < wanted)
            atomic_fetch_add(&t->bad, 1);
    }
    return NULL;
}

static void *trim_on(void *arg)
{
    struct churn *t = arg;
    struct err e;
    while (!atomic_load(&t->stop)) {
        if (rlog_trim(t->l, UINT64_MAX, &e) < 0)
            atomic_fetch_add(&t->bad, 1);
        sched_yield();
    }
    return NULL;
}

/* Seeks anywhere; what it gets must be right, and nothing but "gone" may go wrong. */
static void *jump_about(void *arg)
{
    struct churn *t = arg;
    struct rlog_cursor c = {0};
    struct record_head h;
    struct err e;
    int64_t offset;
    for (uint64_t i = 1; !atomic_load(&t->stop); i++) {
        uint64_t first = rlog_first(t->l), last = rlog_last(t->l).lsn,
                 lsn = first + (i * 7919) % (last - first + 2);
        int rc = rlog_seek(t->l, lsn, &c, &e);
        for (int k = 0; rc >= 0 && k < 5; k++, lsn++) {
            rc = rlog_next(t->l, &c, &h, &offset, &e);
            if (rc == 0)
                break;
            if (rc == 1 && (h.pos.lsn != lsn || !payload_matches(c.fd, offset, &h)))
                atomic_fetch_add(&t->bad, 1);
        }
        if (rc < 0 && rc != ERR_GONE)
            atomic_fetch_add(&t->bad, 1);
    }
    rlog_cursor_close(&c);
    return NULL;
}

static void sync_trim_and_seek_go_along_with_appending(void **state)
{
    (void)state;
    static void *(*const work[])(void *) = {sync_on, sync_on, trim_on, jump_about, jump_about};
    struct rlog_options o = {.segment_size = 50000, .retention_bytes = 300000};
    struct churn t = {0};
    pthread_t threads[ARRAY_SIZE(work)];
    assert_ok(rlog_open(dir, &o, &t.l, &err));
    append(t.l, 1, 10);
    for (size_t i = 0; i < ARRAY_SIZE(work); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, work[i], &t), 0);
    for (uint64_t lsn = 2; lsn <= 20000; lsn++) {
        append(t.l, lsn, (lsn * 13) % 700);
        if (lsn == 10000) /* under everybody's feet */
            assert_ok(rlog_reset(t.l, (struct position){1, 10000}, &err));
    }
    atomic_store(&t.stop, true);
    for (size_t i = 0; i < ARRAY_SIZE(work); i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&t.bad), 0);
    uint64_t first = rlog_first(t.l);
    assert_true(first > 10001);
    check_log(t.l, first, 20000);
    rlog_close(t.l);
    t.l = open_log(50000);
    check_log(t.l, first, 20000);
    rlog_close(t.l);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(every_reader_sees_every_record_once),
        T(sync_trim_and_seek_go_along_with_appending),
    };
    log_init("test", NULL, LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
