/* What config.c (the file, scalar keys, nodes) and config_proxy.c (the proxy list) share: YAML events with line numbers in messages. */
#ifndef EDGEFS_CONFIG_LOAD_H
#define EDGEFS_CONFIG_LOAD_H

#include "lib/config.h"
#include <yaml.h>

struct loader;

struct config *config_loader_config(struct loader *l);
struct err *config_loader_err(struct loader *l);

/* Puts FILE:LINE before the message and returns rc. */
int config_at_line(struct loader *l, int line, int rc);
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
/* A path of the file → absolute; *out becomes the caller's. */
int config_absolute_path(struct loader *l, const char *text, char **out);

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
