/* GET /v1/stream: the sending end. All in the HTTP loop's thread but stream_server_wake and _handoff.
 *
 *   CATCHING UP ──no more records──► LIVE     one state really: "send what is there while the client takes it"; the difference is only
 *        ▲                             │      whether bytes go by sendfile (32 KiB and more) or from one shared buffer
 *        └───────── wake ──────────────┘
 *        │ trimmed, damaged, handed over, server stops
 *        ▼
 *      ENDED  (last frame GOODBYE or HANDOFF, then the connection closes)                                                     */
#ifndef EDGEFS_STREAM_SERVER_H
#define EDGEFS_STREAM_SERVER_H

#include "replicator/node.h"
struct event_base;
struct http_request;
struct stream_server;

/* n->http, n->rlog, n->replicas and n->epochs are set. The caller registers stream_server_wake with the sequencer. */
int stream_server_open(struct node *n, struct event_base *base, struct stream_server **out, struct err *e);
/* Says GOODBYE to every stream and ends it; from then on wakes and hand-overs do nothing. The loop's thread, before n->http is
 * closed; what has not been sent when it is closed is lost. */
void stream_server_stop(struct stream_server *s);
/* After stream_server_stop, when n->http is closed and no other thread appends to the log any more. */
void stream_server_close(struct stream_server *s);
/* The route's handler; ctx is the stream_server. */
void stream_server_handle(struct http_request *req, void *ctx);
/* Streams open now. Any thread. */
unsigned stream_server_count(const struct stream_server *s);
/* Tells all streams of nodes of an import that is coming in (RECORD_INCOMING). The loop's thread. */
void stream_server_incoming(struct stream_server *s, const char *name, uint64_t id, int64_t size);
/* The log has grown (sequencer_on_append's listener; any thread; cheap when nobody listens or a wake is already under way). */
void stream_server_wake(void *stream_server);
/* Says to every stream who is primary now, as at its start: for a replica that learns of another one (any thread; returns at once). */
void stream_server_greet(struct stream_server *s);
/* Sends HANDOFF to every stream and ends them (any thread; returns at once). */
void stream_server_handoff(struct stream_server *s, const char *primary, const char *url, uint64_t epoch);

#endif
