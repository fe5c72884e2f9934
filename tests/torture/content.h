/* What the tester's databases hold: contents that depend on numbers alone, so that the same step gives the same bytes in the mount
 * and in the model, and the invariant that every transaction keeps.
 *
 * Schema (content_schema): t0 (id, v) and w (WITHOUT ROWID), whose triggers keep count and sum of hashes of their rows in the one row of inv; f
 * (FTS5). inv.open is 1 between a transaction's first change and its end, inv.n counts transactions. So whoever reads a state in
 * which open is not 0 or a sum does not fit its table has seen something that was never committed. */
#ifndef TORTURE_CONTENT_H
#define TORTURE_CONTENT_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Registers bytes(size, seed), words(count, seed) and h(id, blob) with a connection. An SQLite code. */
int content_register(sqlite3 *db);

/* Statements that make the schema in database `schema` (main or x) if it is not there, as one text. Freed by the caller with sqlite3_free. */
char *content_schema(const char *schema);

/* One statement that gives one row (what is wrong, or NULL; number of transactions) about database `schema`. Freed with sqlite3_free. */
char *content_check(const char *schema);

/* Makes an SQLite database file at path (there must be none): schema, rows, page size and journal mode as the seed says. An SQLite code. */
int content_make(const char *path, uint32_t seed);

/* splitmix64: the next number of a sequence. */
uint64_t content_random(uint64_t *state);

/* FNV-1a, continued from hash (start with CONTENT_HASH). */
#define CONTENT_HASH UINT64_C(0xcbf29ce484222325)
uint64_t content_hash(uint64_t hash, const void *p, size_t n);

#endif
