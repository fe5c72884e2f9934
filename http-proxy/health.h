/* GET /edgefs/health: 200 or 503, and JSON that says why (docs/proxy.md). */
#ifndef EDGEFS_PROXY_HEALTH_H
#define EDGEFS_PROXY_HEALTH_H

#include "http-proxy/degrade.h"
#include "lib/config.h"
#include <stddef.h>

/* The body, malloc'ed; NULL: no memory. *status: 200 or 503. draining: the proxy is being stopped (503). */
char *health_text(const struct config *config, const struct position_tracker *t, const struct degrade *g, bool draining, int *status,
                  size_t *len);

#endif
