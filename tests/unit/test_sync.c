/* Synchronous commit, who waits: what is done for whom in which order when replicas vouch for a record. Capture and the connection to edgefs-fs are stand-ins that
 * write down what they are asked for. */
#include "replicator/stream/sync.h"

#include "lib/util.h"
#include "replicator/capture/capture.h"
#include "replicator/capture/hooks.h"
#include "replicator/stream/replicas.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>

static struct node node;
static struct config config;
static struct database a, b;
static struct sync *s;
static char done[512];

static void write_down(const char *what, uint64_t which)
{
    size_t n = strlen(done);
    snprintf(done + n, sizeof done - n, "%s %" PRIu64 "; ", what, which);
}

void capture_note(struct capture *c, struct database *db)
{
    (void)c;
    write_down(db == &a ? "note a" : "note b", 0);
}

void capture_notice(struct capture *c, struct database *db)
{
    capture_note(c, db);
    capture_wake(c);
}

void capture_wake(struct capture *c)
{
    (void)c;
    write_down("wake", 0);
}

void hooks_answer(struct hooks *h, uint64_t id, uint64_t value, const char *text)
{
    (void)h;
    assert_int_equal(value, 0);
    assert_null(text);
    write_down("answer", id);
}

static void wait_for(struct database *db, uint64_t hook, uint64_t lsn, enum sync_kind kind)
{
    struct sync_wait w = {.hook = hook, .db = db, .lsn = lsn, .replicas = 1, .deadline_ns = UINT64_MAX, .kind = kind};
    assert_true(sync_wait(s, &w));
}

static void vouched_for(uint64_t lsn)
{
    done[0] = 0;
    replicas_sent(node.replicas, "r", lsn);
    replicas_vouch(node.replicas, "r", lsn);
    sync_vouched(s);
}

/* Who asks for a position as soon as its commit has returned has capture's thread go round, and that looks at what is noted by then. */
static void a_commit_returns_when_its_database_is_noted(void **state)
{
    (void)state;
    wait_for(&a, 1, 10, SYNC_WAL);
    wait_for(&b, 2, 11, SYNC_WAL);
    vouched_for(9);
    assert_string_equal(done, "");
    vouched_for(10);
    assert_string_equal(done, "note a 0; answer 1; wake 0; ");
    vouched_for(10);
    assert_string_equal(done, "");
    vouched_for(12);
    assert_string_equal(done, "note b 0; answer 2; wake 0; ");
    assert_int_equal(sync_waiting(s), 0);
}

static void the_end_of_a_journal_is_answered_by_captures_thread(void **state)
{
    (void)state;
    struct sync_wait w;
    wait_for(&a, 3, 20, SYNC_JOURNAL);
    assert_false(sync_next(s, &w));
    vouched_for(20);
    assert_string_equal(done, "wake 0; ");
    assert_int_equal(sync_next_ns(s), 0);
    assert_true(sync_next(s, &w));
    assert_true(w.acknowledged);
    assert_int_equal(w.hook, 3);
    assert_false(sync_next(s, &w));
}

static void nobody_is_answered_without_the_lease(void **state)
{
    (void)state;
    wait_for(&a, 4, 30, SYNC_WAL);
    atomic_store(&node.lease_until, 0);
    vouched_for(31);
    assert_string_equal(done, "");
    atomic_store(&node.lease_until, UINT64_MAX);
    vouched_for(32);
    assert_string_equal(done, "note a 0; answer 4; wake 0; ");
}

static int set_up(void **state)
{
    (void)state;
    struct err e;
    node.config = &config;
    atomic_store(&node.lease_until, UINT64_MAX);
    if (replicas_open(&node.replicas, &e) || sync_open(&node, &s, &e))
        return -1;
    return replicas_connected(node.replicas, "r", NULL, &e);
}

static int tear_down(void **state)
{
    (void)state;
    sync_close(s);
    replicas_close(node.replicas);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_commit_returns_when_its_database_is_noted),
        cmocka_unit_test(the_end_of_a_journal_is_answered_by_captures_thread),
        cmocka_unit_test(nobody_is_answered_without_the_lease),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
