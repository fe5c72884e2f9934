/* Where a request goes: the table of docs/proxy.md. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "http-proxy/credit.h"
#include "http-proxy/degrade.h"
#include "http-proxy/route.h"
#include "http-proxy/rules.h"
#include "lib/util.h"
#include <arpa/inet.h>
#include <stdio.h>

static const struct config_proxy app = {
    .max_wait_ms = 100,
    .failover_wait_ms = 10000,
    .lag = {.wait_records = 100, .wait_ms = 50, .stale_records = 1000},
    .degrade = {.lag = true, .write_slow = true, .primary = true, .neighbours = true, .control = true, .lag_ms = 60000, .write_p50_ms = 500,
                .write_queue = 3},
};

enum node { P, PH, R, R5, R500, R5000, RC, RD, RN, U, NODES };

/* Where the node stands. */
static const struct position_state states[NODES] = {
    [P] = {.connected = true, .role = POSITION_ROLE_PRIMARY, .primary_reachable = true, .primary = "me"},
    [PH] = {.connected = true, .role = POSITION_ROLE_PRIMARY, .primary_reachable = true, .primary = "me", .holding = true},
    [R] = {.connected = true, .role = POSITION_ROLE_REPLICA, .primary_reachable = true, .primary = "a"},
    [R5] = {.connected = true, .role = POSITION_ROLE_REPLICA, .primary_reachable = true, .primary = "a", .lag_records = 5, .lag_ms = 1500},
    [R500] = {.connected = true, .role = POSITION_ROLE_REPLICA, .primary_reachable = true, .primary = "a", .lag_records = 500, .lag_ms = 1500},
    [R5000] = {.connected = true, .role = POSITION_ROLE_REPLICA, .primary_reachable = true, .primary = "a", .lag_records = 5000},
    [RC] = {.connected = true, .role = POSITION_ROLE_REPLICA, .primary = "a", .lag_records = 7},           /* cut off from the primary */
    [RD] = {.role = POSITION_ROLE_REPLICA, .primary_reachable = true, .primary = "a", .lag_records = 7}, /* its replicator is away */
    [RN] = {.connected = true, .role = POSITION_ROLE_REPLICA},                                           /* no primary is known */
    [U] = {0},
};

#define NEW DECIDE_EV_CHANGED
#define READ DECIDE_READ
#define WRITE DECIDE_WRITE
#define LOCAL DECIDE_LOCAL
#define WAIT DECIDE_WAIT
#define FORWARD DECIDE_FORWARD
#define HOLD DECIDE_HOLD
#define REFUSE DECIDE_REFUSE
#define STALE_OK 1
#define MAX_STALE_1S 2
#define MAX_STALE_2S 4
#define NO_CREDIT 8
#define SLOW 16
#define BEHIND 32 /* level 1 */
#define SCATTERED 64 /* level 4, two neighbours are left */
#define RELAYED 128

static const struct position w7 = {1, 7};
#define W {1, 7}

static const struct row {
    const char *what;
    enum decide_kind kind;
    enum node node;
    struct position want;
    bool reached;
    unsigned flags, hop;
    struct {
        enum decide_event event;
        unsigned elapsed;
        enum decide_verdict verdict;
        uint32_t ms;        /* of a WAIT or a HOLD */
        const char *reason; /* NULL: none */
        bool stale;
    } steps[5];
} table[] = {
    {"passthrough stays whatever the node is", DECIDE_PASSTHROUGH, U, W, 0, 0, 0, {{NEW, 0, LOCAL, 0, NULL, 0}}},
    {"a write on the primary", WRITE, P, {0}, 0, 0, 0, {{NEW, 0, LOCAL, 0, NULL, 0}}},
    {"a write on a primary that hands over waits for the outcome", WRITE, PH, {0}, 0, 0, 0,
     {{NEW, 0, HOLD, 10000, "promotion", 0}, {NEW, 50, HOLD, 10000, "promotion", 0}, {DECIDE_EV_TIMEOUT, 10000, REFUSE, 0, "promotion", 0}}},
    {"a write on a replica goes to the primary", WRITE, R, {0}, 0, 0, 0, {{NEW, 0, FORWARD, 0, "write", 0}}},
    {"a write on a replica that is far behind, too", WRITE, R5000, {0}, 0, 0, 0, {{NEW, 0, FORWARD, 0, "write", 0}}},
    {"a write on a replica without its replicator, too", WRITE, RD, {0}, 0, 0, 0, {{NEW, 0, FORWARD, 0, "write", 0}}},
    {"a write that cannot reach the primary waits, tries again, and is refused in the end", WRITE, R, {0}, 0, 0, 0,
     {{NEW, 0, FORWARD, 0, "write", 0},
      {DECIDE_EV_NO_ROUTE, 5, HOLD, 10000, "no-primary", 0},
      {NEW, 300, FORWARD, 0, "write", 0},
      {DECIDE_EV_NO_ROUTE, 9999, HOLD, 10000, "no-primary", 0},
      {DECIDE_EV_TIMEOUT, 10000, REFUSE, 0, "no-primary", 0}}},
    {"a write that fails to reach it after the time is refused at once", WRITE, R, {0}, 0, 0, 0,
     {{NEW, 0, FORWARD, 0, "write", 0}, {DECIDE_EV_NO_ROUTE, 10001, REFUSE, 0, "no-primary", 0}}},
    {"a write where no primary is known waits for one", WRITE, RN, {0}, 0, 0, 0, {{NEW, 0, HOLD, 10000, "no-primary", 0}}},
    {"a write before the replicator is there waits", WRITE, U, {0}, 0, 0, 0, {{NEW, 0, HOLD, 10000, "no-primary", 0}}},
    {"a forwarded write is not bounced at once", WRITE, R, {0}, 0, 0, 1, {{NEW, 0, HOLD, 10000, "no-primary", 0}, {NEW, 20, FORWARD, 0, "write", 0}}},
    {"a write that was forwarded three times stays", WRITE, R, {0}, 0, 0, 3,
     {{NEW, 0, HOLD, 10000, "no-primary", 0}, {NEW, 20, HOLD, 10000, "no-primary", 0}, {DECIDE_EV_TIMEOUT, 10000, REFUSE, 0, "no-primary", 0}}},
    {"a forwarded write on the primary", WRITE, P, {0}, 0, 0, 3, {{NEW, 0, LOCAL, 0, NULL, 0}}},
    {"writes beyond the bound are refused while the primary is slow", WRITE, P, {0}, 0, SLOW, 0, {{NEW, 0, REFUSE, 0, "write-queue", 0}}},
    {"reads are not", READ, P, {0}, 0, SLOW, 0, {{NEW, 0, LOCAL, 0, NULL, 0}}},

    {"a read of a position that is here", READ, R5000, W, 1, 0, 0, {{NEW, 0, LOCAL, 0, NULL, 0}}},
    {"a read of a position that is not waits, and is answered here", READ, R5, W, 0, 0, 0, {{NEW, 0, WAIT, 100, NULL, 0}}},
    {"… and else goes to the primary", READ, R5, W, 0, 0, 0,
     {{NEW, 0, WAIT, 100, NULL, 0}, {DECIDE_EV_TIMEOUT, 100, FORWARD, 0, "replica-lag", 0}}},
    {"… whatever the route or the client take", READ, R500, W, 0, STALE_OK | MAX_STALE_2S, 0,
     {{NEW, 0, WAIT, 100, NULL, 0}, {DECIDE_EV_TIMEOUT, 100, FORWARD, 0, "replica-lag", 0}}},
    {"a replica that is far behind need not be waited for", READ, R5000, W, 0, 0, 0, {{NEW, 0, FORWARD, 0, "replica-lag", 0}}},
    {"without a primary a position is waited for as long as a write, then what is here is said to be stale", READ, R5, W, 0, 0, 0,
     {{NEW, 0, WAIT, 100, NULL, 0},
      {DECIDE_EV_TIMEOUT, 100, FORWARD, 0, "replica-lag", 0},
      {DECIDE_EV_NO_ROUTE, 101, WAIT, 200, "replica-lag", 0},
      {DECIDE_EV_TIMEOUT, 301, FORWARD, 0, "replica-lag", 0},
      {DECIDE_EV_NO_ROUTE, 10000, LOCAL, 0, "no-primary", 1}}},
    {"a made-up position on the primary costs nothing", READ, P, W, 1, 0, 0, {{NEW, 0, LOCAL, 0, NULL, 0}}},
    {"one of an epoch that the primary does not know may be of its successor", READ, P, W, 0, 0, 0,
     {{NEW, 0, WAIT, 100, NULL, 0}, {DECIDE_EV_TIMEOUT, 100, LOCAL, 0, "unknown-epoch", 1}}},
    {"… for who has no credit left it is not", READ, P, W, 0, NO_CREDIT, 0, {{NEW, 0, LOCAL, 0, "unknown-epoch", 1}}},
    {"who makes up positions is neither parked nor forwarded for ever", READ, R, W, 0, NO_CREDIT, 0, {{NEW, 0, REFUSE, 0, "too-many-positions", 0}}},

    {"a read on the primary", READ, P, {0}, 0, 0, 0, {{NEW, 0, LOCAL, 0, NULL, 0}}},
    {"a read while the primary hands over", READ, PH, {0}, 0, 0, 0, {{NEW, 0, LOCAL, 0, NULL, 0}}},
    {"a read on a replica that has everything", READ, R, {0}, 0, 0, 0, {{NEW, 0, LOCAL, 0, NULL, 0}}},
    {"a little behind: waited for, a moment", READ, R5, {0}, 0, 0, 0, {{NEW, 0, WAIT, 50, NULL, 0}, {DECIDE_EV_TIMEOUT, 50, LOCAL, 0, NULL, 1}}},
    {"… and caught up", READ, R5, {0}, 0, 0, 0, {{NEW, 0, WAIT, 50, NULL, 0}, {DECIDE_EV_REACHED, 20, LOCAL, 0, NULL, 0}}},
    {"further behind: a route that may be stale is", READ, R500, {0}, 0, STALE_OK, 0, {{NEW, 0, LOCAL, 0, NULL, 1}}},
    {"… as is a client that takes it", READ, R500, {0}, 0, MAX_STALE_2S, 0, {{NEW, 0, LOCAL, 0, NULL, 1}}},
    {"… if it is not older than that", READ, R500, {0}, 0, MAX_STALE_1S, 0,
     {{NEW, 0, WAIT, 100, NULL, 0}, {DECIDE_EV_TIMEOUT, 100, FORWARD, 0, "replica-lag", 0}}},
    {"… others wait, or go to the primary", READ, R500, {0}, 0, 0, 0,
     {{NEW, 0, WAIT, 100, NULL, 0},
      {DECIDE_EV_TIMEOUT, 100, FORWARD, 0, "replica-lag", 0},
      {DECIDE_EV_NO_ROUTE, 105, LOCAL, 0, "no-primary", 1}}},
    {"far behind: the primary", READ, R5000, {0}, 0, STALE_OK | MAX_STALE_2S, 0, {{NEW, 0, FORWARD, 0, "replica-lag", 0}}},
    {"… or what is here", READ, R5000, {0}, 0, 0, 0, {{NEW, 0, FORWARD, 0, "replica-lag", 0}, {DECIDE_EV_NO_ROUTE, 3, LOCAL, 0, "no-primary", 1}}},
    {"cut off: reads go on", READ, RC, {0}, 0, 0, 0, {{NEW, 0, LOCAL, 0, "no-primary", 1}}},
    {"without the replicator, too", READ, RD, {0}, 0, 0, 0, {{NEW, 0, LOCAL, 0, "no-primary", 1}}},
    {"before the replicator was there, too", READ, U, {0}, 0, 0, 0, {{NEW, 0, LOCAL, 0, NULL, 0}}},
    {"a read that was forwarded three times is answered", READ, R5000, {0}, 0, 0, 3, {{NEW, 0, LOCAL, 0, "no-primary", 1}}},
    {"behind by time alone is said", READ, R, {0}, 0, BEHIND, 0, {{NEW, 0, LOCAL, 0, NULL, 1}}},

    {"level 4: a write that does not reach the primary goes by way of a neighbour, of the next one, waits, and begins anew", WRITE, R, {0}, 0, SCATTERED, 0,
     {{NEW, 0, FORWARD, 0, "write", 0},
      {DECIDE_EV_NO_ROUTE, 1, FORWARD, 0, "neighbours-gone", 0},
      {DECIDE_EV_NO_ROUTE, 2, FORWARD, 0, "neighbours-gone", 0},
      {DECIDE_EV_NO_ROUTE, 3, HOLD, 10000, "no-primary", 0},
      {NEW, 250, FORWARD, 0, "write", 0}}},
    {"… by way of a neighbour where no primary is known", WRITE, RN, {0}, 0, SCATTERED, 0, {{NEW, 0, FORWARD, 0, "neighbours-gone", 0}}},
    {"… not if it comes from another proxy", WRITE, R, {0}, 0, SCATTERED | RELAYED, 1,
     {{NEW, 0, FORWARD, 0, "write", 0}, {DECIDE_EV_NO_ROUTE, 1, HOLD, 10000, "no-primary", 0}}},
    {"… as does a read of a position that is not here, and then it waits for it", READ, R5000, W, 0, SCATTERED, 0,
     {{NEW, 0, FORWARD, 0, "replica-lag", 0},
      {DECIDE_EV_NO_ROUTE, 1, FORWARD, 0, "neighbours-gone", 0},
      {DECIDE_EV_NO_ROUTE, 2, FORWARD, 0, "neighbours-gone", 0},
      {DECIDE_EV_NO_ROUTE, 3, WAIT, 200, NULL, 0}}},
    {"… and one that is far behind; what is here is the last resort", READ, R5000, {0}, 0, SCATTERED, 0,
     {{NEW, 0, FORWARD, 0, "replica-lag", 0},
      {DECIDE_EV_NO_ROUTE, 1, FORWARD, 0, "neighbours-gone", 0},
      {DECIDE_EV_NO_ROUTE, 2, FORWARD, 0, "neighbours-gone", 0},
      {DECIDE_EV_NO_ROUTE, 3, LOCAL, 0, "no-primary", 1}}},
    {"reads that need nobody stay", READ, R, {0}, 0, SCATTERED, 0, {{NEW, 0, LOCAL, 0, NULL, 0}}},

    {"fly-replay on a replica goes to the primary", WRITE, R, {0}, 0, 0, 0, {{DECIDE_EV_REPLAY, 5, FORWARD, 0, "write", 0}}},
    {"fly-replay on the primary is not followed", WRITE, P, {0}, 0, 0, 0, {{DECIDE_EV_REPLAY, 5, LOCAL, 0, "replay", 0}}},
    {"fly-replay while it hands over waits", WRITE, PH, {0}, 0, 0, 0, {{DECIDE_EV_REPLAY, 5, HOLD, 10000, "promotion", 0}}},
};

static void check(const struct row *r)
{
    struct rules_facts f = {.kind = r->kind,
                            .want = r->want,
                            .reached = r->reached,
                            .stale_ok = r->flags & STALE_OK,
                            .max_stale_ms = r->flags & MAX_STALE_1S ? 1000 : r->flags & MAX_STALE_2S ? 2000 : 0,
                            .hop = r->hop,
                            .relayed = r->flags & RELAYED,
                            .credit = !(r->flags & NO_CREDIT)};
    struct rules_node n = {.state = &states[r->node],
                           .self_primary_name = !strcmp(states[r->node].primary, "me"),
                           .slow = r->flags & SLOW,
                           .behind = r->flags & BEHIND,
                           .writes = 3,
                           .scattered = r->flags & SCATTERED,
                           .neighbours = r->flags & SCATTERED ? 2 : 0};
    struct decision d = {.kind = r->kind};
    for (size_t i = 0; i < ARRAY_SIZE(r->steps) && (!i || r->steps[i].elapsed); i++) {
        rules_apply(&app, &f, &n, r->steps[i].event, r->steps[i].elapsed, &d);
        bool ok = d.verdict == r->steps[i].verdict && (d.verdict != WAIT || d.wait_ms == r->steps[i].ms) &&
                  (d.verdict != HOLD || d.hold_ms == r->steps[i].ms) && (d.verdict != LOCAL || d.stale == r->steps[i].stale) &&
                  (d.verdict != REFUSE || d.status == 503) &&
                  (d.verdict == WAIT || (d.reason ? r->steps[i].reason && !strcmp(d.reason, r->steps[i].reason) : !r->steps[i].reason));
        if (!ok)
            fail_msg("%s: step %zu: verdict %d, wait %u, hold %u, reason %s, stale %d", r->what, i, d.verdict, d.wait_ms, d.hold_ms,
                     d.reason ? d.reason : "none", d.stale);
        if (d.verdict == WAIT && r->want.epoch)
            assert_int_equal(position_compare(d.want, w7), 0);
    }
}

static void every_row_of_the_table_holds(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        check(&table[i]);
}

static uint32_t next_random(uint32_t *x)
{
    *x = *x * 1664525u + 1013904223u;
    return *x >> 8;
}

/* Whatever happens in whatever order: a request never waits longer than it may, and never goes round for ever. */
static void every_request_ends(void **state)
{
    uint32_t x = 4711;
    (void)state;
    for (int run = 0; run < 20000; run++) {
#define RANDOM(n) (next_random(&x) % (n))
        struct rules_facts f = {.kind = RANDOM(2) ? READ : WRITE, .credit = RANDOM(8), .hop = RANDOM(5)};
        struct decision d = {.kind = f.kind};
        enum decide_event event = NEW;
        uint64_t now = 0;
        if (RANDOM(2))
            f.want = w7;
        for (int steps = 0;; steps++) {
            assert_true(steps < 200);
            const struct position_state *s = &states[RANDOM(NODES)];
            struct rules_node n = {.state = s, .self_primary_name = !strcmp(s->primary, "me"), .slow = RANDOM(2), .writes = RANDOM(5),
                                   .scattered = RANDOM(2), .neighbours = RANDOM(4)};
            f.reached = f.want.epoch && RANDOM(20) == 0;
            rules_apply(&app, &f, &n, event, now, &d);
            if (d.verdict == LOCAL || d.verdict == REFUSE)
                break;
            if (d.verdict == FORWARD) {
                assert_true(f.hop < RULES_HOPS_MAX);
                if (RANDOM(2))
                    break; /* it got there */
                event = DECIDE_EV_NO_ROUTE;
                now += RANDOM(50);
            } else if (d.verdict == WAIT) {
                assert_true(now + d.wait_ms <= app.failover_wait_ms + app.max_wait_ms);
                event = f.reached ? DECIDE_EV_REACHED : DECIDE_EV_TIMEOUT;
                now += d.wait_ms;
            } else {
                assert_true(now < app.failover_wait_ms);
                now = MIN(now + 1 + RANDOM(300), app.failover_wait_ms);
                event = now == app.failover_wait_ms ? DECIDE_EV_TIMEOUT : NEW;
            }
        }
    }
}

static void patterns_match_whole_paths(void **state)
{
    static const struct {
        const char *pattern, *path;
        bool match;
    } rows[] = {
        {"/a", "/a", 1},         {"/a", "/ab", 0},      {"/a", "/", 0},           {"/a/*", "/a/", 1},       {"/a/*", "/a", 0},
        {"/a/*", "/a/b/c", 1},   {"*", "", 1},          {"*", "/x", 1},           {"*.css", "/a.css", 1},   {"*.css", "/a.css.x", 0},
        {"/*/b/*", "/a/b/c", 1}, {"/*/b/*", "/b/c", 0}, {"/a*b*c", "/aXbYbZc", 1}, {"/a*b*c", "/aXcYb", 0}, {"", "", 1},
        {"", "/", 0},            {"**", "/a", 1},       {"/a**", "/a", 1},        {"/%41", "/A", 0},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (route_match((struct slice){rows[i].path, strlen(rows[i].path)}, rows[i].pattern) != rows[i].match)
            fail_msg("%s against %s", rows[i].path, rows[i].pattern);
    static char path[20000], pattern[2001];
    memset(path, 'a', sizeof path);
    for (int i = 0; i < 2000; i += 2)
        memcpy(pattern + i, "*a", 2);
    strcpy(pattern + 1998, "*b");
    assert_false(route_match((struct slice){path, sizeof path}, pattern)); /* in a moment */
    char *list[] = {"/x", "/y*"};
    assert_true(route_match_any(SLICE("/yes"), list, 2));
    assert_false(route_match_any(SLICE("/no"), list, 2));
    assert_false(route_match_any(SLICE("/no"), NULL, 0));
}

static void credit_is_bounded_for_each_client_and_comes_back(void **state)
{
    struct credit *c = credit_open();
    (void)state;
    assert_non_null(c);
    for (unsigned i = 0; i < CREDIT_MAX; i++)
        assert_true(credit_take(c, 1, 1000));
    assert_false(credit_take(c, 1, 1000));
    assert_false(credit_take(c, 1, 1062)); /* 16 a second */
    assert_true(credit_take(c, 1, 1063));
    assert_false(credit_take(c, 1, 1063));
    credit_give(c, 1);
    assert_true(credit_take(c, 1, 1063));
    for (unsigned i = 0; i < 2 * CREDIT_MAX; i++)
        credit_give(c, 1);
    for (unsigned i = 0; i < CREDIT_MAX; i++)
        assert_true(credit_take(c, 1, 1063));
    assert_false(credit_take(c, 1, 1063));
    for (uint64_t other = 2; other < 12; other++) /* one of ten may share its bucket */
        if (credit_take(c, other, 1063))
            break;
        else
            assert_true(other < 11);
    assert_true(credit_take(c, 1, UINT64_C(1) << 40));
    credit_close(c);
    struct sockaddr_in v4 = {.sin_family = AF_INET}, other = v4;
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6}, same = v6;
    inet_pton(AF_INET, "192.0.2.1", &v4.sin_addr);
    inet_pton(AF_INET, "192.0.2.2", &other.sin_addr);
    inet_pton(AF_INET6, "2001:db8:1:2::1", &v6.sin6_addr);
    inet_pton(AF_INET6, "2001:db8:1:2:3::9", &same.sin6_addr);
    assert_int_not_equal(credit_client((void *)&v4), credit_client((void *)&other));
    assert_int_equal(credit_client((void *)&v6), credit_client((void *)&same));
    assert_int_equal(credit_client(NULL), 0);
}

static void levels_begin_and_end_with_hysteresis(void **state)
{
    struct degrade_trigger t[DEGRADE_LEVELS + 1] = {0};
    struct degrade_inputs in = {0};
    struct config_proxy a = app;
    (void)state;
#define STEP(ms) degrade_step(t, &a, &in, ms)
    STEP(1000);
    for (int k = 1; k <= DEGRADE_LEVELS; k++)
        assert_false(t[k].holds);
    in.lag_ms = 60000; /* not more than the threshold */
    STEP(2000);
    assert_false(t[1].holds);
    in.lag_ms = 60001;
    STEP(3000);
    assert_true(t[1].holds);
    in.lag_ms = 30001; /* better, but not clearly */
    STEP(4000);
    STEP(60000);
    assert_true(t[1].holds);
    in.lag_ms = 30000;
    STEP(61000);
    STEP(61000 + DEGRADE_OFF_MS - 1);
    assert_true(t[1].holds);
    in.lag_ms = 40000; /* back again: the time begins anew */
    STEP(61000 + DEGRADE_OFF_MS);
    in.lag_ms = 0;
    STEP(70000);
    STEP(70000 + DEGRADE_OFF_MS);
    assert_false(t[1].holds);
    in.write_p50_us = 500001;
    STEP(80000);
    assert_true(t[2].holds);
    in.write_p50_us = 0;
    in.primary_gone = in.lease_gone = true;
    in.neighbours_gone = 1; /* one is not several */
    STEP(81000);
    STEP(81000 + DEGRADE_ON_MS - 1);
    assert_false(t[3].holds || t[5].holds); /* a blink is not announced */
    STEP(81000 + DEGRADE_ON_MS);
    assert_true(t[3].holds && t[5].holds);
    assert_false(t[4].holds);
    in.primary_gone = false;
    in.neighbours_gone = 2;
    STEP(90000);
    in.neighbours_gone = 0;
    STEP(91000);
    in.neighbours_gone = 2;
    STEP(92000);
    STEP(93999);
    assert_false(t[4].holds);
    STEP(94000);
    assert_true(t[4].holds);
    a.degrade.control = a.degrade.neighbours = false; /* switched off */
    STEP(95000);
    assert_false(t[3].holds || t[4].holds || t[5].holds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_of_the_table_holds),
        cmocka_unit_test(every_request_ends),
        cmocka_unit_test(patterns_match_whole_paths),
        cmocka_unit_test(credit_is_bounded_for_each_client_and_comes_back),
        cmocka_unit_test(levels_begin_and_end_with_hysteresis),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
