#include "lib/http/router.h"
#include "lib/util.h"

#include <errno.h>
#include <stdio.h>

int http_router_init(struct http_router *r, const struct http_route *routes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!routes[i].path || routes[i].path[0] != '/' || !routes[i].handler || !(routes[i].methods & HTTP_M_ANY))
            return -EINVAL;
    r->routes = calloc(n ? n : 1, sizeof *routes);
    if (!r->routes)
        return -ENOMEM;
    if (n)
        memcpy(r->routes, routes, n * sizeof *routes);
    r->n = n;
    for (size_t i = 0; i < n; i++)
        if (r->routes[i].methods & HTTP_M_GET)
            r->routes[i].methods |= HTTP_M_HEAD;
    return 0;
}

void http_router_free(struct http_router *r)
{
    free(r->routes);
    r->routes = NULL;
    r->n = 0;
}

/* 0: does not fit; otherwise the longer and the stricter the better. */
static size_t fit(const struct http_route *t, const char *path)
{
    size_t n = strlen(t->path);
    if (t->flags & HTTP_PREFIX)
        return strncmp(t->path, path, n) ? 0 : 2 * n;
    return strcmp(t->path, path) ? 0 : 2 * n + 1;
}

struct http_match http_router_match(const struct http_router *r, unsigned method, const char *path)
{
    struct http_match m = {.status = 404};
    size_t best = 0;
    for (size_t i = 0; i < r->n; i++) {
        const struct http_route *t = &r->routes[i];
        size_t k = fit(t, path);
        if (!k || k < best)
            continue;
        if (k > best) {
            best = k;
            m = (struct http_match){.status = 405};
        }
        m.allow |= t->methods;
        m.open = m.open || (t->flags & HTTP_OPEN);
        /* A route that names HEAD itself stands before a GET route only by its place in the table. */
        if (!m.route && (t->methods & method))
            m.route = t;
    }
    if (m.route)
        m.open = m.route->flags & HTTP_OPEN;
    return m;
}

void http_methods_format(unsigned methods, char *buf)
{
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = {{HTTP_M_GET, "GET"},       {HTTP_M_HEAD, "HEAD"},   {HTTP_M_POST, "POST"},      {HTTP_M_PUT, "PUT"},
                 {HTTP_M_DELETE, "DELETE"}, {HTTP_M_PATCH, "PATCH"}, {HTTP_M_OPTIONS, "OPTIONS"}};
    size_t n = 0;
    buf[0] = 0;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (methods & names[i].bit)
            n += (size_t)snprintf(buf + n, 64 - n, "%s%s", n ? ", " : "", names[i].name);
}
