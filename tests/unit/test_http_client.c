/* The blocking client against our own server, and against servers that misbehave. */
#include "test_http.h"

#include "lib/http/client.h"

#include <sys/mman.h>

static void info(struct http_request *r, void *arg)
{
    size_t n;
    const char *b = http_body(r, &n), *type = http_header(r, "Content-Type");
    (void)arg;
    (void)http_set_header(r, "X-Edge-Test", "yes");
    http_reply_json(r, 200, json_pack("{s:s, s:s%, s:s?, s:s?}", "method", http_method_name(r), "body", b, n, "type", type, "length",
                                      http_header(r, "Content-Length")));
}

static void redirect(struct http_request *r, void *arg)
{
    (void)arg;
    (void)http_set_header(r, "Location", "/info");
    http_reply(r, 302, NULL, NULL, 0);
}

static void large(struct http_request *r, void *arg)
{
    static char buf[1 << 20];
    (void)arg;
    memset(buf, 'x', sizeof buf);
    http_reply(r, 200, "text/plain", buf, sizeof buf);
}

static void fill(char *buf, uint64_t at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf[i] = (char)((at + i) * 11);
}

#define DOWNLOAD ((uint64_t)20 << 20)
static void produce(struct http_request *r, void *arg)
{
    uint64_t *at = arg;
    char buf[16384];
    while (*at < DOWNLOAD && http_pending(r) < 262144) {
        fill(buf, *at, sizeof buf);
        *at += sizeof buf;
        if (http_write(r, buf, sizeof buf) < 0)
            return;
    }
    if (*at == DOWNLOAD)
        http_end(r);
}

static void produced(struct http_request *r, enum http_closed why, void *arg)
{
    (void)r;
    (void)why;
    free(arg);
}

static void download(struct http_request *r, void *arg)
{
    uint64_t *at = calloc(1, sizeof *at);
    (void)arg;
    http_set_closed(r, produced, at);
    http_set_drain(r, 65536, produce, at);
    http_start(r, 200, NULL, http_query(r, "close") ? HTTP_UNTIL_CLOSE : (int64_t)DOWNLOAD);
    produce(r, at);
}

static void ignore_closed(struct http_request *r, enum http_closed why, void *arg)
{
    (void)r;
    (void)why;
    (void)arg;
}

/* Says a little, then falls silent. */
static void silent(struct http_request *r, void *arg)
{
    (void)arg;
    http_set_closed(r, ignore_closed, NULL);
    http_start(r, 200, NULL, HTTP_CHUNKED);
    http_write(r, "some", 4);
}

static void cut(struct http_request *r, void *arg)
{
    (void)arg;
    http_start(r, 200, NULL, 100);
    http_write(r, "some", 4);
    http_abort(r);
}

static void missing(struct http_request *r, void *arg)
{
    (void)arg;
    http_reply_error(r, 404, "no database named %s", http_query(r, "name"));
}

struct sink {
    uint64_t bytes;
    bool bad;
};
static void sink_data(struct http_request *r, const void *p, size_t n, void *arg)
{
    struct sink *s = arg;
    (void)r;
    for (size_t i = 0; i < n; i++)
        s->bad = s->bad || ((const char *)p)[i] != (char)((s->bytes + i + 1000) * 11);
    s->bytes += n;
}
static void sink_end(struct http_request *r, void *arg)
{
    struct sink *s = arg;
    http_reply_json(r, 201, json_pack("{s:I, s:b}", "bytes", (json_int_t)s->bytes, "bad", s->bad));
}
static void sink_closed(struct http_request *r, enum http_closed why, void *arg)
{
    (void)r;
    (void)why;
    free(arg);
}
static void upload(struct http_request *r, void *arg)
{
    struct sink *s = calloc(1, sizeof *s);
    (void)arg;
    http_set_closed(r, sink_closed, s);
    http_set_body(r, sink_data, sink_end, s);
}

static const struct http_route routes[] = {
    {HTTP_M_ANY, "/info", 0, info, NULL, 0},          {HTTP_M_GET, "/redirect", 0, redirect, NULL, 0},
    {HTTP_M_GET, "/large", 0, large, NULL, 0},        {HTTP_M_GET, "/download", HTTP_EOF_IS_GONE, download, NULL, 0},
    {HTTP_M_GET, "/silent", 0, silent, NULL, 0},      {HTTP_M_GET, "/cut", 0, cut, NULL, 0},
    {HTTP_M_GET, "/missing", 0, missing, NULL, 0},    {HTTP_M_PUT | HTTP_M_POST, "/upload", HTTP_STREAM_BODY, upload, NULL, 0},
};

static struct rig rig;
static char url_text[128];

static const char *url(const char *path)
{
    snprintf(url_text, sizeof url_text, "http://127.0.0.1:%u%s", rig.port, path);
    return url_text;
}

static int set_up(void **state)
{
    struct http_server_options o = {.token = "tok"};
    (void)state;
    rig_open(&rig, &o, routes, ARRAY_SIZE(routes));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    rig_close(&rig);
    return 0;
}

static struct http_client *client(void)
{
    struct http_client_options o = {.token = "tok"};
    struct http_client *c = http_client_new(&o);
    assert_non_null(c);
    return c;
}

static void requests_go_out_as_asked_on_one_connection(void **state)
{
    (void)state;
    setenv("http_proxy", "http://127.0.0.1:1", 1); /* must not matter */
    struct http_client *c = client();
    struct http_response r;
    struct err e;
    static const struct {
        const char *method, *type, *body, *want;
    } t[] = {
        {"GET", NULL, NULL, "{\"method\":\"GET\",\"body\":\"\",\"type\":null,\"length\":null}"},
        {"POST", NULL, "{}", "{\"method\":\"POST\",\"body\":\"{}\",\"type\":\"application/json\",\"length\":\"2\"}"},
        {"PUT", "text/plain", "abc", "{\"method\":\"PUT\",\"body\":\"abc\",\"type\":\"text/plain\",\"length\":\"3\"}"},
        {"DELETE", NULL, NULL, "{\"method\":\"DELETE\",\"body\":\"\",\"type\":null,\"length\":null}"},
        {"GET", NULL, NULL, "{\"method\":\"GET\",\"body\":\"\",\"type\":null,\"length\":null}"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        const char *b = t[i].body;
        int k = http_client_request(c, t[i].method, url("/info"), t[i].type, b, b ? strlen(b) : 0, &r, &e);
        if (k)
            fail_msg("%s", e.text);
        assert_int_equal(r.status, 200);
        assert_string_equal(r.body, t[i].want);
        assert_string_equal(r.content_type, "application/json");
        assert_string_equal(http_client_header(c, "x-edge-test"), "yes");
        assert_null(http_client_header(c, "x-absent"));
        assert_int_equal(http_response_check(&r, "GET", url_text, &e), 0);
        http_response_free(&r);
    }
    assert_int_equal(http_client_request(c, "POST", url("/info"), NULL, NULL, 0, &r, &e), 0);
    assert_non_null(strstr(r.body, "\"length\":\"0\""));
    http_response_free(&r);
    assert_int_equal(http_client_request(c, "HEAD", url("/info"), NULL, NULL, 0, &r, &e), 0);
    assert_string_equal(r.body, "");
    http_response_free(&r);
    assert_int_equal(http_client_request(c, "GET", url("/redirect"), NULL, NULL, 0, &r, &e), 0);
    assert_int_equal(r.status, 302);
    http_response_free(&r);
    assert_int_equal(rig_stats(&rig).accepted, 1);
    http_client_free(c);
    unsetenv("http_proxy");
}

static void errors_name_url_and_cause(void **state)
{
    (void)state;
    struct http_client *c = client();
    struct http_response r;
    struct err e;
    assert_int_equal(http_client_request(c, "GET", "http://127.0.0.1:1/x", NULL, NULL, 0, &r, &e), -ECONNREFUSED);
    assert_non_null(strstr(e.text, "GET http://127.0.0.1:1/x: "));
    assert_null(r.body);
    assert_int_equal(http_client_request(c, "GET", "nonsense://x", NULL, NULL, 0, &r, &e), -EINVAL);
    assert_int_equal(http_client_request(c, "GET", "file:///etc/passwd", NULL, NULL, 0, &r, &e), -EINVAL);
    assert_int_equal(http_client_request(c, "GET", "http://no.such.host.invalid/", NULL, NULL, 0, &r, &e), -EHOSTUNREACH);
    assert_int_equal(http_client_request(c, "GET", url("/cut"), NULL, NULL, 0, &r, &e), -ECONNRESET);
    assert_int_equal(http_client_request(c, "GET", url("/missing?name=a.db"), NULL, NULL, 0, &r, &e), 0);
    assert_int_equal(http_response_check(&r, "GET", url_text, &e), ERR_REMOTE);
    char want[256];
    snprintf(want, sizeof want, "GET %s: 404: no database named a.db", url_text);
    assert_string_equal(e.text, want);
    http_response_free(&r);
    struct http_client_options o = {.max_body = 1000};
    struct http_client *small = http_client_new(&o);
    assert_int_equal(http_client_request(small, "GET", url("/info"), NULL, NULL, 0, &r, &e), 0);
    assert_int_equal(r.status, 401); /* no token */
    http_response_free(&r);
    http_client_free(small);
    o.token = "tok";
    small = http_client_new(&o);
    assert_int_equal(http_client_request(small, "GET", url("/large"), NULL, NULL, 0, &r, &e), -EMSGSIZE);
    assert_int_equal(http_client_request(small, "GET", url("/info"), NULL, NULL, 0, &r, &e), 0); /* it is usable after that */
    http_response_free(&r);
    http_client_free(small);
    http_client_free(c);
}

static void silence_ends_a_request_to_the_millisecond(void **state)
{
    (void)state;
    struct http_client *c = client();
    struct http_response r;
    struct err e;
    http_client_set_timeouts(c, 0, 150, 0);
    uint64_t t0 = now_ns();
    assert_int_equal(http_client_request(c, "GET", url("/silent"), NULL, NULL, 0, &r, &e), -ETIMEDOUT);
    uint64_t ms = (now_ns() - t0) / 1000000;
    assert_true(ms >= 145 && ms < 1000);
    assert_non_null(strstr(e.text, "nothing came for 150 ms"));
    http_client_set_timeouts(c, 0, 0, 200);
    t0 = now_ns();
    assert_int_equal(http_client_request(c, "GET", url("/silent"), NULL, NULL, 0, &r, &e), -ETIMEDOUT);
    ms = (now_ns() - t0) / 1000000;
    assert_true(ms >= 190 && ms < 1000);
    http_client_free(c);
}

struct taken {
    uint64_t bytes, stop_at;
    bool bad;
    int code;
    struct err *say;
};

static int take(void *ctx, const void *p, size_t n)
{
    struct taken *t = ctx;
    for (size_t i = 0; i < n; i++)
        t->bad = t->bad || ((const char *)p)[i] != (char)((t->bytes + i) * 11);
    t->bytes += n;
    if (t->stop_at && t->bytes >= t->stop_at)
        return t->say ? err_set(t->say, t->code, "enough") : t->code;
    return 0;
}

static void downloads_arrive_whole_or_say_why(void **state)
{
    (void)state;
    struct http_client *c = client();
    struct err e;
    int status;
    static const char *const paths[] = {"/download", "/download?close"};
    for (int i = 0; i < 2; i++) {
        struct taken t = {0};
        assert_int_equal(http_client_download(c, url(paths[i]), take, &t, &status, &e), 0);
        assert_int_equal(status, 200);
        assert_int_equal(t.bytes, DOWNLOAD);
        assert_false(t.bad);
    }
    struct taken t = {.stop_at = 1 << 20, .code = ERR_CORRUPT};
    assert_int_equal(http_client_download(c, url("/download"), take, &t, NULL, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "ended by the receiver"));
    t = (struct taken){.stop_at = 1 << 20, .code = -ENOSPC, .say = &e};
    assert_int_equal(http_client_download(c, url("/download"), take, &t, NULL, &e), -ENOSPC);
    assert_non_null(strstr(e.text, ": enough"));
    t = (struct taken){0};
    assert_int_equal(http_client_download(c, url("/missing?name=b.db"), take, &t, &status, &e), ERR_REMOTE);
    assert_non_null(strstr(e.text, "404: no database named b.db"));
    assert_int_equal(t.bytes, 0);
    assert_int_equal(status, 404);
    assert_int_equal(http_client_download(c, url("/cut"), take, &t, &status, &e), -ECONNRESET);
    assert_int_equal(t.bytes, 4);
    http_client_free(c);
}

static void count_progress(void *ctx, uint64_t sent)
{
    *(uint64_t *)ctx = sent;
}

static void uploads_come_from_any_offset(void **state)
{
    (void)state;
    struct http_client *c = client();
    struct http_response r;
    struct err e;
    const size_t size = 9u << 20;
    char *buf = malloc(size);
    fill(buf, 0, size);
    int fd = memfd_create("upload", MFD_CLOEXEC);
    assert_int_equal(write(fd, buf, size), size);
    free(buf);
    static const uint64_t lens[] = {8u << 20, 100000, 1, 0};
    for (size_t i = 0; i < ARRAY_SIZE(lens); i++) {
        uint64_t sent = 0;
        int k = http_client_upload(c, i % 2 ? "POST" : "PUT", url("/upload"), fd, 1000, lens[i], count_progress, &sent, &r, &e);
        if (k)
            fail_msg("%s", e.text);
        char want[64];
        snprintf(want, sizeof want, "{\"bytes\":%llu,\"bad\":false}", (unsigned long long)lens[i]);
        assert_int_equal(r.status, 201);
        assert_string_equal(r.body, want);
        assert_int_equal(sent, lens[i]);
        http_response_free(&r);
    }
    assert_int_equal(http_client_upload(c, "PUT", url("/upload"), fd, 1000, 100u << 20, NULL, NULL, &r, &e), -ENODATA);
    assert_int_equal(http_client_request(c, "GET", url("/info"), NULL, NULL, 0, &r, &e), 0);
    http_response_free(&r);
    close(fd);
    http_client_free(c);
}

static void *abort_soon(void *arg)
{
    usleep(50000);
    http_client_abort(arg);
    return NULL;
}

static void *flag_soon(void *arg)
{
    usleep(50000);
    atomic_store((atomic_int *)arg, 1);
    return NULL;
}

static void another_thread_can_end_a_request(void **state)
{
    (void)state;
    struct http_client *c = client();
    struct http_response r;
    struct err e;
    pthread_t t;
    uint64_t t0 = now_ns();
    pthread_create(&t, NULL, abort_soon, c);
    assert_int_equal(http_client_request(c, "GET", url("/silent"), NULL, NULL, 0, &r, &e), -ECANCELED);
    assert_true(now_ns() - t0 < 900000000u); /* at once, not at the next second */
    pthread_join(t, NULL);
    assert_int_equal(http_client_request(c, "GET", url("/info"), NULL, NULL, 0, &r, &e), 0);
    http_response_free(&r);
    http_client_free(c);
    atomic_int flag = 0;
    struct http_client_options o = {.token = "tok", .abort = &flag};
    c = http_client_new(&o);
    t0 = now_ns();
    pthread_create(&t, NULL, flag_soon, &flag);
    assert_int_equal(http_client_request(c, "GET", url("/silent"), NULL, NULL, 0, &r, &e), -ECANCELED);
    assert_true(now_ns() - t0 < 900000000u);
    pthread_join(t, NULL);
    http_client_free(c);
}

/* A server that says exactly this to whoever comes, then closes. */
static void *say(void *arg)
{
    void **a = arg;
    int fd = accept((int)(intptr_t)a[0], NULL, NULL);
    char buf[4096];
    if (fd >= 0 && recv(fd, buf, sizeof buf, 0) > 0)
        send_text(fd, a[1]);
    shutdown(fd, SHUT_WR);
    while (fd >= 0 && recv(fd, buf, sizeof buf, 0) > 0) {
    }
    close(fd);
    return NULL;
}

static void misbehaving_servers_are_errors(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int want;
    } t[] = {
        {"", -ECONNRESET},
        {"SSH-2.0-x\r\n", -EPROTO}, /* would be HTTP/0.9 */
        {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour", -ECONNRESET},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n", -ECONNRESET},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", -ECONNRESET},
    };
    struct http_client *c = client();
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof a;
        int l = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(bind(l, (struct sockaddr *)&a, sizeof a), 0);
        assert_int_equal(listen(l, 1), 0);
        getsockname(l, (struct sockaddr *)&a, &len);
        void *arg[2] = {(void *)(intptr_t)l, (void *)(uintptr_t)t[i].text};
        pthread_t thread;
        pthread_create(&thread, NULL, say, arg);
        char to[64];
        snprintf(to, sizeof to, "http://127.0.0.1:%u/", ntohs(a.sin_port));
        struct http_response r;
        struct err e;
        int k = http_client_request(c, "GET", to, NULL, NULL, 0, &r, &e);
        if (k != t[i].want)
            fail_msg("%zu: %d, not %d: %s", i, k, t[i].want, e.text);
        pthread_join(thread, NULL);
        close(l);
    }
    http_client_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(requests_go_out_as_asked_on_one_connection, set_up, tear_down),
        cmocka_unit_test_setup_teardown(errors_name_url_and_cause, set_up, tear_down),
        cmocka_unit_test_setup_teardown(silence_ends_a_request_to_the_millisecond, set_up, tear_down),
        cmocka_unit_test_setup_teardown(downloads_arrive_whole_or_say_why, set_up, tear_down),
        cmocka_unit_test_setup_teardown(uploads_come_from_any_offset, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_thread_can_end_a_request, set_up, tear_down),
        cmocka_unit_test(misbehaving_servers_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
