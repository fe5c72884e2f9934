/* The launcher's control socket: what a well-meaning client gets, and what strangers cannot do. */
#include "ctl/launcher/control.h"
#include "ctl/launcher/notify.h"
#include "lib/localsock.h"
#include "lib/log.h"
#include "lib/util.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

static char folder[] = "/tmp/test_launcher_control.XXXXXX";
static char path[128];
static struct control control;
static uint64_t asked_client;
static int asked_count, asked_request;

static void obey(void *context, uint64_t client, enum control_request request)
{
    assert_ptr_equal(context, &control);
    asked_client = client;
    asked_request = (int)request;
    asked_count++;
}

/* Serves until nothing happens any more. */
static void serve(void)
{
    struct pollfd p[CONTROL_POLL_MAX];
    for (;;) {
        int n = control_poll(&control, p, now_ns());
        if (poll(p, (nfds_t)n, 0) <= 0)
            return;
        control_serve(&control, p, n, now_ns(), obey, &control);
    }
}

static int dial(void)
{
    struct err e;
    int fd = localsock_connect(path, &e);
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

static void a_request_is_passed_on_and_answered(void **state)
{
    (void)state;
    char text[64];
    int a = dial(), b = dial();
    assert_int_equal(localsock_send(a, "upgrade", 7, NULL, 0, NULL, 0), 0);
    serve();
    assert_int_equal(asked_count, 1);
    assert_int_equal(asked_request, CONTROL_UPGRADE);
    uint64_t first = asked_client;
    assert_int_equal(localsock_send(b, "stop", 4, NULL, 0, NULL, 0), 0);
    serve();
    assert_int_equal(asked_request, CONTROL_STOP);
    assert_true(asked_client != first);
    control_say(&control, first, '+', "half %d", 1);
    control_say(&control, first, '0', "done");
    control_say(&control, first, '0', "nobody hears this");
    assert_int_equal(localsock_recv(a, text, sizeof text, NULL, NULL), 7);
    assert_memory_equal(text, "+half 1", 7);
    assert_int_equal(localsock_recv(a, text, sizeof text, NULL, NULL), 5);
    assert_memory_equal(text, "0done", 5);
    assert_int_equal(localsock_recv(a, text, sizeof text, NULL, NULL), 0); /* the end */
    assert_int_equal(localsock_recv(b, text, sizeof text, NULL, NULL), -EAGAIN);
    close(a);
    close(b);
    serve();
    control_say(&control, asked_client, '+', "to somebody who left");
}

static void strangers_get_nothing_but_the_end(void **state)
{
    (void)state;
    static char big[5000];
    static const struct {
        const char *text;
        size_t n;
    } bad[] = {{"stopp", 5}, {"sto", 3}, {"stop\0", 5}, {"\n", 1}, {"", 0}, {big, sizeof big}};
    int before = asked_count;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        char text[64];
        int fd = dial();
        assert_int_equal(localsock_send(fd, bad[i].text, bad[i].n, NULL, 0, NULL, 0), 0);
        serve();
        ssize_t n = localsock_recv(fd, text, sizeof text, NULL, NULL);
        assert_true(n == 0 || n == -ECONNRESET);
        close(fd);
    }
    assert_int_equal(asked_count, before);
}

static void a_crowd_waits_and_the_next_one_is_served(void **state)
{
    (void)state;
    int fds[CONTROL_CLIENTS_MAX + 3], before = asked_count;
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        fds[i] = dial();
    serve();
    struct pollfd p[CONTROL_POLL_MAX];
    assert_int_equal(control_poll(&control, p, now_ns()), CONTROL_CLIENTS_MAX); /* nobody is accepted meanwhile */
    assert_int_equal(localsock_send(fds[CONTROL_CLIENTS_MAX], "stop", 4, NULL, 0, NULL, 0), 0);
    serve();
    assert_int_equal(asked_count, before);
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++)
        close(fds[i]);
    serve();
    assert_int_equal(asked_count, before + 1);
    for (size_t i = CONTROL_CLIENTS_MAX; i < ARRAY_SIZE(fds); i++)
        close(fds[i]);
    serve();
}

static void a_client_that_does_not_read_loses_its_answers_only(void **state)
{
    (void)state;
    int fd = dial();
    assert_int_equal(localsock_send(fd, "upgrade", 7, NULL, 0, NULL, 0), 0);
    serve();
    for (int i = 0; i < 10000; i++)
        control_say(&control, asked_client, '+', "%01000d", i); /* never blocks */
    serve();
    close(fd);
    serve();
}

/* control_ask in a child process; its exit status. */
static int ask(enum control_request request, char kind, const char *answer)
{
    int before = asked_count, st;
    (void)fflush(stdout); /* or the child prints cmocka's lines once more */
    pid_t pid = fork();
    if (pid == 0) {
        if (!freopen("/dev/null", "we", stdout) || !freopen("/dev/null", "we", stderr))
            _exit(99);
        _exit(control_ask(path, request));
    }
    for (uint64_t end = now_ns() + UINT64_C(5000000000); asked_count == before && now_ns() < end;)
        serve();
    control_say(&control, asked_client, '+', "progress");
    control_say(&control, asked_client, kind, "%s", answer);
    assert_int_equal(waitpid(pid, &st, 0), pid);
    assert_true(WIFEXITED(st));
    return WEXITSTATUS(st);
}

static void the_client_exits_as_the_launcher_says(void **state)
{
    (void)state;
    assert_int_equal(ask(CONTROL_UPGRADE, '0', "done"), 0);
    assert_int_equal(ask(CONTROL_STOP, '!', "no"), 1);
}

static void the_service_manager_is_told(void **state)
{
    (void)state;
    char text[64];
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s/n", folder);
    _cleanup_fd_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
    assert_int_equal(notify_manager("READY=1"), 0);
    assert_int_equal(setenv("NOTIFY_SOCKET", a.sun_path, 1), 0);
    assert_int_equal(notify_manager("READY=1"), 1);
    assert_int_equal(recv(fd, text, sizeof text, 0), 7);
    assert_memory_equal(text, "READY=1", 7);
    unlink(a.sun_path);
    assert_int_equal(notify_manager("READY=1"), -ENOENT);
    assert_int_equal(setenv("NOTIFY_SOCKET", "relative", 1), 0);
    assert_int_equal(notify_manager("READY=1"), -EINVAL);
    char name[64];
    snprintf(name, sizeof name, "@edgefs-test-%d", (int)getpid());
    struct sockaddr_un b = {.sun_family = AF_UNIX};
    memcpy(b.sun_path + 1, name + 1, strlen(name) - 1);
    _cleanup_fd_ int abstract = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(abstract, (struct sockaddr *)&b, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))), 0);
    assert_int_equal(setenv("NOTIFY_SOCKET", name, 1), 0);
    assert_int_equal(notify_manager("STOPPING=1"), 1);
    assert_int_equal(recv(abstract, text, sizeof text, 0), 10);
    assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
}

static int set_up(void **state)
{
    (void)state;
    struct err e;
    log_init("test", NULL, LOG_LEVEL_ERROR + 1);
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/s", folder);
    return control_open(&control, path, &e);
}

static int tear_down(void **state)
{
    (void)state;
    control_close(&control);
    unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_passed_on_and_answered),
        cmocka_unit_test(strangers_get_nothing_but_the_end),
        cmocka_unit_test(a_crowd_waits_and_the_next_one_is_served),
        cmocka_unit_test(a_client_that_does_not_read_loses_its_answers_only),
        cmocka_unit_test(the_client_exits_as_the_launcher_says),
        cmocka_unit_test(the_service_manager_is_told),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
