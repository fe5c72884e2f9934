#include "lib/http/guard.h"

#include <string.h>

enum { TOKEN = 1, FIELD = 2, TARGET = 4 };

/* T: tchar (also fine in a target unless it says otherwise), built once by hand from RFC 9110 §5.6.2 and RFC 3986 §2. */
static uint8_t classify(uint8_t c)
{
    uint8_t k = 0;
    if (c == '\t' || (c >= 0x20 && c != 0x7f))
        k |= FIELD;
    if (c > 0x20 && c < 0x7f) {
        if (!memchr("\"(),/:;<=>?@[\\]{}", c, 17))
            k |= TOKEN;
        /* '"', '<', '>', '\', '^', '`', '{', '|', '}' are in no URI, but clients send some of them raw in queries. Only those
         * that change the meaning elsewhere are refused: '#' would start a fragment, '\' is a '/' to some. */
        if (c != '#' && c != '\\' && c != '"' && c != '<' && c != '>')
            k |= TARGET;
    }
    return k;
}

static uint8_t class_of[256];

__attribute__((constructor)) static void build_classes(void)
{
    for (int c = 0; c < 256; c++)
        class_of[c] = classify((uint8_t)c);
}

int http_is_token(uint8_t c)
{
    return class_of[c] & TOKEN;
}

int http_is_field(uint8_t c)
{
    return class_of[c] & FIELD;
}

/*   START ─► METHOD ─► TARGET ─► VERSION ─► MAJOR ─► DOT ─► MINOR ─► LINE_CR ─► LINE_LF ─┐
 *     │ one empty line may come first (RFC 9112 §2.2)                                     ▼
 *     └► START_LF ─► START2                 ┌──► VALUE ─► VALUE_LF ─► NAME_FIRST ─► NAME ─┤ ':'
 *                                           └─────────────────────────────│───────────────┘
 *                                                                          └─ CR ─► END_LF ─► DONE */
enum { START, START_LF, START2, METHOD, URI, VERSION, MAJOR, DOT, MINOR, LINE_CR, LINE_LF, NAME_FIRST, NAME, VALUE, VALUE_LF, END_LF };

void http_guard_init(struct http_guard *g, uint32_t max_head, uint32_t max_target)
{
    *g = (struct http_guard){.state = START, .max_head = max_head, .max_target = max_target};
}

static enum http_guard_result refuse(struct http_guard *g, int status, const char *reason)
{
    g->status = status;
    g->reason = reason;
    return HTTP_GUARD_REFUSED;
}

/* One byte of the request line. MORE: goes on. */
static enum http_guard_result request_line(struct http_guard *g, uint8_t c)
{
    switch (g->state) {
    case START:
        if (c == '\r') {
            g->state = START_LF;
            return HTTP_GUARD_MORE;
        } /* fall through */
    case START2:
        if (!http_is_token(c))
            return refuse(g, 400, "the request line does not begin with a method");
        g->state = METHOD;
        g->index = 1;
        return HTTP_GUARD_MORE;
    case START_LF:
        g->state = START2;
        return c == '\n' ? HTTP_GUARD_MORE : refuse(g, 400, "carriage return without line feed");
    case METHOD:
        if (c == ' ')
            g->state = URI;
        else if (!http_is_token(c))
            return refuse(g, 400, "bad character in the method");
        else if (++g->index > HTTP_METHOD_MAX)
            return refuse(g, 400, "method too long");
        return HTTP_GUARD_MORE;
    case URI:
        if (c == ' ' && g->target) {
            g->state = VERSION;
            g->index = 0;
        } else if ((c == '\r' || c == '\n') && g->target)
            return refuse(g, 400, "request line without a version (HTTP/0.9)");
        else if (!(class_of[c] & TARGET))
            return refuse(g, 400, "bad character in the request target");
        else if (++g->target > g->max_target)
            return refuse(g, 414, "request target too long");
        return HTTP_GUARD_MORE;
    case VERSION:
        if (c != (uint8_t) "HTTP/"[g->index])
            return refuse(g, 400, "the request line does not end with a version");
        if (++g->index == 5)
            g->state = MAJOR;
        return HTTP_GUARD_MORE;
    case MAJOR:
        if (c < '0' || c > '9')
            return refuse(g, 400, "bad HTTP version");
        g->major = c;
        g->state = DOT;
        return HTTP_GUARD_MORE;
    case DOT:
        if (c != '.')
            return refuse(g, 400, "bad HTTP version");
        g->state = MINOR;
        return HTTP_GUARD_MORE;
    case MINOR:
        if (c < '0' || c > '9')
            return refuse(g, 400, "bad HTTP version");
        if (g->major != '1' || c > '1')
            return refuse(g, g->major == '0' ? 400 : 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
        g->state = LINE_CR;
        return HTTP_GUARD_MORE;
    case LINE_CR:
        if (c != '\r')
            return refuse(g, 400, c == '\n' ? "line feed without carriage return" : "bytes after the HTTP version");
        g->state = LINE_LF;
        return HTTP_GUARD_MORE;
    default: /* LINE_LF */
        g->state = NAME_FIRST;
        return c == '\n' ? HTTP_GUARD_MORE : refuse(g, 400, "carriage return without line feed");
    }
}

/* One byte of the header fields, except those that the fast loops of http_guard_feed took. */
static enum http_guard_result field_line(struct http_guard *g, uint8_t c)
{
    switch (g->state) {
    case NAME_FIRST:
        if (c == '\r') {
            g->state = END_LF;
            return HTTP_GUARD_MORE;
        }
        if (c == ' ' || c == '\t')
            return refuse(g, 400, "folded header line");
        if (!http_is_token(c))
            return refuse(g, 400, c == '\n' ? "line feed without carriage return" : "bad character in a header name");
        if (++g->fields > HTTP_FIELDS_MAX)
            return refuse(g, 431, "too many header fields");
        g->state = NAME;
        return HTTP_GUARD_MORE;
    case NAME:
        if (c == ':')
            g->state = VALUE;
        else if (c == ' ' || c == '\t')
            return refuse(g, 400, "white space in or after a header name");
        else if (!http_is_token(c))
            return refuse(g, 400, "bad character in a header name");
        return HTTP_GUARD_MORE;
    case VALUE:
        if (c == '\r')
            g->state = VALUE_LF;
        else if (!http_is_field(c))
            return refuse(g, 400, c == '\n' ? "line feed without carriage return" : "control character in a header value");
        return HTTP_GUARD_MORE;
    case VALUE_LF:
        g->state = NAME_FIRST;
        return c == '\n' ? HTTP_GUARD_MORE : refuse(g, 400, "carriage return without line feed");
    default: /* END_LF */
        return c == '\n' ? HTTP_GUARD_DONE : refuse(g, 400, "carriage return without line feed");
    }
}

/* How many of p[0..n) belong to class k: the inner loop, where nearly all bytes of a request go. */
static size_t run_of(const uint8_t *p, size_t n, uint8_t k)
{
    size_t i = 0;
    while (i < n && (class_of[p[i]] & k))
        i++;
    return i;
}

enum http_guard_result http_guard_feed(struct http_guard *g, const uint8_t *p, size_t n, size_t *used)
{
    /* Never look past the limit: so the verdict is the same however the bytes are cut. */
    size_t room = g->max_head - g->length, end = n < room ? n : room, i = 0;
    while (i < end) {
        if (g->state == NAME || g->state == VALUE) {
            i += run_of(p + i, end - i, g->state == NAME ? TOKEN : FIELD);
            if (i == end)
                break;
        }
        enum http_guard_result r = g->state <= LINE_LF ? request_line(g, p[i]) : field_line(g, p[i]);
        if (r == HTTP_GUARD_REFUSED)
            return r;
        i++;
        if (r == HTTP_GUARD_DONE) {
            g->length += (uint32_t)i;
            *used = i;
            return r;
        }
    }
    g->length += (uint32_t)i;
    *used = i;
    /* A head of exactly max_head bytes has ended by now. */
    return g->length >= g->max_head ? refuse(g, 431, "header block too large") : HTTP_GUARD_MORE;
}
