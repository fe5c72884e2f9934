/* What `verify --repair` does about what verify found. */
#ifndef EDGEFS_CTL_REPAIR_H
#define EDGEFS_CTL_REPAIR_H

#include "ctl/compare.h"

/* Asks every node with a database that is not in order to mend it (POST …/repair): damaged pages from another node; on a replica what differs or is missing is
 * fetched from the primary. One after the other; blocks while pages are read. *done: the answers, an array of {"database", "node", …}, the caller's, never NULL
 * unless memory is short. Number of databases that something was done about. */
int repair_run(struct cluster *c, const struct compare_options *o, const struct comparison *x, json_t **done);
/* The same for people. */
void repair_print(const json_t *done);

#endif
