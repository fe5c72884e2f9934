/* GET /v1/stream: the sending end. All in the HTTP loop's thread but stream_server_wake and _handoff. */
#ifndef EDGEFS_STREAM_SERVER_H
#define EDGEFS_STREAM_SERVER_H

#include "replicator/node.h"
struct http_request;
struct stream_server;

int stream_server_open(struct node *n, struct stream_server **out, struct err *e);
void stream_server_close(struct stream_server *s);
/* The route's handler. */
void stream_server_handle(struct http_request *req, void *ctx);
/* The log has grown (sequencer_on_append's listener; any thread; cheap when nobody listens or a wake is already under way). */
void stream_server_wake(void *stream_server);
/* Sends HANDOFF to every stream and ends them (any thread; returns at once). */
void stream_server_handoff(struct stream_server *s, const char *primary, const char *url, uint64_t epoch);

#endif
