/* The comparison: primary equals model, replica equals primary, positions and page checksums say the same. */
#ifndef TORTURE_CHECK_H
#define TORTURE_CHECK_H

#include "tests/torture/actor.h"
#include "tests/torture/files.h"

/* Compares one database in the three places. Primary and model must agree at once; the replica within a bounded time. owner: the connection that keeps
 * it locked for itself and therefore must be the one that reads it, or NULL. False with a text in error. */
bool check_database(struct files *f, int database, struct actor *owner, char *error, size_t room);

#endif
