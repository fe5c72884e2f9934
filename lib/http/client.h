/* A small blocking HTTP client on libcurl, for edgefs-ctl and the replicator: one connection that is kept alive, one request at a
 * time. One thread at a time, except http_client_abort. http and https only; redirects are not followed (the token would go along);
 * proxies from the environment are not used. */
#ifndef EDGEFS_HTTP_CLIENT_H
#define EDGEFS_HTTP_CLIENT_H

#include "lib/err.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define HTTP_CLIENT_BODY_MAX (16u << 20) /* default for max_body */

struct http_client;

struct http_client_options { /* 0 or NULL: the default */
    const char *token;     /* bearer token, sent with each request; copied */
    const char *ca_file;   /* PEM, https: certificates that are trusted instead of the system's; these three are copied */
    const char *cert_file, *key_file; /* PEM, https: our own certificate and key, for servers that ask for one */
    unsigned connect_ms;   /* 5 s: name, TCP and TLS */
    unsigned idle_ms;      /* 30 s: no byte either way; what ends a stream whose heartbeats stop. Counted to the millisecond */
    unsigned total_ms;     /* whole request; 0: no limit */
    size_t max_body;       /* bytes of a response body that is kept in memory: 16 MiB. More is an error (-EMSGSIZE) */
    const atomic_int *abort; /* another thread sets it to non-zero to end the request: seen within 100 ms. See http_client_abort */
};

struct http_response {
    int status;
    char *content_type; /* NULL: none */
    char *body;         /* NUL-terminated; never NULL after success */
    size_t body_len;
};

/* Initialises libcurl, once for the process. Any thread; http_client_new does it itself. */
void http_client_init(void);
/* The code, as http_client_request returns it, of a CURLcode that is an error. */
int http_client_code(int curlcode);

/* Time-outs may be changed between requests with http_client_set_timeouts. NULL only if memory is short. Any thread, the first call
 * too (libcurl is initialised once). */
struct http_client *http_client_new(const struct http_client_options *options);
void http_client_free(struct http_client *c);

/* 0: no limit (total_ms), the default (connect_ms, idle_ms). */
void http_client_set_timeouts(struct http_client *c, unsigned connect_ms, unsigned idle_ms, unsigned total_ms);

/* The value of the Authorization header of all requests to come, in place of the token; NULL: none. Copied. -ENOMEM. */
int http_client_set_authorization(struct http_client *c, const char *value);

/* During downloads: called (in the thread of the download) whenever all that has arrived was given to on_data, before waiting for more. It
 * returns how many milliseconds to wait at most before it is called again; negative: no limit. NULL: nobody is called. */
void http_client_on_idle(struct http_client *c, int (*on_idle)(void *ctx), void *ctx);

/* Any thread: on_idle of the download that runs now is called soon, whatever it has asked for. */
void http_client_wake(struct http_client *c);

/* Any thread: the request that runs now (or else the next one) ends at once with -ECANCELED. */
void http_client_abort(struct http_client *c);

/* One request with a body from memory (NULL: none; content_type NULL: application/json). Blocks. Any status the server sends is success
 * here; see http_response_check. *r is cleared first and is the caller's (http_response_free), on failure empty.
 * 0; -EINVAL (bad URL), -ECONNREFUSED, -EHOSTUNREACH (name or route), -ETIMEDOUT, -ECONNRESET (cut before the end), -EMSGSIZE,
 * -EPROTO (no HTTP), -ECANCELED, -ENOMEM, -EIO. e->text names method, URL and cause. */
int http_client_request(struct http_client *c, const char *method, const char *url, const char *content_type, const void *body,
                        size_t len, struct http_response *r, struct err *e);

/* Response header of the last request, by name (first value); NULL: none. Valid until the next request. */
const char *http_client_header(struct http_client *c, const char *name);

/* 0 if the status is 2xx; otherwise ERR_REMOTE with "METHOD URL: STATUS: the server's {"error"} text". */
int http_response_check(const struct http_response *r, const char *method, const char *url, struct err *e);
void http_response_free(struct http_response *r);

/* Called with each piece of a body as it arrives; 0 goes on, negative ends the transfer with that code. */
typedef int (*http_on_data)(void *ctx, const void *p, size_t n);

/* GET of a body of any length, also one that ends with the connection. on_data sees the body of a 2xx answer only; any other is
 * ERR_REMOTE with the server's text. *status (or NULL) gets the status, 0 if none came. Other errors as above; a body with a length or
 * chunks that is cut is -ECONNRESET, one without framing just ends. When on_data ended it: its code (e->text is on_data's to set: if
 * it left e->code at 0, a general text). */
int http_client_download(struct http_client *c, const char *url, http_on_data on_data, void *ctx, int *status, struct err *e);

/* The same for another method, with a body of that type (it stays the caller's): what watches of etcd's gateway are. */
int http_client_stream(struct http_client *c, const char *method, const char *url, const char *content_type, const void *body, size_t len,
                       http_on_data on_data, void *ctx, int *status, struct err *e);

/* Sends len bytes of fd from off on as the body (method PUT or POST; application/octet-stream). fd stays the caller's; its position is
 * not used. progress (or NULL) is told now and then how many bytes are sent. -ENODATA: the file is shorter. Rest as
 * http_client_request. */
int http_client_upload(struct http_client *c, const char *method, const char *url, int fd, off_t off, uint64_t len,
                       void (*progress)(void *ctx, uint64_t sent), void *ctx, struct http_response *r, struct err *e);

#endif
