#include "ctl/rowdiff.h"

#include "lib/util.h"
#include <errno.h>
#include <math.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS_MAX 2000 /* SQLITE_MAX_COLUMN as Debian builds it */

/* One table that exists in the first database (alias f), the second (s), or both. */
struct pair {
    sqlite3 *db;
    const char *name;
    bool in_first, in_second;
    char *columns[COLUMNS_MAX]; /* quoted names of ordinary columns that both have (all, if only one has the table) */
    int n_columns;
    char *keys[COLUMNS_MAX]; /* quoted names of what tells rows apart */
    int n_keys;
};

static int fail(sqlite3 *db, struct err *e)
{
    int rc = sqlite3_errcode(db);
    if (rc == SQLITE_NOMEM)
        return err_errno(e, ENOMEM, "comparing");
    return err_set(e, ERR_CORRUPT, "comparing: %s", sqlite3_errmsg(db));
}

static json_t *hex(const void *p, int n)
{
    const uint8_t *bytes = p;
    char *text = malloc((size_t)n * 2 + 1);
    json_t *o = NULL;
    if (text) {
        for (int i = 0; i < n; i++)
            sprintf(text + 2 * i, "%02x", bytes[i]);
        text[2 * n] = 0;
        o = json_pack("{s:s}", "hex", text);
    }
    free(text);
    return o;
}

static json_t *value(sqlite3_stmt *st, int i)
{
    double real;
    json_t *o;
    switch (sqlite3_column_type(st, i)) {
    case SQLITE_INTEGER:
        return json_integer(sqlite3_column_int64(st, i));
    case SQLITE_FLOAT:
        real = sqlite3_column_double(st, i);
        return isfinite(real) ? json_real(real) : json_pack("{s:s}", "real", real > 0 ? "inf" : "-inf");
    case SQLITE_TEXT:
        o = json_stringn((const char *)sqlite3_column_text(st, i), (size_t)sqlite3_column_bytes(st, i));
        return o ? o : hex(sqlite3_column_text(st, i), sqlite3_column_bytes(st, i));
    case SQLITE_BLOB:
        return hex(sqlite3_column_blob(st, i), sqlite3_column_bytes(st, i));
    default:
        return json_null();
    }
}

/* Columns from..to of a row, by the names that the statement gives them. */
static json_t *values(sqlite3_stmt *st, int from, int to)
{
    json_t *o = json_object();
    for (int i = from; o && i < to; i++)
        if (json_object_set_new_nocheck(o, sqlite3_column_name(st, i), value(st, i))) {
            json_decref(o);
            o = NULL;
        }
    return o;
}


/* Ordinary columns of the table in `schema`, and its key. only: keep those that are in p->columns already. */
static int read_columns(struct pair *p, const char *schema, bool only, struct err *e)
{
    sqlite3_stmt *st = NULL;
    char *found[COLUMNS_MAX];
    int n = 0, rc = 0;
    if (sqlite3_prepare_v2(p->db, "SELECT name FROM pragma_table_xinfo(?1, ?2) WHERE hidden = 0", -1, &st, NULL) ||
        sqlite3_bind_text(st, 1, p->name, -1, SQLITE_STATIC) || sqlite3_bind_text(st, 2, schema, -1, SQLITE_STATIC))
        rc = fail(p->db, e);
    while (!rc && sqlite3_step(st) == SQLITE_ROW && n < COLUMNS_MAX) {
        char *quoted = sqlite3_mprintf("\"%w\"", sqlite3_column_text(st, 0));
        bool keep = quoted && !only;
        for (int i = 0; quoted && only && i < p->n_columns; i++)
            keep = keep || !sqlite3_stricmp(p->columns[i], quoted);
        if (keep)
            found[n++] = quoted;
        else
            sqlite3_free(quoted);
    }
    if (sqlite3_finalize(st) && !rc)
        rc = fail(p->db, e);
    for (int i = 0; i < p->n_columns; i++)
        sqlite3_free(p->columns[i]);
    memcpy(p->columns, found, (size_t)n * sizeof *found);
    p->n_columns = n;
    return rc;
}

/* The primary key of a table without rowids, else the name by which the rowid can be had. */
static int read_keys(struct pair *p, const char *schema, struct err *e)
{
    static const char *const rowids[] = {"rowid", "_rowid_", "oid"};
    sqlite3_stmt *st = NULL;
    int rc = 0;
    char *sql = sqlite3_mprintf("SELECT i.name, l.wr FROM pragma_table_list l LEFT JOIN pragma_table_xinfo(%Q, %Q) i ON l.wr AND i.pk > 0 "
                                "WHERE l.schema = %Q AND l.name = %Q ORDER BY i.pk",
                                p->name, schema, schema, p->name);
    if (!sql || sqlite3_prepare_v2(p->db, sql, -1, &st, NULL))
        rc = fail(p->db, e);
    while (!rc && sqlite3_step(st) == SQLITE_ROW && p->n_keys < COLUMNS_MAX)
        if (sqlite3_column_int(st, 1) && sqlite3_column_text(st, 0))
            p->keys[p->n_keys++] = sqlite3_mprintf("\"%w\"", sqlite3_column_text(st, 0));
    if (sqlite3_finalize(st) && !rc)
        rc = fail(p->db, e);
    sqlite3_free(sql);
    for (size_t k = 0; !rc && !p->n_keys && k < ARRAY_SIZE(rowids); k++) {
        bool taken = false;
        char *quoted = sqlite3_mprintf("\"%w\"", rowids[k]);
        for (int i = 0; i < p->n_columns; i++)
            taken = taken || !sqlite3_stricmp(p->columns[i], quoted);
        if (taken)
            sqlite3_free(quoted);
        else
            p->keys[p->n_keys++] = quoted;
    }
    return rc;
}

/* Adds `prefix.name AS "name"` for each, with commas, to s. */
static void add_names(sqlite3_str *s, char *const *names, int n, const char *prefix)
{
    for (int i = 0; i < n; i++)
        sqlite3_str_appendf(s, "%s%s.%s AS %s", sqlite3_str_length(s) > 7 ? ", " : " ", prefix, names[i], names[i]);
}

static void add_same_keys(sqlite3_str *s, const struct pair *p)
{
    for (int i = 0; i < p->n_keys; i++)
        sqlite3_str_appendf(s, "%s f.%s IS s.%s", i ? " AND" : "", p->keys[i], p->keys[i]);
}

/* Runs the statement, whose first n_keys columns are the key, and describes at most limit rows. *count: how many there are. Takes sql. */
static int collect(struct pair *p, char *sql, const char *kind, uint64_t limit, json_t *rows, uint64_t *count, struct err *e)
{
    sqlite3_stmt *st = NULL;
    bool changed = !strcmp(kind, "changed");
    int rc = !sql ? err_errno(e, ENOMEM, "comparing") : sqlite3_prepare_v2(p->db, sql, -1, &st, NULL) ? fail(p->db, e) : 0;
    while (!rc && sqlite3_step(st) == SQLITE_ROW) {
        if ((*count)++ >= limit && limit)
            continue;
        int k = p->n_keys, n = p->n_columns;
        json_t *row = json_pack("{s:s,s:o}", "kind", kind, "key", values(st, 0, k));
        if (!row)
            rc = err_errno(e, ENOMEM, "comparing");
        else if (!changed)
            json_object_set_new(row, "row", values(st, k, k + n));
        else {
            json_t *first = json_object(), *second = json_object();
            for (int i = 0; i < n; i++) {
                if (!sqlite3_column_int(st, k + 2 * n + i))
                    continue;
                json_object_set_new_nocheck(first, sqlite3_column_name(st, k + i), value(st, k + i));
                json_object_set_new_nocheck(second, sqlite3_column_name(st, k + i), value(st, k + n + i));
            }
            json_object_set_new(row, "first", first);
            json_object_set_new(row, "second", second);
        }
        json_array_append_new(rows, row);
    }
    if (sqlite3_finalize(st) && !rc)
        rc = fail(p->db, e);
    sqlite3_free(sql);
    return rc;
}

/* Rows of one database that the other has not. */
static int only_in(struct pair *p, bool first, uint64_t limit, json_t *rows, uint64_t *count, struct err *e)
{
    sqlite3_str *s = sqlite3_str_new(p->db);
    const char *own = first ? "f" : "s", *here = first ? "main" : "second", *there = first ? "second" : "main";
    sqlite3_str_appendall(s, "SELECT");
    add_names(s, p->keys, p->n_keys, own);
    add_names(s, p->columns, p->n_columns, own);
    sqlite3_str_appendf(s, " FROM %s.\"%w\" AS %s", here, p->name, own);
    if (p->in_first && p->in_second) {
        sqlite3_str_appendf(s, " WHERE NOT EXISTS (SELECT 1 FROM %s.\"%w\" AS %s WHERE", there, p->name, first ? "s" : "f");
        add_same_keys(s, p);
        sqlite3_str_appendall(s, ")");
    }
    return collect(p, sqlite3_str_finish(s), first ? "only_first" : "only_second", limit, rows, count, e);
}

static int changed_in(struct pair *p, uint64_t limit, json_t *rows, uint64_t *count, struct err *e)
{
    sqlite3_str *s = sqlite3_str_new(p->db);
    sqlite3_str_appendall(s, "SELECT");
    add_names(s, p->keys, p->n_keys, "f");
    add_names(s, p->columns, p->n_columns, "f");
    add_names(s, p->columns, p->n_columns, "s");
    for (int i = 0; i < p->n_columns; i++) /* 1 and 1.0 are not the same, nor are texts that only a collation makes equal */
        sqlite3_str_appendf(s, ", f.%s IS NOT s.%s COLLATE BINARY OR typeof(f.%s) <> typeof(s.%s) AS \"differs %d\"", p->columns[i], p->columns[i], p->columns[i],
                            p->columns[i], i);
    sqlite3_str_appendf(s, " FROM main.\"%w\" AS f JOIN second.\"%w\" AS s ON", p->name, p->name);
    add_same_keys(s, p);
    sqlite3_str_appendall(s, " WHERE 0");
    for (int i = 0; i < p->n_columns; i++)
        sqlite3_str_appendf(s, " OR \"differs %d\"", i);
    return collect(p, sqlite3_str_finish(s), "changed", limit, rows, count, e);
}

static int compare_table(struct pair *p, bool other_schema, uint64_t limit, json_t *out, struct err *e)
{
    uint64_t only_first = 0, only_second = 0, changed = 0;
    json_t *rows = json_array();
    int rc = read_columns(p, p->in_first ? "main" : "second", false, e);
    if (!rc && p->in_first && p->in_second)
        rc = read_columns(p, "second", true, e);
    if (!rc)
        rc = read_keys(p, p->in_first ? "main" : "second", e);
    if (!rc && !p->n_keys)
        rc = err_set(e, ERR_CORRUPT, "comparing: the rows of %s cannot be told apart", p->name);
    if (!rc && p->in_first)
        rc = only_in(p, true, limit, rows, &only_first, e);
    if (!rc && p->in_second)
        rc = only_in(p, false, limit, rows, &only_second, e);
    if (!rc && p->in_first && p->in_second)
        rc = changed_in(p, limit, rows, &changed, e);
    if (!rc && (only_first || only_second || changed || other_schema)) {
        json_t *o = json_pack("{s:s,s:I,s:I,s:I,s:O}", "table", p->name, "only_first", (json_int_t)only_first, "only_second", (json_int_t)only_second, "changed",
                              (json_int_t)changed, "rows", rows);
        if (other_schema)
            json_object_set_new(o, "schema", json_true());
        if (!o || json_array_append_new(out, o))
            rc = err_errno(e, ENOMEM, "comparing");
    }
    json_decref(rows);
    for (int i = 0; i < p->n_columns; i++)
        sqlite3_free(p->columns[i]);
    for (int i = 0; i < p->n_keys; i++)
        sqlite3_free(p->keys[i]);
    return rc;
}

static int open_both(const char *first, const char *second, sqlite3 **db, struct err *e)
{
    if (sqlite3_open_v2(first, db, SQLITE_OPEN_READWRITE, NULL))
        return *db ? fail(*db, e) : err_errno(e, ENOMEM, "comparing");
    char *attach = sqlite3_mprintf("ATTACH %Q AS second; PRAGMA trusted_schema=0; PRAGMA query_only=1; BEGIN", second ? second : ":memory:");
    int rc = !attach ? err_errno(e, ENOMEM, "comparing") : sqlite3_exec(*db, attach, NULL, NULL, NULL) ? fail(*db, e) : 0;
    sqlite3_free(attach);
    return rc;
}

int rowdiff(const char *first, const char *second, uint64_t limit, json_t **out, struct err *e)
{
    static const char tables[] =
        "SELECT name, max(f), max(s), count(DISTINCT sql) FROM "
        "(SELECT name, sql, 1 AS f, 0 AS s FROM main.sqlite_schema WHERE type = 'table' UNION ALL SELECT name, sql, 0, 1 FROM second.sqlite_schema WHERE type = 'table') "
        "WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND sql NOT LIKE 'CREATE VIRTUAL%' GROUP BY name ORDER BY name";
    sqlite3 *db = NULL;
    sqlite3_stmt *st = NULL;
    struct pair *p = malloc(sizeof *p);
    json_t *list = json_array();
    int rc = p && list ? open_both(first, second, &db, e) : err_errno(e, ENOMEM, "comparing");
    if (!rc && sqlite3_prepare_v2(db, tables, -1, &st, NULL))
        rc = fail(db, e);
    int step = SQLITE_DONE;
    while (!rc && (step = sqlite3_step(st)) == SQLITE_ROW) {
        *p = (struct pair){.db = db, .name = (const char *)sqlite3_column_text(st, 0), .in_first = sqlite3_column_int(st, 1), .in_second = sqlite3_column_int(st, 2)};
        rc = compare_table(p, p->in_first && p->in_second && sqlite3_column_int(st, 3) > 1, limit, list, e);
    }
    if (!rc && step != SQLITE_DONE)
        rc = fail(db, e);
    sqlite3_finalize(st);
    sqlite3_close(db);
    free(p);
    if (rc)
        json_decref(list);
    else
        *out = list;
    return rc;
}
