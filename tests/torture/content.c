#include "tests/torture/content.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t content_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t content_hash(uint64_t hash, const void *p, size_t n)
{
    const uint8_t *b = p;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ b[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static void fn_bytes(sqlite3_context *c, int n, sqlite3_value **v)
{
    (void)n;
    int size = sqlite3_value_int(v[0]);
    uint64_t state = (uint64_t)sqlite3_value_int64(v[1]);
    char *p = size > 0 ? sqlite3_malloc(size + 8) : NULL;
    if (!p) {
        sqlite3_result_zeroblob(c, 0);
        return;
    }
    for (int i = 0; i < size; i += 8) {
        uint64_t r = content_random(&state);
        memcpy(p + i, &r, 8);
    }
    sqlite3_result_blob(c, p, size, sqlite3_free);
}

static void fn_words(sqlite3_context *c, int n, sqlite3_value **v)
{
    (void)n;
    static const char *const word[] = {"page", "frame", "salt", "journal", "lock", "mount", "node", "hook", "epoch", "fence", "batch", "image"};
    uint64_t state = (uint64_t)sqlite3_value_int64(v[1]);
    sqlite3_str *s = sqlite3_str_new(NULL);
    for (int i = sqlite3_value_int(v[0]); i > 0; i--) {
        uint64_t r = content_random(&state);
        sqlite3_str_appendf(s, "%s%d ", word[r % 12], (int)(r >> 32) % 7);
    }
    int len = sqlite3_str_length(s);
    sqlite3_result_text(c, sqlite3_str_finish(s), len, sqlite3_free);
}

/* Below 2^31, so that sums of many do not overflow. */
static void fn_h(sqlite3_context *c, int n, sqlite3_value **v)
{
    (void)n;
    int64_t id = sqlite3_value_int64(v[0]);
    uint64_t h = content_hash(CONTENT_HASH, &id, sizeof id);
    const void *p = sqlite3_value_blob(v[1]);
    h = content_hash(h, p, (size_t)sqlite3_value_bytes(v[1]));
    sqlite3_result_int64(c, (int64_t)((h ^ (h >> 32)) & 0x7fffffff));
}

int content_register(sqlite3 *db)
{
    const int flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS;
    int rc = sqlite3_create_function(db, "bytes", 2, flags, NULL, fn_bytes, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_create_function(db, "words", 2, flags, NULL, fn_words, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_create_function(db, "h", 2, flags, NULL, fn_h, NULL, NULL);
    return rc;
}

static void add_triggers(sqlite3_str *s, const char *schema, const char *table, int k)
{
    sqlite3_str_appendf(s, "CREATE TRIGGER %s.%si AFTER INSERT ON %s BEGIN UPDATE inv SET c%d = c%d + 1, s%d = s%d + h(new.id, new.v); END;",
                        schema, table, table, k, k, k, k);
    sqlite3_str_appendf(s, "CREATE TRIGGER %s.%sd AFTER DELETE ON %s BEGIN UPDATE inv SET c%d = c%d - 1, s%d = s%d - h(old.id, old.v); END;",
                        schema, table, table, k, k, k, k);
    sqlite3_str_appendf(s, "CREATE TRIGGER %s.%su AFTER UPDATE ON %s BEGIN UPDATE inv SET s%d = s%d + h(new.id, new.v) - h(old.id, old.v); END;",
                        schema, table, table, k, k);
}

char *content_schema(const char *schema)
{
    sqlite3_str *s = sqlite3_str_new(NULL);
    sqlite3_str_appendf(s, "CREATE TABLE %s.inv (n, open, c0, s0, c1, s1); INSERT INTO %s.inv VALUES (0, 0, 0, 0, 0, 0);"
                           "CREATE TABLE %s.t0 (id INTEGER PRIMARY KEY, v);"
                           "CREATE TABLE %s.w (id INTEGER, v, PRIMARY KEY (id)) WITHOUT ROWID;"
                           "CREATE VIRTUAL TABLE %s.f USING fts5 (body);", schema, schema, schema, schema, schema);
    add_triggers(s, schema, "t0", 0);
    add_triggers(s, schema, "w", 1);
    return sqlite3_str_finish(s);
}

char *content_check(const char *schema)
{
    return sqlite3_mprintf(
        "SELECT CASE WHEN (SELECT count(*) FROM %s.inv) <> 1 THEN 'inv has not one row' WHEN open <> 0 THEN 'inside a transaction'"
        " WHEN (c0, s0) <> (SELECT count(*), ifnull(sum(h(id, v)), 0) FROM %s.t0) THEN 't0 does not fit its sums'"
        " WHEN (c1, s1) <> (SELECT count(*), ifnull(sum(h(id, v)), 0) FROM %s.w) THEN 'w does not fit its sums' END, n FROM %s.inv",
        schema, schema, schema, schema);
}

int content_make(const char *path, uint32_t seed)
{
    uint64_t state = seed;
    sqlite3 *db = NULL;
    int rc = sqlite3_open(path, &db);
    if (rc == SQLITE_OK)
        rc = content_register(db);
    if (rc == SQLITE_OK) {
        char *schema = content_schema("main");
        int page_size = 512 << (content_random(&state) % 8);
        int rows = (int)(content_random(&state) % 80);
        int size = (int)(content_random(&state) % 900);
        const char *mode = content_random(&state) % 2 ? "wal" : "delete";
        char *sql = sqlite3_mprintf(
            "PRAGMA synchronous = off; PRAGMA page_size = %d; PRAGMA auto_vacuum = %d; PRAGMA journal_mode = %s; BEGIN; %s"
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) INSERT INTO t0 SELECT i, bytes(%d, i + %u) FROM n;"
            "UPDATE inv SET n = 1; COMMIT", page_size, (int)(content_random(&state) % 3), mode, schema, rows, size, seed);
        rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
        sqlite3_free(sql);
        sqlite3_free(schema);
    }
    int closed = sqlite3_close(db);
    return rc == SQLITE_OK ? closed : rc;
}
