/* Conditional requests that a stored response can answer (RFC 9110 §13.1). Pure functions. */
#ifndef EDGEFS_PROXY_CONDITION_H
#define EDGEFS_PROXY_CONDITION_H

#include "http-proxy/head.h"

/* Whether the request has only conditions that condition_unmodified judges: If-None-Match, If-Modified-Since. true also if it has none. */
bool condition_simple(const struct head *request);
bool condition_any(const struct head *request);

/* Whether 304 is the answer, the stored response being one with status 200; stored: its field lines. If-None-Match compares weakly; If-Modified-Since counts without
 * it only, and only if it is what Last-Modified says, to the byte: other dates get the whole response, which is never wrong. */
bool condition_unmodified(const struct head *request, struct slice stored);

#endif
