/* What the position feed says, gathered from the node's modules. Position server only; its lock guards the snapshot. */
#ifndef EDGEFS_POSITION_STATE_H
#define EDGEFS_POSITION_STATE_H

#include "edgefs/position_feed.h"
#include "replicator/node.h"

/* The tail of a STATE as it is sent. */
struct position_snapshot {
    uint64_t epoch; /* of the log's end when it was taken */
    size_t tail_len;
    uint8_t tail[POSITION_FEED_PACKET_MAX - sizeof(struct position_feed_msg)];
};

/* Everything of *now but seq. */
void position_state_now(struct node *n, struct position_feed_now *now);
/* A cheap look whether role, connection or epoch are no longer what the snapshot says. */
bool position_state_stale(struct node *n, const struct position_snapshot *s);
/* Gathers a new snapshot. hold: number of the hold that is going on, or 0. True if it differs from the one before. */
bool position_state_take(struct node *n, uint32_t hold, struct position_snapshot *s);

#endif
