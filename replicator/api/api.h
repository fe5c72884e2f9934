/* The HTTP API of a node (docs/api.md): table of routes, the server they hang on, and what they share. */
#ifndef EDGEFS_API_H
#define EDGEFS_API_H

#include "replicator/node.h"

struct event_base;
struct api;

/* Listens as n->config says (token: n->token) on base, whose loop the caller runs; sets n->http and n->streams. All other modules'
 * pointers in n are set, or at least before the loop runs. The caller registers stream_server_wake(n->streams) with the sequencer.
 * 0 and *out, or -errno (-EADDRINUSE …). May block for the resolution of the host name. */
int api_open(struct node *n, struct event_base *base, struct api **out, struct err *e);

/* Ends everything that is going on and closes the server. The loop's thread, not from inside a callback of the loop; the other threads
 * of the node still run: jobs may wait for them, and what they tell the API from now on is ignored. NULL: nothing. */
void api_stop(struct api *a);
/* Frees it, when no other thread of the node runs any more. Stops it first if that was not done. NULL: nothing. */
void api_close(struct api *a);

/* Where other nodes reach this one: http.advertise, with the real port if 0 was configured. */
void api_own_url(struct node *n, char url[256]);

#endif
