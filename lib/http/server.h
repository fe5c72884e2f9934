/* An HTTP/1.1 server on a libevent loop (RFC 9110, RFC 9112), shared by the replicator's API and the proxy.
 *
 * Threads: everything here belongs to the thread that runs the event base, unless a comment says "any thread". Nothing blocks,
 * except http_server_open (name resolution).
 *
 * Life of a request:
 *
 *   handler(req) ──► http_reply*(req)                                     one call, done
 *        │
 *        └─────────► http_start ─► http_write … ─► http_end | http_abort  streamed, at once or later from any callback
 *
 * A handler may return without having answered and go on later. The request then stays the handler's until one of these:
 *   - with a closed callback (http_set_closed): that callback is called exactly once, whatever happens, and is the last thing that may
 *     touch req. It is always called from the loop, never from inside an http_* call. This is the form for anything that does not
 *     answer within the handler.
 *   - without one: req is valid until http_reply*, http_end or http_abort returns, also if the client has long gone (writes then
 *     return -EPIPE); it must be ended, or it leaks.
 *
 * Memory of one connection, whatever the client sends: one request header block (max_head), its decoded target, one buffered body
 * (max_body), input that came before its turn (HTTP_INPUT_MAX), and what handlers queue for output and did not bound by http_pending. */
#ifndef EDGEFS_HTTP_SERVER_H
#define EDGEFS_HTTP_SERVER_H

#include "lib/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct event_base;
struct evbuffer;
struct http_server;
struct http_request;
struct http_wake;

/* Most bytes that one read takes from a socket, and so the most that wait in memory behind a request that is not finished. */
#define HTTP_INPUT_MAX (64u << 10)

/* http_start: the end of the body is the end of the connection; no framing around the bytes of an endless stream. */
#define HTTP_UNTIL_CLOSE (-2)
#define HTTP_CHUNKED (-1)

enum http_methods { /* bits for routes; a request has one of them */
    HTTP_M_GET = 1,
    HTTP_M_HEAD = 2,
    HTTP_M_POST = 4,
    HTTP_M_PUT = 8,
    HTTP_M_DELETE = 16,
    HTTP_M_PATCH = 32,
    HTTP_M_OPTIONS = 64,
    HTTP_M_OTHER = 128, /* any other method llhttp knows; http_method_name() tells which */
    HTTP_M_ANY = 255,
};

enum http_route_flags {
    HTTP_OPEN = 1,        /* needs no token */
    HTTP_PREFIX = 2,      /* path is a prefix; without this flag the whole path must be equal */
    HTTP_STREAM_BODY = 4, /* the handler is called before the body, which comes in pieces: http_set_body() */
    HTTP_EOF_IS_GONE = 8, /* a client that closes its sending side has gone, as far as this route is concerned; otherwise it
                           * may be half-closed and still wants its answer */
};

typedef void (*http_handler)(struct http_request *req, void *arg);

struct http_route {
    unsigned methods; /* enum http_methods; HTTP_M_GET also serves HEAD: the body is dropped, its length kept */
    const char *path; /* decoded form, begins with '/' */
    unsigned flags;   /* enum http_route_flags */
    http_handler handler;
    void *arg;
    size_t max_body; /* bytes, for buffered bodies; 0: the server's max_body */
};

struct http_server_options { /* 0 (or NULL) in a field: its default */
    const char *host;        /* "127.0.0.1"; a name or a numeric IPv4 or IPv6 address without brackets */
    uint16_t port;           /* 0: any free port */
    const char *token;       /* bearer token that every route but the HTTP_OPEN ones demands; NULL: none. Copied as a digest */
    size_t max_head;         /* 16 KiB: request line and header block; at most 64,000. More: 431 */
    size_t max_target;       /* 8 KiB, at most max_head. More: 414 */
    size_t max_body;         /* 64 KiB. More: 413 */
    unsigned max_connections; /* 1,000. When full the longest idle connection makes room; if none is idle, 503 */
    unsigned head_ms;        /* 10 s: from the first byte (or the accept) to the end of the header block. More: 408 */
    unsigned idle_ms;        /* 60 s: between requests */
    unsigned body_ms;        /* 30 s: a buffered body, in all; a streamed one, without any byte (not while it is paused) */
    unsigned send_ms;        /* 60 s: output waits and the client takes nothing */
};

struct http_server_stats { /* since the start, except connections */
    uint64_t accepted, refused, evicted, requests, bad, unauthorized, timed_out;
    unsigned connections;
};

/* Opens the socket and listens. `routes` (n of them) is copied, strings are not: they must outlive the server. SIGPIPE is set to be
 * ignored if it had its default action. May block while a host name is resolved.
 * 0 and *out (http_server_close frees it), or -errno (-EINVAL: an option or route out of range; -EADDRINUSE, …) with *out untouched. */
int http_server_open(struct event_base *base, const struct http_server_options *options, const struct http_route *routes,
                     size_t n, struct http_server **out, struct err *e);

/* The port in use; host byte order. */
uint16_t http_server_port(const struct http_server *s);

/* Lets go gracefully: no new connection, idle ones are closed at once, the others after the answer they wait for; endless
 * streams are their handlers' to end. `done` (or NULL) is called from the loop once no connection is left. */
void http_server_stop_listening(struct http_server *s, void (*done)(void *arg), void *arg);

/* Ends everything at once: closed callbacks are called from inside (HTTP_ABORTED), posted functions that have not run yet run. Not
 * to be called from any handler or callback of this server. Before event_base_free. NULL: nothing. */
void http_server_close(struct http_server *s);

void http_server_stats(const struct http_server *s, struct http_server_stats *out);

/* ---- from other threads ---- */

/* Any thread: runs fn(arg) in the loop's thread, soon, in the order of the calls. 0 or -ENOMEM. What the caller wrote before is
 * visible to fn. The server must outlive the call. */
int http_server_post(struct http_server *s, void (*fn)(void *arg), void *arg);

/* A wake-up that can be given again and again from any thread without allocating: several before fn ran are one, one given while fn
 * runs makes it run again. new: NULL if memory is short. free: the loop's thread, once no other thread can wake it any more and before
 * http_server_close; fn does not run afterwards. */
struct http_wake *http_wake_new(struct http_server *s, void (*fn)(void *arg), void *arg);
void http_wake(struct http_wake *w); /* any thread; one eventfd write if the loop has nothing posted already */
void http_wake_free(struct http_wake *w);

/* ---- the request. Returned strings live as long as req ---- */

unsigned http_method(const struct http_request *req);          /* one of enum http_methods */
const char *http_method_name(const struct http_request *req);  /* "GET" */
const char *http_path(const struct http_request *req);         /* percent-decoded; never a NUL, "." or ".." in it */
const char *http_target(const struct http_request *req);       /* as sent, without scheme and authority */
const char *http_query(const struct http_request *req, const char *name); /* first value, decoded; "" without '='; NULL: absent */
const char *http_header(const struct http_request *req, const char *name); /* first value; case-insensitive; NULL: absent */
/* The i-th header field, in order; false when i is past the end. For whoever passes all of them on. */
bool http_header_at(const struct http_request *req, size_t i, const char **name, const char **value);
const char *http_body(const struct http_request *req, size_t *len); /* buffered body, NUL-terminated (may hold NULs); "" if none */
const char *http_peer(const struct http_request *req);         /* "192.0.2.1:4711", "[::1]:4711" */
/* The client closed its sending side: it may have gone, or it is half-closed. */
bool http_peer_eof(const struct http_request *req);

void http_set_user(struct http_request *req, void *user);
void *http_user(const struct http_request *req);

/* ---- the reply ---- */

/* Adds a header field to the coming reply; before it starts. Copied. 0, or -EINVAL (a character that cannot be in a field; the
 * reply's framing fields Content-Length, Transfer-Encoding and Connection, which are set here), -E2BIG (more than 8 KiB in all),
 * -EALREADY (the reply has started), -ENOMEM. */
int http_set_header(struct http_request *req, const char *name, const char *value);

/* Complete replies; data is copied or sent before return. If the reply has started already they abort it instead. content_type NULL: no
 * such field. After return req is no longer the handler's (unless a closed callback is set, see top). */
void http_reply(struct http_request *req, int status, const char *content_type, const void *data, size_t len);
/* Takes over the caller's reference to json (also on failure). json NULL: 500. */
void http_reply_json(struct http_request *req, int status, json_t *json);
/* {"error":"…"}; the text is cut at 500 bytes. */
void http_reply_error(struct http_request *req, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Begins a streamed reply of content_length bytes, HTTP_CHUNKED (sent until close to an HTTP/1.0 client) or HTTP_UNTIL_CLOSE.
 * 0, -EALREADY, or -EPIPE (the connection is gone; end the request all the same). */
int http_start(struct http_request *req, int status, const char *content_type, int64_t content_length);

/* These send, or queue what the kernel does not take at once: if nothing is queued before it, the bytes are in the socket when
 * http_write returns (one system call, no turn of the loop). 0; -EPIPE: the connection is gone; -EMSGSIZE: more than the length
 * announced (the reply is aborted); -ENOMEM, -errno (the reply is aborted). len 0 does nothing. */
int http_write(struct http_request *req, const void *data, size_t len);
/* Moves all of buf; the caller keeps the buffer, which is empty afterwards, also on failure. */
int http_write_evbuffer(struct http_request *req, struct evbuffer *buf);
/* len bytes of a regular file from off on, by sendfile. fd stays the caller's (it is dup'ed; its file position is not used).
 * The bytes must stay as they are until they are sent; if the file ends early the reply is aborted. */
int http_write_file(struct http_request *req, int fd, off_t off, size_t len);

/* Bytes of this connection that are queued and not yet handed to the kernel. */
size_t http_pending(const struct http_request *req);

/* Back-pressure: cb is called from the loop each time http_pending falls from above low_water to low_water or less. The
 * pattern: write while http_pending < HIGH, return, go on in cb. NULL: none. */
void http_set_drain(struct http_request *req, size_t low_water, void (*cb)(struct http_request *req, void *arg), void *arg);

enum http_closed {
    HTTP_FINISHED, /* the last byte of the reply was handed to the kernel */
    HTTP_GONE,     /* the client went away, or ran into a time-out */
    HTTP_ABORTED,  /* http_abort, a failed write, or http_server_close */
};
/* See top. To be set in the handler, before it returns. */
void http_set_closed(struct http_request *req, void (*cb)(struct http_request *req, enum http_closed why, void *arg), void *arg);

/* The reply is complete. If fewer bytes were written than announced, it is aborted instead. */
void http_end(struct http_request *req);
/* Cuts the connection, with a reset once the reply has started, so that the client cannot take what it has for complete. */
void http_abort(struct http_request *req);

/* ---- request bodies in pieces (HTTP_STREAM_BODY) ---- */

/* To be called in the handler. on_data gets each piece (valid during the call), on_end is called once when the body is complete
 * (at once after the handler's return when there is none). The body may also never complete: then only the closed callback
 * tells. "Expect: 100-continue" is answered when the handler has returned without replying. A reply may start and end before the body
 * is complete; the rest is then dropped. Without http_set_body the whole body is dropped. */
void http_set_body(struct http_request *req, void (*on_data)(struct http_request *req, const void *data, size_t len, void *arg),
                   void (*on_end)(struct http_request *req, void *arg), void *arg);
/* Length that the client announced; -1: chunked. */
int64_t http_body_length(const struct http_request *req);
/* Stops and continues on_data and on_end; the client is throttled through TCP. pause: no further call after the current one.
 * resume: calls come from the loop, not from inside. */
void http_body_pause(struct http_request *req);
void http_body_resume(struct http_request *req);

#endif
