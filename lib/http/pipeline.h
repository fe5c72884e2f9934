/* Small requests one after another on one connection, whose answers need not be waited for in between (RFC 9112 §9.3.2): for news of which only the last matters, and which is to be
 * on its way at once. A request through client.h costs some 100 µs of processor time, most of it libcurl's preparations; one of these is a send, and a read of what has been answered
 * to those before it. libcurl makes the connection (names, TLS), and no more.
 *
 * One thread at a time. http and https; no redirects, no proxies. Each request should be one that may be repeated: what a connection took before it broke may have arrived or not. */
#ifndef EDGEFS_HTTP_PIPELINE_H
#define EDGEFS_HTTP_PIPELINE_H

#include "lib/err.h"
#include <stddef.h>

#define HTTP_PIPELINE_WAITING_MAX 256u /* requests without an answer */

struct http_pipeline;

/* token: a bearer token, or NULL; copied. connect_ms: name, TCP and TLS, and how long a full socket is waited for. answer_ms: an answer that takes longer ends the connection. NULL: no memory. */
struct http_pipeline *http_pipeline_new(const char *token, unsigned connect_ms, unsigned answer_ms);
void http_pipeline_free(struct http_pipeline *p);

/* Sends a POST with a JSON body of len bytes, on the connection that there is if it is one to the same URL. 0: it is sent. Otherwise it is not, and there is no connection: codes as of
 * http_client_request; -EBUSY: HTTP_PIPELINE_WAITING_MAX answers are missing (the connection stays). Blocks for connect_ms at most, twice. */
int http_pipeline_post(struct http_pipeline *p, const char *url, const void *body, size_t len, struct err *e);

/* Takes the answers that have come. 0: as far as is known all is well. Otherwise there is no connection any more, and what was not answered may be lost: -ECONNRESET, -ETIMEDOUT, -EPROTO, or
 * ERR_REMOTE: another answer than 204. Does not block. */
int http_pipeline_check(struct http_pipeline *p, struct err *e);

/* The same, and waits until nothing is unanswered, for answer_ms at most. */
int http_pipeline_wait(struct http_pipeline *p, struct err *e);

#endif
