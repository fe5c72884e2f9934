#include "replicator/cluster/etcd.h"

#include "lib/http/client.h"
#include "lib/util.h"
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <stdatomic.h>
#include <stdio.h>

#define KEYS_MAX 4096
#define LINE_MAX_BYTES (1u << 20) /* one reply of a watch */
#define URL_MAX 512

struct etcd {
    struct http_client *http;
    char *endpoints[ETCD_ENDPOINTS_MAX];
    unsigned n, at; /* the one that answered last */
    char *user, *password;
    bool signed_in;
    unsigned request_ms;
    atomic_int aborted;
};

struct etcd *etcd_new(const struct etcd_options *o)
{
    struct etcd *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    bool ok = true;
    c->request_ms = o->request_ms;
    c->http = http_client_new(&(struct http_client_options){.ca_file = o->ca_file, .cert_file = o->cert_file, .key_file = o->key_file,
                                                            .connect_ms = o->request_ms, .max_body = 32u << 20, .abort = &c->aborted});
    for (int i = 0; i < o->n_endpoints && i < ETCD_ENDPOINTS_MAX; i++) {
        c->endpoints[c->n] = strdup(o->endpoints[i]);
        ok = ok && c->endpoints[c->n];
        c->n += c->endpoints[c->n] != NULL;
    }
    c->user = o->user ? strdup(o->user) : NULL;
    c->password = o->password ? strdup(o->password) : NULL;
    if (ok && c->http && c->n && !c->user == !o->user && !c->password == !o->password)
        return c;
    etcd_free(c);
    return NULL;
}

void etcd_free(struct etcd *c)
{
    if (!c)
        return;
    http_client_free(c->http);
    for (unsigned i = 0; i < c->n; i++)
        free(c->endpoints[i]);
    free(c->user);
    free(c->password);
    free(c);
}

void etcd_abort(struct etcd *c)
{
    atomic_store(&c->aborted, 1);
    http_client_abort(c->http);
}

void etcd_set_timeout(struct etcd *c, unsigned request_ms)
{
    c->request_ms = request_ms;
}

/* ---- JSON forms of the gateway ---- */

/* RFC 4648 §4. A new reference; NULL: no memory. */
static json_t *base64(const char *text)
{
    size_t n = strlen(text);
    _cleanup_free_ char *out = malloc(4 * ((n + 2) / 3) + 1);
    if (!out)
        return NULL;
    EVP_EncodeBlock((unsigned char *)out, (const unsigned char *)text, (int)n);
    return json_string(out);
}

/* NUL-terminated and malloc'ed; NULL: not base64, too long, or no memory. */
static char *unbase64(const json_t *v)
{
    const char *s = json_is_string(v) ? json_string_value(v) : "";
    size_t n = strlen(s);
    if (n % 4 || n > ETCD_VALUE_MAX * 2)
        return NULL;
    char *out = calloc(1, n / 4 * 3 + 1);
    int k = out ? EVP_DecodeBlock((unsigned char *)out, (const unsigned char *)s, (int)n) : -1;
    if (k < 0) {
        free(out);
        return NULL;
    }
    for (size_t pad = n; pad > 0 && s[pad - 1] == '='; pad--)
        out[--k] = 0; /* padding is decoded to zero bytes */
    return out;
}

static int64_t number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    if (json_is_integer(v))
        return json_integer_value(v);
    return json_is_string(v) ? strtoll(json_string_value(v), NULL, 10) : 0;
}

static json_t *number_text(int64_t v)
{
    char buf[24];
    snprintf(buf, sizeof buf, "%" PRId64, v);
    return json_string(buf);
}

/* The end of the range that holds every key with this prefix: its last byte plus one. */
static json_t *range_end(const char *prefix)
{
    char end[256];
    snprintf(end, sizeof end, "%s", prefix);
    size_t n = strlen(end);
    end[n - 1] = (char)(end[n - 1] + 1); /* prefixes are ASCII */
    return base64(end);
}

/* ---- requests ---- */

static bool try_another(int rc, int status)
{
    return rc == -ECONNREFUSED || rc == -EHOSTUNREACH || rc == -ETIMEDOUT || rc == -ECONNRESET || (!rc && status == 503);
}

/* Nothing of it can have been carried out. */
static bool never_arrived(int rc)
{
    return rc == -ECONNREFUSED || rc == -EHOSTUNREACH;
}

static int post_once(struct etcd *c, const char *path, const char *body, struct http_response *r, struct err *e)
{
    char url[URL_MAX];
    snprintf(url, sizeof url, "%s/v3/%s", c->endpoints[c->at], path);
    unsigned ms = MAX(c->request_ms / MIN(c->n, 3u), 200u); /* so that a member that is silent leaves time for another */
    http_client_set_timeouts(c->http, ms, ms, ms);
    return http_client_request(c->http, "POST", url, NULL, body, strlen(body), r, e);
}

static int post_any(struct etcd *c, const char *path, const char *body, bool once, struct http_response *r, struct err *e)
{
    uint64_t until = now_ns() + (uint64_t)c->request_ms * 1000000u;
    int rc = -EHOSTUNREACH;
    for (unsigned i = 0; i < c->n; i++) {
        rc = post_once(c, path, body, r, e);
        if (!try_another(rc, r->status))
            return rc;
        c->at = (c->at + 1) % c->n;
        if (once && !never_arrived(rc))
            return rc;
        if (i + 1 == c->n || now_ns() >= until)
            return rc;
        http_response_free(r);
    }
    return rc;
}

static int answer(const struct http_response *r, const char *path, json_t **out, struct err *e)
{
    json_error_t je;
    json_t *o = json_loadb(r->body, r->body_len, JSON_REJECT_DUPLICATES, &je);
    if (r->status != 200) {
        const char *why = json_string_value(json_object_get(o, "error"));
        err_set(e, ERR_REMOTE, "etcd: %s: %d%s%.200s", path, r->status, why ? ": " : "", why ? why : "");
        json_decref(o);
        return ERR_REMOTE;
    }
    if (!json_is_object(o)) {
        json_decref(o);
        return err_set(e, -EBADMSG, "etcd: %s: the answer is not JSON: %s", path, je.text);
    }
    *out = o;
    return 0;
}

static int sign_in(struct etcd *c, struct err *e)
{
    struct http_response r = {0};
    json_t *o = json_pack("{s:s,s:s}", "name", c->user, "password", c->password ? c->password : ""), *reply = NULL;
    _cleanup_free_ char *body = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (!body || http_client_set_authorization(c->http, NULL))
        return err_errno(e, ENOMEM, "etcd");
    int rc = post_any(c, "auth/authenticate", body, false, &r, e);
    if (!rc)
        rc = answer(&r, "auth/authenticate", &reply, e);
    http_response_free(&r);
    const char *token = json_string_value(json_object_get(reply, "token"));
    if (!rc && !token)
        rc = err_set(e, -EBADMSG, "etcd: no token in the answer to auth/authenticate");
    if (!rc && http_client_set_authorization(c->http, token))
        rc = err_errno(e, ENOMEM, "etcd");
    json_decref(reply);
    c->signed_in = !rc;
    return rc;
}

/* Takes request (one reference). once: not repeated elsewhere after it may have arrived. */
static int call(struct etcd *c, const char *path, json_t *request, bool once, json_t **reply, struct err *e)
{
    _cleanup_free_ char *body = request ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(request);
    if (!body)
        return err_errno(e, ENOMEM, "etcd");
    for (bool again = false;; again = true) {
        struct http_response r = {0};
        int rc = c->user && !c->signed_in ? sign_in(c, e) : 0;
        if (!rc)
            rc = post_any(c, path, body, once, &r, e);
        bool expired = !rc && r.status == 401 && c->user; /* tokens live for minutes; refused before anything is done */
        if (!rc && !(expired && !again))
            rc = answer(&r, path, reply, e);
        http_response_free(&r);
        if (!expired || again)
            return rc;
        c->signed_in = false;
    }
}

int etcd_grant(struct etcd *c, uint64_t ttl_s, int64_t *lease, uint64_t *granted, struct err *e)
{
    json_t *reply = NULL;
    int rc = call(c, "lease/grant", json_pack("{s:o}", "TTL", number_text((int64_t)ttl_s)), false, &reply, e);
    if (rc)
        return rc;
    *lease = number(reply, "ID");
    *granted = (uint64_t)number(reply, "TTL");
    json_decref(reply);
    return *lease && *granted ? 0 : err_set(e, -EBADMSG, "etcd: lease/grant: the answer names no lease");
}

int etcd_keep_alive(struct etcd *c, int64_t lease, uint64_t *ttl_s, struct err *e)
{
    json_t *reply = NULL;
    int rc = call(c, "lease/keepalive", json_pack("{s:o}", "ID", number_text(lease)), false, &reply, e);
    if (rc)
        return rc;
    *ttl_s = (uint64_t)number(json_object_get(reply, "result"), "TTL");
    json_decref(reply);
    return 0;
}

int etcd_revoke(struct etcd *c, int64_t lease, struct err *e)
{
    json_t *reply = NULL;
    int rc = call(c, "lease/revoke", json_pack("{s:o}", "ID", number_text(lease)), false, &reply, e);
    json_decref(reply);
    return rc;
}

void etcd_list_free(struct etcd_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        free(list->keys[i].name);
        free(list->keys[i].value);
    }
    free(list->keys);
    *list = (struct etcd_list){0};
}

const struct etcd_key *etcd_list_find(const struct etcd_list *list, const char *name)
{
    for (size_t i = 0; i < list->n; i++)
        if (!strcmp(list->keys[i].name, name))
            return &list->keys[i];
    return NULL;
}

static int take_key(const json_t *kv, size_t prefix_len, struct etcd_key *k, struct err *e)
{
    char *name = unbase64(json_object_get(kv, "key"));
    *k = (struct etcd_key){.value = unbase64(json_object_get(kv, "value")), .create_revision = number(kv, "create_revision"),
                           .mod_revision = number(kv, "mod_revision"), .lease = number(kv, "lease")};
    bool ok = name && k->value && strlen(name) >= prefix_len && (k->name = strdup(name + prefix_len));
    if (!ok)
        err_set(e, -EBADMSG, "etcd: the value of key %.100s is not ours", name ? name : "?");
    free(name);
    return ok ? 0 : -EBADMSG;
}

int etcd_list(struct etcd *c, const char *prefix, struct etcd_list *out, struct err *e)
{
    json_t *reply = NULL, *kv;
    size_t i;
    *out = (struct etcd_list){0};
    int rc = call(c, "kv/range", json_pack("{s:o,s:o,s:i}", "key", base64(prefix), "range_end", range_end(prefix), "limit", KEYS_MAX), false,
                  &reply, e);
    if (rc)
        return rc;
    const json_t *kvs = json_object_get(reply, "kvs");
    size_t n = json_array_size(kvs);
    out->revision = number(json_object_get(reply, "header"), "revision");
    out->keys = calloc(n ? n : 1, sizeof *out->keys);
    if (!out->keys)
        rc = err_errno(e, ENOMEM, "etcd");
    json_array_foreach(kvs, i, kv)
    {
        if (!rc)
            rc = take_key(kv, strlen(prefix), &out->keys[out->n++], e);
    }
    json_decref(reply);
    if (rc)
        etcd_list_free(out);
    return rc;
}

static json_t *put_request(const struct etcd_put *p)
{
    if (!p->value)
        return json_pack("{s:{s:o}}", "request_delete_range", "key", base64(p->key));
    return json_pack("{s:{s:o,s:o,s:o}}", "request_put", "key", base64(p->key), "value", base64(p->value), "lease", number_text(p->lease));
}

int etcd_swap(struct etcd *c, const char *key, int64_t mod_revision, const struct etcd_put *puts, size_t n, bool *done, struct err *e)
{
    json_t *compare = json_array(), *success = json_array(), *reply = NULL;
    if (mod_revision >= 0)
        json_array_append_new(compare, json_pack("{s:o,s:s,s:s,s:o}", "key", base64(key), "target", "MOD", "result", "EQUAL", "mod_revision",
                                                 number_text(mod_revision)));
    for (size_t i = 0; i < n; i++)
        json_array_append_new(success, put_request(&puts[i]));
    bool whole = json_array_size(compare) == (mod_revision >= 0) && json_array_size(success) == n;
    json_t *txn = json_pack("{s:o,s:o}", "compare", compare, "success", success);
    if (!whole) {
        json_decref(txn);
        return err_errno(e, ENOMEM, "etcd");
    }
    int rc = call(c, "kv/txn", txn, true, &reply, e);
    *done = !rc && json_is_true(json_object_get(reply, "succeeded"));
    json_decref(reply);
    return rc;
}

/* ---- watching ---- */

struct watching {
    void (*on_change)(void *ctx);
    void *ctx;
    char *line;
    size_t len, size;
    struct err *e;
};

static int take_line(struct watching *w)
{
    json_t *o = json_loadb(w->line, w->len, JSON_REJECT_DUPLICATES, NULL);
    const json_t *result = json_object_get(o, "result");
    const char *error = json_string_value(json_object_get(json_object_get(o, "error"), "message"));
    int rc = 0;
    if (!json_is_object(result))
        rc = err_set(w->e, ERR_REMOTE, "etcd: watch: %.200s", error ? error : "a reply that is not JSON");
    else if (json_is_true(json_object_get(result, "canceled")))
        rc = err_set(w->e, ERR_REMOTE, "etcd: the watch was cancelled by the server");
    else if (json_is_true(json_object_get(result, "created")) || json_array_size(json_object_get(result, "events")))
        w->on_change(w->ctx);
    json_decref(o);
    w->len = 0;
    return rc;
}

static int on_watch_data(void *ctx, const void *data, size_t n)
{
    struct watching *w = ctx;
    const char *p = data;
    while (n) {
        const char *end = memchr(p, '\n', n);
        size_t k = end ? (size_t)(end - p) : n;
        if (w->len + k > LINE_MAX_BYTES)
            return err_set(w->e, -EMSGSIZE, "etcd: a reply of a watch is longer than %u bytes", LINE_MAX_BYTES);
        if (w->len + k > w->size) {
            char *more = realloc(w->line, w->len + k);
            if (!more)
                return err_errno(w->e, ENOMEM, "etcd");
            w->line = more;
            w->size = w->len + k;
        }
        memcpy(w->line + w->len, p, k);
        w->len += k;
        int rc = end ? take_line(w) : 0;
        if (rc)
            return rc;
        k += end != NULL;
        p += k;
        n -= k;
    }
    return 0;
}

int etcd_watch(struct etcd *c, const char *prefix, void (*on_change)(void *ctx), void *ctx, struct err *e)
{
    char url[URL_MAX];
    struct err inner = {0};
    struct watching w = {.on_change = on_change, .ctx = ctx, .e = &inner};
    int rc = c->user && !c->signed_in ? sign_in(c, e) : 0;
    if (rc)
        return rc;
    json_t *o = json_pack("{s:{s:o,s:o}}", "create_request", "key", base64(prefix), "range_end", range_end(prefix));
    _cleanup_free_ char *body = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (!body)
        return err_errno(e, ENOMEM, "etcd");
    snprintf(url, sizeof url, "%s/v3/watch", c->endpoints[c->at]);
    http_client_set_timeouts(c->http, c->request_ms, UINT32_MAX / 2, 0); /* silence is what a watch is: whoever needs to know asks */
    rc = http_client_stream(c->http, "POST", url, "application/json", body, strlen(body), on_watch_data, &w, NULL, e);
    if (rc && inner.code == rc && e)
        *e = inner;
    free(w.line);
    c->signed_in = false; /* the token may be the reason */
    c->at = (c->at + 1) % c->n;
    return rc ? rc : err_set(e, -ECONNRESET, "etcd: the watch ended");
}
