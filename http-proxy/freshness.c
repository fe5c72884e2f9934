#include "http-proxy/freshness.h"

#include "http-proxy/condition.h"
#include "http-proxy/cookie.h"
#include "lib/util.h"

#define SECONDS_MAX UINT64_C(31536000) /* a year */

/* A Cache-Control directive in any of the fields; *value if it has one. */
static bool directive(const struct head *h, const char *name, struct slice *value)
{
    for (const struct head_field *f = head_find(h, HEAD_CACHE_CONTROL); f; f = head_next(h, f))
        if (head_list_has(head_value(h, f), name, value))
            return true;
    return false;
}

/* delta-seconds (RFC 9111 §1.2.2); anything else is 0: stale. */
static uint64_t seconds(struct slice v)
{
    uint64_t s = 0;
    for (size_t i = 0; i < v.n; i++) {
        if (v.p[i] < '0' || v.p[i] > '9')
            return 0;
        s = MIN(s * 10 + (uint64_t)(v.p[i] - '0'), SECONDS_MAX);
    }
    return s;
}

static uint64_t directive_seconds(const struct head *h, const char *name, bool *there)
{
    struct slice v = {0};
    *there = directive(h, name, &v);
    return *there ? seconds(v) : 0;
}

enum freshness_asks freshness_of_request(const struct head *r)
{
    struct slice value = {0};
    bool limited, head = slice_equal(r->method, SLICE("HEAD"));
    if ((!head && !slice_equal(r->method, SLICE("GET"))) || r->body != HEAD_BODY_NONE || r->upgrade || head_find(r, HEAD_AUTHORIZATION) ||
        directive(r, "no-store", NULL) || head_find_name(r, "range") || !condition_simple(r))
        return FRESHNESS_NOTHING;
    uint64_t max_age = directive_seconds(r, "max-age", &limited);
    if (directive(r, "no-cache", &value) || (limited && !max_age) ||
        (!head_find(r, HEAD_CACHE_CONTROL) && head_find_name(r, "pragma")))
        return head || condition_any(r) ? FRESHNESS_NOTHING : FRESHNESS_REFRESH;
    return head || condition_any(r) ? FRESHNESS_STORED : FRESHNESS_ANY;
}

/* Cookies that the application might answer differently to. */
static bool has_cookies(const struct head *r)
{
    static const char own[] = COOKIE_NAME "=";
    for (const struct head_field *f = head_find(r, HEAD_COOKIE); f; f = head_next(r, f)) {
        struct slice v = head_value(r, f);
        while (v.n) {
            while (v.n && (*v.p == ' ' || *v.p == ';' || *v.p == '\t')) {
                v.p++;
                v.n--;
            }
            const char *end = v.n ? memchr(v.p, ';', v.n) : NULL;
            size_t n = end ? (size_t)(end - v.p) : v.n;
            if (n && (n < sizeof own - 1 || memcmp(v.p, own, sizeof own - 1) != 0))
                return true;
            v.p += n;
            v.n -= n;
        }
    }
    return false;
}

static bool status_allowed(unsigned status)
{
    return status == 200 || status == 203 || status == 301 || status == 308 || status == 404 || status == 410;
}

bool freshness_of_response(const struct head *request, const struct head *r, struct freshness *f)
{
    bool shared, limited, swr;
    uint64_t s_maxage = directive_seconds(r, "s-maxage", &shared), max_age = directive_seconds(r, "max-age", &limited);
    uint64_t stale = directive_seconds(r, "stale-while-revalidate", &swr), fresh = shared ? s_maxage : limited ? max_age : 0, age = 0;
    if (!status_allowed(r->status) || directive(r, "no-store", NULL) || directive(r, "private", NULL) || directive(r, "no-cache", NULL) ||
        head_find(r, HEAD_SET_COOKIE) || head_find_name(r, "content-range") || head_find(r, HEAD_FLY_REPLAY))
        return false;
    for (const struct head_field *v = head_find(r, HEAD_VARY); v; v = head_next(r, v))
        if (head_list_has(head_value(r, v), "*", NULL))
            return false;
    if (has_cookies(request) && !shared && !directive(r, "public", NULL))
        return false;
    const struct head_field *a = head_find(r, HEAD_AGE);
    if (a)
        age = seconds(head_value(r, a));
    if (fresh <= age)
        return false;
    if (directive(r, "must-revalidate", NULL) || directive(r, "proxy-revalidate", NULL))
        stale = 0;
    *f = (struct freshness){.fresh_ms = (fresh - age) * 1000u, .stale_ms = stale * 1000u, .age_ms = age * 1000u};
    return true;
}
