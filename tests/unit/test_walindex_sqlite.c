/* The wal-index against libsqlite3 itself, both ways: what SQLite published is read here, and what is published here SQLite reads,
 * checkpoints and goes on from. All descriptors of a database stay open until its connections are closed: closing one would drop
 * the POSIX locks that SQLite holds in this same process. */
#include "lib/util.h"
#include "lib/walindex.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sqlite3.h>

#include <cmocka.h>

#define PAGES_MAX 65536u

static char dir[] = "/tmp/test_walindex_sqlite.XXXXXX";

static const char *path_of(const char *name, const char *suffix)
{
    static char path[4][PATH_MAX];
    static unsigned turn;
    char *p = path[turn++ % 4];
    snprintf(p, PATH_MAX, "%s/%s%s", dir, name, suffix);
    return p;
}

static int clear(void **state)
{
    (void)state;
    static const char *const names[] = {"a.db", "b.db"}, *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        for (size_t k = 0; k < ARRAY_SIZE(suffixes); k++)
            unlink(path_of(names[i], suffixes[k]));
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

/* ---- SQLite ---- */

static void run(sqlite3 *db, const char *sql)
{
    char *message = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", sql, message);
}

__attribute__((format(printf, 2, 3))) static void runf(sqlite3 *db, const char *fmt, ...)
{
    char sql[500];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(sql, sizeof sql, fmt, ap);
    va_end(ap);
    run(db, sql);
}

static int64_t number(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *s;
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    int64_t v = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return v;
}

static void check_ok(sqlite3 *db)
{
    sqlite3_stmt *s;
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(s, 0), "ok");
    sqlite3_finalize(s);
}

static void insert(sqlite3 *db, int rows, int bytes)
{
    runf(db, "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<%d) "
             "INSERT INTO t(b) SELECT randomblob(%d) FROM n",
         rows, bytes);
}

/* ---- a database with an application's connection on it, and our own view of its WAL ---- */

struct node {
    const char *name;
    sqlite3 *db;
    int wal, shm;
    struct walindex *w;
    uint32_t page_size;
    /* how far the WAL was read */
    uint32_t salt1, salt2, frame, cksum[2];
};

/* The pages of one or more transactions, newest of each. */
struct change {
    uint32_t n, commit, pgno[PAGES_MAX];
    uint8_t *page[PAGES_MAX];
    uint32_t slot[PAGES_MAX]; /* of a page: 1 + index */
};

static struct change change;

static void node_open(struct node *n, const char *name, uint32_t page_size)
{
    *n = (struct node){.name = name, .page_size = page_size};
    assert_int_equal(sqlite3_open(path_of(name, ""), &n->db), SQLITE_OK);
    run(n->db, "PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=50");
    number(n->db, "SELECT count(*) FROM t"); /* now WAL and wal-index exist */
    n->wal = open(path_of(name, "-wal"), O_RDWR | O_CLOEXEC);
    n->shm = open(path_of(name, "-shm"), O_RDWR | O_CLOEXEC);
    assert_true(n->wal >= 0 && n->shm >= 0);
    assert_int_equal(lock_range(n->shm, F_RDLCK, WALINDEX_DMS_LOCK, 1), 0);
    assert_int_equal(walindex_open(n->shm, true, &n->w, NULL), 0);
}

static void node_close(struct node *n)
{
    assert_int_equal(sqlite3_close(n->db), SQLITE_OK);
    walindex_close(n->w);
    close(n->wal);
    close(n->shm);
}

/* Two nodes with the same database, of one table, fully checkpointed. */
static void pair_open(struct node *a, struct node *b, uint32_t page_size)
{
    sqlite3 *db;
    uint8_t buf[4096];
    size_t got;
    clear(NULL);
    assert_int_equal(sqlite3_open(path_of("a.db", ""), &db), SQLITE_OK);
    runf(db, "PRAGMA page_size=%u; PRAGMA journal_mode=WAL", page_size);
    run(db, "CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b)");
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    FILE *from = fopen(path_of("a.db", ""), "rb"), *to = fopen(path_of("b.db", ""), "wb");
    assert_true(from && to);
    while ((got = fread(buf, 1, sizeof buf, from)) > 0)
        assert_int_equal(fwrite(buf, 1, got, to), got);
    fclose(from);
    assert_int_equal(fclose(to), 0);
    node_open(a, "a.db", page_size);
    node_open(b, "b.db", page_size);
}

static struct walindex_header header_of(struct node *n)
{
    struct walindex_header h;
    assert_int_equal(walindex_read(n->w, &h), 0);
    return h;
}

static void change_reset(void)
{
    for (uint32_t i = 0; i < change.n; i++) {
        free(change.page[i]);
        change.slot[change.pgno[i]] = 0;
    }
    change.n = change.commit = 0;
}

static void change_add(uint32_t pgno, const uint8_t *page, uint32_t page_size)
{
    assert_true(pgno < PAGES_MAX);
    if (change.slot[pgno] == 0) {
        change.pgno[change.n] = pgno;
        change.page[change.n] = malloc(page_size);
        assert_non_null(change.page[change.n]);
        change.slot[pgno] = ++change.n;
    }
    memcpy(change.page[change.slot[pgno] - 1], page, page_size);
}

static void read_frame(struct node *n, uint32_t frame, uint8_t head[WAL_FRAME_HEADER_SIZE], uint8_t *page)
{
    int64_t at = wal_frame_offset(frame, n->page_size);
    assert_int_equal(pread(n->wal, head, WAL_FRAME_HEADER_SIZE, at), WAL_FRAME_HEADER_SIZE);
    assert_int_equal(pread(n->wal, page, n->page_size, at + (int64_t)WAL_FRAME_HEADER_SIZE), n->page_size);
}

/* Reads what was published since the last time into `change`, checking every frame. */
static void capture(struct node *n)
{
    static uint8_t page[65536];
    uint8_t buf[WAL_HEADER_SIZE], head[WAL_FRAME_HEADER_SIZE];
    struct walindex_header h = header_of(n);
    struct wal_header wal;
    struct wal_frame_header f = {0};
    change_reset();
    if (h.max_frame == 0)
        return;
    assert_int_equal(h.page_size, n->page_size);
    assert_int_equal(pread(n->wal, buf, sizeof buf, 0), sizeof buf);
    assert_int_equal(wal_header_decode(buf, &wal), 0);
    assert_true(wal.salt1 == h.salt1 && wal.salt2 == h.salt2 && wal.big_endian == h.big_endian_cksum &&
                wal.page_size == h.page_size);
    if (n->salt1 != h.salt1 || n->salt2 != h.salt2 || n->frame == 0) {
        n->salt1 = h.salt1;
        n->salt2 = h.salt2;
        n->frame = 0;
        memcpy(n->cksum, wal.cksum, sizeof n->cksum);
    }
    assert_true(n->frame <= h.max_frame);
    while (n->frame < h.max_frame) {
        read_frame(n, ++n->frame, head, page);
        assert_true(wal_frame_check(&wal, head, page, n->cksum));
        wal_frame_header_decode(head, &f);
        change_add(f.pgno, page, n->page_size);
        if (f.commit != 0)
            change.commit = f.commit;
    }
    if (change.n > 0) {
        assert_true(f.commit == h.page_count);
        assert_memory_equal(n->cksum, h.frame_cksum, sizeof n->cksum);
    }
}

/* What walindex_find says of every page, compared with a scan of the WAL. */
static void check_find(struct node *n, uint32_t max_frame)
{
    static uint32_t newest[PAGES_MAX];
    memset(newest, 0, sizeof newest);
    for (uint32_t frame = 1; frame <= max_frame; frame++) {
        uint8_t head[WAL_FRAME_HEADER_SIZE];
        assert_int_equal(pread(n->wal, head, sizeof head, wal_frame_offset(frame, n->page_size)), sizeof head);
        assert_true(be32_get(head) < PAGES_MAX);
        newest[be32_get(head)] = frame;
    }
    uint32_t pages = header_of(n).page_count + 100;
    for (uint32_t pgno = 1; pgno < MIN(pages, PAGES_MAX); pgno++)
        if (walindex_find(n->w, pgno, max_frame, NULL) != newest[pgno])
            fail_msg("page %u: frame %u, not %u", pgno, walindex_find(n->w, pgno, max_frame, NULL), newest[pgno]);
}

/* Restarts the WAL if every frame is in the database and nobody reads from it. */
static bool try_restart(struct node *n, struct walindex_header *h, uint32_t new_salt2)
{
    if (h->max_frame == 0 || walindex_backfilled(n->w) != h->max_frame ||
        lock_range(n->shm, F_WRLCK, WALINDEX_READ_LOCK(1), WALINDEX_N_READERS - 1) < 0)
        return false;
    uint32_t old = h->salt1;
    walindex_restart(n->w, h, new_salt2);
    assert_true(h->max_frame == 0 && h->salt1 == old + 1 && h->salt2 == new_salt2);
    assert_int_equal(walindex_backfilled(n->w), 0);
    assert_int_equal(walindex_read_mark(n->w, 0), 0);
    assert_int_equal(walindex_read_mark(n->w, 1), 0);
    for (int i = 2; i < WALINDEX_N_READERS; i++)
        assert_true(walindex_read_mark(n->w, i) == UINT32_MAX);
    assert_int_equal(lock_range(n->shm, F_UNLCK, WALINDEX_READ_LOCK(1), WALINDEX_N_READERS - 1), 0);
    return true;
}

/* Appends `change` to the WAL, which the caller has locked; h as read, returned as it should be published. */
static void append_frames(struct node *n, struct walindex_header *h)
{
    struct wal_header wal = {.big_endian = h->big_endian_cksum, .page_size = n->page_size, .salt1 = h->salt1, .salt2 = h->salt2};
    uint8_t head[WAL_HEADER_SIZE];
    struct err e;
    if (h->max_frame == 0) {
        if (h->page_size == 0) { /* nothing was ever written */
            wal.big_endian = h->big_endian_cksum = __BYTE_ORDER == __BIG_ENDIAN;
            wal.salt1 = h->salt1 = 0x01234567;
            wal.salt2 = h->salt2 = 0x89abcdef;
        }
        wal_header_encode(&wal, head);
        assert_int_equal(pwrite(n->wal, head, WAL_HEADER_SIZE, 0), WAL_HEADER_SIZE);
        memcpy(h->frame_cksum, wal.cksum, sizeof wal.cksum);
    }
    h->page_size = n->page_size;
    for (uint32_t i = 0; i < change.n; i++) {
        int64_t at = wal_frame_offset(++h->max_frame, n->page_size);
        wal_frame_header_encode(&wal, change.pgno[i], i == change.n - 1 ? change.commit : 0, change.page[i], h->frame_cksum,
                                head);
        assert_int_equal(pwrite(n->wal, head, WAL_FRAME_HEADER_SIZE, at), WAL_FRAME_HEADER_SIZE);
        assert_int_equal(pwrite(n->wal, change.page[i], n->page_size, at + (int64_t)WAL_FRAME_HEADER_SIZE), n->page_size);
        if (walindex_append(n->w, h->max_frame, change.pgno[i], &e) != 0)
            fail_msg("%s", e.text);
    }
    h->page_count = change.commit;
    h->change++;
}

/* Applies `change` as a writer of its own. Returns whether the WAL was restarted first. */
static bool apply(struct node *n)
{
    bool restarted;
    if (change.n == 0)
        return false;
    assert_int_equal(lock_range(n->shm, F_WRLCK, WALINDEX_WRITE_LOCK, 1), 0);
    struct walindex_header h = header_of(n);
    restarted = try_restart(n, &h, h.salt2 * 1664525u + 1013904223u);
    append_frames(n, &h);
    walindex_publish(n->w, &h);
    assert_int_equal(lock_range(n->shm, F_UNLCK, WALINDEX_WRITE_LOCK, 1), 0);
    n->salt1 = h.salt1;
    n->salt2 = h.salt2;
    n->frame = h.max_frame;
    memcpy(n->cksum, h.frame_cksum, sizeof n->cksum);
    return restarted;
}

static void check_same(struct node *a, struct node *b)
{
    static const char *const queries[] = {"SELECT count(*) FROM t", "SELECT total(length(b)) FROM t", "SELECT sum(a) FROM t",
                                          "SELECT total(unicode(hex(b))) FROM t INDEXED BY i WHERE b > ''",
                                          "PRAGMA page_count"};
    for (size_t i = 0; i < ARRAY_SIZE(queries); i++)
        assert_true(number(a->db, queries[i]) == number(b->db, queries[i]));
}

/* Both checkpointed and closed: the files are the same, byte by byte. */
static void pair_close_and_compare(struct node *a, struct node *b)
{
    uint8_t x[4096], y[4096];
    size_t n;
    check_same(a, b);
    check_ok(a->db);
    check_ok(b->db);
    change_reset();
    run(a->db, "PRAGMA wal_checkpoint(TRUNCATE)");
    run(b->db, "PRAGMA wal_checkpoint(TRUNCATE)");
    node_close(a);
    node_close(b);
    FILE *f = fopen(path_of("a.db", ""), "rb"), *g = fopen(path_of("b.db", ""), "rb");
    assert_true(f && g);
    do {
        n = fread(x, 1, sizeof x, f);
        assert_int_equal(fread(y, 1, sizeof y, g), n);
        assert_memory_equal(x, y, n);
    } while (n > 0);
    fclose(f);
    fclose(g);
}

/* ---- tests with SQLite ---- */

static void every_page_is_found_where_sqlite_put_it(void **state)
{
    (void)state;
    struct node a, b;
    uint32_t commits[40], n = 0;
    pair_open(&a, &b, 512);
    assert_int_equal(header_of(&a).max_frame, 0);
    assert_int_equal(walindex_find(a.w, 1, 0, NULL), 0);
    for (int i = 0; i < 30; i++) {
        insert(a.db, 200 + i * 10, 150);
        runf(a.db, "DELETE FROM t WHERE a %% 7 = %d", i % 7);
        capture(&a);
        commits[n++] = header_of(&a).max_frame;
    }
    assert_true(commits[n - 1] > 3 * 4096); /* four regions */
    for (uint32_t i = 0; i < n; i += 3)
        check_find(&a, commits[i]); /* also as of older commits */
    check_find(&a, commits[n - 1]);
    for (uint32_t edge = 4060; edge < 4066; edge++)
        check_find(&a, edge);
    for (uint32_t edge = 4062 + 4094; edge < 4062 + 4100; edge++)
        check_find(&a, edge);
    run(a.db, "PRAGMA wal_checkpoint(PASSIVE)");
    assert_int_equal(walindex_backfilled(a.w), commits[n - 1]);
    insert(a.db, 3, 10); /* restarts the WAL: stale entries of the first region must not be seen */
    capture(&a);
    assert_true(header_of(&a).max_frame < 100);
    check_find(&a, header_of(&a).max_frame);
    change_reset();
    node_close(&a);
    node_close(&b);
}

/* Every step one of the two is written by SQLite and the other follows through our writer; then sides change. */
static void sqlite_reads_and_goes_on_from_what_we_write(void **state)
{
    (void)state;
    static const char *const checkpoints[] = {"PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(FULL)",
                                              "PRAGMA wal_checkpoint(RESTART)", "PRAGMA wal_checkpoint(TRUNCATE)"};
    for (uint32_t size = 512; size <= 65536; size *= 2) {
        struct node node[2];
        int restarts = 0;
        uint32_t seed = size;
        pair_open(&node[0], &node[1], size);
        for (int step = 0; step < 80; step++) {
            seed = seed * 1664525u + 1013904223u;
            uint32_t r = seed >> 8;
            struct node *from = &node[step / 8 % 2], *to = &node[1 - step / 8 % 2];
            if (r % 23 == 0)
                run(from->db, "VACUUM");
            else if (r % 5 == 0)
                runf(from->db, "DELETE FROM t WHERE a %% 3 = %u", r % 3);
            else if (r % 5 == 1)
                runf(from->db, "UPDATE t SET b = randomblob(%u) WHERE a %% 10 = %u", r % 900, r % 10);
            else
                insert(from->db, (int)(r % 60) + 1, (int)(r % 700));
            capture(from);
            restarts += apply(to);
            check_same(from, to);
            if (r % 11 == 0)
                check_ok(to->db);
            if (r % 7 == 0)
                run(node[r % 2].db, checkpoints[r / 2 % 4]);
        }
        assert_true(restarts > 0);
        pair_close_and_compare(&node[0], &node[1]);
    }
}

static void transactions_of_several_regions_are_applied_and_restarted(void **state)
{
    (void)state;
    struct node a, b;
    uint32_t highest = 0, restarts = 0;
    pair_open(&a, &b, 512);
    run(a.db, "PRAGMA cache_size=20000");
    run(b.db, "PRAGMA cache_size=20000");
    for (int round = 0; round < 4; round++) {
        struct node *from = round % 2 ? &b : &a, *to = round % 2 ? &a : &b;
        insert(from->db, 6000 + round * 1000, 350);
        capture(from);
        restarts += apply(to);
        highest = MAX(highest, header_of(to).max_frame);
        check_find(to, header_of(to).max_frame);
        check_same(from, to);
        runf(from->db, "DELETE FROM t WHERE a %% 2 = %d", round % 2);
        capture(from);
        restarts += apply(to);
        check_same(from, to);
        run(from->db, "PRAGMA wal_checkpoint(PASSIVE)");
        run(to->db, "PRAGMA wal_checkpoint(PASSIVE)");
        assert_int_equal(walindex_backfilled(to->w), header_of(to).max_frame);
        check_ok(to->db);
    }
    assert_true(highest > 3 * 4096);
    assert_true(restarts > 0);
    pair_close_and_compare(&a, &b);
}

static void a_reader_keeps_its_snapshot_while_we_write(void **state)
{
    (void)state;
    struct node a, b;
    sqlite3 *reader;
    pair_open(&a, &b, 4096);
    assert_int_equal(sqlite3_open(path_of("b.db", ""), &reader), SQLITE_OK);
    insert(a.db, 10, 100);
    capture(&a);
    apply(&b);
    run(reader, "BEGIN");
    assert_int_equal(number(reader, "SELECT count(*) FROM t"), 10);
    for (int i = 0; i < 50; i++) {
        insert(a.db, 10, 100);
        capture(&a);
        assert_false(apply(&b));
        assert_int_equal(number(reader, "SELECT count(*) FROM t"), 10);
        assert_int_equal(number(b.db, "SELECT count(*) FROM t"), 20 + 10 * i);
    }
    run(b.db, "PRAGMA wal_checkpoint(PASSIVE)"); /* not beyond the reader */
    assert_true(walindex_backfilled(b.w) < header_of(&b).max_frame);
    assert_int_equal(number(reader, "SELECT count(*) FROM t"), 10);
    run(reader, "COMMIT");
    assert_int_equal(number(reader, "SELECT count(*) FROM t"), 510);
    check_ok(reader);
    /* Everything backfilled, but a reader that began before that holds its mark: no restart. */
    run(reader, "BEGIN");
    assert_int_equal(number(reader, "SELECT count(*) FROM t"), 510);
    run(b.db, "PRAGMA wal_checkpoint(PASSIVE)");
    assert_int_equal(walindex_backfilled(b.w), header_of(&b).max_frame);
    insert(a.db, 10, 100);
    capture(&a);
    assert_false(apply(&b));
    assert_int_equal(number(reader, "SELECT count(*) FROM t"), 510);
    run(reader, "COMMIT");
    assert_int_equal(sqlite3_close(reader), SQLITE_OK);
    run(b.db, "PRAGMA wal_checkpoint(PASSIVE)");
    insert(a.db, 10, 100);
    capture(&a);
    assert_true(apply(&b));
    pair_close_and_compare(&a, &b);
}

static void the_write_lock_keeps_sqlite_from_writing_but_not_from_reading(void **state)
{
    (void)state;
    struct node a, b;
    pair_open(&a, &b, 4096);
    assert_int_equal(lock_range(a.shm, F_WRLCK, WALINDEX_WRITE_LOCK, 1), 0);
    assert_int_equal(sqlite3_exec(a.db, "INSERT INTO t(b) VALUES(1)", NULL, NULL, NULL), SQLITE_BUSY);
    assert_int_equal(number(a.db, "SELECT count(*) FROM t"), 0);
    assert_int_equal(lock_range(a.shm, F_UNLCK, WALINDEX_WRITE_LOCK, 1), 0);
    run(a.db, "BEGIN IMMEDIATE");
    assert_int_equal(lock_range(a.shm, F_WRLCK, WALINDEX_WRITE_LOCK, 1), -EAGAIN);
    run(a.db, "INSERT INTO t(b) VALUES(1); COMMIT");
    assert_int_equal(lock_range(a.shm, F_WRLCK, WALINDEX_WRITE_LOCK, 1), 0);
    node_close(&a);
    node_close(&b);
}

/* Appends frames that are never published, up to over the edge of a region; then forgets them, or dies. */
static void unpublished_frames_leave_no_trace(void **state)
{
    (void)state;
    for (int forget = 0; forget < 2; forget++) {
        struct node a, b;
        pair_open(&a, &b, 512);
        insert(a.db, 50, 100);
        capture(&a);
        apply(&b);
        for (int round = 0; round < 6; round++) {
            assert_int_equal(lock_range(b.shm, F_WRLCK, WALINDEX_WRITE_LOCK, 1), 0);
            struct walindex_header h = header_of(&b);
            for (uint32_t i = 1; i < 4300; i++)
                assert_int_equal(walindex_append(b.w, h.max_frame + i, i % 90 + 1, NULL), 0);
            if (forget)
                walindex_cleanup(b.w, h.max_frame);
            check_find(&b, h.max_frame);
            assert_int_equal(lock_range(b.shm, F_UNLCK, WALINDEX_WRITE_LOCK, 1), 0);
            check_same(&a, &b);
            if (round % 2) { /* SQLite writes on; */
                insert(b.db, 300, 200);
                capture(&b);
                apply(&a);
            } else { /* or we do */
                insert(a.db, 300, 200);
                capture(&a);
                apply(&b);
            }
            check_find(&b, header_of(&b).max_frame);
            check_same(&a, &b);
        }
        pair_close_and_compare(&a, &b);
    }
}

static void we_write_after_sqlite_rolled_back(void **state)
{
    (void)state;
    struct node a, b;
    pair_open(&a, &b, 512);
    for (int round = 0; round < 3; round++) {
        run(b.db, "BEGIN");
        insert(b.db, 2000, 300); /* more than its cache: spills into the WAL */
        run(b.db, "ROLLBACK");
        insert(a.db, 500, 200);
        capture(&a);
        apply(&b);
        check_find(&b, header_of(&b).max_frame);
        check_same(&a, &b);
    }
    pair_close_and_compare(&a, &b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_page_is_found_where_sqlite_put_it),
        cmocka_unit_test(sqlite_reads_and_goes_on_from_what_we_write),
        cmocka_unit_test(transactions_of_several_regions_are_applied_and_restarted),
        cmocka_unit_test(a_reader_keeps_its_snapshot_while_we_write),
        cmocka_unit_test(the_write_lock_keeps_sqlite_from_writing_but_not_from_reading),
        cmocka_unit_test(unpublished_frames_leave_no_trace),
        cmocka_unit_test(we_write_after_sqlite_rolled_back),
    };
    return cmocka_run_group_tests_name("walindex_sqlite", tests, setup, teardown);
}
