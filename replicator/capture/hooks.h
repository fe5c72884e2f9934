/* The replicator's end of the hook protocol (edgefs/hooks.h). Capture's thread connects and receives; any thread may send. */
#ifndef EDGEFS_REPLICATOR_HOOKS_H
#define EDGEFS_REPLICATOR_HOOKS_H

#include "edgefs/hooks.h"
#include "lib/err.h"
#include "replicator/node.h"

struct hooks;

int hooks_open(struct node *n, struct hooks **out, struct err *e);
void hooks_close(struct hooks *h);

/* Connects and says HELLO and the role. The descriptor (owned by h) to poll, or -errno: edgefs-fs is not there. */
int hooks_connect(struct hooks *h, struct err *e);
/* Drops the connection (after an error or end of file). */
void hooks_disconnect(struct hooks *h);

/* Receives one message without blocking: 1; 0: none; negative: the connection is gone. path and text are NUL-terminated,
 * each HOOKS_PACKET_MAX bytes. */
int hooks_recv(struct hooks *h, struct hook_msg *m, char *path, char *text);

/* Answers a synchronous hook; text may be NULL. Lost if the connection is gone (edgefs-fs then answers the application itself). */
void hooks_answer(struct hooks *h, uint64_t id, uint64_t value, const char *text);
/* edgefs-fs said that this role is in force (capture's thread). */
void hooks_role_in_force(struct hooks *h, const char *role);
/* Whether there is a connection, as far as it is known. Any thread. */
bool hooks_connected(struct hooks *h);
/* Whether edgefs-fs acts by this node's present role. Any thread. */
bool hooks_in_force(struct hooks *h);
/* Waits until edgefs-fs acts by this node's present role. 0 or -ETIMEDOUT at the monotonic time deadline_ns. Not in capture's thread. */
int hooks_wait_role(struct hooks *h, uint64_t deadline_ns);
/* Tells edgefs-fs this node's role and primary, as they are now. */
void hooks_send_role(struct hooks *h);

#endif
