/* Planned promotion: the primary's half (old primary) and the target's half. docs/ARCHITECTURE.md, "Promotion".
 *
 * Old primary:  PRIMARY ──promote──► HANDING_OVER ──target has it──► REPLICA
 *                  ▲                      │
 *                  └──── undone ◄─────────┘ (target not there in time, or said no)                                            */
#ifndef EDGEFS_PROMOTION_H
#define EDGEFS_PROMOTION_H

#include "replicator/node.h"
#include <jansson.h>

struct promotion_result {
    int status;         /* HTTP status as in docs/api.md */
    char text[512];     /* error text when status is not 200 */
    char primary[128];
    char url[256];
    struct position pos;
    uint64_t pause_ms;  /* for how long no write could commit */
};

/* Runs a promotion of `target` to its end in a thread of its own, then calls done there (the API posts it back to its loop). at_once: requests that
 * write and take longer than a second to end are not waited for. On error (another one is running: -EBUSY) done is not called. */
int promotion_start(struct node *n, const char *target, uint64_t timeout_ms, bool at_once,
                    void (*done)(void *ctx, const struct promotion_result *r), void *ctx, struct err *e);

/* The target's half: POST /v1/handover with this body (parsed JSON). Blocks (fsync of the EPOCH record): call from a thread that may.
 * Fills status and answer (a new reference; {"error":…} unless 200). */
void promotion_accept(struct node *n, const json_t *body, int *status, json_t **answer);
/* POST /v1/handover/cancel */
void promotion_cancel(struct node *n, const json_t *body, int *status, json_t **answer);

/* This node becomes primary without the old one, which does not answer (promotion_force.c). yes: whoever asks has been told what may be lost; without it
 * the answer is 409, and its text says that. Refused if a primary answers. Asks every configured node: takes seconds if some do not answer. */
void promotion_force(struct node *n, bool yes, struct promotion_result *r);

/* Whether this node is in the middle of one that it started as primary. Any thread. */
bool promotion_running(void);

/* JSON for status' "promotion", a new reference: null or {"target":…, "phase":…}. */
json_t *promotion_status(struct node *n);

#endif
