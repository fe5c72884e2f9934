/* The replicator's end of the position feed (edgefs/position_feed.h): tells the programs of this node where it stands.
 *
 * No thread of its own. The HTTP loop accepts; whoever moves a position sends it, from its own thread, to all clients at once (a few µs: nothing
 * blocks, a full socket is made up for later); the capture thread reads what clients ask, carries it out, and serves clients that were slow. */
#ifndef EDGEFS_POSITION_SERVER_H
#define EDGEFS_POSITION_SERVER_H

#include "replicator/node.h"

#define POSITION_CLIENTS_MAX 64

struct event_base;
struct position_server;

/* Listens. n->rlog, n->epochs and n->replicas are set; n->capture is set before anybody is served. */
int position_server_open(struct node *n, struct event_base *base, struct position_server **out, struct err *e);
/* After capture_stop and when no other thread moves a position any more. NULL: nothing. */
void position_server_close(struct position_server *s);

/* Positions may have moved: after node->applied or node->current_ns was stored. Any thread, no lock of a module held but a database's.
 * NULL: nothing. */
void position_server_moved(struct position_server *s);
/* sequencer_on_append's listener: the log has grown. A replica that received a record says so when it has applied it. */
void position_server_appended(void *position_server);
/* Something else that a STATE carries may have changed: role, primary, neighbours, epochs, lease, connection. As above. */
void position_server_changed(struct position_server *s);

/* A promotion is about to fence: asks the clients that pass writes on to begin none, and waits until those under way are answered. 0; -ETIMEDOUT
 * at the monotonic time deadline_ns: fenced now, they would meet the fence. It goes on until position_server_release. Not from the capture thread. */
int position_server_hold(struct position_server *s, uint64_t deadline_ns);
/* After a hold that was released: waits until the writes are answered that were under way when it began. 0 or -ETIMEDOUT. */
int position_server_wait_quiet(struct position_server *s, uint64_t deadline_ns);
/* When the outcome is known, and the node's role says it. */
void position_server_release(struct position_server *s);

/* Capture thread: a descriptor that is readable when position_server_serve has something to do. */
int position_server_fd(const struct position_server *s);
void position_server_serve(struct position_server *s);

#endif
