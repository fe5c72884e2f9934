#include "lib/http/chunked.h"
#include "lib/http/guard.h"
#include <stdbool.h>
#include <string.h>

/* SIZE_FIRST ─► SIZE ─► [EXT] ─► SIZE_LF ─┬─► DATA ─► DATA_CR ─► DATA_LF ─► SIZE_FIRST
 *                                         └ 0 ─► TRAILER_FIRST ─► NAME ─► VALUE ─► VALUE_LF ─► TRAILER_FIRST
 *                                                     └ CR ─► END_LF ─► DONE */
enum { SIZE_FIRST, SIZE, EXT, SIZE_LF, DATA, DATA_CR, DATA_LF, TRAILER_FIRST, TRAILER_NAME, TRAILER_VALUE, TRAILER_LF, END_LF, ENDED };

void http_chunked_init(struct http_chunked *c)
{
    *c = (struct http_chunked){.state = SIZE_FIRST};
}

static int bad(struct http_chunked *c, const char *reason)
{
    c->reason = reason;
    return -1;
}

static int hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int size_byte(struct http_chunked *c, uint8_t b)
{
    int v = hex_value(b);
    if (v >= 0) {
        if (++c->digits > 15)
            return bad(c, "chunk size too long");
        c->left = c->left << 4 | (uint64_t)v;
        c->state = SIZE;
        return 0;
    }
    if (c->state == SIZE_FIRST)
        return bad(c, "chunk without a size");
    if (b == '\r')
        c->state = SIZE_LF;
    else if (b == ';')
        c->state = EXT;
    else
        return bad(c, "bad character in a chunk size");
    return 0;
}

/* Fields that an application may act upon if it adds trailers to the head: they are checked in heads, and could be smuggled past that here. */
static bool refused_trailer(const char *name, size_t n)
{
    static const char *const refused[] = {
        "authorization", "cache-control", "connection", "content-encoding", "content-length", "content-range", "content-type", "cookie", "edgefs-hop",
        "expect", "fly-replay", "forwarded", "host", "keep-alive", "proxy-authorization", "proxy-connection", "range", "set-cookie", "te", "trailer",
        "transfer-encoding", "upgrade", "via", "x-real-ip",
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (strlen(refused[i]) == n && !memcmp(refused[i], name, n))
            return true;
    return n >= 12 && !memcmp(name, "x-forwarded-", 12);
}

static int name_byte(struct http_chunked *c, uint8_t b)
{
    if (b == ':') {
        c->state = TRAILER_VALUE;
        return refused_trailer(c->name, c->name_n) ? bad(c, "field that must not be a trailer") : 0;
    }
    if (!http_is_token(b))
        return bad(c, "bad character in a trailer name");
    if (c->name_n < HTTP_CHUNK_NAME_MAX)
        c->name[c->name_n++] = (char)(b >= 'A' && b <= 'Z' ? b | 0x20 : b);
    return 0;
}

/* One byte of a line around data or of the trailer section. 0, 1: the body is complete, -1: bad. */
static int framing_byte(struct http_chunked *c, uint8_t b)
{
    if (c->state >= TRAILER_FIRST && ++c->trailer > HTTP_CHUNK_TRAILER_MAX)
        return bad(c, "trailer section too large");
    switch (c->state) {
    case SIZE_FIRST:
    case SIZE:
        return size_byte(c, b);
    case EXT:
        if (++c->extra > HTTP_CHUNK_EXT_MAX)
            return bad(c, "chunk extensions too long");
        if (b == '\r')
            c->state = SIZE_LF;
        else if (!http_is_field(b))
            return bad(c, "control character in a chunk extension");
        return 0;
    case SIZE_LF:
        c->state = c->left ? DATA : TRAILER_FIRST;
        return b == '\n' ? 0 : bad(c, "carriage return without line feed after a chunk size");
    case DATA_CR:
        c->state = DATA_LF;
        return b == '\r' ? 0 : bad(c, "chunk longer than its size");
    case DATA_LF:
        c->state = SIZE_FIRST;
        c->digits = 0;
        return b == '\n' ? 0 : bad(c, "carriage return without line feed after a chunk");
    case TRAILER_FIRST:
        c->state = b == '\r' ? END_LF : TRAILER_NAME;
        c->name_n = 0;
        return b == '\r' ? 0 : b == ':' ? bad(c, "trailer without a name") : name_byte(c, b);
    case TRAILER_NAME:
        return name_byte(c, b);
    case TRAILER_VALUE:
        if (b == '\r')
            c->state = TRAILER_LF;
        return b == '\r' || http_is_field(b) ? 0 : bad(c, "control character in a trailer value");
    case TRAILER_LF:
        c->state = TRAILER_FIRST;
        return b == '\n' ? 0 : bad(c, "carriage return without line feed in the trailers");
    case END_LF:
        c->state = ENDED;
        return b == '\n' ? 1 : bad(c, "carriage return without line feed after the trailers");
    default:
        return bad(c, "bytes after the last chunk");
    }
}

enum http_chunked_result http_chunked_next(struct http_chunked *c, const uint8_t *p, size_t n, size_t *used, const uint8_t **data,
                                           size_t *data_len)
{
    for (size_t i = 0; i < n;) {
        if (c->state == DATA) {
            size_t run = n - i < c->left ? n - i : (size_t)c->left;
            c->left -= run;
            if (!c->left)
                c->state = DATA_CR;
            *data = p + i;
            *data_len = run;
            *used = i + run;
            return HTTP_CHUNKED_DATA;
        }
        int r = framing_byte(c, p[i++]);
        if (r < 0)
            return HTTP_CHUNKED_BAD;
        if (r > 0) {
            *used = i;
            return HTTP_CHUNKED_DONE;
        }
    }
    *used = n;
    return HTTP_CHUNKED_MORE;
}
