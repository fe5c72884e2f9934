/* Path rules: lists of patterns from the configuration, matched against a request's path. */
#ifndef EDGEFS_PROXY_ROUTE_H
#define EDGEFS_PROXY_ROUTE_H

#include "http-proxy/slice.h"

/* Whether path matches pattern. '*' stands for any run of bytes (also '/'); everything else for itself; the whole path must match. The path
 * is compared as sent, percent-encoding not decoded. Linear in path × stars; no recursion. */
bool route_match(struct slice path, const char *pattern);
bool route_match_any(struct slice path, char *const *patterns, int n);

#endif
