/* The log's keeper: one thread that makes it durable in the background and deletes what retention allows. */
#ifndef EDGEFS_KEEPER_H
#define EDGEFS_KEEPER_H

#include "replicator/node.h"

struct keeper;
/* For rlog_options: before the log takes so many bytes more, its oldest segments go if too little would be left to applications. Any thread; node: struct node *. */
void keeper_segment_begins(void *node, uint64_t bytes);

int keeper_open(struct node *n, struct keeper **out, struct err *e);
void keeper_close(struct keeper *k);

#endif
