/* PUT and DELETE /v1/databases/NAME. The loop's thread, but for what removes leftovers. */
#ifndef EDGEFS_IMPORT_H
#define EDGEFS_IMPORT_H

#include "replicator/node.h"

struct api;
struct http_request;

void import_put(struct api *a, struct http_request *req, const char *name);
void import_delete(struct api *a, struct http_request *req, const char *name);

/* Removes image copies that a process that died has left. Once, at start, before any is made. */
void import_clean_copies(struct node *n);
/* The same for imports, a replica's incoming ones too. Once, when edgefs-fs knows this process (nobody else may remove such files) and before the follower
 * starts; blocks; calls into the mount. */
void import_clean(struct node *n);

/* import_commit.c, for import.c; threads that may block. */

/* 0 if the file is an SQLite database that can be taken as it is; ERR_NOT_DATABASE with a reason. path: absolute, of the backing file. */
int import_check(int fd, const char *path, struct err *e);
/* Makes the file temp (a path in the mount) database name, through the mount. -EEXIST: applications have name open. */
int import_commit(struct node *n, const char *temp, const char *name, struct err *e);
/* Removes database name. -EEXIST: applications have it open; -ENOENT. */
int import_remove(struct node *n, const char *name, struct err *e);
/* Waits until what import_commit or import_remove did is in the log; at most as long as it makes sense to let a client wait. */
int import_captured(struct node *n, struct database *db, struct err *e);

#endif
