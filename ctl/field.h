/* Reading members of JSON answers: from another program, so each may be missing or of another type. */
#ifndef EDGEFS_CTL_FIELD_H
#define EDGEFS_CTL_FIELD_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* path: member names with dots between them ("log.last_lsn"). NULL if there is no such thing. Borrowed. */
const json_t *field_get(const json_t *j, const char *path);

/* A number that is not negative: true and *v; otherwise false and *v untouched. */
bool field_u64(const json_t *j, const char *path, uint64_t *v);
/* The number, or def. */
uint64_t field_u64_or(const json_t *j, const char *path, uint64_t def);
/* A string, borrowed, or NULL. */
const char *field_text(const json_t *j, const char *path);
/* A string or def. */
const char *field_text_or(const json_t *j, const char *path, const char *def);
/* True if the member is true. */
bool field_true(const json_t *j, const char *path);

/* Prints j to standard output, indented (or in one line), and a newline. Takes the reference. Out of memory: CTL_LOCAL and a message, else 0. */
int field_print(json_t *j, bool one_line);

#endif
