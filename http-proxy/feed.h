/* The connection to the replicator's position feed (edgefs/position_feed.h): connects, connects again, decodes. position.c decides what it means.
 * The event loop's thread; nothing blocks. */
#ifndef EDGEFS_PROXY_FEED_H
#define EDGEFS_PROXY_FEED_H

#include "edgefs/position_feed.h"
#include "lib/err.h"
#include <stdbool.h>
#include <stddef.h>

struct event_base;
struct feed;

/* A decoded STATE. Names are NUL-terminated and cut to what fits. */
struct feed_state {
    struct position_feed_state head;
    struct position_feed_epoch epochs[POSITION_FEED_EPOCHS];
    char primary[65], primary_url[256];
    unsigned unreachable; /* of head.n_neighbours */
    struct {
        bool reached;
        char name[65];
    } neighbours[POSITION_FEED_NODES];
};

struct feed_handler {
    /* One message. state: decoded, of a STATE; else NULL. */
    void (*message)(void *ctx, const struct position_feed_msg *m, const struct feed_state *state);
    /* The connection was lost; another one begins with a STATE. */
    void (*lost)(void *ctx);
    void *ctx;
};

int feed_open(struct event_base *base, const char *path, const struct feed_handler *handler, struct feed **out, struct err *e);
void feed_close(struct feed *f);

/* Sends one message. false: there is no connection (lost comes from the loop), or its buffer is full and it is being dropped for that. */
bool feed_send(struct feed *f, enum position_feed_kind kind, uint64_t id, const void *tail, size_t tail_len);

/* Decodes the tail of a STATE. false: not what the protocol says. For feed.c and its fuzz target. */
bool feed_decode_state(const uint8_t *tail, size_t n, struct feed_state *out);

#endif
