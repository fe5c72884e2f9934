/* Watches of a database's files: what raises an event, and whose it is. */
#include "replicator/capture/filewatch.h"

#include "lib/config.h"
#include "lib/util.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

struct world {
    char dir[64], db[80];
    struct config config;
    struct node node;
    struct filewatch *watch;
    struct filewatch_target one, two;
    /* of the last round of events */
    unsigned events[FILEWATCH_FILES], of_two, lost;
};

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct err e;
    snprintf(w->dir, sizeof w->dir, "/tmp/test-filewatch-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->db, sizeof w->db, "%s/%s", w->dir, LAYOUT_DB);
    assert_int_equal(mkdir(w->db, 0755), 0);
    w->config.data = w->dir;
    w->node.config = &w->config;
    assert_int_equal(filewatch_open(&w->node, &w->watch, &e), 0);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    char cmd[128];
    filewatch_clear(w->watch, &w->one);
    filewatch_clear(w->watch, &w->two);
    filewatch_close(w->watch);
    snprintf(cmd, sizeof cmd, "rm -rf %s", w->dir);
    assert_int_equal(system(cmd), 0);
    free(w);
    return 0;
}

static const char *path(struct world *w, const char *name)
{
    static char p[2][160];
    static int i;
    i = !i;
    snprintf(p[i], sizeof p[i], "%s/%s", w->db, name);
    return p[i];
}

static void put(struct world *w, const char *name)
{
    int fd = open(path(w, name), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
}

static void note(void *ctx, struct filewatch_target *t, enum filewatch_file file)
{
    struct world *w = ctx;
    w->lost += !t;
    w->of_two += t == &w->two;
    w->events[file] += t == &w->one;
}

/* Bit FILEWATCH_x: target one had an event of that file; 16: target two had one. */
static unsigned happened(struct world *w)
{
    unsigned bits = 0;
    memset(w->events, 0, sizeof w->events);
    w->of_two = w->lost = 0;
    do {
        if (filewatch_fill(w->watch))
            filewatch_report(w->watch, note, w);
    } while (filewatch_more(w->watch));
    assert_int_equal(w->lost, 0);
    for (unsigned f = 0; f < FILEWATCH_FILES; f++)
        bits |= w->events[f] ? 1u << f : 0;
    return bits | (w->of_two ? 16 : 0);
}

static void set(struct world *w, const char *name, struct filewatch_target *t, bool muted)
{
    struct err e;
    assert_int_equal(filewatch_set(w->watch, name, t, muted, &e), 0);
}

static void each_file_raises_its_events_from_when_it_is_watched(void **state)
{
    struct world *w = *state;
    put(w, "x.db");
    set(w, "x.db", &w->one, false);
    assert_int_equal(happened(w), 0);
    put(w, "x.db");
    put(w, "other.db");
    put(w, "x.db-journal");
    assert_int_equal(happened(w), 1u << FILEWATCH_MAIN);
    put(w, "x.db-wal");
    put(w, "x.db-shm");
    assert_int_equal(happened(w), 0); /* whoever tells of a new file has it watched, and then looks */
    set(w, "x.db", &w->one, false);
    put(w, "x.db-wal");
    assert_int_equal(truncate(path(w, "x.db-shm"), 0), 0);
    assert_int_equal(happened(w), 1u << FILEWATCH_WAL | 1u << FILEWATCH_SHM);
    filewatch_clear(w->watch, &w->one);
    put(w, "x.db-wal");
    assert_int_equal(happened(w), 0);
}

static void a_muted_database_raises_none_until_it_is_set_again(void **state)
{
    struct world *w = *state;
    put(w, "x.db");
    put(w, "x.db-wal");
    put(w, "x.db-shm");
    set(w, "x.db", &w->one, true);
    put(w, "x.db");
    put(w, "x.db-wal");
    assert_int_equal(happened(w), 0);
    assert_int_equal(truncate(path(w, "x.db-shm"), 0), 0); /* says that the wal-index is somebody's: always wanted */
    assert_int_equal(happened(w), 1u << FILEWATCH_SHM);
    set(w, "x.db", &w->one, false);
    put(w, "x.db");
    put(w, "x.db-wal");
    assert_int_equal(happened(w), 1u << FILEWATCH_MAIN | 1u << FILEWATCH_WAL);
}

static void a_file_that_is_replaced_is_another_one(void **state)
{
    struct world *w = *state;
    put(w, "x.db");
    put(w, "x.db-wal");
    set(w, "x.db", &w->one, false);
    int old = open(path(w, "x.db-wal"), O_WRONLY | O_CLOEXEC);
    assert_int_equal(unlink(path(w, "x.db-wal")), 0);
    put(w, "x.db-wal");
    set(w, "x.db", &w->one, false);
    assert_int_equal(happened(w), 0);
    assert_int_equal(write(old, "x", 1), 1); /* has no name any more */
    assert_int_equal(happened(w), 0);
    close(old);
    put(w, "x.db-wal");
    assert_int_equal(happened(w), 1u << FILEWATCH_WAL);
    assert_int_equal(unlink(path(w, "x.db-wal")), 0); /* the watch ends with it */
    assert_int_equal(happened(w), 0);
    set(w, "x.db", &w->one, false);
    assert_int_equal(w->one.wd[FILEWATCH_WAL], 0);
}

static void a_renamed_file_is_taken_over_without_a_gap(void **state)
{
    struct world *w = *state;
    put(w, "x.db");
    put(w, "y.db");
    set(w, "x.db", &w->one, false);
    set(w, "y.db", &w->two, false);
    assert_int_equal(rename(path(w, "x.db"), path(w, "y.db")), 0);
    put(w, "y.db");
    set(w, "y.db", &w->two, false);
    put(w, "y.db");
    assert_int_equal(happened(w), 16); /* also what was written before: whose it is, is asked when it is read */
    filewatch_clear(w->watch, &w->one); /* is not its any more */
    put(w, "y.db");
    assert_int_equal(happened(w), 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(each_file_raises_its_events_from_when_it_is_watched),
        T(a_muted_database_raises_none_until_it_is_set_again),
        T(a_file_that_is_replaced_is_another_one),
        T(a_renamed_file_is_taken_over_without_a_gap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
