/* The log's keeper: one thread that makes it durable in the background and deletes what retention allows. */
#ifndef EDGEFS_KEEPER_H
#define EDGEFS_KEEPER_H

#include "replicator/node.h"

struct keeper;
int keeper_open(struct node *n, struct keeper **out, struct err *e);
void keeper_close(struct keeper *k);

#endif
