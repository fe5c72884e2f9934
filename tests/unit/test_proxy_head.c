/* Heads of messages as the proxy reads them: what is refused, what is found, and that it does not matter how the bytes came. */
#include "http-proxy/head.h"
#include "lib/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#define LIMIT 2048

static struct head h;
static struct head_error e;

/* The verdict on the whole; and each shorter piece must say MORE, or what the whole says. */
static enum head_result request(const char *text, size_t n)
{
    enum head_result want = head_parse_request(&h, text, n, LIMIT, 20, &e);
    for (size_t i = 0; i < n; i++) {
        struct head part;
        struct head_error pe;
        enum head_result r = head_parse_request(&part, text, i, LIMIT, 20, &pe);
        if (r != HEAD_MORE && (r != want || (want == HEAD_DONE && part.len != h.len)))
            fail_msg("%s: after %zu bytes %d instead of %d", text, i, r, want);
    }
    return want;
}

static void good_requests_are_understood(void **state)
{
    (void)state;
    static const char text[] = "POST /a/b?c=d HTTP/1.1\r\nHost: x:1\r\nX-Empty:\r\nX-Ob: \xe4\t \r\nCONTENT-length:  12 \r\nCookie: a=1\r\nCookie: b=2\r\n"
                               "Connection: Keep-Alive, x-a ,\r\n\r\nbody";
    assert_int_equal(request(text, sizeof text - 1), HEAD_DONE);
    assert_int_equal(h.len, sizeof text - 1 - 4);
    assert_true(slice_equal(h.method, SLICE("POST")));
    assert_true(slice_equal(h.target, SLICE("/a/b?c=d")));
    assert_true(slice_equal(h.path, SLICE("/a/b")));
    assert_int_equal(h.n_fields, 7);
    assert_int_equal(h.body, HEAD_BODY_LENGTH);
    assert_int_equal(h.content_length, 12);
    assert_true(h.keep_alive);
    assert_false(h.upgrade);
    const struct head_field *f = head_find(&h, HEAD_COOKIE);
    assert_true(slice_equal(head_value(&h, f), SLICE("a=1")));
    f = head_next(&h, f);
    assert_true(slice_equal(head_value(&h, f), SLICE("b=2")));
    assert_null(head_next(&h, f));
    assert_int_equal(head_value(&h, head_find_name(&h, "x-empty")).n, 0);
    assert_true(slice_equal(head_value(&h, head_find_name(&h, "x-ob")), SLICE("\xe4")));
    assert_null(head_find(&h, HEAD_EXPECT));
}

static void forms_of_targets(void **state)
{
    (void)state;
    static const struct {
        const char *text, *target, *authority;
        int status;
    } t[] = {
        {"GET http://h/x?y HTTP/1.1\r\nHost: other\r\n\r\n", "/x?y", "h", 0},
        {"GET HTTPS://h:8 HTTP/1.1\r\nHost: h\r\n\r\n", "/", "h:8", 0},
        {"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "*", "", 0},
        {"GET / HTTP/1.0\r\n\r\n", "/", "", 0},
        {"GET * HTTP/1.1\r\nHost: h\r\n\r\n", NULL, NULL, 400},
        {"GET x HTTP/1.1\r\nHost: h\r\n\r\n", NULL, NULL, 400},
        {"GET http://a@b/ HTTP/1.1\r\nHost: h\r\n\r\n", NULL, NULL, 400},
        {"GET http:///x HTTP/1.1\r\nHost: h\r\n\r\n", NULL, NULL, 400},
        {"GET http://h?x HTTP/1.1\r\nHost: h\r\n\r\n", NULL, NULL, 400},
        {"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", NULL, NULL, 501},
    };
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        enum head_result r = request(t[i].text, strlen(t[i].text));
        if ((r == HEAD_BAD ? e.status : 0) != t[i].status)
            fail_msg("%s: %d %s", t[i].text, r == HEAD_BAD ? e.status : 0, r == HEAD_BAD ? e.reason : "");
        if (t[i].status)
            continue;
        assert_true(slice_equal(h.target, (struct slice){t[i].target, strlen(t[i].target)}));
        assert_true(slice_equal(h.authority, (struct slice){t[i].authority, strlen(t[i].authority)}));
    }
}

#define H "GET / HTTP/1.1\r\nHost: h\r\n"

static void what_could_be_read_in_two_ways_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int status;
    } bad[] = {
        {"GET / HTTP/1.1\nHost: h\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: h\n\r\n", 400},
        {"GET / HTTP/1.1\rHost: h\r\n\r\n", 400},
        {H "X: a\rb\r\n\r\n", 400},
        {H "X: a\n b\r\n\r\n", 400},
        {H "X: a\r\n b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n Host: h\r\n\r\n", 400},
        {H "X : a\r\n\r\n", 400},
        {H "X\t: a\r\n\r\n", 400},
        {H "X\r\n\r\n", 400},
        {H ": a\r\n\r\n", 400},
        {H "X: a\x01\r\n\r\n", 400},
        {H "X: a\x7f\r\n\r\n", 400},
        {H "X: 0123456789abcdefghijklmnop\x0b\r\n\r\n", 400},
        {H "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {H "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400},
        {H "Content-Length: 1, 1\r\n\r\n", 400},
        {H "Content-Length: +1\r\n\r\n", 400},
        {H "Content-Length: -1\r\n\r\n", 400},
        {H "Content-Length: 0x1\r\n\r\n", 400},
        {H "Content-Length: \r\n\r\n", 400},
        {H "Content-Length: 1 1\r\n\r\n", 400},
        {H "Content-Length: 9999999999999999999\r\n\r\n", 400},
        {H "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {H "Transfer-Encoding: identity\r\n\r\n", 501},
        {H "Transfer-Encoding: gzip, chunked\r\n\r\n", 501},
        {H "Transfer-Encoding: xchunked\r\n\r\n", 501},
        {H "Transfer-Encoding: \x0b" "chunked\r\n\r\n", 400},
        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n\r\n", 400},
        {H "Host: h\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
        {"GET /\r\n\r\n", 400},
        {"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400},
        {"GET / HTTP/1.1 \r\nHost: h\r\n\r\n", 400},
        {"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505},
        {"GET / HTTP/1.2\r\nHost: h\r\n\r\n", 505},
        {"GET / http/1.1\r\nHost: h\r\n\r\n", 400},
        {" GET / HTTP/1.1\r\nHost: h\r\n\r\n", 400},
        {"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400},
        {"GET /\x80 HTTP/1.1\r\nHost: h\r\n\r\n", 400},
        {"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", 400},
        {"G(T / HTTP/1.1\r\nHost: h\r\n\r\n", 400},
        {H "Expect: 200-ok\r\n\r\n", 417},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        enum head_result r = request(bad[i].text, strlen(bad[i].text));
        if (r != HEAD_BAD || e.status != bad[i].status)
            fail_msg("%s: %d %s", bad[i].text, r == HEAD_BAD ? e.status : 0, r == HEAD_BAD ? e.reason : "accepted");
    }
    static const char nul[] = H "X: a\0b\r\n\r\n";
    assert_int_equal(request(nul, sizeof nul - 1), HEAD_BAD);
}

static void limits_hold_to_the_byte(void **state)
{
    (void)state;
    char text[LIMIT + 100];
    for (int over = -1; over <= 1; over++) {
        size_t n = (size_t)snprintf(text, sizeof text, H "X: ");
        size_t fill = (size_t)(LIMIT + over) - n - 4;
        memset(text + n, 'a', fill);
        memcpy(text + n + fill, "\r\n\r\n", 5);
        assert_int_equal(strlen(text), LIMIT + over);
        enum head_result r = request(text, strlen(text));
        assert_int_equal(r, over <= 0 ? HEAD_DONE : HEAD_BAD);
        if (over > 0)
            assert_int_equal(e.status, 431);
    }
    memset(text, 'a', sizeof text);
    memcpy(text, "GET /", 5);
    assert_int_equal(request(text, LIMIT), HEAD_BAD);
    assert_int_equal(e.status, 414);
    for (int fields = 19; fields <= 21; fields++) {
        size_t n = (size_t)snprintf(text, sizeof text, H);
        for (int i = 1; i < fields; i++)
            n += (size_t)snprintf(text + n, sizeof text - n, "A: b\r\n");
        n += (size_t)snprintf(text + n, sizeof text - n, "\r\n");
        assert_int_equal(request(text, n), fields <= 20 ? HEAD_DONE : HEAD_BAD);
    }
}

static void responses_are_understood(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int status; /* 0: refused */
        enum head_body body;
    } t[] = {
        {"HTTP/1.1 200 OK\r\n\r\n", 200, HEAD_BODY_TO_EOF},
        {"HTTP/1.1 200\r\n\r\n", 200, HEAD_BODY_TO_EOF},
        {"HTTP/1.0 404 \r\nContent-Length: 0\r\n\r\n", 404, HEAD_BODY_LENGTH},
        {"HTTP/1.1 299 a b c\r\nTransfer-Encoding: Chunked\r\n\r\n", 299, HEAD_BODY_CHUNKED},
        {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 0, HEAD_BODY_NONE},
        {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 0, HEAD_BODY_NONE},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", 0, HEAD_BODY_NONE},
        {"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", 0, HEAD_BODY_NONE},
        {"HTTP/1.1 200 OK\nX: a\r\n\r\n", 0, HEAD_BODY_NONE},
        {"HTTP/1.1 20 OK\r\n\r\n", 0, HEAD_BODY_NONE},
        {"HTTP/1.1 2000 OK\r\n\r\n", 0, HEAD_BODY_NONE},
        {"HTTP/2 200 OK\r\n\r\n", 0, HEAD_BODY_NONE},
        {"ICY 200 OK\r\n\r\n", 0, HEAD_BODY_NONE},
    };
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        enum head_result r = head_parse_response(&h, t[i].text, strlen(t[i].text), LIMIT, 20, &e);
        if (r != (t[i].status ? HEAD_DONE : HEAD_BAD) || (t[i].status && (h.status != t[i].status || h.body != t[i].body)))
            fail_msg("%s: %d", t[i].text, r);
        if (!t[i].status)
            assert_int_equal(e.status, 502);
    }
}

static void lists_are_searched_element_by_element(void **state)
{
    (void)state;
    struct slice v;
    assert_true(head_list_has(SLICE("a, no-store"), "no-store", NULL));
    assert_false(head_list_has(SLICE("a, no-stores, xno-store"), "no-store", NULL));
    assert_true(head_list_has(SLICE("Max-Stale=30, b"), "max-stale", &v));
    assert_true(slice_equal(v, SLICE("30")));
    assert_true(head_list_has(SLICE("private=\"a, b\", c = \"d\""), "c", &v));
    assert_true(slice_equal(v, SLICE("d")));
    assert_false(head_list_has(SLICE("x=\"a, b\""), "b", NULL));
    assert_false(head_list_has(SLICE(""), "b", NULL));
    assert_true(head_list_has(SLICE("trailers;q=0.5"), "trailers", &v));
    assert_int_equal(v.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_requests_are_understood),
        cmocka_unit_test(forms_of_targets),
        cmocka_unit_test(what_could_be_read_in_two_ways_is_refused),
        cmocka_unit_test(limits_hold_to_the_byte),
        cmocka_unit_test(responses_are_understood),
        cmocka_unit_test(lists_are_searched_element_by_element),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
