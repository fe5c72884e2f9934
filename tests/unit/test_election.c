#include "replicator/cluster/election.h"
#include "lib/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>

static struct contender node(const char *name, uint64_t epoch, uint64_t lsn)
{
    struct contender c = {.epoch = epoch, .lsn = lsn, .election = 5, .candidate = true, .complete = true, .counts = true};
    snprintf(c.node, sizeof c.node, "%s", name);
    return c;
}

static enum election_verdict judge_with(struct contender self, const struct contender *other, size_t n, unsigned needed, bool patience_over)
{
    char why[200];
    enum election_verdict v = election_judge(&self, other, n, 5, needed, patience_over, why);
    assert_int_equal(v == ELECTION_TAKE, why[0] == 0);
    return v;
}

static enum election_verdict judge(struct contender self, const struct contender *other, size_t n, bool patience_over)
{
    return judge_with(self, other, n, 1, patience_over);
}

static void a_node_alone_takes_over(void **state)
{
    (void)state;
    assert_int_equal(judge(node("a", 4, 100), NULL, 0, false), ELECTION_TAKE);
}

static void the_first_epoch_of_a_cluster_may_begin_on_an_empty_node_and_no_later_one(void **state)
{
    (void)state;
    char why[200];
    struct contender a = node("a", 0, 0);
    a.election = 1;
    assert_int_equal(election_judge(&a, NULL, 0, 1, 1, false, why), ELECTION_TAKE);
    assert_int_equal(judge(node("a", 0, 0), NULL, 0, true), ELECTION_REFUSE);
}

static void who_is_no_candidate_refuses(void **state)
{
    (void)state;
    struct contender a = node("a", 4, 100);
    a.candidate = false;
    assert_int_equal(judge(a, NULL, 0, true), ELECTION_REFUSE);
}

static void who_has_not_applied_everything_waits(void **state)
{
    (void)state;
    struct contender a = node("a", 4, 100);
    a.complete = false;
    assert_int_equal(judge(a, NULL, 0, true), ELECTION_WAIT);
}

static void of_two_exactly_one_goes_first(void **state)
{
    (void)state;
    struct contender list[] = {node("a", 4, 100), node("b", 4, 101), node("c", 3, 500), node("d", 4, 101), node("e", 4, 101)};
    list[4].priority = 1;
    /* e (priority), b, d (names), a (shorter log), c (earlier epoch) */
    static const int order[] = {4, 1, 3, 0, 2};
    for (size_t i = 0; i < ARRAY_SIZE(order); i++)
        for (size_t j = 0; j < ARRAY_SIZE(order); j++)
            if (i != j)
                assert_int_equal(judge(list[order[i]], &list[order[j]], 1, true), i < j ? ELECTION_TAKE : ELECTION_WAIT);
}

static void a_candidate_that_has_not_said_where_it_stands_is_waited_for_until_patience_is_over(void **state)
{
    (void)state;
    struct contender silent = node("b", 4, 900);
    silent.election = 0;
    assert_int_equal(judge(node("a", 4, 100), &silent, 1, false), ELECTION_WAIT);
    assert_int_equal(judge(node("a", 4, 100), &silent, 1, true), ELECTION_TAKE);
}

static void one_that_stands_higher_but_still_applies_is_waited_for(void **state)
{
    (void)state;
    struct contender b = node("b", 4, 101);
    b.complete = false;
    assert_int_equal(judge(node("a", 4, 100), &b, 1, true), ELECTION_WAIT);
    b.lsn = 100; /* no higher: whoever is ready goes */
    assert_int_equal(judge(node("c", 4, 100), &b, 1, true), ELECTION_TAKE);
}

static void others_that_are_no_candidates_do_not_count(void **state)
{
    (void)state;
    struct contender b = node("b", 4, 900);
    b.candidate = false;
    assert_int_equal(judge(node("a", 4, 100), &b, 1, false), ELECTION_TAKE);
}

static void with_synchronous_commit_as_many_must_be_heard_as_cannot_all_lack_a_commit_that_was_acknowledged(void **state)
{
    (void)state;
    struct contender list[] = {node("b", 4, 90), node("c", 4, 80)};
    assert_int_equal(judge_with(node("a", 4, 100), NULL, 0, 1, true), ELECTION_TAKE);
    assert_int_equal(judge_with(node("a", 4, 100), NULL, 0, 2, true), ELECTION_WAIT);
    assert_int_equal(judge_with(node("a", 4, 100), list, 1, 2, true), ELECTION_TAKE);
    assert_int_equal(judge_with(node("a", 4, 100), list, 2, 3, true), ELECTION_TAKE);
    list[1].counts = false; /* its machine stopped while it was primary: it may have told applications of more than it still knows of */
    assert_int_equal(judge_with(node("a", 4, 100), list, 2, 3, true), ELECTION_WAIT);
    list[0].election = 0; /* not heard, however long it takes */
    list[1].counts = true;
    assert_int_equal(judge_with(node("a", 4, 100), list, 2, 3, true), ELECTION_WAIT);
    assert_int_equal(judge_with(node("a", 4, 100), list, 2, 2, true), ELECTION_TAKE);
}

static void the_first_epoch_of_an_empty_cluster_needs_nobody_to_be_heard(void **state)
{
    (void)state;
    char why[200];
    struct contender a = node("a", 0, 0);
    a.election = 1;
    assert_int_equal(election_judge(&a, NULL, 0, 1, 2, true, why), ELECTION_TAKE);
    a.lsn = 5; /* etcd's data is new, the cluster's is not */
    assert_int_equal(election_judge(&a, NULL, 0, 1, 2, true, why), ELECTION_WAIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_node_alone_takes_over),
        cmocka_unit_test(the_first_epoch_of_a_cluster_may_begin_on_an_empty_node_and_no_later_one),
        cmocka_unit_test(who_is_no_candidate_refuses),
        cmocka_unit_test(who_has_not_applied_everything_waits),
        cmocka_unit_test(of_two_exactly_one_goes_first),
        cmocka_unit_test(a_candidate_that_has_not_said_where_it_stands_is_waited_for_until_patience_is_over),
        cmocka_unit_test(one_that_stands_higher_but_still_applies_is_waited_for),
        cmocka_unit_test(others_that_are_no_candidates_do_not_count),
        cmocka_unit_test(with_synchronous_commit_as_many_must_be_heard_as_cannot_all_lack_a_commit_that_was_acknowledged),
        cmocka_unit_test(the_first_epoch_of_an_empty_cluster_needs_nobody_to_be_heard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
