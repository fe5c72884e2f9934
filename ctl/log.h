/* `log ls` and `log export`: what they share. */
#ifndef EDGEFS_CTL_LOG_H
#define EDGEFS_CTL_LOG_H

#include "ctl/cluster.h"

#define LOG_PAGE 1000 /* records in one answer */

struct log_bounds {
    uint64_t first, last; /* last is first - 1 if the log is empty */
};

/* What the log of the node holds now. Errors as in cluster.h. */
int log_bounds_get(struct cluster *c, const char *url, struct log_bounds *b, struct err *e);

/* 0, or ERR_GONE if record from is no longer kept. */
int log_check_from(const struct log_bounds *b, uint64_t from, struct err *e);

/* Fetches the records from..to (both included) page by page. fn gets one page, an array of records, borrowed; it returns 0 or a negative code with e
 * set, which ends it all and is returned. */
int log_each(struct cluster *c, const char *url, uint64_t from, uint64_t to, int (*fn)(const json_t *records, void *ctx, struct err *e),
             void *ctx, struct err *e);

/* `log export`; log_export.c. argv[0] is "export". */
int log_export(struct cluster *c, int argc, char **argv);

#endif
