#include "ctl/cluster_private.h"
#include "ctl/field.h"
#include "lib/util.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>

#define CONNECT_MS 3000
#define UPLOAD_SILENCE_MS 600000 /* the node checks and installs the database before it answers */

/* ---- connections ------------------------------------------------------------------------------------------- */

static struct http_client *take_client(struct cluster *c, const char *url)
{
    struct http_client *client = NULL;
    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < c->n_idle && !client; i++)
        if (!strcmp(c->idle[i].url, url)) {
            client = c->idle[i].client;
            free(c->idle[i].url);
            c->idle[i] = c->idle[--c->n_idle];
        }
    pthread_mutex_unlock(&c->lock);
    return client ? client : http_client_new(&(struct http_client_options){.token = c->token, .max_body = CLUSTER_JSON_MAX});
}

static void give_client(struct cluster *c, struct http_client *client, const char *url)
{
    char *copy = strdup(url);
    pthread_mutex_lock(&c->lock);
    bool keep = copy && c->n_idle < CLUSTER_CLIENTS_MAX;
    if (keep)
        c->idle[c->n_idle++] = (struct idle_client){client, copy};
    pthread_mutex_unlock(&c->lock);
    if (!keep) {
        free(copy);
        http_client_free(client);
    }
}

void cluster_close_clients(struct cluster *c)
{
    for (int i = 0; i < c->n_idle; i++) {
        http_client_free(c->idle[i].client);
        free(c->idle[i].url);
    }
    c->n_idle = 0;
}

/* ---- errors ------------------------------------------------------------------------------------------------ */

/* The HTTP client says "METHOD URL: cause"; a person wants to know which node, and the cause. Its codes become ours (cluster.h). */
static int translate(const struct request *r, int code, int status, struct err *e)
{
    char text[ERR_TEXT_MAX];
    snprintf(text, sizeof text, "%s", e->text);
    const char *cause = strstr(text, ": ");
    if (cause && strstr(text, r->url))
        cause = strstr(strstr(text, r->url), ": "); /* behind the URL, which may hold "[::1]:20202" but never ": " */
    cause = cause ? cause + 2 : text;
    switch (code) {
    case -EINVAL:
        return err_set(e, ERR_CONFIG, "%s: %s", r->url, cause);
    case ERR_REMOTE:
        return err_set(e, ERR_REMOTE, "%s: %s%s", r->url, cause,
                       status == 401 ? "; give the cluster's token with --token-file FILE" : "");
    case -EPROTO:
    case -EMSGSIZE:
        return err_set(e, ERR_REMOTE, "%s: %s", r->url, cause);
    case -ECONNREFUSED:
        if (!strncmp(cause, "Failed to connect", strlen("Failed to connect")) && strstr(cause, " ms: "))
            cause = strstr(cause, " ms: ") + strlen(" ms: "); /* before that: host and port once more */
        return err_set(e, -EHOSTUNREACH, "%s cannot be reached: %s; is the node running?", r->url, cause);
    case -EHOSTUNREACH:
    case -ETIMEDOUT:
    case -ECONNRESET:
    case -EIO:
        return err_set(e, -EHOSTUNREACH, "%s cannot be reached: %s", r->url, cause);
    default:
        return err_set(e, code, "%s: %s", r->url, cause);
    }
}

/* A status that is not 2xx, with the node's own words. *out stays the error object. */
static int refused(const struct request *r, int status, const json_t *answer, struct err *e)
{
    const char *text = field_text(answer, "error");
    return err_set(e, ERR_REMOTE, "%s: %s (%d)%s", r->url, text ? text : "refused without a reason", status,
                   status == 401 ? "; give the cluster's token with --token-file FILE" : "");
}

/* ---- requests ---------------------------------------------------------------------------------------------- */

static unsigned to_ms(uint64_t ms)
{
    return (unsigned)MIN(ms, (uint64_t)INT_MAX);
}

static char *whole_url(const struct request *r, struct err *e)
{
    char *url = cluster_path("%s%s", r->url, r->path);
    if (!url)
        err_errno(e, ENOMEM, "%s", r->url);
    return url;
}

/* What to make of an answer: JSON object and status. */
static int read_answer(const struct request *r, const struct http_response *answer, int *status, json_t **out, struct err *e)
{
    json_error_t why;
    bool ok = answer->status / 100 == 2;
    *status = answer->status;
    *out = json_loadb(answer->body, answer->body_len, JSON_REJECT_DUPLICATES, &why);
    if (*out && !json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        snprintf(why.text, sizeof why.text, "not an object");
    }
    if (!ok)
        return refused(r, answer->status, *out, e);
    if (*out)
        return 0;
    *status = 0;
    return err_set(e, ERR_REMOTE, "%s: its answer to %s cannot be read: %s; is that an EdgeFS node?", r->url, r->path, why.text);
}

int cluster_ask(struct cluster *c, const struct request *r, int *status, json_t **out, struct err *e)
{
    *status = 0;
    *out = NULL;
    const char *method = r->method ? r->method : "GET";
    unsigned ms = to_ms(r->timeout_ms ? r->timeout_ms : CLUSTER_ANSWER_MS);
    _cleanup_free_ char *url = whole_url(r, e);
    _cleanup_free_ char *body = r->body ? json_dumps(r->body, JSON_COMPACT) : NULL;
    struct http_client *client = url && (body || !r->body) ? take_client(c, r->url) : NULL;
    if (!client)
        return err_errno(e, ENOMEM, "%s", r->url);
    http_client_set_timeouts(client, MIN(CONNECT_MS, ms), ms, ms);
    struct http_response answer;
    int rc = http_client_request(client, method, url, NULL, body, body ? strlen(body) : 0, &answer, e);
    rc = rc ? translate(r, rc, 0, e) : read_answer(r, &answer, status, out, e);
    http_response_free(&answer);
    give_client(c, client, r->url);
    return rc;
}

struct relay {
    struct http_client *client;
    struct download *d;
    bool begun;
    int failed; /* the sink's code, with its message: not to be mistaken for the connection's */
    struct err error;
};

static uint64_t content_length(struct http_client *client)
{
    const char *text = http_client_header(client, "Content-Length");
    return text ? strtoull(text, NULL, 10) : 0;
}

static int relay(void *ctx, const void *p, size_t n)
{
    struct relay *x = ctx;
    if (!x->begun && x->d->begin)
        x->d->begin(x->d->ctx, content_length(x->client));
    x->begun = true;
    x->d->received += n;
    x->failed = x->d->sink(x->d->ctx, p, n, &x->error);
    return x->failed;
}

int cluster_download(struct cluster *c, const struct request *r, struct download *d, int *status, struct err *e)
{
    *status = 0;
    d->received = 0;
    d->position[0] = 0;
    unsigned ms = to_ms(r->timeout_ms ? r->timeout_ms : CLUSTER_ANSWER_MS);
    _cleanup_free_ char *url = whole_url(r, e);
    struct http_client *client = url ? take_client(c, r->url) : NULL;
    if (!client)
        return err_errno(e, ENOMEM, "%s", r->url);
    struct relay x = {.client = client, .d = d};
    http_client_set_timeouts(client, MIN(CONNECT_MS, ms), ms, 0);
    int rc = http_client_download(client, url, relay, &x, status, e);
    const char *position = http_client_header(client, "X-Edgefs-Position");
    const char *coding = http_client_header(client, "Transfer-Encoding");
    if (position && strlen(position) < sizeof d->position)
        strcpy(d->position, position);
    d->length_known = http_client_header(client, "Content-Length") || (coding && strcasestr(coding, "chunked"));
    if (x.failed)
        rc = err_set(e, x.failed, "%s", x.error.text);
    else if (rc)
        rc = translate(r, rc, *status, e);
    give_client(c, client, r->url);
    return rc;
}

struct upload {
    void (*sent)(uint64_t bytes);
    uint64_t before;
};

static void uploaded(void *ctx, uint64_t sent)
{
    struct upload *u = ctx;
    if (sent > u->before)
        u->sent(sent - u->before);
    u->before = MAX(u->before, sent);
}

int cluster_upload(struct cluster *c, const struct request *r, int fd, uint64_t size, void (*sent)(uint64_t bytes), int *status,
                   json_t **out, struct err *e)
{
    *status = 0;
    *out = NULL;
    _cleanup_free_ char *url = whole_url(r, e);
    struct http_client *client = url ? take_client(c, r->url) : NULL;
    if (!client)
        return err_errno(e, ENOMEM, "%s", r->url);
    struct upload u = {.sent = sent};
    struct http_response answer;
    http_client_set_timeouts(client, CONNECT_MS, UPLOAD_SILENCE_MS, 0);
    int rc = http_client_upload(client, r->method, url, fd, 0, size, sent ? uploaded : NULL, &u, &answer, e);
    if (rc == -ENODATA)
        rc = err_set(e, rc, "the file became shorter while it was being sent; the database was not imported");
    else if (rc)
        rc = translate(r, rc, 0, e);
    else
        rc = read_answer(r, &answer, status, out, e);
    http_response_free(&answer);
    give_client(c, client, r->url);
    return rc;
}
