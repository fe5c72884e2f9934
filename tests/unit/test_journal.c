/* The journal reader against what libsqlite3 leaves behind when a process dies in the middle of a transaction. */
#include "lib/crc.h"
#include "lib/journal.h"
#include "lib/sqlitefile.h"
#include "lib/util.h"

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sqlite3.h>
#include <sys/wait.h>

#include <cmocka.h>

static char dir[] = "/tmp/test_journal.XXXXXX";

struct bytes {
    uint8_t *p;
    size_t n;
};

static const char *path_of(const char *name)
{
    static char path[2][PATH_MAX];
    static int turn;
    char *p = path[turn ^= 1];
    snprintf(p, PATH_MAX, "%s/%s", dir, name);
    return p;
}

static int clear(void **state)
{
    (void)state;
    unlink(path_of("a.db"));
    unlink(path_of("a.db-journal"));
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    clear(state);
    return rmdir(dir);
}

static struct bytes slurp(const char *name)
{
    struct bytes b = {0};
    FILE *f = fopen(path_of(name), "rb");
    if (!f)
        return b;
    fseek(f, 0, SEEK_END);
    b.n = (size_t)ftell(f);
    rewind(f);
    b.p = malloc(b.n + 1);
    assert_non_null(b.p);
    assert_int_equal(fread(b.p, 1, b.n, f), b.n);
    fclose(f);
    return b;
}

static long read_bytes(void *ctx, void *p, size_t n, int64_t at)
{
    const struct bytes *b = ctx;
    if (at >= (int64_t)b->n)
        return 0;
    n = MIN(n, b->n - (size_t)at);
    memcpy(p, b->p + at, n);
    return (long)n;
}

static void run(sqlite3 *db, const char *sql)
{
    char *message = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", sql, message);
}

static void build(const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path_of("a.db"), &db), SQLITE_OK);
    run(db, sql);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

/* Runs sql in a process that then dies: what it did not commit is in the journal. */
static void die_after(const char *sql)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        sqlite3 *db;
        _exit(sqlite3_open(path_of("a.db"), &db) != SQLITE_OK || sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* Reads the journal: every record must be the page as it was in before. Marks the pages that it names, and the leaves of the
 * trunks among them, in may_change (page_count + 1 entries). Returns the number of records. */
static unsigned check_records(struct bytes *journal, const struct bytes *before, uint8_t *may_change, uint32_t page_count)
{
    struct journal *j = journal_new();
    struct journal_header h;
    struct err e = {0};
    uint32_t pgno;
    const uint8_t *page;
    unsigned n = 0;
    int rc;
    assert_int_equal(journal_begin(j, read_bytes, journal, &h, &e), 0);
    assert_int_equal((size_t)h.page_count * h.page_size, before->n);
    assert_int_equal(h.page_count, page_count);
    while ((rc = journal_next(j, &pgno, &page, &e)) > 0) {
        assert_in_range(pgno, 1, page_count);
        assert_memory_equal(page, before->p + (size_t)(pgno - 1) * h.page_size, h.page_size);
        may_change[pgno] = 1;
        int leaves = freelist_trunk_leaves(page, h.page_size, page_count);
        for (int i = 0; i < leaves; i++)
            may_change[freelist_leaf(page, i)] = 1;
        n++;
    }
    assert_int_equal(rc, 0);
    journal_free(j);
    return n;
}

/* One transaction that dies: every page that it changed is named. Returns the number of records. */
static unsigned check_named(uint32_t page_size, const char *transaction)
{
    struct bytes before = slurp("a.db");
    die_after(transaction);
    struct bytes after = slurp("a.db"), journal = slurp("a.db-journal");
    assert_true(journal.n > 0);
    uint32_t pages = (uint32_t)(before.n / page_size);
    uint8_t *may_change = calloc(pages + 1, 1);
    unsigned records = check_records(&journal, &before, may_change, pages), changed = 0;
    for (uint32_t p = 1; p <= pages && (size_t)p * page_size <= after.n; p++) {
        if (memcmp(before.p + (size_t)(p - 1) * page_size, after.p + (size_t)(p - 1) * page_size, page_size) == 0)
            continue;
        changed++;
        if (!may_change[p])
            fail_msg("page %u of %u was changed and is not named", p, pages);
    }
    free(may_change);
    free(before.p);
    free(after.p);
    free(journal.p);
    return changed ? records : 0;
}

static void every_changed_page_is_named(void **state)
{
    (void)state;
    static const char *const syncs[] = {"OFF", "NORMAL", "FULL"};
    for (unsigned i = 0; i < 3; i++)
        for (uint32_t size = 512; size <= 65536; size *= 8) {
            char sql[600];
            clear(NULL);
            snprintf(sql, sizeof sql,
                     "PRAGMA page_size=%u; CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX t_b ON t(b);"
                     "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<4000) INSERT INTO t(b) SELECT randomblob(200) FROM n",
                     size);
            build(sql);
            /* Three statements with a cache of one page: it spills, and the journal is synced, many times. */
            snprintf(sql, sizeof sql, "PRAGMA synchronous=%s; PRAGMA cache_size=1; BEGIN; UPDATE t SET b = randomblob(200) WHERE a %% 3 = 0;"
                                      "INSERT INTO t(b) SELECT randomblob(300) FROM t LIMIT 500; DELETE FROM t WHERE a %% 7 = 0", syncs[i]);
            assert_in_range(check_named(size, sql), 10, UINT_MAX);
        }
}

/* Pages from the freelist are written without being journaled: the trunks that named them are. */
static void pages_taken_from_the_freelist_are_named(void **state)
{
    (void)state;
    for (int vacuum = 0; vacuum <= 2; vacuum++) {
        char sql[600];
        clear(NULL);
        snprintf(sql, sizeof sql,
                 "PRAGMA page_size=1024; PRAGMA auto_vacuum=%d; CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE TABLE u(a INTEGER PRIMARY KEY, b);"
                 "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<9000) INSERT INTO t(b) SELECT randomblob(700) FROM n;"
                 "INSERT INTO u SELECT a, b FROM t WHERE a %% 5 = 0; DELETE FROM t WHERE a %% 1000 > 100", vacuum);
        build(sql);
        snprintf(sql, sizeof sql,
                 "PRAGMA synchronous=OFF; PRAGMA cache_size=1; BEGIN; INSERT INTO u(b) SELECT randomblob(900) FROM u LIMIT 1500;"
                 "DELETE FROM u WHERE a %% 3 = 0; %s INSERT INTO u(b) SELECT randomblob(3000) FROM u LIMIT 600",
                 vacuum == 2 ? "PRAGMA incremental_vacuum(50);" : "");
        assert_in_range(check_named(1024, sql), 10, UINT_MAX);
    }
}

static void what_an_older_transaction_left_does_not_count(void **state)
{
    (void)state;
    clear(NULL);
    build("PRAGMA journal_mode=PERSIST; CREATE TABLE t(a INTEGER PRIMARY KEY, b);"
          "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<3000) INSERT INTO t(b) SELECT randomblob(200) FROM n;"
          "UPDATE t SET b = randomblob(200)");
    struct bytes zeroed = slurp("a.db-journal");
    struct journal_header h;
    assert_true(zeroed.n > 100000);
    assert_int_equal(journal_header_decode(zeroed.p, zeroed.n, &h), ERR_CORRUPT);
    free(zeroed.p);
    struct bytes before = slurp("a.db");
    die_after("PRAGMA journal_mode=PERSIST; PRAGMA synchronous=OFF; BEGIN; UPDATE t SET b = randomblob(200) WHERE a = 5; PRAGMA cache_spill");
    struct bytes journal = slurp("a.db-journal");
    uint8_t *may_change = calloc(before.n / 4096 + 1, 1);
    assert_true(journal.n > 100000);
    assert_int_equal(check_records(&journal, &before, may_change, (uint32_t)(before.n / 4096)), 1);
    free(may_change);
    free(before.p);
    free(journal.p);
}

/* ---- by hand ---- */

#define SMALL 512u

static size_t put_header(uint8_t *p, uint32_t records, uint32_t nonce)
{
    static const uint8_t magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
    memset(p, 0, 512);
    memcpy(p, magic, 8);
    be32_put(p + 8, records);
    be32_put(p + 12, nonce);
    be32_put(p + 16, 100);
    be32_put(p + 20, 512);
    be32_put(p + 24, SMALL);
    return 512;
}

static size_t put_record(uint8_t *p, uint32_t pgno, uint32_t nonce)
{
    be32_put(p, pgno);
    memset(p + 4, (int)pgno, SMALL);
    be32_put(p + 4 + SMALL, journal_checksum(nonce, p + 4, SMALL));
    return SMALL + 8;
}

/* The page numbers that are read, as one number: 0 and up to 9 digits. */
static unsigned digits(struct bytes *b)
{
    struct journal *j = journal_new();
    struct journal_header h;
    uint32_t pgno;
    const uint8_t *page;
    unsigned all = 0;
    assert_int_equal(journal_begin(j, read_bytes, b, &h, NULL), 0);
    while (journal_next(j, &pgno, &page, NULL) > 0)
        all = all * 10 + pgno;
    assert_int_equal(journal_next(j, &pgno, &page, NULL), 0);
    journal_free(j);
    return all;
}

static void segments_counts_and_ends(void **state)
{
    (void)state;
    static uint8_t p[10000];
    struct bytes b = {.p = p};
    size_t n = put_header(p, 2, 7), second, third;
    n += put_record(p + n, 1, 7);
    n += put_record(p + n, 2, 7);
    n = (n + 511) / 512 * 512;
    second = n;
    n += put_header(p + n, 1, 9);
    third = n;
    n += put_record(p + n, 3, 9);
    n += put_record(p + n, 4, 9);
    b.n = n;
    assert_int_equal(digits(&b), 123); /* the 4 is not counted */
    be32_put(p + second + 8, 0);
    assert_int_equal(digits(&b), 1234); /* not synced yet: as far as checksums are right */
    be32_put(p + second + 8, JOURNAL_RECORDS_UNKNOWN);
    assert_int_equal(digits(&b), 1234);
    b.n = n - 1;
    assert_int_equal(digits(&b), 123); /* torn */
    b.n = n;
    p[third + SMALL + 8 + 4 + SMALL - 200]++;
    assert_int_equal(digits(&b), 123);
    p[third + SMALL + 8 + 4 + SMALL - 200]--;
    be32_put(p + third + SMALL + 8, lock_pgno(SMALL)); /* the name of a super-journal follows */
    assert_int_equal(digits(&b), 123);
    p[second] = 0;
    assert_int_equal(digits(&b), 12);
    p[second] = 0xd9;
    be32_put(p + second + 24, 1024); /* another page size: of another journal */
    assert_int_equal(digits(&b), 12);
    be32_put(p + 8, 3); /* more than there are */
    assert_int_equal(digits(&b), 12);
    b.n = 512;
    assert_int_equal(digits(&b), 0);
}

/* SQLite writes the last segment's magic and count when it syncs it; until then they are zeros, and what follows is as it will be. A page that a freelist trunk in it
 * names may have been written already. */
static void a_last_segment_that_was_not_synced_counts(void **state)
{
    (void)state;
    static uint8_t p[10000];
    struct bytes b = {.p = p};
    size_t n = put_header(p, 1, 7), second;
    n += put_record(p + n, 1, 7);
    n = (n + 511) / 512 * 512;
    second = n;
    n += put_header(p + n, 0, 9);
    memset(p + second, 0, 12);
    n += put_record(p + n, 2, 9);
    n += put_record(p + n, 3, 9);
    b.n = n;
    assert_int_equal(digits(&b), 123);
    b.n = n - 1;
    assert_int_equal(digits(&b), 12); /* torn */
    b.n = second + JOURNAL_HEADER_SIZE - 1;
    assert_int_equal(digits(&b), 1);
    b.n = n;
    be32_put(p + second + 12, 10); /* another nonce: no checksum is right */
    assert_int_equal(digits(&b), 1);
    be32_put(p + second + 12, 9);
    static const unsigned same[] = {16, 20, 24}; /* size of the database, sector size, page size: those of the first header, or it is of another journal */
    for (size_t i = 0; i < ARRAY_SIZE(same); i++) {
        uint32_t was = be32_get(p + second + same[i]);
        be32_put(p + second + same[i], was * 2);
        assert_int_equal(digits(&b), 1);
        be32_put(p + second + same[i], was);
    }
    p[second + 11] = 1; /* neither magic nor zeros */
    assert_int_equal(digits(&b), 1);
    p[second + 11] = 0;
    p[0] = 0; /* the first header must have its magic */
    struct journal_header h;
    struct journal *j = journal_new();
    assert_int_equal(journal_begin(j, read_bytes, &b, &h, NULL), ERR_CORRUPT);
    journal_free(j);
}

static void what_is_no_journal_is_refused(void **state)
{
    (void)state;
    uint8_t p[512];
    struct journal_header h;
    put_header(p, 0, 1);
    assert_int_equal(journal_header_decode(p, sizeof p, &h), 0);
    assert_int_equal(h.page_count, 100);
    assert_int_equal(journal_header_decode(p, JOURNAL_HEADER_SIZE - 1, &h), ERR_CORRUPT);
    static const struct {
        unsigned at;
        uint32_t v;
    } bad[] = {{0, 0}, {4, 0}, {20, 0}, {20, 16}, {20, 513}, {20, 131072}, {24, 0}, {24, 256}, {24, 131072}, {24, 1000}};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        put_header(p, 0, 1);
        be32_put(p + bad[i].at, bad[i].v);
        assert_int_equal(journal_header_decode(p, sizeof p, &h), ERR_CORRUPT);
    }
}

static long fail_to_read(void *ctx, void *p, size_t n, int64_t at)
{
    (void)p;
    return at ? -EIO : read_bytes(ctx, p, MIN(n, 512u), at);
}

static void an_error_of_reading_is_not_an_end(void **state)
{
    (void)state;
    static uint8_t p[2000];
    struct bytes b = {.p = p, .n = sizeof p};
    struct journal *j = journal_new();
    struct journal_header h;
    uint32_t pgno;
    const uint8_t *page;
    put_record(p + put_header(p, 1, 1), 1, 1);
    assert_int_equal(journal_begin(j, fail_to_read, &b, &h, NULL), 0);
    assert_int_equal(journal_next(j, &pgno, &page, NULL), -EIO);
    journal_free(j);
}

static void trunk_pages(void **state)
{
    (void)state;
    uint8_t p[512] = {0};
    assert_int_equal(freelist_trunk_leaves(p, sizeof p, 10), 0);
    be32_put(p, 10);
    be32_put(p + 4, 2);
    be32_put(p + 8, 2);
    be32_put(p + 12, 10);
    assert_int_equal(freelist_trunk_leaves(p, sizeof p, 10), 2);
    assert_int_equal(freelist_leaf(p, 1), 10);
    assert_int_equal(freelist_trunk_leaves(p, sizeof p, 9), -1);
    be32_put(p, 0);
    assert_int_equal(freelist_trunk_leaves(p, sizeof p, 9), -1);
    be32_put(p + 12, 1); /* page 1 is never free */
    assert_int_equal(freelist_trunk_leaves(p, sizeof p, 10), -1);
    be32_put(p + 4, 127); /* more than fit: nothing beyond the page is looked at */
    assert_int_equal(freelist_trunk_leaves(p, sizeof p, 10), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_changed_page_is_named),
        cmocka_unit_test(pages_taken_from_the_freelist_are_named),
        cmocka_unit_test(what_an_older_transaction_left_does_not_count),
        cmocka_unit_test(segments_counts_and_ends),
        cmocka_unit_test(a_last_segment_that_was_not_synced_counts),
        cmocka_unit_test(what_is_no_journal_is_refused),
        cmocka_unit_test(an_error_of_reading_is_not_an_end),
        cmocka_unit_test(trunk_pages),
    };
    return cmocka_run_group_tests_name("journal", tests, setup, teardown);
}
