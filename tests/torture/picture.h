/* A database as one reader sees it at one moment: its logical contents as a hash, and its pages. */
#ifndef TORTURE_PICTURE_H
#define TORTURE_PICTURE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct picture {
    int rc;             /* SQLITE_OK, or why there is none: then only error is set */
    char error[256];
    bool empty;         /* no such file, or a database without pages: the two are one state for a replica */
    uint64_t logical;   /* hash of schema texts, rows of all tables but shadow tables, user_version */
    uint64_t checksum;  /* XOR of the page checksums, as NAME-pos has it */
    uint32_t page_size; /* bytes */
    unsigned char *image; /* all pages; freed by picture_free */
    size_t size;
};

/* Takes one of database `schema` of an open connection, inside one read transaction. The caller frees it with picture_free. */
void picture_take(sqlite3 *db, const char *schema, struct picture *p);
/* The same on a connection of its own. flags: of sqlite3_open_v2. integrity: PRAGMA integrity_check must say ok, too. */
void picture_open(const char *path, int flags, bool integrity, struct picture *p);
void picture_free(struct picture *p);

/* Same logical contents. */
bool picture_same(const struct picture *a, const struct picture *b);
/* Where the pages of two differ, as a text for people; empty if nowhere. */
void picture_difference(const struct picture *a, const struct picture *b, char *text, size_t room);

/* Reads NAME-pos of the database at path. False if it is not there or not readable now. */
bool picture_position(const char *path, uint64_t *txid, uint64_t *checksum);

#endif
