/* The position feed: what edgefs-replicator tells the other programs of its node (edgefs-proxy) about where the node stands, over the
 * SOCK_SEQPACKET socket <data>/run/position.sock. Version 1.
 *
 * The client connects and gets a STATE at once; from then on a MOVED whenever a position changed and a STATE whenever anything else did. There is
 * no timer: a message is sent by the thread that moved the position. A client that does not read gets nothing for a while, then, when its socket
 * has room again, one STATE with all that is true by then. `seq` ascends within a connection.
 *
 * The client may send, at any time:
 *   CAPTURE    "everything that was committed before this message must be in the log": answered by CAPTURED with the same id, whose
 *              `now.last` is a position after all of it. A node that is no primary answers at once: nothing can be committed there, and what
 *              was, while it was primary, is in its log. Only so many may be open at a time; more are answered with -EBUSY.
 *   SUBSCRIBE  names or globs of databases, replacing earlier ones: answered by a TOUCHED for each, and from then on by one whenever a
 *              record of such a database became visible, before the MOVED or STATE that says so.
 *   QUIET      "the writes that had begun before that hold are answered": see there.
 *
 * Every packet begins with struct position_feed_msg, host byte order (both ends are of one machine). What the client does not know
 * (kinds, tails) it ignores; the server drops a client that sends what it does not understand. */
#ifndef EDGEFS_POSITION_FEED_H
#define EDGEFS_POSITION_FEED_H

#include "edgefs/layout.h"
#include "edgefs/position.h"
#include <stdint.h>

#define POSITION_FEED_VERSION 1
#define POSITION_FEED_PACKET_MAX 24576 /* bytes of the longest packet, either way */
#define POSITION_FEED_EPOCHS 32        /* newest entries of the epoch history that a STATE carries */
#define POSITION_FEED_NODES 256
#define POSITION_FEED_SUBSCRIPTIONS 256
#define POSITION_FEED_QUESTIONS 64     /* CAPTUREs of one client that may be open */

enum position_feed_kind {
    /* replicator → client */
    POSITION_FEED_STATE = 1, /* tail: struct position_feed_state and what follows it */
    POSITION_FEED_MOVED = 2, /* no tail */
    POSITION_FEED_CAPTURED = 3, /* id: the question's. result: 0 or -errno. No tail */
    POSITION_FEED_TOUCHED = 4,  /* id: number of the subscription, from 0. now: as before the record. touched: last LSN that touched it,
                                 * 0: not since the replicator started and this subscription began */
    /* client → replicator */
    POSITION_FEED_CAPTURE = 65,   /* id: any but 0. Tail: a database's name; none: all */
    POSITION_FEED_QUIET = 67,     /* id: the hold's number (position_feed_state): no write that began before it is under way any more. Also when
                                   * that hold was given up meanwhile: then the promotion tries again. No tail. A promotion waits for everybody
                                   * who has ever sent one; id 0 only says "wait for me, too" */
    POSITION_FEED_SUBSCRIBE = 66, /* tail: NUL-terminated globs (fnmatch(3), '*' matches '/' too), at most POSITION_FEED_SUBSCRIPTIONS */
};

/* Where the node stands. */
struct position_feed_now {
    uint64_t seq;
    struct position applied; /* what a reader of the mount sees */
    struct position last;    /* newest position that this node knows to exist: its log's end, or what its upstream said it has */
    uint64_t current_ns;     /* CLOCK_MONOTONIC, when it last had everything that its upstream had; 0: never. A primary: the present */
};

struct position_feed_msg {
    uint16_t kind; /* enum position_feed_kind */
    uint16_t version;
    int32_t result;
    uint64_t id;
    uint64_t touched;
    struct position_feed_now now; /* replicator → client; else zero */
};

enum position_feed_role { /* as docs/api.md has it */
    POSITION_FEED_STARTING,
    POSITION_FEED_REPLICA,
    POSITION_FEED_PRIMARY,
    POSITION_FEED_HANDING_OVER,
};

enum position_feed_lease {
    POSITION_FEED_LEASE_STATIC,      /* no engine: the configuration, and promotions, say who is primary */
    POSITION_FEED_LEASE_OK,          /* the engine answers */
    POSITION_FEED_LEASE_UNREACHABLE, /* it does not */
};

#define POSITION_FEED_CONNECTED 1u /* replica: its stream is up; primary: always */
#define POSITION_FEED_HOLDING 2u   /* a promotion is about to fence: begin no write, and say QUIET when none of before is under way any more */

struct position_feed_epoch {
    uint64_t epoch, first_lsn;
};

/* Tail of a STATE; then n_epochs struct position_feed_epoch, oldest first; then name and URL of the primary, neither NUL-terminated; then for each
 * neighbour a byte whether it can be reached (0, 1), a byte for the length of its name, and the name. */
struct position_feed_state {
    uint8_t role;  /* enum position_feed_role */
    uint8_t lease; /* enum position_feed_lease */
    uint8_t flags;
    uint8_t n_epochs; /* at most POSITION_FEED_EPOCHS; the last one is the present epoch */
    uint16_t primary_len;     /* name of the primary as far as known */
    uint16_t primary_url_len; /* its replicator's URL. Where its proxy listens the configuration says (nodes: proxy) */
    uint16_t n_neighbours;    /* the other configured nodes; at most POSITION_FEED_NODES */
    uint16_t reserved;
    uint32_t hold;            /* number of the hold that is going on, for QUIET; 0: none */
};

/* ---- lib/position_judge.c ---- */

/* What position p of somebody means on a node with this history of epochs (list[0..n), oldest first, ascending): the LSN that must be applied here
 * so that everything up to p that is on this node's history is. A position of an epoch that ended counts at most as the end of
 * that epoch (one whose entry is no longer in the list: as the end of the last epoch that is not). 0 and *lsn, or -EAGAIN: p is of an epoch
 * that this node does not know yet (*lsn untouched). */
int position_judge(struct position p, const struct position_feed_epoch *list, unsigned n, uint64_t *lsn);

#endif
