/* Where a message's body ends (RFC 9112 §6): fed with the bytes as they come, says how many of them belong to it. Chunked bodies are checked
 * strictly (lib/http/chunked.h) and otherwise passed on as they are, trailers too; or decoded, for a client that cannot read chunks. */
#ifndef EDGEFS_PROXY_BODY_H
#define EDGEFS_PROXY_BODY_H

#include "http-proxy/head.h"
#include "lib/http/chunked.h"

struct body {
    enum head_body kind;
    bool done;
    bool decode;   /* CHUNKED: give the data without its framing */
    uint64_t left; /* LENGTH */
    struct http_chunked chunked;
    const char *reason; /* after body_take failed */
};

void body_begin(struct body *b, enum head_body kind, uint64_t length);

/* Of p[0..n), *used bytes belong to the body; what is to be sent of them lies at p[0..*out) (decoding moves it to the front). 0, or -1: not a
 * body. b->done: the last of it was among them. */
int body_take(struct body *b, char *p, size_t n, size_t *used, size_t *out);

/* How a response's body is framed: the answer to HEAD and some statuses have none whatever their fields say (RFC 9112 §6.3). */
enum head_body body_of_response(const struct head *response, bool to_head);

#endif
