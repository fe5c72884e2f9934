/* What a replica lacks at its start, told from its log and the states of its databases: names change in between. */
#include "replicator/log/pending.h"

#include "lib/util.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

struct world {
    char dir[64];
    struct node n;
};

static int open_dir(const struct world *w, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", w->dir, name);
    mkdir(path, 0700);
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct err e;
    char log[128];
    snprintf(w->dir, sizeof w->dir, "/tmp/edgefs-pending-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    w->n.sums_fd = open_dir(w, "sums");
    w->n.db_fd = open_dir(w, "db");
    snprintf(log, sizeof log, "%s/log", w->dir);
    mkdir(log, 0700);
    struct rlog_options o = {.segment_size = 1 << 20, .retention_bytes = 1 << 30, .retention_age_ms = 1u << 30};
    assert_int_equal(rlog_open(log, &o, &w->n.rlog, &e), 0);
    assert_int_equal(sequencer_open(w->n.rlog, &w->n.sequencer, &e), 0);
    sequencer_set_epoch(w->n.sequencer, 1);
    assert_int_equal(databases_open(w->n.sums_fd, &w->n.databases, &e), 0);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    char cmd[128];
    databases_close(w->n.databases);
    sequencer_close(w->n.sequencer);
    rlog_close(w->n.rlog);
    close(w->n.sums_fd);
    close(w->n.db_fd);
    snprintf(cmd, sizeof cmd, "rm -r %s", w->dir);
    assert_int_equal(system(cmd), 0);
    free(w);
    return 0;
}

static uint64_t add(struct world *w, uint8_t type, const char *name, const char *payload)
{
    struct err e;
    uint64_t lsn = 0;
    assert_int_equal(sequencer_append(w->n.sequencer, type, name, payload, payload ? strlen(payload) : 0, &lsn, &e), 0);
    return lsn;
}

/* The database is there, in the state of that record. */
static void have(struct world *w, const char *name, uint64_t lsn)
{
    struct err e;
    struct database *db = databases_get(w->n.databases, name, &e);
    database_know(db, &(struct dbstate){.page_size = 4096, .commit = 1, .txid = lsn, .lsn = lsn});
    int fd = openat(w->n.db_fd, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static void look(struct world *w)
{
    struct err e;
    assert_int_equal(pending_from_log(&w->n, &e), 0);
}

static uint64_t lacks(struct world *w, const char *name)
{
    const struct database *db = databases_find(w->n.databases, name);
    return db ? db->pending : 0;
}

static void what_is_later_than_the_state_is_lacking(void **state)
{
    struct world *w = *state;
    uint64_t first = add(w, RECORD_TX, "x", "1"), second = add(w, RECORD_TX, "x", "2"), y = add(w, RECORD_TX, "y", "1");
    have(w, "x", first);
    look(w);
    assert_int_equal(lacks(w, "x"), second);
    assert_int_equal(lacks(w, "y"), y);
}

static void a_chain_of_renames_that_was_applied_is_not_applied_again(void **state)
{
    struct world *w = *state;
    add(w, RECORD_TX, "x", "1");
    add(w, RECORD_TX, "z", "replaced");
    add(w, RECORD_RENAME, "x", "y");
    add(w, RECORD_TX, "y", "2");
    uint64_t last = add(w, RECORD_RENAME, "y", "z");
    have(w, "z", last);
    look(w);
    assert_int_equal(lacks(w, "x"), 0);
    assert_int_equal(lacks(w, "y"), 0);
    assert_int_equal(lacks(w, "z"), 0);
}

static void a_name_that_was_used_again_lacks_its_new_life_only(void **state)
{
    struct world *w = *state;
    add(w, RECORD_TX, "x", "1");
    uint64_t renamed = add(w, RECORD_RENAME, "x", "y"), again = add(w, RECORD_TX, "x", "new");
    have(w, "y", renamed);
    look(w);
    assert_int_equal(lacks(w, "x"), again);
    assert_int_equal(lacks(w, "y"), 0);
}

static void a_rename_that_was_not_applied_is_lacking_under_both_names(void **state)
{
    struct world *w = *state;
    uint64_t first = add(w, RECORD_TX, "x", "1"), renamed = add(w, RECORD_RENAME, "x", "y");
    add(w, RECORD_TX, "y", "2");
    have(w, "x", first);
    look(w);
    assert_int_equal(lacks(w, "x"), renamed);
    assert_int_equal(lacks(w, "y"), renamed);
}

static void the_old_name_is_removed_if_the_new_one_came_as_an_image(void **state)
{
    struct world *w = *state;
    uint64_t first = add(w, RECORD_TX, "x", "1"), renamed = add(w, RECORD_RENAME, "x", "y"), later = add(w, RECORD_TX, "y", "2");
    have(w, "x", first);
    have(w, "y", later);
    look(w);
    assert_int_equal(lacks(w, "x"), renamed);
    assert_int_equal(lacks(w, "y"), 0);
}

static void what_was_dropped_is_not_made_again(void **state)
{
    struct world *w = *state;
    add(w, RECORD_TX, "gone", "1");
    add(w, RECORD_DROP, "gone", NULL);
    uint64_t first = add(w, RECORD_TX, "here", "1"), drop = add(w, RECORD_DROP, "here", NULL);
    add(w, RECORD_TX, "twice", "1");
    add(w, RECORD_DROP, "twice", NULL);
    uint64_t second = add(w, RECORD_TX, "twice", "2");
    have(w, "here", first);
    have(w, "twice", second);
    look(w);
    assert_int_equal(lacks(w, "gone"), 0);
    assert_int_equal(lacks(w, "here"), drop);
    assert_int_equal(lacks(w, "twice"), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(what_is_later_than_the_state_is_lacking),
        T(a_chain_of_renames_that_was_applied_is_not_applied_again),
        T(a_name_that_was_used_again_lacks_its_new_life_only),
        T(a_rename_that_was_not_applied_is_lacking_under_both_names),
        T(the_old_name_is_removed_if_the_new_one_came_as_an_image),
        T(what_was_dropped_is_not_made_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
