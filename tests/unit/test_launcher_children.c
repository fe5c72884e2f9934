/* The life of a supervised program, with real processes and made-up times. */
#include "ctl/launcher/children.h"
#include "lib/log.h"
#include "lib/util.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/wait.h>

#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)

static struct inherited inherited;

static void init(struct child *c, char *const *args, uint64_t ready_timeout)
{
    struct child_spec spec = {.name = "fake", .path = "/bin/bash", .args = args, .keeps_fences = true, .ready_timeout = ready_timeout,
                              .eof_timeout = 3 * SECOND, .fds = {{"EDGEFS_LOCK_FD", STDIN_FILENO}, {"NOT_THERE", -1}, {NULL, -1}, {NULL, -1}}};
    child_init(c, &spec);
}

static int wait_for(struct child *c)
{
    int st = 0;
    assert_int_equal(waitpid(c->pid, &st, 0), c->pid);
    return st;
}

static void a_program_gets_its_descriptors_and_its_own_session(void **state)
{
    (void)state;
    char script[] = "test $EDGEFS_LOCK_FD = 0 && test -z \"$NOT_THERE$NOTIFY_SOCKET\" && test -S /proc/self/fd/$EDGEFS_LAUNCHER_FD && "
                    "test $(cut -d' ' -f6 /proc/$$/stat) = $$ && exit 9";
    char *args[] = {(char[]){"-c"}, script, NULL};
    struct child c;
    assert_int_equal(setenv("NOTIFY_SOCKET", "/x", 1), 0);
    init(&c, args, 0);
    child_start(&c, &inherited);
    assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
    assert_int_equal(c.state, CHILD_STARTING);
    int st = wait_for(&c);
    assert_string_equal(wait_status_text(st), "exit status 9");
    child_died(&c, st, c.started + MS);
    assert_int_equal(c.state, CHILD_DELAYED);
    assert_int_equal(c.sock, -1);
    assert_int_equal(c.pid, 0);
    assert_int_equal(c.starts_failed, 1);
}

static void a_program_that_cannot_be_run_is_a_death(void **state)
{
    (void)state;
    char *args[] = {NULL};
    struct child c;
    init(&c, args, 0);
    c.spec.path = "/nonexistent/program";
    child_start(&c, &inherited);
    int st = wait_for(&c);
    assert_string_equal(wait_status_text(st), "exit status 127");
    child_died(&c, st, c.started);
    assert_int_equal(c.due, c.started + 10 * MS);
}

static void quick_deaths_are_delayed_longer_and_longer(void **state)
{
    (void)state;
    struct child c;
    init(&c, NULL, 0);
    c.wanted = c.ever_ready = true;
    uint64_t now = 100 * SECOND;
    for (unsigned expected = BACKOFF_FIRST_MS; expected < BACKOFF_LAST_MS; expected *= 2) {
        c.state = CHILD_STARTING;
        c.started = now;
        now += 5 * MS;
        child_died(&c, 9, now);
        assert_int_equal(c.state, CHILD_DELAYED);
        assert_int_equal(child_due(&c), now + expected * MS);
        assert_false(child_timer(&c, child_due(&c) - 1));
        now = child_due(&c);
        assert_true(child_timer(&c, now));
    }
    c.state = CHILD_READY;
    c.started = now;
    child_died(&c, 9, now + 2 * SECOND);
    assert_int_equal(child_due(&c), now + 2 * SECOND); /* it had lived: at once */
    assert_int_equal(c.starts_failed, 0);
}

static void an_end_is_forced_when_it_is_due(void **state)
{
    (void)state;
    char *args[] = {(char[]){"-c"}, (char[]){"trap '' TERM; echo >&$EDGEFS_LAUNCHER_FD; while :; do sleep 1; done"}, NULL};
    struct child c;
    init(&c, args, 0);
    child_start(&c, &inherited);
    struct pollfd p = {.fd = c.sock, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 10000), 1); /* its trap is set */
    child_end(&c, SECOND, false);
    assert_int_equal(c.state, CHILD_ENDING);
    uint64_t due = child_due(&c);
    child_end(&c, 100 * SECOND, false); /* asking again does not put it off */
    assert_int_equal(child_due(&c), due);
    assert_false(child_timer(&c, due));
    int st = wait_for(&c);
    assert_true(WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL);
    child_died(&c, st, due);
    assert_int_equal(c.state, CHILD_OFF);
    assert_int_equal(child_due(&c), CHILD_NEVER);
}

static void a_replaced_program_starts_again_without_delay(void **state)
{
    (void)state;
    char *args[] = {(char[]){"-c"}, (char[]){"exec sleep 100"}, NULL};
    struct child c;
    init(&c, args, 0);
    child_start(&c, &inherited);
    child_end(&c, 2 * SECOND, true);
    int st = wait_for(&c);
    child_died(&c, st, c.started + MS);
    assert_int_equal(c.state, CHILD_DELAYED);
    assert_int_equal(child_due(&c), c.started + MS);
    child_end(&c, SECOND, false); /* stopping while it waits for its start */
    assert_int_equal(c.state, CHILD_OFF);
}

static void who_is_not_ready_in_time_is_killed(void **state)
{
    (void)state;
    char *args[] = {(char[]){"-c"}, (char[]){"exec sleep 100"}, NULL};
    struct child c;
    init(&c, args, 5 * SECOND);
    child_start(&c, &inherited);
    assert_int_equal(child_due(&c), c.started + 5 * SECOND);
    assert_false(child_timer(&c, child_due(&c)));
    int st = wait_for(&c);
    assert_true(WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL);
    child_died(&c, st, c.started + 5 * SECOND);
    assert_int_equal(c.state, CHILD_DELAYED);
}

static void who_hangs_up_and_stays_is_killed(void **state)
{
    (void)state;
    char *args[] = {(char[]){"-c"}, (char[]){"eval \"exec $EDGEFS_LAUNCHER_FD>&-\"; exec sleep 100"}, NULL};
    struct child c;
    struct keeper *f = keeper_new(1);
    init(&c, args, 0);
    child_start(&c, &inherited);
    struct pollfd p = {.fd = c.sock, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 10000), 1);
    child_talk(&c, f, 50 * SECOND);
    assert_int_equal(c.sock, -1);
    assert_int_equal(child_due(&c), 53 * SECOND);
    assert_false(child_timer(&c, 53 * SECOND));
    int st = wait_for(&c);
    assert_true(WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL);
    child_died(&c, st, 54 * SECOND);
    assert_int_equal(child_due(&c), 54 * SECOND);
    child_end(&c, 0, false);
    keeper_free(f);
}

static int set_up(void **state)
{
    (void)state;
    log_init("test", NULL, LOG_LEVEL_ERROR + 1);
    inherited.oom_score_adj = INT32_MIN;
    inherited.pipe.sa_handler = SIG_DFL;
    sigemptyset(&inherited.mask);
    return getrlimit(RLIMIT_NOFILE, &inherited.files);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_program_gets_its_descriptors_and_its_own_session),
        cmocka_unit_test(a_program_that_cannot_be_run_is_a_death),
        cmocka_unit_test(quick_deaths_are_delayed_longer_and_longer),
        cmocka_unit_test(an_end_is_forced_when_it_is_due),
        cmocka_unit_test(a_replaced_program_starts_again_without_delay),
        cmocka_unit_test(who_is_not_ready_in_time_is_killed),
        cmocka_unit_test(who_hangs_up_and_stays_is_killed),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
