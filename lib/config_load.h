/* What the files config*.c share: the state of one load, and YAML events with line numbers in messages. */
#ifndef EDGEFS_CONFIG_LOAD_H
#define EDGEFS_CONFIG_LOAD_H

#include "lib/config.h"
#include "lib/config_keys.h"
#include "lib/config_table.h"
#include <yaml.h>

enum config_key_id {
#define X(id, path, type, field, lowest, highest, choices, def) CONFIG_KEY_##id,
    CONFIG_KEYS(X)
#undef X
        CONFIG_KEY_COUNT
};

struct loader {
    yaml_parser_t parser;
    struct config *c;
    struct err *e;
    const char *file;          /* as the user wrote it; NULL: no file */
    const char *text;          /* the file's contents while they are parsed, text_len bytes */
    size_t text_len;
    char *base;                /* absolute folder that relative paths are completed with */
    int line[CONFIG_KEY_COUNT];       /* where a key was given; 0: nowhere */
    int section[CONFIG_KEY_COUNT];    /* where a section was given, at the index of the first key in it */
    struct config_mapping all;
    int node_line[CONFIG_NODES_MAX];
};

extern const struct config_key config_keys[CONFIG_KEY_COUNT];

/* Puts FILE:LINE (or "command line") before the message in l->e and returns rc. */
int config_at_line(struct loader *l, int line, int rc);
/* The same for where a key was given, with its name. */
int config_at_key(struct loader *l, enum config_key_id id, int rc);
int config_event_line(const yaml_event_t *ev);
const char *config_event_kind(const yaml_event_t *ev); /* "a mapping", "a list", "a single value" */
/* A plain scalar that stands for nothing: "", ~, null. */
bool config_is_null(const yaml_event_t *ev);
/* The next event, which the caller deletes; 0 or an error. */
int config_next_event(struct loader *l, yaml_event_t *ev);
/* The text of a scalar, owned by ev; or NULL with a message without position: path must be what, and is not. */
const char *config_scalar_text(struct loader *l, const yaml_event_t *ev, const char *path);
/* Reads "key" events until the end of a mapping: prefix.key into key; 1, 0 at the end, or an error. */
int config_next_key(struct loader *l, const char *prefix, char *key, size_t size, int *line);
int config_unknown_key(struct loader *l, const char *path, int line, const char *const *candidates, int n, const char *page);
int config_given_twice(struct loader *l, const char *path, int line, int first);
/* Checks text and stores it as the value of a key; 0 or an error whose message names neither key nor line. */
int config_set_value(struct loader *l, int id, const char *text);
/* A path of the file → absolute; *out becomes the caller's. */
int config_absolute_path(struct loader *l, const char *text, char **out);

/* config_complete.c: what is left out and follows from the rest, and settings that do not go together. */
int config_complete(struct loader *l);

/* config_list.c: the rest of the list of single values that stands at path, whose SEQUENCE_START has been read. parse checks one and makes the copy that
 * is kept; at most `most` of them. */
int config_load_list(struct loader *l, const char *path, int most, int (*parse)(const char *text, char **copy, struct err *e), struct config_list *list);
void config_free_list(struct config_list *list);

/* config_sync.c: the rest of a mapping of patterns to numbers of replicas that stands at path, whose MAPPING_START has been read. */
int config_load_sync(struct loader *l, const char *path, int most);

/* config_proxy.c: the value of `proxy:`, whose SEQUENCE_START has been read. */
int config_load_proxies(struct loader *l);
/* What no single line says: required keys, names and addresses that differ. */
int config_complete_proxies(struct loader *l);
void config_free_proxies(struct config *c);

#endif
