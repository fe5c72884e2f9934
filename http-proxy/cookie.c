#include "http-proxy/cookie.h"

#include "lib/util.h"

static void take(struct slice text, struct position *largest, unsigned *malformed)
{
    struct position p;
    if (position_parse(text.p, text.n, &p) || !p.epoch)
        ++*malformed;
    else if (position_compare(p, *largest) > 0)
        *largest = p;
}

static struct slice trim(const char *p, size_t n)
{
    while (n && (*p == ' ' || *p == '\t')) {
        p++;
        n--;
    }
    while (n && (p[n - 1] == ' ' || p[n - 1] == '\t'))
        n--;
    return (struct slice){p, n};
}

/* RFC 6265 §4.2: name=value pairs, separated by ';'. The value may stand in quotes. */
static void take_cookies(struct slice field, struct position *largest, unsigned *malformed)
{
    static const char name[] = COOKIE_NAME "=";
    while (field.n) {
        const char *end = memchr(field.p, ';', field.n);
        size_t n = end ? (size_t)(end - field.p) : field.n;
        struct slice pair = trim(field.p, n);
        if (pair.n >= sizeof name - 1 && !memcmp(pair.p, name, sizeof name - 1)) {
            struct slice value = {pair.p + sizeof name - 1, pair.n - (sizeof name - 1)};
            if (value.n >= 2 && value.p[0] == '"' && value.p[value.n - 1] == '"')
                value = (struct slice){value.p + 1, value.n - 2};
            take(value, largest, malformed);
        }
        n += end != NULL;
        field.p += n;
        field.n -= n;
    }
}

struct position cookie_position(const struct head *request, unsigned *malformed)
{
    struct position largest = {0};
    *malformed = 0;
    for (const struct head_field *f = head_find(request, HEAD_COOKIE); f; f = head_next(request, f))
        take_cookies(head_value(request, f), &largest, malformed);
    for (const struct head_field *f = head_find(request, HEAD_X_READ_AFTER_POSITION); f; f = head_next(request, f))
        take(head_value(request, f), &largest, malformed);
    return largest;
}

void cookie_add(struct extra *out, struct position p, bool set, bool secure)
{
    char text[POSITION_TEXT_MAX], cookie[160];
    position_format(p, text);
    char *end = stpcpy(stpcpy(stpcpy(cookie, COOKIE_NAME "="), text), "; Path=/; Max-Age=300; SameSite=Lax; HttpOnly");
    if (secure)
        end = stpcpy(end, "; Secure");
    if (set)
        extra_add(out, SLICE("Set-Cookie"), (struct slice){cookie, (size_t)(end - cookie)});
    extra_add(out, SLICE("X-Write-Position"), (struct slice){text, strlen(text)});
}

void cookie_add_read(struct extra *out, struct position p)
{
    char text[POSITION_TEXT_MAX];
    position_format(p, text);
    extra_add(out, SLICE("X-Read-Position"), (struct slice){text, strlen(text)});
}
