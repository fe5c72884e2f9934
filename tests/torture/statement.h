/* The steps that one connection carries out: each a line of words, such as "insert 2 main t0 1 50 300 77". README.md lists them. */
#ifndef TORTURE_STATEMENT_H
#define TORTURE_STATEMENT_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>

#define STATEMENT_WORDS 12
#define STATEMENT_TEXT 200

/* One connection to one directory: the model's or the mount's. */
struct side {
    sqlite3 *db;
    const char *root; /* folder of the databases */
    bool marked[2];   /* inv.open is set in this transaction, in main and in x */
    bool touched[2];  /* it was, at some time in this transaction: its end has to be noted */
};

/* Carries out one step on one side. text (STATEMENT_TEXT bytes) gets what must be equal on both sides besides the code: rows, changes, the mode
 * that a PRAGMA answered. Returns an SQLite primary code; SQLITE_MISUSE if the words are no step of a connection. */
int statement_run(struct side *s, int n, char *const *word, char *text);

/* journal_mode of schema main or x as this connection has it; "" if it cannot be told (no such schema, locked). */
void statement_mode(struct side *s, const char *schema, char *mode, size_t room);

/* Commits as the step "commit" does; rolls back. SQLite codes. */
int statement_commit(struct side *s);
int statement_rollback(struct side *s);

/* Splits a line into words, in place. Returns how many, at most STATEMENT_WORDS. */
int statement_split(char *line, char **word);

#endif
