/* Degradation levels 0 to 5 (docs/proxy.md): worked out from the tracker's state and the times of writes; one object for the process. */
#ifndef EDGEFS_PROXY_DEGRADE_H
#define EDGEFS_PROXY_DEGRADE_H

#include "http-proxy/position.h"
#include "lib/config.h"

struct degrade;

int degrade_open(const struct config *config, struct position_tracker *t, struct degrade **out, struct err *e);
void degrade_close(struct degrade *g);

/* Once a second, from the engine's tick, and whenever somebody wants to know it more exactly. now_ms: CLOCK_MONOTONIC. */
void degrade_tick(struct degrade *g, uint64_t now_ms);
/* The highest level whose trigger holds; 0: normal. */
uint8_t degrade_level(const struct degrade *g);

#endif
