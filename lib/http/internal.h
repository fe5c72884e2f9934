/* What the files of the server share: server.c (listening, life), post.c (other threads), connection.c (socket, events,
 * time-outs), exchange.c (the state machine from bytes to handlers), output.c (bytes to the socket), request.c and response.c (the
 * public calls). Everything runs in the loop's thread except post.c's two entry points. */
#ifndef EDGEFS_HTTP_INTERNAL_H
#define EDGEFS_HTTP_INTERNAL_H

#include "lib/http/chunked.h"
#include "lib/http/guard.h"
#include "lib/http/head.h"
#include "lib/http/router.h"
#include "lib/http/server.h"
#include "lib/http/target.h"

#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <event2/listener.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define HTTP_SERVER_MAGIC 0x48535256u
#define HTTP_CONN_MAGIC 0x48434f4eu
#define HTTP_REQUEST_MAGIC 0x48524551u

#define HTTP_EXTRA_MAX 8192u          /* header fields that a handler adds to one reply */
#define HTTP_DISCARD_MAX (64u << 10)  /* rest of a body that is read and dropped to keep the connection */
#define HTTP_LINGER_MAX (1u << 20)    /* … and to let the client read our last reply before the connection is closed */
#define HTTP_LINGER_MS 2000
#define HTTP_PIPELINE_OUT (64u << 10) /* the next pipelined request waits while more output than this is queued */
#define HTTP_FLUSH_MAX (1u << 20)     /* bytes written to one connection before the others get a turn */
#define HTTP_TURN_REQUESTS 32         /* requests of one connection before the others get a turn */

/*            ┌──────────────────────────── keep-alive ─────────────────────────────┐
 *            ▼                                                                     │
 * accept ─► HEAD ──┬─ no body ────────────────────────────────► REPLY ──┬─ ended ──┤
 *            │     └─► BODY (buffered: collect, then the handler;       │          ├─► DISCARD (the rest of a body
 *            │              streamed: the handler came first) ─ end ────┘          │       nobody wants) ──► HEAD
 *            │              │                                                      │
 *            └─ refused ────┴──────────────────────────────────────────────────────┴─► CLOSING (output drains)
 *                                                                                          └─► LINGER ─► DEAD
 * DEAD is entered from everywhere on errors; the object goes away in the kick callback, never below a caller. */
enum conn_state { CONN_HEAD, CONN_BODY, CONN_REPLY, CONN_DISCARD, CONN_CLOSING, CONN_LINGER, CONN_DEAD };

enum body_kind { BODY_NONE, BODY_LENGTH, BODY_CHUNKED }; /* NONE: there is none, or it has been read to its end */

struct http_conn {
    uint32_t magic;
    int fd;
    struct http_server *server;
    struct http_request *req; /* the one being received or answered */
    enum conn_state state;
    enum http_closed why;    /* DEAD: what the closed callback is told */
    bool eof;                /* the client sends no more */
    bool keep_alive;         /* false: CLOSING after the current reply */
    bool reset;              /* close with RST */
    bool corked;             /* more requests wait in the input: output is gathered */
    bool processing, kicked; /* inside conn_process; ev_kick is active */
    bool reading, writing;   /* events that are added */
    bool idle;               /* in the server's idle list */
    bool continue_due;       /* the client waits for "100 Continue" */
    bool fresh;              /* no request yet */
    struct event ev_read, ev_write, ev_timer, ev_kick;
    uint64_t in_deadline, out_deadline, timer_at; /* ms of the monotonic clock; 0: none */
    struct http_guard guard;
    enum body_kind body;
    uint64_t body_left; /* BODY_LENGTH; in LINGER: bytes still read before it is cut */
    struct http_chunked chunked;
    struct { /* input that waits: an incomplete head, or what came before its turn */
        uint8_t *buf;
        size_t pos, len, cap; /* the bytes are buf[pos..len) */
    } in;
    struct evbuffer *out;
    struct sockaddr_storage peer;
    TAILQ_ENTRY(http_conn) all, idle_link;
};

enum reply_framing { REPLY_BODYLESS, REPLY_LENGTH, REPLY_CHUNKED, REPLY_CLOSE };

struct http_request {
    uint32_t magic;
    struct http_conn *conn; /* NULL: gone, and the handler has not ended the request yet */
    const struct http_route *route;
    void *user;
    bool dispatched; /* the handler knows it */
    bool started, ended, body_paused, body_ended, above_low;
    enum reply_framing framing;
    uint64_t left; /* REPLY_LENGTH: bytes still to be written */
    char *extra;   /* header fields set by the handler, complete lines */
    size_t extra_len;
    void (*on_closed)(struct http_request *, enum http_closed, void *);
    void *closed_arg;
    void (*on_drain)(struct http_request *, void *);
    void *drain_arg;
    size_t low_water;
    void (*on_data)(struct http_request *, const void *, size_t, void *);
    void (*on_body_end)(struct http_request *, void *);
    void *body_arg;
    char *body; /* buffered: body_len bytes and a NUL, body_cap allocated */
    size_t body_len, body_cap;
    char peer[64];
    char *block; /* the head, inside this allocation; names, values and target NUL-terminated in place */
    struct http_target target;
    struct http_head head; /* last: its fields array is long and mostly unused */
};

struct http_wake {
    struct http_server *server;
    void (*fn)(void *);
    void *arg;
    bool once;           /* made by http_server_post: freed when it has run */
    atomic_bool pending; /* in the queue, or about to be put there */
    bool queued;         /* under post_lock */
    TAILQ_ENTRY(http_wake) link;
};
TAILQ_HEAD(wake_list, http_wake);
TAILQ_HEAD(conn_list, http_conn);

struct http_server {
    uint32_t magic;
    struct event_base *base;
    struct http_router router;
    struct http_server_options o; /* defaults filled in; strings cleared */
    bool has_token;
    uint8_t token_digest[32];
    struct evconnlistener *listener;
    struct event *ev_accept, *ev_done; /* listen again after a lack of descriptors; stop_listening is done */
    uint16_t port;
    bool stopping;
    void (*done)(void *);
    void *done_arg;
    struct conn_list conns, idle; /* idle: longest first */
    struct http_server_stats stats;
    uint8_t *scratch; /* HTTP_INPUT_MAX bytes: where every read lands */
    time_t date_at;
    char date[32];
    /* post.c */
    pthread_mutex_t post_lock;
    struct wake_list posts; /* post_lock */
    int post_fd;
    struct event *ev_post;
};

/* post.c */
int http_post_open(struct http_server *s);
void http_post_close(struct http_server *s); /* runs what is left */

/* server.c */
bool http_server_authorized(const struct http_server *s, const struct http_request *req);
const char *http_server_date(struct http_server *s);
void http_server_lost(struct http_server *s); /* a connection is gone: is stop_listening done? */

/* connection.c */
static inline uint64_t http_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}
int http_conn_open(struct http_server *s, int fd, const struct sockaddr *peer, int peer_len); /* takes fd on success */
void http_conn_destroy(struct http_conn *c); /* from the kick, or from http_server_close */
/* DEAD from now on; closed callbacks come with the kick. */
void http_conn_fail(struct http_conn *c, enum http_closed why, bool reset);
void http_conn_kick(struct http_conn *c);
/* Wakes the timer in time for the deadlines. */
void http_conn_arm(struct http_conn *c);

/* exchange.c */
struct http_view { /* input at hand, consumed from the front */
    const uint8_t *p;
    size_t n;
};
void http_conn_process(struct http_conn *c, struct http_view *v);
/* An answer to bytes that make no request, or that break the current one off; then CLOSING. */
void http_conn_refuse(struct http_conn *c, int status, const char *reason);
/* Takes the current request away from its handler. */
void http_conn_drop_request(struct http_conn *c, enum http_closed why);

/* output.c: 0, or -EPIPE, -ENOMEM, … with the connection DEAD */
int http_conn_send(struct http_conn *c, const struct iovec *iov, int n);
int http_conn_queue(struct http_conn *c, const void *data, size_t len);
int http_conn_flush(struct http_conn *c);
int http_conn_push(struct http_conn *c); /* flush, unless gathering or waiting for the socket */
static inline size_t http_conn_pending(const struct http_conn *c)
{
    return evbuffer_get_length(c->out);
}

/* A drain callback is due. */
static inline bool http_conn_drained(const struct http_conn *c)
{
    const struct http_request *r = c->req;
    return c->state != CONN_DEAD && r && !r->ended && r->on_drain && r->above_low && http_conn_pending(c) <= r->low_water;
}

/* response.c */
/* The reply's close decision for a body that was not read to its end. */
bool http_conn_discardable(const struct http_conn *c);
void http_reply_refusal(struct http_conn *c, int status, const char *reason);
void http_request_free(struct http_request *req);

#endif
