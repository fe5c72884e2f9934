#include "http-proxy/head.h"

#include <stdint.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* ---- characters ------------------------------------------------------------------------------------------------------------- */

enum { TOKEN = 1, TARGET = 2, AUTHORITY = 4 };

static uint8_t class_of[256];

#define KNOWN_SLOTS 256u

static const struct slice known_names[HEAD_IDS] = {
#define X(id, name) [HEAD_##id] = {name, sizeof name - 1},
    HEAD_KNOWN(X)
#undef X
};
static uint8_t known[KNOWN_SLOTS];           /* hash → enum head_id; 0: none */
static uint8_t known_next[HEAD_IDS];         /* same hash → the next one */

static unsigned hash_name(const char *p, size_t n)
{
    return ((unsigned)n * 31u + (unsigned)(p[0] | 0x20) * 7u + (unsigned)(p[n - 1] | 0x20)) % KNOWN_SLOTS;
}

/* Classes from RFC 9110 §5.6.2 and RFC 3986 §2, as lib/http/guard.c has them (tests/fuzz/fuzz_proxy_head.c compares the two). */
__attribute__((constructor)) static void build_tables(void)
{
    for (int c = 0x21; c < 0x7f; c++) {
        if (!memchr("\"(),/:;<=>?@[\\]{}", c, 17))
            class_of[c] |= TOKEN;
        if (c != '#' && c != '\\' && c != '"' && c != '<' && c != '>')
            class_of[c] |= TARGET;
        if (!memchr("/\\?#@,\"<>{}|^`", c, 14))
            class_of[c] |= AUTHORITY;
    }
    for (int id = HEAD_IDS - 1; id > 0; id--) {
        unsigned h = hash_name(known_names[id].p, known_names[id].n);
        known_next[id] = known[h];
        known[h] = (uint8_t)id;
    }
}

static uint8_t identify(const char *p, size_t n)
{
    uint8_t id = known[hash_name(p, n)];
    while (id && !slice_equal_case(known_names[id], (struct slice){p, n}))
        id = known_next[id];
    return id;
}

/* How many of p[0..n) may stand in a field value: HTAB, SP, VCHAR, obs-text. */
static size_t run_of_value(const char *p, size_t n)
{
    size_t i = 0;
#ifdef __SSE2__
    const __m128i low = _mm_set1_epi8(0x1f), tab = _mm_set1_epi8('\t'), del = _mm_set1_epi8(0x7f);
    for (; i + 16 <= n; i += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(p + i));
        __m128i control = _mm_andnot_si128(_mm_cmpeq_epi8(v, tab), _mm_cmpeq_epi8(_mm_min_epu8(v, low), v));
        unsigned stop = (unsigned)_mm_movemask_epi8(_mm_or_si128(control, _mm_cmpeq_epi8(v, del)));
        if (stop)
            return i + (size_t)__builtin_ctz(stop);
    }
#endif
    while (i < n && (((uint8_t)p[i] >= 0x20 && p[i] != 0x7f) || p[i] == '\t'))
        i++;
    return i;
}

static size_t run_of(const char *p, size_t n, uint8_t class)
{
    size_t i = 0;
    while (i < n && (class_of[(uint8_t)p[i]] & class))
        i++;
    return i;
}

static enum head_result bad(struct head_error *e, int status, const char *reason)
{
    *e = (struct head_error){status, reason};
    return HEAD_BAD;
}

/* ---- start lines ------------------------------------------------------------------------------------------------------------ */

/* Each of these goes on at p[*at] and moves it; MORE: the bytes end in the middle. */

static enum head_result end_of_line(const char *p, size_t n, size_t *at, struct head_error *e)
{
    if (*at >= n)
        return HEAD_MORE;
    if (p[*at] != '\r')
        return bad(e, 400, p[*at] == '\n' ? "line feed without carriage return" : "bad character at the end of a line");
    if (*at + 1 >= n)
        return HEAD_MORE;
    if (p[*at + 1] != '\n')
        return bad(e, 400, "carriage return without line feed");
    *at += 2;
    return HEAD_DONE;
}

static enum head_result version(struct head *h, const char *p, size_t n, size_t *at, struct head_error *e)
{
    static const char want[] = "HTTP/1.";
    for (size_t i = 0; i < 8; i++) {
        if (*at + i >= n)
            return HEAD_MORE;
        char c = p[*at + i];
        if (i == 5 && c >= '2' && c <= '9')
            return bad(e, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
        if (i < 7 ? c != want[i] : c != '0' && c != '1')
            return bad(e, i == 7 && c >= '2' && c <= '9' ? 505 : 400, "bad HTTP version");
    }
    h->minor = (uint8_t)(p[*at + 7] - '0');
    *at += 8;
    return HEAD_DONE;
}

static enum head_result request_line(struct head *h, const char *p, size_t n, size_t *at, struct head_error *e)
{
    if (n && p[0] == '\r') { /* one empty line before a request is forgiven (RFC 9112 §2.2) */
        enum head_result r = end_of_line(p, n, at, e);
        if (r != HEAD_DONE)
            return r;
    }
    size_t start = *at, len = run_of(p + start, n - start, TOKEN);
    if (len > HEAD_METHOD_MAX)
        return bad(e, 400, "method too long");
    if (start + len >= n)
        return HEAD_MORE;
    if (!len || p[start + len] != ' ')
        return bad(e, 400, len ? "bad character in the method" : "the request line does not begin with a method");
    h->method = (struct slice){p + start, len};
    start += len + 1;
    len = run_of(p + start, n - start, TARGET);
    if (start + len >= n)
        return HEAD_MORE;
    if (!len || p[start + len] != ' ')
        return bad(e, 400, p[start + len] == '\r' && len ? "request line without a version (HTTP/0.9)" : "bad character in the request target");
    h->target = (struct slice){p + start, len};
    *at = start + len + 1;
    enum head_result r = version(h, p, n, at, e);
    return r == HEAD_DONE ? end_of_line(p, n, at, e) : r;
}

static enum head_result status_line(struct head *h, const char *p, size_t n, size_t *at, struct head_error *e)
{
    enum head_result r = version(h, p, n, at, e);
    if (r != HEAD_DONE)
        return r;
    if (*at + 5 > n)
        return HEAD_MORE;
    const char *s = p + *at;
    if (s[0] != ' ' || s[1] < '1' || s[1] > '9' || s[2] < '0' || s[2] > '9' || s[3] < '0' || s[3] > '9' || (s[4] != ' ' && s[4] != '\r'))
        return bad(e, 502, "bad status line");
    h->status = (uint16_t)((s[1] - '0') * 100 + (s[2] - '0') * 10 + (s[3] - '0'));
    *at += 4;
    if (p[*at] == ' ')
        ++*at;
    size_t len = run_of_value(p + *at, n - *at);
    h->reason = (struct slice){p + *at, len};
    *at += len;
    return end_of_line(p, n, at, e);
}

/* ---- fields ----------------------------------------------------------------------------------------------------------------- */

static enum head_result fields(struct head *h, const char *p, size_t n, size_t *at, unsigned max_fields, struct head_error *e)
{
    size_t i = *at;
    for (;;) {
        if (i >= n)
            return HEAD_MORE;
        if (p[i] == '\r') {
            *at = i;
            return end_of_line(p, n, at, e);
        }
        if (p[i] == ' ' || p[i] == '\t')
            return bad(e, 400, "folded header line");
        size_t len = run_of(p + i, n - i, TOKEN);
        if (i + len >= n)
            return HEAD_MORE;
        if (!len || p[i + len] != ':')
            return bad(e, 400, p[i + len] == ' ' || p[i + len] == '\t' ? "white space in or after a header name"
                               : p[i + len] == '\n'                    ? "line feed without carriage return"
                                                                       : "bad character in a header name");
        if (h->n_fields >= max_fields)
            return bad(e, 431, "too many header fields");
        struct head_field *f = &h->fields[h->n_fields];
        f->name = (uint16_t)i;
        f->name_len = (uint16_t)len;
        f->id = identify(p + i, len);
        if (f->id && !h->first[f->id])
            h->first[f->id] = (uint8_t)(h->n_fields + 1);
        i += len + 1;
        len = run_of_value(p + i, n - i);
        size_t begin = i, end = i + len;
        i = end;
        enum head_result r = end_of_line(p, n, &i, e);
        if (r == HEAD_BAD && p[end] != '\n' && p[end] != '\r')
            e->reason = "control character in a header value";
        if (r != HEAD_DONE)
            return r;
        while (begin < end && (p[begin] == ' ' || p[begin] == '\t'))
            begin++;
        while (end > begin && (p[end - 1] == ' ' || p[end - 1] == '\t'))
            end--;
        f->value = (uint16_t)begin;
        f->value_len = (uint16_t)(end - begin);
        h->n_fields++;
    }
}

const struct head_field *head_next(const struct head *h, const struct head_field *f)
{
    for (const struct head_field *g = f + 1; g < h->fields + h->n_fields; g++)
        if (g->id == f->id)
            return g;
    return NULL;
}

const struct head_field *head_find_name(const struct head *h, const char *name)
{
    struct slice want = {name, strlen(name)};
    for (int i = 0; i < h->n_fields; i++)
        if (slice_equal_case(head_name(h, &h->fields[i]), want))
            return &h->fields[i];
    return NULL;
}

static struct slice trim(struct slice s)
{
    while (s.n && (*s.p == ' ' || *s.p == '\t')) {
        s.p++;
        s.n--;
    }
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

/* Takes the next element off a comma-separated list, quoted strings respected; false: there is none. */
static bool next_element(struct slice *list, struct slice *element)
{
    while (list->n) {
        size_t i = 0;
        bool quoted = false;
        for (; i < list->n && (quoted || list->p[i] != ','); i++) {
            if (list->p[i] == '"')
                quoted = !quoted;
            else if (list->p[i] == '\\' && quoted && i + 1 < list->n)
                i++;
        }
        *element = trim((struct slice){list->p, i});
        i += i < list->n;
        list->p += i;
        list->n -= i;
        if (element->n)
            return true;
    }
    return false;
}

bool head_list_has(struct slice list, const char *token, struct slice *value)
{
    struct slice el, want = {token, strlen(token)};
    while (next_element(&list, &el)) {
        size_t n = 0;
        while (n < el.n && (class_of[(uint8_t)el.p[n]] & TOKEN))
            n++;
        if (!slice_equal_case((struct slice){el.p, n}, want))
            continue;
        struct slice rest = trim((struct slice){el.p + n, el.n - n});
        if (value) {
            *value = (struct slice){rest.p, 0};
            if (rest.n && *rest.p == '=')
                *value = trim((struct slice){rest.p + 1, rest.n - 1});
            if (value->n >= 2 && *value->p == '"' && value->p[value->n - 1] == '"')
                *value = (struct slice){value->p + 1, value->n - 2};
        }
        return true;
    }
    return false;
}

/* ---- what the fields mean --------------------------------------------------------------------------------------------------- */

/* Where the message ends: one of two fields, once, in the one form that nobody reads differently (RFC 9112 §6). */
static enum head_result framing(struct head *h, struct head_error *e)
{
    const struct head_field *te = head_find(h, HEAD_TRANSFER_ENCODING), *cl = head_find(h, HEAD_CONTENT_LENGTH);
    h->body = HEAD_BODY_NONE;
    if (te && cl)
        return bad(e, 400, "both Transfer-Encoding and Content-Length");
    if (te) {
        if (head_next(h, te))
            return bad(e, 400, "more than one Transfer-Encoding");
        if (!h->minor)
            return bad(e, 400, "Transfer-Encoding in an HTTP/1.0 message");
        if (!slice_equal_case(head_value(h, te), SLICE("chunked")))
            return bad(e, 501, "transfer coding is not \"chunked\"");
        h->body = HEAD_BODY_CHUNKED;
    }
    if (cl) {
        struct slice v = head_value(h, cl);
        if (head_next(h, cl))
            return bad(e, 400, "more than one Content-Length");
        if (!v.n || v.n > 18)
            return bad(e, 400, "bad Content-Length");
        h->content_length = 0;
        for (size_t i = 0; i < v.n; i++) {
            if (v.p[i] < '0' || v.p[i] > '9')
                return bad(e, 400, "bad Content-Length");
            h->content_length = h->content_length * 10 + (uint64_t)(v.p[i] - '0');
        }
        h->body = HEAD_BODY_LENGTH;
    }
    return HEAD_DONE;
}

static void connection(struct head *h)
{
    bool close = false, keep = false, upgrade = false;
    for (const struct head_field *f = head_find(h, HEAD_CONNECTION); f; f = head_next(h, f)) {
        struct slice list = head_value(h, f), el;
        while (next_element(&list, &el)) {
            close = close || slice_equal_case(el, SLICE("close"));
            keep = keep || slice_equal_case(el, SLICE("keep-alive"));
            upgrade = upgrade || slice_equal_case(el, SLICE("upgrade"));
        }
    }
    h->keep_alive = !close && (h->minor || keep);
    h->upgrade = upgrade && h->minor && head_find(h, HEAD_UPGRADE);
}

static bool authority_ok(struct slice s)
{
    return run_of(s.p, s.n, AUTHORITY) == s.n;
}

/* Origin-form, absolute-form or asterisk-form (RFC 9112 §3.2) → target, path, authority. */
static enum head_result target(struct head *h, struct head_error *e)
{
    struct slice t = h->target;
    size_t scheme = t.n > 7 && !strncasecmp(t.p, "http://", 7) ? 7 : t.n > 8 && !strncasecmp(t.p, "https://", 8) ? 8 : 0;
    if (slice_equal(h->method, SLICE("CONNECT")))
        return bad(e, 501, "CONNECT is not served here");
    h->authority = (struct slice){t.p, 0};
    if (scheme) {
        size_t n = 0;
        while (scheme + n < t.n && t.p[scheme + n] != '/' && t.p[scheme + n] != '?')
            n++;
        h->authority = (struct slice){t.p + scheme, n};
        if (!n || !authority_ok(h->authority) || (scheme + n < t.n && t.p[scheme + n] == '?'))
            return bad(e, 400, "bad absolute request target");
        h->target = scheme + n < t.n ? (struct slice){t.p + scheme + n, t.n - scheme - n} : SLICE("/");
    } else if (t.p[0] != '/' && !(slice_equal(t, SLICE("*")) && slice_equal(h->method, SLICE("OPTIONS")))) {
        return bad(e, 400, "bad request target");
    }
    const char *query = memchr(h->target.p, '?', h->target.n);
    h->path = (struct slice){h->target.p, query ? (size_t)(query - h->target.p) : h->target.n};
    return HEAD_DONE;
}

static enum head_result host(struct head *h, struct head_error *e)
{
    const struct head_field *f = head_find(h, HEAD_HOST);
    if (!f)
        return h->minor ? bad(e, 400, "no Host header") : HEAD_DONE;
    if (head_next(h, f))
        return bad(e, 400, "more than one Host header");
    return authority_ok(head_value(h, f)) ? HEAD_DONE : bad(e, 400, "bad Host header");
}

/* ---- whole ------------------------------------------------------------------------------------------------------------------ */

static void clear(struct head *h, const char *p)
{
    memset(h, 0, offsetof(struct head, fields));
    h->block = p;
}

enum head_result head_parse_request(struct head *h, const char *p, size_t n, size_t max_len, unsigned max_fields, struct head_error *e)
{
    size_t at = 0, look = n < max_len ? n : max_len; /* so the verdict is the same however the bytes came */
    clear(h, p);
    enum head_result r = request_line(h, p, look, &at, e);
    bool in_line = r == HEAD_MORE;
    if (r == HEAD_DONE)
        r = fields(h, p, look, &at, max_fields, e);
    if (r == HEAD_MORE && n >= max_len)
        return bad(e, in_line ? 414 : 431, in_line ? "request target too long" : "header block too large");
    if (r != HEAD_DONE)
        return r;
    h->len = (uint32_t)at;
    if ((r = target(h, e)) != HEAD_DONE || (r = framing(h, e)) != HEAD_DONE || (r = host(h, e)) != HEAD_DONE)
        return r;
    connection(h);
    const struct head_field *expect = head_find(h, HEAD_EXPECT);
    if (expect && h->minor && (head_next(h, expect) || !slice_equal_case(head_value(h, expect), SLICE("100-continue"))))
        return bad(e, 417, "unknown expectation");
    return HEAD_DONE;
}

enum head_result head_parse_response(struct head *h, const char *p, size_t n, size_t max_len, unsigned max_fields, struct head_error *e)
{
    size_t at = 0, look = n < max_len ? n : max_len;
    clear(h, p);
    enum head_result r = status_line(h, p, look, &at, e);
    if (r == HEAD_DONE)
        r = fields(h, p, look, &at, max_fields, e);
    if (r == HEAD_MORE && n >= max_len)
        r = bad(e, 502, "header block too large");
    if (r == HEAD_DONE) {
        h->len = (uint32_t)at;
        r = framing(h, e);
        if (h->body == HEAD_BODY_NONE)
            h->body = HEAD_BODY_TO_EOF;
        connection(h);
    }
    if (r == HEAD_BAD)
        e->status = 502;
    return r;
}
