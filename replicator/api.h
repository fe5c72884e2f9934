/* The HTTP API of a node (docs/api.md): table of routes, the server they hang on, and what they share. */
#ifndef EDGEFS_API_H
#define EDGEFS_API_H

#include "replicator/node.h"

struct event_base;
struct api;

/* Listens as n->config says (token: n->token) on base, whose loop the caller runs; sets n->http and n->streams. All other modules'
 * pointers in n are set, or at least before the loop runs; no other thread of the node runs yet (it registers with n->sequencer).
 * 0 and *out, or -errno (-EADDRINUSE …). May block for the resolution of the host name. */
int api_open(struct node *n, struct event_base *base, struct api **out, struct err *e);

/* Ends everything that is going on. The loop's thread, not from inside a callback of the loop, when no other thread of the node runs
 * any more but the capture thread's services that running jobs may still wait for. Sets n->http and n->streams to NULL. NULL: nothing. */
void api_close(struct api *a);

/* Where other nodes reach this one: http.advertise, with the real port if 0 was configured. */
void api_own_url(struct node *n, char url[256]);

#endif
