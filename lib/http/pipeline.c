#include "lib/http/pipeline.h"

#include "lib/http/client.h"
#include "lib/util.h"
#include <curl/curl.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <strings.h>

#define URL_MAX 512u
#define BODY_MAX 4096u

struct http_pipeline {
    char *authorization; /* header line with its end, or "" */
    unsigned connect_ms, answer_ms;
    CURL *easy; /* the connection; NULL: none */
    char url[URL_MAX];
    char *head; /* of each request, up to the length of its body */
    unsigned waiting; /* requests without an answer … */
    uint64_t since_ns; /* … and when the first of them was sent, or the last answer came */
    char in[2048]; /* of answers */
    size_t in_len;
};

struct http_pipeline *http_pipeline_new(const char *token, unsigned connect_ms, unsigned answer_ms)
{
    http_client_init();
    struct http_pipeline *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->connect_ms = connect_ms;
    p->answer_ms = answer_ms;
    if (asprintf(&p->authorization, token ? "Authorization: Bearer %s\r\n" : "", token) < 0) {
        free(p);
        return NULL;
    }
    return p;
}

static void disconnect(struct http_pipeline *p)
{
    curl_easy_cleanup(p->easy);
    p->easy = NULL;
    free(p->head);
    p->head = NULL;
    p->waiting = 0;
    p->in_len = 0;
}

void http_pipeline_free(struct http_pipeline *p)
{
    if (!p)
        return;
    disconnect(p);
    free(p->authorization);
    free(p);
}

static int fail(struct http_pipeline *p, struct err *e, int code, const char *why)
{
    disconnect(p);
    return err_set(e, code, "POST %s: %s", p->url, why);
}

/* What each request begins with. -EINVAL: not a URL. */
static int make_head(struct http_pipeline *p)
{
    char *host = NULL, *port = NULL, *path = NULL;
    CURLU *u = curl_url();
    int rc = -EINVAL;
    if (u && !curl_url_set(u, CURLUPART_URL, p->url, 0) && !curl_url_get(u, CURLUPART_HOST, &host, 0) && !curl_url_get(u, CURLUPART_PATH, &path, 0)) {
        (void)curl_url_get(u, CURLUPART_PORT, &port, 0); /* there is none in it: the scheme's */
        rc = asprintf(&p->head, "POST %s HTTP/1.1\r\nHost: %s%s%s\r\nUser-Agent: edgefs/" EDGEFS_VERSION "\r\n%sContent-Type: application/json\r\nContent-Length: ", path, host,
                      port ? ":" : "", port ? port : "", p->authorization) < 0 ? -ENOMEM : 0;
    }
    curl_free(host);
    curl_free(port);
    curl_free(path);
    curl_url_cleanup(u);
    return rc;
}

static int open_connection(struct http_pipeline *p, struct err *e)
{
    char text[CURL_ERROR_SIZE] = "";
    if (strncasecmp(p->url, "http://", 7) != 0 && strncasecmp(p->url, "https://", 8) != 0)
        return fail(p, e, -EINVAL, "not an http or https URL");
    CURL *h = p->easy = curl_easy_init();
    int rc = h ? make_head(p) : -ENOMEM;
    if (rc) {
        p->head = NULL;
        return fail(p, e, rc, rc == -ENOMEM ? "out of memory" : "not a URL");
    }
    curl_easy_setopt(h, CURLOPT_URL, p->url);
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(h, CURLOPT_PROXY, "");
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1l);
    curl_easy_setopt(h, CURLOPT_TCP_NODELAY, 1l);
    curl_easy_setopt(h, CURLOPT_TCP_KEEPALIVE, 1l);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, text);
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)p->connect_ms);
    curl_easy_setopt(h, CURLOPT_CONNECT_ONLY, 1l);
    CURLcode k = curl_easy_perform(h);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, NULL);
    return k == CURLE_OK ? 0 : fail(p, e, http_client_code((int)k), *text ? text : curl_easy_strerror(k));
}

static bool ready(struct http_pipeline *p, short events, unsigned ms)
{
    curl_socket_t fd = CURL_SOCKET_BAD;
    curl_easy_getinfo(p->easy, CURLINFO_ACTIVESOCKET, &fd);
    struct pollfd f = {.fd = fd, .events = events};
    return poll(&f, 1, (int)ms) > 0;
}

static int send_all(struct http_pipeline *p, const char *data, size_t n, struct err *e)
{
    while (n) {
        size_t k = 0;
        CURLcode rc = curl_easy_send(p->easy, data, n, &k);
        if (rc == CURLE_AGAIN && !ready(p, POLLOUT, p->connect_ms))
            return fail(p, e, -ETIMEDOUT, "the server reads nothing");
        if (rc != CURLE_OK && rc != CURLE_AGAIN)
            return fail(p, e, http_client_code((int)rc), curl_easy_strerror(rc));
        data += k;
        n -= k;
    }
    return 0;
}

/* The answers that are whole in the buffer. A 204 has no body (RFC 9110 §15.3.5). */
static int take_answers(struct http_pipeline *p, struct err *e)
{
    const char *end;
    while ((end = memmem(p->in, p->in_len, "\r\n\r\n", 4))) {
        size_t n = (size_t)(end + 4 - p->in);
        if (!p->waiting || n < 12 || memcmp(p->in, "HTTP/1.", 7) != 0)
            return fail(p, e, -EPROTO, "what came is no answer");
        if (memcmp(p->in + 8, " 204", 4) != 0) {
            char line[64];
            snprintf(line, sizeof line, "%.*s", (int)strcspn(p->in, "\r"), p->in);
            return fail(p, e, ERR_REMOTE, line);
        }
        p->waiting--;
        p->since_ns = now_ns();
        memmove(p->in, p->in + n, p->in_len -= n);
    }
    return p->in_len == sizeof p->in ? fail(p, e, -EPROTO, "the head of an answer is too long") : 0;
}

int http_pipeline_check(struct http_pipeline *p, struct err *e)
{
    while (p->easy) {
        size_t room = sizeof p->in - p->in_len, k = 0;
        CURLcode rc = curl_easy_recv(p->easy, p->in + p->in_len, room, &k);
        if (rc == CURLE_AGAIN)
            break;
        if (rc != CURLE_OK || !k)
            return fail(p, e, -ECONNRESET, "the server has closed the connection");
        p->in_len += k;
        int failed = take_answers(p, e);
        if (failed || k < room)
            return failed;
    }
    return p->waiting && now_ns() - p->since_ns > (uint64_t)p->answer_ms * 1000000u ? fail(p, e, -ETIMEDOUT, "no answer came") : 0;
}

int http_pipeline_wait(struct http_pipeline *p, struct err *e)
{
    int rc;
    while (!(rc = http_pipeline_check(p, e)) && p->waiting)
        (void)ready(p, POLLIN, p->answer_ms);
    return rc;
}

int http_pipeline_post(struct http_pipeline *p, const char *url, const void *body, size_t len, struct err *e)
{
    char request[URL_MAX + 2 * BODY_MAX];
    if (strlen(url) >= sizeof p->url || len > BODY_MAX)
        return err_set(e, -EINVAL, "POST %.200s: too long", url);
    if (strcmp(url, p->url) != 0) {
        disconnect(p);
        snprintf(p->url, sizeof p->url, "%s", url);
    }
    (void)http_pipeline_check(p, NULL); /* a connection that was closed is made anew */
    if (p->waiting >= HTTP_PIPELINE_WAITING_MAX)
        return err_set(e, -EBUSY, "POST %s: %u answers are missing", url, p->waiting);
    int rc = p->easy ? 0 : open_connection(p, e);
    if (rc)
        return rc;
    int n = snprintf(request, sizeof request, "%s%zu\r\n\r\n%.*s", p->head, len, (int)len, (const char *)body);
    if (n < 0 || (size_t)n >= sizeof request)
        return fail(p, e, -EINVAL, "its head is too long");
    rc = send_all(p, request, (size_t)n, e);
    if (!rc && !p->waiting++)
        p->since_ns = now_ns();
    return rc;
}
