/* The fence keeper: the table itself, and the packets of edgefs/launch.h over a real socket pair. */
#include "ctl/launcher/children.h"
#include "ctl/launcher/keeper.h"
#include "edgefs/layout.h"
#include "lib/localsock.h"
#include "lib/log.h"
#include "lib/util.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

static int some_fd(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* ---- table ---------------------------------------------------------------------------------------------------------------- */

static void a_fence_is_kept_replaced_and_dropped(void **state)
{
    (void)state;
    struct keeper *f = keeper_new(10);
    int a[2] = {some_fd(), some_fd()}, b = some_fd(), out[LAUNCH_FENCE_FDS];
    size_t len;
    assert_int_equal(keeper_put(f, "x/y.db", 6, a, 2), 0);
    assert_int_equal(keeper_count(f), 1);
    assert_int_equal(kept_fds(keeper_first(f), out), 2);
    assert_int_equal(out[0], a[0]);
    assert_int_equal(out[1], a[1]);
    assert_memory_equal(kept_name(keeper_first(f), &len), "x/y.db", 6);
    assert_int_equal(len, 6);
    assert_null(keeper_next(keeper_first(f)));

    assert_int_equal(keeper_put(f, "x/y.db", 6, &b, 1), 0); /* the journal mode changed */
    assert_false(is_open(a[0]) || is_open(a[1]));
    assert_true(is_open(b));
    assert_int_equal(keeper_count(f), 1);

    assert_int_equal(keeper_drop(f, "x/y", 3), 0); /* another name, not kept */
    assert_true(is_open(b));
    assert_int_equal(keeper_drop(f, "x/y.db", 6), 0);
    assert_false(is_open(b));
    assert_int_equal(keeper_count(f), 0);
    assert_null(keeper_first(f));
    keeper_free(f);
}

static void limits_are_kept_and_nothing_leaks(void **state)
{
    (void)state;
    struct keeper *f = keeper_new(2);
    char name[LAYOUT_NAME_MAX + 1];
    memset(name, 'n', sizeof name);
    int a = some_fd(), b = some_fd(), c = some_fd(), d = some_fd(), three[3] = {some_fd(), some_fd(), some_fd()};
    assert_int_equal(keeper_put(f, "a", 1, &a, 1), 0);
    assert_int_equal(keeper_put(f, name, LAYOUT_NAME_MAX, &b, 1), 0);
    assert_int_equal(keeper_put(f, "c", 1, &c, 1), -ENOSPC);
    assert_false(is_open(c));
    assert_int_equal(keeper_put(f, "a", 1, &d, 1), 0); /* a replacement is no newcomer */
    assert_int_equal(keeper_put(f, "a", 1, three, 3), -EINVAL);
    assert_false(is_open(three[0]) || is_open(three[1]) || is_open(three[2]));
    assert_true(is_open(d));
    assert_int_equal(keeper_put(f, "a", 1, NULL, 0), -EINVAL);
    assert_int_equal(keeper_put(f, "", 0, &(int){some_fd()}, 1), -EINVAL);
    assert_int_equal(keeper_put(f, name, LAYOUT_NAME_MAX + 1, &(int){some_fd()}, 1), -EINVAL);
    assert_int_equal(keeper_drop(f, "", 0), -EINVAL);
    assert_int_equal(keeper_count(f), 2);
    keeper_close_all(f);
    assert_false(is_open(b) || is_open(d));
    keeper_free(f);
    keeper_free(NULL);
}

/* ---- packets -------------------------------------------------------------------------------------------------------------- */

struct pair {
    struct child c;
    struct keeper *f;
    int peer;
};

static void pair_open(struct pair *p, bool keeps_fences, unsigned max)
{
    int s[2];
    struct child_spec spec = {.name = "fake", .keeps_fences = keeps_fences, .ready_timeout = 1000, .eof_timeout = keeps_fences ? 77 : 0};
    child_init(&p->c, &spec);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s), 0);
    p->c.sock = s[0];
    p->c.state = CHILD_STARTING;
    p->c.pid = 1; /* never signalled here */
    p->peer = s[1];
    p->f = keeper_new(max);
}

static void pair_close(struct pair *p)
{
    close(p->peer);
    if (p->c.sock >= 0)
        close(p->c.sock);
    keeper_free(p->f);
}

static void say(struct pair *p, uint32_t kind, const char *name, const int *fds, int nfds)
{
    struct launch_msg m = {.kind = kind, .name_len = (uint16_t)strlen(name)};
    assert_int_equal(localsock_send(p->peer, &m, sizeof m, name, strlen(name), fds, nfds), 0);
}

/* The next packet for the child: its kind (0: nothing there), name and descriptors, which are closed after being counted. */
static uint32_t hear(struct pair *p, char *name, int *nfds)
{
    char packet[LAUNCH_PACKET_MAX];
    int fds[LOCALSOCK_FDS_MAX];
    ssize_t n = localsock_recv(p->peer, packet, sizeof packet, fds, nfds);
    if (n == -EAGAIN || n == 0)
        return 0;
    struct launch_msg m;
    assert_true(n >= (ssize_t)sizeof m);
    memcpy(&m, packet, sizeof m);
    assert_int_equal(n, sizeof m + m.name_len);
    memcpy(name, packet + sizeof m, m.name_len);
    name[m.name_len] = 0;
    for (int i = 0; i < *nfds; i++) {
        assert_true(is_open(fds[i]));
        close(fds[i]);
    }
    return m.kind;
}

static void puts_and_drops_are_acknowledged_and_listed(void **state)
{
    (void)state;
    struct pair p;
    char name[LAUNCH_PACKET_MAX];
    int n = 0, fds[2] = {some_fd(), some_fd()};
    pair_open(&p, true, 100);
    say(&p, LAUNCH_FENCE_LIST, "", NULL, 0);
    child_talk(&p.c, p.f, 5);
    assert_int_equal(hear(&p, name, &n), LAUNCH_FENCE_END);
    say(&p, LAUNCH_FENCE_PUT, "a.db", fds, 2);
    say(&p, LAUNCH_FENCE_PUT, "b.db", fds, 1);
    say(&p, LAUNCH_FENCE_PUT, "c.db", fds, 1);
    say(&p, LAUNCH_FENCE_DROP, "b.db", NULL, 0);
    child_talk(&p.c, p.f, 5);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(hear(&p, name, &n), LAUNCH_FENCE_ACK);
        assert_string_equal(name, "");
    }
    assert_int_equal(hear(&p, name, &n), 0);
    say(&p, LAUNCH_FENCE_LIST, "", NULL, 0);
    child_talk(&p.c, p.f, 5);
    assert_int_equal(hear(&p, name, &n), LAUNCH_FENCE);
    assert_string_equal(name, "a.db");
    assert_int_equal(n, 2);
    assert_int_equal(hear(&p, name, &n), LAUNCH_FENCE);
    assert_string_equal(name, "c.db");
    assert_int_equal(n, 1);
    assert_int_equal(hear(&p, name, &n), LAUNCH_FENCE_END);
    assert_int_equal(keeper_count(p.f), 2); /* still kept */
    say(&p, LAUNCH_READY, "1.2.3", NULL, 0);
    child_talk(&p.c, p.f, 5);
    assert_int_equal(p.c.state, CHILD_READY);
    assert_string_equal(p.c.version, "1.2.3");
    close(fds[0]);
    close(fds[1]);
    pair_close(&p);
}

/* More fences than the socket holds, to a child that does not read: the launcher does not block, and goes on when it does. */
static void a_slow_reader_gets_its_whole_list(void **state)
{
    (void)state;
    enum { N = 900 }; /* an ordinary process may have 1,024 descriptors */
    struct pair p;
    char name[LAUNCH_PACKET_MAX], expected[32];
    int n = 0, count = 0, turns = 0;
    pair_open(&p, true, N);
    for (int i = 0; i < N; i++) {
        int fd = some_fd();
        snprintf(name, sizeof name, "%d", i);
        assert_int_equal(keeper_put(p.f, name, strlen(name), &fd, 1), 0);
    }
    say(&p, LAUNCH_FENCE_LIST, "", NULL, 0);
    say(&p, LAUNCH_FENCE_DROP, "5", NULL, 0); /* answered after the list, which still has it */
    for (bool end = false; !end; turns++) {
        child_talk(&p.c, p.f, 5);
        assert_true(p.c.sock >= 0);
        uint32_t kind;
        if (count < N)
            assert_int_equal(child_poll_events(&p.c), turns == 0 || p.c.listing ? POLLOUT : POLLIN);
        while (!end && (kind = hear(&p, name, &n))) {
            end = kind == LAUNCH_FENCE_END;
            snprintf(expected, sizeof expected, "%d", count);
            if (!end) {
                assert_string_equal(name, expected);
                count++;
            }
        }
    }
    assert_int_equal(count, N);
    assert_true(turns > 1);
    child_talk(&p.c, p.f, 5);
    assert_int_equal(hear(&p, name, &n), LAUNCH_FENCE_ACK);
    assert_int_equal(keeper_count(p.f), N - 1);
    keeper_close_all(p.f);
    pair_close(&p);
}

static void bad_packets_end_the_conversation_only(void **state)
{
    (void)state;
    static const struct {
        bool keeper;
        uint32_t kind;
        uint16_t name_len;
        const char *name;
        int fds;
        size_t cut;
    } bad[] = {
        {true, 0, 0, "", 0, 0},
        {true, 99, 0, "", 0, 0},
        {true, LAUNCH_FENCE, 0, "", 0, 0},
        {true, LAUNCH_FENCE_ACK, 0, "", 0, 0},
        {true, LAUNCH_SYNC, 0, "", 0, 0},
        {true, LAUNCH_READY, 0, "", 0, 1},             /* shorter than a header */
        {true, LAUNCH_READY, 5, "abc", 0, 0},          /* says more than it has */
        {true, LAUNCH_FENCE_PUT, 2, "abc", 1, 0},      /* … less */
        {true, LAUNCH_FENCE_PUT, 3, "abc", 0, 0},      /* no descriptor */
        {true, LAUNCH_FENCE_PUT, 3, "abc", 3, 0},      /* too many */
        {true, LAUNCH_FENCE_PUT, 0, "", 1, 0},         /* no name */
        {true, LAUNCH_FENCE_DROP, 0, "", 0, 0},
        {true, LAUNCH_FENCE_DROP, 3, "abc", 1, 0},     /* descriptors where none belong */
        {false, LAUNCH_FENCE_PUT, 3, "abc", 1, 0},     /* edgefs-fs keeps no fences */
        {false, LAUNCH_FENCE_LIST, 0, "", 0, 0},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct pair p;
        int fds[3] = {some_fd(), some_fd(), some_fd()};
        struct launch_msg m = {.kind = bad[i].kind, .name_len = bad[i].name_len};
        pair_open(&p, bad[i].keeper, 10);
        assert_int_equal(
            localsock_send(p.peer, &m, sizeof m - bad[i].cut, bad[i].name, strlen(bad[i].name), fds, bad[i].fds), 0);
        int next = some_fd();
        close(next);
        child_talk(&p.c, p.f, 5);
        if (p.c.sock >= 0)
            fail_msg("case %zu was accepted", i);
        int after = some_fd(); /* the packet's descriptors were closed: the lowest free number is as low as before */
        assert_true(after <= next);
        close(after);
        assert_int_equal(keeper_count(p.f), 0);
        assert_int_equal(p.c.eof_due, bad[i].keeper ? 82 : 1005);
        for (int k = 0; k < 3; k++)
            close(fds[k]);
        pair_close(&p);
    }
}

static void overlong_packets_and_names_are_refused(void **state)
{
    (void)state;
    static char big[LAUNCH_PACKET_MAX + 100];
    struct pair p;
    struct launch_msg m = {.kind = LAUNCH_FENCE_DROP, .name_len = LAYOUT_NAME_MAX + 1};
    pair_open(&p, true, 10);
    assert_int_equal(localsock_send(p.peer, &m, sizeof m, big, LAYOUT_NAME_MAX + 1, NULL, 0), 0);
    child_talk(&p.c, p.f, 5);
    assert_int_equal(p.c.sock, -1);
    pair_close(&p);
    pair_open(&p, true, 10);
    m.name_len = sizeof big;
    assert_int_equal(localsock_send(p.peer, &m, sizeof m, big, sizeof big, NULL, 0), 0);
    child_talk(&p.c, p.f, 5);
    assert_int_equal(p.c.sock, -1);
    pair_close(&p);
}

static void more_fences_than_the_limit_end_the_conversation_and_keep_the_old(void **state)
{
    (void)state;
    struct pair p;
    int fd = some_fd();
    pair_open(&p, true, 1);
    say(&p, LAUNCH_FENCE_PUT, "a", &fd, 1);
    say(&p, LAUNCH_FENCE_PUT, "b", &fd, 1);
    child_talk(&p.c, p.f, 5);
    assert_int_equal(p.c.sock, -1);
    assert_int_equal(keeper_count(p.f), 1);
    close(fd);
    pair_close(&p);
}

static int quiet(void **state)
{
    (void)state;
    log_init("test", NULL, LOG_LEVEL_ERROR + 1);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fence_is_kept_replaced_and_dropped),
        cmocka_unit_test(limits_are_kept_and_nothing_leaks),
        cmocka_unit_test(puts_and_drops_are_acknowledged_and_listed),
        cmocka_unit_test(a_slow_reader_gets_its_whole_list),
        cmocka_unit_test(bad_packets_end_the_conversation_only),
        cmocka_unit_test(overlong_packets_and_names_are_refused),
        cmocka_unit_test(more_fences_than_the_limit_end_the_conversation_and_keep_the_old),
    };
    return cmocka_run_group_tests(tests, quiet, NULL);
}
