/* What a file is, judged by its name: SQLite's companion files are told apart by suffix (https://sqlite.org/tempfiles.html),
 * and a few names are ours (edgefs/layout.h). Pure functions, any thread. */
#ifndef EDGEFS_FS_NAMES_H
#define EDGEFS_FS_NAMES_H

#include "edgefs/layout.h"
#include <stdbool.h>
#include <stddef.h>

enum name_kind {
    NAME_PLAIN,   /* may be a database */
    NAME_WAL,     /* BASE-wal */
    NAME_SHM,     /* BASE-shm */
    NAME_JOURNAL, /* BASE-journal */
    NAME_POS,     /* BASE-pos: virtual where BASE exists, otherwise an ordinary file */
    NAME_PRIVATE, /* .edgefs-…: for the replicator alone */
};

/* Kind of the last component name[0..len). *base_len (may be NULL) is the length of the database's name in it: len itself for
 * plain and private names. A suffix with nothing before it is a plain name. */
enum name_kind name_kind(const char *name, size_t len, size_t *base_len);

/* May this file be a database? (Regular files only; the caller knows that.) */
static inline bool name_is_database(enum name_kind k)
{
    return k == NAME_PLAIN;
}

#endif
