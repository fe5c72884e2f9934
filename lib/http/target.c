#include "lib/http/target.h"

#include <string.h>
#include <strings.h>

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes text[0..n) to *out, which moves past the NUL that is appended. NULL or what is wrong. */
static const char *decode(const char *text, size_t n, bool plus, char **out)
{
    char *o = *out;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (c == '%') {
            int hi = n - i > 2 ? hex(text[i + 1]) : -1, lo = n - i > 2 ? hex(text[i + 2]) : -1;
            if (hi < 0 || lo < 0)
                return "bad percent escape in the request target";
            c = (char)(hi << 4 | lo);
            if (!c)
                return "escaped NUL in the request target";
            i += 2;
        } else if (plus && c == '+')
            c = ' ';
        *o++ = c;
    }
    *o++ = 0;
    *out = o;
    return NULL;
}

/* Segments are looked at after decoding, so that "%2e%2e" and "..%2f" are found too. */
static bool has_dots(const char *path)
{
    for (const char *s = path; s; s = strchr(s, '/')) {
        if (*s == '/')
            s++;
        size_t n = strcspn(s, "/");
        if ((n == 1 && s[0] == '.') || (n == 2 && s[0] == '.' && s[1] == '.'))
            return true;
    }
    return false;
}

static const char *parse_query(struct http_target *t, const char *q, size_t n, char *out)
{
    t->query = out;
    for (size_t i = 0; i <= n;) {
        const char *amp = i < n ? memchr(q + i, '&', n - i) : NULL;
        size_t end = amp ? (size_t)(amp - q) : n;
        if (end > i) {
            const char *eq = memchr(q + i, '=', end - i);
            size_t name_end = eq ? (size_t)(eq - q) : end, value = eq ? name_end + 1 : end;
            if (t->n_query == HTTP_QUERY_MAX)
                return "too many query parameters";
            const char *why = decode(q + i, name_end - i, true, &out);
            if (!why)
                why = decode(q + value, end - value, true, &out);
            if (why)
                return why;
            t->n_query++;
        }
        i = end + 1;
    }
    return NULL;
}

const char *http_target_parse(struct http_target *t, const char *text, size_t n, char *buf)
{
    *t = (struct http_target){.query = ""};
    if (n == 1 && *text == '*') {
        t->origin = text;
        t->origin_len = 1;
        t->path = "*";
        return NULL;
    }
    size_t scheme = n > 7 && !strncasecmp(text, "http://", 7) ? 7 : n > 8 && !strncasecmp(text, "https://", 8) ? 8 : 0;
    if (scheme) {
        const char *slash = memchr(text + scheme, '/', n - scheme);
        if (!slash || slash == text + scheme || memchr(text + scheme, '?', (size_t)(slash - text) - scheme))
            return "absolute request target without a host or a path";
        n -= (size_t)(slash - text);
        text = slash;
    }
    if (!n || *text != '/')
        return "the request target does not begin with a slash";
    t->origin = text;
    t->origin_len = n;
    const char *mark = memchr(text, '?', n);
    size_t path_len = mark ? (size_t)(mark - text) : n;
    t->path = buf;
    const char *why = decode(text, path_len, false, &buf);
    if (why)
        return why;
    if (has_dots(t->path))
        return "\".\" or \"..\" in the path";
    return mark ? parse_query(t, mark + 1, n - path_len - 1, buf) : NULL;
}

const char *http_target_query(const struct http_target *t, const char *name)
{
    const char *p = t->query;
    for (unsigned i = 0; i < t->n_query; i++) {
        const char *value = p + strlen(p) + 1;
        if (!strcmp(p, name))
            return value;
        p = value + strlen(value) + 1;
    }
    return NULL;
}
