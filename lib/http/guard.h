/* The gate before llhttp: goes over the bytes of a request's head (request line and header fields) as they arrive and refuses every form
 * that two parsers could read differently. llhttp 8.1 lets some of them pass (a bare CR in a value, folded lines).
 *
 * It is fed byte runs of any size; its verdict depends on the bytes alone, not on how they were cut. It looks at each byte
 * once, keeps no pointer, and allocates nothing. RFC 9112 §2.2, §3, §5; RFC 9110 §5.5, §5.6.2. */
#ifndef EDGEFS_HTTP_GUARD_H
#define EDGEFS_HTTP_GUARD_H

#include <stddef.h>
#include <stdint.h>

#define HTTP_FIELDS_MAX 100
#define HTTP_METHOD_MAX 32

struct http_guard {
    uint8_t state;
    uint8_t major, index;
    uint16_t fields;  /* header fields so far */
    uint32_t length;  /* bytes of the head so far */
    uint32_t target;  /* bytes of the request target so far */
    uint32_t max_head, max_target;
    int status;         /* why it was refused: 400, 414, 431, 505 */
    const char *reason; /* one line for a person */
};

enum http_guard_result { HTTP_GUARD_MORE, HTTP_GUARD_DONE, HTTP_GUARD_REFUSED };

/* Starts at the first byte of a message. */
void http_guard_init(struct http_guard *g, uint32_t max_head, uint32_t max_target);

/* Looks at the next n bytes. DONE: the head ends after *used of them. MORE: all were looked at (*used = n). REFUSED: g->status and
 * g->reason say why; the guard is not to be fed any more. */
enum http_guard_result http_guard_feed(struct http_guard *g, const uint8_t *p, size_t n, size_t *used);

/* Character classes, for the other parsers of this folder. */
int http_is_token(uint8_t c); /* tchar, RFC 9110 §5.6.2 */
int http_is_field(uint8_t c); /* may be in a field value: HTAB, SP, VCHAR, obs-text */

#endif
