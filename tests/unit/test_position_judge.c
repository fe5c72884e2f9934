/* What a client's position means on a node whose history has several epochs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "edgefs/position_feed.h"
#include "lib/util.h"
#include <errno.h>

/* Epoch 3 began with LSN 100, 5 with 200 (4 was never here), 6 with 200 too (5 stayed empty), 7 with 300. */
static const struct position_feed_epoch history[] = {{3, 100}, {5, 200}, {6, 200}, {7, 300}};

static void each_position_has_one_meaning(void **state)
{
    static const struct {
        struct position p;
        int rc;
        uint64_t lsn;
    } table[] = {
        {{7, 300}, 0, 300},           /* the present epoch: as it is */
        {{7, UINT64_MAX}, 0, UINT64_MAX},
        {{6, 250}, 0, 250},           /* an ended one: up to its end */
        {{6, 299}, 0, 299},
        {{6, 300}, 0, 299},
        {{6, 5000}, 0, 299},
        {{5, 199}, 0, 199},           /* an empty one: its end is before its beginning */
        {{5, 200}, 0, 199},
        {{4, 150}, 0, 150},           /* a fork that is not on this history: as the epoch it forked from */
        {{4, 900}, 0, 199},
        {{3, 100}, 0, 100},
        {{3, 200}, 0, 199},
        {{2, 90}, 0, 90},             /* no longer listed: it ended at the latest where the list begins */
        {{1, 100}, 0, 99},
        {{0, 0}, 0, 0},
        {{8, 1}, -EAGAIN, 0},         /* not known yet */
        {{UINT64_MAX, 0}, -EAGAIN, 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        uint64_t lsn = 4711;
        assert_int_equal(position_judge(table[i].p, history, ARRAY_SIZE(history), &lsn), table[i].rc);
        assert_int_equal(lsn, table[i].rc ? 4711 : table[i].lsn);
    }
}

static void without_a_history_only_nothing_is_known(void **state)
{
    uint64_t lsn = 4711;
    (void)state;
    assert_int_equal(position_judge((struct position){0, 0}, NULL, 0, &lsn), 0);
    assert_int_equal(lsn, 0);
    assert_int_equal(position_judge((struct position){1, 1}, NULL, 0, &lsn), -EAGAIN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_position_has_one_meaning),
        cmocka_unit_test(without_a_history_only_nothing_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
