/* A database that waits for an image, and that the primary does not have. */
#ifndef EDGEFS_IMAGE_GONE_H
#define EDGEFS_IMAGE_GONE_H

#include "replicator/node.h"

/* It was dropped before we could ask. Then it goes here, too; a copy is kept (quarantine.h), and what the log has of a later one of that name is applied. Blocks on the disk;
 * no lock is held by the caller. 0, or an error: to be tried again. */
int image_gone(struct node *n, struct database *db, struct err *e);

#endif
