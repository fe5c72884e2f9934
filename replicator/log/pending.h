/* At the start of a replica: which records are in its log and not in its databases. */
#ifndef EDGEFS_PENDING_H
#define EDGEFS_PENDING_H

#include "replicator/node.h"

/* Sets `pending` of every database that lacks something. Before threads. Memory: 32 bytes for each record that the log keeps, for the time of the call. */
int pending_from_log(struct node *n, struct err *e);

/* Sets `prepared` of every database whose last record in the log is a PREPARE. pending_from_log does that, too. Before threads. */
int pending_prepared(struct node *n, struct err *e);

#endif
