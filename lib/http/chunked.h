/* Decoder for Transfer-Encoding: chunked (RFC 9112 §7.1), strict: CRLF line ends only, no white space around sizes, at most 15
 * hexadecimal digits, extensions and trailers bounded and checked, both dropped; trailers that would change framing, routing or who somebody is
 * (RFC 9110 §6.5.1) are refused. llhttp's own decoder is not used for bodies because it
 * is laxer. Fed byte runs of any size; allocates nothing. */
#ifndef EDGEFS_HTTP_CHUNKED_H
#define EDGEFS_HTTP_CHUNKED_H

#include <stddef.h>
#include <stdint.h>

#define HTTP_CHUNK_EXT_MAX 4096     /* bytes of extensions in one body: a client that sends more of them than data is no client */
#define HTTP_CHUNK_TRAILER_MAX 8192 /* bytes of the trailer section */

#define HTTP_CHUNK_NAME_MAX 24     /* of a trailer's name are looked at: longer than any that is refused */

struct http_chunked {
    uint8_t state;
    uint8_t digits;
    uint8_t name_n; /* of the present trailer's name, as far as it is kept */
    char name[HTTP_CHUNK_NAME_MAX]; /* in lower case */
    uint32_t extra;     /* bytes of extensions so far */
    uint32_t trailer;   /* bytes of trailers so far */
    uint64_t left;      /* bytes of the current chunk's data to come */
    const char *reason; /* after HTTP_CHUNKED_BAD */
};

enum http_chunked_result {
    HTTP_CHUNKED_MORE, /* all n bytes taken */
    HTTP_CHUNKED_DATA, /* *used bytes taken, the last *data_len of them are body data, at *data */
    HTTP_CHUNKED_DONE, /* the body ended after *used bytes */
    HTTP_CHUNKED_BAD,  /* c->reason; the connection cannot be used any more */
};

void http_chunked_init(struct http_chunked *c);

enum http_chunked_result http_chunked_next(struct http_chunked *c, const uint8_t *p, size_t n, size_t *used, const uint8_t **data,
                                           size_t *data_len);

#endif
