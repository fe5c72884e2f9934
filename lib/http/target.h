/* Request targets (RFC 9112 §3.2, RFC 3986 §2.1): path and query, percent-decoded once. No allocation. */
#ifndef EDGEFS_HTTP_TARGET_H
#define EDGEFS_HTTP_TARGET_H

#include <stdbool.h>
#include <stddef.h>

#define HTTP_QUERY_MAX 64 /* parameters in one target */

struct http_target {
    const char *origin; /* the target from its path on, inside the text given */
    size_t origin_len;
    const char *path;   /* NUL-terminated, inside the buffer given; "*" for the asterisk form */
    const char *query;  /* name NUL value NUL …, n_query pairs, inside the buffer given */
    unsigned n_query;
};

/* Room that the buffer of http_target_parse needs for a target of n bytes. */
#define HTTP_TARGET_ROOM(n) ((n) + 2 * HTTP_QUERY_MAX + 4)

/* Parses text[0..n) in origin form, absolute form (http, https; the authority is skipped) or "*". Returns NULL, or what is wrong:
 * a bad percent escape, an escaped NUL, a "." or ".." segment, too many parameters, another form. */
const char *http_target_parse(struct http_target *t, const char *text, size_t n, char *buf);

/* The first value of that name; NULL: absent. */
const char *http_target_query(const struct http_target *t, const char *name);

#endif
