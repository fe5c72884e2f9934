/* Metrics and access log. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "http-proxy/accesslog.h"
#include "lib/util.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

static struct config_proxy web = {.name = (char[]){"web"}}, api = {.name = (char[]){"api"}};

static struct proxy_exchange exchange(const struct config_proxy *app, enum proxy_outcome outcome, const struct decision *d)
{
    return (struct proxy_exchange){.app = app,
                                   .method = SLICE("GET"),
                                   .target = SLICE("/a?b=c"),
                                   .host = SLICE("example.org"),
                                   .status = 200,
                                   .outcome = outcome,
                                   .decision = d,
                                   .bytes_in = 100,
                                   .bytes_out = 2000,
                                   .total_us = 1500,
                                   .wait_us = d ? 70 : 0,
                                   .upstream_us = 400};
}

static unsigned long long value_of(const char *page, const char *series)
{
    char line[300];
    snprintf(line, sizeof line, "\n%s ", series);
    const char *p = strstr(page, line);
    if (!p)
        fail_msg("%s is not on the page", series);
    return strtoull(p + strlen(line), NULL, 10);
}

static void what_happened_is_on_the_page(void **state)
{
    struct proxy_metrics *m;
    struct err e;
    struct decision waited = {.kind = DECIDE_READ, .verdict = DECIDE_LOCAL, .waited = true, .stale = true};
    struct decision write = {.kind = DECIDE_WRITE, .verdict = DECIDE_FORWARD};
    struct position_state s = {.connected = true, .role = POSITION_ROLE_REPLICA, .lag_ms = 1234, .lag_records = 7, .pos = {1, 99}};
    size_t len;
    (void)state;
    assert_int_equal(proxy_metrics_open(&m, &e), 0);
    struct proxy_exchange x[] = {exchange(&web, PROXY_OUTCOME_LOCAL, &waited), exchange(&web, PROXY_OUTCOME_FORWARDED, &write),
                                 exchange(&api, PROXY_OUTCOME_BAD_REQUEST, NULL)};
    x[2].status = 400;
    x[2].total_us = 20000000;
    for (size_t i = 0; i < ARRAY_SIZE(x); i++)
        proxy_metrics_record(m, &x[i]);
    struct config_proxy again = {.name = (char[]){"web"}}; /* the same entry of a later configuration */
    x[0].app = &again;
    proxy_metrics_record(m, &x[0]);
    proxy_metrics_gauges(m)->clients = 12;
    proxy_count(PROXY_COUNT_POSITIONS_IGNORED, 3);
    char *page = proxy_metrics_text(m, &s, 3, &len);
    assert_non_null(page);
    assert_int_equal(strlen(page), len);
    static const struct {
        const char *series;
        unsigned long long value;
    } rows[] = {
        {"edgefs_proxy_requests_total{app=\"web\",outcome=\"local\"}", 2},
        {"edgefs_proxy_requests_total{app=\"web\",outcome=\"forwarded\"}", 1},
        {"edgefs_proxy_requests_total{app=\"api\",outcome=\"bad-request\"}", 1},
        {"edgefs_proxy_responses_total{app=\"web\",code=\"2xx\"}", 3},
        {"edgefs_proxy_responses_total{app=\"api\",code=\"4xx\"}", 1},
        {"edgefs_proxy_waited_total{app=\"web\"}", 2},
        {"edgefs_proxy_stale_total{app=\"web\"}", 2},
        {"edgefs_proxy_forwarded_writes_total{app=\"web\"}", 1},
        {"edgefs_proxy_forwarded_reads_total{app=\"web\"}", 0},
        {"edgefs_proxy_received_bytes_total{app=\"web\"}", 300},
        {"edgefs_proxy_wait_seconds_bucket{app=\"web\",le=\"0.00005\"}", 0},
        {"edgefs_proxy_wait_seconds_bucket{app=\"web\",le=\"0.0001\"}", 3},
        {"edgefs_proxy_wait_seconds_count{app=\"web\"}", 3},
        {"edgefs_proxy_wait_seconds_count{app=\"api\"}", 0},
        {"edgefs_proxy_request_seconds_bucket{app=\"api\",le=\"10\"}", 0},
        {"edgefs_proxy_request_seconds_bucket{app=\"api\",le=\"+Inf\"}", 1},
        {"edgefs_proxy_clients", 12},
        {"edgefs_proxy_positions_ignored_total", 3},
        {"edgefs_proxy_degraded", 3},
        {"edgefs_proxy_lag_seconds", 1},
        {"edgefs_proxy_position_lsn", 99},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        if (value_of(page, rows[i].series) != rows[i].value)
            fail_msg("%s is %llu", rows[i].series, value_of(page, rows[i].series));
    assert_non_null(strstr(page, "\nedgefs_proxy_lag_seconds 1.234\n"));
    assert_non_null(strstr(page, "\nedgefs_proxy_wait_seconds_sum{app=\"web\"} 0.000210\n"));
    /* Every series has a help and a type before it, and a line is one of three kinds. */
    for (char *line = strtok(page, "\n"); line; line = strtok(NULL, "\n"))
        assert_true(!strncmp(line, "# HELP ", 7) || !strncmp(line, "# TYPE ", 7) || !strncmp(line, "edgefs_proxy_", 13));
    free(page);
    proxy_metrics_close(m);
}

static void more_entries_than_can_be_counted_share_the_last_one(void **state)
{
    struct proxy_metrics *m;
    struct err e;
    char name[16];
    (void)state;
    assert_int_equal(proxy_metrics_open(&m, &e), 0);
    for (int i = 0; i < 3 * CONFIG_PROXIES_MAX; i++) {
        snprintf(name, sizeof name, "n%d", i);
        struct config_proxy app = {.name = name};
        struct proxy_exchange x = exchange(&app, PROXY_OUTCOME_LOCAL, NULL);
        proxy_metrics_record(m, &x);
    }
    proxy_metrics_close(m);
}

/* ---- access log ---- */

static char folder[64], path[96];

static int setup(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/edgefs-test-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/log", folder);
    return 0;
}

static int teardown(void **state)
{
    char old[112];
    (void)state;
    snprintf(old, sizeof old, "%s.1", path);
    unlink(old);
    unlink(path);
    return rmdir(folder);
}

static char *contents(const char *file)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = fopen(file, "re");
    assert_non_null(f);
    if (getdelim(&text, &n, 0, f) < 0)
        text[0] = 0;
    fclose(f);
    return text;
}

static struct accesslog *open_log(enum config_access_log format)
{
    struct config_proxy app = {.name = web.name, .access_log = format, .access_log_file = path};
    struct accesslog *l = NULL;
    struct err e;
    static struct config_proxy kept;
    kept = app;
    assert_int_equal(accesslog_open(&kept, &l, &e), 0);
    return l;
}

static void json_lines_can_be_parsed_whatever_clients_send(void **state)
{
    struct accesslog *l = open_log(CONFIG_ACCESS_LOG_JSON);
    struct decision d = {.kind = DECIDE_WRITE, .verdict = DECIDE_REFUSE, .reason = "no-primary", .degraded = 3};
    struct proxy_exchange x = exchange(&web, PROXY_OUTCOME_REFUSED, &d);
    struct sockaddr_in peer = {.sin_family = AF_INET};
    static char nasty[5000];
    (void)state;
    inet_pton(AF_INET, "192.0.2.9", &peer.sin_addr);
    x.peer = (const struct sockaddr *)&peer;
    for (size_t i = 0; i < sizeof nasty; i++)
        nasty[i] = (char)i;
    x.target = (struct slice){nasty, sizeof nasty};
    x.user_agent = SLICE("a \"b\" \\ c\n\xff");
    accesslog_write(l, &x);
    x.target = x.host = (struct slice){0};
    x.decision = NULL;
    accesslog_write(l, &x);
    accesslog_close(l);
    char *text = contents(path), *second = strchr(text, '\n') + 1;
    json_t *one = json_loadb(text, (size_t)(second - text), JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL), *two = json_loads(second, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(one);
    assert_non_null(two);
    assert_string_equal(json_string_value(json_object_get(one, "peer")), "192.0.2.9");
    assert_string_equal(json_string_value(json_object_get(one, "reason")), "no-primary");
    assert_string_equal(json_string_value(json_object_get(one, "kind")), "write");
    assert_string_equal(json_string_value(json_object_get(one, "agent")), "a \"b\" \\ c\n\xc3\xbf");
    assert_int_equal(json_integer_value(json_object_get(one, "status")), 200);
    assert_null(json_object_get(two, "kind"));
    json_decref(one);
    json_decref(two);
    free(text);
}

static void logfmt_quotes_what_has_to_be(void **state)
{
    struct accesslog *l = open_log(CONFIG_ACCESS_LOG_LOGFMT);
    struct decision d = {.kind = DECIDE_READ, .waited = true};
    struct proxy_exchange x = exchange(&web, PROXY_OUTCOME_LOCAL, &d);
    (void)state;
    x.target = SLICE("/a b=\"c\"\nd");
    accesslog_write(l, &x);
    accesslog_close(l);
    char *text = contents(path);
    assert_non_null(strstr(text, " app=web peer=- method=GET target=\"/a b=\\\"c\\\"\\u000ad\" host=example.org status=200 outcome=local kind=read waited=1 "
                                 "in=100 out=2000 dur=0.001500 wait=0.000070 upstream=0.000400\n"));
    assert_int_equal(strncmp(text, "time=20", 7), 0);
    free(text);
}

static void a_rotated_file_is_followed(void **state)
{
    struct accesslog *l = open_log(CONFIG_ACCESS_LOG_LOGFMT);
    struct proxy_exchange x = exchange(&web, PROXY_OUTCOME_LOCAL, NULL);
    char old[112];
    struct stat st;
    (void)state;
    accesslog_write(l, &x);
    accesslog_tick(l);
    snprintf(old, sizeof old, "%s.1", path);
    uint64_t until = now_ns() + 10000000000u;
    while ((stat(path, &st) || st.st_size == 0) && now_ns() < until)
        usleep(1000);
    assert_int_equal(rename(path, old), 0);
    accesslog_reopen(l);
    while (stat(path, &st) && now_ns() < until)
        usleep(1000);
    x.status = 299;
    accesslog_write(l, &x);
    accesslog_close(l);
    char *before = contents(old), *after = contents(path);
    assert_null(strstr(before, "status=299"));
    assert_non_null(strstr(after, "status=299"));
    free(before);
    free(after);
}

static void a_file_that_takes_nothing_costs_lines_and_no_time(void **state)
{
    (void)state;
    assert_int_equal(mkfifo(path, 0600), 0);
    int reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* never reads until the end */
    struct accesslog *l = open_log(CONFIG_ACCESS_LOG_LOGFMT);
    struct proxy_exchange x = exchange(&web, PROXY_OUTCOME_LOCAL, NULL);
    uint64_t dropped = proxy_counters[PROXY_COUNT_LOG_DROPPED];
    for (int i = 0; i < 5000; i++)
        accesslog_write(l, &x); /* returns, however full the pipe is */
    assert_true(proxy_counters[PROXY_COUNT_LOG_DROPPED] > dropped);
    close(reader); /* what is left goes nowhere */
    accesslog_close(l);
}

static void off_is_no_log(void **state)
{
    struct config_proxy app = {.name = web.name, .access_log_file = path};
    struct accesslog *l = (void *)1;
    struct err e;
    (void)state;
    assert_int_equal(accesslog_open(&app, &l, &e), 0);
    assert_null(l);
    accesslog_close(l);
    app.access_log = CONFIG_ACCESS_LOG_JSON;
    app.access_log_file = (char[]){"/nowhere/at/all"};
    assert_int_not_equal(accesslog_open(&app, &l, &e), 0);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_happened_is_on_the_page),
        cmocka_unit_test(more_entries_than_can_be_counted_share_the_last_one),
        T(json_lines_can_be_parsed_whatever_clients_send),
        T(logfmt_quotes_what_has_to_be),
        T(a_rotated_file_is_followed),
        T(a_file_that_takes_nothing_costs_lines_and_no_time),
        T(off_is_no_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
