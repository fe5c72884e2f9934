#include "tests/torture/picture.h"

#include "lib/crc.h"
#include "lib/util.h"
#include "tests/torture/content.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void hash_row(uint64_t *hash, sqlite3_stmt *q)
{
    for (int i = 0; i < sqlite3_column_count(q); i++) {
        int type = sqlite3_column_type(q, i);
        const void *p = sqlite3_column_blob(q, i);
        int n = sqlite3_column_bytes(q, i);
        *hash = content_hash(*hash, &type, sizeof type);
        *hash = content_hash(*hash, &n, sizeof n);
        *hash = content_hash(*hash, p, (size_t)n);
    }
}

/* Hashes all rows of a statement. Takes over sql. */
static int hash_query(sqlite3 *db, char *sql, uint64_t *hash)
{
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &q, NULL);
    while (rc == SQLITE_OK && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        hash_row(hash, q);
        rc = SQLITE_OK;
    }
    int end = sqlite3_finalize(q);
    sqlite3_free(sql);
    return rc == SQLITE_DONE ? SQLITE_OK : rc != SQLITE_OK ? rc : end;
}

static int hash_logical(sqlite3 *db, const char *schema, uint64_t *hash)
{
    *hash = CONTENT_HASH;
    int rc = hash_query(db, sqlite3_mprintf("PRAGMA %s.user_version", schema), hash);
    if (rc == SQLITE_OK)
        rc = hash_query(db, sqlite3_mprintf("SELECT type, name, tbl_name, sql FROM %s.sqlite_schema ORDER BY 1, 2", schema), hash);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_stmt *q = NULL;
    char *sql = sqlite3_mprintf("SELECT name FROM %s.sqlite_schema WHERE type = 'table' AND name NOT GLOB '*[_]*' ORDER BY 1", schema);
    rc = sqlite3_prepare_v2(db, sql, -1, &q, NULL);
    sqlite3_free(sql);
    while (rc == SQLITE_OK && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(q, 0);
        const char *row = strcmp(name, "f") == 0 ? "rowid, *" : "*";
        rc = hash_query(db, sqlite3_mprintf("SELECT %s FROM %s.%s ORDER BY 1", row, schema, name), hash);
    }
    int end = sqlite3_finalize(q);
    return rc == SQLITE_DONE ? SQLITE_OK : rc != SQLITE_OK ? rc : end;
}

static void fail(struct picture *p, sqlite3 *db, int rc, const char *what)
{
    p->rc = rc & 0xff;
    (void)snprintf(p->error, sizeof p->error, "%s: %d %s", what, rc, sqlite3_errmsg(db));
}

static void sum_pages(struct picture *p)
{
    p->page_size = (uint32_t)p->image[16] << 8 | p->image[17];
    if (p->page_size == 1)
        p->page_size = 65536;
    p->checksum = 0;
    for (uint32_t n = 1; p->page_size && (uint64_t)n * p->page_size <= p->size; n++)
        if (n != lock_pgno(p->page_size))
            p->checksum ^= page_checksum(n, p->image + (size_t)(n - 1) * p->page_size, p->page_size);
    p->checksum |= CHECKSUM_FLAG;
}

void picture_take(sqlite3 *db, const char *schema, struct picture *p)
{
    memset(p, 0, sizeof *p);
    /* A savepoint works inside a transaction as well as outside of one. Everything below is then one snapshot. */
    int rc = sqlite3_exec(db, "SAVEPOINT picture", NULL, NULL, NULL);
    if (rc != SQLITE_OK) {
        fail(p, db, rc, "savepoint");
        return;
    }
    rc = hash_logical(db, schema, &p->logical);
    if (rc != SQLITE_OK) {
        fail(p, db, rc, "reading the rows");
    } else {
        sqlite3_int64 size = 0;
        p->image = sqlite3_serialize(db, schema, &size, 0);
        p->size = (size_t)size;
        p->empty = size == 0;
        if (!p->image && size > 0)
            fail(p, db, SQLITE_BUSY, "reading the pages");
        else if (size >= 100)
            sum_pages(p);
    }
    rc = sqlite3_exec(db, "RELEASE picture", NULL, NULL, NULL);
    if (rc != SQLITE_OK && p->rc == SQLITE_OK)
        fail(p, db, rc, "release");
}

static void check_integrity(sqlite3 *db, struct picture *p)
{
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_prepare_v2(db, "PRAGMA integrity_check(3)", -1, &q, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(q, 0);
        if (text && strcmp(text, "ok") != 0) {
            p->rc = SQLITE_CORRUPT;
            (void)snprintf(p->error, sizeof p->error, "integrity_check: %s", text);
        }
    } else {
        fail(p, db, rc, "integrity_check");
    }
    (void)sqlite3_finalize(q);
}

void picture_open(const char *path, int flags, bool integrity, struct picture *p)
{
    memset(p, 0, sizeof *p);
    struct stat st;
    if (stat(path, &st) || st.st_size == 0) {
        p->empty = true;
        return;
    }
    sqlite3 *db = NULL;
    int rc = sqlite3_open_v2(path, &db, flags, NULL);
    if (rc == SQLITE_OK)
        rc = content_register(db);
    if (rc != SQLITE_OK) {
        fail(p, db, rc, "open");
    } else {
        picture_take(db, "main", p);
        if (integrity && p->rc == SQLITE_OK && !p->empty)
            check_integrity(db, p);
    }
    (void)sqlite3_close(db);
}

void picture_free(struct picture *p)
{
    sqlite3_free(p->image);
    p->image = NULL;
}

bool picture_same(const struct picture *a, const struct picture *b)
{
    return a->rc == SQLITE_OK && b->rc == SQLITE_OK && a->empty == b->empty && a->logical == b->logical;
}

void picture_difference(const struct picture *a, const struct picture *b, char *text, size_t room)
{
    *text = 0;
    size_t len = 0, both = MIN(a->size, b->size), step = a->page_size ? a->page_size : 512;
    if (a->size != b->size)
        len = (size_t)snprintf(text, room, "sizes %zu and %zu, page sizes %u and %u;", a->size, b->size, a->page_size, b->page_size);
    for (size_t at = 0; at + step <= both && len + 40 < room; at += step) {
        if (memcmp(a->image + at, b->image + at, step) == 0)
            continue;
        size_t i = 0;
        while (a->image[at + i] == b->image[at + i])
            i++;
        len += (size_t)snprintf(text + len, room - len, " page %zu from byte %zu", at / step + 1, i);
    }
}

bool picture_position(const char *path, uint64_t *txid, uint64_t *checksum)
{
    char name[4200];
    (void)snprintf(name, sizeof name, "%s-pos", path);
    FILE *f = fopen(name, "re");
    if (!f)
        return false;
    int n = fscanf(f, "%16" SCNx64 "/%16" SCNx64, txid, checksum);
    (void)fclose(f);
    return n == 2;
}
