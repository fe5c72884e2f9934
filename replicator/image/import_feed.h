/* The bytes of imports that are still coming in, for replicas: they fetch the file while it is uploaded, checked and synced here, and have it when
 * the record comes (incoming.h is their end). All in the loop's thread.
 *
 *   import_feed_open ──RECORD_INCOMING to all streams──► replicas: GET /v1/imports/ID, the plain bytes of the file
 *   import_feed_grow: what is there goes to them, by sendfile, as fast as each one takes it
 *   import_feed_end:  the file is whole (each gets the rest), or will never be (their connections are cut)
 *
 * Nothing depends on it: a replica that got nothing, or something else than the record then says, fetches an image. So an application that changes the
 * database while the rest is still being sent does no harm. */
#ifndef EDGEFS_IMPORT_FEED_H
#define EDGEFS_IMPORT_FEED_H

#include "replicator/node.h"

struct http_request;
struct stream_server;
struct import_feed;

/* fd, which is dup'ed, will hold size bytes of what becomes database name. NULL: no memory (then nobody is told). */
struct import_feed *import_feed_open(struct stream_server *s, const char *name, int fd, int64_t size);
/* The first `there` bytes are in the file and stay as they are. f NULL: nothing. */
void import_feed_grow(struct import_feed *f, int64_t there);
/* f is no longer the caller's. NULL: nothing. */
void import_feed_end(struct import_feed *f, bool whole);

/* Handler of GET /v1/imports/ID (16 hex digits); 404 if it is over, or was never there. */
void import_feed_get(struct http_request *req, void *arg);

#endif
