/* A request's head, parsed: llhttp finds method, target and fields in a block that the guard let through; then the rules that decide
 * where the message ends (RFC 9112 §6) and whom it is for (§3.2) are applied to the result. No allocation, no I/O. */
#ifndef EDGEFS_HTTP_HEAD_H
#define EDGEFS_HTTP_HEAD_H

#include "lib/http/guard.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_HEAD_MAX 64000u /* offsets below are 16 bits */

struct http_field { /* offsets into the block; the value without white space around it */
    uint16_t name, name_len;
    uint16_t value, value_len;
};

struct http_head {
    uint8_t minor;           /* HTTP/1.minor */
    unsigned method;         /* enum http_methods */
    const char *method_name; /* static */
    uint16_t target, target_len;
    uint16_t n_fields;
    bool chunked, keep_alive, expect_continue;
    int64_t content_length; /* -1: none. Never together with chunked */
    int status;             /* after a failure: 400, 417, 501 */
    const char *reason;
    struct http_field fields[HTTP_FIELDS_MAX];
};

/* Parses block[0..n), n at most HTTP_HEAD_MAX, which g found to be one whole head. 0, or -1 with h->status and h->reason. */
int http_head_parse(struct http_head *h, const char *block, size_t n, const struct http_guard *g);

/* The first field of that name at or after index `from` (case-insensitive); -1: none. */
int http_head_find(const struct http_head *h, const char *block, const char *name, int from);

#endif
