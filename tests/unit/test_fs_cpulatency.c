/* When quick wake-ups are asked for, and when they are given back. */
#include "fs/cpulatency.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define MS 1000000ull

/* So many syncs, so far apart, the first at `at`; the time of the last. *taken: after how many it was taken, 0: not. */
static uint64_t syncs(struct cpulatency_rule *r, uint64_t at, unsigned n, uint64_t apart, unsigned *taken)
{
    *taken = 0;
    for (unsigned i = 1; i <= n; i++, at += apart)
        if (cpulatency_rule_sync(r, at)) {
            assert_int_equal(*taken, 0);
            *taken = i;
        }
    return at - apart;
}

static void test_syncs_that_follow_each_other_take_it(void **state)
{
    (void)state;
    struct cpulatency_rule r = {0};
    unsigned taken;
    syncs(&r, 5 * MS, 1000, MS / 4, &taken);
    assert_int_equal(taken, CPULATENCY_TAKE_SYNCS);
    assert_true(r.held);
}

static void test_syncs_with_pauses_do_not(void **state)
{
    (void)state;
    struct cpulatency_rule r = {0};
    unsigned taken;
    syncs(&r, 5 * MS, 1000, CPULATENCY_TAKE_NS / (CPULATENCY_TAKE_SYNCS - 1) + 1, &taken);
    assert_int_equal(taken, 0);
    /* A checkpoint's handful once in a while. */
    for (uint64_t at = 20000 * MS; at < 30000 * MS; at += 11 * MS) {
        syncs(&r, at, CPULATENCY_TAKE_SYNCS - 1, 1000, &taken);
        assert_int_equal(taken, 0);
    }
    assert_false(r.held);
}

static void test_the_slowest_rate_that_takes_it(void **state)
{
    (void)state;
    struct cpulatency_rule r = {0};
    unsigned taken;
    syncs(&r, 1, CPULATENCY_TAKE_SYNCS, CPULATENCY_TAKE_NS / (CPULATENCY_TAKE_SYNCS - 1), &taken);
    assert_int_equal(taken, CPULATENCY_TAKE_SYNCS);
}

static void test_an_old_start_does_not_keep_a_burst_from_taking_it(void **state)
{
    (void)state;
    struct cpulatency_rule r = {0};
    unsigned taken;
    uint64_t last = syncs(&r, 0, CPULATENCY_TAKE_SYNCS - 2, 1000, &taken);
    syncs(&r, last + CPULATENCY_TAKE_NS + 1, CPULATENCY_TAKE_SYNCS, 1000, &taken);
    assert_int_equal(taken, CPULATENCY_TAKE_SYNCS);
}

static void test_it_is_kept_while_they_go_on_also_more_slowly(void **state)
{
    (void)state;
    struct cpulatency_rule r = {0};
    unsigned taken;
    uint64_t last = syncs(&r, 0, CPULATENCY_TAKE_SYNCS, 1000, &taken);
    for (int look = 0; look < 100; look++) {
        last = syncs(&r, last + 1000, CPULATENCY_KEEP_SYNCS, CPULATENCY_LOOK_NS / CPULATENCY_KEEP_SYNCS, &taken);
        assert_int_equal(taken, 0); /* is held already */
        assert_true(cpulatency_rule_look(&r));
    }
}

static void test_silence_gives_it_back_and_it_can_be_taken_again(void **state)
{
    (void)state;
    struct cpulatency_rule r = {0};
    unsigned taken;
    uint64_t last = syncs(&r, 0, CPULATENCY_TAKE_SYNCS, 1000, &taken);
    last = syncs(&r, last + 1000, CPULATENCY_KEEP_SYNCS - 1, 1000, &taken);
    assert_false(cpulatency_rule_look(&r)); /* what took it does not keep it */
    assert_false(r.held);
    syncs(&r, last + 1000, CPULATENCY_TAKE_SYNCS - 1, 1000, &taken);
    assert_int_equal(taken, 0); /* nor do the last ones count again */
    syncs(&r, last + 10000, 1, 1000, &taken);
    assert_int_equal(taken, 1);
}

static void test_nothing_to_do_when_it_is_not_wanted(void **state)
{
    (void)state;
    struct err e = {0};
    struct cpulatency *c = (void *)&e;
    assert_int_equal(cpulatency_start(false, &c, &e), 0);
    assert_null(c);
    cpulatency_sync(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_syncs_that_follow_each_other_take_it),
        cmocka_unit_test(test_syncs_with_pauses_do_not),
        cmocka_unit_test(test_the_slowest_rate_that_takes_it),
        cmocka_unit_test(test_an_old_start_does_not_keep_a_burst_from_taking_it),
        cmocka_unit_test(test_it_is_kept_while_they_go_on_also_more_slowly),
        cmocka_unit_test(test_silence_gives_it_back_and_it_can_be_taken_again),
        cmocka_unit_test(test_nothing_to_do_when_it_is_not_wanted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
