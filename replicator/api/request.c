#include "replicator/api/request.h"

#include "lib/http/server.h"
#include "lib/util.h"
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

int request_u64(const char *text, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;
    if (!text || !*text)
        return -EINVAL;
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9')
            return -EINVAL;
        unsigned digit = (unsigned)(*p - '0');
        if (v > (UINT64_MAX - digit) / 10)
            return -EINVAL;
        v = v * 10 + digit;
    }
    if (v > max)
        return -EINVAL;
    *out = v;
    return 0;
}

int request_query_u64(struct http_request *req, const char *name, uint64_t dflt, uint64_t max, uint64_t *out)
{
    const char *text = http_query(req, name);
    *out = dflt;
    if (!text || request_u64(text, max, out) == 0)
        return 0;
    http_reply_error(req, 400, "%s must be a decimal number, at most %" PRIu64, name, max);
    return -EINVAL;
}

json_t *request_json(struct http_request *req)
{
    size_t len;
    json_error_t je;
    const char *body = http_body(req, &len);
    json_t *o = json_loadb(body, len, JSON_REJECT_DUPLICATES, &je);
    if (!o) {
        http_reply_error(req, 400, "the body is not JSON: %s", je.text);
        return NULL;
    }
    if (!json_is_object(o)) {
        json_decref(o);
        http_reply_error(req, 400, "the body must be a JSON object");
        return NULL;
    }
    return o;
}

const char *request_string(const json_t *o, const char *key, size_t max)
{
    const json_t *v = json_object_get(o, key);
    const char *s = json_string_value(v);
    return s && json_string_length(v) <= max && strlen(s) == json_string_length(v) ? s : NULL;
}

int request_number(const json_t *o, const char *key, uint64_t dflt, uint64_t *out)
{
    const json_t *v = json_object_get(o, key);
    *out = dflt;
    if (!v)
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return -EINVAL;
    *out = (uint64_t)json_integer_value(v);
    return 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes one path segment of n bytes. */
static int decode_segment(const char *text, size_t n, char *out, size_t size)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        int c = (unsigned char)text[i];
        if (c == '%') {
            int hi = n - i > 2 ? hex_digit(text[i + 1]) : -1;
            int lo = hi < 0 ? -1 : hex_digit(text[i + 2]);
            if (lo < 0)
                return -EINVAL;
            c = hi << 4 | lo;
            i += 2;
        }
        if (c == 0 || k + 1 >= size)
            return -EINVAL;
        out[k++] = (char)c;
    }
    out[k] = '\0';
    return 0;
}

int request_database(struct http_request *req, char name[LAYOUT_NAME_MAX + 1], char verb[32])
{
    static const char prefix[] = "/v1/databases/";
    const char *p = http_target(req);
    size_t n = strcspn(p, "?#");
    if (n < sizeof prefix - 1 || strncmp(p, prefix, sizeof prefix - 1) != 0)
        return -EINVAL;
    p += sizeof prefix - 1;
    n -= sizeof prefix - 1;
    const char *slash = memchr(p, '/', n);
    size_t name_len = slash ? (size_t)(slash - p) : n;
    const char *rest = slash ? slash + 1 : p + n;
    size_t rest_len = (size_t)(p + n - rest);
    if (memchr(rest, '/', rest_len) || decode_segment(rest, rest_len, verb, 32) ||
        decode_segment(p, name_len, name, LAYOUT_NAME_MAX + 1))
        return -EINVAL;
    return database_name_possible(name) ? 0 : -EINVAL;
}

json_t *request_not_primary(struct node *n)
{
    char primary[128], url[256];
    node_primary(n, primary, url);
    return json_pack("{s:s,s:s,s:s}", "error", "this node is not the primary", "primary", primary, "primary_url", url);
}

bool request_needs_primary(struct http_request *req, struct node *n)
{
    enum node_role r = node_role(n);
    if (r == NODE_PRIMARY)
        return true;
    if (r == NODE_REPLICA)
        http_reply_json(req, 421, request_not_primary(n));
    else
        request_busy(req, "this node is %s", r == NODE_STARTING ? "still starting" : "handing its role over");
    return false;
}

void request_busy(struct http_request *req, const char *fmt, ...)
{
    char text[ERR_TEXT_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    http_set_header(req, "Retry-After", "1");
    http_reply_error(req, 503, "%s", text);
}

int request_status(int code)
{
    switch (code) {
    case -EINVAL:
    case ERR_NOT_DATABASE:
        return 400;
    case -ENOENT:
        return 404;
    case -ETIMEDOUT:
        return 504;
    case ERR_GONE:
        return 410;
    case ERR_ROLE:
        return 421;
    case -EEXIST:
    case -ENOTDIR:
    case -EISDIR:
        return 409;
    case -EBUSY:
    case ERR_AGAIN_LATER:
    case -ENOMEM:
        return 503;
    case -ENOSPC:
    case -EDQUOT:
        return 507;
    default:
        return 500;
    }
}

json_t *request_hex(uint64_t v)
{
    return json_sprintf("%016" PRIx64, v);
}
