/* Which route a request takes. Read-only after it is set up. */
#ifndef EDGEFS_HTTP_ROUTER_H
#define EDGEFS_HTTP_ROUTER_H

#include "lib/http/server.h"

struct http_router {
    struct http_route *routes;
    size_t n;
};

struct http_match {
    const struct http_route *route; /* NULL: see status */
    int status;                     /* 404: no such path; 405: not with this method */
    bool open;                      /* the path may be asked without a token */
    unsigned allow;                 /* methods of this path, HEAD included where GET is there */
};

/* Copies the table. 0, -EINVAL (no path, no handler, no method), -ENOMEM. */
int http_router_init(struct http_router *r, const struct http_route *routes, size_t n);
void http_router_free(struct http_router *r);

/* The longest path that fits wins, a whole path before an equally long prefix; among routes of that same path, the first with the method. */
struct http_match http_router_match(const struct http_router *r, unsigned method, const char *path);

/* "GET, HEAD, POST" for a set of methods; buf holds 64 bytes. */
void http_methods_format(unsigned methods, char *buf);

#endif
