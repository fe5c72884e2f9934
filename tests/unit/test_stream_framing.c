/* The stream as a client sees it, over a real socket, from a real log. */
#include "replicator/stream/stream_server.h"

#include "lib/crc.h"
#include "lib/http/server.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/stream/replicas.h"
#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

struct world {
    char dir[64];
    struct config config;
    struct node n;
    struct event_base *base;
    struct stream_server *streams;
    pthread_t loop;
};

static void handle(struct http_request *req, void *arg)
{
    struct world *w = arg;
    stream_server_handle(req, w->streams);
}

static void *run_loop(void *arg)
{
    struct world *w = arg;
    event_base_loop(w->base, EVLOOP_NO_EXIT_ON_EMPTY);
    return NULL;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct err e;
    static char node[] = "a", data[64];
    strcpy(w->dir, "/tmp/test_stream.XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    snprintf(data, sizeof data, "%s", w->dir);
    w->config = (struct config){.node = node, .dir = data, .data = data};
    struct node *n = &w->n;
    *n = (struct node){.config = &w->config, .start_ns = now_ns(), .primary = "a", .primary_url = "http://a:1"};
    pthread_mutex_init(&n->lock, NULL);
    n->data_fd = open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    n->sums_fd = dup(n->data_fd);
    atomic_store(&n->role, NODE_PRIMARY);
    char log[80];
    snprintf(log, sizeof log, "%s/log", w->dir);
    mkdir(log, 0700);
    struct rlog_options o = {.segment_size = 4 << 20, .retention_bytes = 1 << 30, .retention_age_ms = 1u << 30};
    assert_int_equal(rlog_open(log, &o, &n->rlog, &e), 0);
    assert_int_equal(sequencer_open(n->rlog, &n->sequencer, &e), 0);
    assert_int_equal(epochs_open(n->data_fd, &n->epochs, &e), 0);
    assert_int_equal(epochs_begin(n->epochs, 1, 1, &e), 0);
    sequencer_set_epoch(n->sequencer, 1);
    assert_int_equal(databases_open(n->sums_fd, &n->databases, &e), 0);
    assert_int_equal(replicas_open(&n->replicas, &e), 0);
    evthread_use_pthreads();
    w->base = event_base_new();
    struct http_route route = {HTTP_M_GET, "/v1/stream", HTTP_EOF_IS_GONE, handle, w, 0};
    struct http_server_options ho = {.host = "127.0.0.1"};
    assert_int_equal(http_server_open(w->base, &ho, &route, 1, &n->http, &e), 0);
    assert_int_equal(stream_server_open(n, w->base, &w->streams, &e), 0);
    sequencer_on_append(n->sequencer, stream_server_wake, w->streams);
    assert_int_equal(pthread_create(&w->loop, NULL, run_loop, w), 0);
    *state = w;
    return 0;
}

static void stop_loop(void *arg)
{
    struct world *w = arg;
    stream_server_stop(w->streams);
    event_base_loopbreak(w->base);
}

static int teardown(void **state)
{
    struct world *w = *state;
    char cmd[128];
    http_server_post(w->n.http, stop_loop, w);
    pthread_join(w->loop, NULL);
    http_server_close(w->n.http);
    stream_server_close(w->streams);
    event_base_free(w->base);
    replicas_close(w->n.replicas);
    databases_close(w->n.databases);
    epochs_close(w->n.epochs);
    sequencer_close(w->n.sequencer);
    rlog_close(w->n.rlog);
    close(w->n.data_fd);
    close(w->n.sums_fd);
    snprintf(cmd, sizeof cmd, "rm -r %s", w->dir);
    assert_int_equal(system(cmd), 0);
    free(w);
    return 0;
}

/* ---- a client ---- */

struct client {
    int fd;
    uint8_t *buf;
    size_t len, cap, at;
};

static int get(struct world *w, const char *query, struct client *c)
{
    char req[2048];
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(http_server_port(w->n.http)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval tv = {.tv_sec = 5};
    *c = (struct client){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .cap = 64 << 20};
    c->buf = malloc(c->cap);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    assert_int_equal(connect(c->fd, (struct sockaddr *)&a, sizeof a), 0);
    int n = snprintf(req, sizeof req, "GET /v1/stream%s HTTP/1.1\r\nHost: x\r\n\r\n", query);
    assert_int_equal(send(c->fd, req, (size_t)n, 0), n);
    size_t head = 0; /* the header block, byte by byte */
    while (head < 4 || memcmp(c->buf + head - 4, "\r\n\r\n", 4) != 0)
        assert_int_equal(recv(c->fd, c->buf + head++, 1, 0), 1);
    return atoi((char *)c->buf + 9);
}

static void done(struct client *c)
{
    close(c->fd);
    free(c->buf);
}

/* More bytes; false at the end of the stream. */
static bool more(struct client *c)
{
    assert_true(c->len < c->cap);
    ssize_t k = recv(c->fd, c->buf + c->len, c->cap - c->len, 0);
    assert_true(k >= 0);
    c->len += (size_t)k;
    return k > 0;
}

/* The next frame; heartbeats of the timer (no payload on a primary) are left out. */
static const uint8_t *next(struct client *c, struct record_head *h)
{
    for (;;) {
        long k = record_head_decode(c->buf + c->at, c->len - c->at, h);
        assert_true(k >= 0);
        if (k == 0 || c->len - c->at < (size_t)k + h->payload_len) {
            if (!more(c))
                return NULL;
            continue;
        }
        const uint8_t *payload = c->buf + c->at + k;
        assert_int_equal(crc32c(0, payload, h->payload_len), h->payload_crc);
        c->at += (size_t)k + h->payload_len;
        if (h->type != RECORD_HEARTBEAT || h->payload_len)
            return payload;
    }
}

static json_t *next_json(struct client *c, uint8_t type, struct record_head *h)
{
    const uint8_t *p = next(c, h);
    assert_non_null(p);
    assert_int_equal(h->type, type);
    json_t *o = json_loadb((const char *)p, h->payload_len, 0, NULL);
    assert_non_null(o);
    return o;
}

static uint64_t append(struct world *w, uint8_t type, const char *name, const void *payload, size_t n)
{
    uint64_t lsn;
    struct err e;
    assert_int_equal(sequencer_append(w->n.sequencer, type, name, payload, n, &lsn, &e), 0);
    return lsn;
}

static void expect(struct client *c, uint8_t type, uint64_t lsn, const char *name, const void *payload, size_t n)
{
    struct record_head h;
    const uint8_t *p = next(c, &h);
    assert_non_null(p);
    assert_int_equal(h.type, type);
    assert_int_equal(h.pos.lsn, lsn);
    assert_string_equal(h.name, name);
    assert_int_equal(h.payload_len, n);
    assert_memory_equal(p, payload, n);
}

/* ---- tests ---- */

static void records_follow_a_heartbeat_that_tells_the_history(void **state)
{
    struct world *w = *state;
    struct client c;
    struct record_head h;
    append(w, RECORD_EPOCH, "", "a", 1);
    append(w, RECORD_TX, "x.db", "hello", 5);
    assert_int_equal(get(w, "?epoch=0&lsn=0&node=b&url=http://b:2", &c), 200);
    json_t *o = next_json(&c, RECORD_HEARTBEAT, &h);
    assert_int_equal(h.pos.lsn, 2);
    assert_string_equal(json_string_value(json_object_get(o, "node")), "a");
    assert_string_equal(json_string_value(json_object_get(o, "primary_url")), "http://a:1");
    assert_string_equal(json_string_value(json_object_get(o, "role")), "primary");
    assert_int_equal(json_array_size(json_object_get(o, "epochs")), 1);
    json_decref(o);
    expect(&c, RECORD_EPOCH, 1, "", "a", 1);
    expect(&c, RECORD_TX, 2, "x.db", "hello", 5);
    assert_true(replicas_find(w->n.replicas, "b", NULL));
    for (int i = 0; i < 100; i++) { /* live */
        uint64_t lsn = append(w, RECORD_TX, "x.db", &i, sizeof i);
        expect(&c, RECORD_TX, lsn, "x.db", &i, sizeof i);
    }
    done(&c);
    for (int i = 0; i < 500 && replicas_find(w->n.replicas, "b", NULL); i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    assert_false(replicas_find(w->n.replicas, "b", NULL));
}

static void what_is_sent_decodes_at_every_split_point(void **state)
{
    struct world *w = *state;
    struct client c;
    append(w, RECORD_EPOCH, "", "a", 1);
    append(w, RECORD_TX, "dir/x.db", "some bytes", 10);
    append(w, RECORD_RENAME, "dir/x.db", "y.db", 4);
    append(w, RECORD_DROP, "y.db", NULL, 0);
    assert_int_equal(get(w, "?epoch=0&lsn=0&databases=d*", &c), 200);
    struct record_head h;
    while (next(&c, &h) && (h.type == RECORD_HEARTBEAT || h.pos.lsn < 4))
        ;
    size_t total = c.at, frames = 0;
    for (size_t at = 0; at < total; frames++) {
        long whole = record_head_decode(c.buf + at, total - at, &h);
        assert_true(whole > 0);
        for (size_t n = 0; n < (size_t)whole; n++) {
            struct record_head part;
            uint8_t *copy = malloc(n ? n : 1); /* so that a read past its end is seen */
            memcpy(copy, c.buf + at, n);
            assert_int_equal(record_head_decode(copy, n, &part), 0);
            free(copy);
        }
        for (size_t n = (size_t)whole; n <= (size_t)whole + h.payload_len && at + n <= total; n++) {
            struct record_head part;
            assert_int_equal(record_head_decode(c.buf + at, n, &part), whole);
        }
        at += (size_t)whole + h.payload_len;
    }
    assert_true(frames >= 5);
    done(&c);
}

static void an_unknown_position_gets_a_reset_and_what_follows(void **state)
{
    struct world *w = *state;
    static const char *const queries[] = {"?epoch=7&lsn=1", "?epoch=1&lsn=9", "?epoch=2&lsn=0"};
    struct client c;
    struct record_head h;
    struct err e;
    struct database *db = databases_get(w->n.databases, "x.db", &e);
    db->state = DATABASE_OK;
    databases_get(w->n.databases, "other", &e)->state = DATABASE_OTHER;
    append(w, RECORD_EPOCH, "", "a", 1);
    append(w, RECORD_TX, "x.db", "1", 1);
    for (size_t i = 0; i < ARRAY_SIZE(queries); i++) {
        assert_int_equal(get(w, queries[i], &c), 200);
        json_t *o = next_json(&c, RECORD_RESET, &h);
        assert_int_equal(h.pos.lsn, 2 + i);
        assert_int_equal(h.pos.epoch, 1);
        json_t *list = json_object_get(o, "databases");
        assert_int_equal(json_array_size(list), 1);
        assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "name")), "x.db");
        assert_int_equal(json_array_size(json_object_get(o, "epochs")), 1);
        json_decref(o);
        uint64_t lsn = append(w, RECORD_TX, "x.db", "2", 1);
        expect(&c, RECORD_TX, lsn, "x.db", "2", 1);
        done(&c);
    }
}

static void databases_that_are_not_wanted_become_noops(void **state)
{
    struct world *w = *state;
    struct client c;
    append(w, RECORD_EPOCH, "", "a", 1);
    append(w, RECORD_TX, "x.db", "x", 1);
    append(w, RECORD_TX, "t/y.db", "y", 1);
    append(w, RECORD_RENAME, "z.db", "t/z.db", 6);
    assert_int_equal(get(w, "?epoch=0&lsn=0&databases=t%2F*", &c), 200);
    struct record_head h;
    json_decref(next_json(&c, RECORD_HEARTBEAT, &h));
    expect(&c, RECORD_EPOCH, 1, "", "a", 1);
    expect(&c, RECORD_NOOP, 2, "", "", 0);
    expect(&c, RECORD_TX, 3, "t/y.db", "y", 1);
    expect(&c, RECORD_RENAME, 4, "z.db", "t/z.db", 6);
    append(w, RECORD_TX, "x.db", "x", 1);
    expect(&c, RECORD_NOOP, 5, "", "", 0);
    done(&c);
}

static void a_slow_client_gets_every_byte_of_a_long_log(void **state)
{
    struct world *w = *state;
    struct client c;
    struct record_head h;
    static uint8_t big[300000];
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = (uint8_t)(i * 7);
    for (int i = 0; i < 100; i++) {
        append(w, RECORD_TX, "x.db", big, (size_t)(i % 3 ? 100 : 300000));
        append(w, RECORD_TX, "y.db", big, (size_t)i);
    }
    assert_int_equal(get(w, "?epoch=1&lsn=1", &c), 200);
    json_decref(next_json(&c, RECORD_HEARTBEAT, &h));
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL); /* socket buffers fill up */
    for (uint64_t lsn = 2; lsn <= 200; lsn++) {
        int i = (int)(lsn - 1) / 2;
        bool x = lsn % 2 == 1;
        expect(&c, RECORD_TX, lsn, x ? "x.db" : "y.db", big, (size_t)(x ? (i % 3 ? 100 : 300000) : i));
    }
    done(&c);
}

static void the_stream_says_goodbye_when_the_log_is_reset(void **state)
{
    struct world *w = *state;
    struct client c;
    struct record_head h;
    struct err e;
    append(w, RECORD_EPOCH, "", "a", 1);
    assert_int_equal(get(w, "?epoch=1&lsn=1", &c), 200);
    json_decref(next_json(&c, RECORD_HEARTBEAT, &h));
    assert_int_equal(rlog_reset(w->n.rlog, (struct position){1, 100}, &e), 0);
    append(w, RECORD_TX, "x.db", "1", 1);
    json_decref(next_json(&c, RECORD_GOODBYE, &h));
    assert_null(next(&c, &h));
    done(&c);
    assert_int_equal(get(w, "?epoch=0&lsn=0", &c), 200); /* and an empty node can no longer follow from 1 */
    json_decref(next_json(&c, RECORD_RESET, &h));
    assert_int_equal(h.pos.lsn, 101);
    done(&c);
}

static void a_handoff_names_the_new_primary_and_ends_the_stream(void **state)
{
    struct world *w = *state;
    struct client c[2];
    struct record_head h;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(get(w, "?epoch=0&lsn=0", &c[i]), 200);
        json_decref(next_json(&c[i], RECORD_HEARTBEAT, &h));
    }
    stream_server_handoff(w->streams, "b", "http://b:2", 4);
    for (int i = 0; i < 2; i++) {
        json_t *o = next_json(&c[i], RECORD_HANDOFF, &h);
        assert_string_equal(json_string_value(json_object_get(o, "primary")), "b");
        assert_string_equal(json_string_value(json_object_get(o, "url")), "http://b:2");
        assert_int_equal(json_integer_value(json_object_get(o, "epoch")), 4);
        json_decref(o);
        assert_null(next(&c[i], &h));
        done(&c[i]);
    }
}

static void bad_parameters_are_refused(void **state)
{
    struct world *w = *state;
    struct client c;
    char glob[1200] = "?epoch=0&lsn=0&databases=";
    memset(glob + strlen(glob), 'x', 1024);
    const char *queries[] = {"", "?epoch=0", "?epoch=-1&lsn=0", "?epoch=0&lsn=1x", "?epoch=0&lsn=99999999999999999999",
                             "?epoch=0&lsn=18446744073709551615", "?epoch=0&lsn=0&node=..%2Fb", "?epoch=0&lsn=0&node=b&url=gopher:x", glob};
    for (size_t i = 0; i < ARRAY_SIZE(queries); i++) {
        assert_int_equal(get(w, queries[i], &c), 400);
        done(&c);
    }
    assert_int_equal(stream_server_count(w->streams), 0);
    atomic_store(&w->n.role, NODE_STARTING);
    assert_int_equal(get(w, "?epoch=0&lsn=0", &c), 503);
    done(&c);
}

static void a_heartbeat_comes_each_second_with_the_position(void **state)
{
    struct world *w = *state;
    struct client c;
    struct record_head h;
    append(w, RECORD_EPOCH, "", "a", 1);
    assert_int_equal(get(w, "?epoch=1&lsn=1", &c), 200);
    json_decref(next_json(&c, RECORD_HEARTBEAT, &h));
    for (int i = 0; i < 2; i++) {
        while (record_head_decode(c.buf + c.at, c.len - c.at, &h) == 0)
            assert_true(more(&c));
        assert_int_equal(h.type, RECORD_HEARTBEAT);
        assert_int_equal(h.pos.lsn, 1);
        assert_int_equal(h.payload_len, 0);
        c.at += record_head_size(&h);
    }
    done(&c);
}

int main(void)
{
    log_init("test", "a", LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(records_follow_a_heartbeat_that_tells_the_history),
        T(what_is_sent_decodes_at_every_split_point),
        T(an_unknown_position_gets_a_reset_and_what_follows),
        T(databases_that_are_not_wanted_become_noops),
        T(a_slow_client_gets_every_byte_of_a_long_log),
        T(the_stream_says_goodbye_when_the_log_is_reset),
        T(a_handoff_names_the_new_primary_and_ends_the_stream),
        T(bad_parameters_are_refused),
        T(a_heartbeat_comes_each_second_with_the_position),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
