/* What handlers answer: heads, framing, the end. */
#include "lib/http/internal.h"
#include "lib/log.h"
#include "lib/util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <strings.h>

#define SMALL_FILE (16u << 10) /* below this a read and a send cost less than a descriptor and a file segment */

static const struct {
    int status;
    const char *text;
} reasons[] = {
    {200, "OK"},
    {201, "Created"},
    {202, "Accepted"},
    {204, "No Content"},
    {206, "Partial Content"},
    {301, "Moved Permanently"},
    {302, "Found"},
    {303, "See Other"},
    {304, "Not Modified"},
    {307, "Temporary Redirect"},
    {308, "Permanent Redirect"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {406, "Not Acceptable"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {410, "Gone"},
    {411, "Length Required"},
    {412, "Precondition Failed"},
    {413, "Content Too Large"},
    {414, "URI Too Long"},
    {415, "Unsupported Media Type"},
    {416, "Range Not Satisfiable"},
    {417, "Expectation Failed"},
    {421, "Misdirected Request"},
    {422, "Unprocessable Content"},
    {425, "Too Early"},
    {428, "Precondition Required"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {502, "Bad Gateway"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"},
    {507, "Insufficient Storage"},
};

static const char *reason_of(int status)
{
    for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
        if (reasons[i].status == status)
            return reasons[i].text;
    return ""; /* RFC 9112 §4: may be empty, clients ignore it */
}

void http_request_free(struct http_request *r)
{
    r->magic = 0;
    free(r->extra);
    free(r->body);
    free(r);
}

static bool is_live(const struct http_request *r)
{
    return r->conn && r->conn->state != CONN_DEAD;
}

/* The handler is done with r. */
static void finish(struct http_request *r)
{
    r->ended = true;
    if (!r->conn)
        http_request_free(r);
    else if (r->conn->state != CONN_DEAD && !r->conn->processing)
        http_conn_kick(r->conn);
}

int http_set_header(struct http_request *req, const char *name, const char *value)
{
    size_t n = strlen(name), v = strlen(value);
    if (req->started)
        return -EALREADY;
    if (!n || !strcasecmp(name, "content-length") || !strcasecmp(name, "transfer-encoding") || !strcasecmp(name, "connection"))
        return -EINVAL;
    for (size_t i = 0; i < n; i++)
        if (!http_is_token((uint8_t)name[i]))
            return -EINVAL;
    for (size_t i = 0; i < v; i++)
        if (!http_is_field((uint8_t)value[i]))
            return -EINVAL;
    if (n + v + 4 > HTTP_EXTRA_MAX - req->extra_len)
        return -E2BIG;
    char *extra = realloc(req->extra, req->extra_len + n + v + 5);
    if (!extra)
        return -ENOMEM;
    req->extra = extra;
    req->extra_len += (size_t)sprintf(extra + req->extra_len, "%s: %s\r\n", name, value);
    return 0;
}

struct head_text {
    char text[512];
    size_t len;
};

static void __attribute__((format(printf, 2, 3))) append(struct head_text *h, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(h->text + h->len, sizeof h->text - h->len, fmt, ap);
    va_end(ap);
    h->len += MIN((size_t)MAX(n, 0), sizeof h->text - h->len - 1);
}

static void common_head(struct head_text *h, struct http_server *s, int status, const char *type)
{
    h->len = 0;
    append(h, "HTTP/1.1 %03d %s\r\nDate: %s\r\n", status, reason_of(status), http_server_date(s));
    if (type)
        append(h, "Content-Type: %.200s\r\n", type);
}

/* Decides framing and persistence; fills h with everything but the handler's fields and the empty line. */
static void reply_head(struct http_request *r, struct head_text *h, int status, const char *type, int64_t length)
{
    struct http_conn *c = r->conn;
    bool http10 = r->head.minor == 0, bodyless = status == 204 || status == 304;
    if (length == HTTP_CHUNKED && http10)
        length = HTTP_UNTIL_CLOSE;
    common_head(h, c->server, status, type);
    r->framing = bodyless || length < HTTP_UNTIL_CLOSE ? REPLY_BODYLESS
                 : length == HTTP_UNTIL_CLOSE          ? REPLY_CLOSE
                 : length == HTTP_CHUNKED              ? REPLY_CHUNKED
                                                       : REPLY_LENGTH;
    if (r->framing == REPLY_LENGTH) {
        append(h, "Content-Length: %lld\r\n", (long long)length);
        r->left = (uint64_t)length;
    } else if (r->framing == REPLY_CHUNKED)
        append(h, "Transfer-Encoding: chunked\r\n");
    if (r->framing == REPLY_CLOSE || !http_conn_discardable(c) || c->server->stopping)
        c->keep_alive = false;
    if (!c->keep_alive)
        append(h, "Connection: close\r\n");
    else if (http10)
        append(h, "Connection: keep-alive\r\n");
    if (r->head.method == HTTP_M_HEAD)
        r->framing = REPLY_BODYLESS;
    r->started = true;
}

void http_reply(struct http_request *req, int status, const char *content_type, const void *data, size_t len)
{
    if (is_live(req) && !req->ended) {
        if (req->started) {
            log_warn("http", "%s %s: a second reply: aborted", http_method_name(req), http_path(req));
            http_abort(req);
            return;
        }
        struct head_text h;
        reply_head(req, &h, status, content_type, (int64_t)len);
        struct iovec iov[4] = {{h.text, h.len},
                               {req->extra, req->extra_len},
                               {(void *)(uintptr_t) "\r\n", 2},
                               {(void *)(uintptr_t)data, req->framing == REPLY_BODYLESS ? 0 : len}};
        req->left = 0;
        (void)http_conn_send(req->conn, iov, 4); /* on failure the connection is DEAD, which tells the rest */
    }
    finish(req);
}

void http_reply_json(struct http_request *req, int status, json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
    json_decref(json);
    if (text)
        http_reply(req, status, "application/json", text, strlen(text));
    else
        http_reply(req, 500, "application/json", "{\"error\":\"out of memory\"}", 25);
    free(text);
}

/* {"error":TEXT} into buf. Text may hold any bytes: what is no printable ASCII becomes '?', so that no one has to care what a stranger
 * put into a path. */
static size_t error_json(char *buf, size_t size, const char *text)
{
    size_t n = (size_t)snprintf(buf, size, "{\"error\":\"");
    for (; *text && n + 4 < size; text++) {
        if (*text == '"' || *text == '\\')
            buf[n++] = '\\';
        buf[n++] = *text < 0x20 || *text > 0x7e ? '?' : *text;
    }
    buf[n++] = '"';
    buf[n++] = '}';
    return n;
}

void http_reply_error(struct http_request *req, int status, const char *fmt, ...)
{
    char text[501], json[1100];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    size_t n = error_json(json, sizeof json, text);
    http_reply(req, status, "application/json", json, n);
}

void http_reply_refusal(struct http_conn *c, int status, const char *reason)
{
    struct head_text h;
    char json[300];
    size_t n = error_json(json, sizeof json, reason);
    common_head(&h, c->server, status, "application/json");
    append(&h, "Content-Length: %zu\r\nConnection: close\r\n\r\n", n);
    struct iovec iov[2] = {{h.text, h.len}, {json, n}};
    (void)http_conn_send(c, iov, 2); /* on failure the connection is DEAD, which tells the rest */
}

int http_start(struct http_request *req, int status, const char *content_type, int64_t content_length)
{
    if (!is_live(req))
        return -EPIPE;
    if (req->started || req->ended)
        return -EALREADY;
    struct head_text h;
    reply_head(req, &h, status, content_type, content_length);
    /* Queued, to leave with the first bytes of the body; if none come, when the loop gets its turn. */
    struct http_conn *c = req->conn;
    int r = http_conn_queue(c, h.text, h.len);
    if (!r)
        r = http_conn_queue(c, req->extra, req->extra_len);
    if (!r)
        r = http_conn_queue(c, "\r\n", 2);
    if (!r && !c->processing)
        http_conn_kick(c);
    return r;
}

/* May len bytes be written now? 1: yes, 0: there is nothing to write (HEAD), or an error. */
static int check_write(struct http_request *r, size_t len)
{
    if (!is_live(r) || r->ended)
        return -EPIPE;
    if (!r->started)
        return -EINVAL;
    if (r->framing == REPLY_LENGTH) {
        if (len > r->left) {
            log_warn("http", "%s %s: more bytes than announced: aborted", http_method_name(r), http_path(r));
            http_conn_fail(r->conn, HTTP_ABORTED, true);
            return -EMSGSIZE;
        }
        r->left -= len;
    }
    return len && r->framing != REPLY_BODYLESS;
}

int http_write(struct http_request *req, const void *data, size_t len)
{
    int ok = check_write(req, len);
    if (ok <= 0)
        return ok;
    struct iovec body = {(void *)(uintptr_t)data, len};
    if (req->framing != REPLY_CHUNKED)
        return http_conn_send(req->conn, &body, 1);
    char size[24];
    struct iovec iov[3] = {{size, (size_t)snprintf(size, sizeof size, "%zx\r\n", len)}, body, {(void *)(uintptr_t) "\r\n", 2}};
    return http_conn_send(req->conn, iov, 3);
}

/* Around what is put into the output buffer by other means than http_conn_send. */
static int chunk_head(struct http_request *r, size_t len)
{
    char size[24];
    if (r->framing != REPLY_CHUNKED)
        return 0;
    return http_conn_queue(r->conn, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", len));
}

static int chunk_tail(struct http_request *r)
{
    int e = http_conn_queue(r->conn, "\r\n", r->framing == REPLY_CHUNKED ? 2 : 0);
    return e < 0 ? e : http_conn_push(r->conn);
}

static int out_of_memory(struct http_request *r)
{
    http_conn_fail(r->conn, HTTP_ABORTED, true);
    return -ENOMEM;
}

int http_write_evbuffer(struct http_request *req, struct evbuffer *buf)
{
    size_t len = evbuffer_get_length(buf);
    int ok = check_write(req, len);
    if (ok <= 0) {
        evbuffer_drain(buf, len);
        return ok;
    }
    int r = chunk_head(req, len);
    if (r < 0) {
        evbuffer_drain(buf, len);
        return r;
    }
    if (evbuffer_add_buffer(req->conn->out, buf) < 0)
        return out_of_memory(req);
    return chunk_tail(req);
}

static int write_small_file(struct http_request *req, int fd, off_t off, size_t len)
{
    char buf[SMALL_FILE];
    size_t got = 0;
    while (got < len) {
        ssize_t n = pread(fd, buf + got, len - got, off + (off_t)got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            int e = n < 0 ? errno : ENODATA;
            if (is_live(req))
                http_conn_fail(req->conn, HTTP_ABORTED, true);
            return -e;
        }
        got += (size_t)n;
    }
    return http_write(req, buf, len);
}

int http_write_file(struct http_request *req, int fd, off_t off, size_t len)
{
    if (len <= SMALL_FILE && is_live(req) && req->framing != REPLY_BODYLESS)
        return write_small_file(req, fd, off, len);
    int ok = check_write(req, len);
    if (ok <= 0)
        return ok;
    struct http_conn *c = req->conn;
    int r = chunk_head(req, len);
    if (r < 0)
        return r;
    int dup = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (dup < 0) {
        r = -errno;
        http_conn_fail(c, HTTP_ABORTED, true);
        return r;
    }
    struct evbuffer_file_segment *seg =
        evbuffer_file_segment_new(dup, off, (ev_off_t)len, EVBUF_FS_CLOSE_ON_FREE | EVBUF_FS_DISABLE_LOCKING);
    if (!seg) {
        close(dup);
        return out_of_memory(req);
    }
    int added = evbuffer_add_file_segment(c->out, seg, 0, (ev_off_t)len);
    evbuffer_file_segment_free(seg); /* the buffer holds its own reference, or the descriptor is closed here */
    return added < 0 ? out_of_memory(req) : chunk_tail(req);
}

size_t http_pending(const struct http_request *req)
{
    return is_live(req) ? http_conn_pending(req->conn) : 0;
}

void http_set_drain(struct http_request *req, size_t low_water, void (*cb)(struct http_request *req, void *arg), void *arg)
{
    req->low_water = low_water;
    req->on_drain = cb;
    req->drain_arg = arg;
    req->above_low = cb && http_pending(req) > low_water;
}

void http_set_closed(struct http_request *req, void (*cb)(struct http_request *req, enum http_closed why, void *arg), void *arg)
{
    req->on_closed = cb;
    req->closed_arg = arg;
}

void http_end(struct http_request *req)
{
    if (is_live(req) && !req->ended) {
        if (!req->started || (req->framing == REPLY_LENGTH && req->left)) {
            log_warn("http", "%s %s: the reply ended before it was complete: aborted", http_method_name(req), http_path(req));
            http_abort(req);
            return;
        }
        struct iovec last = {(void *)(uintptr_t) "0\r\n\r\n", 5};
        if (req->framing == REPLY_CHUNKED)
            (void)http_conn_send(req->conn, &last, 1); /* on failure the connection is DEAD, which tells the rest */
        else
            (void)http_conn_push(req->conn);
    }
    finish(req);
}

void http_abort(struct http_request *req)
{
    if (is_live(req))
        http_conn_fail(req->conn, HTTP_ABORTED, req->started);
    finish(req);
}
