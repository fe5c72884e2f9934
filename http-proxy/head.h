/* The head of a message (request line or status line, and header fields), parsed in one strict pass: what two parsers could read
 * differently is refused (RFC 9112 §2.2, §3, §5, §6; docs/proxy.md, "Hostile input"). No allocation, no I/O, any thread.
 *
 * A struct head points into the block that it was parsed from; the block belongs to the caller and must stay where it is, unchanged, for as
 * long as the head is used. */
#ifndef EDGEFS_PROXY_HEAD_H
#define EDGEFS_PROXY_HEAD_H

#include "http-proxy/slice.h"
#include <stdint.h>

#define HEAD_BLOCK_MAX 65535u /* bytes of one head; the configured limit may be lower (limits.header-size) */
#define HEAD_FIELDS_MAX 128   /* the configured limit may be lower (limits.header-count) */
#define HEAD_METHOD_MAX 32

/* Fields that somebody asks for by number: X(id, name in lower case). */
#define HEAD_KNOWN(X)                                                                                                                      \
    X(HOST, "host")                                                                                                                        \
    X(CONNECTION, "connection")                                                                                                            \
    X(CONTENT_LENGTH, "content-length")                                                                                                    \
    X(TRANSFER_ENCODING, "transfer-encoding")                                                                                              \
    X(UPGRADE, "upgrade")                                                                                                                  \
    X(EXPECT, "expect")                                                                                                                    \
    X(TE, "te")                                                                                                                            \
    X(TRAILER, "trailer")                                                                                                                  \
    X(KEEP_ALIVE, "keep-alive")                                                                                                            \
    X(PROXY_CONNECTION, "proxy-connection")                                                                                                \
    X(PROXY_AUTHENTICATE, "proxy-authenticate")                                                                                            \
    X(PROXY_AUTHORIZATION, "proxy-authorization")                                                                                          \
    X(VIA, "via")                                                                                                                          \
    X(FORWARDED, "forwarded")                                                                                                              \
    X(X_FORWARDED_FOR, "x-forwarded-for")                                                                                                  \
    X(X_FORWARDED_PROTO, "x-forwarded-proto")                                                                                              \
    X(X_FORWARDED_HOST, "x-forwarded-host")                                                                                                \
    X(X_FORWARDED_PORT, "x-forwarded-port")                                                                                                \
    X(X_REAL_IP, "x-real-ip")                                                                                                              \
    X(EDGEFS_HOP, "edgefs-hop")                                                                                                            \
    X(COOKIE, "cookie")                                                                                                                    \
    X(SET_COOKIE, "set-cookie")                                                                                                            \
    X(CACHE_CONTROL, "cache-control")                                                                                                      \
    X(AUTHORIZATION, "authorization")                                                                                                      \
    X(FLY_REPLAY, "fly-replay")                                                                                                            \
    X(X_READ_AFTER_POSITION, "x-read-after-position")                                                                                      \
    X(X_WRITE_POSITION, "x-write-position")                                                                                                \
    X(SERVER_TIMING, "server-timing")                                                                                                      \
    X(VARY, "vary")                                                                                                                        \
    X(AGE, "age")                                                                                                                          \
    X(DATE, "date")                                                                                                                        \
    X(ETAG, "etag")

enum head_id {
    HEAD_OTHER,
#define X(id, name) HEAD_##id,
    HEAD_KNOWN(X)
#undef X
        HEAD_IDS
};

struct head_field { /* offsets into the block; the value without white space around it */
    uint16_t name, name_len;
    uint16_t value, value_len;
    uint8_t id; /* enum head_id */
};

enum head_body { HEAD_BODY_NONE, HEAD_BODY_LENGTH, HEAD_BODY_CHUNKED, HEAD_BODY_TO_EOF };

struct head {
    const char *block;
    uint32_t len;          /* of the block: to behind the empty line */
    struct slice method;   /* requests. Case as sent: methods are case-sensitive */
    struct slice target;   /* requests: as sent, an absolute form cut down to its path and query */
    struct slice path;     /* requests: of the target, without the query; not decoded. "*" for OPTIONS * */
    struct slice authority; /* requests in absolute form: stands above Host (RFC 9112 §3.2.2); else n = 0 */
    struct slice reason;   /* responses */
    uint16_t status;       /* responses */
    uint8_t minor;         /* HTTP/1.minor */
    bool keep_alive;       /* what version and Connection say */
    bool upgrade;          /* Connection: upgrade, and there is an Upgrade field */
    enum head_body body;   /* of a request; of a response before it is known what was asked (head_response_body) */
    uint64_t content_length; /* HEAD_BODY_LENGTH */
    uint16_t n_fields;
    uint8_t first[HEAD_IDS]; /* index of the first field with that id plus 1; 0: none */
    struct head_field fields[HEAD_FIELDS_MAX];
};

enum head_result { HEAD_DONE, HEAD_MORE, HEAD_BAD };

struct head_error {
    int status;         /* what to answer: 400, 414, 417, 431, 501, 505 (responses: always 502) */
    const char *reason; /* one line for a person; static */
};

/* Looks for a whole head at the start of p[0..n). DONE: *h is filled, and the head ended after h->len bytes. MORE: it goes on behind n (at
 * most max_len bytes in all). BAD: *e says why. The verdict depends on the bytes alone, not on how they arrived. */
enum head_result head_parse_request(struct head *h, const char *p, size_t n, size_t max_len, unsigned max_fields, struct head_error *e);
enum head_result head_parse_response(struct head *h, const char *p, size_t n, size_t max_len, unsigned max_fields, struct head_error *e);

static inline struct slice head_name(const struct head *h, const struct head_field *f)
{
    return (struct slice){h->block + f->name, f->name_len};
}
static inline struct slice head_value(const struct head *h, const struct head_field *f)
{
    return (struct slice){h->block + f->value, f->value_len};
}

/* The first field of that id, NULL: none. */
static inline const struct head_field *head_find(const struct head *h, enum head_id id)
{
    return h->first[id] ? &h->fields[h->first[id] - 1] : NULL;
}
/* The next one of the same id behind f. */
const struct head_field *head_next(const struct head *h, const struct head_field *f);
/* The first field of that name (lower case, NUL-terminated), for names that have no id. */
const struct head_field *head_find_name(const struct head *h, const char *name);

/* Whether a comma-separated list (Connection, Cache-Control, TE, …) contains token, without regard to case; parameters of an element (";q=…",
 * "=value") are not part of it. If value is given, what follows the element's '=' (quotes removed), or n = 0. */
bool head_list_has(struct slice list, const char *token, struct slice *value);

#endif
