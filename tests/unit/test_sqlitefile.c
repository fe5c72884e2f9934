/* Layouts are compared with what libsqlite3 writes and with what it reads. */
#include "lib/sqlitefile.h"
#include "lib/util.h"

#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sqlite3.h>

#include <cmocka.h>

static char dir[] = "/tmp/test_sqlitefile.XXXXXX";
static const char *const names[] = {"a.db", "a.db-wal", "a.db-shm", "b.db", "b.db-wal", "b.db-shm"};

static const char *path_of(const char *name)
{
    static char path[2][PATH_MAX];
    static int turn;
    char *p = path[turn ^= 1];
    snprintf(p, PATH_MAX, "%s/%s", dir, name);
    return p;
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int clear(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        unlink(path_of(names[i]));
    return 0;
}

static int teardown(void **state)
{
    clear(state);
    return rmdir(dir);
}

static uint8_t *slurp(const char *name, size_t *n)
{
    FILE *f = fopen(path_of(name), "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    uint8_t *p = malloc(*n + 1);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, *n, f), *n);
    fclose(f);
    return p;
}

static void spill(const char *name, const uint8_t *p, size_t n)
{
    FILE *f = fopen(path_of(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void run(sqlite3 *db, const char *sql)
{
    char *message = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", sql, message);
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

/* a.db in WAL mode with some transactions in its WAL; the connection stays open. */
static sqlite3 *make(uint32_t page_size)
{
    sqlite3 *db;
    char sql[100];
    clear(NULL);
    assert_int_equal(sqlite3_open(path_of("a.db"), &db), SQLITE_OK);
    snprintf(sql, sizeof sql, "PRAGMA page_size=%u; PRAGMA journal_mode=WAL", page_size);
    run(db, sql);
    run(db, "PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a INTEGER PRIMARY KEY, b)");
    for (int i = 0; i < 5; i++)
        run(db, "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<40) "
                "INSERT INTO t(b) SELECT randomblob(200) FROM n");
    return db;
}

static void database_header_is_what_sqlite_wrote(void **state)
{
    (void)state;
    for (uint32_t size = 512; size <= 65536; size *= 2) {
        struct dbfile_header h;
        size_t n;
        sqlite3 *db = make(size);
        run(db, "PRAGMA wal_checkpoint(TRUNCATE)");
        int64_t pages = number(db, "PRAGMA page_count");
        uint8_t *p = slurp("a.db", &n);
        assert_int_equal(dbfile_header_decode(p, n, &h), 0);
        assert_int_equal(h.page_size, size);
        assert_int_equal(h.page_count, pages);
        assert_true(h.page_count_valid);
        assert_int_equal(h.write_version, 2);
        assert_int_equal(h.read_version, 2);
        assert_int_equal(n, (size_t)pages * size);
        free(p);
        run(db, "PRAGMA journal_mode=DELETE");
        p = slurp("a.db", &n);
        assert_int_equal(dbfile_header_decode(p, n, &h), 0);
        assert_int_equal(h.write_version, 1);
        be32_put(p + 92, be32_get(p + 92) + 1); /* as an old writer leaves it, that knows nothing of the count */
        assert_int_equal(dbfile_header_decode(p, n, &h), 0);
        assert_false(h.page_count_valid);
        free(p);
        sqlite3_close(db);
    }
}

static void what_is_no_database_is_refused(void **state)
{
    (void)state;
    uint8_t buf[100] = "SQLite format 3";
    struct dbfile_header h;
    be16_put(buf + 16, 4096);
    assert_int_equal(dbfile_header_decode(buf, 100, &h), 0);
    for (size_t n = 0; n < 100; n++)
        assert_int_equal(dbfile_header_decode(buf, n, &h), ERR_NOT_DATABASE);
    for (size_t bit = 0; bit < 16 * 8; bit++) {
        buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(dbfile_header_decode(buf, 100, &h), ERR_NOT_DATABASE);
        buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (uint32_t size = 0; size <= UINT16_MAX; size++) {
        be16_put(buf + 16, (uint16_t)size);
        bool right = size == 1 || (size >= 512 && (size & (size - 1)) == 0);
        assert_int_equal(dbfile_header_decode(buf, 100, &h), right ? 0 : ERR_NOT_DATABASE);
        if (right)
            assert_int_equal(h.page_size, size == 1 ? 65536 : size);
    }
}

static void checksum_of_small_words(void **state)
{
    (void)state;
    static const uint8_t little[16] = {1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0};
    static const uint8_t big[16] = {0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4};
    const uint32_t zero[2] = {0, 0};
    uint32_t sum[2];
    wal_checksum(false, little, 16, zero, sum); /* 1, 2+1, 1+3+3, 3+4+7 */
    assert_true(sum[0] == 7 && sum[1] == 14);
    wal_checksum(true, big, 16, zero, sum);
    assert_true(sum[0] == 7 && sum[1] == 14);
    wal_checksum(false, little, 8, zero, sum);
    wal_checksum(false, little + 8, 8, sum, sum);
    assert_true(sum[0] == 7 && sum[1] == 14);
    wal_checksum(true, big, 0, sum, sum);
    assert_true(sum[0] == 7 && sum[1] == 14);
}

/* Reads all of a WAL; writes it again, in either byte order of checksums, into out (as large). Returns frames. */
static uint32_t copy_wal(const uint8_t *wal, size_t n, bool big_endian, uint8_t *out)
{
    struct wal_header h, w;
    assert_int_equal(wal_header_decode(wal, &h), 0);
    w = h;
    w.big_endian = big_endian;
    wal_header_encode(&w, out);
    uint32_t chain[2] = {h.cksum[0], h.cksum[1]}, out_chain[2] = {w.cksum[0], w.cksum[1]}, count = 0;
    for (;;) {
        size_t at = (size_t)wal_frame_offset(count + 1, h.page_size);
        if (at + WAL_FRAME_HEADER_SIZE + h.page_size > n)
            return count;
        const uint8_t *head = wal + at, *page = head + WAL_FRAME_HEADER_SIZE;
        struct wal_frame_header f;
        if (!wal_frame_check(&h, head, page, chain))
            return count;
        count++;
        wal_frame_header_decode(head, &f);
        assert_true(f.salt1 == h.salt1 && f.salt2 == h.salt2 && f.cksum[0] == chain[0] && f.cksum[1] == chain[1]);
        wal_frame_header_encode(&w, f.pgno, f.commit, page, out_chain, out + at);
        memcpy(out + at + WAL_FRAME_HEADER_SIZE, page, h.page_size);
    }
}

static void wal_is_read_and_written_as_sqlite_does(void **state)
{
    (void)state;
    for (uint32_t size = 512; size <= 65536; size *= 2)
        for (int big_endian = 0; big_endian < 2; big_endian++) {
            size_t n, db_n;
            sqlite3 *db = make(size), *copy;
            uint8_t *wal = slurp("a.db-wal", &n), *main = slurp("a.db", &db_n), *out = malloc(n);
            assert_non_null(out);
            uint32_t frames = copy_wal(wal, n, big_endian, out);
            assert_int_equal(wal_frame_offset(frames + 1, size), n);
            if (big_endian == (__BYTE_ORDER == __BIG_ENDIAN)) /* what this machine's SQLite writes */
                assert_memory_equal(out, wal, n);
            spill("b.db", main, db_n);
            spill("b.db-wal", out, n);
            assert_int_equal(sqlite3_open(path_of("b.db"), &copy), SQLITE_OK);
            assert_int_equal(number(copy, "SELECT count(*) FROM t"), 200); /* SQLite recovers it from our WAL */
            check_ok(copy);
            sqlite3_close(copy);
            sqlite3_close(db);
            free(wal);
            free(main);
            free(out);
        }
}

static void damaged_wal_header_is_refused(void **state)
{
    (void)state;
    for (int big_endian = 0; big_endian < 2; big_endian++) {
        struct wal_header h = {.big_endian = big_endian, .page_size = 65536, .checkpoint_seq = 7, .salt1 = 0x01020304, .salt2 = 0x05060708};
        struct wal_header got;
        uint8_t buf[WAL_HEADER_SIZE];
        wal_header_encode(&h, buf);
        assert_int_equal(be32_get(buf), big_endian ? 0x377f0683 : 0x377f0682);
        assert_int_equal(wal_header_decode(buf, &got), 0);
        assert_true(got.big_endian == h.big_endian && got.page_size == 65536 && got.checkpoint_seq == 7 &&
                    got.salt1 == h.salt1 && got.salt2 == h.salt2 && got.cksum[0] == h.cksum[0] &&
                    got.cksum[1] == h.cksum[1]);
        for (size_t bit = 0; bit < sizeof buf * 8; bit++) {
            buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_int_equal(wal_header_decode(buf, &got), ERR_CORRUPT);
            buf[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        static const uint32_t bad[] = {0, 1, 256, 1000, 131072, UINT32_MAX};
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
            h.page_size = bad[i];
            wal_header_encode(&h, buf);
            assert_int_equal(wal_header_decode(buf, &got), ERR_CORRUPT);
        }
    }
}

static void damaged_frame_breaks_the_chain(void **state)
{
    (void)state;
    struct wal_header h = {.page_size = 512, .salt1 = 5, .salt2 = 6};
    uint8_t buf[WAL_HEADER_SIZE], frame[WAL_FRAME_HEADER_SIZE + 512];
    wal_header_encode(&h, buf);
    for (size_t i = WAL_FRAME_HEADER_SIZE; i < sizeof frame; i++)
        frame[i] = (uint8_t)(i * 7);
    uint32_t chain[2] = {h.cksum[0], h.cksum[1]};
    wal_frame_header_encode(&h, 3, 9, frame + WAL_FRAME_HEADER_SIZE, chain, frame);
    for (size_t bit = 0; bit <= sizeof frame * 8; bit++) {
        uint32_t at[2] = {h.cksum[0], h.cksum[1]};
        bool whole = bit == sizeof frame * 8;
        if (!whole)
            frame[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(wal_frame_check(&h, frame, frame + WAL_FRAME_HEADER_SIZE, at), whole);
        assert_true(at[0] == (whole ? chain[0] : h.cksum[0]) && at[1] == (whole ? chain[1] : h.cksum[1]));
        if (!whole)
            frame[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    /* Page 0 is no page, whatever the checksum says. */
    uint32_t again[2] = {h.cksum[0], h.cksum[1]}, at[2] = {h.cksum[0], h.cksum[1]};
    wal_frame_header_encode(&h, 0, 9, frame + WAL_FRAME_HEADER_SIZE, again, frame);
    assert_false(wal_frame_check(&h, frame, frame + WAL_FRAME_HEADER_SIZE, at));
}

static void frame_offsets_do_not_overflow(void **state)
{
    (void)state;
    assert_true(wal_frame_offset(1, 4096) == 32);
    assert_true(wal_frame_offset(2, 4096) == 32 + 24 + 4096);
    assert_true(wal_frame_offset(UINT32_MAX, 65536) == 32 + INT64_C(4294967294) * 65560);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(database_header_is_what_sqlite_wrote),
        cmocka_unit_test(what_is_no_database_is_refused),
        cmocka_unit_test(checksum_of_small_words),
        cmocka_unit_test(wal_is_read_and_written_as_sqlite_does),
        cmocka_unit_test(damaged_wal_header_is_refused),
        cmocka_unit_test(damaged_frame_breaks_the_chain),
        cmocka_unit_test(frame_offsets_do_not_overflow),
    };
    return cmocka_run_group_tests_name("sqlitefile", tests, setup, teardown);
}
