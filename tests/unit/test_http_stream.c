/* Streams over real sockets: replies with back-pressure, files, uploads, closed callbacks, wake-ups from other threads, stopping. */
#include "test_http.h"

#include <event2/buffer.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define HIGH (256u << 10)
#define LOW (64u << 10)

static atomic_int closed_calls[3]; /* by enum http_closed */
static atomic_size_t max_pending;
static atomic_ullong produced;
static atomic_int drains;

static void reset_counters(void)
{
    for (int i = 0; i < 3; i++)
        atomic_store(&closed_calls[i], 0);
    atomic_store(&max_pending, 0);
    atomic_store(&produced, 0);
    atomic_store(&drains, 0);
}

/* A reply of `total` bytes, byte i is (char)(i * 7), as fast as the client takes it. */
struct feed {
    uint64_t sent, total;
    bool end_after;
};

static void feed_fill(char *buf, uint64_t at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf[i] = (char)((at + i) * 7);
}

static void feed_go(struct http_request *r, void *arg)
{
    struct feed *f = arg;
    char buf[16384];
    while (f->sent < f->total && http_pending(r) < HIGH) {
        size_t n = MIN(sizeof buf, (size_t)(f->total - f->sent));
        feed_fill(buf, f->sent, n);
        if (http_write(r, buf, n) < 0)
            return;
        f->sent += n;
        atomic_fetch_add(&produced, n);
        if (http_pending(r) > atomic_load(&max_pending))
            atomic_store(&max_pending, http_pending(r));
    }
    if (f->sent == f->total && f->end_after) {
        f->end_after = false;
        http_end(r);
    }
}

static void feed_drained(struct http_request *r, void *arg)
{
    atomic_fetch_add(&drains, 1);
    if (http_pending(r) > LOW)
        abort();
    feed_go(r, arg);
}

static void feed_closed(struct http_request *r, enum http_closed why, void *arg)
{
    (void)r;
    free(arg);
    atomic_fetch_add(&closed_calls[why], 1);
}

/* /feed?n=BYTES[&how=length|chunked|close] */
static void feed(struct http_request *r, void *arg)
{
    struct feed *f = calloc(1, sizeof *f);
    const char *n = http_query(r, "n"), *how = http_query(r, "how");
    (void)arg;
    f->total = n ? strtoull(n, NULL, 10) : UINT64_MAX;
    f->end_after = true;
    http_set_closed(r, feed_closed, f);
    http_set_drain(r, LOW, feed_drained, f);
    int64_t length = how && !strcmp(how, "length") ? (int64_t)f->total : how && !strcmp(how, "close") ? HTTP_UNTIL_CLOSE : HTTP_CHUNKED;
    http_start(r, 200, "application/octet-stream", length);
    feed_go(r, f);
}

static int data_fd = -1; /* 3 MiB, byte i is (char)(i * 7) */

static void count_closed(struct http_request *r, enum http_closed why, void *arg)
{
    (void)r;
    (void)arg;
    atomic_fetch_add(&closed_calls[why], 1);
}

/* /file?off=N&len=N[&cut] in two halves with text around, chunked */
static void file(struct http_request *r, void *arg)
{
    off_t off = atol(http_query(r, "off"));
    size_t len = strtoul(http_query(r, "len"), NULL, 10), half = len / 2;
    (void)arg;
    http_set_closed(r, count_closed, NULL);
    http_start(r, 200, NULL, http_query(r, "fixed") ? (int64_t)len + 4 : HTTP_CHUNKED);
    http_write(r, "<<", 2);
    http_write_file(r, data_fd, off, half);
    http_write_file(r, data_fd, off + (off_t)half, len - half);
    http_write(r, ">>", 2);
    http_end(r);
}

/* /buffers[?fixed]: evbuffers and writes mixed */
static void buffers(struct http_request *r, void *arg)
{
    struct evbuffer *b = evbuffer_new();
    (void)arg;
    http_start(r, 200, NULL, http_query(r, "fixed") ? 3 * 100003 : HTTP_CHUNKED);
    for (int i = 0; i < 3; i++) {
        static char block[100000];
        memset(block, 'a' + i, sizeof block);
        evbuffer_add(b, block, sizeof block);
        http_write(r, "-", 1);
        if (http_write_evbuffer(r, b) != 0 || evbuffer_get_length(b) != 0 || http_write_evbuffer(r, b) != 0)
            abort();
        http_write(r, "+\n", 2);
    }
    evbuffer_free(b);
    http_end(r);
}

static void wrong(struct http_request *r, void *arg)
{
    const char *how = http_query(r, "how");
    (void)arg;
    http_set_closed(r, count_closed, NULL);
    if (!strcmp(how, "nothing")) {
        http_end(r);
        return;
    }
    http_start(r, 200, NULL, !strcmp(how, "abort") ? HTTP_CHUNKED : !strcmp(how, "abort-close") ? HTTP_UNTIL_CLOSE : 10);
    http_write(r, "12345", 5);
    if (!strcmp(how, "more") && http_write(r, "678901", 6) != -EMSGSIZE)
        abort();
    if (!strcmp(how, "twice"))
        http_reply(r, 200, NULL, "x", 1);
    else if (!strncmp(how, "abort", 5))
        http_abort(r);
    else
        http_end(r);
}

static _Atomic(struct http_request *) kept; /* of /later and /never */

static void later(struct http_request *r, void *arg)
{
    if (arg)
        http_set_closed(r, count_closed, NULL);
    atomic_store(&kept, r);
}

/* Uploads: counts and checks bytes; pauses after each piece if asked to, resumed by the timer below. */
struct upload {
    uint64_t bytes;
    bool bad, ended, pausing;
    struct http_request *r;
    struct event *timer;
};
static struct event_base *loop; /* for timers in handlers */
static atomic_ullong uploaded;

static void upload_data(struct http_request *r, const void *data, size_t len, void *arg)
{
    struct upload *u = arg;
    const char *p = data;
    struct timeval tv = {.tv_usec = 500};
    for (size_t i = 0; i < len; i++)
        u->bad = u->bad || p[i] != (char)((u->bytes + i) * 7);
    u->bytes += len;
    atomic_fetch_add(&uploaded, len);
    if (u->pausing) {
        http_body_pause(r);
        event_add(u->timer, &tv);
    }
}

static void upload_resume(evutil_socket_t fd, short what, void *arg)
{
    struct upload *u = arg;
    (void)fd;
    (void)what;
    http_body_resume(u->r);
}

static void upload_end(struct http_request *r, void *arg)
{
    struct upload *u = arg;
    if (u->ended)
        abort();
    u->ended = true;
    http_reply_json(r, u->bad ? 500 : 200, json_pack("{s:I}", "bytes", (json_int_t)u->bytes));
}

static void upload_closed(struct http_request *r, enum http_closed why, void *arg)
{
    struct upload *u = arg;
    (void)r;
    event_free(u->timer);
    free(u);
    atomic_fetch_add(&closed_calls[why], 1);
}

static void upload(struct http_request *r, void *arg)
{
    struct upload *u = calloc(1, sizeof *u);
    (void)arg;
    u->r = r;
    u->timer = evtimer_new(loop, upload_resume, u);
    u->pausing = http_query(r, "pause");
    http_set_closed(r, upload_closed, u);
    http_set_body(r, upload_data, upload_end, u);
    if (http_query(r, "stuck"))
        http_body_pause(r);
    if (http_query(r, "refuse"))
        http_reply_error(r, 403, "not wanted");
}

static const struct http_route routes[] = {
    {HTTP_M_GET, "/feed", HTTP_EOF_IS_GONE, feed, NULL, 0},
    {HTTP_M_GET, "/file", 0, file, NULL, 0},
    {HTTP_M_GET, "/buffers", 0, buffers, NULL, 0},
    {HTTP_M_GET, "/wrong", 0, wrong, NULL, 0},
    {HTTP_M_GET, "/later", 0, later, NULL, 0},
    {HTTP_M_GET, "/never", 0, later, (void *)1, 0},
    {HTTP_M_GET, "/stream", HTTP_EOF_IS_GONE, later, (void *)1, 0},
    {HTTP_M_PUT, "/upload", HTTP_STREAM_BODY, upload, NULL, 0},
};

static struct rig rig;

static void open_rig(void)
{
    struct http_server_options o = {.send_ms = 300, .body_ms = 300};
    reset_counters();
    atomic_store(&kept, NULL);
    rig_open(&rig, &o, routes, ARRAY_SIZE(routes));
    loop = rig.base;
}

static void check_feed(const struct reply *r, size_t n)
{
    assert_int_equal(r->len, n);
    for (size_t i = 0; i < n; i++)
        if (r->body[i] != (char)(i * 7))
            fail_msg("byte %zu is wrong", i);
}

static void streamed_replies_arrive_whole_in_each_framing(void **state)
{
    (void)state;
    open_rig();
    static const char *const how[] = {"chunked", "length", "close"};
    int fd = dial(rig.port), small = 200000; /* so that the kernel does not take it all at once */
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    for (int i = 0; i < 3; i++) {
        char text[128];
        snprintf(text, sizeof text, "GET /feed?n=15000000&how=%s HTTP/1.1\r\nHost: x\r\n\r\n", how[i]);
        struct reply r;
        atomic_store(&max_pending, 0);
        send_text(fd, text);
        for (int k = 0; k < 10000 && atomic_load(&max_pending) < HIGH; k++) /* what the kernel takes is full */
            usleep(100);
        assert_true(read_reply(fd, &r, false));
        check_feed(&r, 15000000);
        assert_int_equal(r.eof, i == 2);
        reply_free(&r);
    }
    close(fd);
    wait_for(&closed_calls[HTTP_FINISHED], 3);
    assert_true(atomic_load(&max_pending) <= HIGH + 16384 + 64);
    assert_true(atomic_load(&drains) > 0);
    rig_close(&rig);
    assert_int_equal(atomic_load(&closed_calls[HTTP_GONE]) + atomic_load(&closed_calls[HTTP_ABORTED]), 0);
}

static void reader_that_stops_costs_a_bounded_buffer_and_is_cut(void **state)
{
    (void)state;
    open_rig();
    int fd[20];
    for (int i = 0; i < 20; i++) {
        fd[i] = dial(rig.port);
        int small = 4096;
        setsockopt(fd[i], SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        send_text(fd[i], "GET /feed HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    wait_for(&closed_calls[HTTP_GONE], 20); /* nobody reads: send_ms */
    assert_true(atomic_load(&max_pending) <= HIGH + 16384 + 64);
    assert_true(atomic_load(&produced) < 20ull * (16u << 20)); /* what the kernel buffers, and HIGH */
    for (int i = 0; i < 20; i++)
        close(fd[i]);
    assert_int_equal(rig_stats(&rig).timed_out, 20);
    rig_close(&rig);
}

static void pipelined_requests_wait_while_output_is_stuck(void **state)
{
    (void)state;
    open_rig();
    int fd = dial(rig.port);
    for (int i = 0; i < 200; i++)
        send_text(fd, "GET /feed?n=2000000 HTTP/1.1\r\nHost: x\r\n\r\n");
    usleep(100000);
    assert_true(atomic_load(&produced) < 32u << 20); /* not 400 MB */
    assert_true(rig_stats(&rig).requests < 20);
    close(fd);
    wait_for(&closed_calls[HTTP_GONE], 1);
    rig_close(&rig);
}

static void closed_callback_comes_once_for_each_way_to_go(void **state)
{
    (void)state;
    open_rig();
    int fd = dial(rig.port); /* the client closes */
    send_text(fd, "GET /feed HTTP/1.1\r\nHost: x\r\n\r\n");
    while (!atomic_load(&produced))
        usleep(100);
    close(fd);
    wait_for(&closed_calls[HTTP_GONE], 1);
    fd = dial(rig.port); /* … while the handler does nothing, on a route where that means it is gone */
    send_text(fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    while (!atomic_load(&kept))
        usleep(100);
    shutdown(fd, SHUT_WR);
    wait_for(&closed_calls[HTTP_GONE], 2);
    close(fd);
    fd = dial(rig.port); /* … with a reset */
    atomic_store(&kept, NULL);
    send_text(fd, "GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
    while (!atomic_load(&kept))
        usleep(100);
    struct linger now = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
    wait_for(&closed_calls[HTTP_GONE], 3);
    fd = dial(rig.port); /* the server closes */
    atomic_store(&kept, NULL);
    send_text(fd, "GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
    while (!atomic_load(&kept))
        usleep(100);
    rig_close(&rig);
    assert_int_equal(atomic_load(&closed_calls[HTTP_ABORTED]), 1);
    assert_int_equal(atomic_load(&closed_calls[HTTP_GONE]), 3);
    assert_int_equal(atomic_load(&closed_calls[HTTP_FINISHED]), 0);
    close(fd);
}

static void answer_kept(void *arg)
{
    struct http_request *r = atomic_load(&kept);
    (void)arg;
    if (http_start(r, 200, NULL, HTTP_CHUNKED) == 0) {
        http_write(r, "late", 4);
        http_end(r);
    } else
        http_end(r);
}

static void request_without_closed_callback_outlives_its_client(void **state)
{
    (void)state;
    open_rig();
    for (int gone = 0; gone < 2; gone++) {
        atomic_store(&kept, NULL);
        int fd = dial(rig.port);
        send_text(fd, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
        while (!atomic_load(&kept))
            usleep(100);
        if (gone) {
            struct linger now = {1, 0};
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
            close(fd);
            for (int i = 0; i < 1000 && rig_stats(&rig).connections; i++)
                usleep(1000);
        }
        rig_call(&rig, answer_kept, NULL);
        if (!gone) {
            struct reply r;
            assert_true(read_reply(fd, &r, false));
            assert_string_equal(r.body, "late");
            reply_free(&r);
            close(fd);
        }
    }
    rig_close(&rig);
}

static void wrong_replies_are_cut_not_faked(void **state)
{
    (void)state;
    open_rig();
    static const char *const how[] = {"short", "more", "twice", "nothing", "abort", "abort-close"};
    for (int i = 0; i < 6; i++) {
        char text[128];
        struct reply r;
        int fd = dial(rig.port);
        snprintf(text, sizeof text, "GET /wrong?how=%s HTTP/1.1\r\nHost: x\r\n\r\n", how[i]);
        send_text(fd, text);
        assert_false(read_reply(fd, &r, false));
        reply_free(&r);
        close(fd);
        wait_for(&closed_calls[HTTP_ABORTED], i + 1);
    }
    rig_close(&rig);
    assert_int_equal(atomic_load(&closed_calls[HTTP_ABORTED]), 6);
}

static void make_file(void)
{
    data_fd = memfd_create("http", MFD_CLOEXEC);
    static char buf[3 << 20];
    feed_fill(buf, 0, sizeof buf);
    assert_int_equal(write(data_fd, buf, sizeof buf), sizeof buf);
}

static void files_are_sent_from_any_offset(void **state)
{
    (void)state;
    make_file();
    open_rig();
    static const struct {
        size_t off, len;
    } t[] = {{0, 3u << 20}, {1, 100}, {4097, 40000}, {12345, 2000001}, {3145727, 1}, {0, 0}, {100, 32769}};
    int fd = dial(rig.port);
    for (size_t i = 0; i < 2 * ARRAY_SIZE(t); i++) {
        size_t off = t[i / 2].off, len = t[i / 2].len;
        char text[128];
        snprintf(text, sizeof text, "GET /file?off=%zu&len=%zu%s HTTP/1.1\r\nHost: x\r\n\r\n", off, len, i % 2 ? "&fixed" : "");
        struct reply r = ask(fd, text);
        assert_int_equal(r.len, len + 4);
        assert_memory_equal(r.body, "<<", 2);
        assert_memory_equal(r.body + 2 + len, ">>", 2);
        for (size_t k = 0; k < len; k++)
            if (r.body[2 + k] != (char)((off + k) * 7))
                fail_msg("byte %zu of %zu+%zu", k, off, len);
        reply_free(&r);
    }
    struct reply r = ask(fd, "HEAD /file?off=0&len=100000&fixed HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_string_equal(reply_header(&r, "Content-Length"), "100004");
    reply_free(&r);
    wait_for(&closed_calls[HTTP_FINISHED], (int)(2 * ARRAY_SIZE(t)) + 1);
    /* The file ends before the bytes that were promised: cut, at both sizes. */
    for (int big = 0; big < 2; big++) {
        send_text(fd, big ? "GET /file?off=3000000&len=900000&fixed HTTP/1.1\r\nHost: x\r\n\r\n"
                          : "GET /file?off=3145720&len=20&fixed HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_false(read_reply(fd, &r, false));
        reply_free(&r);
        close(fd);
        fd = dial(rig.port);
    }
    wait_for(&closed_calls[HTTP_GONE], 1);
    wait_for(&closed_calls[HTTP_ABORTED], 1);
    close(fd);
    rig_close(&rig);
    close(data_fd);
    /* No descriptor is left behind. */
    int probe = open("/dev/null", O_RDONLY);
    assert_true(probe < 20);
    close(probe);
}

static void evbuffers_keep_their_place_among_writes(void **state)
{
    (void)state;
    open_rig();
    int fd = dial(rig.port);
    for (int fixed = 0; fixed < 2; fixed++) {
        struct reply r = ask(fd, fixed ? "GET /buffers?fixed HTTP/1.1\r\nHost: x\r\n\r\n" : "GET /buffers HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_int_equal(r.len, 3 * 100003);
        for (size_t i = 0; i < r.len; i++) {
            size_t k = i % 100003;
            char want = k == 0 ? '-' : k == 100001 ? '+' : k == 100002 ? '\n' : (char)('a' + i / 100003);
            if (r.body[i] != want)
                fail_msg("byte %zu is wrong", i);
        }
        reply_free(&r);
    }
    struct reply r = ask(fd, "HEAD /buffers HTTP/1.1\r\nHost: x\r\n\r\n");
    reply_free(&r);
    close(fd);
    rig_close(&rig);
}

static void send_upload(int fd, const char *query, size_t n, bool chunked)
{
    char head[256];
    if (chunked)
        snprintf(head, sizeof head, "PUT /upload?%s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", query);
    else
        snprintf(head, sizeof head, "PUT /upload?%s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", query, n);
    send_text(fd, head);
    char buf[5000];
    for (size_t at = 0; at < n;) {
        size_t k = MIN(n - at, 1 + at % sizeof buf);
        feed_fill(buf, at, k);
        char size[32];
        snprintf(size, sizeof size, "%zx\r\n", k);
        if ((chunked && !send_text(fd, size)) || !send_bytes(fd, buf, k) || (chunked && !send_text(fd, "\r\n")))
            return;
        at += k;
    }
    if (chunked)
        send_text(fd, "0\r\n\r\n");
}

static void uploads_arrive_whole_in_pieces(void **state)
{
    (void)state;
    open_rig();
    int fd = dial(rig.port);
    int n = 0;
    for (int chunked = 0; chunked < 2; chunked++)
        for (int pause = 0; pause < 2; pause++) {
            send_upload(fd, pause ? "pause" : "", 700000, chunked);
            struct reply r;
            assert_true(read_reply(fd, &r, false));
            assert_string_equal(r.body, "{\"bytes\":700000}");
            reply_free(&r);
            wait_for(&closed_calls[HTTP_FINISHED], ++n);
        }
    send_upload(fd, "pause", 0, true); /* no body at all, in both forms */
    struct reply r;
    assert_true(read_reply(fd, &r, false));
    assert_string_equal(r.body, "{\"bytes\":0}");
    reply_free(&r);
    send_upload(fd, "", 0, false);
    assert_true(read_reply(fd, &r, false));
    assert_string_equal(r.body, "{\"bytes\":0}");
    reply_free(&r);
    close(fd);
    rig_close(&rig);
}

static void paused_upload_stops_the_client(void **state)
{
    (void)state;
    open_rig();
    int fd = dial(rig.port);
    struct timeval limit = {.tv_usec = 400000}; /* longer than body_ms: a paused body has no time-out */
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    send_upload(fd, "stuck", 64u << 20, false); /* returns when the socket is full */
    assert_int_equal(atomic_load(&closed_calls[HTTP_GONE]), 0);
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    close(fd);
    rig_close(&rig);
    assert_int_equal(atomic_load(&closed_calls[HTTP_ABORTED]) + atomic_load(&closed_calls[HTTP_GONE]), 1);
}

static void upload_may_be_refused_before_its_body(void **state)
{
    (void)state;
    open_rig();
    int fd = dial(rig.port);
    struct reply r = ask(fd, "PUT /upload?refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\nExpect: 100-continue\r\n\r\n");
    assert_int_equal(r.status, 403);
    assert_string_equal(reply_header(&r, "Connection"), "close");
    assert_true(is_closed(fd));
    reply_free(&r);
    close(fd);
    fd = dial(rig.port); /* a client that sends anyway still gets the answer */
    send_upload(fd, "refuse", 900000, false);
    assert_true(read_reply(fd, &r, false));
    assert_int_equal(r.status, 403);
    reply_free(&r);
    close(fd);
    fd = dial(rig.port); /* a short one is dropped, and the connection goes on */
    send_upload(fd, "refuse", 1000, false);
    assert_true(read_reply(fd, &r, false));
    assert_int_equal(r.status, 403);
    assert_null(reply_header(&r, "Connection"));
    reply_free(&r);
    send_upload(fd, "", 1000, false);
    assert_true(read_reply(fd, &r, false));
    assert_string_equal(r.body, "{\"bytes\":1000}");
    reply_free(&r);
    r = ask(fd, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n");
    assert_int_equal(r.status, 100);
    reply_free(&r);
    char seven[7];
    feed_fill(seven, 0, 7);
    send_bytes(fd, seven, 7);
    assert_true(read_reply(fd, &r, false));
    assert_string_equal(r.body, "{\"bytes\":7}");
    reply_free(&r);
    close(fd);
    rig_close(&rig);
}

static void broken_uploads_end_in_one_closed_callback(void **state)
{
    (void)state;
    open_rig();
    int fd = dial(rig.port); /* bad chunk: 400 */
    struct reply r = ask(fd, "PUT /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\0");
    (void)r;
    reply_free(&r);
    close(fd);
    wait_for(&closed_calls[HTTP_GONE], 1);
    fd = dial(rig.port); /* stalls: 408 */
    r = ask(fd, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n");
    assert_int_equal(r.status, 408);
    reply_free(&r);
    close(fd);
    wait_for(&closed_calls[HTTP_GONE], 2);
    fd = dial(rig.port); /* half-closed before the end */
    send_text(fd, "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n");
    shutdown(fd, SHUT_WR);
    assert_true(is_closed(fd));
    close(fd);
    wait_for(&closed_calls[HTTP_GONE], 3);
    fd = dial(rig.port);
    r = ask(fd, "PUT /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    assert_int_equal(r.status, 400);
    reply_free(&r);
    close(fd);
    wait_for(&closed_calls[HTTP_GONE], 4);
    rig_close(&rig);
}

/* --- other threads --- */

static atomic_int ran;
static int posted_order[8000], posted_n;

static void note(void *arg)
{
    posted_order[posted_n++] = (int)(intptr_t)arg;
}

static void count_run(void *arg)
{
    (void)arg;
    atomic_fetch_add(&ran, 1);
}

static void *post_many(void *arg)
{
    struct http_wake *w = arg;
    for (int i = 0; i < 20000; i++)
        http_wake(w);
    return NULL;
}

static void make_wake(void *arg)
{
    *(struct http_wake **)arg = http_wake_new(rig.server, count_run, NULL);
}

static void drop_wake(void *arg)
{
    http_wake(arg); /* queued, and must not run any more */
    http_wake_free(arg);
}

static void posted_functions_run_in_order_and_wakes_are_merged(void **state)
{
    (void)state;
    open_rig();
    posted_n = 0;
    for (int i = 0; i < 8000; i++)
        assert_int_equal(http_server_post(rig.server, note, (void *)(intptr_t)i), 0);
    struct http_wake *w = NULL;
    rig_call(&rig, make_wake, &w);
    assert_int_equal(posted_n, 8000);
    for (int i = 0; i < 8000; i++)
        assert_int_equal(posted_order[i], i);
    atomic_store(&ran, 0);
    pthread_t t[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&t[i], NULL, post_many, w);
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    rig_stats(&rig); /* a round trip: the last wake has run */
    int n = atomic_load(&ran);
    assert_true(n >= 1 && n <= 40000);
    http_wake(w);
    rig_stats(&rig);
    assert_int_equal(atomic_load(&ran), n + 1); /* none is lost */
    rig_call(&rig, drop_wake, w);
    rig_stats(&rig);
    assert_int_equal(atomic_load(&ran), n + 1);
    rig_close(&rig);
}

static void stop_it(void *arg)
{
    http_server_stop_listening(rig.server, count_run, arg);
}

static void stopping_lets_answers_finish(void **state)
{
    (void)state;
    open_rig();
    int idle = dial(rig.port), busy = dial(rig.port);
    struct reply r = ask(idle, "GET /feed?n=10 HTTP/1.1\r\nHost: x\r\n\r\n");
    reply_free(&r);
    send_text(busy, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    while (!atomic_load(&kept))
        usleep(100);
    atomic_store(&ran, 0);
    rig_call(&rig, stop_it, NULL);
    assert_true(is_closed(idle));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(rig.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_true(connect(fd, (struct sockaddr *)&a, sizeof a) < 0);
    close(fd);
    assert_int_equal(atomic_load(&ran), 0);
    rig_call(&rig, answer_kept, NULL);
    assert_true(read_reply(busy, &r, false));
    assert_string_equal(r.body, "late");
    assert_string_equal(reply_header(&r, "Connection"), "close");
    assert_true(is_closed(busy));
    reply_free(&r);
    close(busy);
    close(idle);
    wait_for(&ran, 1);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streamed_replies_arrive_whole_in_each_framing),
        cmocka_unit_test(reader_that_stops_costs_a_bounded_buffer_and_is_cut),
        cmocka_unit_test(pipelined_requests_wait_while_output_is_stuck),
        cmocka_unit_test(closed_callback_comes_once_for_each_way_to_go),
        cmocka_unit_test(request_without_closed_callback_outlives_its_client),
        cmocka_unit_test(wrong_replies_are_cut_not_faked),
        cmocka_unit_test(files_are_sent_from_any_offset),
        cmocka_unit_test(evbuffers_keep_their_place_among_writes),
        cmocka_unit_test(uploads_arrive_whole_in_pieces),
        cmocka_unit_test(paused_upload_stops_the_client),
        cmocka_unit_test(upload_may_be_refused_before_its_body),
        cmocka_unit_test(broken_uploads_end_in_one_closed_callback),
        cmocka_unit_test(posted_functions_run_in_order_and_wakes_are_merged),
        cmocka_unit_test(stopping_lets_answers_finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
