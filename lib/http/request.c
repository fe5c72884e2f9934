/* What handlers ask about a request. */
#include "lib/http/internal.h"
#include "lib/util.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>

unsigned http_method(const struct http_request *req)
{
    return req->head.method;
}

const char *http_method_name(const struct http_request *req)
{
    return req->head.method_name;
}

const char *http_path(const struct http_request *req)
{
    return req->target.path;
}

const char *http_target(const struct http_request *req)
{
    return req->target.origin;
}

const char *http_query(const struct http_request *req, const char *name)
{
    return http_target_query(&req->target, name);
}

const char *http_header(const struct http_request *req, const char *name)
{
    int i = http_head_find(&req->head, req->block, name, 0);
    return i < 0 ? NULL : req->block + req->head.fields[i].value;
}

bool http_header_at(const struct http_request *req, size_t i, const char **name, const char **value)
{
    if (i >= req->head.n_fields)
        return false;
    *name = req->block + req->head.fields[i].name;
    *value = req->block + req->head.fields[i].value;
    return true;
}

const char *http_body(const struct http_request *req, size_t *len)
{
    if (len)
        *len = req->body_len;
    return req->body ? req->body : "";
}

int64_t http_body_length(const struct http_request *req)
{
    return req->head.chunked ? -1 : MAX(req->head.content_length, 0);
}

static void format_peer(const struct sockaddr_storage *a, char *buf, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (a->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)a;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        snprintf(buf, size, "%s:%u", host, ntohs(in->sin_port));
    } else if (a->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)a;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
        snprintf(buf, size, "[%s]:%u", host, ntohs(in6->sin6_port));
    } else
        snprintf(buf, size, "local");
}

const char *http_peer(const struct http_request *req)
{
    struct http_request *r = (struct http_request *)(uintptr_t)req; /* filled in on demand: most handlers never ask */
    if (!r->peer[0] && r->conn)
        format_peer(&r->conn->peer, r->peer, sizeof r->peer);
    return r->peer[0] ? r->peer : "?";
}

bool http_peer_eof(const struct http_request *req)
{
    return !req->conn || req->conn->eof || req->conn->state == CONN_DEAD;
}

void http_set_user(struct http_request *req, void *user)
{
    req->user = user;
}

void *http_user(const struct http_request *req)
{
    return req->user;
}

void http_set_body(struct http_request *req, void (*on_data)(struct http_request *req, const void *data, size_t len, void *arg),
                   void (*on_end)(struct http_request *req, void *arg), void *arg)
{
    req->on_data = on_data;
    req->on_body_end = on_end;
    req->body_arg = arg;
}

void http_body_pause(struct http_request *req)
{
    req->body_paused = true;
}

void http_body_resume(struct http_request *req)
{
    if (!req->body_paused)
        return;
    req->body_paused = false;
    if (req->conn && req->conn->state != CONN_DEAD)
        http_conn_kick(req->conn);
}
