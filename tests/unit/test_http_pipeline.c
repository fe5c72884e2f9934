/* Requests that do not wait for their answers, against our own server and against one that never answers. */
#include "test_http.h"

#include "lib/http/pipeline.h"

static atomic_uint last, count, disorder;

static void news(struct http_request *r, void *arg)
{
    size_t n;
    unsigned v = (unsigned)strtoul(http_body(r, &n), NULL, 10);
    (void)arg;
    if (v != atomic_load(&last) + 1)
        atomic_fetch_add(&disorder, 1);
    atomic_store(&last, v);
    atomic_fetch_add(&count, 1);
    http_reply(r, 204, NULL, NULL, 0);
}

static void refused(struct http_request *r, void *arg)
{
    (void)arg;
    http_reply_error(r, 409, "no");
}

static const struct http_route routes[] = {
    {HTTP_M_POST, "/news", 0, news, NULL, 0},
    {HTTP_M_POST, "/refused", 0, refused, NULL, 0},
};
static struct rig rig;
static char url_text[128];

static const char *url(uint16_t port, const char *path)
{
    snprintf(url_text, sizeof url_text, "http://127.0.0.1:%u%s", port, path);
    return url_text;
}

static int set_up(void **state)
{
    struct http_server_options o = {.token = "tok"};
    (void)state;
    atomic_store(&last, 0);
    atomic_store(&count, 0);
    atomic_store(&disorder, 0);
    rig_open(&rig, &o, routes, ARRAY_SIZE(routes));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    rig_close(&rig);
    return 0;
}

static int post(struct http_pipeline *p, const char *to, unsigned v, struct err *e)
{
    char body[16];
    int n = snprintf(body, sizeof body, "%u", v);
    return http_pipeline_post(p, to, body, (size_t)n, e);
}

/* What check says in the end; 0: all went on well for that long. */
static int check_within(struct http_pipeline *p, unsigned ms, struct err *e)
{
    uint64_t until = now_ns() + (uint64_t)ms * 1000000u;
    int rc;
    while (!(rc = http_pipeline_check(p, e)) && now_ns() < until)
        poll(NULL, 0, 1);
    return rc;
}

static void wait_count(unsigned n)
{
    uint64_t until = now_ns() + UINT64_C(10000000000);
    while (atomic_load(&count) < n && now_ns() < until)
        poll(NULL, 0, 1);
    assert_int_equal(atomic_load(&count), n);
}

static void requests_arrive_in_order_on_one_connection(void **state)
{
    struct http_pipeline *p = http_pipeline_new("tok", 2000, 5000);
    struct err e;
    (void)state;
    for (unsigned i = 1; i <= 200; i++)
        if (post(p, url(rig.port, "/news"), i, &e))
            fail_msg("%u: %s", i, e.text);
    wait_count(200);
    assert_int_equal(atomic_load(&disorder), 0);
    assert_int_equal(http_pipeline_wait(p, &e), 0);
    for (unsigned i = 201; i <= 200 + HTTP_PIPELINE_WAITING_MAX; i++) /* which it would refuse if any of the first were unanswered */
        assert_int_equal(post(p, url_text, i, &e), 0);
    wait_count(200 + HTTP_PIPELINE_WAITING_MAX);
    assert_int_equal(atomic_load(&disorder), 0);
    assert_int_equal(rig_stats(&rig).accepted, 1);
    http_pipeline_free(p);
}

static void another_answer_than_204_ends_the_connection(void **state)
{
    struct err e;
    (void)state;
    struct http_pipeline *p = http_pipeline_new("tok", 2000, 5000);
    assert_int_equal(post(p, url(rig.port, "/refused"), 1, &e), 0);
    assert_int_equal(check_within(p, 10000, &e), ERR_REMOTE);
    assert_non_null(strstr(e.text, "409"));
    assert_int_equal(post(p, url(rig.port, "/news"), 1, &e), 0); /* anew */
    wait_count(1);
    http_pipeline_free(p);

    p = http_pipeline_new(NULL, 2000, 5000);
    assert_int_equal(post(p, url(rig.port, "/news"), 2, &e), 0);
    assert_int_equal(check_within(p, 10000, &e), ERR_REMOTE);
    assert_non_null(strstr(e.text, "401"));
    assert_int_equal(atomic_load(&count), 1);
    http_pipeline_free(p);
}

static void a_connection_that_was_closed_is_made_anew(void **state)
{
    struct http_pipeline *p = http_pipeline_new("tok", 2000, 5000);
    struct err e;
    (void)state;
    assert_int_equal(post(p, url(rig.port, "/news"), 1, &e), 0);
    wait_count(1);
    uint16_t old = rig.port;
    rig_close(&rig);
    assert_int_equal(check_within(p, 10000, &e), -ECONNRESET);
    assert_int_equal(http_pipeline_check(p, &e), 0); /* there is none that could be broken */
    assert_int_equal(post(p, url(old, "/news"), 2, &e), -ECONNREFUSED);
    set_up(state);
    assert_int_equal(post(p, url(rig.port, "/news"), 1, &e), 0);
    wait_count(1);
    assert_int_equal(post(p, "ftp://127.0.0.1/", 1, &e), -EINVAL);
    http_pipeline_free(p);
}

static void a_server_that_does_not_answer_is_given_up(void **state)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    struct err e;
    (void)state;
    int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(l, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(l, 8), 0);
    getsockname(l, (struct sockaddr *)&a, &len);
    struct http_pipeline *p = http_pipeline_new("tok", 2000, 300);
    assert_int_equal(post(p, url(ntohs(a.sin_port), "/"), 1, &e), 0);
    assert_int_equal(http_pipeline_check(p, &e), 0);
    assert_int_equal(http_pipeline_wait(p, &e), -ETIMEDOUT);
    http_pipeline_free(p);

    p = http_pipeline_new("tok", 2000, 60000);
    for (unsigned i = 0; i < HTTP_PIPELINE_WAITING_MAX; i++)
        assert_int_equal(post(p, url_text, i, &e), 0);
    assert_int_equal(post(p, url_text, 1, &e), -EBUSY);
    http_pipeline_free(p);
    close(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(requests_arrive_in_order_on_one_connection, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_answer_than_204_ends_the_connection, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_connection_that_was_closed_is_made_anew, set_up, tear_down),
        cmocka_unit_test(a_server_that_does_not_answer_is_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
