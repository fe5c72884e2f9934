#include "lib/http/client.h"
#include "lib/util.h"

#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <strings.h>

#define READ_BUFFER (256l << 10) /* of downloads and uploads */
#define SMALL_BUFFER (16l << 10) /* of all else: libcurl allocates it anew for each request, and a big one is mapped and unmapped each time */
#define ERROR_BODY_MAX (16u << 10) /* of a download's answer that is not 2xx */
#define POLL_MS 1000
#define POLL_FLAG_MS 100 /* with an abort flag that nobody wakes us for */

/* A multi handle with one easy handle in it: libcurl's easy interface does the same inside, but can neither be woken by another thread
 * nor count time-outs finer than seconds. */
struct http_client {
    CURL *easy;
    CURLM *multi;
    struct curl_slist *auth; /* Authorization header, or NULL */
    char *ca_file, *cert_file, *key_file; /* or NULL */
    unsigned connect_ms, idle_ms, total_ms;
    size_t max_body;
    const atomic_int *abort_flag;
    atomic_bool aborted;
    char curl_error[CURL_ERROR_SIZE];
    /* the current request */
    const char *method, *url;
    struct err *e;
    struct http_response *r;
    http_on_data on_data; /* download */
    void *ctx;
    void (*progress)(void *, uint64_t);
    int (*on_idle)(void *);
    void *idle_ctx;
    int failed; /* code that a callback ended the transfer with */
    uint64_t last_ns;
    int fd; /* upload */
    off_t off;
    uint64_t len, sent;
};

static void global_init(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

void http_client_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, global_init);
}

struct http_client *http_client_new(const struct http_client_options *o)
{
    http_client_init();
    struct http_client *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->easy = curl_easy_init();
    c->multi = curl_multi_init();
    c->ca_file = o->ca_file ? strdup(o->ca_file) : NULL;
    c->cert_file = o->cert_file ? strdup(o->cert_file) : NULL;
    c->key_file = o->key_file ? strdup(o->key_file) : NULL;
    _cleanup_free_ char *bearer = NULL;
    bool ok = c->easy && c->multi && !c->ca_file == !o->ca_file && !c->cert_file == !o->cert_file && !c->key_file == !o->key_file;
    if (ok && o->token)
        ok = asprintf(&bearer, "Bearer %s", o->token) > 0 && !http_client_set_authorization(c, bearer);
    if (!ok) {
        http_client_free(c);
        return NULL;
    }
    c->max_body = o->max_body ? o->max_body : HTTP_CLIENT_BODY_MAX;
    c->abort_flag = o->abort;
    http_client_set_timeouts(c, o->connect_ms, o->idle_ms, o->total_ms);
    return c;
}

void http_client_free(struct http_client *c)
{
    if (!c)
        return;
    curl_easy_cleanup(c->easy);
    curl_multi_cleanup(c->multi);
    curl_slist_free_all(c->auth);
    free(c->ca_file);
    free(c->cert_file);
    free(c->key_file);
    free(c);
}

int http_client_set_authorization(struct http_client *c, const char *value)
{
    _cleanup_free_ char *line = NULL;
    struct curl_slist *list = NULL;
    if (value && (asprintf(&line, "Authorization: %s", value) < 0 || !(list = curl_slist_append(NULL, line))))
        return -ENOMEM;
    curl_slist_free_all(c->auth);
    c->auth = list;
    return 0;
}

void http_client_set_timeouts(struct http_client *c, unsigned connect_ms, unsigned idle_ms, unsigned total_ms)
{
    c->connect_ms = connect_ms ? connect_ms : 5000;
    c->idle_ms = idle_ms ? idle_ms : 30000;
    c->total_ms = total_ms;
}

void http_client_on_idle(struct http_client *c, int (*on_idle)(void *ctx), void *ctx)
{
    c->on_idle = on_idle;
    c->idle_ctx = ctx;
}

void http_client_wake(struct http_client *c)
{
    curl_multi_wakeup(c->multi);
}

void http_client_abort(struct http_client *c)
{
    atomic_store(&c->aborted, true);
    curl_multi_wakeup(c->multi);
}

void http_response_free(struct http_response *r)
{
    free(r->content_type);
    free(r->body);
    *r = (struct http_response){0};
}

static int keep_body(struct http_client *c, const char *p, size_t n, size_t max)
{
    struct http_response *r = c->r;
    if (n > max - r->body_len)
        return -EMSGSIZE;
    char *body = realloc(r->body, r->body_len + n + 1);
    if (!body)
        return -ENOMEM;
    r->body = body;
    memcpy(body + r->body_len, p, n);
    r->body_len += n;
    body[r->body_len] = 0;
    return 0;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct http_client *c = arg;
    long status = 0;
    n *= size;
    c->last_ns = now_ns();
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    if (c->on_data && status / 100 == 2) {
        c->failed = c->on_data(c->ctx, p, n);
        c->last_ns = now_ns(); /* time spent by the receiver is not the server's silence */
    } else if (c->on_data) /* only the beginning of an error's text is wanted */
        c->failed = keep_body(c, p, MIN(n, ERROR_BODY_MAX - c->r->body_len), ERROR_BODY_MAX);
    else
        c->failed = keep_body(c, p, n, c->max_body);
    return c->failed ? 0 : n; /* an empty piece never comes */
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    struct http_client *c = arg;
    (void)p;
    c->last_ns = now_ns();
    return size * n;
}

static size_t on_upload(char *p, size_t size, size_t n, void *arg)
{
    struct http_client *c = arg;
    size_t want = (size_t)MIN((uint64_t)size * n, c->len - c->sent);
    ssize_t got = 0;
    c->last_ns = now_ns();
    if (want)
        do
            got = pread(c->fd, p, want, c->off + (off_t)c->sent);
        while (got < 0 && errno == EINTR);
    if (got < 0 || (want && !got)) {
        c->failed = got < 0 ? -errno : -ENODATA;
        return CURL_READFUNC_ABORT;
    }
    c->sent += (uint64_t)got;
    if (c->progress)
        c->progress(c->ctx, c->sent);
    return (size_t)got;
}

/* libcurl starts over when a kept connection turns out to be closed. */
static int on_seek(void *arg, curl_off_t offset, int origin)
{
    struct http_client *c = arg;
    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > c->len)
        return CURL_SEEKFUNC_FAIL;
    c->sent = (uint64_t)offset;
    return CURL_SEEKFUNC_OK;
}

int http_client_code(int curlcode)
{
    switch ((CURLcode)curlcode) {
    case CURLE_URL_MALFORMAT:
        return -EINVAL;
    case CURLE_COULDNT_RESOLVE_HOST:
        return -EHOSTUNREACH;
    case CURLE_COULDNT_CONNECT:
        return -ECONNREFUSED;
    case CURLE_OPERATION_TIMEDOUT:
        return -ETIMEDOUT;
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
        return -ECONNRESET;
    case CURLE_UNSUPPORTED_PROTOCOL: /* the URL's was looked at before: an answer that would be HTTP/0.9 */
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING:
        return -EPROTO;
    case CURLE_OUT_OF_MEMORY:
        return -ENOMEM;
    default:
        return -EIO;
    }
}

static int fail(struct http_client *c, int code, const char *text)
{
    return err_set(c->e, code, "%s %s: %s", c->method, c->url, text);
}

static int curl_failed(struct http_client *c, CURLcode k)
{
    if (c->failed == -EMSGSIZE && !c->on_data)
        return err_set(c->e, -EMSGSIZE, "%s %s: the answer is larger than %zu bytes", c->method, c->url, c->max_body);
    if (c->failed && c->on_data) {
        if (c->e && c->e->code == c->failed)
            return err_wrap(c->e, "%s %s", c->method, c->url);
        return fail(c, c->failed, "ended by the receiver");
    }
    if (c->failed)
        return err_errno(c->e, -c->failed, "%s %s", c->method, c->url);
    return fail(c, http_client_code((int)k), c->curl_error[0] ? c->curl_error : curl_easy_strerror(k));
}

static bool is_aborted(struct http_client *c)
{
    if (c->abort_flag && atomic_load(c->abort_flag))
        return true;
    return atomic_exchange(&c->aborted, false);
}

/* Milliseconds to wait for the sockets; -1: the server was silent for too long. */
static int wait_ms(struct http_client *c)
{
    uint64_t silent = (now_ns() - c->last_ns) / 1000000u;
    if (silent >= c->idle_ms)
        return -1;
    uint64_t left = c->idle_ms - silent, most = c->abort_flag ? POLL_FLAG_MS : POLL_MS;
    return (int)(MIN(left, most));
}

/* Libcurl calls nothing of ours while it sends a large body without progress of the read function, or while it connects; bytes
 * counted by it are progress too. */
static void note_progress(struct http_client *c, curl_off_t *known)
{
    curl_off_t up = 0, down = 0;
    curl_easy_getinfo(c->easy, CURLINFO_SIZE_UPLOAD_T, &up);
    curl_easy_getinfo(c->easy, CURLINFO_SIZE_DOWNLOAD_T, &down);
    if (up + down != *known)
        c->last_ns = now_ns();
    *known = up + down;
}

static int drive(struct http_client *c)
{
    int running = 1, ms, left;
    curl_off_t known = 0;
    c->last_ns = now_ns();
    while (running) {
        if (is_aborted(c))
            return fail(c, -ECANCELED, "cancelled");
        CURLMcode m = curl_multi_perform(c->multi, &running);
        if (m != CURLM_OK)
            return fail(c, m == CURLM_OUT_OF_MEMORY ? -ENOMEM : -EIO, curl_multi_strerror(m));
        if (!running)
            break;
        note_progress(c, &known);
        ms = wait_ms(c);
        if (ms < 0)
            return err_set(c->e, -ETIMEDOUT, "%s %s: nothing came for %u ms", c->method, c->url, c->idle_ms);
        if (c->on_idle && c->on_data) {
            int most = c->on_idle(c->idle_ctx);
            ms = most >= 0 && most < ms ? most : ms;
        }
        m = curl_multi_poll(c->multi, NULL, 0, ms, NULL);
        if (m != CURLM_OK)
            return fail(c, -EIO, curl_multi_strerror(m));
    }
    for (CURLMsg *msg; (msg = curl_multi_info_read(c->multi, &left));)
        if (msg->msg == CURLMSG_DONE && msg->data.result != CURLE_OK)
            return curl_failed(c, msg->data.result);
    return 0;
}

/* bulk: a download or an upload. */
static void prepare(struct http_client *c, const char *method, const char *url, struct curl_slist *headers, bool bulk)
{
    CURL *h = c->easy;
    c->method = method;
    c->url = url;
    c->failed = 0;
    c->curl_error[0] = 0;
    curl_easy_reset(h); /* keeps the connection */
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(h, CURLOPT_PROXY, "");
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1l);
    curl_easy_setopt(h, CURLOPT_TCP_NODELAY, 1l);
    curl_easy_setopt(h, CURLOPT_TCP_KEEPALIVE, 1l);
    curl_easy_setopt(h, CURLOPT_USERAGENT, "edgefs/" EDGEFS_VERSION);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, c->curl_error);
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)c->connect_ms);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)c->total_ms);
    curl_easy_setopt(h, CURLOPT_BUFFERSIZE, bulk ? READ_BUFFER : SMALL_BUFFER);
    curl_easy_setopt(h, CURLOPT_UPLOAD_BUFFERSIZE, bulk ? READ_BUFFER : SMALL_BUFFER);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, c);
    curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(h, CURLOPT_HEADERDATA, c);
    if (c->ca_file)
        curl_easy_setopt(h, CURLOPT_CAINFO, c->ca_file);
    if (c->cert_file)
        curl_easy_setopt(h, CURLOPT_SSLCERT, c->cert_file);
    if (c->key_file)
        curl_easy_setopt(h, CURLOPT_SSLKEY, c->key_file);
    if (!strcmp(method, "HEAD"))
        curl_easy_setopt(h, CURLOPT_NOBODY, 1l);
    else if (strcmp(method, "GET") != 0)
        curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, method);
}

/* Runs what is prepared; fills c->r. */
static int perform(struct http_client *c)
{
    struct http_response *r = c->r;
    if (strncasecmp(c->url, "http://", 7) != 0 && strncasecmp(c->url, "https://", 8) != 0)
        return fail(c, -EINVAL, "not an http or https URL");
    CURLMcode m = curl_multi_add_handle(c->multi, c->easy);
    if (m != CURLM_OK)
        return fail(c, -EIO, curl_multi_strerror(m));
    int code = drive(c);
    long status = 0;
    char *type = NULL;
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(c->easy, CURLINFO_CONTENT_TYPE, &type);
    r->status = (int)status;
    if (!code && type && !(r->content_type = strdup(type)))
        code = fail(c, -ENOMEM, "out of memory");
    if (!code && !r->body && !(r->body = calloc(1, 1)))
        code = fail(c, -ENOMEM, "out of memory");
    curl_multi_remove_handle(c->multi, c->easy);
    return code;
}

/* The token's line and the content type; *list is to be freed with free_headers. */
static int make_headers(struct http_client *c, const char *content_type, struct curl_slist **list)
{
    char line[256];
    snprintf(line, sizeof line, "Content-Type: %s", content_type);
    *list = curl_slist_append(NULL, line);
    if (!*list)
        return -ENOMEM;
    if (c->auth && !curl_slist_append(*list, c->auth->data)) {
        curl_slist_free_all(*list);
        return -ENOMEM;
    }
    return 0;
}

int http_client_request(struct http_client *c, const char *method, const char *url, const char *content_type, const void *body,
                        size_t len, struct http_response *r, struct err *e)
{
    struct curl_slist *headers = NULL;
    *r = (struct http_response){0};
    c->r = r;
    c->e = e;
    c->on_data = NULL;
    if (body && make_headers(c, content_type ? content_type : "application/json", &headers) < 0)
        return err_set(e, -ENOMEM, "%s %s: out of memory", method, url);
    prepare(c, method, url, headers ? headers : c->auth, false);
    if (body) {
        curl_easy_setopt(c->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)len);
        curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, body);
    } else if (!strcmp(method, "POST") || !strcmp(method, "PUT")) {
        /* Says "Content-Length: 0", which servers are entitled to. */
        curl_easy_setopt(c->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)0);
        curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, "");
    }
    int code = perform(c);
    if (code)
        http_response_free(r);
    curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    return code;
}

const char *http_client_header(struct http_client *c, const char *name)
{
    struct curl_header *h = NULL;
    return curl_easy_header(c->easy, name, 0, CURLH_HEADER, -1, &h) == CURLHE_OK ? h->value : NULL;
}

int http_response_check(const struct http_response *r, const char *method, const char *url, struct err *e)
{
    if (r->status / 100 == 2)
        return 0;
    json_t *j = r->body ? json_loadb(r->body, r->body_len, JSON_REJECT_DUPLICATES, NULL) : NULL;
    const char *text = json_string_value(json_object_get(j, "error"));
    int code = err_set(e, ERR_REMOTE, "%s %s: %d%s%s", method, url, r->status, text ? ": " : "", text ? text : "");
    json_decref(j);
    return code;
}

int http_client_stream(struct http_client *c, const char *method, const char *url, const char *content_type, const void *body, size_t len,
                       http_on_data on_data, void *ctx, int *status, struct err *e)
{
    struct http_response r = {0};
    struct curl_slist *headers = NULL;
    if (body && make_headers(c, content_type, &headers) < 0)
        return err_set(e, -ENOMEM, "%s %s: out of memory", method, url);
    c->r = &r;
    c->e = e;
    c->on_data = on_data;
    c->ctx = ctx;
    if (e)
        e->code = 0; /* so that it shows whether on_data said why */
    prepare(c, method, url, headers ? headers : c->auth, true);
    if (body) {
        curl_easy_setopt(c->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)len);
        curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, body);
    }
    int code = perform(c);
    if (!code)
        code = http_response_check(&r, method, url, e);
    if (status)
        *status = r.status;
    http_response_free(&r);
    c->r = NULL;
    curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    return code;
}

int http_client_download(struct http_client *c, const char *url, http_on_data on_data, void *ctx, int *status, struct err *e)
{
    return http_client_stream(c, "GET", url, NULL, NULL, 0, on_data, ctx, status, e);
}

int http_client_upload(struct http_client *c, const char *method, const char *url, int fd, off_t off, uint64_t len,
                       void (*progress)(void *ctx, uint64_t sent), void *ctx, struct http_response *r, struct err *e)
{
    struct curl_slist *headers = NULL;
    *r = (struct http_response){0};
    c->r = r;
    c->e = e;
    c->on_data = NULL;
    c->progress = progress;
    c->ctx = ctx;
    c->fd = fd;
    c->off = off;
    c->len = len;
    c->sent = 0;
    if (len > INT64_MAX || make_headers(c, "application/octet-stream", &headers) < 0)
        return err_set(e, len > INT64_MAX ? -EINVAL : -ENOMEM, "%s %s: cannot send", method, url);
    prepare(c, method, url, headers, true);
    curl_easy_setopt(c->easy, CURLOPT_UPLOAD, 1l);
    curl_easy_setopt(c->easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)len);
    curl_easy_setopt(c->easy, CURLOPT_READFUNCTION, on_upload);
    curl_easy_setopt(c->easy, CURLOPT_READDATA, c);
    curl_easy_setopt(c->easy, CURLOPT_SEEKFUNCTION, on_seek);
    curl_easy_setopt(c->easy, CURLOPT_SEEKDATA, c);
    int code = perform(c);
    if (code)
        http_response_free(r);
    c->progress = NULL;
    curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    return code;
}
