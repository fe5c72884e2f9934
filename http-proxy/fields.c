#include "http-proxy/engine.h"

#include <stdio.h>

struct out {
    char *p;
    size_t n, cap;
    bool full;
};

static void put(struct out *o, struct slice s)
{
    if (o->n + s.n > o->cap) {
        o->full = true;
        return;
    }
    memcpy(o->p + o->n, s.p, s.n);
    o->n += s.n;
}

#define PUT(o, literal) put(o, SLICE(literal))

/* Whether Connection names this field (RFC 9110 §7.6.1). Fields that we know are not dropped at a client's word: naming Host, Cookie or
 * Content-Length there is an attack. */
static bool named_by_connection(const struct head *h, const struct head_field *f)
{
    char name[64];
    if (f->id != HEAD_OTHER || f->name_len >= sizeof name)
        return false;
    for (const struct head_field *c = head_find(h, HEAD_CONNECTION); c; c = head_next(h, c)) {
        struct slice v = head_value(h, c);
        if (v.n < f->name_len)
            continue;
        memcpy(name, head_name(h, f).p, f->name_len);
        name[f->name_len] = 0;
        if (head_list_has(v, name, NULL))
            return true;
    }
    return false;
}

/* Copies the fields that drop lets pass, line by line as they came, in runs. */
static void put_fields(struct out *o, const struct head *h, bool (*drop)(const void *arg, const struct head *h, const struct head_field *f),
                       const void *arg)
{
    bool names = head_find(h, HEAD_CONNECTION);
    size_t run = 0, run_end = 0; /* of block */
    for (int i = 0; i < h->n_fields; i++) {
        const struct head_field *f = &h->fields[i];
        size_t end = i + 1 < h->n_fields ? h->fields[i + 1].name : h->len - 2;
        if (drop(arg, h, f) || (names && named_by_connection(h, f)))
            continue;
        if (run_end != f->name) {
            put(o, (struct slice){h->block + run, run_end - run});
            run = f->name;
        }
        run_end = end;
    }
    put(o, (struct slice){h->block + run, run_end - run});
}

/* ---- requests --------------------------------------------------------------------------------------------------------------- */

static bool drop_request_field(const void *arg, const struct head *h, const struct head_field *f)
{
    const struct exchange *ex = arg;
    (void)h;
    switch (f->id) {
    case HEAD_HOST: /* comes first */
    case HEAD_CONNECTION:
    case HEAD_KEEP_ALIVE:
    case HEAD_PROXY_CONNECTION:
    case HEAD_TE:
    case HEAD_UPGRADE:
    case HEAD_EDGEFS_HOP:
        return true;
    case HEAD_EXPECT:
        return !ex->req.minor;
    case HEAD_FORWARDED:
    case HEAD_X_FORWARDED_FOR:
        return ex->app->c->forwarded || !ex->c->trusted;
    case HEAD_X_FORWARDED_PROTO:
    case HEAD_X_FORWARDED_HOST:
    case HEAD_X_FORWARDED_PORT:
    case HEAD_X_REAL_IP:
        return !ex->c->trusted;
    default:
        return false;
    }
}

/* "Name: what trusted clients said, mine". */
static void put_list(struct out *o, const struct exchange *ex, enum head_id id, struct slice name, struct slice mine)
{
    put(o, name);
    const struct head_field *f = ex->c->trusted ? head_find(&ex->req, id) : NULL;
    for (; f; f = head_next(&ex->req, f)) {
        put(o, head_value(&ex->req, f));
        PUT(o, ", ");
    }
    put(o, mine);
    PUT(o, "\r\n");
}

static struct slice host_of(const struct exchange *ex)
{
    const struct head_field *f = head_find(&ex->req, HEAD_HOST);
    return ex->req.authority.n ? ex->req.authority : f ? head_value(&ex->req, f) : SLICE("");
}

/* RFC 7239, and the older fields that applications read. */
static void put_forwarded(struct out *o, const struct exchange *ex)
{
    const struct client *c = ex->c;
    struct slice addr = {c->addr, c->addr_len}, host = host_of(ex), proto = c->t.ssl ? SLICE("https") : SLICE("http");
    bool v6 = memchr(addr.p, ':', addr.n);
    put_list(o, ex, HEAD_X_FORWARDED_FOR, SLICE("X-Forwarded-For: "), addr);
    char text[CLIENT_TEXT_MAX + 320];
    int n = snprintf(text, sizeof text, "for=%s%.*s%s;host=\"%.*s\";proto=%s", v6 ? "\"[" : "", (int)addr.n, addr.p, v6 ? "]\"" : "",
                     (int)MIN(host.n, (size_t)256), host.p, proto.p);
    put_list(o, ex, HEAD_FORWARDED, SLICE("Forwarded: "), (struct slice){text, (size_t)n});
    if (!c->trusted || !head_find(&ex->req, HEAD_X_FORWARDED_PROTO)) {
        PUT(o, "X-Forwarded-Proto: ");
        put(o, proto);
        PUT(o, "\r\n");
    }
    if (!c->trusted || !head_find(&ex->req, HEAD_X_FORWARDED_HOST)) {
        PUT(o, "X-Forwarded-Host: ");
        put(o, host);
        PUT(o, "\r\n");
    }
}

static void put_upgrade(struct out *o, const struct exchange *ex)
{
    if (ex->upgrade) {
        PUT(o, "Connection: Upgrade\r\nUpgrade: ");
        put(o, head_value(&ex->req, head_find(&ex->req, HEAD_UPGRADE)));
        PUT(o, "\r\n");
        return;
    }
    const struct head_field *te = head_find(&ex->req, HEAD_TE);
    if (te && head_list_has(head_value(&ex->req, te), "trailers", NULL))
        PUT(o, "TE: trailers\r\nConnection: TE\r\n");
}

uint32_t fields_request(const struct exchange *ex, struct buf *b)
{
    const struct head *h = &ex->req;
    struct out o = {.p = b->data, .cap = b->size};
    put(&o, h->method);
    PUT(&o, " ");
    put(&o, h->target);
    PUT(&o, " HTTP/1.1\r\nHost: ");
    put(&o, host_of(ex));
    PUT(&o, "\r\n");
    put_fields(&o, h, drop_request_field, ex);
    put_upgrade(&o, ex);
    if (ex->app->c->forwarded) {
        put_forwarded(&o, ex);
        PUT(&o, "Via: 1.1 edgefs\r\n");
    }
    if (ex->forwarded) {
        char hop[32];
        int n = snprintf(hop, sizeof hop, "Edgefs-Hop: %u%s%s\r\n", ex->hop + 1, ex->decision.replayed || ex->decision.as_write ? ";write" : "",
                         ex->decision.relays ? ";relay" : "");
        put(&o, (struct slice){hop, (size_t)n});
    }
    PUT(&o, "\r\n");
    return o.full ? 0 : (uint32_t)o.n;
}

/* ---- responses -------------------------------------------------------------------------------------------------------------- */

static bool drop_response_field(const void *arg, const struct head *h, const struct head_field *f)
{
    const struct exchange *ex = arg;
    switch (f->id) {
    case HEAD_CONNECTION:
    case HEAD_KEEP_ALIVE:
    case HEAD_PROXY_CONNECTION:
    case HEAD_UPGRADE:
    case HEAD_FLY_REPLAY:
        return true;
    case HEAD_TRANSFER_ENCODING:
        return h->status < 200 || h->status == 204 || (ex && ex->down.body.decode);
    case HEAD_CONTENT_LENGTH:
        return h->status < 200 || h->status == 204;
    case HEAD_SERVER_TIMING: /* the other proxy's view of it: this one's counts */
        return ex && ex->forwarded && f->value_len > 7 && !memcmp(h->block + f->value, "edgefs;", 7);
    case HEAD_OTHER: /* between proxies (decide.c) */
        return ex && ex->forwarded && slice_equal_case(head_name(h, f), SLICE("x-edge-position"));
    default:
        return false;
    }
}

static void put_status(struct out *o, const struct head *h)
{
    char line[16] = "HTTP/1.1 ";
    line[9] = (char)('0' + h->status / 100);
    line[10] = (char)('0' + h->status / 10 % 10);
    line[11] = (char)('0' + h->status % 10);
    line[12] = ' ';
    put(o, (struct slice){line, 13});
    put(o, h->reason);
    PUT(o, "\r\n");
}

uint32_t fields_response(const struct exchange *ex, const struct extra *x, struct buf *b)
{
    const struct head *h = &ex->resp;
    struct out o = {.p = b->data, .cap = b->size};
    put_status(&o, h);
    put_fields(&o, h, drop_response_field, ex);
    put(&o, (struct slice){x->buf, x->n});
    PUT(&o, "Via: 1.1 edgefs\r\n");
    if (h->status == 101) {
        const struct head_field *f = head_find(h, HEAD_UPGRADE);
        PUT(&o, "Connection: Upgrade\r\nUpgrade: ");
        put(&o, f ? head_value(h, f) : SLICE("websocket"));
        PUT(&o, "\r\n");
    } else if (ex->want_close) {
        PUT(&o, "Connection: close\r\n");
    } else if (!ex->req.minor) {
        PUT(&o, "Connection: keep-alive\r\n");
    }
    PUT(&o, "\r\n");
    return o.full ? 0 : (uint32_t)o.n;
}

uint32_t fields_interim(const struct head *h, struct buf *b)
{
    struct out o = {.p = b->data, .cap = b->size};
    put_status(&o, h);
    put_fields(&o, h, drop_response_field, NULL);
    PUT(&o, "\r\n");
    return o.full ? 0 : (uint32_t)o.n;
}
