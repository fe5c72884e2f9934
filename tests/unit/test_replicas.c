#include "edgefs/layout.h"
#include "replicator/stream/replicas.h"

#include "lib/util.h"
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <fcntl.h>
#include <stdio.h>

#include <cmocka.h>

static struct replicas *r;

static int setup(void **state)
{
    (void)state;
    return replicas_open(&r, NULL);
}

static int teardown(void **state)
{
    (void)state;
    replicas_close(r);
    return 0;
}

static json_int_t field(const char *node, const char *key)
{
    json_t *list = replicas_json(r), *o;
    json_int_t v = -1;
    size_t i;
    json_array_foreach(list, i, o)
    {
        const json_t *f = json_object_get(o, key);
        if (strcmp(json_string_value(json_object_get(o, "node")), node) == 0)
            v = json_is_boolean(f) ? json_is_true(f) : json_is_null(f) ? -2 : json_integer_value(f);
    }
    json_decref(list);
    return v;
}

static void a_node_is_found_while_it_has_a_stream(void **state)
{
    (void)state;
    char url[256];
    assert_false(replicas_find(r, "b", NULL));
    assert_int_equal(replicas_connected(r, "b", "http://h:1", NULL), 0);
    assert_true(replicas_find(r, "b", url));
    assert_string_equal(url, "http://h:1");
    assert_int_equal(replicas_connected(r, "b", "http://h:2", NULL), 0); /* reconnects before the old one is known dead */
    replicas_disconnected(r, "b");
    assert_true(replicas_find(r, "b", url));
    assert_string_equal(url, "http://h:2");
    replicas_disconnected(r, "b");
    assert_false(replicas_find(r, "b", url));
    assert_int_equal(field("b", "connected"), 0); /* still listed */
    replicas_disconnected(r, "b");
    replicas_disconnected(r, "nobody");
}

static void what_was_acknowledged_is_told(void **state)
{
    (void)state;
    replicas_ack(r, "b", 9, 9, 9); /* not connected: ignored */
    assert_int_equal(field("b", "applied_lsn"), -1);
    replicas_connected(r, "b", NULL, NULL);
    assert_int_equal(field("b", "ack_age_ms"), -2);
    replicas_sent(r, "b", 12);
    replicas_ack(r, "b", 11, 10, 9);
    assert_int_equal(field("b", "sent_lsn"), 12);
    assert_int_equal(field("b", "received_lsn"), 11);
    assert_int_equal(field("b", "applied_lsn"), 10);
    assert_int_equal(field("b", "durable_lsn"), 9);
    assert_in_range(field("b", "ack_age_ms"), 0, 1000);
    replicas_connected(r, "b", NULL, NULL); /* a new stream may follow a reset: old acknowledgements do not count */
    assert_int_equal(field("b", "applied_lsn"), 0);
}

static void the_log_is_kept_for_the_slowest_that_is_connected(void **state)
{
    (void)state;
    assert_true(replicas_need(r) == UINT64_MAX);
    replicas_connected(r, "b", NULL, NULL);
    replicas_connected(r, "c", NULL, NULL);
    replicas_ack(r, "b", 7, 7, 7);
    replicas_ack(r, "c", 9, 5, 4);
    assert_int_equal(replicas_need(r), 5);
    replicas_disconnected(r, "c");
    assert_int_equal(replicas_need(r), 8);
}

static void names_and_urls_from_strangers_are_checked(void **state)
{
    (void)state;
    char long_name[80], long_url[400];
    struct err e;
    memset(long_name, 'a', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    memset(long_url, 'a', sizeof long_url - 1);
    long_url[sizeof long_url - 1] = 0;
    memcpy(long_url, "http://", 7);
    static const char *const names[] = {"", "a b", "-a", "../x", "a\"b", "\xc3\xa9"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        assert_int_equal(replicas_connected(r, names[i], NULL, &e), -EINVAL);
    assert_int_equal(replicas_connected(r, long_name, NULL, &e), -EINVAL);
    assert_int_equal(replicas_connected(r, "a", long_url, &e), -EINVAL);
    assert_int_equal(replicas_connected(r, "a", "file:///etc/passwd", &e), -EINVAL);
    assert_int_equal(replicas_connected(r, "a", "http://x\n", &e), -EINVAL);
    long_name[64] = 0;
    assert_int_equal(replicas_connected(r, long_name, "", &e), 0);
}

static void a_full_table_forgets_who_has_been_away_longest(void **state)
{
    (void)state;
    char name[32];
    struct err e;
    for (int i = 0; i < REPLICAS_MAX; i++) {
        snprintf(name, sizeof name, "n%d", i);
        assert_int_equal(replicas_connected(r, name, NULL, &e), 0);
    }
    assert_int_equal(replicas_connected(r, "one-more", NULL, &e), -EBUSY);
    replicas_disconnected(r, "n7");
    assert_int_equal(replicas_connected(r, "one-more", NULL, &e), 0);
    assert_int_equal(field("n7", "connected"), -1);
    assert_int_equal(field("n8", "connected"), 1);
}

static void *later(void *arg)
{
    (void)arg;
    nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
    replicas_ack(r, "b", 5, 5, 5);
    nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
    replicas_disconnected(r, "b");
    return NULL;
}

static void waiting_ends_with_the_acknowledgement_the_deadline_or_the_connection(void **state)
{
    (void)state;
    pthread_t t;
    assert_int_equal(replicas_wait_applied(r, "b", 1, now_ns() + 1000000000u), -ENOTCONN);
    replicas_connected(r, "b", NULL, NULL);
    assert_int_equal(replicas_wait_applied(r, "b", 5, now_ns() + 5000000u), -ETIMEDOUT);
    pthread_create(&t, NULL, later, NULL);
    assert_int_equal(replicas_wait_applied(r, "b", 5, now_ns() + 5000000000u), 0);
    assert_int_equal(replicas_wait_applied(r, "b", 6, now_ns() + 5000000000u), -ENOTCONN);
    pthread_join(t, NULL);
}

static void the_nth_best_replica_says_how_far_a_commit_is_durable(void **state)
{
    (void)state;
    assert_int_equal(replicas_vouched(r, 1), 0);
    replicas_connected(r, "b", NULL, NULL);
    replicas_connected(r, "c", NULL, NULL);
    replicas_connected(r, "d", NULL, NULL);
    replicas_bystander(r, "d");
    replicas_sent(r, "b", 10);
    replicas_sent(r, "c", 10);
    replicas_sent(r, "d", 10);
    replicas_vouch(r, "b", 11); /* it was never sent that: of another history */
    assert_int_equal(replicas_vouched(r, 1), 0);
    replicas_vouch(r, "b", 7);
    replicas_vouch(r, "d", 10); /* counts for nothing */
    assert_int_equal(replicas_vouched(r, 1), 7);
    assert_int_equal(replicas_vouched(r, 2), 0);
    replicas_vouch(r, "c", 9);
    assert_int_equal(replicas_vouched(r, 1), 9);
    assert_int_equal(replicas_vouched(r, 2), 7);
    assert_int_equal(replicas_vouched(r, 3), 0);
    replicas_vouch(r, "c", 8); /* an older message that comes late */
    assert_int_equal(replicas_vouched(r, 1), 9);
    replicas_ack(r, "b", 10, 10, 10); /* does not say that it vouches */
    assert_int_equal(replicas_vouched(r, 2), 7);
    replicas_disconnected(r, "c");
    assert_int_equal(replicas_vouched(r, 1), 7);
    replicas_connected(r, "c", NULL, NULL);
    assert_int_equal(replicas_vouched(r, 2), 0);
}

static void progress_is_remembered_in_a_file(void **state)
{
    char folder[] = "/tmp/test_replicas_XXXXXX", path[64], name[65];
    struct replicas *again;
    uint64_t lsn;
    (void)state;
    assert_non_null(mkdtemp(folder));
    int dirfd = open(folder, O_RDONLY | O_DIRECTORY);
    assert_true(dirfd >= 0);
    replicas_load(r, dirfd); /* there is no file */
    assert_int_equal(replicas_save(r, dirfd, NULL), 0);
    assert_int_equal(faccessat(dirfd, LAYOUT_REPLICAS, F_OK, 0), -1); /* nothing to say */
    replicas_connected(r, "b", "http://h:1", NULL);
    replicas_connected(r, "c", NULL, NULL);
    replicas_ack(r, "b", 20, 20, 17);
    replicas_ack(r, "c", 30, 30, 30);
    assert_int_equal(replicas_save(r, dirfd, NULL), 0);

    assert_int_equal(replicas_open(&again, NULL), 0);
    replicas_load(again, dirfd);
    assert_false(replicas_find(again, "b", NULL)); /* known, and not connected */
    assert_true(replicas_away(again, name, &lsn));
    assert_string_equal(name, "b");
    assert_int_equal(lsn, 18);
    assert_int_equal(replicas_need(again), UINT64_MAX); /* who is away keeps nothing */
    replicas_connected(again, "b", NULL, NULL);
    assert_true(replicas_away(again, name, &lsn));
    assert_string_equal(name, "c");
    assert_int_equal(lsn, 31);
    replicas_close(again);

    snprintf(path, sizeof path, "%s/%s", folder, LAYOUT_REPLICAS);
    int fd = open(path, O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, "[{\"node\":", 9), 9);
    close(fd);
    assert_int_equal(replicas_open(&again, NULL), 0);
    replicas_load(again, dirfd); /* damaged: as if there were none */
    assert_false(replicas_away(again, name, &lsn));
    replicas_close(again);
    unlink(path);
    rmdir(folder);
    close(dirfd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_node_is_found_while_it_has_a_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_acknowledged_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(the_log_is_kept_for_the_slowest_that_is_connected, setup, teardown),
        cmocka_unit_test_setup_teardown(the_nth_best_replica_says_how_far_a_commit_is_durable, setup, teardown),
        cmocka_unit_test_setup_teardown(progress_is_remembered_in_a_file, setup, teardown),
        cmocka_unit_test_setup_teardown(names_and_urls_from_strangers_are_checked, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_table_forgets_who_has_been_away_longest, setup, teardown),
        cmocka_unit_test_setup_teardown(waiting_ends_with_the_acknowledgement_the_deadline_or_the_connection, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
