/* The parsers of lib/http without sockets: guard, chunked decoder, targets, heads, routes. */
#include "test_http.h"

#include "lib/http/chunked.h"
#include "lib/http/guard.h"
#include "lib/http/head.h"
#include "lib/http/router.h"
#include "lib/http/target.h"

static int guard_whole(const char *p, size_t n, size_t cut, size_t *used)
{
    struct http_guard g;
    http_guard_init(&g, 16384, 8192);
    for (size_t i = 0, k; i < n; i += k) {
        size_t piece = cut && cut < n - i ? cut : n - i;
        enum http_guard_result r = http_guard_feed(&g, (const uint8_t *)p + i, piece, &k);
        if (r == HTTP_GUARD_DONE) {
            *used = i + k;
            return 0;
        }
        if (r == HTTP_GUARD_REFUSED)
            return g.status;
        assert_int_equal(k, piece);
    }
    return -1;
}

#define G(text, want) {text, sizeof text - 1, want}
static const struct {
    const char *text;
    size_t n;
    int want; /* 0: complete, -1: more, else the status */
} heads[] = {
    G("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
    G("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
    G("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    G("\nGET / HTTP/1.1\r\n\r\n", 400),
    G("GET / HTTP/1.0\r\n\r\n", 0),
    G("GET / HTTP/1.1\r\nX:\t a\tb \xc3\xa4 \r\nY:\r\n\r\n", 0),
    G("GET / HTTP/1.1\r\nX: 1\r\n", -1),
    G("GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    G("GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    G("GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    G("GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
    G("GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", 400),
    G("GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", 400),
    G("GET / HTTP/1.1\r\n X: a\r\n\r\n", 400),
    G("GET / HTTP/1.1\r\nX : a\r\n\r\n", 400),
    G("GET / HTTP/1.1\r\nX\t: a\r\n\r\n", 400),
    G("GET / HTTP/1.1\r\n: a\r\n\r\n", 400),
    G("GET / HTTP/1.1\r\nX\r\n\r\n", 400),
    G("GET / HTTP/1.1\r\nX: a\0b\r\n\r\n", 400),
    G("GET / HTTP/1.1\r\nX: a\x01\r\n\r\n", 400),
    G("GET / HTTP/1.1\r\nX: a\x7f\r\n\r\n", 400),
    G("GET / HTTP/1.1\r\nX\xff: a\r\n\r\n", 400),
    G("GET /\0 HTTP/1.1\r\n\r\n", 400),
    G("GET /\xff HTTP/1.1\r\n\r\n", 400),
    G("GET  / HTTP/1.1\r\n\r\n", 400),
    G("GET /  HTTP/1.1\r\n\r\n", 400),
    G("GET / HTTP/1.1 \r\n\r\n", 400),
    G("GET /a b HTTP/1.1\r\n\r\n", 400),
    G("GET\t/ HTTP/1.1\r\n\r\n", 400),
    G("GET / http/1.1\r\n\r\n", 400),
    G("GET / HTTP/1.12\r\n\r\n", 400),
    G("GET / HTTP/11.1\r\n\r\n", 400),
    G("GET / HTTP/1.\r\n\r\n", 400),
    G("GET / XTTP/1.1\r\n\r\n", 400),
    G("GET / HTTP/1.2\r\n\r\n", 505),
    G("GET / HTTP/2.0\r\n\r\n", 505),
    G("GET / HTTP/9.9\r\n\r\n", 505),
    G("GET / HTTP/0.9\r\n\r\n", 400),
    G("GET /\r\n", 400),
    G("GET /#frag HTTP/1.1\r\n\r\n", 400),
    G("GET /a\\b HTTP/1.1\r\n\r\n", 400),
    G("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    G("\x16\x03\x01\x02", 400),
    G("AVERYLONGMETHODNAMETHATNOBODYUSESATALL / HTTP/1.1\r\n\r\n", 400),
};

static void guard_verdict_is_the_same_however_bytes_are_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(heads); i++)
        for (size_t cut = 0; cut < 12; cut++) {
            size_t used = 0;
            int got = guard_whole(heads[i].text, heads[i].n, cut, &used);
            if (got != heads[i].want)
                fail_msg("head %zu cut %zu: %d, not %d: %s", i, cut, got, heads[i].want, heads[i].text);
            if (!got)
                assert_int_equal(used, heads[i].n);
        }
}

static void guard_limits_are_exact(void **state)
{
    (void)state;
    char buf[20000];
    for (int over = 0; over < 2; over++)
        for (size_t cut = 0; cut < 8000; cut = cut ? cut * 13 : 1) {
            size_t used, n = (size_t)snprintf(buf, sizeof buf, "GET / HTTP/1.1\r\nX: ");
            size_t fill = 16384 - n - 4 + (size_t)over;
            memset(buf + n, 'a', fill);
            memcpy(buf + n + fill, "\r\n\r\n", 4);
            assert_int_equal(guard_whole(buf, n + fill + 4, cut, &used), over ? 431 : 0);
            memcpy(buf, "GET ", 4);
            memset(buf + 4, '/', 8192 + (size_t)over);
            n = 4 + 8192 + (size_t)over;
            n += (size_t)snprintf(buf + n, 100, " HTTP/1.1\r\n\r\n");
            assert_int_equal(guard_whole(buf, n, cut, &used), over ? 414 : 0);
            n = (size_t)snprintf(buf, sizeof buf, "GET / HTTP/1.1\r\n");
            for (int i = 0; i < HTTP_FIELDS_MAX + over; i++)
                n += (size_t)snprintf(buf + n, sizeof buf - n, "H%d: x\r\n", i);
            n += (size_t)snprintf(buf + n, sizeof buf - n, "\r\n");
            assert_int_equal(guard_whole(buf, n, cut, &used), over ? 431 : 0);
        }
}

/* Decodes with pieces of `cut` bytes. Returns -1 bad, 0 incomplete, 1 done; body into out. */
static int chunked_whole(const char *p, size_t n, size_t cut, char *out, size_t *out_len, size_t *consumed)
{
    struct http_chunked c;
    http_chunked_init(&c);
    *out_len = *consumed = 0;
    while (*consumed < n) {
        size_t used, len = 0, piece = cut && cut < n - *consumed ? cut : n - *consumed;
        const uint8_t *data = NULL;
        enum http_chunked_result r = http_chunked_next(&c, (const uint8_t *)p + *consumed, piece, &used, &data, &len);
        if (r == HTTP_CHUNKED_BAD) {
            assert_non_null(c.reason);
            return -1;
        }
        *consumed += used;
        if (r == HTTP_CHUNKED_DONE)
            return 1;
        if (r == HTTP_CHUNKED_DATA) {
            memcpy(out + *out_len, data, len);
            *out_len += len;
        }
    }
    return 0;
}

static const struct {
    const char *text;
    size_t n;
    int want;
} bodies[] = {
    G("0\r\n\r\n", 1),
    G("5\r\nhello\r\n0\r\n\r\n", 1),
    G("5\r\nhello\r\n00000A\r\n0123456789\r\n000\r\n\r\n", 1),
    G("5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n", 1),
    G("5\r\nhello\r\n0\r\nX-Sum: 1\r\nY: \r\n\r\n", 1),
    G("5\r\nhel", 0),
    G("5\r\nhello\r\n0\r\n", 0),
    G("\r\n", -1),
    G("g\r\n", -1),
    G("-1\r\n", -1),
    G("0x5\r\nhello\r\n", -1),
    G(" 5\r\nhello\r\n", -1),
    G("5 \r\nhello\r\n", -1),
    G("5\nhello\r\n", -1),
    G("5\rXhello\r\n", -1),
    G("5\r\nhelloX\r\n", -1),
    G("5\r\nhello\n0\r\n\r\n", -1),
    G("5\r\nhello\rX0\r\n\r\n", -1),
    G("5;a\nhello\r\n0\r\n\r\n", -1),
    G("5;a\x01\r\nhello\r\n0\r\n\r\n", -1),
    G("FFFFFFFFFFFFFFFFF\r\n", -1),
    G("8000000000000000\r\n", -1),
    G("0000000000000000\r\n", -1),
    G("0\r\nX\r\n\r\n", -1),
    G("0\r\nX : 1\r\n\r\n", -1),
    G("0\r\n: 1\r\n\r\n", -1),
    G("0\r\nX: 1\n\r\n", -1),
    G("0\r\nX: 1\r\n 2\r\n\r\n", -1),
    G("0\r\n\rX", -1),
    G("0\r\n\n", -1),
    G("0\n\r\n", -1),
};

static void chunked_decoder_is_strict_however_bytes_are_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
        char whole[64], cut_out[64];
        size_t whole_len, len, used;
        for (size_t cut = 0; cut < 12; cut++) {
            int got = chunked_whole(bodies[i].text, bodies[i].n, cut, cut ? cut_out : whole, cut ? &len : &whole_len, &used);
            if (got != bodies[i].want)
                fail_msg("body %zu cut %zu: %d, not %d", i, cut, got, bodies[i].want);
            if (cut && got >= 0) {
                assert_int_equal(len, whole_len);
                assert_memory_equal(cut_out, whole, len);
            }
            if (got == 1)
                assert_int_equal(used, bodies[i].n);
        }
    }
}

static void chunked_decoder_bounds_extensions_and_trailers(void **state)
{
    (void)state;
    static char buf[70000], out[64];
    size_t len, used, n = (size_t)snprintf(buf, sizeof buf, "1;");
    memset(buf + n, 'e', 60000);
    assert_int_equal(chunked_whole(buf, n + 60000, 0, out, &len, &used), -1);
    n = 0;
    for (int i = 0; i < 600; i++) /* each chunk one byte, each with a small extension */
        n += (size_t)snprintf(buf + n, sizeof buf - n, "1;abcdefghij\r\nx\r\n");
    static char body[1024];
    assert_int_equal(chunked_whole(buf, n, 0, body, &len, &used), -1);
    n = (size_t)snprintf(buf, sizeof buf, "0\r\n");
    while (n < 60000)
        n += (size_t)snprintf(buf + n, sizeof buf - n, "X-Trailer: value\r\n");
    assert_int_equal(chunked_whole(buf, n, 0, out, &len, &used), -1);
}

static void trailers_that_say_where_messages_end_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int good;
    } t[] = {
        {"0\r\nX-Sum: 1\r\n\r\n", 1},        {"0\r\nContent-Length: 1\r\n\r\n", 0}, {"0\r\ntransfer-ENCODING: x\r\n\r\n", 0},
        {"0\r\nHost: a\r\n\r\n", 0},         {"0\r\nHos: a\r\n\r\n", 1},           {"0\r\nHosts: a\r\n\r\n", 1},
        {"0\r\nContent-Length-X: 1\r\n\r\n", 1}, {"0\r\nA: 1\r\nupgrade: a\r\n\r\n", 0},
    };
    for (size_t i = 0; i < ARRAY_SIZE(t); i++)
        for (size_t cut = 1; cut <= strlen(t[i].text); cut++) {
            char buf[128], out[64];
            size_t len, used;
            strcpy(buf, t[i].text);
            if (chunked_whole(buf, strlen(buf), cut, out, &len, &used) != (t[i].good ? 1 : -1))
                fail_msg("%s, cut at %zu", t[i].text, cut);
        }
}

static void chunked_decoder_refuses_trailers_that_belong_in_a_head(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        int want;
    } t[] = {
        {"X-Sum: 1", 1}, {"Server-Timing: a", 1}, {"Content-Lengthy: 5", 1}, {"Hosts: a", 1}, {"Content-Length: 5", -1}, {"cOnTeNt-LeNgTh: 5", -1},
        {"Transfer-Encoding: chunked", -1}, {"Host: a", -1}, {"Cookie: a=1", -1}, {"Authorization: x", -1}, {"X-Forwarded-For: 1", -1}, {": 1", -1},
        {"A-name-that-is-much-longer-than-what-is-kept: 1", 1},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char buf[128], out[64];
        size_t len, used;
        size_t n = (size_t)snprintf(buf, sizeof buf, "0\r\nX-A: 1\r\n%s\r\n\r\n", t[i].line);
        for (size_t step = 0; step < 3; step++)
            assert_int_equal(chunked_whole(buf, n, step, out, &len, &used), t[i].want);
    }
}

static void targets_are_decoded_once_and_checked(void **state)
{
    (void)state;
    static const struct {
        const char *text, *path; /* path NULL: refused */
    } t[] = {
        {"/", "/"},
        {"/a/b", "/a/b"},
        {"/a%2Fb%20c", "/a/b c"},
        {"/a+b", "/a+b"},
        {"/%2541", "/%41"},
        {"/a?x=1", "/a"},
        {"/...", "/..."},
        {"/.a/b..", "/.a/b.."},
        {"*", "*"},
        {"http://host/p?q", "/p"},
        {"HTTPS://host:1/", "/"},
        {"http://host", NULL},
        {"http://host?x/y", NULL},
        {"http:///x", NULL},
        {"ftp://host/x", NULL},
        {"host:80", NULL},
        {"a", NULL},
        {"/..", NULL},
        {"/../x", NULL},
        {"/a/../b", NULL},
        {"/a/..", NULL},
        {"/a/.", NULL},
        {"/./a", NULL},
        {"/%2e%2e/x", NULL},
        {"/a/%2E%2e", NULL},
        {"/a%2f..%2fb", NULL},
        {"/%00", NULL},
        {"/a%", NULL},
        {"/a%4", NULL},
        {"/a%4g", NULL},
        {"/a?x=%zz", NULL},
        {"/a?%00=1", NULL},
    };
    char buf[256];
    struct http_target out;
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        const char *why = http_target_parse(&out, t[i].text, strlen(t[i].text), buf);
        if ((why == NULL) != (t[i].path != NULL))
            fail_msg("%s: %s", t[i].text, why ? why : "accepted");
        if (t[i].path)
            assert_string_equal(out.path, t[i].path);
    }
    const char *q = "/p?a=1&b=x%26y+z&a=2&flag&=e&c=";
    assert_null(http_target_parse(&out, q, strlen(q), buf));
    assert_string_equal(http_target_query(&out, "a"), "1");
    assert_string_equal(http_target_query(&out, "b"), "x&y z");
    assert_string_equal(http_target_query(&out, "flag"), "");
    assert_string_equal(http_target_query(&out, "c"), "");
    assert_string_equal(http_target_query(&out, ""), "e");
    assert_null(http_target_query(&out, "d"));
}

static void target_buffer_is_large_enough(void **state)
{
    (void)state;
    for (int params = 0; params <= 66; params++)
        for (int form = 0; form < 3; form++) {
            static const char *const forms[] = {"a&", "a=b&", "=&"};
            char text[400] = "/x?";
            for (int i = 0; i < params; i++)
                strcat(text, forms[form]);
            size_t n = strlen(text);
            char *buf = malloc(HTTP_TARGET_ROOM(n)); /* ASan looks at its end */
            struct http_target t;
            const char *why = http_target_parse(&t, text, n, buf);
            assert_int_equal(why != NULL, params > HTTP_QUERY_MAX);
            free(buf);
        }
}

static void handler(struct http_request *r, void *arg)
{
    (void)r;
    (void)arg;
}

static void routes_match_longest_first(void **state)
{
    (void)state;
    const struct http_route table[] = {
        {HTTP_M_GET, "/", HTTP_PREFIX, handler, NULL, 0},
        {HTTP_M_GET, "/v1/status", 0, handler, NULL, 0},
        {HTTP_M_POST, "/v1/status", 0, handler, NULL, 0},
        {HTTP_M_GET, "/v1/", HTTP_PREFIX, handler, NULL, 0},
        {HTTP_M_GET, "/v1/databases/", HTTP_PREFIX, handler, NULL, 0},
        {HTTP_M_POST, "/only", HTTP_OPEN, handler, NULL, 0},
    };
    struct http_router r;
    assert_int_equal(http_router_init(&r, table, ARRAY_SIZE(table)), 0);
    assert_ptr_equal(http_router_match(&r, HTTP_M_GET, "/v1/status").route, &r.routes[1]);
    assert_ptr_equal(http_router_match(&r, HTTP_M_POST, "/v1/status").route, &r.routes[2]);
    assert_ptr_equal(http_router_match(&r, HTTP_M_HEAD, "/v1/status").route, &r.routes[1]);
    assert_ptr_equal(http_router_match(&r, HTTP_M_GET, "/v1/statusx").route, &r.routes[3]);
    assert_ptr_equal(http_router_match(&r, HTTP_M_GET, "/v1/databases/a/b.db/image").route, &r.routes[4]);
    assert_ptr_equal(http_router_match(&r, HTTP_M_GET, "/x").route, &r.routes[0]);
    struct http_match m = http_router_match(&r, HTTP_M_DELETE, "/v1/status");
    assert_null(m.route);
    assert_int_equal(m.status, 405);
    assert_int_equal(m.allow, HTTP_M_GET | HTTP_M_HEAD | HTTP_M_POST);
    m = http_router_match(&r, HTTP_M_GET, "/only");
    assert_int_equal(m.status, 405);
    assert_true(m.open);
    assert_int_equal(http_router_match(&r, HTTP_M_GET, "*").status, 404);
    char text[64];
    http_methods_format(HTTP_M_ANY, text);
    assert_string_equal(text, "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS");
    http_router_free(&r);
    const struct http_route bad[] = {{HTTP_M_GET, "x", 0, handler, NULL, 0}};
    assert_int_equal(http_router_init(&r, bad, 1), -EINVAL);
}

static int head_of(const char *text, struct http_head *h)
{
    struct http_guard g;
    size_t used;
    http_guard_init(&g, 16384, 8192);
    assert_int_equal(http_guard_feed(&g, (const uint8_t *)text, strlen(text), &used), HTTP_GUARD_DONE);
    return http_head_parse(h, text, used, &g);
}

static void head_fields_are_found_and_trimmed(void **state)
{
    (void)state;
    struct http_head h;
    const char *text = "POST /p?x HTTP/1.1\r\nHost: h\r\nEmpty: \r\nSpaces: \t a  b \t\r\nContent-Length: 12\r\nConnection: close\r\n"
                       "Upgrade: websocket\r\nLast:x\r\n\r\n";
    assert_int_equal(head_of(text, &h), 0);
    assert_int_equal(h.method, HTTP_M_POST);
    assert_int_equal(h.n_fields, 7);
    assert_int_equal(h.content_length, 12);
    assert_false(h.keep_alive);
    int i = http_head_find(&h, text, "SPACES", 0);
    assert_int_equal(h.fields[i].value_len, 4);
    assert_memory_equal(text + h.fields[i].value, "a  b", 4);
    i = http_head_find(&h, text, "empty", 0);
    assert_int_equal(h.fields[i].value_len, 0);
    i = http_head_find(&h, text, "last", 0);
    assert_int_equal(h.fields[i].value_len, 1);
    assert_memory_equal(text + h.target, "/p?x", h.target_len);
    for (i = 0; i < h.n_fields; i++) /* each field lies within its own line, empty or not */
        assert_true(h.fields[i].value >= h.fields[i].name + h.fields[i].name_len &&
                    (i + 1 == h.n_fields || h.fields[i].value + h.fields[i].value_len < h.fields[i + 1].name));
    assert_int_equal(http_head_find(&h, text, "absent", 0), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guard_verdict_is_the_same_however_bytes_are_cut),
        cmocka_unit_test(guard_limits_are_exact),
        cmocka_unit_test(chunked_decoder_is_strict_however_bytes_are_cut),
        cmocka_unit_test(chunked_decoder_bounds_extensions_and_trailers),
        cmocka_unit_test(trailers_that_say_where_messages_end_are_refused),
        cmocka_unit_test(chunked_decoder_refuses_trailers_that_belong_in_a_head),
        cmocka_unit_test(targets_are_decoded_once_and_checked),
        cmocka_unit_test(target_buffer_is_large_enough),
        cmocka_unit_test(routes_match_longest_first),
        cmocka_unit_test(head_fields_are_found_and_trimmed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
