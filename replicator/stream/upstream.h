/* Whom a replica follows (configuration: upstream): the primary, a node with a fixed URL, or the nearest one. Whoever that is, the primary is followed
 * while the other cannot be reached or has lost its own way to the primary; it is tried again later.
 *
 *   primary ── r1 ── leaf        a replica serves its log as the primary does (stream_server.h), so replicas can hang off replicas: what
 *      └────── r2 ── leaf        the primary sends grows with the relays, not with the nodes.
 *
 * nearest: `nodes` is the same list everywhere, and a node follows only nodes that stand before it there, so that no ring can come about. Of those the one
 * with the shortest round trip is taken if it is less than half as far as the primary, and at least UPSTREAM_GAIN_US nearer.
 *
 * All functions: any thread. */
#ifndef EDGEFS_UPSTREAM_H
#define EDGEFS_UPSTREAM_H

#include "replicator/node.h"

#define UPSTREAM_URL_MAX 256
#define UPSTREAM_GAIN_US 1000u
#define UPSTREAM_FOLLOW_MAX_MS 600000u

struct upstream;

int upstream_open(struct node *n, struct upstream **out, struct err *e);
void upstream_close(struct upstream *u); /* NULL: nothing */

/* Whom to follow now. With `nearest` it asks every candidate for its health: up to some seconds. False: nobody is known. */
bool upstream_pick(struct upstream *u, char url[UPSTREAM_URL_MAX]);

/* How it went with url: followed for ns nanoseconds, then lost. One that is not the primary is left alone for a while, longer each time it fails soon. */
void upstream_lost(struct upstream *u, const char *url, uint64_t ns);

/* True if somebody else than url should be followed by now: the one that is wished for may be there again. With `nearest` the others
 * are asked every upstream-interval, and then it blocks like upstream_pick. */
bool upstream_elsewhere(struct upstream *u, const char *url);

/* For the next ns nanoseconds, url is followed whatever the configuration says: a node that is to become primary follows the primary itself. */
void upstream_follow(struct upstream *u, const char *url, uint64_t ns);

#endif
