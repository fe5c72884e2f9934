/* GET and POST /v1/databases/NAME/blocks: by what a copy elsewhere finds the pages in which it differs (difference.h). The loop's thread. */
#ifndef EDGEFS_DIFFERENCE_SERVER_H
#define EDGEFS_DIFFERENCE_SERVER_H

struct api;
struct http_request;

/* GET: all blocks. POST: the pages of those that the body names. */
void difference_server_blocks(struct api *a, struct http_request *req, const char *name);

#endif
