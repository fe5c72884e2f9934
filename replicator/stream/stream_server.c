/* Sends the log to whoever follows it. See stream_server.h for the states.
 *
 * Nothing is read, checked or copied that need not be: whole runs of records (rlog_span) go out as they lie in the segment. What
 * bounds memory is that no stream is given more while HIGH_WATER bytes of it wait for the kernel; the log itself is the queue. */
#include "replicator/stream/stream_server.h"

#include "lib/crc.h"
#include "lib/http/server.h"
#include "lib/log.h"
#include "lib/util.h"
#include "lib/filter.h"
#include "replicator/metrics.h"
#include "replicator/stream/replicas.h"
#include "replicator/api/request.h"
#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/queue.h>

#define HIGH_WATER (512u << 10) /* a stream is given no more while this much of it waits */
#define LOW_WATER (256u << 10)
#define SPAN_MAX (1u << 20)     /* bytes of log that are taken at once */
#define SENDFILE_MIN (32u << 10) /* from here on sendfile is cheaper than reading and writing */
#define TURN_MAX (1u << 20)     /* bytes for one stream before the others, and the sockets, get their turn */
#define STREAMS_MAX 1024u

struct stream {
    LIST_ENTRY(stream) link;
    struct stream_server *server;
    struct http_request *req;
    struct rlog_cursor cursor;
    uint64_t sent;     /* LSN of the last record given to the connection */
    uint64_t reported; /* what replicas_sent was told last */
    bool ended;        /* no further frame; the closed callback will come */
    char node[65];     /* "" if it did not say */
    bool filtered;
    struct filter filter;
};

struct stream_server {
    struct node *node;
    pthread_mutex_t lock;   /* guards wake */
    struct http_wake *wake; /* NULL: stopped */
    struct event *heartbeat;
    LIST_HEAD(, stream) streams;
    atomic_uint count;
    /* One piece of log, read once and written to every stream that stands at the same place. Good during one round only: after a
     * reset of the log the same place may hold other bytes. */
    struct {
        uint64_t segment; /* 0: nothing */
        int64_t offset, length;
        uint8_t *data; /* SENDFILE_MIN bytes */
    } piece;
};

/* ---- frames ---- */

/* Sends one control frame. pos: the server's, or what the type says. */
static int send_frame(struct stream *st, enum record_type type, struct position pos, json_t *payload)
{
    _cleanup_free_ char *text = payload ? json_dumps(payload, JSON_COMPACT) : NULL;
    size_t len = text ? strlen(text) : 0;
    if (payload && !text)
        return -ENOMEM;
    if (len > UINT32_MAX)
        return -EMSGSIZE;
    struct record_head h = {
        .type = (uint8_t)type,
        .pos = pos,
        .timestamp = wall_us(),
        .payload_len = (uint32_t)len,
        .payload_crc = crc32c(0, text ? text : "", len),
    };
    uint8_t small[1024];
    size_t head = record_head_size(&h);
    uint8_t *buf = head + len <= sizeof small ? small : malloc(head + len);
    if (!buf)
        return -ENOMEM;
    record_head_encode(&h, buf);
    if (len)
        memcpy(buf + head, text, len);
    int rc = http_write(st->req, buf, head + len); /* one call, so that it is one packet */
    if (buf != small)
        free(buf);
    return rc;
}

/* The last frame. The stream stays in the list until its connection is closed. */
static void end_with(struct stream *st, enum record_type type, json_t *payload)
{
    if (st->ended)
        return;
    st->ended = true;
    (void)send_frame(st, type, rlog_last(st->server->node->rlog), payload); /* then the client sees the end without a reason */
    http_end(st->req);
}

static void goodbye(struct stream *st, const char *reason)
{
    json_t *o = json_pack("{s:s}", "reason", reason);
    end_with(st, RECORD_GOODBYE, o);
    json_decref(o);
}

/* What a replica that serves says of its own place in each frame: whether what it sends is what the primary has, and who stands above it. */
static int add_place(struct node *n, json_t *o)
{
    char name[128], url[256], path[NODE_PATH_MAX];
    if (node_role(n) != NODE_REPLICA)
        return 0;
    node_upstream(n, name, url, path);
    return json_object_set_new(o, "live", json_boolean(node_live(n))) | json_object_set_new(o, "path", json_string(path));
}

static json_t *greeting(struct node *n)
{
    char primary[128], url[256];
    node_primary(n, primary, url);
    uint64_t lag = node_lag_ms(n);
    json_t *o = json_pack("{s:o?,s:s,s:s,s:s,s:s}", "epochs", epochs_to_json(n->epochs), "node", n->config->node, "role",
                          node_role_name(node_role(n)), "primary", primary, "primary_url", url);
    if (o)
        json_object_set_new(o, "lag_ms", lag == UINT64_MAX ? json_null() : json_integer((json_int_t)lag));
    if (o)
        (void)add_place(n, o);
    return o;
}

/* ---- records ---- */

static bool record_wanted(const struct stream *st, const struct record_head *h, int64_t payload_at)
{
    if (!h->name_len || filter_wants(&st->filter, h->name))
        return true;
    if (h->type != RECORD_RENAME || h->payload_len > LAYOUT_NAME_MAX)
        return false;
    char to[LAYOUT_NAME_MAX + 1]; /* a database may also be renamed into what the client wants */
    ssize_t k = pread(st->cursor.fd, to, h->payload_len, payload_at);
    to[k > 0 ? k : 0] = '\0';
    return filter_wants(&st->filter, to);
}

/* The next record of a filtered stream: as it is, or as a NOOP of the same LSN so that LSNs stay without gaps. Bytes sent (counted
 * roughly), 0 at the end of the log, negative: error. */
static long send_filtered(struct stream *st, struct err *e)
{
    struct record_head h;
    int64_t at;
    int rc = rlog_next(st->server->node->rlog, &st->cursor, &h, &at, e);
    if (rc <= 0)
        return rc;
    if (!record_wanted(st, &h, at)) {
        h.type = RECORD_NOOP;
        h.flags &= RECORD_MORE;
        h.name_len = 0;
        h.name[0] = '\0';
        h.payload_len = h.payload_crc = 0;
    }
    uint8_t buf[RECORD_HEAD_MAX];
    size_t size = record_head_encode(&h, buf);
    rc = http_write(st->req, buf, size);
    if (!rc && h.payload_len)
        rc = http_write_file(st->req, st->cursor.fd, at, h.payload_len);
    if (rc)
        return err_set(e, -EPIPE, "connection lost");
    st->sent = h.pos.lsn;
    return (long)(size + h.payload_len);
}

static int send_piece(struct stream *st, int64_t offset, int64_t length, struct err *e)
{
    struct stream_server *s = st->server;
    if (s->piece.segment != st->cursor.segment || s->piece.offset != offset || s->piece.length != length) {
        s->piece.segment = 0;
        for (int64_t done = 0; done < length;) {
            ssize_t k = pread(st->cursor.fd, s->piece.data + done, (size_t)(length - done), offset + done);
            if (k < 0 && errno == EINTR)
                continue;
            if (k < 0)
                return err_errno(e, errno, "reading the log");
            if (k == 0)
                return err_set(e, ERR_CORRUPT, "the log's segment %016" PRIx64 " ends at offset %" PRId64, st->cursor.segment,
                               offset + done);
            done += k;
        }
        s->piece.segment = st->cursor.segment;
        s->piece.offset = offset;
        s->piece.length = length;
    }
    return http_write(st->req, s->piece.data, (size_t)length) ? err_set(e, -EPIPE, "connection lost") : 0;
}

/* The next run of records as it lies in the log. Results as send_filtered. */
static long send_span(struct stream *st, struct err *e)
{
    int64_t offset, length;
    uint64_t last;
    int rc = rlog_span(st->server->node->rlog, &st->cursor, SPAN_MAX, &offset, &length, &last, e);
    if (rc <= 0)
        return rc;
    if (length >= SENDFILE_MIN)
        rc = http_write_file(st->req, st->cursor.fd, offset, (size_t)length) ? err_set(e, -EPIPE, "connection lost") : 0;
    else
        rc = send_piece(st, offset, length, e);
    if (rc)
        return rc;
    st->sent = last;
    return (long)length;
}

static void failed(struct stream *st, const struct err *e)
{
    if (e->code == -EPIPE) { /* the connection is gone, or broken off inside a record: nothing more can be said on it */
        st->ended = true;
        http_abort(st->req);
    } else if (e->code == ERR_AGAIN_LATER) {
        goodbye(st, e->text);
    } else if (e->code == ERR_GONE) {
        goodbye(st, "the next record is no longer kept");
    } else {
        log_error("stream", "cannot send the log to %s (%s): %s", st->node[0] ? st->node : "a client", http_peer(st->req), e->text);
        goodbye(st, e->text);
    }
}

/* Gives a stream what there is, as far as its connection takes it. */
static void pump(struct stream *st)
{
    struct err e = {0};
    uint64_t turn = 0;
    while (!st->ended && http_pending(st->req) < HIGH_WATER) {
        if (turn >= TURN_MAX) {
            stream_server_wake(st->server);
            break;
        }
        long n = st->filtered ? send_filtered(st, &e) : send_span(st, &e);
        if (n < 0)
            failed(st, &e);
        if (n <= 0)
            break;
        turn += (uint64_t)n;
    }
    metrics_add(METRIC_STREAM_BYTES, turn);
    if (st->node[0] && st->reported != st->sent) {
        st->reported = st->sent;
        replicas_sent(st->server->node->replicas, st->node, st->sent);
    }
}

static void pump_all(void *arg)
{
    struct stream_server *s = arg;
    struct stream *st, *next;
    s->piece.segment = 0;
    for (st = LIST_FIRST(&s->streams); st; st = next) {
        next = LIST_NEXT(st, link); /* streams are freed in their closed callbacks only, never from inside an http_ call */
        pump(st);
    }
    s->piece.segment = 0;
}

static void on_drain(struct http_request *req, void *arg)
{
    struct stream *st = arg;
    (void)req;
    st->server->piece.segment = 0;
    pump(st);
}

void stream_server_wake(void *stream_server)
{
    struct stream_server *s = stream_server;
    if (!atomic_load_explicit(&s->count, memory_order_seq_cst))
        return;
    pthread_mutex_lock(&s->lock); /* waits for nobody but another wake, and the end of the process */
    if (s->wake)
        http_wake(s->wake);
    pthread_mutex_unlock(&s->lock);
}

static void on_heartbeat(evutil_socket_t fd, short what, void *arg)
{
    struct stream_server *s = arg;
    struct stream *st;
    (void)fd;
    (void)what;
    uint64_t lag = node_lag_ms(s->node);
    struct position last = rlog_last(s->node->rlog);
    bool relay = node_role(s->node) == NODE_REPLICA;
    json_t *o = relay || (lag && lag != UINT64_MAX) ? json_object() : NULL;
    if (o && lag && lag != UINT64_MAX)
        json_object_set_new(o, "lag_ms", json_integer((json_int_t)lag));
    if (o && relay)
        (void)add_place(s->node, o);
    LIST_FOREACH(st, &s->streams, link)
    if (!st->ended && http_pending(st->req) < HIGH_WATER)
        (void)send_frame(st, RECORD_HEARTBEAT, last, o); /* a lost connection tells its closed callback */
    json_decref(o);
    pump_all(s); /* a record whose wake was lost for lack of memory waits a second at most */
}

void stream_server_incoming(struct stream_server *s, const char *name, uint64_t id, int64_t size)
{
    struct stream *st;
    char text[17];
    snprintf(text, sizeof text, "%016" PRIx64, id);
    json_t *o = json_pack("{s:s,s:s,s:I}", "name", name, "id", text, "size", (json_int_t)size);
    if (!o)
        return;
    LIST_FOREACH(st, &s->streams, link)
    if (!st->ended && st->node[0] && (!st->filtered || filter_wants(&st->filter, name)) && http_pending(st->req) < HIGH_WATER)
        (void)send_frame(st, RECORD_INCOMING, rlog_last(s->node->rlog), o); /* a lost connection tells its closed callback */
    json_decref(o);
}

/* ---- start and end of a stream ---- */

/* Whether records can simply follow position (E, N). */
static bool can_follow(struct node *n, struct position p)
{
    uint64_t first = rlog_first(n->rlog), last = rlog_last(n->rlog).lsn;
    if (p.epoch == 0 && p.lsn == 0)
        return first == 1;
    return p.lsn <= last && p.lsn + 1 >= first && epochs_contains(n->epochs, p, last);
}

struct listing {
    json_t *names;
    bool relay; /* a replica: what it does not have yet, but knows of, the primary has */
};

static int add_name(void *ctx, struct database *db)
{
    pthread_mutex_lock(&db->lock);
    const struct listing *l = ctx;
    bool there = db->state != DATABASE_ABSENT && db->state != DATABASE_OTHER && (db->state != DATABASE_UNKNOWN || l->relay);
    pthread_mutex_unlock(&db->lock);
    if (!there)
        return 0;
    json_t *o = json_pack("{s:s}", "name", db->name);
    return json_array_append_new(l->names, o) ? -ENOMEM : 0;
}

/* A replica's databases stand where it has applied its log, not where its log ends. -EAGAIN: that cannot be said just now. */
static int state_position(struct node *n, struct position *p)
{
    *p = rlog_last(n->rlog);
    if (node_role(n) != NODE_REPLICA)
        return 0;
    struct epoch_entry now = epochs_current(n->epochs);
    *p = node_applied(n);
    return p->lsn + 1 >= rlog_first(n->rlog) && p->lsn >= now.first_lsn && p->epoch == now.epoch ? 0 : -EAGAIN;
}

/* The log's end is taken before the databases are listed: one that comes meanwhile is in a record behind it. */
static int begin_reset(struct stream *st, struct err *e)
{
    struct node *n = st->server->node;
    struct position last;
    if (state_position(n, &last))
        return err_set(e, ERR_AGAIN_LATER, "this replica is just starting afresh itself");
    int rc = rlog_seek(n->rlog, last.lsn + 1, &st->cursor, e);
    if (rc)
        return rc;
    json_t *names = json_array();
    rc = databases_each(n->databases, add_name, &(struct listing){names, node_role(n) == NODE_REPLICA});
    json_t *o = greeting(n);
    if (rc || !o || json_object_set(o, "databases", names))
        rc = err_errno(e, ENOMEM, "list of databases");
    else if (send_frame(st, RECORD_RESET, last, o))
        rc = err_set(e, -EPIPE, "connection lost");
    json_decref(names);
    json_decref(o);
    st->sent = last.lsn;
    return rc;
}

static int begin(struct stream *st, struct position p, bool afresh, struct err *e)
{
    struct node *n = st->server->node;
    if (!afresh && can_follow(n, p) && rlog_seek(n->rlog, p.lsn + 1, &st->cursor, NULL) == 0) {
        st->sent = p.lsn;
        json_t *o = greeting(n);
        int rc = o ? send_frame(st, RECORD_HEARTBEAT, rlog_last(n->rlog), o) : -ENOMEM;
        json_decref(o);
        if (!rc && st->node[0]) /* what it has in its log keeps ours from being trimmed; applied is for the client to say */
            replicas_ack(n->replicas, st->node, p.lsn, 0, p.lsn);
        return rc ? err_set(e, rc, "connection lost") : 0;
    }
    struct position last = rlog_last(n->rlog);
    if (node_role(n) == NODE_REPLICA && (p.epoch > last.epoch || (p.epoch == last.epoch && p.lsn > last.lsn)))
        return err_set(e, ERR_AGAIN_LATER, "this replica is not that far itself"); /* only a primary knows better than who is ahead of it */
    log_info("stream", "%s (%s) stands at %" PRIu64 "-%" PRIu64 ", which cannot be continued from here: it starts afresh",
             st->node[0] ? st->node : "a client", http_peer(st->req), p.epoch, p.lsn);
    return begin_reset(st, e);
}

static void on_closed(struct http_request *req, enum http_closed why, void *arg)
{
    struct stream *st = arg;
    struct stream_server *s = st->server;
    (void)req;
    (void)why;
    LIST_REMOVE(st, link);
    atomic_fetch_sub(&s->count, 1);
    rlog_cursor_close(&st->cursor);
    if (st->node[0]) {
        replicas_disconnected(s->node->replicas, st->node);
        log_info("stream", "replica %s is gone (sent up to %" PRIu64 ")", st->node, st->sent);
    }
    free(st);
}

/* The parameters. 0, or -EINVAL with e. */
static int read_query(struct http_request *req, struct stream *st, struct position *p, const char **url, struct err *e)
{
    const char *node = http_query(req, "node"), *databases = http_query(req, "databases");
    const char *include = http_query(req, "include"), *exclude = http_query(req, "exclude");
    if (!include)
        include = databases;
    *url = http_query(req, "url");
    if (request_u64(http_query(req, "epoch"), UINT64_MAX, &p->epoch) || request_u64(http_query(req, "lsn"), UINT64_MAX - 1, &p->lsn))
        return err_set(e, -EINVAL, "epoch and lsn are needed, as decimal numbers");
    if (node && strlen(node) >= sizeof st->node)
        return err_set(e, -EINVAL, "the name of a node has at most %zu bytes", sizeof st->node - 1);
    if ((include && strlen(include) >= FILTER_MAX) || (exclude && strlen(exclude) >= FILTER_MAX))
        return err_set(e, -EINVAL, "include= and exclude= have at most %d bytes each", FILTER_MAX - 1);
    snprintf(st->node, sizeof st->node, "%s", node ? node : "");
    snprintf(st->filter.include, FILTER_MAX, "%s", include ? include : "");
    snprintf(st->filter.exclude, FILTER_MAX, "%s", exclude ? exclude : "");
    st->filtered = !filter_everything(&st->filter);
    return 0;
}

static void refuse(struct http_request *req, struct stream *st, const struct err *e)
{
    free(st);
    if (e->code != -EINVAL && e->code != -EPERM)
        http_set_header(req, "Retry-After", "1");
    http_reply_error(req, e->code == -EINVAL ? 400 : e->code == -EPERM ? 409 : 503, "%s", e->text);
}

void stream_server_handle(struct http_request *req, void *ctx)
{
    struct stream_server *s = ctx;
    struct err e = {0};
    struct position p;
    const char *url;
    struct stream *st = calloc(1, sizeof *st);
    if (!st) {
        http_reply_error(req, 503, "no memory");
        return;
    }
    st->server = s;
    st->req = req;
    st->cursor.fd = -1;
    int rc = read_query(req, st, &p, &url, &e);
    if (!rc && node_role(s->node) == NODE_STARTING)
        rc = err_set(&e, ERR_AGAIN_LATER, "this node is still starting");
    if (!rc && node_role(s->node) == NODE_REPLICA && !filter_everything(s->node->filter) && !filter_same(s->node->filter, &st->filter))
        rc = err_set(&e, -EPERM, "this node has only some of the databases");
    if (!rc && atomic_load(&s->count) >= STREAMS_MAX)
        rc = err_set(&e, -EBUSY, "%u streams are open already", STREAMS_MAX);
    if (!rc && st->node[0])
        rc = replicas_connected(s->node->replicas, st->node, url, &e);
    const char *candidate = http_query(req, "candidate");
    /* With etcd the next election counts the nodes of the configuration: who is none of them must not be the one that has a commit. */
    bool stranger = s->node->config->lease.etcd && !config_node(s->node->config, st->node);
    if (!rc && st->node[0] && (st->filtered || stranger || (candidate && !strcmp(candidate, "0"))))
        replicas_bystander(s->node->replicas, st->node);
    if (rc) {
        refuse(req, st, &e);
        return;
    }
    LIST_INSERT_HEAD(&s->streams, st, link);
    atomic_fetch_add(&s->count, 1); /* before the log's end is looked at: from here on no wake is lost */
    metrics_add(METRIC_STREAMS, 1);
    http_set_closed(req, on_closed, st);
    http_set_drain(req, LOW_WATER, on_drain, st);
    http_set_header(req, "Cache-Control", "no-store");
    if (st->node[0])
        log_info("stream", "replica %s (%s) follows from %" PRIu64 "-%" PRIu64, st->node, http_peer(req), p.epoch, p.lsn);
    rc = http_start(req, 200, "application/x-edgefs-stream", HTTP_UNTIL_CLOSE);
    if (rc)
        rc = err_set(&e, -EPIPE, "connection lost");
    else
        rc = begin(st, p, http_query(req, "afresh") != NULL, &e);
    if (rc)
        failed(st, &e);
    else
        pump(st);
}

/* ---- the server ---- */

int stream_server_open(struct node *n, struct event_base *base, struct stream_server **out, struct err *e)
{
    struct timeval second = {.tv_sec = 1};
    struct stream_server *s = calloc(1, sizeof *s);
    if (!s)
        return err_errno(e, ENOMEM, "streams");
    s->node = n;
    LIST_INIT(&s->streams);
    pthread_mutex_init(&s->lock, NULL);
    s->piece.data = malloc(SENDFILE_MIN);
    s->wake = http_wake_new(n->http, pump_all, s);
    s->heartbeat = event_new(base, -1, EV_PERSIST, on_heartbeat, s);
    if (!s->piece.data || !s->wake || !s->heartbeat || event_add(s->heartbeat, &second)) {
        http_wake_free(s->wake);
        if (s->heartbeat)
            event_free(s->heartbeat);
        free(s->piece.data);
        free(s);
        return err_errno(e, ENOMEM, "streams");
    }
    *out = s;
    return 0;
}

void stream_server_stop(struct stream_server *s)
{
    struct stream *st, *next;
    if (!s)
        return;
    if (s->heartbeat)
        event_free(s->heartbeat);
    s->heartbeat = NULL;
    pthread_mutex_lock(&s->lock);
    http_wake_free(s->wake);
    s->wake = NULL;
    pthread_mutex_unlock(&s->lock);
    for (st = LIST_FIRST(&s->streams); st; st = next) {
        next = LIST_NEXT(st, link);
        pump(st);
        goodbye(st, "this node stops");
    }
}

void stream_server_close(struct stream_server *s)
{
    if (!s)
        return;
    pthread_mutex_destroy(&s->lock);
    free(s->piece.data);
    free(s);
}

unsigned stream_server_count(const struct stream_server *s)
{
    return atomic_load(&s->count);
}

/* ---- news for those who follow a replica ---- */

static void do_greet(void *arg)
{
    struct stream_server *s = arg;
    struct stream *st;
    json_t *o = greeting(s->node);
    LIST_FOREACH(st, &s->streams, link)
    if (o && !st->ended)
        (void)send_frame(st, RECORD_HEARTBEAT, rlog_last(s->node->rlog), o);
    json_decref(o);
}

void stream_server_greet(struct stream_server *s)
{
    pthread_mutex_lock(&s->lock);
    if (s->wake && atomic_load(&s->count))
        (void)http_server_post(s->node->http, do_greet, s); /* lost for lack of memory: the next frames say where it stands all the same */
    pthread_mutex_unlock(&s->lock);
}

/* ---- handing over ---- */

struct handoff {
    struct stream_server *server;
    json_t *payload;
};

static void do_handoff(void *arg)
{
    struct handoff *h = arg;
    struct stream *st, *next;
    pump_all(h->server);
    for (st = LIST_FIRST(&h->server->streams); st; st = next) {
        next = LIST_NEXT(st, link);
        end_with(st, RECORD_HANDOFF, h->payload);
    }
    json_decref(h->payload);
    free(h);
}

void stream_server_handoff(struct stream_server *s, const char *primary, const char *url, uint64_t epoch)
{
    struct handoff *h = malloc(sizeof *h);
    json_t *o = json_pack("{s:s,s:s,s:I}", "primary", primary, "url", url, "epoch", (json_int_t)epoch);
    if (h && o) {
        *h = (struct handoff){s, o};
        pthread_mutex_lock(&s->lock); /* while it is held the HTTP server is there */
        int rc = s->wake ? http_server_post(s->node->http, do_handoff, h) : -ESHUTDOWN;
        pthread_mutex_unlock(&s->lock);
        if (!rc)
            return;
    }
    /* Without it the replicas learn of the new primary from the configuration's other nodes. */
    log_warn("stream", "the replicas could not be told about the new primary %s", primary);
    json_decref(o);
    free(h);
}
