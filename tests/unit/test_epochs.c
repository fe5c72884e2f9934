#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/durable.h"
#include "lib/util.h"
#include "replicator/log/epochs.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>

static struct err err;
static char folder[100];
static int dirfd_ = -1;

static int setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/edgefs-epochs.XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder))
        return -1;
    dirfd_ = open(folder, O_RDONLY | O_DIRECTORY);
    return dirfd_ < 0;
}

static int teardown(void **state)
{
    (void)state;
    unlinkat(dirfd_, EPOCHS_FILE, 0);
    close(dirfd_);
    return rmdir(folder);
}

#define assert_ok(call)                                                                                      \
    do {                                                                                                     \
        int ok_rc = (call);                                                                                  \
        if (ok_rc != 0)                                                                                      \
            fail_msg("%s: %d, %s", #call, ok_rc, err.text);                                                  \
    } while (0)

static struct epochs *open_history(void)
{
    struct epochs *h = NULL;
    assert_ok(epochs_open(dirfd_, &h, &err));
    return h;
}

static void write_file(const char *text, size_t n)
{
    assert_ok(durable_replace(dirfd_, EPOCHS_FILE, text, n, 0600, &err));
}

static void assert_file(const char *want)
{
    char *text;
    size_t n;
    assert_ok(durable_read(dirfd_, EPOCHS_FILE, 1 << 20, &text, &n, &err));
    assert_string_equal(text, want);
    free(text);
}

static void a_history_begins_empty(void **state)
{
    (void)state;
    struct epochs *h = open_history();
    assert_int_equal(epochs_current(h).epoch, 0);
    assert_int_equal(epochs_current(h).first_lsn, 0);
    assert_int_equal(epochs_end_of(h, 0), 0);
    assert_int_equal(epochs_end_of(h, 1), 0);
    assert_true(epochs_contains(h, (struct position){0, 0}, 0));
    assert_false(epochs_contains(h, (struct position){0, 5}, 9));
    assert_false(epochs_contains(h, (struct position){1, 1}, 9));
    epochs_close(h);
    epochs_close(NULL);
    assert_int_equal(faccessat(dirfd_, EPOCHS_FILE, F_OK, 0), -1);
}

static void epochs_are_kept_across_openings(void **state)
{
    (void)state;
    struct epochs *h = open_history();
    assert_ok(epochs_begin(h, 1, 1, &err));
    assert_ok(epochs_begin(h, 4, 100, &err)); /* epochs may be left out */
    assert_ok(epochs_begin(h, 4, 100, &err)); /* said twice */
    assert_ok(epochs_begin(h, 5, 100, &err)); /* 4 never had a record */
    assert_ok(epochs_begin(h, 9, 250, &err));
    for (int round = 0; round < 2; round++) {
        assert_file("edgefs-epochs 1\n1 1\n4 100\n5 100\n9 250\n");
        assert_int_equal(epochs_current(h).epoch, 9);
        assert_int_equal(epochs_current(h).first_lsn, 250);
        epochs_close(h);
        h = open_history();
    }
    epochs_close(h);
}

static void an_epoch_cannot_go_backwards(void **state)
{
    static const struct {
        uint64_t epoch, lsn;
        const char *message;
    } table[] = {
        {4, 300, "not above"},
        {5, 201, "not above"},
        {5, 199, "not above"},
        {6, 199, "below"},
        {0, 300, "must be from 1"},
        {6, 0, "must be from 1"},
        {UINT64_MAX, 300, "must be from 1"},
        {6, UINT64_MAX, "must be"},
        {UINT64_C(1) << 63, 300, "must be"},
    };
    (void)state;
    struct epochs *h = open_history();
    assert_ok(epochs_begin(h, 5, 200, &err));
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        assert_int_equal(epochs_begin(h, table[i].epoch, table[i].lsn, &err), -EINVAL);
        assert_non_null(strstr(err.text, table[i].message));
        assert_int_equal(epochs_current(h).epoch, 5);
    }
    assert_ok(epochs_begin(h, INT64_MAX, INT64_MAX, &err));
    epochs_close(h);
    h = open_history();
    assert_int_equal(epochs_current(h).epoch, INT64_MAX);
    epochs_close(h);
}

static void positions_on_and_off_the_history(void **state)
{
    static const struct epoch_entry history[] = {{2, 10}, {3, 50}, {5, 50}, {7, 80}};
    static const struct {
        struct position p;
        uint64_t last;
        bool contained;
    } table[] = {
        {{0, 0}, 100, true},    {{0, 1}, 100, false},  {{1, 5}, 100, false},   {{2, 9}, 100, false},
        {{2, 10}, 100, true},   {{2, 49}, 100, true},  {{2, 50}, 100, false}, /* an old primary's own records
                                                                               */
        {{3, 49}, 100, false},  {{3, 50}, 100, false},                        /* an epoch without records */
        {{4, 60}, 100, false},  {{5, 50}, 100, true},  {{5, 79}, 100, true},   {{5, 80}, 100, false},
        {{7, 80}, 100, true},   {{7, 100}, 100, true}, {{7, 101}, 100, false}, /* not there yet */
        {{8, 100}, 100, false}, {{5, 70}, 60, false},
    };
    static const struct {
        uint64_t epoch, end;
    } ends[] = {{0, 0}, {1, 0}, {2, 49}, {3, 49}, {4, 0}, {5, 79}, {6, 0}, {7, UINT64_MAX}, {8, 0}};
    (void)state;
    struct epochs *h = open_history();
    assert_ok(epochs_replace(h, history, ARRAY_SIZE(history), &err));
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        if (epochs_contains(h, table[i].p, table[i].last) != table[i].contained)
            fail_msg("row %zu", i);
    for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
        assert_int_equal(epochs_end_of(h, ends[i].epoch), ends[i].end);
    epochs_close(h);
}

static void malformed_files_are_refused_by_line(void **state)
{
#define HEAD "edgefs-epochs 1\n"
#define ROW(text, message)                                                                                   \
    {                                                                                                        \
        text, sizeof text - 1, message                                                                       \
    }
    static const struct {
        const char *text;
        size_t n;
        const char *message;
    } table[] = {
        ROW("", "epochs:1: "),
        ROW("edgefs-epochs 1", "epochs:1: "),
        ROW("edgefs-epochs 2\n1 1\n", "epochs:1: the first line is not \"edgefs-epochs 1\""),
        ROW("1 1\n", "epochs:1: "),
        ROW(HEAD "1 1", "epochs:2: the line has no end"),
        ROW(HEAD "1 1\n2 5", "epochs:3: the line has no end"),
        ROW(HEAD "\n", "epochs:2: not two decimal numbers"),
        ROW(HEAD "1\n", "epochs:2: not two"),
        ROW(HEAD "1 \n", "epochs:2: not two"),
        ROW(HEAD " 1 1\n", "epochs:2: not two"),
        ROW(HEAD "1  1\n", "epochs:2: not two"),
        ROW(HEAD "1 1 \n", "epochs:2: not two"),
        ROW(HEAD "1 1\r\n", "epochs:2: not two"),
        ROW(HEAD "1 1\n+2 5\n", "epochs:3: not two"),
        ROW(HEAD "1 1\n2 -5\n", "epochs:3: not two"),
        ROW(HEAD "01 1\n", "epochs:2: not two"),
        ROW(HEAD "0x1 1\n", "epochs:2: not two"),
        ROW(HEAD "1 1\n2\0 5\n", "epochs:3: not two"),
        ROW(HEAD "1 9223372036854775808\n", "epochs:2: not two"),
        ROW(HEAD "99999999999999999999999999 1\n", "epochs:2: not two"),
        ROW(HEAD "0 1\n", "epochs:2: the epoch must be"),
        ROW(HEAD "1 0\n", "epochs:2: the LSN must be"),
        ROW(HEAD "1 1\n1 5\n", "epochs:3: the epoch is not above"),
        ROW(HEAD "2 1\n3 5\n1 9\n", "epochs:4: the epoch is not above"),
        ROW(HEAD "1 5\n2 4\n", "epochs:3: the LSN is below"),
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct epochs *h = NULL;
        write_file(table[i].text, table[i].n);
        assert_int_equal(epochs_open(dirfd_, &h, &err), ERR_CORRUPT);
        if (!strstr(err.text, table[i].message))
            fail_msg("row %zu: %s", i, err.text);
        assert_null(h);
    }
    write_file(HEAD, sizeof HEAD - 1); /* an empty history is one */
    epochs_close(open_history());
}

static void files_that_are_too_large_are_refused(void **state)
{
    (void)state;
    struct epochs *h;
    const size_t room = (EPOCHS_MAX + 10) * 16u;
    char *text = malloc(room);
    size_t n = (size_t)sprintf(text, HEAD);
    for (unsigned i = 1; i <= EPOCHS_MAX + 1; i++)
        n += (size_t)sprintf(text + n, "%u %u\n", i, i);
    write_file(text, n);
    assert_int_equal(epochs_open(dirfd_, &h, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "epochs:65538: too many"));
    free(text);
    text = calloc(1, 8 << 20);
    write_file(text, 8 << 20);
    assert_int_equal(epochs_open(dirfd_, &h, &err), -EFBIG);
    free(text);
}

static void the_oldest_epochs_are_forgotten(void **state)
{
    (void)state;
    const size_t n = EPOCHS_MAX + 5;
    struct epoch_entry *list = calloc(n, sizeof *list);
    for (size_t i = 0; i < n; i++)
        list[i] = (struct epoch_entry){i + 1, (i + 1) * 1000000000000u};
    struct epochs *h = open_history();
    assert_ok(epochs_replace(h, list, n, &err));
    assert_int_equal(epochs_end_of(h, 5), 0);
    assert_int_equal(epochs_end_of(h, 6), list[6].first_lsn - 1);
    assert_ok(epochs_begin(h, n + 1, (n + 1) * 1000000000000u, &err));
    for (int round = 0; round < 2; round++) {
        assert_int_equal(epochs_end_of(h, 6), 0);
        assert_int_equal(epochs_end_of(h, 7), list[7].first_lsn - 1);
        assert_int_equal(epochs_current(h).epoch, n + 1);
        epochs_close(h);
        h = open_history();
    }
    epochs_close(h);
    free(list);
}

static void a_replica_adopts_a_history(void **state)
{
    static const struct epoch_entry good[] = {{3, 7}, {4, 9}}, bad[] = {{3, 7}, {3, 9}};
    (void)state;
    struct epochs *h = open_history();
    assert_ok(epochs_begin(h, 9, 1000, &err));
    assert_int_equal(epochs_replace(h, bad, 2, &err), -EINVAL);
    assert_int_equal(epochs_current(h).epoch, 9);
    assert_ok(epochs_replace(h, good, 2, &err)); /* may go backwards: it is another's history */
    assert_file(HEAD "3 7\n4 9\n");
    assert_int_equal(epochs_current(h).epoch, 4);
    assert_ok(epochs_replace(h, NULL, 0, &err));
    assert_int_equal(epochs_current(h).epoch, 0);
    assert_file(HEAD);
    epochs_close(h);
}

/* Nothing changes when the disk refuses. */
static void a_failed_write_changes_nothing(void **state)
{
    static const struct epoch_entry other[] = {{1, 1}};
    (void)state;
    struct epochs *h = open_history();
    assert_ok(epochs_begin(h, 9, 1000, &err));
    assert_int_equal(unlinkat(dirfd_, EPOCHS_FILE, 0), 0);
    assert_int_equal(mkdirat(dirfd_, EPOCHS_FILE, 0700), 0); /* a file cannot replace it */
    assert_true(epochs_begin(h, 10, 1001, &err) < 0);
    assert_true(epochs_replace(h, other, 1, &err) < 0);
    assert_int_equal(epochs_current(h).epoch, 9);
    assert_int_equal(unlinkat(dirfd_, EPOCHS_FILE, AT_REMOVEDIR), 0);
    assert_ok(epochs_begin(h, 10, 1001, &err));
    assert_file(HEAD "9 1000\n10 1001\n");
    epochs_close(h);
}

static void json_goes_there_and_back(void **state)
{
    (void)state;
    struct epoch_entry *list = NULL;
    size_t n = 0;
    struct epochs *h = open_history();
    for (int round = 0; round < 2; round++) {
        json_t *json = epochs_to_json(h);
        char *text = json_dumps(json, JSON_COMPACT);
        assert_string_equal(text, round ? "[[1,1],[7,9223372036854775807]]" : "[]");
        assert_ok(epochs_from_json(json, &list, &n, &err));
        assert_ok(epochs_replace(h, list, n, &err));
        free(text);
        free(list);
        json_decref(json);
        if (round == 0) {
            assert_ok(epochs_begin(h, 1, 1, &err));
            assert_ok(epochs_begin(h, 7, INT64_MAX, &err));
        }
    }
    assert_int_equal(epochs_current(h).first_lsn, INT64_MAX);
    epochs_close(h);
}

static void bad_json_is_refused_by_entry(void **state)
{
    static const struct {
        const char *text, *message;
    } table[] = {
        {"{}", "not an array"},
        {"[1]", "entry 0 is not"},
        {"[[1,1],{}]", "entry 1 is not"},
        {"[[1]]", "entry 0 is not"},
        {"[[1,1,1]]", "entry 0 is not"},
        {"[[1,\"1\"]]", "entry 0 is not"},
        {"[[1,1.0]]", "entry 0 is not"},
        {"[[0,1]]", "entry 0: the epoch must"},
        {"[[-1,1]]", "entry 0: the epoch must"},
        {"[[1,-9223372036854775808]]", "entry 0: the LSN must"},
        {"[[1,1],[2,2],[2,3]]", "entry 2: the epoch is not above"},
        {"[[1,9],[2,2]]", "entry 1: the LSN is below"},
    };
    (void)state;
    struct epoch_entry *list = NULL;
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        json_t *json = json_loads(table[i].text, 0, NULL);
        assert_non_null(json);
        assert_int_equal(epochs_from_json(json, &list, &n, &err), -EINVAL);
        if (!strstr(err.text, table[i].message))
            fail_msg("row %zu: %s", i, err.text);
        assert_null(list);
        json_decref(json);
    }
    json_t *many = json_array();
    for (unsigned i = 0; i <= EPOCHS_MAX; i++)
        json_array_append_new(many, json_pack("[ii]", (int)i + 1, 1));
    assert_int_equal(epochs_from_json(many, &list, &n, &err), -EINVAL);
    assert_non_null(strstr(err.text, "65537 entries"));
    json_decref(many);
    assert_int_equal(epochs_from_json(NULL, &list, &n, &err), -EINVAL);
}

static atomic_bool stop;
static atomic_uint wrong;

static void *ask(void *arg)
{
    struct epochs *h = arg;
    while (!atomic_load(&stop)) {
        struct epoch_entry c = epochs_current(h);
        if (c.first_lsn != c.epoch * 10 ||
            !epochs_contains(h, (struct position){c.epoch, c.first_lsn}, UINT64_MAX) ||
            epochs_end_of(h, c.epoch) < c.first_lsn)
            atomic_fetch_add(&wrong, 1);
    }
    return NULL;
}

static void threads_see_whole_histories(void **state)
{
    (void)state;
    pthread_t threads[2];
    struct epochs *h = open_history();
    assert_ok(epochs_begin(h, 1, 10, &err));
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask, h), 0);
    for (uint64_t epoch = 2; epoch < 200; epoch++)
        assert_ok(epochs_begin(h, epoch, epoch * 10, &err));
    atomic_store(&stop, true);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&wrong), 0);
    epochs_close(h);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_history_begins_empty),
        T(epochs_are_kept_across_openings),
        T(an_epoch_cannot_go_backwards),
        T(positions_on_and_off_the_history),
        T(malformed_files_are_refused_by_line),
        T(files_that_are_too_large_are_refused),
        T(the_oldest_epochs_are_forgotten),
        T(a_replica_adopts_a_history),
        T(a_failed_write_changes_nothing),
        T(json_goes_there_and_back),
        T(bad_json_is_refused_by_entry),
        T(threads_see_whole_histories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
