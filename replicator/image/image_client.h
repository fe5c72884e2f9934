/* Fetching images: one thread that brings databases in state IMAGE to a state of the primary, then lets the log go on for them. */
#ifndef EDGEFS_IMAGE_CLIENT_H
#define EDGEFS_IMAGE_CLIENT_H

#include "replicator/node.h"

struct image_client;

int image_client_open(struct node *n, struct err *e);
/* Ends the thread; kicks are still taken. When nobody kicks any more: image_client_close. */
void image_client_stop(struct node *n);
void image_client_close(struct node *n);
/* There is a database in state IMAGE. Any thread. */
void image_client_kick(struct node *n);

#endif
