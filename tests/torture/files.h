/* The database files of a run, in three places: primary, replica, model. What cp, mv and rm do to them. */
#ifndef TORTURE_FILES_H
#define TORTURE_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FILES_DATABASES 3

enum files_place { FILES_PRIMARY, FILES_REPLICA, FILES_MODEL };

struct files {
    const char *root[3];
    bool moved[FILES_DATABASES]; /* it goes by its other name now */
    long retries;
};

/* All names that may occur, NULL at the end. */
extern const char *const files_names[];

/* Keeps the pointers. Makes the folders that names need. */
void files_init(struct files *f, const char *primary, const char *replica, const char *model);
const char *files_name(const struct files *f, int database);
void files_path(const struct files *f, enum files_place place, int database, char *path, size_t room);

/* All of the below: false with a text in error.
 * Opens and closes it on primary and model, so that no WAL and no hot journal is left. Nobody else has it open. */
bool files_settle(struct files *f, int database, char *error, size_t room);
/* Path of the database file of that seed, made at its first use. */
bool files_source(struct files *f, unsigned seed, char *path, size_t path_room, char *error, size_t room);
/* cp of the file of that seed over the database's name, or beside it and renamed over it. */
bool files_copy_in(struct files *f, int database, unsigned seed, bool rename_over, char *error, size_t room);
bool files_remove(struct files *f, int database, char *error, size_t room);
/* mv to its other name. */
bool files_move(struct files *f, int database, char *error, size_t room);

/* inv.n of the database on the primary, as a new connection (which recovers it if need be) sees it. False: it cannot be read. */
bool files_transactions(struct files *f, int database, int64_t *n);

#endif
