#include "fs/slots.h"
#include "fs/table.h"
#include "lib/util.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>

static int fd;
static struct table *t;

static void reopen(bool expect_fresh)
{
    struct err e = {0};
    bool fresh;
    if (t)
        table_close(t);
    t = NULL;
    if (table_open(fd, &t, &fresh, &e))
        fail_msg("%s", e.text);
    assert_int_equal(fresh, expect_fresh);
}

static int setup(void **state)
{
    (void)state;
    fd = memfd_create("table", MFD_CLOEXEC);
    t = NULL;
    reopen(true);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (t)
        table_close(t);
    t = NULL;
    close(fd);
    return 0;
}

static uint32_t add(uint32_t parent, const char *name, uint32_t flags, uint64_t nlookup)
{
    uint32_t ino = table_add(t, parent, name, strlen(name), flags);
    assert_int_not_equal(ino, 0);
    table_set(t, table_shared(t)->inodes[ino].nlookup, nlookup);
    table_commit(t);
    return ino;
}

static const char *path(uint32_t ino)
{
    static char buf[200];
    return table_path(t, ino, buf, sizeof buf) < 0 ? NULL : buf;
}

static void names_are_found_and_paths_follow_a_renamed_directory(void **state)
{
    (void)state;
    uint32_t d = add(TABLE_ROOT, "dir", INODE_DIR, 1), s = add(d, "sub", INODE_DIR, 1), f = add(s, "a.db", 0, 1);
    assert_int_equal(table_find(t, s, "a.db", 4), f);
    assert_int_equal(table_find(t, d, "a.db", 4), 0);
    assert_string_equal(path(f), "dir/sub/a.db");
    assert_string_equal(path(TABLE_ROOT), "");
    table_rename(t, d, TABLE_ROOT, "moved", 5);
    table_commit(t);
    assert_string_equal(path(f), "moved/sub/a.db");
    assert_int_equal(table_find(t, TABLE_ROOT, "dir", 3), 0);
    char small[14];
    assert_int_equal(table_path(t, f, small, sizeof small), -ENAMETOOLONG);
    char fits[15];
    assert_int_equal(table_path(t, f, fits, sizeof fits), 14);
    assert_string_equal(fits, "moved/sub/a.db");
    reopen(true); /* the index is rebuilt */
    assert_int_equal(table_find(t, s, "a.db", 4), f);
    assert_int_equal(table_count(t), 4);
}

static void exchanging_names_keeps_both(void **state)
{
    (void)state;
    uint32_t d = add(TABLE_ROOT, "d", INODE_DIR, 1), a = add(TABLE_ROOT, "a", 0, 1), b = add(d, "b", 0, 1);
    table_exchange(t, a, b);
    table_commit(t);
    assert_string_equal(path(a), "d/b");
    assert_string_equal(path(b), "a");
}

static void an_inode_goes_when_nothing_holds_it_and_takes_its_parents_along(void **state)
{
    (void)state;
    uint32_t d = add(TABLE_ROOT, "d", INODE_DIR, 0), f = add(d, "f", 0, 1);
    table_release(t, d);
    assert_non_null(table_inode(t, d)); /* its child holds it */
    table_set(t, table_shared(t)->inodes[f].nlookup, (uint64_t)0);
    table_commit(t);
    table_release(t, f);
    assert_null(table_inode(t, f));
    assert_null(table_inode(t, d));
    assert_int_equal(table_count(t), 1);
    uint64_t before = table_shared(t)->inodes[d].generation;
    uint32_t again = add(TABLE_ROOT, "x", 0, 1);
    assert_true(again == d || again == f); /* the numbers are used again … */
    assert_true(table_shared(t)->inodes[again].generation > before); /* … with another generation */
}

static void a_file_without_a_name_keeps_its_number_until_it_is_forgotten(void **state)
{
    (void)state;
    uint32_t f = add(TABLE_ROOT, "f", 0, 1);
    table_remove_name(t, f, INODE_ORPHAN);
    table_commit(t);
    assert_null(path(f));
    assert_int_equal(table_find(t, TABLE_ROOT, "f", 1), 0);
    uint32_t other = add(TABLE_ROOT, "f", 0, 1);
    assert_int_not_equal(other, f);
    reopen(true);
    assert_int_equal(table_find(t, TABLE_ROOT, "f", 1), other);
    assert_non_null(table_inode(t, f));
}

static void a_committed_change_happens_even_if_it_was_not_copied(void **state)
{
    (void)state;
    uint32_t f = add(TABLE_ROOT, "f", 0, 1);
    struct shared *sh = table_shared(t);
    struct shared_inode before = sh->inodes[f];
    table_set(t, sh->inodes[f].nlookup, (uint64_t)77);
    table_rename(t, f, TABLE_ROOT, "g", 1);
    /* What a kill right after the commit leaves: the log complete, nothing copied. Its length is what the entries add up to. */
    uint32_t len = 0, entry[2];
    for (int i = 0; i < 5; i++) { /* nlookup, parent, hash, length, name */
        memcpy(entry, sh->redo.data + len, sizeof entry);
        len += (uint32_t)sizeof entry + ((entry[1] + 7) & ~7u);
    }
    assert_memory_equal(&before, &sh->inodes[f], sizeof before);
    sh->redo.committed = len;
    reopen(true);
    sh = table_shared(t);
    assert_int_equal(sh->redo.committed, 0);
    assert_int_equal(sh->inodes[f].nlookup, 77);
    assert_int_equal(table_find(t, TABLE_ROOT, "g", 1), f);
    assert_int_equal(table_find(t, TABLE_ROOT, "f", 1), 0);
}

static void an_uncommitted_change_does_not_happen(void **state)
{
    (void)state;
    uint32_t f = add(TABLE_ROOT, "f", 0, 1);
    table_set(t, table_shared(t)->inodes[f].nlookup, (uint64_t)77);
    uint32_t n = table_add(t, TABLE_ROOT, "new", 3, 0);
    reopen(true);
    assert_int_equal(table_shared(t)->inodes[f].nlookup, 1);
    assert_null(table_inode(t, n));
    assert_int_equal(table_find(t, TABLE_ROOT, "new", 3), 0);
}

/* The child moves one file to and fro and keeps a count in two places; killed anywhere, both must agree and the file has one name. */
static void churn(void)
{
    struct shared *sh = table_shared(t);
    uint32_t f = table_find(t, TABLE_ROOT, "ping", 4);
    for (uint64_t i = 1;; i++) {
        table_set(t, sh->inodes[f].nlookup, i);
        table_set(t, sh->slots[0].src_ino, i);
        bool pong = i & 1;
        table_rename(t, f, TABLE_ROOT, pong ? "pong" : "ping", 4);
        uint32_t extra = table_add(t, TABLE_ROOT, pong ? "odd" : "even", pong ? 3 : 4, 0);
        table_set(t, sh->inodes[extra].nlookup, (uint64_t)1);
        table_commit(t);
        table_set(t, sh->inodes[extra].nlookup, (uint64_t)0);
        table_commit(t);
        table_release(t, extra);
    }
}

static void killed_at_any_moment_the_table_is_whole(void **state)
{
    (void)state;
    uint32_t f = add(TABLE_ROOT, "ping", 0, 0);
    table_set(t, table_shared(t)->inodes[f].opens_app, 1u); /* holds it */
    table_commit(t);
    for (int round = 0; round < 200; round++) {
        pid_t p = fork();
        if (p == 0) {
            if (table_find(t, TABLE_ROOT, "pong", 4)) {
                table_rename(t, f, TABLE_ROOT, "ping", 4);
                table_commit(t);
            }
            churn();
        }
        struct timespec pause = {.tv_nsec = (round * 7919) % 700000};
        nanosleep(&pause, NULL);
        kill(p, SIGKILL);
        int status;
        assert_int_equal(waitpid(p, &status, 0), p);
        assert_true(WIFSIGNALED(status));
        reopen(true);
        struct shared *sh = table_shared(t);
        assert_int_equal(sh->inodes[f].nlookup, sh->slots[0].src_ino);
        assert_int_equal(table_find(t, TABLE_ROOT, "pong", 4) + table_find(t, TABLE_ROOT, "ping", 4), f);
        uint32_t extra = table_find(t, TABLE_ROOT, "odd", 3) + table_find(t, TABLE_ROOT, "even", 4);
        assert_int_equal(table_count(t), extra ? 3 : 2);
        if (extra) {
            table_set(t, sh->inodes[extra].nlookup, (uint64_t)0);
            table_commit(t);
            table_release(t, extra);
        }
    }
}

static void collect_unseen(struct table *table, uint32_t ino, void *arg)
{
    if (table_inode(table, ino)->flags & INODE_UNSEEN)
        (*(unsigned *)arg)++;
}

static unsigned unseen(void)
{
    unsigned n = 0;
    table_each(t, collect_unseen, &n);
    return n;
}

static void unseen_marks_stay_until_they_were_sent(void **state)
{
    (void)state;
    assert_int_equal(table_mark_unseen(t, "a/b/c.db", 8, false), 0);
    assert_int_equal(table_mark_unseen(t, "a/b/c.db", 8, false), 0);
    assert_int_equal(table_mark_unseen(t, "x.db", 4, false), 0);
    assert_int_equal(table_mark_unseen(t, "", 0, false), -EINVAL);
    assert_int_equal(table_mark_unseen(t, "a//b", 4, false), -EINVAL);
    reopen(true);
    assert_int_equal(unseen(), 2);
    table_clear_unseen_sent(t);
    assert_int_equal(unseen(), 2); /* none was sent */
    uint32_t x = table_find(t, TABLE_ROOT, "x.db", 4);
    table_set(t, table_shared(t)->inodes[x].flags, table_shared(t)->inodes[x].flags | INODE_UNSEEN_SENT);
    table_commit(t);
    table_clear_unseen_sent(t);
    assert_int_equal(unseen(), 1);
    assert_null(table_inode(t, x)); /* nothing else held it */
}

static void unseen_marks_are_bounded(void **state)
{
    (void)state;
    char name[32];
    int rc = 0;
    for (int i = 0; rc == 0; i++) {
        assert_true(i <= (int)TABLE_UNSEEN_MAX);
        snprintf(name, sizeof name, "f%d", i);
        rc = table_mark_unseen(t, name, strlen(name), false);
    }
    assert_int_equal(rc, -ENOSPC);
}

static void a_table_of_another_version_is_refused(void **state)
{
    (void)state;
    struct err e = {0};
    struct table *other;
    bool fresh;
    table_shared(t)->version++;
    assert_int_equal(table_open(fd, &other, &fresh, &e), -EPROTO);
    assert_non_null(strstr(e.text, "another version"));
    table_shared(t)->version--;
    table_shared(t)->redo.committed = SHARED_REDO_MAX + 8;
    assert_int_equal(table_open(fd, &other, &fresh, &e), -EPROTO);
    table_shared(t)->redo.committed = 0;
    assert_int_equal(ftruncate(fd, 4096), 0);
    assert_int_equal(table_open(fd, &other, &fresh, &e), -EPROTO);
    assert_int_equal(ftruncate(fd, (off_t)SHARED_SIZE), 0);
}

static void slots_of_requests_that_do_not_come_again_are_freed(void **state)
{
    (void)state;
    struct shared *sh = table_shared(t);
    struct shared_slot *a = slots_take(sh, 10, 1), *b = slots_take(sh, 20, 1), *c = slots_take(sh, 30, 1);
    slots_start(a, 1, 2);
    slots_start(b, 3, 4);
    const uint64_t resent[] = {20, 99};
    assert_int_equal(slots_free_stale(sh, resent, 2), 1); /* c had not begun */
    assert_null(slots_find(sh, 10));
    assert_null(slots_find(sh, 30));
    assert_ptr_equal(slots_find(sh, 20), b);
    assert_int_equal(b->state, SLOT_STARTED);
    assert_int_equal(b->src_ino, 3);
    slots_free(b);
    assert_null(slots_find(sh, 20));
    assert_int_equal(c->state, SLOT_FREE);
}

static void slots_run_out_with_an_answer(void **state)
{
    (void)state;
    struct shared *sh = table_shared(t);
    for (uint32_t i = 0; i < SHARED_SLOTS; i++)
        assert_non_null(slots_take(sh, i + 1, 1));
    assert_null(slots_take(sh, 1000, 1));
    slots_start(NULL, 0, 0);
    slots_free(NULL);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(names_are_found_and_paths_follow_a_renamed_directory),
        T(exchanging_names_keeps_both),
        T(an_inode_goes_when_nothing_holds_it_and_takes_its_parents_along),
        T(a_file_without_a_name_keeps_its_number_until_it_is_forgotten),
        T(a_committed_change_happens_even_if_it_was_not_copied),
        T(an_uncommitted_change_does_not_happen),
        T(killed_at_any_moment_the_table_is_whole),
        T(unseen_marks_stay_until_they_were_sent),
        T(unseen_marks_are_bounded),
        T(a_table_of_another_version_is_refused),
        T(slots_of_requests_that_do_not_come_again_are_freed),
        T(slots_run_out_with_an_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
