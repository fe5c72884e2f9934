/* Locks, leases and the naming of who is in the way, on a real directory and with real processes. */
#include "lib/busy.h"
#include "ctl/launcher/datadir.h"
#include "lib/log.h"
#include "lib/util.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char folder[] = "/tmp/test_launcher_datadir.XXXXXX";
static char data_path[PATH_MAX];

#define TRIES 30 /* of what looks through /proc for a bounded time: on a machine that is short of processor time that may not be enough */

/* The log of the code under test, read by a process that waits for it to say something. How long anything takes is of no account then. */
struct ear {
    int pipe[2], standard_error;
};

static void ear_open(struct ear *r)
{
    assert_int_equal(pipe2(r->pipe, O_CLOEXEC), 0);
    r->standard_error = dup(STDERR_FILENO);
    assert_true(r->standard_error >= 0);
}

static void ear_begin(const struct ear *r)
{
    assert_int_equal(dup2(r->pipe[1], STDERR_FILENO), STDERR_FILENO);
    log_init("test", NULL, LOG_LEVEL_INFO);
}

/* Whoever has not heard by now what it waits for gets no more. */
static void ear_end(const struct ear *r)
{
    log_init("test", NULL, LOG_LEVEL_ERROR + 1);
    (void)dup2(r->standard_error, STDERR_FILENO);
    close(r->standard_error);
    close(r->pipe[0]);
    close(r->pipe[1]);
}

/* In a child that was made between ear_open and ear_begin. Ends it: with 0 if the log said the text. */
static _Noreturn void ear_wait(const struct ear *r, const char *text)
{
    char said[4096];
    size_t n = 0;
    ssize_t got;
    close(r->pipe[1]);
    while (n < sizeof said - 1 && (got = read(r->pipe[0], said + n, sizeof said - 1 - n)) > 0) {
        said[n += (size_t)got] = 0;
        if (strstr(said, text))
            _exit(0);
    }
    _exit(1);
}

static void heard(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* A process that has path open (mapped: only that) until it hears that somebody waits for the file, or, without an ear, until it is killed.
 * Returns once it has. */
static pid_t holder(const char *path, bool mapped, const struct ear *ear)
{
    int ready[2];
    char byte;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t parent = getpid(), pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0 || ftruncate(fd, 4096) || prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
            _exit(1);
        if (mapped) {
            if (mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED)
                _exit(1);
            close(fd);
        }
        if (write(ready[1], "", 1) != 1)
            _exit(1);
        if (ear)
            ear_wait(ear, "is still open; waiting");
        for (;;)
            pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void end(pid_t pid)
{
    (void)kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void folders_are_made_private_and_locked(void **state)
{
    (void)state;
    struct datadir d, second;
    struct err e = {0};
    struct stat st;
    char path[PATH_MAX], expected[600];
    if (datadir_open(&d, data_path, &e))
        fail_msg("%s", e.text);
    assert_true(d.db_created);
    static const char *const names[] = {"", "db", "log", "sums", "orphans", "run"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        assert_int_equal(stat(datadir_path(data_path, names[i], path), &st), 0);
        assert_int_equal(st.st_mode, S_IFDIR | 0700);
    }
    assert_int_equal(datadir_open(&second, data_path, &e), -EBUSY);
    snprintf(expected, sizeof expected, "the data directory %s is used by another edgefs (pid %d); edgefs stop --data %s would end it", d.path,
             (int)getpid(), d.path);
    assert_string_equal(e.text, expected);

    assert_int_equal(chmod(folder, 0750), 0);
    assert_int_equal(datadir_adopt_owner(&d, folder, &e), 0);
    assert_int_equal(fstat(d.db, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0750);
    datadir_close(&d);

    assert_int_equal(datadir_open(&d, data_path, &e), 0); /* and again, now that it is there */
    assert_false(d.db_created);
    assert_int_equal(chmod(folder, 0700), 0);
    assert_int_equal(datadir_adopt_owner(&d, folder, &e), 0);
    assert_int_equal(fstat(d.db, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0750); /* what it is by now is the user's choice */
    datadir_close(&d);
}

/* The db lock outlives the launcher in the hands of its programs: here a child process that inherited the descriptor. */
static void programs_of_a_dead_launcher_keep_the_directory(void **state)
{
    (void)state;
    struct datadir d;
    struct err e = {0};
    assert_int_equal(datadir_open(&d, data_path, &e), 0);
    struct ear ear;
    ear_open(&ear);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        ear_wait(&ear, "programs of an earlier launcher still run");
    assert_int_equal(flock(d.lock, LOCK_UN), 0); /* programs do not inherit this one: it is close-on-exec */
    datadir_close(&d);
    ear_begin(&ear);
    int rc = datadir_open(&d, data_path, &e); /* waits for it */
    ear_end(&ear);
    if (rc)
        fail_msg("%s", e.text);
    heard(pid);
    datadir_close(&d);
}

static void open_files_are_found_and_waited_for(void **state)
{
    (void)state;
    struct datadir d;
    struct err e = {0};
    char path[PATH_MAX];
    assert_int_equal(datadir_open(&d, data_path, &e), 0);
    assert_int_equal(mkdir(datadir_path(data_path, "db/sub", path), 0700), 0);
    assert_int_equal(symlink("/dev/null", datadir_path(data_path, "db/link", path)), 0);
    assert_int_equal(datadir_check_unused(&d, &e), 0);
    for (int mapped = 0; mapped <= 1; mapped++) {
        struct ear ear;
        ear_open(&ear);
        pid_t pid = holder(datadir_path(data_path, "db/sub/a.db", path), mapped, &ear);
        ear_begin(&ear);
        int rc = datadir_check_unused(&d, &e);
        ear_end(&ear);
        if (rc)
            fail_msg("%s", e.text);
        heard(pid);
    }
    unlink(path);
    unlink(datadir_path(data_path, "db/link", path));
    rmdir(datadir_path(data_path, "db/sub", path));
    datadir_close(&d);
}

static void a_file_that_stays_open_is_refused_with_the_name_of_its_user(void **state)
{
    (void)state;
    struct datadir d;
    struct err e = {0};
    char path[PATH_MAX], expected[64];
    assert_int_equal(datadir_open(&d, data_path, &e), 0);
    pid_t pid = holder(datadir_path(data_path, "db/a.db", path), true, NULL);
    snprintf(expected, sizeof expected, "still open by %d (", (int)pid);
    for (int i = 0; i < TRIES && !strstr(e.text, expected); i++)
        assert_int_equal(datadir_check_unused(&d, &e), -EBUSY);
    if (strncmp(e.text, "a.db in ", 8) || !strstr(e.text, expected) || !strstr(e.text, "); stop it first"))
        fail_msg("%s", e.text);
    end(pid);
    unlink(path);
    datadir_close(&d);
}

static void users_of_a_file_are_counted_and_named(void **state)
{
    (void)state;
    char path[PATH_MAX], text[BUSY_TEXT_MAX], first[32];
    pid_t pids[9];
    struct stat st;
    snprintf(path, sizeof path, "%s/file", folder);
    for (size_t i = 0; i < ARRAY_SIZE(pids); i++)
        pids[i] = holder(path, i % 2, NULL);
    assert_int_equal(stat(path, &st), 0);
    struct busy_query q = {.name = "file", .dev = st.st_dev, .ino = st.st_ino, .except = pids[0]};
    int found = 0;
    for (int i = 0; i < TRIES && found != 8; i++)
        found = busy_name(&q, text);
    assert_int_equal(found, 8);
    assert_non_null(strstr(text, " and 2 more"));
    snprintf(first, sizeof first, "%d (", (int)pids[0]);
    assert_null(strstr(text, first));
    for (size_t i = 0; i < ARRAY_SIZE(pids); i++)
        end(pids[i]);
    assert_int_equal(busy_name(&q, text), 0);
    assert_string_equal(text, "");
    unlink(path);
}

static void a_data_directory_that_cannot_be_made_says_why(void **state)
{
    (void)state;
    struct datadir d;
    struct err e = {0};
    assert_int_equal(datadir_open(&d, "/dev/null/x", &e), -ENOTDIR);
    assert_string_equal(e.text, "make the data directory: /dev/null/x: Not a directory");
}

static int set_up(void **state)
{
    (void)state;
    log_init("test", NULL, LOG_LEVEL_ERROR + 1);
    if (!mkdtemp(folder))
        return -1;
    snprintf(data_path, sizeof data_path, "%s/a/data", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    static const char *const left[] = {"a/data/db", "a/data/log", "a/data/sums", "a/data/orphans", "a/data/run", "a/data/lock", "a/data", "a", "."};
    char path[PATH_MAX];
    for (size_t i = 0; i < ARRAY_SIZE(left); i++)
        (void)remove(datadir_path(folder, left[i], path));
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folders_are_made_private_and_locked),
        cmocka_unit_test(programs_of_a_dead_launcher_keep_the_directory),
        cmocka_unit_test(open_files_are_found_and_waited_for),
        cmocka_unit_test(a_file_that_stays_open_is_refused_with_the_name_of_its_user),
        cmocka_unit_test(users_of_a_file_are_counted_and_named),
        cmocka_unit_test(a_data_directory_that_cannot_be_made_says_why),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
