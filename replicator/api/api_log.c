/* GET /v1/log and /v1/log/LSN: the log for people and tools. */
#include "lib/ltx.h"
#include "lib/util.h"
#include "replicator/api/api_private.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#define LIMIT_DEFAULT 1000u
#define LIMIT_MAX 10000u
#define INDEX_MAX (1u << 20) /* a larger page index is not read: its record is listed without a number of pages */

static const char *type_name(uint8_t type)
{
    switch (type) {
    case RECORD_TX:
        return "tx";
    case RECORD_DROP:
        return "drop";
    case RECORD_RENAME:
        return "rename";
    case RECORD_EPOCH:
        return "epoch";
    case RECORD_NOOP:
        return "noop";
    case RECORD_STATE:
        return "state";
    case RECORD_PREPARE:
        return "prepare";
    case RECORD_ABORT:
        return "abort";
    default:
        return "unknown";
    }
}

static bool read_at(int fd, void *buf, size_t n, int64_t at)
{
    return pread(fd, buf, n, at) == (ssize_t)n;
}

/* Pages in an LTX file of n bytes: a third of the varints in its page index (lib/ltx.h). -1: not to be told. */
static int64_t count_pages(int fd, int64_t at, int64_t n)
{
    uint8_t tail[8];
    if (n < (int64_t)(LTX_HEADER_SIZE + LTX_TRAILER_SIZE + 8) || !read_at(fd, tail, 8, at + n - LTX_TRAILER_SIZE - 8))
        return -1;
    uint64_t size = be64_get(tail);
    if (size < 1 || size > INDEX_MAX || (int64_t)size > n - (int64_t)(LTX_HEADER_SIZE + LTX_TRAILER_SIZE + 8))
        return -1;
    _cleanup_free_ uint8_t *index = malloc(size);
    if (!index || !read_at(fd, index, size, at + n - LTX_TRAILER_SIZE - 8 - (int64_t)size))
        return -1;
    int64_t ends = 0;
    for (uint64_t i = 0; i + 1 < size; i++)
        ends += index[i] < 0x80;
    return ends / 3;
}

static void describe_tx(json_t *o, int fd, int64_t at, uint32_t len)
{
    uint8_t buf[LTX_HEADER_SIZE];
    struct ltx_header h;
    if (len < sizeof buf || !read_at(fd, buf, sizeof buf, at) || ltx_header_decode(buf, &h, NULL))
        return;
    int64_t pages = count_pages(fd, at, len);
    json_object_set_new(o, "min_txid", json_integer((json_int_t)h.min_txid));
    json_object_set_new(o, "max_txid", json_integer((json_int_t)h.max_txid));
    json_object_set_new(o, "pages", pages < 0 ? json_null() : json_integer(pages));
    json_object_set_new(o, "page_size", json_integer((json_int_t)h.page_size));
    json_object_set_new(o, "commit", json_integer((json_int_t)h.commit));
}

static void describe_payload(json_t *o, const struct record_head *h, int fd, int64_t at)
{
    uint8_t buf[LAYOUT_NAME_MAX + 1];
    struct record_state st;
    if (h->type == RECORD_TX || h->type == RECORD_PREPARE) {
        describe_tx(o, fd, at, h->payload_len);
    } else if (h->payload_len <= LAYOUT_NAME_MAX && read_at(fd, buf, h->payload_len, at)) {
        buf[h->payload_len] = '\0';
        if (h->type == RECORD_RENAME)
            json_object_set_new(o, "to", json_string((char *)buf));
        else if (h->type == RECORD_EPOCH)
            json_object_set_new(o, "primary", json_string((char *)buf));
        else if (h->type == RECORD_STATE && record_state_decode(buf, h->payload_len, &st) == 0) {
            json_object_set_new(o, "min_txid", json_integer((json_int_t)st.txid));
            json_object_set_new(o, "max_txid", json_integer((json_int_t)st.txid));
            json_object_set_new(o, "page_size", json_integer((json_int_t)st.page_size));
            json_object_set_new(o, "commit", json_integer((json_int_t)st.commit));
        }
    }
}

static json_t *describe(const struct record_head *h, int fd, int64_t at)
{
    char when[64];
    time_t t = (time_t)(h->timestamp / 1000000u);
    struct tm tm;
    gmtime_r(&t, &tm);
    size_t n = strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(when + n, sizeof when - n, ".%06uZ", (unsigned)(h->timestamp % 1000000u));
    json_t *o = json_pack("{s:I,s:I,s:s,s:s,s:s,s:I}", "lsn", (json_int_t)h->pos.lsn, "epoch", (json_int_t)h->pos.epoch, "type",
                          type_name(h->type), "name", h->name, "time", when, "payload", (json_int_t)h->payload_len);
    if (o)
        describe_payload(o, h, fd, at);
    return o;
}

static void log_work(struct call *c)
{
    struct rlog *l = c->api->node->rlog;
    struct rlog_cursor cur = {.fd = -1};
    struct record_head h;
    struct err e = {0};
    int64_t at;
    uint64_t first = rlog_first(l), last = rlog_last(l).lsn;
    json_t *list = json_array();
    int rc = 0;
    if (c->from <= last)
        rc = rlog_seek(l, MAX(c->from, first), &cur, &e);
    for (uint64_t i = 0; !rc && c->from <= last && i < c->limit; i++) {
        rc = rlog_next(l, &cur, &h, &at, &e);
        if (rc == 1 && json_array_append_new(list, describe(&h, cur.fd, at)))
            rc = -ENOMEM;
        else if (rc == 1)
            rc = 0;
        else if (rc == 0)
            break;
    }
    rlog_cursor_close(&cur);
    if (rc)
        call_error(c, e.code ? &e : &(struct err){.code = -ENOMEM, .text = "no memory"});
    else
        c->answer = json_pack("{s:I,s:I,s:O}", "first_lsn", (json_int_t)first, "last_lsn", (json_int_t)last, "records", list);
    json_decref(list);
}

void api_log(struct http_request *req, void *arg)
{
    struct api *a = arg;
    uint64_t from, limit;
    if (request_query_u64(req, "from", 0, INT64_MAX, &from) ||
        request_query_u64(req, "limit", LIMIT_DEFAULT, LIMIT_MAX, &limit))
        return;
    struct call *c = call_new(a, req, log_work);
    if (!c)
        return;
    c->from = from;
    c->limit = limit;
    call_submit(c, a->jobs);
}

static void record_work(struct call *c)
{
    struct rlog *l = c->api->node->rlog;
    struct rlog_cursor cur = {.fd = -1};
    struct record_head h;
    struct err e = {0};
    int64_t at = 0;
    int rc = rlog_seek(l, c->from, &cur, &e);
    if (!rc && rlog_next(l, &cur, &h, &at, &e) != 1)
        rc = e.code ? e.code : ERR_GONE;
    if (rc) {
        call_error(c, &e);
        if (rc == ERR_GONE && c->from >= rlog_first(l)) {
            c->status = 404;
            err_set(&c->e, -ENOENT, "record %" PRIu64 " was not written yet; the last one is %" PRIu64, c->from, rlog_last(l).lsn);
        }
    } else {
        c->fd = dup(cur.fd);
        c->from = (uint64_t)at;
        c->limit = h.payload_len;
        c->body = json_string(type_name(h.type));
        snprintf(c->name, sizeof c->name, "%s", h.name);
        if (c->fd < 0)
            call_error(c, &(struct err){.code = -errno, .text = "no descriptor left"});
    }
    rlog_cursor_close(&cur);
}

static void record_reply(struct call *c)
{
    http_set_header(c->req, "X-Edgefs-Record-Type", json_string_value(c->body));
    if (http_start(c->req, 200, "application/octet-stream", (int64_t)c->limit) == 0 && c->limit)
        (void)http_write_file(c->req, c->fd, (off_t)c->from, c->limit); /* an error ends the connection */
    http_end(c->req);
}

void api_log_record(struct http_request *req, void *arg)
{
    struct api *a = arg;
    uint64_t lsn;
    if (request_u64(http_path(req) + strlen("/v1/log/"), INT64_MAX, &lsn) || lsn == 0) {
        http_reply_error(req, 404, "not /v1/log/LSN");
        return;
    }
    struct call *c = call_new(a, req, record_work);
    if (!c)
        return;
    c->reply = record_reply;
    c->from = lsn;
    call_submit(c, a->jobs);
}
