/* Positions as clients carry them: the cookie __edge_write_pos and the header X-Read-After-Position. */
#ifndef EDGEFS_PROXY_COOKIE_H
#define EDGEFS_PROXY_COOKIE_H

#include "edgefs/position.h"
#include "http-proxy/extra.h"
#include "http-proxy/head.h"

#define COOKIE_NAME "__edge_write_pos"

/* The position that a request demands: the larger one of cookie and header; epoch 0: none. *malformed: how many could not be read
 * (they are ignored). */
struct position cookie_position(const struct head *request, unsigned *malformed);

/* Adds "X-Write-Position: E-L" and, if set, "Set-Cookie: __edge_write_pos=E-L; Path=/; Max-Age=300; SameSite=Lax; HttpOnly" (and Secure, if asked). */
void cookie_add(struct extra *out, struct position p, bool set, bool secure);
/* Adds "X-Read-Position: E-L". */
void cookie_add_read(struct extra *out, struct position p);

#endif
