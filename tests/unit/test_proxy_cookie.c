/* Positions in requests and responses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "http-proxy/cookie.h"
#include "lib/util.h"
#include <stdio.h>

static struct head parse(const char *fields)
{
    static char text[20000]; /* a head points into it */
    struct head h;
    struct head_error e;
    int n = snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: h\r\n%s\r\n", fields);
    assert_int_equal(head_parse_request(&h, text, (size_t)n, sizeof text, HEAD_FIELDS_MAX, &e), HEAD_DONE);
    return h;
}

static void the_largest_readable_position_counts(void **state)
{
    static const struct {
        const char *fields;
        struct position p;
        unsigned malformed;
    } rows[] = {
        {"", {0, 0}, 0},
        {"Cookie: __edge_write_pos=3-17\r\n", {3, 17}, 0},
        {"cookie:a=b;  __edge_write_pos=3-17 ;c=d\r\n", {3, 17}, 0},
        {"Cookie: __edge_write_pos=\"3-17\"\r\n", {3, 17}, 0},
        {"Cookie: a=__edge_write_pos=3-17\r\n", {0, 0}, 0}, /* somebody else's value */
        {"Cookie: x__edge_write_pos=3-17; __EDGE_WRITE_POS=1-1; __edge_write_posx=1-1\r\n", {0, 0}, 0},
        {"Cookie: __edge_write_pos=3-17; __edge_write_pos=3-18\r\n", {3, 18}, 0},
        {"Cookie: __edge_write_pos=3-17\r\nCookie: __edge_write_pos=4-1\r\n", {4, 1}, 0},
        {"X-Read-After-Position: 3-17\r\n", {3, 17}, 0},
        {"Cookie: __edge_write_pos=3-17\r\nx-read-after-position: 3-16\r\n", {3, 17}, 0},
        {"Cookie: __edge_write_pos=3-15\r\nX-Read-After-Position: 3-16\r\n", {3, 16}, 0},
        {"Cookie: __edge_write_pos=3-15\r\nX-Read-After-Position: nonsense\r\n", {3, 15}, 1},
        {"Cookie: __edge_write_pos=18446744073709551615-18446744073709551615\r\n", {UINT64_MAX, UINT64_MAX}, 0},
        {"Cookie: __edge_write_pos=18446744073709551616-1\r\n", {0, 0}, 1},
        {"Cookie: __edge_write_pos=; __edge_write_pos=-; __edge_write_pos=1; __edge_write_pos=1-; __edge_write_pos=-1; __edge_write_pos=01-1; "
         "__edge_write_pos=1-1-1; __edge_write_pos= 1-1; __edge_write_pos=+1-1; __edge_write_pos=0-5; __edge_write_pos=1_1; "
         "__edge_write_pos=\"; __edge_write_pos=1-1\"; __edge_write_pos=0x1-1\r\n",
         {0, 0}, 14},
        {"X-Read-After-Position:\r\nX-Read-After-Position: 1-1, 2-2\r\n", {0, 0}, 2},
        {"Cookie: ;;; ; =; ==;__edge_write_pos\r\n", {0, 0}, 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct head h = parse(rows[i].fields);
        unsigned malformed = 99;
        struct position p = cookie_position(&h, &malformed);
        if (position_compare(p, rows[i].p) || malformed != rows[i].malformed)
            fail_msg("%s: %llu-%llu, %u malformed", rows[i].fields, (unsigned long long)p.epoch, (unsigned long long)p.lsn, malformed);
    }
}

static void a_head_full_of_cookies_is_read(void **state)
{
    static char fields[16000];
    unsigned malformed;
    (void)state;
    strcpy(fields, "Cookie: ");
    for (size_t n = 8; n < sizeof fields - 100; n += 2)
        memcpy(fields + n, "a;", 3);
    strcat(fields, "__edge_write_pos=1-2\r\n");
    struct head h = parse(fields);
    assert_int_equal(cookie_position(&h, &malformed).lsn, 2);
}

static void what_is_given_is_what_is_read(void **state)
{
    struct extra x;
    unsigned malformed;
    (void)state;
    extra_clear(&x);
    cookie_add(&x, (struct position){7, 123456}, true, false);
    static const char plain[] = "Set-Cookie: __edge_write_pos=7-123456; Path=/; Max-Age=300; SameSite=Lax; HttpOnly\r\nX-Write-Position: 7-123456\r\n";
    assert_int_equal(x.n, sizeof plain - 1);
    assert_memory_equal(x.buf, plain, sizeof plain - 1);
    extra_clear(&x);
    cookie_add(&x, (struct position){7, 123456}, false, false);
    assert_int_equal(x.n, strlen("X-Write-Position: 7-123456\r\n"));
    assert_memory_equal(x.buf, "X-Write-Position: 7-123456\r\n", x.n);
    extra_clear(&x);
    cookie_add(&x, (struct position){UINT64_MAX, UINT64_MAX}, true, true);
    assert_non_null(memmem(x.buf, x.n, "; HttpOnly; Secure\r\n", 20));
    char back[200];
    snprintf(back, sizeof back, "Cookie: %.*s\r\n", 17 + 41, x.buf + 12);
    struct head h = parse(back);
    struct position p = cookie_position(&h, &malformed);
    assert_int_equal(malformed, 0);
    assert_int_equal(position_compare(p, (struct position){UINT64_MAX, UINT64_MAX}), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_largest_readable_position_counts),
        cmocka_unit_test(a_head_full_of_cookies_is_read),
        cmocka_unit_test(what_is_given_is_what_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
