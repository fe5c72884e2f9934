/* The parts of `edgefs-ctl quarantine`. All block; main thread. */
#ifndef EDGEFS_CTL_QUARANTINE_H
#define EDGEFS_CTL_QUARANTINE_H

#include "ctl/cluster.h"

/* What the node at url has in quarantine: the answer of GET /v1/quarantine, checked. *out is the caller's; also on failure it may be set. */
int quarantine_get_list(struct cluster *c, const char *url, json_t **out, struct err *e);

/* Writes one of them to the new local file `to`; a database with its WAL, as to and to-wal. -ENOENT: there is no such thing. */
int quarantine_fetch(struct cluster *c, const char *url, const char *file, const char *to, struct err *e);

/* `quarantine show [FILE…]`: n_files 0: all databases in quarantine. limit: rows of each kind in a table, 0: all. Returns the exit code. */
int quarantine_show(struct cluster *c, const char *url, char **files, int n_files, uint64_t limit, bool as_json);

#endif
