/* The rows that differ between two SQLite databases in local files, table by table. Blocks; main thread. */
#ifndef EDGEFS_CTL_ROWDIFF_H
#define EDGEFS_CTL_ROWDIFF_H

#include "lib/err.h"
#include <jansson.h>
#include <stdint.h>

/* Both are read in one transaction each, with their WALs if they have any. second NULL: a database without tables. Rows of one table with the same rowid (or
 * primary key, without rowids) are the same row. Left out: sqlite_ tables, virtual tables (the tables that hold their contents are compared), generated columns.
 *
 * *out, the caller's: [{"table", "only_first": rows, "only_second": rows, "changed": rows, "schema": "CREATE …" differs (true or absent),
 *   "rows": [{"kind": "only_first"|"only_second", "key": {column: value}, "row": {column: value}},
 *            {"kind": "changed", "key": {…}, "first": {column: value, those that differ}, "second": {…}}, …]}, …]
 * with the tables that differ only, by name, and at most `limit` of each kind of rows of a table (0: all). Values: null, numbers, texts; blobs, texts that are
 * no UTF-8, and numbers that JSON has not as {"hex": "…"} or {"real": "inf"}.
 *
 * 0, ERR_CORRUPT if SQLite cannot read one of them, -ENOMEM. */
int rowdiff(const char *first, const char *second, uint64_t limit, json_t **out, struct err *e);

#endif
