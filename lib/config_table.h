/* What the keys of the file (config.c) and those of an entry of `proxy:` (config_proxy.c) have in common: a table of keys, values that are stored by it, and the
 * walk over a mapping with its sections. */
#ifndef EDGEFS_CONFIG_TABLE_H
#define EDGEFS_CONFIG_TABLE_H

#include "lib/config_value.h"
#include <stddef.h>

struct loader; /* config_load.h */

#define CONFIG_TABLE_MAX 128 /* keys of a table */

struct config_key {
    const char *path; /* "key" or "section.key" */
    enum config_type type;
    size_t offset; /* in the object */
    uint64_t lowest, highest;
    const char *choices;
    const char *def; /* NULL: none */
};

struct config_table {
    const struct config_key *keys;
    int n;
    const char *page; /* of the documentation, which lists them all */
    const char *of;   /* put before messages: "", or "proxy: " */
};

/* A mapping that is being read into an object. */
struct config_mapping {
    struct loader *l;
    const struct config_table *table;
    void *object;
    int *line;    /* [n] where a key was given; 0: nowhere */
    int *section; /* [n] where a section was given, at the index of the first key in it */
    /* Reads the value of key id, whose key stood in key_line: sets line[id], and returns 0 or an error. */
    int (*value)(struct config_mapping *m, int id, int key_line);
};

/* The rest of a mapping whose start has been read. prefix: its section, "" at the top. */
int config_read_mapping(struct config_mapping *m, const char *prefix);

/* Checks text and stores it in the field of key id: NAME, PATH, URL, UPSTREAM, FLAG, INDEX, COUNT, SIZE, DURATION; ERR_CONFIG for other types, too. Messages are without position. */
int config_set_scalar(struct config_mapping *m, int id, const char *text);

#endif
