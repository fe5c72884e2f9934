#include "fs/hookserver.h"
#include "fs/passthrough.h"
#include "fs/role.h"
#include "fs/spare.h"
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
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The server's threads live as long as the process: one server for all tests, each with a replicator of its own. */
static struct fs fs;
static char folder[] = "/tmp/test_fs_hooks.XXXXXX";
static char sock_path[64];

struct heard {
    struct hook_msg m;
    char path[1200], text[1200];
};

struct question {
    struct hook_ask ask;
    int done; /* atomic */
};

static void on_done(struct hook_ask *a)
{
    __atomic_store_n(&((struct question *)a)->done, 1, __ATOMIC_RELEASE);
}

static bool wait_done(struct question *q, int ms)
{
    for (int i = 0; i < ms && !__atomic_load_n(&q->done, __ATOMIC_ACQUIRE); i++)
        (void)poll(NULL, 0, 1);
    return __atomic_load_n(&q->done, __ATOMIC_ACQUIRE);
}

static struct question question(enum hooks_kind kind, enum ask_policy policy, const char *path)
{
    struct question q = {.ask = {.kind = kind, .policy = policy, .done = on_done, .value = 7}};
    snprintf(q.ask.path, sizeof q.ask.path, "%s", path);
    return q;
}

static bool hear(int fd, struct heard *h)
{
    uint8_t buf[HOOKS_PACKET_MAX];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    *h = (struct heard){0};
    if (poll(&p, 1, 3000) != 1)
        return false;
    ssize_t n = localsock_recv(fd, buf, sizeof buf, NULL, NULL);
    if (n < (ssize_t)sizeof h->m)
        return false;
    memcpy(&h->m, buf, sizeof h->m);
    assert_int_equal(n, sizeof h->m + h->m.path_len + h->m.text_len);
    memcpy(h->path, buf + sizeof h->m, h->m.path_len);
    memcpy(h->text, buf + sizeof h->m + h->m.path_len, h->m.text_len);
    return true;
}

static void expect(int fd, enum hooks_kind kind, const char *path)
{
    struct heard h;
    assert_true(hear(fd, &h));
    assert_int_equal(h.m.kind, kind);
    assert_string_equal(h.path, path);
}

static void say(int fd, enum hooks_kind kind, uint64_t id, uint64_t value, const char *text)
{
    struct hook_msg m = {.kind = kind, .id = id, .value = value, .text_len = (uint16_t)strlen(text)};
    assert_int_equal(localsock_send(fd, &m, sizeof m, text, strlen(text), NULL, 0), 0);
}

static int join(void)
{
    struct err e = {0};
    int fd = localsock_connect(sock_path, &e);
    assert_true(fd >= 0);
    say(fd, HOOK_HELLO, 0, HOOKS_VERSION, "");
    expect(fd, HOOK_HELLO, "");
    return fd;
}

static int join_synced(void)
{
    int fd = join();
    expect(fd, HOOK_SYNCED, "");
    return fd;
}

static void leave(int fd)
{
    close(fd);
    for (int i = 0; i < 3000 && table_shared(fs.table)->replicator_pid; i++)
        (void)poll(NULL, 0, 1);
    assert_int_equal(table_shared(fs.table)->replicator_pid, 0);
}

static void an_answer_ends_the_question_it_belongs_to(void **state)
{
    (void)state;
    int fd = join_synced();
    struct question a = question(HOOK_DB_REMOVE, ASK_GO_ON, "a.db"), b = question(HOOK_WAL_TRUNCATE, ASK_GO_ON, "b.db-wal");
    struct heard ha, hb;
    assert_true(hookserver_ask(&fs, &a.ask));
    assert_true(hookserver_ask(&fs, &b.ask));
    assert_true(hear(fd, &ha));
    assert_true(hear(fd, &hb));
    assert_int_equal(hb.m.kind, HOOK_WAL_TRUNCATE);
    assert_int_equal(hb.m.value, 7);
    assert_true(ha.m.id != 0 && ha.m.id != hb.m.id);
    say(fd, HOOK_ANSWER, hb.m.id, EBUSY, "text");
    assert_true(wait_done(&b, 3000));
    assert_true(b.ask.answered);
    assert_int_equal(b.ask.error, EBUSY);
    assert_string_equal(b.ask.text, "text");
    assert_false(wait_done(&a, 20));
    say(fd, HOOK_ANSWER, hb.m.id, 0, ""); /* a second answer, and one to nothing: ignored */
    say(fd, HOOK_ANSWER, 0, 0, "");
    say(fd, HOOK_ANSWER, ha.m.id, 0, "");
    assert_true(wait_done(&a, 3000));
    assert_int_equal(a.ask.error, 0);
    leave(fd);
}

static void without_a_replicator_the_call_goes_on_and_the_database_is_unseen(void **state)
{
    (void)state;
    struct question a = question(HOOK_WAL_UNLINK, ASK_GO_ON, "dir/u.db-wal");
    assert_false(hookserver_ask(&fs, &a.ask));
    int fd = join();
    expect(fd, HOOK_UNSEEN, "dir/u.db");
    expect(fd, HOOK_SYNCED, "");
    leave(fd);
    fd = join_synced(); /* said once */
    leave(fd);
}

static void a_replicator_that_goes_away_ends_what_it_was_asked(void **state)
{
    (void)state;
    int fd = join_synced();
    struct question a = question(HOOK_JOURNAL_END, ASK_GO_ON, "j.db-journal"), f = question(HOOK_OPENING, ASK_FENCE, "f.db");
    struct heard h;
    assert_true(hookserver_ask(&fs, &a.ask));
    assert_true(hookserver_ask(&fs, &f.ask));
    expect(fd, HOOK_JOURNAL_END, "j.db-journal");
    expect(fd, HOOK_OPENING, "f.db");
    leave(fd);
    assert_true(wait_done(&a, 3000));
    assert_false(a.ask.answered);
    assert_false(wait_done(&f, 20)); /* a fence is waited for: the next one is asked */
    fd = join();
    expect(fd, HOOK_UNSEEN, "j.db");
    expect(fd, HOOK_SYNCED, "");
    assert_true(hear(fd, &h));
    assert_int_equal(h.m.kind, HOOK_OPENING);
    say(fd, HOOK_ANSWER, h.m.id, 0, "");
    assert_true(wait_done(&f, 3000));
    assert_true(f.ask.answered);
    leave(fd);
}

static void becoming_primary_makes_fences_needless(void **state)
{
    (void)state;
    int fd = join_synced();
    struct question f = question(HOOK_OPENING, ASK_FENCE, "f.db");
    assert_true(hookserver_ask(&fs, &f.ask));
    say(fd, HOOK_ROLE, 0, HOOKS_ROLE_REPLICA, "other");
    say(fd, HOOK_ROLE, 0, 99, "nonsense");
    say(fd, HOOK_ROLE, 0, HOOKS_ROLE_PRIMARY, "me");
    assert_true(wait_done(&f, 3000));
    assert_int_equal(f.ask.error, 0);
    assert_int_equal(role_get(&fs), HOOKS_ROLE_PRIMARY);
    char name[SHARED_PRIMARY_MAX + 1];
    role_primary(&fs, name);
    assert_string_equal(name, "me");
    leave(fd);
}

static void a_newcomer_replaces_the_replicator_and_strangers_do_not(void **state)
{
    (void)state;
    struct err e = {0};
    struct heard h;
    int first = join_synced();
    int mute = localsock_connect(sock_path, &e);
    say(mute, HOOK_HELLO, 0, HOOKS_VERSION + 1, "");
    assert_false(hear(mute, &h)); /* closed */
    close(mute);
    table_lock(fs.table);
    assert_true(hookserver_tell(&fs, HOOK_CREATED, "still.db", NULL));
    table_unlock(fs.table);
    expect(first, HOOK_CREATED, "still.db");
    int second = join_synced();
    assert_false(hear(first, &h));
    close(first);
    table_lock(fs.table);
    assert_true(hookserver_tell(&fs, HOOK_RENAMED, "old", "new"));
    table_unlock(fs.table);
    assert_true(hear(second, &h));
    assert_string_equal(h.path, "old");
    assert_string_equal(h.text, "new");
    leave(second);
}

static void events_that_the_socket_does_not_take_are_kept_in_order(void **state)
{
    (void)state;
    int fd = join_synced();
    char path[32];
    for (int i = 0; i < 20000; i++) {
        snprintf(path, sizeof path, "f%d", i);
        table_lock(fs.table);
        assert_true(hookserver_tell(&fs, HOOK_CREATED, path, NULL));
        table_unlock(fs.table);
    }
    for (int i = 0; i < 20000; i++) {
        snprintf(path, sizeof path, "f%d", i);
        expect(fd, HOOK_CREATED, path);
    }
    leave(fd);
}

static void a_malformed_message_ends_the_connection(void **state)
{
    (void)state;
    struct heard h;
    int fd = join_synced();
    struct hook_msg m = {.kind = HOOK_ROLE, .value = 1, .text_len = 500};
    assert_int_equal(localsock_send(fd, &m, sizeof m, "x", 1, NULL, 0), 0);
    assert_false(hear(fd, &h));
    leave(fd);
}

static void *keep_socket_open(void *arg)
{
    char byte;
    (void)!read(*(int *)arg, &byte, 1);
    _exit(0);
}

/* Asked whether a database may be removed, the first thread of the process ends; another one holds the socket: what a killed replicator looks like while one of its
 * threads waits in the kernel. Ends when its end of the pipe is closed. */
static pid_t half_dead_replicator(const int *pipe_fds)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        static int in;
        struct err e = {0};
        pthread_t t;
        in = pipe_fds[0];
        close(pipe_fds[1]);
        int fd = localsock_connect(sock_path, &e);
        struct hook_msg hello = {.kind = HOOK_HELLO, .value = HOOKS_VERSION};
        if (fd < 0 || localsock_send(fd, &hello, sizeof hello, NULL, 0, NULL, 0) || pthread_create(&t, NULL, keep_socket_open, &in))
            _exit(1);
        uint8_t buf[HOOKS_PACKET_MAX];
        struct hook_msg m = {0};
        while (m.kind != HOOK_DB_REMOVE) { /* killed while it is being asked: before, nobody would ask it */
            if (localsock_recv(fd, buf, sizeof buf, NULL, NULL) < (ssize_t)sizeof m)
                _exit(1);
            memcpy(&m, buf, sizeof m);
        }
        syscall(SYS_exit, 0);
    }
    for (int i = 0; i < 3000 && table_shared(fs.table)->replicator_pid != pid; i++)
        (void)poll(NULL, 0, 1);
    assert_int_equal(table_shared(fs.table)->replicator_pid, pid);
    return pid;
}

static void a_replicator_that_was_killed_is_not_waited_for_even_while_its_socket_is_open(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    pid_t pid = half_dead_replicator(fds);
    struct question a = question(HOOK_DB_REMOVE, ASK_GO_ON, "killed.db");
    assert_true(hookserver_ask(&fs, &a.ask));
    assert_true(wait_done(&a, HOOKS_TIMEOUT_MS - 2000));
    assert_false(a.ask.answered);
    assert_int_equal(table_shared(fs.table)->replicator_pid, 0);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0); /* its socket was indeed still open */
    close(fds[1]);
    close(fds[0]);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    int fd = join();
    expect(fd, HOOK_UNSEEN, "killed.db");
    expect(fd, HOOK_SYNCED, "");
    leave(fd);
}

static int setup(void **state)
{
    (void)state;
    struct err e = {0};
    bool fresh;
    log_init("test", NULL, LOG_LEVEL_ERROR);
    assert_non_null(mkdtemp(folder));
    snprintf(sock_path, sizeof sock_path, "%s/s", folder);
    int table_fd = memfd_create("table", MFD_CLOEXEC), listen_fd = localsock_listen(sock_path, &e);
    assert_true(listen_fd >= 0);
    assert_int_equal(table_open(table_fd, &fs.table, &fresh, &e), 0);
    fs.passthrough = passthrough_new(-1, false);
    assert_int_equal(pthread_rwlock_init(&fs.ns, NULL), 0);
    assert_int_equal(spare_start(&fs.spare, &e), 0);
    assert_int_equal(hookserver_start(&fs, listen_fd, false, &e), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(sock_path);
    rmdir(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_ends_the_question_it_belongs_to),
        cmocka_unit_test(without_a_replicator_the_call_goes_on_and_the_database_is_unseen),
        cmocka_unit_test(a_replicator_that_goes_away_ends_what_it_was_asked),
        cmocka_unit_test(a_replicator_that_was_killed_is_not_waited_for_even_while_its_socket_is_open),
        cmocka_unit_test(becoming_primary_makes_fences_needless),
        cmocka_unit_test(a_newcomer_replaces_the_replicator_and_strangers_do_not),
        cmocka_unit_test(events_that_the_socket_does_not_take_are_kept_in_order),
        cmocka_unit_test(a_malformed_message_ends_the_connection),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
