/* GET /v1/databases/NAME/image (POST: only the pages that the body names, difference.h): a whole database, as replicas fetch it (format=pages, replicator/image/image.h) or as an ordinary file
 * (format=sqlite). The loop's thread. */
#ifndef EDGEFS_IMAGE_SERVER_H
#define EDGEFS_IMAGE_SERVER_H

#include "replicator/node.h"

struct api;
struct http_request;

void image_server_get(struct api *a, struct http_request *req, const char *name);

/* What db is now, and the LSN at which that stands exactly. An error when there is nothing, or nothing that is fit to be sent. Takes db->lock. Any thread. */
int image_look(struct node *n, struct database *db, struct dbstate *st, uint64_t *lsn, struct err *e);

/* Copies in the making lie in <data>/run under this prefix; import_clean_copies removes what a dead process left. */
#define IMAGE_COPY_PREFIX "copy."

/* format=sqlite: image_copy.c. */
void image_copy_get(struct api *a, struct http_request *req, const char *name);

#endif
