/* The replicas that follow this node: who is connected, what was sent, what they acknowledged. Any thread. */
#ifndef EDGEFS_REPLICAS_H
#define EDGEFS_REPLICAS_H

#include "lib/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define REPLICAS_MAX 1024
#define REPLICAS_VOUCH_MAX 64u /* largest n of replicas_vouched; sync-replicas is no larger */

struct replicas;

int replicas_open(struct replicas **out, struct err *e);
void replicas_close(struct replicas *r);

/* A stream of that node began, or ended. Names and URLs come from strangers: checked and capped. ENOSPC-like -EBUSY beyond REPLICAS_MAX. */
int replicas_connected(struct replicas *r, const char *node, const char *url, struct err *e);
void replicas_disconnected(struct replicas *r, const char *node);
void replicas_sent(struct replicas *r, const char *node, uint64_t lsn);
void replicas_ack(struct replicas *r, const char *node, uint64_t received, uint64_t applied, uint64_t durable);

/* Progress is remembered across restarts: how far each node was when it was last heard of. load: before threads; an absent or damaged file is no error but said.
 * save: writes the file if anything has changed since; blocks for the disk. */
void replicas_load(struct replicas *r, int dirfd);
int replicas_save(struct replicas *r, int dirfd, struct err *e);
/* The name of the node that is away and needs the oldest record (its LSN in *lsn); false: none is away. name: 65 bytes. */
bool replicas_away(struct replicas *r, char *name, uint64_t *lsn);

/* A node that never becomes primary by itself: what it has cannot save a commit, so it does not count for synchronous commit. After replicas_connected. */
void replicas_bystander(struct replicas *r, const char *node);
/* It has said that everything up to lsn, of the history that this node is continuing, is durable in its log, and that all of its databases are whole. */
void replicas_vouch(struct replicas *r, const char *node, uint64_t lsn);
/* The LSN up to which at least n connected nodes have vouched (n ≥ 1); 0: there are fewer. */
uint64_t replicas_vouched(struct replicas *r, unsigned n);

/* True if that node has a stream now; url (256 bytes, may be NULL) is where it serves. */
bool replicas_find(struct replicas *r, const char *node, char *url);
/* Waits until that node acknowledged lsn as applied. 0, -ETIMEDOUT at the monotonic time deadline_ns, -ENOTCONN when it is not connected. */
int replicas_wait_applied(struct replicas *r, const char *node, uint64_t lsn, uint64_t deadline_ns);
/* Lowest LSN that a connected replica still needs (durable + 1); UINT64_MAX if none is connected. */
uint64_t replicas_need(struct replicas *r);
/* Lowest LSN that a connected replica has acknowledged as received; UINT64_MAX if none is connected. */
uint64_t replicas_received(struct replicas *r);
/* JSON array for status, a new reference. */
json_t *replicas_json(struct replicas *r);

#endif
