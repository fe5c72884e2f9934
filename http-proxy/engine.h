/* What the files of the engine share. One thread, one event loop; nothing here blocks.
 *
 *   listener.c  accepts                    client.c   a client's connection: heads, pipelining, its end
 *   exchange.c  one request from its head to where it goes (decide.h), parking, trying again
 *   relay.c     bytes of one direction     response.c what comes back, capture, fields
 *   pool.c      connections to targets     answer.c   what the proxy says itself
 *   fields.c    heads rewritten            engine.c   life: open, reload, drain, tick
 *
 *  client  ── struct flow `up` ───►  upstream        An exchange joins a client and an upstream connection for one request; both
 *          ◄── struct flow `down` ──                 go on living when it is over. */
#ifndef EDGEFS_PROXY_ENGINE_H
#define EDGEFS_PROXY_ENGINE_H

#include "http-proxy/accesslog.h"
#include "http-proxy/body.h"
#include "http-proxy/buf.h"
#include "http-proxy/cache.h"
#include "http-proxy/decide.h"
#include "http-proxy/degrade.h"
#include "http-proxy/link.h"
#include "http-proxy/metrics.h"
#include "http-proxy/pipe.h"
#include "http-proxy/transport.h"
#include "lib/config.h"
#include "lib/util.h"
#include <netinet/in.h>
#include <sys/queue.h>
#include <sys/socket.h>

#ifndef TAILQ_FOREACH_SAFE /* glibc has not got it */
#define TAILQ_FOREACH_SAFE(var, head, field, tvar) for ((var) = TAILQ_FIRST(head); (var) && ((tvar) = TAILQ_NEXT(var, field), 1); (var) = (tvar))
#endif

#define HOPS_MAX 4
#define TURN_BYTES (1u << 20)  /* one direction of one connection, before the others get a turn */
#define TURN_REQUESTS 32       /* requests of one connection, likewise */
#define LINGER_BYTES (1u << 20) /* read and dropped so that a client can read our last response */
#define LINGER_S 2
#define CLIENT_TEXT_MAX 64

struct evdns_base;
struct engine;
struct app;
struct client;
struct exchange;
struct upstream;

/* ---- one direction ---------------------------------------------------------------------------------------------------------- */

struct flow {
    struct body body;
    struct buf *head; /* a rewritten head that is still to be sent: head->data[head_pos..head_len) */
    uint32_t head_pos, head_len;
    const char *mid; /* sent between head and buf: mid_n bytes that somebody else keeps */
    size_t mid_n;
    struct buf *buf; /* data[pos..end) is to be sent, data[end..len) was read and not looked at */
    uint32_t pos, end, len;
    struct pipe *pipe; /* … then what is in it: a long body, that nobody looks at; NULL: none. buf is empty meanwhile */
    bool eof;     /* the source ended */
    bool copy;    /* the sockets cannot do without */
    enum config_splice splice; /* whether it may; kept by flow_clear */
    bool big;     /* the last read filled its buffer */
    uint64_t bytes; /* sent */
};

enum flow_result {
    FLOW_WAIT,      /* for the source or the sink */
    FLOW_AGAIN,     /* the turn is over, there is more */
    FLOW_DONE,      /* the whole message is sent */
    FLOW_TRUNCATED, /* the source ended in the middle */
    FLOW_BAD,       /* the source sent what is no body */
    FLOW_SOURCE_BROKEN,
    FLOW_SINK_BROKEN,
};

/* Moves bytes until one side has to wait. keep: called with every run of body bytes before it is sent (may be NULL). */
enum flow_result flow_pump(struct flow *f, struct transport *from, struct transport *to, void (*keep)(void *arg, const char *p, size_t n),
                           void *arg);
/* Sends only what is at hand, reads nothing. WAIT: the sink is full; DONE: nothing is left. */
enum flow_result flow_flush(struct flow *f, struct transport *to, bool more);
void flow_clear(struct flow *f);
static inline bool flow_pending(const struct flow *f)
{
    return f->head || f->mid_n || f->pos < f->end || (f->pipe && f->pipe->n);
}

/* ---- upstream connections --------------------------------------------------------------------------------------------------- */

TAILQ_HEAD(upstream_list, upstream);
TAILQ_HEAD(exchange_list, exchange);

struct pool { /* connections to one target: an application, or another node's proxy */
    struct engine *e;
    TAILQ_ENTRY(pool) link;
    struct config_address address; /* copies */
    char url[256];                 /* of a peer; "": an application */
    char host_name[256];           /* of a peer over TLS: whom the certificate must name */
    struct ssl_ctx_st *tls;        /* NULL: plain */
    bool peer;
    unsigned refs; /* apps that use it */
    unsigned max_total, max_idle, total, n_idle, idle_s, connect_s;
    struct upstream_list idle, busy;  /* idle: the latest first */
    struct exchange_list waiting; /* for a connection */
    struct { /* addresses of the host name */
        struct sockaddr_storage list[8];
        socklen_t len[8];
        int n;
        uint32_t until_s;
        bool asking;
    } resolved;
};

struct upstream {
    struct transport t; /* first */
    struct pool *pool;
    struct exchange *ex; /* NULL: idle */
    TAILQ_ENTRY(upstream) link;
    int address; /* which of pool->resolved it tried */
    uint32_t deadline_s;
    bool reused, idle, dead;
    SLIST_ENTRY(upstream) grave;
};

/* A connection for ex: found at once (returned), or exchange_connected / exchange_unconnected is called later, from the loop (NULL). */
struct upstream *pool_get(struct pool *p, struct exchange *ex);
/* ex wants none any more. */
void pool_cancel(struct pool *p, struct exchange *ex);
/* Back after a complete exchange: kept if it can be used again. */
void pool_put(struct upstream *u);
void upstream_close(struct upstream *u, bool reset);
void pool_tick(struct pool *p, uint32_t now_s);
struct pool *pool_for_target(struct engine *e, const struct config_proxy *c);
struct pool *pool_for_peer(struct engine *e, struct app *a, const char *url);
void pool_unref(struct pool *p);

/* ---- applications ----------------------------------------------------------------------------------------------------------- */

TAILQ_HEAD(client_list, client);

struct app { /* one entry of `proxy:` in one configuration; counted: exchanges of a former configuration keep theirs */
    struct engine *e;
    const struct config_proxy *c;
    struct configuration *of;
    unsigned refs;
    struct decide *decide;
    struct cache *cache;
    struct accesslog *log;
    struct ssl_ctx_st *tls; /* NULL: plain */
    struct ssl_ctx_st *peer_tls;
    struct pool *target;
    struct pool *peer; /* the last primary's; NULL: none yet */
    struct trust *trust;
};

struct configuration { /* a file as it was read; counted by the apps of it */
    struct config *config;
    unsigned refs;
};

struct listener {
    TAILQ_ENTRY(listener) link;
    struct engine *e;
    struct app *app; /* what new connections and new requests belong to; NULL: removed */
    char name[300];  /* HOST:PORT */
    int fd;
    bool accepting, mark;
    struct event ev;
    struct client_list clients;
    uint64_t n_clients;
};
TAILQ_HEAD(listener_list, listener);

struct engine {
    struct event_base *base;
    struct evdns_base *dns;
    struct link *link;
    struct configuration *configuration; /* the current one */
    struct config_args args;
    struct position_tracker *positions;
    struct degrade *degrade;
    struct proxy_metrics *metrics;
    struct proxy_gauges *gauges;
    TAILQ_HEAD(, pool) pools;
    struct listener_list listeners;
    SLIST_HEAD(, exchange) spare;       /* free exchanges */
    SLIST_HEAD(, client) client_graves; /* closed in this turn of the loop */
    SLIST_HEAD(, upstream) upstream_graves;
    struct event ev_reap, ev_tick;
    uint32_t now_s; /* coarse: once a tick */
    uint32_t drain_until_s;
    bool draining, patient;
    uint64_t queued; /* exchanges that wait for a primary */
};

int engine_open(struct engine *e, struct event_base *base, struct link *link, const struct config_args *args, struct config *config, struct err *err);
/* SIGHUP: reads the file again. What is wrong is logged, and nothing changes. */
void engine_reload(struct engine *e);
/* No new connections; ends the loop when the last request is done, at the latest after the longest drain-time. patient: connections without a
 * request are not closed at once; their next request is answered, and then they end. */
void engine_drain(struct engine *e, bool patient);
/* Whether a request is under way. */
bool engine_busy(const struct engine *e);
void engine_close(struct engine *e);
void engine_reap_soon(struct engine *e);
struct app *app_ref(struct app *a);
void app_unref(struct app *a);

uint64_t engine_now_ms(void);
uint64_t engine_now_us(void);

/* ---- listeners -------------------------------------------------------------------------------------------------------------- */

int listener_open(struct engine *e, struct app *a, struct err *err);
void listener_close(struct listener *l); /* its clients must be gone */
/* Stops accepting; keep: the launcher goes on holding the socket. */
void listener_stop(struct listener *l, bool keep);
void listener_freed(struct listener *l); /* a client is gone: accept again */
void listener_name(const struct config_proxy *c, char name[300]);

/* ---- clients ---------------------------------------------------------------------------------------------------------------- */

struct client {
    struct transport t; /* first */
    struct engine *e;
    struct listener *l;
    TAILQ_ENTRY(client) link;
    SLIST_ENTRY(client) grave;
    struct exchange *ex; /* NULL: between requests */
    struct buf *in;      /* read and not yet used: in->data[in_pos..in_len) */
    uint32_t in_pos, in_len;
    uint32_t deadline_s;
    bool running, again, closing, lingering, dead, trusted, trust_known;
    uint32_t linger_left;
    uint8_t addr_len; /* of text */
    char addr[CLIENT_TEXT_MAX]; /* the address in digits */
    struct sockaddr_storage peer;
};

void client_accept(struct listener *l, int fd, const struct sockaddr_storage *peer);
/* Looks for the next request, and goes on as far as possible. */
void client_run(struct client *c);
/* After the last response: says the end, reads a little more, closes. */
void client_finish(struct client *c);
void client_close(struct client *c, bool reset);
/* Its request waits, and it has ended its sending side: for an answer, or because it is gone? */
void client_probe(struct client *c);
void client_tick(struct client *c, uint32_t now_s);

/* ---- exchanges -------------------------------------------------------------------------------------------------------------- */

/*  ROUTE ──► PARKED ──► ROUTE              decide: wait for a position, hold for a primary
 *    │  └──► CACHE_WAIT ─► ROUTE           somebody else fetches it
 *    ▼
 *  CONNECT ──► RELAY ──► CAPTURE ──► RELAY ──► over        response head of a write: its position is asked for
 *                 └──► TUNNEL ──► over                     101
 *  ANSWER ──► over                                         the proxy's own response */
enum exchange_state { EX_ROUTE, EX_PARKED, EX_CACHE_WAIT, EX_CONNECT, EX_RELAY, EX_CAPTURE, EX_TUNNEL, EX_ANSWER };

struct exchange {
    SLIST_ENTRY(exchange) spare;
    TAILQ_ENTRY(exchange) pool_link;
    struct client *c;
    struct app *app;
    struct upstream *u;
    struct pool *pool; /* CONNECT: waits there */
    enum exchange_state state;
    struct flow up, down;
    struct buf *req_buf; /* holds the head */
    struct position_wait wait;
    struct cache_wait cache_wait;
    struct cache_flight *flight;
    struct cache_entry *entry;
    bool holding, writing, pool_waiting;
    bool queued; /* has a place in the failover queue, while it waits and while it tries */
    uint32_t write_era; /* of position_write_begin, while writing */
    struct degrade_write slow;
    bool request_sent;  /* completely */
    bool any_sent;      /* a byte of it went to u */
    bool response_head; /* a final one was parsed */
    bool response_sent; /* completely */
    bool want_close;    /* the client's connection ends with this response */
    bool continued;     /* a 100 was passed on, or there was no expectation */
    bool upgrade;
    bool client_half_closed;
    bool forwarded;
    bool upstream_reused;
    bool retried;
    bool probed; /* client_probe has asked */
    bool acked; /* the application's first bytes, at once */
    enum proxy_outcome outcome;
    int status;
    unsigned hop, route_steps;
    struct decision decision;
    struct position written;
    struct { /* the body so far, so that the request can be sent again */
        bool on, complete; /* on: everything since its start is here */
        const char *in_place; /* n bytes in req_buf; NULL: in data */
        char *data;
        size_t n, cap;
    } kept;
    struct { /* a tunnel whose application may write here */
        bool writes, paused; /* paused: nothing more goes to the application until it is known who is primary */
        uint64_t sent_ms;    /* when something last went there */
    } tunnel;
    uint64_t began_us, parked_us, wait_us, sent_us, head_us;
    uint64_t bytes_in;
    uint32_t progress_s;
    struct head req, resp;
};

/* A request's head lies at the start of c's input (parsed into ex->req by the caller). Takes over the input. */
struct exchange *exchange_new(struct client *c);
void exchange_begin(struct exchange *ex);
/* Something may go on: called by both connections. */
void exchange_pump(struct exchange *ex);
/* Decides what comes next, from ex->decision. */
void exchange_route(struct exchange *ex);
void exchange_event(struct exchange *ex, enum decide_event event);
/* Connected or not; from the loop. */
void exchange_connected(struct exchange *ex, struct upstream *u);
void exchange_unconnected(struct exchange *ex, int error);
/* The client is gone: everything for it ends. */
void exchange_abort(struct exchange *ex);
/* The response is complete, or there will be none: gives the connections back. ok: the client's connection may go on. */
void exchange_end(struct exchange *ex, bool ok);
void exchange_tick(struct exchange *ex, uint32_t now_s);
/* Sends the request again from its start, by its decision; only if exchange_can_resend. */
bool exchange_can_resend(const struct exchange *ex);
void exchange_resend(struct exchange *ex);
/* u failed before a response came: tries again if that is allowed, else 502. */
void exchange_upstream_failed(struct exchange *ex, const char *why);
/* Lets go of the upstream connection. */
void exchange_drop_upstream(struct exchange *ex, bool reset);
void exchange_write_begin(struct exchange *ex, bool before_hold);
void exchange_write_end(struct exchange *ex);

/* response.c: reads and passes on what the upstream answers, until something has to wait. */
void response_pump(struct exchange *ex);
/* The position of a write is known (or not): send the head now. */
void response_captured(struct exchange *ex, struct position written);
/* A stored response. */
void response_from_cache(struct exchange *ex);
/* tunnel.c: after 101. */
void tunnel_begin(struct exchange *ex);
void tunnel_pump(struct exchange *ex);

/* ---- fields.c --------------------------------------------------------------------------------------------------------------- */

/* The request's head as it goes upstream, into b (BUF_SMALL); its length, or 0: it does not fit. */
uint32_t fields_request(const struct exchange *ex, struct buf *b);
/* The response's head as it goes to the client. */
uint32_t fields_response(const struct exchange *ex, const struct extra *x, struct buf *b);
/* An interim response (1xx). */
uint32_t fields_interim(const struct head *h, struct buf *b);

/* ---- answer.c --------------------------------------------------------------------------------------------------------------- */

/* The proxy's own response, with a line of text; the rest of the request is not read, unless it is small. */
void answer(struct exchange *ex, int status, const char *text);
void answer_body(struct exchange *ex, int status, const char *type, const char *body, size_t len);
/* /edgefs/…: true if it was that. */
bool answer_own(struct exchange *ex);
/* For bytes that made no request: status line, fields and text, complete. */
void answer_bad_request(struct client *c, int status, const char *reason);

/* ---- trust.c ---------------------------------------------------------------------------------------------------------------- */

struct trust *trust_new(const struct config *c, const struct config_proxy *p); /* NULL: no memory */
void trust_free(struct trust *t);
bool trust_has(const struct trust *t, const struct sockaddr_storage *peer);

/* ---- tls.c ------------------------------------------------------------------------------------------------------------------ */

int tls_server(const struct config_proxy *c, struct ssl_ctx_st **out, struct err *e);
int tls_client(const struct config_proxy *c, struct ssl_ctx_st **out, struct err *e);

#endif
