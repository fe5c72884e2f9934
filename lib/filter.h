/* Which databases a replica has (configuration: databases.include, databases.exclude), and how it asks for them. A filtered stream has every LSN: what
 * is left out comes as a NOOP, so positions mean the same on all nodes. Any thread. */
#ifndef EDGEFS_FILTER_H
#define EDGEFS_FILTER_H

#include "lib/config.h"
#include <stddef.h>

#define FILTER_MAX 1024 /* bytes of the patterns of one list, separated by commas, with the NUL */

/* What a client of a stream wants: lists of patterns as fnmatch takes them ('*' also matches '/'), ',' between them; no include: all. */
struct filter {
    char include[FILTER_MAX], exclude[FILTER_MAX];
};

/* -ENAMETOOLONG if a list is longer than FILTER_MAX (the configuration is checked for that). */
int filter_of_config(const struct config *c, struct filter *f);
bool filter_everything(const struct filter *f);
bool filter_same(const struct filter *a, const struct filter *b);
bool filter_wants(const struct filter *f, const char *name);
/* Appends "&include=…&exclude=…" (percent-encoded, RFC 3986 §2.1) to the text in buf; nothing if it wants everything. False: no room. */
bool filter_add_query(const struct filter *f, char *buf, size_t size);

/* The filter with which what lies in the data directory was made, in the file LAYOUT_FILTER there (none: everything). save: durable. */
bool filter_unchanged(int data_fd, const struct filter *f);
int filter_save(int data_fd, const struct filter *f, struct err *e);

#endif
