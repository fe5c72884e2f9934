/* The tracker against a replicator that the test plays itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "edgefs/position_feed.h"
#include "http-proxy/feed.h"
#include "http-proxy/heap.h"
#include "http-proxy/position.h"
#include "lib/localsock.h"
#include "lib/util.h"
#include <event2/event.h>
#include <stdio.h>
#include <sys/socket.h>

struct fixture {
    char folder[64], path[96];
    int listener, fd;
    struct event_base *base;
    struct position_tracker *t;
    struct position_feed_now now;
    struct position_feed_state head;
    struct position_feed_epoch epochs[3];
};

static struct fixture f;

static void turn(void)
{
    event_base_loop(f.base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
}

/* Runs the loop until condition. */
#define UNTIL(condition)                                                                                                                   \
    do {                                                                                                                                   \
        uint64_t until_ = now_ns() + 10000000000u;                                                                                         \
        while (!(condition) && now_ns() < until_)                                                                                          \
            turn();                                                                                                                        \
        assert_true(condition);                                                                                                            \
    } while (0)

static void say(enum position_feed_kind kind, uint64_t id, uint64_t touched, int result)
{
    uint8_t tail[1024];
    size_t n = 0;
    struct position_feed_msg m = {.kind = (uint16_t)kind, .version = 1, .id = id, .touched = touched, .result = result, .now = f.now};
    if (kind == POSITION_FEED_STATE) {
        f.head.primary_len = 1;
        f.head.primary_url_len = 10;
        memcpy(tail, &f.head, sizeof f.head);
        n = sizeof f.head;
        memcpy(tail + n, f.epochs, f.head.n_epochs * sizeof *f.epochs);
        n += f.head.n_epochs * sizeof *f.epochs;
        memcpy(tail + n, "ahttp://h:1", 11);
        n += 11;
        for (unsigned i = 0; i < f.head.n_neighbours; i++) {
            memcpy(tail + n, i ? "\1\1c" : "\0\1b", 3);
            n += 3;
        }
    }
    assert_int_equal(localsock_send(f.fd, &m, sizeof m, tail, n, NULL, 0), 0);
}

static void moved(uint64_t lsn)
{
    f.now.applied.lsn = lsn;
    f.now.last.lsn = MAX(f.now.last.lsn, lsn);
    say(POSITION_FEED_MOVED, 0, 0, 0);
}

/* The next message of the tracker, or kind 0: there is none. */
static struct position_feed_msg hear(char *tail, bool wait)
{
    struct position_feed_msg m = {0};
    uint8_t buf[4096];
    uint64_t until = now_ns() + 10000000000u;
    ssize_t n;
    do {
        turn();
        n = recv(f.fd, buf, sizeof buf, MSG_DONTWAIT);
    } while (n < 0 && wait && now_ns() < until);
    if (n >= (ssize_t)sizeof m) {
        memcpy(&m, buf, sizeof m);
        if (tail) {
            memcpy(tail, buf + sizeof m, (size_t)n - sizeof m);
            tail[(size_t)n - sizeof m] = 0;
        }
    }
    return m;
}

static void accept_tracker(void)
{
    uint64_t until = now_ns() + 10000000000u;
    do {
        turn();
        f.fd = accept4(f.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (f.fd < 0 && now_ns() < until);
    assert_true(f.fd >= 0);
    say(POSITION_FEED_STATE, 0, 0, 0);
    UNTIL(position_state(f.t)->connected);
    struct position_feed_msg m = hear(NULL, true);
    assert_int_equal(m.kind, POSITION_FEED_QUIET);
    assert_int_equal(m.id, 0);
}

static int setup(void **state)
{
    struct err e;
    (void)state;
    memset(&f, 0, sizeof f);
    strcpy(f.folder, "/tmp/edgefs-test-XXXXXX");
    assert_non_null(mkdtemp(f.folder));
    snprintf(f.path, sizeof f.path, "%s/s", f.folder);
    f.listener = localsock_listen(f.path, &e);
    assert_true(f.listener >= 0);
    assert_int_equal(evutil_make_socket_nonblocking(f.listener), 0);
    f.base = event_base_new();
    assert_int_equal(position_open(f.base, f.path, &f.t, &e), 0);
    f.epochs[0] = (struct position_feed_epoch){1, 1};
    f.epochs[1] = (struct position_feed_epoch){2, 100};
    f.epochs[2] = (struct position_feed_epoch){3, 200};
    f.head = (struct position_feed_state){.role = POSITION_FEED_REPLICA, .flags = POSITION_FEED_CONNECTED, .n_epochs = 2};
    f.now = (struct position_feed_now){.seq = 1, .applied = {2, 150}, .last = {2, 150}, .current_ns = now_ns()};
    accept_tracker();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    position_close(f.t);
    event_base_free(f.base);
    close(f.fd);
    close(f.listener);
    unlink(f.path);
    rmdir(f.folder);
    return 0;
}

struct waiter {
    struct position_wait w; /* first */
    int called;
    enum position_outcome outcome;
    struct position pos;
    struct position_wait *also_cancel;
};

static void on_done(struct position_wait *w, enum position_outcome outcome, struct position pos)
{
    struct waiter *x = (struct waiter *)w;
    x->called++;
    x->outcome = outcome;
    x->pos = pos;
    if (x->also_cancel)
        position_wait_cancel(f.t, x->also_cancel);
}

static struct waiter waiter(void)
{
    return (struct waiter){.w = {.done = on_done}};
}

static uint64_t later(uint64_t ms)
{
    return now_ns() / 1000000u + ms;
}

static void waits_end_in_the_order_of_their_positions(void **state)
{
    struct waiter w[50];
    (void)state;
    for (unsigned i = 0; i < 50; i++) {
        w[i] = waiter();
        position_wait_reached(f.t, &w[i].w, (struct position){2, 151 + (i * 7) % 50}, UINT64_MAX);
    }
    for (uint64_t lsn = 151; lsn < 201; lsn++) {
        moved(lsn);
        UNTIL(position_state(f.t)->pos.lsn == lsn);
        for (unsigned i = 0; i < 50; i++) {
            assert_int_equal(w[i].called, w[i].w.want.lsn <= lsn);
            if (w[i].called)
                assert_int_equal(w[i].outcome, POSITION_REACHED);
        }
    }
}

static void a_position_that_is_reached_already_is_told_from_the_loop(void **state)
{
    struct waiter w = waiter();
    (void)state;
    position_wait_reached(f.t, &w.w, (struct position){1, 9999}, UINT64_MAX); /* epoch 1 ended with 99 */
    assert_int_equal(w.called, 0);
    UNTIL(w.called == 1);
    assert_int_equal(w.outcome, POSITION_REACHED);
}

static void deadlines_end_waits_that_are_not_reached(void **state)
{
    struct waiter w[3] = {waiter(), waiter(), waiter()};
    (void)state;
    position_wait_reached(f.t, &w[0].w, (struct position){2, 1000}, later(60000));
    position_wait_reached(f.t, &w[1].w, (struct position){2, 1000}, later(15));
    position_wait_reached(f.t, &w[2].w, (struct position){2, 1000}, later(5));
    UNTIL(w[1].called);
    assert_int_equal(w[2].called, 1);
    assert_int_equal(w[0].called, 0);
    assert_int_equal(w[1].outcome, POSITION_TIMEOUT);
    position_wait_cancel(f.t, &w[0].w);
    position_wait_cancel(f.t, &w[0].w);
    moved(2000);
    UNTIL(position_state(f.t)->pos.lsn == 2000);
    assert_int_equal(w[0].called, 0);
    assert_int_equal(w[1].called, 1);
}

static void an_epoch_that_is_not_known_yet_is_waited_for(void **state)
{
    struct waiter w = waiter();
    (void)state;
    position_wait_reached(f.t, &w.w, (struct position){3, 210}, UINT64_MAX);
    moved(5000); /* of epoch 2: says nothing about epoch 3 */
    UNTIL(position_state(f.t)->pos.lsn == 5000);
    assert_int_equal(w.called, 0);
    f.head.n_epochs = 3;
    f.now.applied = f.now.last = (struct position){3, 209};
    say(POSITION_FEED_STATE, 0, 0, 0);
    UNTIL(position_state(f.t)->pos.epoch == 3);
    assert_int_equal(w.called, 0);
    moved(210);
    UNTIL(w.called);
    assert_false(position_reached(f.t, (struct position){3, 211}));
    assert_true(position_reached(f.t, (struct position){2, 1u << 30})); /* ended with 199 */
}

static void a_callback_may_cancel_its_neighbour(void **state)
{
    struct waiter w[2] = {waiter(), waiter()};
    (void)state;
    w[0].also_cancel = &w[1].w;
    w[1].also_cancel = &w[0].w;
    position_wait_reached(f.t, &w[0].w, (struct position){2, 151}, UINT64_MAX);
    position_wait_reached(f.t, &w[1].w, (struct position){2, 151}, UINT64_MAX);
    moved(151);
    UNTIL(w[0].called + w[1].called == 1);
    moved(152);
    UNTIL(position_state(f.t)->pos.lsn == 152);
    assert_int_equal(w[0].called + w[1].called, 1);
}

static void changes_of_role_and_primary_wake_who_waits_for_one(void **state)
{
    struct waiter w = waiter(), out = waiter();
    uint32_t generation = position_state(f.t)->generation;
    (void)state;
    assert_int_equal(position_state(f.t)->role, POSITION_ROLE_REPLICA);
    assert_string_equal(position_state(f.t)->primary, "a");
    assert_string_equal(position_state(f.t)->primary_url, "http://h:1");
    position_wait_change(f.t, &w.w, UINT64_MAX);
    position_wait_change(f.t, &out.w, later(3));
    moved(151);
    UNTIL(out.called);
    assert_int_equal(out.outcome, POSITION_TIMEOUT);
    assert_int_equal(w.called, 0);
    f.head.role = POSITION_FEED_HANDING_OVER;
    say(POSITION_FEED_STATE, 0, 0, 0);
    UNTIL(w.called);
    assert_int_equal(w.outcome, POSITION_CHANGED);
    assert_int_equal(position_state(f.t)->role, POSITION_ROLE_PRIMARY);
    assert_true(position_state(f.t)->holding);
    assert_int_not_equal(position_state(f.t)->generation, generation);
    assert_true(position_reached(f.t, (struct position){2, 1u << 20})); /* a primary has all there is … */
    assert_false(position_reached(f.t, (struct position){3, 1}));       /* … in the epochs that it knows */
}

static void questions_share_an_answer_only_if_it_was_asked_after_them(void **state)
{
    struct waiter w[12];
    uint64_t ids[4];
    (void)state;
    for (int i = 0; i < 12; i++)
        w[i] = waiter();
    for (int i = 0; i < 4; i++) { /* each is sent at once */
        position_wait_capture(f.t, &w[i].w, UINT64_MAX);
        struct position_feed_msg m = hear(NULL, true);
        assert_int_equal(m.kind, POSITION_FEED_CAPTURE);
        ids[i] = m.id;
    }
    for (int i = 4; i < 12; i++)
        position_wait_capture(f.t, &w[i].w, UINT64_MAX);
    assert_int_equal(hear(NULL, false).kind, 0);
    f.now.last.lsn = 160;
    say(POSITION_FEED_CAPTURED, ids[2], 0, 0);
    UNTIL(w[2].called);
    assert_int_equal(w[2].pos.lsn, 160);
    struct position_feed_msg m = hear(NULL, true); /* all the others in one */
    assert_int_equal(m.kind, POSITION_FEED_CAPTURE);
    for (int i = 4; i < 12; i++)
        assert_int_equal(w[i].called, 0);
    position_wait_cancel(f.t, &w[7].w);
    f.now.last.lsn = 170;
    say(POSITION_FEED_CAPTURED, m.id, 0, 0);
    UNTIL(w[11].called);
    for (int i = 4; i < 12; i++) {
        assert_int_equal(w[i].called, i != 7);
        if (i != 7)
            assert_int_equal(w[i].pos.lsn, 170);
    }
    assert_int_equal(w[0].called, 0);
    say(POSITION_FEED_CAPTURED, ids[0], 0, -16); /* refused: asked again */
    m = hear(NULL, true);
    assert_int_equal(m.kind, POSITION_FEED_CAPTURE);
    say(POSITION_FEED_CAPTURED, m.id, 0, 0);
    UNTIL(w[0].called);
    position_wait_cancel(f.t, &w[1].w);
    position_wait_cancel(f.t, &w[3].w);
}

static void a_replicator_that_comes_back_is_asked_again(void **state)
{
    struct waiter w = waiter(), change = waiter(), given_up = waiter();
    (void)state;
    position_wait_capture(f.t, &w.w, UINT64_MAX);
    assert_int_equal(hear(NULL, true).kind, POSITION_FEED_CAPTURE);
    position_wait_change(f.t, &change.w, UINT64_MAX);
    close(f.fd);
    UNTIL(!position_state(f.t)->connected);
    assert_int_equal(change.called, 1);
    position_wait_capture(f.t, &given_up.w, later(2));
    UNTIL(given_up.called);
    assert_int_equal(given_up.outcome, POSITION_TIMEOUT);
    assert_int_equal(given_up.pos.lsn, 151); /* the next record, whatever is in it */
    assert_int_equal(w.called, 0);
    accept_tracker();
    struct position_feed_msg m = hear(NULL, true);
    assert_int_equal(m.kind, POSITION_FEED_CAPTURE);
    say(POSITION_FEED_CAPTURED, m.id, 0, 0);
    UNTIL(w.called);
    assert_int_equal(w.outcome, POSITION_REACHED);
}

static void a_hold_is_confirmed_when_no_write_is_under_way(void **state)
{
    (void)state;
    uint32_t first = position_write_begin(f.t), second = position_write_begin(f.t);
    f.head.role = POSITION_FEED_PRIMARY;
    f.head.flags = POSITION_FEED_CONNECTED | POSITION_FEED_HOLDING;
    f.head.hold = 7;
    say(POSITION_FEED_STATE, 0, 0, 0);
    UNTIL(position_state(f.t)->holding);
    position_write_end(f.t, first);
    assert_int_equal(hear(NULL, false).kind, 0);
    position_write_end(f.t, second);
    struct position_feed_msg m = hear(NULL, true);
    assert_int_equal(m.kind, POSITION_FEED_QUIET);
    assert_int_equal(m.id, 7);
    f.head.hold = 8; /* with nothing under way: at once */
    say(POSITION_FEED_STATE, 0, 0, 0);
    m = hear(NULL, true);
    assert_int_equal(m.kind, POSITION_FEED_QUIET);
    assert_int_equal(m.id, 8);
    f.head.hold = 0;
    f.head.flags = POSITION_FEED_CONNECTED;
    say(POSITION_FEED_STATE, 0, 0, 0);
    UNTIL(!position_state(f.t)->holding);
    assert_int_equal(hear(NULL, false).kind, 0);
}

static uint32_t noticed;

/* Who is told of the hold finds that it is in the middle of a write. */
static void notice_a_write(struct position_wait *w, enum position_outcome outcome, struct position pos)
{
    (void)w;
    (void)outcome;
    (void)pos;
    noticed = position_write_before(f.t);
}

static void a_hold_that_was_given_up_is_confirmed_when_what_began_before_it_is_over(void **state)
{
    (void)state;
    uint32_t slow = position_write_begin(f.t);
    f.head.role = POSITION_FEED_PRIMARY;
    f.head.flags = POSITION_FEED_CONNECTED | POSITION_FEED_HOLDING;
    f.head.hold = 3;
    say(POSITION_FEED_STATE, 0, 0, 0);
    UNTIL(position_state(f.t)->holding);
    f.head.hold = 0;
    f.head.flags = POSITION_FEED_CONNECTED;
    say(POSITION_FEED_STATE, 0, 0, 0);
    UNTIL(!position_state(f.t)->holding);
    uint32_t newer = position_write_begin(f.t);
    assert_int_equal(hear(NULL, false).kind, 0);
    position_write_end(f.t, slow);
    struct position_feed_msg m = hear(NULL, true);
    assert_int_equal(m.kind, POSITION_FEED_QUIET);
    assert_int_equal(m.id, 3);
    f.head.hold = 4; /* the newer one began before this */
    f.head.flags = POSITION_FEED_CONNECTED | POSITION_FEED_HOLDING;
    say(POSITION_FEED_STATE, 0, 0, 0);
    UNTIL(position_state(f.t)->holding);
    assert_int_equal(hear(NULL, false).kind, 0);
    position_write_end(f.t, newer);
    m = hear(NULL, true);
    assert_int_equal(m.kind, POSITION_FEED_QUIET);
    assert_int_equal(m.id, 4);
    f.head.hold = 0;
    f.head.flags = POSITION_FEED_CONNECTED;
    say(POSITION_FEED_STATE, 0, 0, 0);
    UNTIL(!position_state(f.t)->holding);
    struct position_wait w = {.done = notice_a_write};
    position_wait_change(f.t, &w, UINT64_MAX);
    f.head.hold = 5;
    f.head.flags = POSITION_FEED_CONNECTED | POSITION_FEED_HOLDING;
    say(POSITION_FEED_STATE, 0, 0, 0);
    UNTIL(position_writes(f.t) == 1);
    assert_int_equal(hear(NULL, false).kind, 0);
    position_write_end(f.t, noticed);
    m = hear(NULL, true);
    assert_int_equal(m.id, 5);
    assert_int_equal(position_writes(f.t), 0);
}

static void what_changed_before_a_subscription_counts_as_changed_now(void **state)
{
    char globs[4096];
    (void)state;
    assert_int_equal(position_watch(f.t, "a.db"), 0);
    assert_int_equal(hear(globs, true).kind, POSITION_FEED_SUBSCRIBE);
    assert_int_equal(position_watch(f.t, "*"), 1);
    assert_int_equal(position_watch(f.t, "a.db"), 0);
    assert_int_equal(position_touched(f.t, 0), UINT64_MAX);
    struct position_feed_msg m = hear(globs, true);
    assert_int_equal(m.kind, POSITION_FEED_SUBSCRIBE);
    assert_memory_equal(globs, "a.db\0*\0", 8);
    say(POSITION_FEED_TOUCHED, 0, 0, 0);
    UNTIL(position_touched(f.t, 0) == 150);
    assert_int_equal(position_touched(f.t, 1), UINT64_MAX);
    say(POSITION_FEED_TOUCHED, 1, 140, 0);
    UNTIL(position_touched(f.t, 1) == 150);
    say(POSITION_FEED_TOUCHED, 0, 152, 0);
    UNTIL(position_touched(f.t, 0) == 152);
    close(f.fd);
    UNTIL(position_touched(f.t, 0) == UINT64_MAX);
    f.now.applied.lsn = f.now.last.lsn = 180;
    accept_tracker();
    assert_int_equal(hear(NULL, true).kind, POSITION_FEED_SUBSCRIBE);
    say(POSITION_FEED_TOUCHED, 0, 0, 0);
    UNTIL(position_touched(f.t, 0) == 180);
}

static void lag_is_zero_while_everything_known_is_applied(void **state)
{
    (void)state;
    assert_int_equal(position_state(f.t)->lag_ms, 0);
    f.now.last.lsn = 170;
    f.now.current_ns = now_ns() - 3000000000u;
    say(POSITION_FEED_MOVED, 0, 0, 0);
    UNTIL(position_state(f.t)->lag_records == 20);
    assert_in_range(position_state(f.t)->lag_ms, 3000, 60000);
    f.now.current_ns = 0;
    say(POSITION_FEED_MOVED, 0, 0, 0);
    UNTIL(position_state(f.t)->lag_ms == UINT64_MAX);
    f.head.n_neighbours = 2;
    say(POSITION_FEED_STATE, 0, 0, 0);
    UNTIL(position_state(f.t)->nodes_unreachable == 1 && position_state(f.t)->nodes == 2);
}

static void a_replicator_of_another_version_is_not_believed(void **state)
{
    struct position_feed_msg m = {.kind = POSITION_FEED_MOVED, .version = 2, .now = {.applied = {2, 999}}};
    (void)state;
    assert_int_equal(localsock_send(f.fd, &m, sizeof m, NULL, 0, NULL, 0), 0);
    UNTIL(!position_state(f.t)->connected);
    assert_int_equal(position_state(f.t)->pos.lsn, 150);
}

static void states_that_are_cut_off_are_refused(void **state)
{
    struct feed_state s;
    uint8_t tail[256] = {0};
    struct position_feed_state head = {.n_epochs = 2, .primary_len = 3, .primary_url_len = 4, .n_neighbours = 1};
    struct position_feed_epoch epochs[2] = {{1, 1}, {2, 5}};
    (void)state;
    memcpy(tail, &head, sizeof head);
    memcpy(tail + sizeof head, epochs, sizeof epochs);
    memcpy(tail + sizeof head + sizeof epochs, "abchttp\0\2xy", 11);
    size_t n = sizeof head + sizeof epochs + 11;
    assert_true(feed_decode_state(tail, n, &s));
    assert_string_equal(s.primary, "abc");
    assert_int_equal(s.unreachable, 1);
    for (size_t k = 0; k < n; k++)
        assert_false(feed_decode_state(tail, k, &s));
    memcpy(tail + sizeof head, (struct position_feed_epoch[]){{2, 1}, {2, 5}}, sizeof epochs);
    assert_false(feed_decode_state(tail, n, &s));
}

struct item {
    uint64_t key;
    unsigned place;
};

static void the_heap_gives_the_smallest_whatever_is_taken_out(void **state)
{
    struct heap h = {.key = offsetof(struct item, key), .place = offsetof(struct item, place)};
    struct item items[500];
    uint32_t x = 12345;
    (void)state;
    for (int i = 0; i < 500; i++) {
        x = x * 1664525u + 1013904223u;
        items[i] = (struct item){.key = x >> 20};
        assert_true(heap_reserve(&h));
        heap_add(&h, &items[i]);
    }
    for (int i = 0; i < 500; i += 3)
        heap_remove(&h, &items[i]);
    heap_remove(&h, &items[0]);
    for (int i = 0; i < 500; i++) {
        x = x * 1664525u + 1013904223u;
        items[i].key = x >> 16;
    }
    heap_rebuild(&h);
    uint64_t last = 0;
    unsigned n = 0;
    for (struct item *it; (it = heap_first(&h)); n++) {
        assert_true(it->key >= last);
        last = it->key;
        heap_remove(&h, it);
        assert_int_equal(it->place, 0);
    }
    assert_int_equal(n, 500 - 167);
    heap_free(&h);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(waits_end_in_the_order_of_their_positions),
        T(a_position_that_is_reached_already_is_told_from_the_loop),
        T(deadlines_end_waits_that_are_not_reached),
        T(an_epoch_that_is_not_known_yet_is_waited_for),
        T(a_callback_may_cancel_its_neighbour),
        T(changes_of_role_and_primary_wake_who_waits_for_one),
        T(questions_share_an_answer_only_if_it_was_asked_after_them),
        T(a_replicator_that_comes_back_is_asked_again),
        T(a_hold_is_confirmed_when_no_write_is_under_way),
        T(a_hold_that_was_given_up_is_confirmed_when_what_began_before_it_is_over),
        T(what_changed_before_a_subscription_counts_as_changed_now),
        T(lag_is_zero_while_everything_known_is_applied),
        T(a_replicator_of_another_version_is_not_believed),
        cmocka_unit_test(states_that_are_cut_off_are_refused),
        cmocka_unit_test(the_heap_gives_the_smallest_whatever_is_taken_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
