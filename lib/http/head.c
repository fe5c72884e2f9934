#include "lib/http/head.h"
#include "lib/http/server.h"

#include <llhttp.h>
#include <string.h>
#include <strings.h>

struct parse {
    struct http_head *h;
    const char *block;
    bool in_value, complete;
};

static int on_url(llhttp_t *l, const char *at, size_t n)
{
    struct parse *p = l->data;
    if (!p->h->target_len)
        p->h->target = (uint16_t)(at - p->block);
    p->h->target_len = (uint16_t)(p->h->target_len + n);
    return 0;
}

static int on_field(llhttp_t *l, const char *at, size_t n)
{
    struct parse *p = l->data;
    struct http_head *h = p->h;
    if (h->n_fields == HTTP_FIELDS_MAX)
        return -1;
    struct http_field *f = &h->fields[h->n_fields];
    if (!f->name_len)
        f->name = (uint16_t)(at - p->block);
    f->name_len = (uint16_t)(f->name_len + n);
    return 0;
}

static int on_value(llhttp_t *l, const char *at, size_t n)
{
    struct parse *p = l->data;
    if (p->h->n_fields == HTTP_FIELDS_MAX)
        return -1;
    struct http_field *f = &p->h->fields[p->h->n_fields];
    if (!p->in_value)
        f->value = (uint16_t)(at - p->block);
    p->in_value = true;
    f->value_len = (uint16_t)(at + n - p->block - f->value);
    return 0;
}

static int on_value_complete(llhttp_t *l)
{
    struct parse *p = l->data;
    struct http_field *f = &p->h->fields[p->h->n_fields];
    const char *v = p->block + f->value;
    while (f->value_len && (*v == ' ' || *v == '\t')) {
        v++;
        f->value++;
        f->value_len--;
    }
    while (f->value_len && (v[f->value_len - 1] == ' ' || v[f->value_len - 1] == '\t'))
        f->value_len--;
    if (!f->value_len) /* llhttp places an empty value behind its line, where the next name begins */
        f->value = (uint16_t)(f->name + f->name_len);
    p->in_value = false;
    if (++p->h->n_fields < HTTP_FIELDS_MAX)
        p->h->fields[p->h->n_fields] = (struct http_field){0};
    return 0;
}

static int on_headers_complete(llhttp_t *l)
{
    struct parse *p = l->data;
    p->complete = true;
    return HPE_PAUSED; /* bodies are decoded by chunked.c or by counting */
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_headers_complete,
};

static int fail(struct http_head *h, int status, const char *reason)
{
    h->status = status;
    h->reason = reason;
    return -1;
}

static unsigned method_bit(uint8_t m)
{
    switch (m) {
    case HTTP_GET:
        return HTTP_M_GET;
    case HTTP_HEAD:
        return HTTP_M_HEAD;
    case HTTP_POST:
        return HTTP_M_POST;
    case HTTP_PUT:
        return HTTP_M_PUT;
    case HTTP_DELETE:
        return HTTP_M_DELETE;
    case HTTP_PATCH:
        return HTTP_M_PATCH;
    case HTTP_OPTIONS:
        return HTTP_M_OPTIONS;
    default:
        return HTTP_M_OTHER;
    }
}

int http_head_find(const struct http_head *h, const char *block, const char *name, int from)
{
    size_t n = strlen(name);
    for (int i = from; i < h->n_fields; i++)
        if (h->fields[i].name_len == n && !strncasecmp(block + h->fields[i].name, name, n))
            return i;
    return -1;
}

static bool value_is(const char *block, const struct http_field *f, const char *word)
{
    size_t n = strlen(word);
    return f->value_len == n && !strncasecmp(block + f->value, word, n);
}

/* Content-Length and Transfer-Encoding: one of them, once, in the one form that nobody reads differently (RFC 9112 §6.1–6.3). */
static int check_framing(struct http_head *h, const char *block)
{
    h->content_length = -1;
    int te = http_head_find(h, block, "transfer-encoding", 0), cl = http_head_find(h, block, "content-length", 0);
    if (te >= 0 && cl >= 0)
        return fail(h, 400, "both Transfer-Encoding and Content-Length");
    if (te >= 0) {
        if (http_head_find(h, block, "transfer-encoding", te + 1) >= 0)
            return fail(h, 400, "more than one Transfer-Encoding");
        if (!h->minor)
            return fail(h, 400, "Transfer-Encoding in an HTTP/1.0 request");
        if (!value_is(block, &h->fields[te], "chunked"))
            return fail(h, 501, "transfer coding is not \"chunked\"");
        h->chunked = true;
    }
    if (cl >= 0) {
        const struct http_field *f = &h->fields[cl];
        if (http_head_find(h, block, "content-length", cl + 1) >= 0)
            return fail(h, 400, "more than one Content-Length");
        if (!f->value_len || f->value_len > 18)
            return fail(h, 400, "bad Content-Length");
        int64_t v = 0;
        for (unsigned i = 0; i < f->value_len; i++) {
            char c = block[f->value + i];
            if (c < '0' || c > '9')
                return fail(h, 400, "bad Content-Length");
            v = v * 10 + (c - '0');
        }
        h->content_length = v;
    }
    return 0;
}

static int check_host(struct http_head *h, const char *block)
{
    int host = http_head_find(h, block, "host", 0);
    if (host < 0)
        return h->minor ? fail(h, 400, "no Host header") : 0;
    if (http_head_find(h, block, "host", host + 1) >= 0)
        return fail(h, 400, "more than one Host header");
    const struct http_field *f = &h->fields[host];
    for (unsigned i = 0; i < f->value_len; i++) {
        char c = block[f->value + i];
        if (c <= ' ' || c >= 0x7f || strchr("/\\?#@,\"<>{}|^`", c))
            return fail(h, 400, "bad Host header");
    }
    return 0;
}

int http_head_parse(struct http_head *h, const char *block, size_t n, const struct http_guard *g)
{
    h->minor = 0;
    h->target = h->target_len = h->n_fields = 0;
    h->chunked = h->expect_continue = false;
    h->fields[0] = (struct http_field){0};
    if (n > HTTP_HEAD_MAX)
        return fail(h, 431, "header block too large");
    struct parse p = {.h = h, .block = block};
    llhttp_t l;
    llhttp_init(&l, HTTP_REQUEST, &settings);
    l.data = &p;
    llhttp_errno_t e = llhttp_execute(&l, block, n);
    if (e == HPE_INVALID_METHOD)
        return fail(h, 501, "unknown method");
    /* The two parsers must have seen the same message. */
    if (e != HPE_PAUSED || !p.complete || h->n_fields != g->fields || h->target_len != g->target)
        return fail(h, 400, "malformed request");
    h->minor = l.http_minor;
    h->method = method_bit(l.method);
    h->method_name = llhttp_method_name((llhttp_method_t)l.method);
    h->keep_alive = llhttp_should_keep_alive(&l);
    if (l.method == HTTP_CONNECT)
        return fail(h, 501, "CONNECT is not served here");
    if (check_framing(h, block) < 0 || check_host(h, block) < 0)
        return -1;
    int expect = http_head_find(h, block, "expect", 0);
    if (expect >= 0 && h->minor) {
        if (!value_is(block, &h->fields[expect], "100-continue"))
            return fail(h, 417, "unknown expectation");
        h->expect_continue = true;
    }
    return 0;
}
