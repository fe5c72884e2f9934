#include "tests/torture/statement.h"

#include "tests/torture/content.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS "WITH RECURSIVE n (i) AS (SELECT %s UNION ALL SELECT i + 1 FROM n WHERE i < %s + %s - 1) "
#define CHUNK 4096 /* bytes of an incremental blob write */

int statement_split(char *line, char **word)
{
    int n = 0;
    char *save = NULL;
    for (char *w = strtok_r(line, " \t\r\n", &save); w && n < STATEMENT_WORDS; w = strtok_r(NULL, " \t\r\n", &save))
        word[n++] = w;
    return n;
}

static int exec(struct side *s, char *sql)
{
    int rc = sql ? sqlite3_exec(s->db, sql, NULL, NULL, NULL) : SQLITE_NOMEM;
    sqlite3_free(sql);
    return rc & 0xff;
}

/* Runs a query and writes its first row into text. */
static int query(struct side *s, char *sql, char *text)
{
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_prepare_v2(s->db, sql, -1, &q, NULL);
    sqlite3_free(sql);
    size_t len = 0;
    while (rc == SQLITE_OK && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(q) && len == 0; i++) {
            const char *v = (const char *)sqlite3_column_text(q, i);
            (void)snprintf(text + strlen(text), STATEMENT_TEXT - strlen(text), "%s%s", i ? "," : "", v ? v : "-");
        }
        len = 1;
        rc = SQLITE_OK;
    }
    int end = sqlite3_finalize(q);
    return (rc == SQLITE_DONE ? SQLITE_OK : rc != SQLITE_OK ? rc : end) & 0xff;
}

void statement_mode(struct side *s, const char *schema, char *mode, size_t room)
{
    char text[STATEMENT_TEXT] = "";
    int rc = query(s, sqlite3_mprintf("PRAGMA %s.journal_mode", schema), text);
    (void)snprintf(mode, room, "%s", rc == SQLITE_OK ? text : "");
}

/* Notes in the database that a transaction is under way, before its first change. */
static int mark(struct side *s, const char *schema)
{
    int i = strcmp(schema, "x") == 0;
    if (sqlite3_get_autocommit(s->db) || s->marked[i])
        return SQLITE_OK;
    int rc = exec(s, sqlite3_mprintf("UPDATE %s.inv SET open = 1", schema));
    s->marked[i] = rc == SQLITE_OK;
    s->touched[i] |= s->marked[i];
    return rc == SQLITE_ERROR ? SQLITE_OK : rc; /* no schema yet: nothing to mark */
}

static int change(struct side *s, const char *schema, char *sql, char *text)
{
    int rc = mark(s, schema);
    if (rc == SQLITE_OK) {
        rc = exec(s, sql);
        if (rc == SQLITE_OK)
            (void)snprintf(text, STATEMENT_TEXT, "%d changes", sqlite3_changes(s->db));
    } else {
        sqlite3_free(sql);
    }
    return rc;
}

static void unmark(struct side *s)
{
    s->marked[0] = s->marked[1] = s->touched[0] = s->touched[1] = false;
}

int statement_commit(struct side *s)
{
    for (int i = 0; i < 2; i++) {
        if (!s->touched[i])
            continue;
        int rc = exec(s, sqlite3_mprintf("UPDATE %s.inv SET open = 0, n = n + 1", i ? "x" : "main"));
        if (rc != SQLITE_OK)
            return rc;
        s->marked[i] = s->touched[i] = false;
    }
    int rc = exec(s, sqlite3_mprintf("COMMIT"));
    if (rc == SQLITE_OK)
        unmark(s);
    return rc;
}

int statement_rollback(struct side *s)
{
    int rc = exec(s, sqlite3_mprintf("ROLLBACK"));
    if (sqlite3_get_autocommit(s->db))
        unmark(s);
    return rc;
}

/* ---- verbs: words[0] is the verb, [1] the connection ---- */

typedef int verb_fn(struct side *, char *const *, char *);

static int verb_setup(struct side *s, char *const *w, char *text)
{
    (void)text;
    char *schema = content_schema(w[2]);
    int rc = exec(s, sqlite3_mprintf("SAVEPOINT setup; %s RELEASE setup", schema));
    sqlite3_free(schema);
    if (rc != SQLITE_OK)
        (void)sqlite3_exec(s->db, "ROLLBACK TO setup; RELEASE setup", NULL, NULL, NULL);
    return rc;
}

static int verb_begin(struct side *s, char *const *w, char *text)
{
    (void)text;
    int rc = exec(s, sqlite3_mprintf("BEGIN %s", w[2]));
    if (rc == SQLITE_OK)
        unmark(s);
    return rc;
}

static int verb_commit(struct side *s, char *const *w, char *text)
{
    (void)w;
    (void)text;
    return statement_commit(s);
}

static int verb_rollback(struct side *s, char *const *w, char *text)
{
    (void)w;
    (void)text;
    return statement_rollback(s);
}

/* Inside a transaction always, so that it is a commit that ends one. */
static int verb_savepoint(struct side *s, char *const *w, char *text)
{
    (void)text;
    int rc = sqlite3_get_autocommit(s->db) ? exec(s, sqlite3_mprintf("BEGIN")) : SQLITE_OK;
    if (rc != SQLITE_OK)
        return rc;
    return exec(s, sqlite3_mprintf("SAVEPOINT %s", w[2]));
}

static int verb_release(struct side *s, char *const *w, char *text)
{
    (void)text;
    return exec(s, sqlite3_mprintf("RELEASE %s", w[2]));
}

static int verb_rollbackto(struct side *s, char *const *w, char *text)
{
    (void)text;
    s->marked[0] = s->marked[1] = false; /* it may have been taken back, too */
    return exec(s, sqlite3_mprintf("ROLLBACK TO %s", w[2]));
}

/* insert C SCHEMA TABLE FIRST COUNT SIZE SEED */
static int verb_insert(struct side *s, char *const *w, char *text)
{
    if (strcmp(w[3], "f") == 0)
        return change(s, w[2], sqlite3_mprintf(ROWS "INSERT INTO %s.f (rowid, body) SELECT i, words(%s / 8, i + %s) FROM n"
                      " WHERE i NOT IN (SELECT rowid FROM %s.f)", w[4], w[4], w[5], w[2], w[6], w[7], w[2]), text);
    return change(s, w[2], sqlite3_mprintf(ROWS "INSERT OR IGNORE INTO %s.%s (id, v) SELECT i, bytes(%s, i + %s) FROM n", w[4], w[4], w[5],
                  w[2], w[3], w[6], w[7]), text);
}

static int verb_update(struct side *s, char *const *w, char *text)
{
    if (strcmp(w[3], "f") == 0)
        return change(s, w[2], sqlite3_mprintf("UPDATE %s.f SET body = words(%s / 8, rowid + %s) WHERE rowid BETWEEN %s AND %s + %s - 1", w[2],
                      w[6], w[7], w[4], w[4], w[5]), text);
    return change(s, w[2], sqlite3_mprintf("UPDATE %s.%s SET v = bytes(%s, id + %s) WHERE id BETWEEN %s AND %s + %s - 1", w[2], w[3], w[6], w[7],
                  w[4], w[4], w[5]), text);
}

/* burst C SCHEMA ID COUNT SEED: COUNT transactions (statements, inside one) one right after the other, all on the same few pages: capture finds many versions of each
 * in one look. To repeat it has the same outcome. */
static int verb_burst(struct side *s, char *const *w, char *text)
{
    int id = atoi(w[3]), rc = SQLITE_OK;
    for (int i = 0; i < atoi(w[4]) && rc == SQLITE_OK; i++)
        rc = change(s, w[2], sqlite3_mprintf("INSERT INTO %s.t0 (id, v) VALUES (%d, bytes(%d, %d + %s)) ON CONFLICT (id) DO UPDATE SET v = excluded.v", w[2], id + i % 3, 20 + i % 40, i, w[5]), text);
    return rc;
}

static int verb_delete(struct side *s, char *const *w, char *text)
{
    const char *id = strcmp(w[3], "f") == 0 ? "rowid" : "id";
    return change(s, w[2], sqlite3_mprintf("DELETE FROM %s.%s WHERE %s BETWEEN %s AND %s + %s - 1", w[2], w[3], id, w[4], w[4], w[5]), text);
}

static int verb_create(struct side *s, char *const *w, char *text)
{
    const char *kind = w[4];
    if (strcmp(kind, "norowid") == 0)
        return change(s, w[2], sqlite3_mprintf("CREATE TABLE %s.%s (id INTEGER PRIMARY KEY, v) WITHOUT ROWID", w[2], w[3]), text);
    if (strcmp(kind, "rtree") == 0)
        return change(s, w[2], sqlite3_mprintf("CREATE VIRTUAL TABLE %s.%s USING rtree (id, v, v2)", w[2], w[3]), text);
    if (strcmp(kind, "auto") == 0)
        return change(s, w[2], sqlite3_mprintf("CREATE TABLE %s.%s (id INTEGER PRIMARY KEY AUTOINCREMENT, v)", w[2], w[3]), text);
    return change(s, w[2], sqlite3_mprintf("CREATE TABLE %s.%s (id INTEGER PRIMARY KEY, v)", w[2], w[3]), text);
}

static int verb_drop(struct side *s, char *const *w, char *text)
{
    return change(s, w[2], sqlite3_mprintf("DROP TABLE %s.%s", w[2], w[3]), text);
}

static int verb_index(struct side *s, char *const *w, char *text)
{
    return change(s, w[2], sqlite3_mprintf("CREATE INDEX %s.i%s ON %s (v, id)", w[2], w[3], w[3]), text);
}

static int verb_dropindex(struct side *s, char *const *w, char *text)
{
    return change(s, w[2], sqlite3_mprintf("DROP INDEX %s.i%s", w[2], w[3]), text);
}

static int write_blob(struct side *s, char *const *w, char *text)
{
    sqlite3_blob *b = NULL;
    int rc = sqlite3_blob_open(s->db, w[2], w[3], "v", atoll(w[4]), 1, &b);
    if (rc == SQLITE_OK) {
        int size = sqlite3_blob_bytes(b), from = size ? atoi(w[5]) % size : 0, n = atoi(w[6]);
        uint64_t state = (uint64_t)atoll(w[7]);
        char buf[CHUNK];
        for (n = n > size - from ? size - from : n; rc == SQLITE_OK && n > 0;) {
            int k = n < CHUNK ? n : CHUNK;
            for (int i = 0; i < k; i++)
                buf[i] = (char)content_random(&state);
            rc = sqlite3_blob_write(b, buf, k, from);
            from += k;
            n -= k;
        }
        (void)snprintf(text, STATEMENT_TEXT, "blob of %d", size);
    }
    int closed = sqlite3_blob_close(b);
    return (rc == SQLITE_OK ? closed : rc) & 0xff;
}

/* blob C SCHEMA t0 ID OFFSET LENGTH SEED: no trigger sees it, so the sum is kept by hand, in one transaction with it. */
static int verb_blob(struct side *s, char *const *w, char *text)
{
    int rc = mark(s, w[2]);
    if (rc == SQLITE_OK)
        rc = exec(s, sqlite3_mprintf("SAVEPOINT blob"));
    if (rc != SQLITE_OK)
        return rc;
    static const char sum[] = "UPDATE %s.inv SET s0 = s0 %c ifnull((SELECT h(id, v) FROM %s.t0 WHERE id = %s), 0)";
    rc = exec(s, sqlite3_mprintf(sum, w[2], '-', w[2], w[4]));
    if (rc == SQLITE_OK)
        rc = write_blob(s, w, text);
    if (rc == SQLITE_OK)
        rc = exec(s, sqlite3_mprintf(sum, w[2], '+', w[2], w[4]));
    if (rc == SQLITE_OK)
        rc = exec(s, sqlite3_mprintf("RELEASE blob"));
    if (rc != SQLITE_OK)
        (void)sqlite3_exec(s->db, "ROLLBACK TO blob; RELEASE blob", NULL, NULL, NULL);
    return rc;
}

/* read C SCHEMA: what the connection sees, in its transaction. */
static int verb_read(struct side *s, char *const *w, char *text)
{
    return query(s, sqlite3_mprintf("SELECT n, c0, s0, c1, s1, (SELECT count(*) FROM %s.f WHERE f MATCH 'page') FROM %s.inv", w[2], w[2]), text);
}

/* pragma C SCHEMA NAME VALUE */
static int verb_pragma(struct side *s, char *const *w, char *text)
{
    return query(s, sqlite3_mprintf("PRAGMA %s.%s = %s", w[2], w[3], w[4]), text);
}

static int verb_vacuum(struct side *s, char *const *w, char *text)
{
    (void)text;
    return exec(s, sqlite3_mprintf("VACUUM %s", w[2]));
}

static int verb_ivacuum(struct side *s, char *const *w, char *text)
{
    (void)text;
    return exec(s, sqlite3_mprintf("PRAGMA %s.incremental_vacuum(%s)", w[2], w[3]));
}

/* checkpoint C SCHEMA MODE: only the first column of its row (busy) is told. */
static int verb_checkpoint(struct side *s, char *const *w, char *text)
{
    char row[STATEMENT_TEXT] = "";
    int rc = query(s, sqlite3_mprintf("PRAGMA %s.wal_checkpoint(%s)", w[2], w[3]), row);
    (void)snprintf(text, STATEMENT_TEXT, "%.1s", row);
    return rc;
}

/* backup C SEED FILE: sqlite3_backup of the file into main, a few pages at a time. */
static int verb_backup(struct side *s, char *const *w, char *text)
{
    (void)text;
    sqlite3 *from = NULL;
    int rc = sqlite3_open_v2(w[3], &from, SQLITE_OPEN_READONLY, NULL);
    sqlite3_backup *b = rc == SQLITE_OK ? sqlite3_backup_init(s->db, "main", from, "main") : NULL;
    if (b) {
        do
            rc = sqlite3_backup_step(b, 3);
        while (rc == SQLITE_OK);
        int end = sqlite3_backup_finish(b);
        rc = rc == SQLITE_DONE ? end : rc;
    } else if (rc == SQLITE_OK) {
        rc = sqlite3_errcode(s->db);
    }
    (void)sqlite3_close(from);
    return rc & 0xff;
}

static int verb_attach(struct side *s, char *const *w, char *text)
{
    (void)text;
    return exec(s, sqlite3_mprintf("ATTACH '%q/%q' AS x", s->root, w[2]));
}

static int verb_detach(struct side *s, char *const *w, char *text)
{
    (void)w;
    (void)text;
    return exec(s, sqlite3_mprintf("DETACH x"));
}

static const struct {
    const char *name;
    int words;
    verb_fn *run;
} verbs[] = {
    {"setup", 3, verb_setup},         {"begin", 3, verb_begin},       {"commit", 2, verb_commit},         {"rollback", 2, verb_rollback},
    {"savepoint", 3, verb_savepoint}, {"release", 3, verb_release},   {"rollbackto", 3, verb_rollbackto}, {"insert", 8, verb_insert},
    {"burst", 6, verb_burst},         {"update", 8, verb_update},       {"delete", 6, verb_delete},     {"create", 5, verb_create},         {"drop", 4, verb_drop},
    {"index", 4, verb_index},         {"dropindex", 4, verb_dropindex}, {"blob", 8, verb_blob},           {"read", 3, verb_read},
    {"pragma", 5, verb_pragma},       {"vacuum", 3, verb_vacuum},     {"ivacuum", 4, verb_ivacuum},       {"checkpoint", 4, verb_checkpoint},
    {"backup", 4, verb_backup},       {"attach", 3, verb_attach},     {"detach", 2, verb_detach},
};

int statement_run(struct side *s, int n, char *const *word, char *text)
{
    *text = 0;
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (n == verbs[i].words && strcmp(word[0], verbs[i].name) == 0)
            return verbs[i].run(s, word, text);
    return SQLITE_MISUSE;
}
