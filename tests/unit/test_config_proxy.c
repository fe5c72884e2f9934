/* The proxy: list of the configuration: what it accepts, what it refuses and with which line, and that docs/proxy.md has every key. */
#include "lib/config.h"
#include "lib/config_keys.h"
#include "lib/config_proxy_keys.h"
#include "lib/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static char folder[] = "/tmp/edgefs-test-config-proxy-XXXXXX";
static char path[sizeof folder + 16];

static int load(const char *text, struct config **c, struct err *e)
{
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_int_equal(fprintf(f, "dir: /m\ndata: /d\nnode: a\n%s", text) < 0, 0);
    assert_int_equal(fclose(f), 0);
    return config_load(&(struct config_args){.file = path}, c, e);
}

static void an_entry_gets_its_values_and_the_defaults_of_the_others(void **state)
{
    (void)state;
    struct config *c;
    struct err e = {0};
    if (load("proxy:\n"
             "  - listen: 127.0.0.1:8080\n"
             "    target: unix:app.sock\n"
             "    peers: {b: 'http://10.0.0.2:80', c: 'https://c.example:443/'}\n"
             "    passthrough: /static/*\n"
             "    always-forward: [/a, '*.cgi']\n"
             "    lag: {wait: 10ms, wait-records: 7}\n"
             "    limits: {body-size: 1MiB}\n"
             "    cache: [{path: /news, databases: [n.db, m.db]}, {path: /x}]\n"
             "    access-log: json\n"
             "  - {listen: '[::1]:0', target: 'localhost:3000', name: second, read-only-methods: [GET]}\n",
             &c, &e))
        fail_msg("%s", e.text);
    assert_int_equal(c->n_proxies, 2);
    const struct config_proxy *p = &c->proxies[0];
    assert_string_equal(p->name, "port-8080");
    assert_string_equal(p->listen.host, "127.0.0.1");
    assert_null(p->target.host);
    assert_int_equal(strncmp(p->target.path, folder, strlen(folder)), 0);
    assert_int_equal(p->n_peers, 2);
    assert_string_equal(p->peers[1].url, "https://c.example:443");
    assert_int_equal(p->passthrough.n, 1);
    assert_string_equal(p->always_forward.items[1], "*.cgi");
    assert_int_equal(p->lag.wait_ms, 10);
    assert_int_equal(p->lag.wait_records, 7);
    assert_int_equal(p->lag.stale_records, 1000);
    assert_int_equal(p->limits.body_size, 1 << 20);
    assert_int_equal(p->limits.idle_ms, 75000);
    assert_int_equal(p->n_cache, 2);
    assert_string_equal(p->cache[0].databases.items[1], "m.db");
    assert_int_equal(p->access_log, CONFIG_ACCESS_LOG_JSON);
    assert_int_equal(p->read_only_methods.n, 3);
    assert_true(p->degrade.primary && p->metrics && p->forwarded);
    assert_int_equal(c->proxies[1].read_only_methods.n, 1);
    assert_int_equal(c->proxies[1].target.port, 3000);
    config_free(c);
}

static void what_is_wrong_is_refused_with_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"proxy: x\n", ":4: \"proxy\" must be a list"},
        {"proxy: [x]\n", ":4: proxy: at most"},
        {"proxy:\n  - {target: 'a:1'}\n", ":5: proxy: an entry without \"listen\""},
        {"proxy:\n  - {listen: 'a:1'}\n", ":5: proxy: an entry without \"target\""},
        {"proxy:\n  - {listen: 'a:1', target: 'b:0'}\n", ":5: proxy: target: \"b:0\" is not a target"},
        {"proxy:\n  - listen: a:1\n    target: b:2\n    lisen: c\n", ":7: unknown key \"lisen\"; did you mean \"listen\"?"},
        {"proxy:\n  - listen: a:1\n    target: b:2\n    tls: {key: k}\n", "without \"tls.certificate\""},
        {"proxy:\n  - listen: a:1\n    listen: a:1\n", ":6: \"listen\" is given twice (first in line 5)"},
        {"proxy:\n  - listen: a:1\n    target: b:2\n    trust: [10.0.0.0/8, 10.0.0/8]\n", ":7: proxy: trust: \"10.0.0/8\" is neither"},
        {"proxy:\n  - listen: a:1\n    target: b:2\n    trust: [10.0.0.0/33]\n", ":7: proxy: trust:"},
        {"proxy:\n  - listen: a:1\n    target: b:2\n    passthrough: [static]\n", ":7: proxy: passthrough: \"static\" is not a path pattern"},
        {"proxy:\n  - listen: a:1\n    target: b:2\n    read-only-methods: [get]\n", ":7: proxy: read-only-methods: \"get\" is not a method"},
        {"proxy:\n  - listen: a:1\n    target: b:2\n    peers: {b: 'ftp://x:1'}\n", ":7: \"ftp://x:1\" is not a URL"},
        {"proxy:\n  - listen: a:1\n    target: b:2\n    cache: [{databases: x}]\n", ":7: proxy: cache: a route without \"path\""},
        {"proxy:\n  - listen: a:1\n    target: b:2\n    limits: {header-size: 16KiB}\n", ":7: proxy: limits.header-size: \"16KiB\" is out of range"},
        {"proxy:\n  - {listen: 'a:1', target: 'b:2'}\n  - {listen: 'a:1', target: 'b:3', name: x}\n", ":6: proxy: two entries with the same listen"},
        {"proxy:\n  - {listen: 'a:1', target: 'b:2'}\n  - {listen: 'b:1', target: 'b:3'}\n", ":6: proxy: two entries with the same name"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct config *c;
        struct err e = {0};
        assert_int_equal(load(bad[i].text, &c, &e), ERR_CONFIG);
        if (!strstr(e.text, bad[i].message))
            fail_msg("\"%s\" is said to be: %s", bad[i].text, e.text);
    }
}

static void the_proxy_of_another_node_is_found(void **state)
{
    (void)state;
    struct config *c;
    struct err e = {0};
    char url[256];
    if (load("nodes: [{name: a, url: 'http://10.0.0.1:20202'}, {name: b, url: 'http://[fd00::2]:20202'}]\n"
             "proxy: [{listen: '0.0.0.0:8080', target: 'a:1', peers: {a: 'https://x:9'}}]\n",
             &c, &e))
        fail_msg("%s", e.text);
    assert_int_equal(config_proxy_peer(c, &c->proxies[0], "a", NULL, url), 0);
    assert_string_equal(url, "https://x:9");
    assert_int_equal(config_proxy_peer(c, &c->proxies[0], "b", NULL, url), 0);
    assert_string_equal(url, "http://[fd00::2]:8080");
    assert_int_equal(config_proxy_peer(c, &c->proxies[0], "c", "http://10.0.0.3:20202", url), 0);
    assert_string_equal(url, "http://10.0.0.3:8080");
    assert_int_equal(config_proxy_peer(c, &c->proxies[0], "c", "", url) == 0, 0);
    config_free(c);
}

static void documentation_lists_every_key_with_its_default(void **state)
{
    (void)state;
    static const char *const keys[][2] = {
#define X(id, key, type, field, lowest, highest, choices, def) {key, def},
        CONFIG_PROXY_KEYS(X)
#undef X
    };
    FILE *f = fopen("docs/proxy.md", "re");
    assert_non_null(f);
    bool seen[ARRAY_SIZE(keys)] = {false};
    char *line = NULL;
    size_t size = 0;
    while (getline(&line, &size, f) > 0)
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
            char start[80], def[80];
            snprintf(start, sizeof start, "| `%s` |", keys[i][0]);
            snprintf(def, sizeof def, "| `%s` |", keys[i][1] ? keys[i][1] : "");
            if (!strncmp(line, start, strlen(start)) && (!keys[i][1] || strstr(line, def)))
                seen[i] = true;
        }
    free(line);
    fclose(f);
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (!seen[i])
            fail_msg("docs/proxy.md has no row for %s with default %s", keys[i][0], keys[i][1] ? keys[i][1] : "(any)");
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/c.yaml", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(path) || rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_entry_gets_its_values_and_the_defaults_of_the_others),
        cmocka_unit_test(what_is_wrong_is_refused_with_its_line),
        cmocka_unit_test(the_proxy_of_another_node_is_found),
        cmocka_unit_test(documentation_lists_every_key_with_its_default),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
