#include "http-proxy/engine.h"
#include "http-proxy/health.h"

#include <errno.h>
#include <stdio.h>

static const char *reason_of(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 400:
        return "Bad Request";
    case 405:
        return "Method Not Allowed";
    case 408:
        return "Request Timeout";
    case 413:
        return "Content Too Large";
    case 414:
        return "URI Too Long";
    case 417:
        return "Expectation Failed";
    case 431:
        return "Request Header Fields Too Large";
    case 501:
        return "Not Implemented";
    case 502:
        return "Bad Gateway";
    case 503:
        return "Service Unavailable";
    case 504:
        return "Gateway Timeout";
    case 505:
        return "HTTP Version Not Supported";
    case 508:
        return "Loop Detected";
    default:
        return "Error";
    }
}

static void queue(struct exchange *ex, int status, const char *type, const char *body, size_t len)
{
    static struct extra x;
    struct flow *f = &ex->down;
    struct buf *b = buf_get(BUF_SMALL);
    if (!b) {
        client_close(ex->c, true);
        return;
    }
    extra_clear(&x);
    if (ex->decision.began_ms)
        decide_response(ex->app->decide, &ex->decision, NULL, (struct position){0}, engine_now_us() - ex->began_us, &x);
    /* The rest of a body that nobody reads would be taken for the next request. */
    ex->want_close = ex->want_close || !ex->up.body.done;
    bool head_only = slice_equal(ex->req.method, SLICE("HEAD"));
    int n = snprintf(b->data, b->size, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nCache-Control: no-store\r\n%.*s%s\r\n", status,
                     reason_of(status), type, len, (int)x.n, x.buf,
                     ex->want_close          ? "Connection: close\r\n"
                     : !ex->req.minor        ? "Connection: keep-alive\r\n"
                                             : "");
    flow_clear(f);
    f->head = b;
    f->head_len = (uint32_t)n;
    if (!head_only && len <= b->size - (size_t)n) {
        memcpy(b->data + n, body, len);
        f->head_len += (uint32_t)len;
    } else if (!head_only) {
        f->buf = buf_get(BUF_LARGE);
        f->end = f->len = f->buf ? (uint32_t)MIN(len, (size_t)f->buf->size) : 0;
        if (f->buf)
            memcpy(f->buf->data, body, f->end);
        ex->want_close = ex->want_close || f->end < len;
    }
    ex->status = status;
    ex->state = EX_ANSWER;
    ex->response_sent = true;
    exchange_pump(ex);
}

void answer_body(struct exchange *ex, int status, const char *type, const char *body, size_t len)
{
    exchange_drop_upstream(ex, true);
    queue(ex, status, type, body, len);
}

void answer(struct exchange *ex, int status, const char *text)
{
    char body[256];
    if (ex->outcome == PROXY_OUTCOME_LOCAL || ex->outcome == PROXY_OUTCOME_FORWARDED)
        ex->outcome = status < 500 ? PROXY_OUTCOME_BAD_REQUEST : status == 503 ? PROXY_OUTCOME_REFUSED : PROXY_OUTCOME_UPSTREAM_ERROR;
    int n = snprintf(body, sizeof body, "%d %s: %s\n", status, reason_of(status), text ? text : "try again later");
    answer_body(ex, status, "text/plain; charset=utf-8", body, (size_t)MIN(n, (int)sizeof body - 1));
}

/* Numbers about everybody's requests are for this machine, and for whom the configuration trusts. */
static bool may_see_metrics(const struct exchange *ex)
{
    const struct sockaddr_storage *p = &ex->c->peer;
    const struct sockaddr_in *v4 = (const void *)p;
    const struct sockaddr_in6 *v6 = (const void *)p;
    bool loopback = (p->ss_family == AF_INET && ntohl(v4->sin_addr.s_addr) >> 24 == 127) ||
                    (p->ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr));
    return ex->app->c->metrics && (loopback || trust_has(ex->app->trust, p));
}

bool answer_own(struct exchange *ex)
{
    struct engine *e = ex->c->e;
    bool health = slice_equal(ex->req.path, SLICE("/edgefs/health"));
    bool metrics = slice_equal(ex->req.path, SLICE("/edgefs/metrics")) && may_see_metrics(ex);
    if (!health && !metrics)
        return false;
    ex->outcome = PROXY_OUTCOME_OWN;
    if (!slice_equal(ex->req.method, SLICE("GET")) && !slice_equal(ex->req.method, SLICE("HEAD"))) {
        answer(ex, 405, "GET and HEAD only");
        return true;
    }
    int status = 200;
    size_t len = 0;
    char *body;
    e->gauges->buffers = buf_in_use();
    e->gauges->writes = position_writes(e->positions);
    if (health)
        body = health_text(ex->app->of->config, e->positions, e->degrade, e->draining, &status, &len);
    else
        body = proxy_metrics_text(e->metrics, position_state(e->positions), degrade_level(e->degrade), &len);
    if (body)
        answer_body(ex, status, health ? "application/json" : "text/plain; version=0.0.4", body, len);
    else
        answer(ex, 503, "out of memory");
    free(body);
    return true;
}

void answer_bad_request(struct client *c, int status, const char *reason)
{
    char text[512];
    struct proxy_exchange x = {.app = c->l->app->c, .peer = (const struct sockaddr *)&c->peer, .status = status, .outcome = PROXY_OUTCOME_BAD_REQUEST};
    int len = snprintf(NULL, 0, "%d %s: %s\n", status, reason_of(status), reason);
    int n = snprintf(text, sizeof text,
                     "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%d %s: %s\n", status,
                     reason_of(status), len, status, reason_of(status), reason);
    x.bytes_in = c->in ? c->in_len - c->in_pos : 0;
    ssize_t sent = transport_send(&c->t, &(struct iovec){text, (size_t)n}, 1, false); /* a courtesy: one attempt */
    x.bytes_out = sent > 0 ? (uint64_t)sent : 0;
    proxy_metrics_record(c->e->metrics, &x);
    if (c->l->app->log)
        accesslog_write(c->l->app->log, &x);
    client_finish(c);
}
