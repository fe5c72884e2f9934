/* libFuzzer target: the whole server side of a connection, from bytes on a socket to handlers and back.
 *
 * Each input runs on two connections: sent at once, and in pieces whose size is the input's first byte. What comes back must be the
 * same (Date and interim replies aside), however the bytes were cut; and nothing may crash, hang or leak.
 *
 *   clang -fsanitize=fuzzer,address … tests/fuzz/fuzz_http_request.c lib/http/…; ./fuzz_http_request tests/fuzz/corpus/http_request */
#include "lib/http/internal.h"
#include "lib/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/un.h>

#define INPUT_MAX 65536
#define OUTPUT_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct event_base *base;
static struct http_server *server;

static void hello(struct http_request *r, void *arg)
{
    (void)arg;
    http_reply_json(r, 200, json_pack("{s:s%}", "path", http_path(r), strlen(http_path(r))));
}

static void echo(struct http_request *r, void *arg)
{
    size_t n;
    const char *b = http_body(r, &n), *name, *value;
    (void)arg;
    for (size_t i = 0; http_header_at(r, i, &name, &value); i++)
        if (!*name || strlen(value) > 65536)
            abort();
    http_reply(r, 200, http_query(r, "type") ? "text/plain" : NULL, b, n);
}

static void pieces(struct http_request *r, const void *data, size_t len, void *arg)
{
    uint64_t *sum = arg;
    (void)r;
    for (size_t i = 0; i < len; i++)
        *sum = *sum * 31 + ((const uint8_t *)data)[i];
}

static void pieces_end(struct http_request *r, void *arg)
{
    http_start(r, 200, "text/plain", HTTP_CHUNKED);
    http_write(r, arg, 8);
    http_end(r);
}

static void pieces_closed(struct http_request *r, enum http_closed why, void *arg)
{
    (void)r;
    (void)why;
    free(arg);
}

static void stream(struct http_request *r, void *arg)
{
    void *sum = calloc(1, 8);
    (void)arg;
    if (!sum)
        abort();
    http_set_closed(r, pieces_closed, sum);
    http_set_body(r, pieces, pieces_end, sum);
}

static void endless(struct http_request *r, void *arg)
{
    (void)arg;
    http_start(r, 200, NULL, HTTP_UNTIL_CLOSE);
    http_write(r, "until close", 11);
    http_end(r);
}

static void set_up(void)
{
    static const struct http_route routes[] = {
        {HTTP_M_GET | HTTP_M_DELETE, "/", HTTP_PREFIX | HTTP_OPEN, hello, NULL, 0},
        {HTTP_M_POST | HTTP_M_PUT, "/echo", HTTP_OPEN, echo, NULL, 100},
        {HTTP_M_ANY, "/s", HTTP_STREAM_BODY | HTTP_OPEN, stream, NULL, 0},
        {HTTP_M_GET, "/e", HTTP_OPEN, endless, NULL, 0},
        {HTTP_M_GET, "/t", 0, hello, NULL, 0},
    };
    struct http_server_options o = {.token = "t", .max_head = 1024, .max_target = 256, .head_ms = 3600000, .body_ms = 3600000, .idle_ms = 3600000};
    struct err e;
    base = event_base_new();
    if (!base || http_server_open(base, &o, routes, ARRAY_SIZE(routes), &server, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
}

static unsigned connections(void)
{
    struct http_server_stats s;
    http_server_stats(server, &s);
    return s.connections;
}

/* One turn of the loop; whatever came back goes to out. */
static void turn(int fd, char *out, size_t *n)
{
    ssize_t k;
    event_base_loop(base, EVLOOP_NONBLOCK);
    while (*n < OUTPUT_MAX && (k = recv(fd, out + *n, OUTPUT_MAX - *n, MSG_DONTWAIT)) > 0)
        *n += (size_t)k;
}

static size_t converse(const uint8_t *data, size_t size, size_t cut, char *out)
{
    int fd[2];
    struct sockaddr_un peer = {.sun_family = AF_UNIX};
    size_t n = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd) < 0 ||
        http_conn_open(server, fd[0], (struct sockaddr *)&peer, sizeof peer) < 0)
        abort();
    for (size_t i = 0; i < size && connections();) {
        ssize_t k = send(fd[1], data + i, MIN(cut, size - i), MSG_NOSIGNAL);
        if (k > 0)
            i += (size_t)k;
        else if (errno != EAGAIN)
            break;
        turn(fd[1], out, &n);
    }
    shutdown(fd[1], SHUT_WR);
    for (int i = 0; connections(); i++) {
        turn(fd[1], out, &n);
        if (i == 100000)
            abort(); /* a connection that nothing ends */
    }
    turn(fd[1], out, &n);
    close(fd[1]);
    return n;
}

/* Takes Date fields and interim replies out; what they were between does not matter. */
static size_t strip(char *p, size_t n, const char *what, const char *end)
{
    size_t len = strlen(what);
    for (char *s = p, *d; (d = memmem(s, n - (size_t)(s - p), what, len)); s = d) {
        char *stop = memmem(d, n - (size_t)(d - p), end, strlen(end));
        if (!stop)
            break;
        stop += strlen(end);
        memmove(d, stop, n - (size_t)(stop - p));
        n -= (size_t)(stop - d);
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char out[2][OUTPUT_MAX];
    size_t n[2];
    if (!server)
        set_up();
    if (size < 1 || size > INPUT_MAX)
        return 0;
    size_t cut = data[0] ? data[0] : 1;
    for (int i = 0; i < 2; i++) {
        n[i] = converse(data + 1, size - 1, i ? cut : INPUT_MAX, out[i]);
        n[i] = strip(out[i], n[i], "Date: ", "\r\n");
        n[i] = strip(out[i], n[i], "HTTP/1.1 100 Continue\r\n", "\r\n\r\n");
    }
    if (n[0] != n[1] || memcmp(out[0], out[1], n[0]) != 0) {
        fprintf(stderr, "at once:\n%.*s\nin pieces of %zu:\n%.*s\n", (int)n[0], out[0], cut, (int)n[1], out[1]);
        abort();
    }
    return 0;
}
