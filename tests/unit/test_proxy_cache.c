/* The response cache, fed by hand, with a replicator that the test plays itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "edgefs/position_feed.h"
#include "http-proxy/cache.h"
#include "http-proxy/condition.h"
#include "http-proxy/freshness.h"
#include "http-proxy/metrics.h"
#include "lib/localsock.h"
#include "lib/util.h"
#include <event2/event.h>
#include <stdio.h>
#include <sys/socket.h>

static struct fixture {
    char folder[64], path[96];
    int listener, fd;
    struct event_base *base;
    struct position_tracker *t;
    struct position_feed_now now;
    struct config_cache_route routes[2];
    struct config_proxy app;
    struct cache *c;
} f;

#define UNTIL(condition)                                                                                                                   \
    do {                                                                                                                                   \
        uint64_t until_ = now_ns() + 10000000000u;                                                                                         \
        while (!(condition) && now_ns() < until_)                                                                                          \
            event_base_loop(f.base, EVLOOP_ONCE | EVLOOP_NONBLOCK);                                                                        \
        assert_true(condition);                                                                                                            \
    } while (0)

static void say(enum position_feed_kind kind, uint64_t id, uint64_t touched)
{
    struct position_feed_msg m = {.kind = (uint16_t)kind, .version = 1, .id = id, .touched = touched, .now = f.now};
    uint8_t tail[sizeof(struct position_feed_state) + 2 * sizeof(struct position_feed_epoch)] = {0};
    struct position_feed_state head = {.role = POSITION_FEED_REPLICA, .flags = POSITION_FEED_CONNECTED, .n_epochs = (uint8_t)f.now.applied.epoch};
    struct position_feed_epoch epochs[2] = {{1, 1}, {2, 500}};
    memcpy(tail, &head, sizeof head);
    memcpy(tail + sizeof head, epochs, sizeof epochs);
    size_t n = kind == POSITION_FEED_STATE ? sizeof head + head.n_epochs * sizeof *epochs : 0;
    assert_int_equal(localsock_send(f.fd, &m, sizeof m, tail, n, NULL, 0), 0);
}

/* A record at this LSN changed the databases of route 0 (or, all: of both). */
static void change(uint64_t lsn, bool all)
{
    if (all)
        say(POSITION_FEED_TOUCHED, 0, lsn);
    say(POSITION_FEED_TOUCHED, 1, lsn);
    f.now.applied.lsn = f.now.last.lsn = lsn;
    say(POSITION_FEED_MOVED, 0, 0);
    UNTIL(position_state(f.t)->pos.lsn == lsn);
}

static int setup(void **state)
{
    static char notes_db[] = "notes.db", some[] = "/n/*", all[] = "/all/*", web[] = "web", *notes[] = {notes_db};
    struct err e;
    (void)state;
    memset(&f, 0, sizeof f);
    strcpy(f.folder, "/tmp/edgefs-test-XXXXXX");
    assert_non_null(mkdtemp(f.folder));
    snprintf(f.path, sizeof f.path, "%s/s", f.folder);
    f.listener = localsock_listen(f.path, &e);
    assert_int_equal(evutil_make_socket_nonblocking(f.listener), 0);
    f.base = event_base_new();
    assert_int_equal(position_open(f.base, f.path, &f.t, &e), 0);
    f.routes[0] = (struct config_cache_route){.path = some, .databases = {notes, 1}};
    f.routes[1] = (struct config_cache_route){.path = all};
    f.app = (struct config_proxy){.name = web, .cache = f.routes, .n_cache = 2, .cache_size = 20000, .cache_object = 4096};
    assert_int_equal(cache_open(&f.app, f.t, &f.c, &e), 0);
    f.now = (struct position_feed_now){.seq = 1, .applied = {1, 100}, .last = {1, 100}};
    f.fd = -1;
    UNTIL(f.fd >= 0 || (f.fd = accept4(f.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0);
    say(POSITION_FEED_STATE, 0, 0);
    say(POSITION_FEED_TOUCHED, 0, 0);
    say(POSITION_FEED_TOUCHED, 1, 0);
    UNTIL(position_touched(f.t, 0) == 100 && position_touched(f.t, 1) == 100);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cache_close(f.c);
    position_close(f.t);
    event_base_free(f.base);
    close(f.fd);
    close(f.listener);
    unlink(f.path);
    rmdir(f.folder);
    return 0;
}

struct message {
    char text[8192];
    struct head h;
};

static struct message *request(const char *target, const char *fields)
{
    struct message *m = malloc(sizeof *m);
    struct head_error e;
    int n = snprintf(m->text, sizeof m->text, "%s HTTP/1.1\r\nHost: h\r\n%s\r\n", target, fields);
    assert_int_equal(head_parse_request(&m->h, m->text, (size_t)n, sizeof m->text, 128, &e), HEAD_DONE);
    return m;
}

static struct message *response(int status, const char *fields)
{
    struct message *m = malloc(sizeof *m);
    struct head_error e;
    int n = snprintf(m->text, sizeof m->text, "HTTP/1.1 %d Fine\r\n%s\r\n", status, fields);
    assert_int_equal(head_parse_response(&m->h, m->text, (size_t)n, sizeof m->text, 128, &e), HEAD_DONE);
    return m;
}

#define AT 1000000u /* ms */

/* Asks; on a hit the body is compared with it (NULL: no matter). */
static enum cache_result ask(const char *target, const char *fields, uint64_t ms, const char *body)
{
    struct message *q = request(target, fields);
    struct cache_wait w = {0};
    struct cache_entry *e = NULL;
    struct cache_flight *fl = NULL;
    enum cache_result r = cache_lookup(f.c, &q->h, AT + ms, &w, &e, &fl);
    if (r == CACHE_HIT) {
        struct slice b = cache_entry_body(e);
        if (body && (b.n != strlen(body) || memcmp(b.p, body, b.n) != 0))
            fail_msg("%s: %.*s", target, (int)b.n, b.p);
        cache_release(f.c, e);
    } else if (r == CACHE_FETCH) {
        cache_flight_abandon(fl);
    } else if (r == CACHE_WAIT) {
        cache_wait_cancel(f.c, &w);
    }
    free(q);
    return r;
}

static struct message *kept[2]; /* of the flight that store() left open */

static struct cache_flight *take_off(const char *target, const char *fields, uint64_t ms)
{
    struct cache_wait w = {0};
    struct cache_entry *e;
    struct cache_flight *fl = NULL;
    free(kept[0]);
    kept[0] = request(target, fields);
    assert_int_equal(cache_lookup(f.c, &kept[0]->h, AT + ms, &w, &e, &fl), CACHE_FETCH);
    return fl;
}

/* Feeds a whole response. False: it was not stored. */
static bool feed(struct cache_flight *fl, int status, const char *fields, const char *body)
{
    free(kept[1]);
    kept[1] = response(status, fields);
    if (!cache_flight_head(fl, &kept[1]->h))
        return false;
    for (; *body; body++) /* in the smallest pieces */
        if (!cache_flight_data(fl, (struct slice){body, 1}))
            return false;
    cache_flight_done(fl);
    return true;
}

static void store(const char *target, const char *fields, uint64_t ms, const char *response_fields, const char *body)
{
    char all[1024];
    snprintf(all, sizeof all, "Content-Length: %zu\r\n%s", strlen(body), response_fields);
    assert_true(feed(take_off(target, fields, ms), 200, all, body));
}

static void a_stored_response_is_given_until_it_is_stale(void **state)
{
    (void)state;
    store("GET /n/1?x", "", 0, "Cache-Control: max-age=10\r\nX-A: b\r\nConnection: close\r\nAge: 4\r\n", "hello");
    assert_int_equal(ask("GET /n/1?x", "", 5999, "hello"), CACHE_HIT);
    assert_int_equal(ask("GET /n/1?y", "", 10, NULL), CACHE_FETCH);
    assert_int_equal(ask("GET /other", "", 10, NULL), CACHE_BYPASS);
    assert_int_equal(ask("GET /n/1?x", "", 6000, NULL), CACHE_FETCH);
    store("GET /n/2", "", 0, "Cache-Control: max-age=10\r\nX-A: b\r\nConnection: close\r\nAge: 4\r\nKeep-Alive: x\r\n", "hello");
    struct message *q = request("GET /n/2", "");
    struct cache_wait w = {0};
    struct cache_entry *e;
    struct cache_flight *fl;
    struct extra x;
    assert_int_equal(cache_lookup(f.c, &q->h, AT + 1000, &w, &e, &fl), CACHE_HIT);
    static const char head[] = "HTTP/1.1 200 Fine\r\nCache-Control: max-age=10\r\nX-A: b\r\nContent-Length: 5\r\n";
    assert_int_equal(cache_entry_head(e).n, sizeof head - 1);
    assert_memory_equal(cache_entry_head(e).p, head, sizeof head - 1);
    extra_clear(&x);
    cache_entry_fields(e, AT + 1000, &x);
    assert_memory_equal(x.buf, "Age: 5\r\n", 8);
    /* Who sends it goes on sending, whatever becomes of it. */
    change(101, true);
    assert_int_equal(ask("GET /n/2", "", 1001, NULL), CACHE_FETCH);
    assert_memory_equal(cache_entry_body(e).p, "hello", 5);
    cache_release(f.c, e);
    free(q);
}

static void chunked_bodies_are_stored_without_their_framing(void **state)
{
    (void)state;
    assert_true(feed(take_off("GET /n/c", "", 0), 200, "Transfer-Encoding: chunked\r\nCache-Control: max-age=9\r\n",
                     "3;x=y\r\nabc\r\n4\r\ndefg\r\n0\r\nTrailer: x\r\n\r\n"));
    assert_int_equal(ask("GET /n/c", "", 0, "abcdefg"), CACHE_HIT);
}

static void what_changed_is_dropped(void **state)
{
    (void)state;
    store("GET /n/1", "", 0, "Cache-Control: max-age=60\r\n", "n");
    store("GET /all/1", "", 0, "Cache-Control: max-age=60\r\n", "a");
    change(101, false); /* some other database */
    assert_int_equal(ask("GET /n/1", "", 1, "n"), CACHE_HIT);
    assert_int_equal(ask("GET /all/1", "", 1, NULL), CACHE_FETCH);
    change(102, true);
    assert_int_equal(ask("GET /n/1", "", 2, NULL), CACHE_FETCH);
    /* What was fetched before a change, and came after it, is not given to anybody. */
    struct cache_flight *fl = take_off("GET /n/1", "", 3);
    change(103, true);
    assert_true(feed(fl, 200, "Content-Length: 3\r\nCache-Control: max-age=60\r\n", "old"));
    assert_int_equal(ask("GET /n/1", "", 4, NULL), CACHE_FETCH);
    store("GET /n/1", "", 5, "Cache-Control: max-age=60\r\n", "new");
    assert_int_equal(ask("GET /n/1", "", 6, "new"), CACHE_HIT);
    /* Another epoch: LSNs may mean something else. */
    f.now.applied.epoch = f.now.last.epoch = 2;
    say(POSITION_FEED_STATE, 0, 0);
    UNTIL(position_state(f.t)->pos.epoch == 2);
    assert_int_equal(ask("GET /n/1", "", 7, NULL), CACHE_FETCH);
    /* Without the replicator nobody knows what changed. */
    store("GET /n/1", "", 8, "Cache-Control: max-age=60\r\n", "x");
    close(f.fd);
    UNTIL(!position_state(f.t)->connected);
    assert_int_equal(ask("GET /n/1", "", 9, NULL), CACHE_BYPASS);
}

struct waiter {
    struct cache_wait w; /* first */
    struct message *q;
    int called;
    enum cache_result then; /* what it gets when it asks again at once */
    uint64_t ms;
};

static void on_done(struct cache_wait *w)
{
    ((struct waiter *)w)->called++;
}

static void again(struct waiter *x)
{
    struct cache_entry *e;
    struct cache_flight *fl;
    x->then = cache_lookup(f.c, &x->q->h, AT + x->ms, &x->w, &e, &fl);
    if (x->then == CACHE_HIT)
        cache_release(f.c, e);
    else if (x->then == CACHE_FETCH)
        cache_flight_abandon(fl);
}

static void one_request_fetches_for_all(void **state)
{
    struct waiter w[5] = {0};
    struct cache_entry *e;
    struct cache_flight *fl = take_off("GET /n/1", "", 0), *other;
    (void)state;
    for (int i = 0; i < 5; i++) {
        w[i].q = request("GET /n/1", "");
        w[i].w.done = on_done;
        assert_int_equal(cache_lookup(f.c, &w[i].q->h, AT + 1, &w[i].w, &e, &other), CACHE_WAIT);
    }
    cache_wait_cancel(f.c, &w[3].w);
    assert_true(feed(fl, 200, "Content-Length: 2\r\nCache-Control: max-age=60, stale-while-revalidate=30\r\n", "ok"));
    for (int i = 0; i < 5; i++) {
        assert_int_equal(w[i].called, i != 3);
        again(&w[i]);
        assert_int_equal(w[i].then, CACHE_HIT);
    }
    /* Stale: one revalidates, the others get what is there. */
    fl = take_off("GET /n/1", "", 60000);
    assert_int_equal(ask("GET /n/1", "", 60000, "ok"), CACHE_HIT);
    assert_int_equal(ask("GET /n/1", "", 89999, "ok"), CACHE_HIT);
    assert_int_equal(ask("GET /n/1", "", 90000, NULL), CACHE_WAIT); /* too stale for that */
    /* The one that fetches goes away: the first that waited fetches. */
    w[0].called = 0;
    w[0].ms = 90000;
    assert_int_equal(cache_lookup(f.c, &w[0].q->h, AT + 90000, &w[0].w, &e, &other), CACHE_WAIT);
    cache_flight_abandon(fl);
    assert_int_equal(w[0].called, 1);
    again(&w[0]);
    assert_int_equal(w[0].then, CACHE_FETCH);
    for (int i = 0; i < 5; i++)
        free(w[i].q);
}

static void what_may_not_be_stored_is_not_waited_for_again(void **state)
{
    struct cache_flight *fl = take_off("GET /n/1", "", 0), *other;
    struct waiter w = {.q = request("GET /n/1", ""), .w = {.done = on_done}, .ms = 1};
    struct cache_entry *e;
    (void)state;
    assert_int_equal(cache_lookup(f.c, &w.q->h, AT + 1, &w.w, &e, &other), CACHE_WAIT);
    assert_false(feed(fl, 200, "Content-Length: 2\r\nCache-Control: private, max-age=60\r\n", "ok"));
    assert_int_equal(w.called, 1);
    again(&w);
    assert_int_equal(w.then, CACHE_BYPASS);
    assert_int_equal(ask("GET /n/1", "", 9999, NULL), CACHE_BYPASS);
    assert_int_equal(ask("GET /n/1", "", 10000, NULL), CACHE_FETCH);
    free(w.q);
    /* Too large, announced and not. */
    assert_false(feed(take_off("GET /n/2", "", 0), 200, "Content-Length: 4097\r\nCache-Control: max-age=60\r\n", ""));
    static char long_body[5000];
    memset(long_body, 'x', 4999);
    memcpy(long_body, "1200\r\n", 6);
    assert_false(feed(take_off("GET /n/3", "", 0), 200, "Transfer-Encoding: chunked\r\nCache-Control: max-age=60\r\n", long_body));
    assert_int_equal(ask("GET /n/3", "", 1, NULL), CACHE_BYPASS);
}

static void vary_separates(void **state)
{
    (void)state;
    store("GET /n/1", "Accept-Language: de\r\n", 0, "Vary: Accept-Language , x-y\r\nCache-Control: max-age=60\r\n", "deutsch");
    assert_int_equal(ask("GET /n/1", "Accept-Language: de\r\n", 1, "deutsch"), CACHE_HIT);
    assert_int_equal(ask("GET /n/1", "Accept-Language: en\r\n", 1, NULL), CACHE_FETCH);
    store("GET /n/1", "Accept-Language: en\r\nX-Y: 1\r\n", 2, "Vary: Accept-Language, X-Y\r\nCache-Control: max-age=60\r\n", "english");
    assert_int_equal(ask("GET /n/1", "Accept-Language: de\r\n", 3, "deutsch"), CACHE_HIT);
    assert_int_equal(ask("GET /n/1", "accept-language: en\r\nx-y: 1\r\n", 3, "english"), CACHE_HIT);
    assert_int_equal(ask("GET /n/1", "Accept-Language: en\r\n", 3, NULL), CACHE_FETCH);
    assert_int_equal(ask("GET /n/1", "", 3, NULL), CACHE_FETCH);
    char language[64];
    for (int i = 0; i < 50; i++) { /* bounded */
        snprintf(language, sizeof language, "Accept-Language: l%d\r\n", i);
        store("GET /n/1", language, 4, "Vary: Accept-Language\r\nCache-Control: max-age=60\r\n", "x");
    }
    assert_int_equal(ask("GET /n/1", "Accept-Language: l49\r\n", 5, "x"), CACHE_HIT);
    assert_int_equal(ask("GET /n/1", "Accept-Language: l0\r\n", 5, NULL), CACHE_FETCH);
}

static void memory_is_bounded_and_the_least_used_goes_first(void **state)
{
    struct proxy_gauges g = {0};
    char target[32], body[3001];
    (void)state;
    cache_count(f.c, &g);
    memset(body, 'b', 3000);
    body[3000] = 0;
    for (int i = 0; i < 50; i++) {
        snprintf(target, sizeof target, "GET /n/%d", i);
        store(target, "", 0, "Cache-Control: max-age=60\r\n", body);
        assert_true(g.cache_bytes <= 20000);
        if (i)
            assert_int_equal(ask("GET /n/0", "", 0, body), CACHE_HIT); /* used all the time */
    }
    assert_in_range(g.cache_entries, 3, 6);
    assert_int_equal(ask("GET /n/49", "", 0, body), CACHE_HIT);
    assert_int_equal(ask("GET /n/2", "", 0, NULL), CACHE_FETCH);
}

static void requests_that_are_not_for_the_cache(void **state)
{
    static const struct {
        const char *line, *fields;
        enum freshness_asks asks;
    } rows[] = {
        {"GET /", "", FRESHNESS_ANY},
        {"GET /", "Cache-Control: max-stale=5\r\nCookie: a=b\r\n", FRESHNESS_ANY},
        {"HEAD /", "", FRESHNESS_STORED},
        {"HEAD /", "Cache-Control: no-cache\r\n", FRESHNESS_NOTHING},
        {"POST /", "", FRESHNESS_NOTHING},
        {"GET /", "Content-Length: 1\r\n", FRESHNESS_NOTHING},
        {"GET /", "Authorization: x\r\n", FRESHNESS_NOTHING},
        {"GET /", "Range: bytes=0-\r\n", FRESHNESS_NOTHING},
        {"GET /", "If-None-Match: x\r\n", FRESHNESS_STORED},
        {"GET /", "If-Modified-Since: x\r\n", FRESHNESS_STORED},
        {"GET /", "If-None-Match: x\r\nCache-Control: max-age=0\r\n", FRESHNESS_NOTHING},
        {"GET /", "If-Match: x\r\n", FRESHNESS_NOTHING},
        {"GET /", "If-None-Match: x\r\nIf-Range: x\r\n", FRESHNESS_NOTHING},
        {"GET /", "Cache-Control: no-store\r\n", FRESHNESS_NOTHING},
        {"GET /", "Cache-Control: no-cache\r\n", FRESHNESS_REFRESH},
        {"GET /", "Cache-Control: max-age=0\r\n", FRESHNESS_REFRESH},
        {"GET /", "Cache-Control: max-age=7\r\n", FRESHNESS_ANY},
        {"GET /", "Pragma: no-cache\r\n", FRESHNESS_REFRESH},
        {"GET /", "Upgrade: websocket\r\nConnection: upgrade\r\n", FRESHNESS_NOTHING},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct message *m = request(rows[i].line, rows[i].fields);
        if (freshness_of_request(&m->h) != rows[i].asks)
            fail_msg("%s %s", rows[i].line, rows[i].fields);
        free(m);
    }
}

static void head_and_conditions_are_answered_from_what_is_stored_and_fetch_nothing(void **state)
{
    (void)state;
    assert_int_equal(ask("HEAD /n/1", "", 0, NULL), CACHE_BYPASS);
    assert_int_equal(ask("GET /n/1", "If-None-Match: \"a\"\r\n", 0, NULL), CACHE_BYPASS);
    store("GET /n/1", "", 0, "Cache-Control: max-age=10, stale-while-revalidate=10\r\nETag: \"a\"\r\n", "ab");
    assert_int_equal(ask("HEAD /n/1", "", 0, NULL), CACHE_HIT);
    assert_int_equal(ask("GET /n/1", "If-None-Match: \"a\"\r\n", 9999, NULL), CACHE_HIT);
    assert_int_equal(ask("HEAD /n/1", "", 10000, NULL), CACHE_BYPASS); /* stale: it cannot revalidate */
    struct cache_flight *fl = take_off("GET /n/1", "", 10000);
    assert_int_equal(ask("HEAD /n/1", "", 10000, NULL), CACHE_HIT); /* … and another one does */
    cache_flight_abandon(fl);
}

static void conditions_are_compared_with_what_is_stored(void **state)
{
    static const struct {
        const char *fields, *stored;
        bool unmodified;
    } rows[] = {
        {"If-None-Match: \"a\"\r\n", "ETag: \"a\"\r\n", 1},
        {"If-None-Match: \"b\"\r\n", "ETag: \"a\"\r\n", 0},
        {"If-None-Match: \"b\", W/\"a\"\r\n", "Server: x\r\netag: \"a\"\r\n", 1},
        {"If-None-Match: \"x,y\" , \"a\"\r\n", "ETag: W/\"a\"\r\nContent-Length: 2\r\n", 1},
        {"If-None-Match: \"b\"\r\nIf-None-Match: \"a\"\r\n", "ETag: \"a\"\r\n", 1},
        {"If-None-Match: a\r\n", "ETag: \"a\"\r\n", 0},
        {"If-None-Match: \"a\r\n", "ETag: \"a\"\r\n", 0},
        {"If-None-Match: *\r\n", "ETag: \"a\"\r\n", 1},
        {"If-None-Match: *\r\n", "Server: x\r\n", 1},
        {"If-None-Match: \"a\"\r\n", "Server: x\r\n", 0},
        {"If-None-Match: \"a\"\r\n", "X-ETag: \"a\"\r\n", 0},
        {"If-None-Match: \"b\"\r\nIf-Modified-Since: D\r\n", "ETag: \"a\"\r\nLast-Modified: D\r\n", 0}, /* the tag decides */
        {"If-Modified-Since: D\r\n", "ETag: \"a\"\r\nLast-Modified: D\r\n", 1},
        {"If-Modified-Since: E\r\n", "Last-Modified: D\r\n", 0},
        {"If-Modified-Since: D\r\n", "Server: x\r\n", 0},
        {"", "ETag: \"a\"\r\n", 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct message *m = request("GET /", rows[i].fields);
        if (condition_unmodified(&m->h, (struct slice){rows[i].stored, strlen(rows[i].stored)}) != rows[i].unmodified)
            fail_msg("%s against %s", rows[i].fields, rows[i].stored);
        free(m);
    }
}

static void responses_that_may_be_stored(void **state)
{
    static const struct {
        int status;
        const char *asked, *fields;
        uint64_t fresh_ms, stale_ms; /* 0: not to be stored */
    } rows[] = {
        {200, "", "Cache-Control: max-age=10\r\n", 10000, 0},
        {200, "", "Cache-Control: max-age=10, s-maxage=20\r\n", 20000, 0},
        {200, "", "Cache-Control: max-age=10, s-maxage=0\r\n", 0, 0},
        {200, "", "Cache-Control: max-age=10\r\nAge: 3\r\n", 7000, 0},
        {200, "", "Cache-Control: max-age=10\r\nAge: 10\r\n", 0, 0},
        {200, "", "cache-control: Max-Age=\"10\", Stale-While-Revalidate=5\r\n", 10000, 5000},
        {200, "", "Cache-Control: max-age=10, stale-while-revalidate=5, must-revalidate\r\n", 10000, 0},
        {200, "", "Cache-Control: max-age=99999999999999999999\r\n", 31536000000, 0},
        {200, "", "Cache-Control: max-age=1x\r\n", 0, 0},
        {200, "", "Cache-Control: public\r\n", 0, 0},
        {200, "", "", 0, 0},
        {200, "", "Cache-Control: max-age=10\r\nCache-Control: no-store\r\n", 0, 0},
        {200, "", "Cache-Control: max-age=10, private\r\n", 0, 0},
        {200, "", "Cache-Control: max-age=10, private=\"x\"\r\n", 0, 0},
        {200, "", "Cache-Control: max-age=10, no-cache\r\n", 0, 0},
        {200, "", "Cache-Control: max-age=10\r\nSet-Cookie: a=b\r\n", 0, 0},
        {200, "", "Cache-Control: max-age=10\r\nVary: a, *\r\n", 0, 0},
        {200, "Cookie: a=b\r\n", "Cache-Control: max-age=10\r\n", 0, 0},
        {200, "Cookie: a=b\r\n", "Cache-Control: max-age=10, public\r\n", 10000, 0},
        {200, "Cookie: a=b\r\n", "Cache-Control: s-maxage=10\r\n", 10000, 0},
        {200, "Cookie: __edge_write_pos=1-2\r\n", "Cache-Control: max-age=10\r\n", 10000, 0},
        {200, "Cookie: __edge_write_pos=1-2; b=c\r\n", "Cache-Control: max-age=10\r\n", 0, 0},
        {404, "", "Cache-Control: max-age=10\r\n", 10000, 0},
        {206, "", "Cache-Control: max-age=10\r\n", 0, 0},
        {302, "", "Cache-Control: max-age=10\r\n", 0, 0},
        {500, "", "Cache-Control: max-age=10\r\n", 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct message *q = request("GET /", rows[i].asked), *m = response(rows[i].status, rows[i].fields);
        struct freshness x = {0};
        bool may = freshness_of_response(&q->h, &m->h, &x);
        if (may != (rows[i].fresh_ms != 0) || (may && (x.fresh_ms != rows[i].fresh_ms || x.stale_ms != rows[i].stale_ms)))
            fail_msg("%d %s: %d, %llu, %llu", rows[i].status, rows[i].fields, may, (unsigned long long)x.fresh_ms, (unsigned long long)x.stale_ms);
        free(q);
        free(m);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_stored_response_is_given_until_it_is_stale),
        T(chunked_bodies_are_stored_without_their_framing),
        T(what_changed_is_dropped),
        T(one_request_fetches_for_all),
        T(what_may_not_be_stored_is_not_waited_for_again),
        T(vary_separates),
        T(memory_is_bounded_and_the_least_used_goes_first),
        T(head_and_conditions_are_answered_from_what_is_stored_and_fetch_nothing),
        cmocka_unit_test(conditions_are_compared_with_what_is_stored),
        cmocka_unit_test(requests_that_are_not_for_the_cache),
        cmocka_unit_test(responses_that_may_be_stored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
