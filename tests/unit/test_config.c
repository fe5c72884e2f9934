#include "lib/config.h"
#include "lib/config_keys.h"
#include "lib/config_value.h"
#include "lib/util.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

static char folder[] = "/tmp/test_config.XXXXXX";
static char file[64];

#define BASE "node: n1\ndir: /m\ndata: /d\n" /* what every good file needs; three lines */

static void write_file(const char *text, size_t n)
{
    FILE *f = fopen(file, "we");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static int load_with(const char *text, const struct config_args *extra, struct config **c, struct err *e)
{
    struct config_args args = extra ? *extra : (struct config_args){0};
    write_file(text, strlen(text));
    args.file = file;
    return config_load(&args, c, e);
}

static struct config *load_good(const char *text, const struct config_args *extra)
{
    struct config *c = NULL;
    struct err e = {0};
    int rc = load_with(text, extra, &c, &e);
    if (rc)
        fail_msg("%s\n%s", e.text, text);
    return c;
}

/* ---- good files ---------------------------------------------------------------------------------------------------------- */

static void defaults_work_for_one_node(void **state)
{
    (void)state;
    struct config *c = load_good(BASE, NULL);
    assert_string_equal(c->node, "n1");
    assert_string_equal(c->dir, "/m");
    assert_string_equal(c->data, "/d");
    assert_true(c->fs.passthrough);
    assert_int_equal(c->fs.allow_other, geteuid() == 0);
    assert_false(c->replica_open_readonly);
    assert_string_equal(c->http.host, "127.0.0.1");
    assert_int_equal(c->http.port, 20202);
    assert_string_equal(c->http.advertise, "http://127.0.0.1:20202");
    assert_null(c->token_file);
    assert_string_equal(c->lease.primary, "n1");
    assert_int_equal(c->n_nodes, 0);
    assert_int_equal(c->log.segment_size, 64 << 20);
    assert_int_equal(c->log.retention_bytes, 1 << 30);
    assert_int_equal(c->log.retention_age_ms, 86400000);
    assert_int_equal(c->apply_wait_ms, 1000);
    assert_int_equal(c->sync.replicas, 0);
    assert_int_equal(c->sync.timeout_ms, 5000);
    assert_false(c->sync.refuse);
    assert_int_equal(config_sync_replicas(c, "a.db"), 0);
    assert_int_equal(c->log_level, LOG_LEVEL_INFO);
    assert_null(config_node(c, "n1"));
    config_free(c);
}

static void every_key_is_read(void **state)
{
    (void)state;
    struct config *c = load_good("# comment\n"
                                 "node: b\ndir: /srv//x/./y/\ndata: sub/data\n"
                                 "fs: {passthrough: \"off\", allow-other: false}\n"
                                 "replica-open: readonly\n"
                                 "http:\n  listen: '[::1]:0'\n  advertise: http://h.example:81/\n"
                                 "auth: {token-file: ../token}\n"
                                 "lease: {type: static, primary: a}\n"
                                 "nodes:\n- {name: a, url: 'http://10.0.0.1:1'}\n- url: http://[fe80::1]:2\n  name: b\n  proxy: https://b.example:8443/\n"
                                 "log: {segment-size: 2MiB, retention-bytes: 3145728, retention-age: 7d}\n"
                                 "apply-wait: 250ms\n"
                                 "sync-replicas: 2\nsync-timeout: 300ms\nsync-policy: refuse\nsync-databases: [orders.db, 'tenants/*']\n"
                                 "logging: {level: debug}\n",
                                 NULL);
    char path[128];
    assert_string_equal(c->node, "b");
    assert_string_equal(c->dir, "/srv/x/y");
    snprintf(path, sizeof path, "%s/sub/data", folder);
    assert_string_equal(c->data, path);
    assert_false(c->fs.passthrough);
    assert_false(c->fs.allow_other);
    assert_true(c->replica_open_readonly);
    assert_string_equal(c->http.host, "::1");
    assert_int_equal(c->http.port, 0);
    assert_string_equal(c->http.advertise, "http://h.example:81");
    snprintf(path, sizeof path, "%s/../token", folder);
    assert_string_equal(c->token_file, path);
    assert_string_equal(c->lease.primary, "a");
    assert_int_equal(c->n_nodes, 2);
    assert_string_equal(config_node(c, "a")->url, "http://10.0.0.1:1");
    assert_string_equal(config_node(c, "b")->url, "http://[fe80::1]:2");
    assert_null(config_node(c, "a")->proxy);
    assert_string_equal(config_node(c, "b")->proxy, "https://b.example:8443");
    assert_null(config_node(c, "c"));
    assert_int_equal(c->log.segment_size, 2 << 20);
    assert_int_equal(c->log.retention_bytes, 3145728);
    assert_int_equal(c->log.retention_age_ms, 7 * 86400000);
    assert_int_equal(c->apply_wait_ms, 250);
    assert_int_equal(c->sync.timeout_ms, 300);
    assert_true(c->sync.refuse);
    assert_int_equal(config_sync_replicas(c, "orders.db"), 2);
    assert_int_equal(config_sync_replicas(c, "tenants/1/x.db"), 2);
    assert_int_equal(config_sync_replicas(c, "other.db"), 0);
    assert_int_equal(c->log_level, LOG_LEVEL_DEBUG);
    config_free(c);
}

static void databases_wait_for_numbers_of_their_own(void **state)
{
    (void)state;
    struct config *c = load_good("node: b\ndir: m\ndata: d\nsync-replicas: 1\nsync-databases: {'orders/*.db': 2, 'scratch*': 0}\n", NULL);
    assert_int_equal(config_sync_most(c), 2);
    assert_int_equal(config_sync_replicas(c, "orders/1.db"), 2);
    assert_int_equal(config_sync_replicas(c, "scratch.db"), 0);
    assert_int_equal(config_sync_replicas(c, "other.db"), 1);
    config_free(c);
    c = load_good("node: b\ndir: m\ndata: d\nsync-databases:\n  a.db: 3\n  '*': 1\n", NULL);
    assert_int_equal(config_sync_most(c), 3);
    assert_int_equal(config_sync_replicas(c, "a.db"), 3);
    assert_int_equal(config_sync_replicas(c, "b.db"), 1);
    config_free(c);
    c = load_good("node: b\ndir: m\ndata: d\nsync-replicas: 2\nsync-databases: {}\n", NULL);
    assert_int_equal(config_sync_replicas(c, "b.db"), 2);
    config_free(c);
}

static void primary_defaults_to_first_node(void **state)
{
    (void)state;
    struct config *c = load_good(BASE "nodes: [{name: x, url: http://x:1}, {name: n1, url: http://y:1}]\n", NULL);
    assert_string_equal(c->lease.primary, "x");
    assert_string_equal(c->http.advertise, "http://y:1"); /* its own entry */
    config_free(c);
}

static void empty_sections_and_documents_are_good(void **state)
{
    (void)state;
    static const char *const texts[] = {BASE "fs:\nhttp: ~\n", "---\n" BASE "...\n", BASE "fs: {}\nnodes: []\n"};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        config_free(load_good(texts[i], NULL));
    struct config_args args = {.dir = "/m", .data = "/d"};
    static const char *const empty[] = {"", "# nothing\n", "---\n", "~\n", "{}\n"};
    for (size_t i = 0; i < ARRAY_SIZE(empty); i++)
        config_free(load_good(empty[i], &args));
}

static void arguments_stand_above_the_file(void **state)
{
    (void)state;
    struct config_args args = {.dir = "/other", .data = "rel", .node = "z"};
    struct config *c = load_good(BASE, &args);
    char cwd[512], path[600];
    assert_non_null(getcwd(cwd, sizeof cwd));
    snprintf(path, sizeof path, "%s/rel", cwd);
    assert_string_equal(c->dir, "/other");
    assert_string_equal(c->data, path);
    assert_string_equal(c->node, "z");
    assert_string_equal(c->lease.primary, "z");
    config_free(c);
}

static void arguments_alone_are_enough(void **state)
{
    (void)state;
    struct config_args args = {.dir = "/m", .data = "/d", .node = "z"};
    struct config *c = NULL;
    struct err e;
    assert_int_equal(config_load(&args, &c, &e), 0);
    assert_string_equal(c->node, "z");
    config_free(c);
}

/* ---- bad files ----------------------------------------------------------------------------------------------------------- */

static const struct bad {
    const char *text;
    int line;
    const char *message;
} bad_files[] = {
    {BASE "nod: x\n", 4, "unknown key \"nod\"; did you mean \"node\"?"},
    {BASE "zzzzzz: x\n", 4, "unknown key \"zzzzzz\"; docs/configuration.md lists them all"},
    {BASE "listen: x\n", 4, "unknown key \"listen\"; did you mean \"http.listen\"?"},
    {BASE "http:\n  # hello\n  listn: 1:1\n", 6, "unknown key \"http.listn\"; did you mean \"http.listen\"?"},
    {BASE "http.listen: 127.0.0.1:1\n", 4, "unknown key \"http.listen\"; did you mean \"http.listen\"?"},
    {BASE "? [a]\n: b\n", 4, "a key must be a word, not a list"},
    {BASE "\nnode: y\n", 5, "\"node\" is given twice (first in line 1)"},
    {BASE "fs: {passthrough: auto, passthrough: off}\n", 4, "\"fs.passthrough\" is given twice (first in line 4)"},
    {BASE "fs: {}\nfs: {}\n", 5, "\"fs\" is given twice (first in line 4)"},
    {BASE "nodes: []\nnodes: []\n", 5, "\"nodes\" is given twice (first in line 4)"},
    {BASE "fs: [a]\n", 4, "\"fs\" must be a mapping, as in fs: {passthrough: …}, not a list"},
    {BASE "http: 127.0.0.1:1\n", 4, "\"http\" must be a mapping, as in http: {listen: …}, not a single value"},
    {BASE "apply-wait: [1s]\n", 4, "\"apply-wait\" must be a single value, not a list"},
    {BASE "sync-databases: orders.db\n", 4, "\"sync-databases\" must be a list of patterns, or a mapping of patterns to numbers, not a single value"},
    {BASE "sync-databases: {a.db: x}\n", 4, "sync-databases: \"x\" is not a number"},
    {BASE "sync-databases: {a.db: 65}\n", 4, "sync-databases: \"65\" is out of range: from 0 to 64"},
    {BASE "sync-databases:\n  a.db: 1\n  a.db: 2\n", 6, "sync-databases: \"a.db\" is given twice"},
    {BASE "sync-databases: {a.db: [1]}\n", 4, "\"sync-databases\" must be a single value, not a list"},
    {BASE "apply-wait: {a: b}\n", 4, "\"apply-wait\" must be a single value, not a mapping"},
    {BASE "apply-wait:\n\n", 4, "\"apply-wait\" has no value"},
    {BASE "apply-wait: 10\n", 4, "apply-wait: \"10\" is not a duration: a number with a unit as in 500ms, 1s, 5m, 24h, 7d"},
    {BASE "apply-wait: 2h\n", 4, "apply-wait: \"2h\" is out of range: from 0ms to 1h"},
    {BASE "apply-wait: -1s\n", 4,
     "apply-wait: \"-1s\" is not a duration: a number with a unit as in 500ms, 1s, 5m, 24h, 7d"},
    {BASE "log:\n  retention-age: 99999999999999999999d\n", 5,
     "log.retention-age: \"99999999999999999999d\" is out of range: from 1s to 3650d"},
    {BASE "log: {segment-size: 64MB}\n", 4,
     "log.segment-size: \"64MB\" is not a size: a number of bytes, or with a unit as in 512KiB, 64MiB, 1GiB, 2TiB"},
    {BASE "log: {segment-size: 2GiB}\n", 4, "log.segment-size: \"2GiB\" is out of range: from 1MiB to 1GiB"},
    {BASE "log: {segment-size: 1048575}\n", 4, "log.segment-size: \"1048575\" is out of range: from 1MiB to 1GiB"},
    {BASE "log:\n  retention-bytes: 32MiB\n", 5,
     "log.retention-bytes: 33554432 bytes is less than one segment (log.segment-size, 67108864 bytes)"},
    {BASE "fs: {passthrough: maybe}\n", 4, "fs.passthrough: \"maybe\" is not one of off, auto"},
    {BASE "fs: {allow-other: yes}\n", 4, "fs.allow-other: \"yes\" is not one of false, true"},
    {BASE "replica-open: rw\n", 4, "replica-open: \"rw\" is not one of readwrite, readonly"},
    {BASE "logging: {level: loud}\n", 4, "logging.level: \"loud\" is not one of debug, info, warn, error"},
    {BASE "lease: {type: zookeeper}\n", 4, "lease.type: \"zookeeper\" is not one of static, etcd"},
    {BASE "lease: {type: etcd}\n", 4, "lease.type: lease: {type: etcd} needs endpoints: [http://HOST:2379]"},
    {BASE "sync-replicas: 1\nlease: {type: etcd, endpoints: [http://h:1]}\n", 4,
     "sync-replicas: with lease: {type: etcd} synchronous commit needs \"nodes\", all of them: how many must be heard before one takes over follows from it"},
    {BASE "lease: {endpoints: [http://h:1]}\n", 4, "lease.endpoints: \"lease.endpoints\" needs lease: {type: etcd}"},
    {BASE "lease: {type: etcd, endpoints: [http://h:1], primary: n1}\n", 4, "lease.primary: \"lease.primary\" is for lease: {type: static}; with etcd the most advanced candidate becomes primary"},
    {BASE "lease:\n  type: etcd\n  endpoints:\n    - http://h:1\n    - nonsense\n", 8, "lease.endpoints: \"nonsense\" is not a URL of the form http[s]://HOST:PORT"},
    {BASE "lease: {type: etcd, endpoints: http://h:1}\n", 4, "\"lease.endpoints\" must be a list of http://HOST:PORT, not a single value"},
    {BASE "lease: {type: etcd, endpoints: [http://h:1], cert-file: /c}\n", 4, "lease.type: lease: cert-file and key-file belong together"},
    {BASE "lease: {type: etcd, endpoints: [http://h:1], ttl: 1s}\n", 4, "lease.ttl: \"1s\" is out of range: from 2s to 5m"},
    {BASE "upstream: next\n", 4, "upstream: \"next\" is neither primary nor nearest nor a URL of the form http://HOST:PORT"},
    {BASE "upstream: https://h:1\n", 4, "upstream: \"https://h:1\" is neither primary nor nearest nor a URL of the form http://HOST:PORT"},
    {BASE "databases: {include: eu}\n", 4, "\"databases.include\" must be a list of patterns, not a single value"},
    {BASE "databases: {include: [\"a,b\"]}\n", 4, "databases.include: \"a,b\": a pattern has no commas and no control characters; write each as an element of the list"},
    {BASE "databases: {exclude: [\"\"]}\n", 4, "databases.exclude: \"\" is no pattern of 1 to 255 bytes"},
    {BASE "databases:\n  exclude: [a]\n", 5, "databases.exclude: this node is lease.primary, and a primary has all databases"},
    {BASE "databases: {include: [a]}\nlease: {type: etcd, endpoints: [http://h:1], candidate: true}\n", 4,
     "databases.include: a node that has only some of the databases cannot become primary: lease: {candidate: false}"},
    {BASE "lease:\n  primary: who\n", 5, "lease.primary: \"who\" is neither this node (n1) nor one of nodes"},
    {BASE "http: {listen: 20202}\n", 4,
     "http.listen: \"20202\" is not HOST:PORT, such as 127.0.0.1:20202, [::1]:20202 or localhost:0"},
    {BASE "http: {listen: \"::1:20202\"}\n", 4,
     "http.listen: \"::1:20202\" is not HOST:PORT, such as 127.0.0.1:20202, [::1]:20202 or localhost:0"},
    {BASE "http: {listen: 127.0.0.256:1}\n", 4,
     "http.listen: \"127.0.0.256:1\" is not HOST:PORT, such as 127.0.0.1:20202, [::1]:20202 or localhost:0"},
    {BASE "http: {listen: 127.0.0.1:65536}\n", 4,
     "http.listen: \"127.0.0.1:65536\" is not HOST:PORT, such as 127.0.0.1:20202, [::1]:20202 or localhost:0"},
    {BASE "http: {listen: 10.0.0.1:1}\n", 4,
     "http.listen: 10.0.0.1 can be reached from other machines; that needs auth: {token-file: PATH}"},
    {BASE "http:\n  listen: '[::]:1'\n", 5,
     "http.listen: :: can be reached from other machines; that needs auth: {token-file: PATH}"},
    {BASE "auth: {token-file: /t}\nhttp: {listen: 0.0.0.0:1}\n", 5,
     "http.listen: 0.0.0.0 is every address; say under which one the other nodes reach this one: http: {advertise: "
     "http://HOST:PORT}"},
    {BASE "http: {advertise: ftp://x:1}\n", 4, "http.advertise: \"ftp://x:1\" is not a URL of the form http://HOST:PORT"},
    {BASE "http: {advertise: http://x}\n", 4, "http.advertise: \"http://x\" is not a URL of the form http://HOST:PORT"},
    {BASE "http: {advertise: http://x:1/p}\n", 4, "http.advertise: \"http://x:1/p\" is not a URL of the form http://HOST:PORT"},
    {"node: -x\n", 1,
     "node: \"-x\" is not a node name: 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit"},
    {"node: a/b\n", 1,
     "node: \"a/b\" is not a node name: 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit"},
    {"node: x\ndir: /m\n", 1,
     "the data directory is missing: give \"data\" in the file, or --data DIR on the command line"},
    {"", 1, "the mount point is missing: give \"dir\" in the file, or --dir DIR on the command line"},
    {"dir: ''\n", 1, "dir: an empty path"},
    {"dir: ~/x\n", 1, "dir: \"~/x\": '~' is not expanded; write the whole path"},
    {"dir: \"/a\\nb\"\n", 1, "dir: a path with a control character in it"},
    {"dir: \"/a\\0b\"\n", 1, "\"dir\" has a NUL byte in its value"},
    {"dir: /m\ndata: /m/data\n", 1, "dir: the mount point /m and the data directory /m/data must not lie within each other"},
    {"data: /\ndir: /m\n", 2, "dir: \"/\" cannot be used"},
    {BASE "nodes: {name: a}\n", 4, "\"nodes\" must be a list of {name: a, url: http://host:port}, not a mapping"},
    {BASE "nodes: [a]\n", 4, "nodes: an entry must look like {name: a, url: http://host:port}; this is a single value"},
    {BASE "nodes:\n- name: a\n", 5, "nodes: an entry without \"url\"; it looks like {name: a, url: http://host:port}"},
    {BASE "nodes:\n- name: a\n  urk: http://x:1\n", 6, "unknown key \"urk\"; did you mean \"url\"?"},
    {BASE "nodes:\n- name: a\n  name: b\n", 6, "\"name\" is given twice (first in line 5)"},
    {BASE "nodes:\n- name: a b\n", 5,
     "nodes: name: \"a b\" is not a node name: 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit"},
    {BASE "nodes:\n- name: [a]\n", 5, "\"name\" must be a single value, not a list"},
    {BASE "nodes:\n- name: a\n  url: x\n", 6, "nodes: url: \"x\" is not a URL of the form http://HOST:PORT"},
    {BASE "nodes:\n- {name: a, url: http://x:1, proxy: ftp://x:1}\n", 5,
     "nodes: proxy: \"ftp://x:1\" is not a URL of the form http[s]://HOST:PORT"},
    {BASE "nodes:\n- {name: a, url: http://x:1}\n- {name: a, url: http://x:2}\n", 6,
     "nodes: name \"a\" is given twice (first in line 5)"},
    {BASE "nodes:\n- {name: a, url: http://x:1}\n- {name: b, url: http://x:1}\n", 6,
     "nodes: url \"http://x:1\" is given twice (first in line 5)"},
    {"[a, b]\n", 1, "the file must be a mapping (key: value), not a list"},
    {"\nhello\n", 2, "the file must be a mapping (key: value), not a single value"},
    {BASE "---\nnode: x\n", 4, "a second document; one file configures one node"},
    {"node: &a x\nlease: {primary: *a}\n", 2, "aliases (*name) are not supported"},
    {BASE "fs: {passthrough: auto\n", 5, "not YAML: "},
    {BASE "fs:\n\tpassthrough: auto\n", 5, "not YAML: "},
    {BASE "\xff\xfe\n", 4, "not YAML: "},
};

static void each_bad_file_is_refused_with_its_line_and_message(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad_files); i++) {
        const struct bad *b = &bad_files[i];
        struct config *c = NULL;
        struct err e = {0};
        char expected[600];
        int rc = load_with(b->text, NULL, &c, &e);
        snprintf(expected, sizeof expected, "%s:%d: %s", file, b->line, b->message);
        size_t n = strlen(expected);
        bool prefix = expected[n - 1] == ' '; /* the library's own words follow */
        if (rc != ERR_CONFIG || c || e.code != rc || (prefix ? strncmp(e.text, expected, n) : strcmp(e.text, expected)))
            fail_msg("file %zu:\n%s\nexpected: %s\ngot %d:    %s", i, b->text, expected, rc, e.text);
    }
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    static const struct {
        struct config_args args;
        const char *message;
    } bad[] = {
        {{.data = "/d"}, "command line: the mount point is missing: give \"dir\" in the file, or --dir DIR on the command line"},
        {{.dir = "/m", .data = ""}, "command line: --data: an empty path"},
        {{.dir = "/m", .data = "/d", .node = "?"},
         "command line: --node: \"?\" is not a node name: 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or "
         "digit"},
        {{.dir = "/d/m", .data = "/d"},
         "command line: data: the mount point /d/m and the data directory /d must not lie within each other"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct config *c = NULL;
        struct err e = {0};
        assert_int_equal(config_load(&bad[i].args, &c, &e), ERR_CONFIG);
        assert_string_equal(e.text, bad[i].message);
    }
}

static void a_file_that_cannot_be_read_is_an_errno(void **state)
{
    (void)state;
    struct config *c = NULL;
    struct err e = {0};
    struct config_args args = {.file = "/nonexistent/x.yaml"};
    assert_int_equal(config_load(&args, &c, &e), -ENOENT);
    assert_string_equal(e.text, "/nonexistent/x.yaml: No such file or directory");
    args.file = folder;
    assert_int_equal(config_load(&args, &c, &e), -EISDIR);
    assert_int_equal(config_load(&args, &c, NULL), -EISDIR); /* no message wanted */
}

static void oversized_input_is_refused(void **state)
{
    (void)state;
    size_t n = (1 << 20) + 1;
    char *text = malloc(n + 1);
    assert_non_null(text);
    memset(text, '#', n);
    text[n] = 0;
    struct config *c = NULL;
    struct err e = {0};
    assert_int_equal(load_with(text, NULL, &c, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, ":1: larger than 1048576 bytes"));

    size_t at = (size_t)sprintf(text, BASE "nodes:\n");
    for (int i = 0; i <= CONFIG_NODES_MAX; i++)
        at += (size_t)sprintf(text + at, "- {name: n%d, url: http://h:%d}\n", i, i + 1);
    assert_int_equal(load_with(text, NULL, &c, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, ":261: nodes: more than 256 entries"));
    free(text);
}

/* Any prefix of a good file loads or is refused with a message; never crashes (run with ASan). */
static void every_truncation_is_handled(void **state)
{
    (void)state;
    static const char text[] = BASE "nodes:\n- {name: a, url: \"http://x:1\"}\nfs: {passthrough: auto}\nlog: {segment-size: 2MiB}\n";
    for (size_t n = 0; n < sizeof text; n++) {
        struct config *c = NULL;
        struct err e = {0};
        struct config_args args = {.file = file};
        write_file(text, n);
        int rc = config_load(&args, &c, &e);
        if (rc == 0)
            config_free(c);
        else
            assert_true(rc == ERR_CONFIG && strlen(e.text) > 0);
    }
}

/* ---- command line -------------------------------------------------------------------------------------------------------- */

static int take(const char *line, struct config_args *args, char *left, struct err *e)
{
    static char copy[512];
    char *argv[32] = {NULL}, *save = NULL;
    int argc = 0;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *p = strtok_r(copy, " ", &save); p; p = strtok_r(NULL, " ", &save))
        argv[argc++] = strcmp(p, "''") ? p : p + 2;
    int n = config_take_args(argc, argv, args, e);
    left[0] = 0;
    for (int i = 0; i < n; i++)
        sprintf(left + strlen(left), "%s%s", i ? " " : "", argv[i]);
    if (n >= 0)
        assert_null(argv[n]);
    return n;
}

static void options_are_taken_out_of_the_arguments(void **state)
{
    (void)state;
    static const struct {
        const char *line, *file, *dir, *data, *node, *left;
    } good[] = {
        {"p", NULL, NULL, NULL, NULL, "p"},
        {"p mount -c F -- app -c G", "F", NULL, NULL, NULL, "p mount -- app -c G"},
        {"p -cF x --dir=D y --data A --node=N", "F", "D", "A", "N", "p x y"},
        {"p --directory x --nodes -- --dir D", NULL, NULL, NULL, NULL, "p --directory x --nodes -- --dir D"},
        {"p --data=a=b", NULL, NULL, "a=b", NULL, "p"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        struct config_args a;
        struct err e = {0};
        char left[512];
        assert_true(take(good[i].line, &a, left, &e) > 0);
        assert_string_equal(left, good[i].left);
#define SAME(x) assert_string_equal(a.x ? a.x : "(none)", good[i].x ? good[i].x : "(none)")
        SAME(file);
        SAME(dir);
        SAME(data);
        SAME(node);
#undef SAME
    }
    static const char *const bad[][2] = {
        {"p -c", "-c needs a value"},           {"p --dir -- x", "--dir needs a value"}, {"p --data=", "--data needs a value"},
        {"p -c a -cb", "-c is given twice"},    {"p --node '' x", "--node needs a value"},
        {"p --dir a --dir b", "--dir is given twice"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct config_args a;
        struct err e = {0};
        char left[512];
        assert_int_equal(take(bad[i][0], &a, left, &e), -EINVAL);
        assert_string_equal(e.text, bad[i][1]);
    }
}

/* ---- values, documentation ------------------------------------------------------------------------------------------------ */

static void loopback_is_recognised(void **state)
{
    (void)state;
    static const char *const yes[] = {"127.0.0.1", "127.9.9.9", "::1", "localhost"};
    static const char *const no[] = {"128.0.0.1", "0.0.0.0", "::", "::2", "localhost.example.com", "127.0.0.1.example.com"};
    for (size_t i = 0; i < ARRAY_SIZE(yes); i++)
        assert_true(config_host_is_loopback(yes[i]));
    for (size_t i = 0; i < ARRAY_SIZE(no); i++)
        assert_false(config_host_is_loopback(no[i]));
}

static void sizes_reach_their_limits_without_overflow(void **state)
{
    (void)state;
    uint64_t v = 0;
    assert_int_equal(config_parse_size("18446744073709551615", 0, UINT64_MAX, &v, NULL), 0);
    assert_true(v == UINT64_MAX);
    assert_int_equal(config_parse_size("18446744073709551616", 0, UINT64_MAX - 1, &v, NULL), ERR_CONFIG);
    assert_int_equal(config_parse_size("16777216TiB", 0, UINT64_MAX, &v, NULL), ERR_CONFIG);
    assert_int_equal(config_parse_size("MiB", 0, UINT64_MAX, &v, NULL), ERR_CONFIG);
    assert_int_equal(config_parse_size("1 MiB", 0, UINT64_MAX, &v, NULL), ERR_CONFIG);
    assert_int_equal(config_parse_size("", 0, UINT64_MAX, &v, NULL), ERR_CONFIG);
}

/* make runs the tests in the top folder; elsewhere the page is looked for above. */
static FILE *open_docs(void)
{
    static const char *const places[] = {"docs/configuration.md", "../docs/configuration.md", "../../docs/configuration.md"};
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        FILE *f = fopen(places[i], "re");
        if (f)
            return f;
    }
    return NULL;
}

static void documentation_lists_every_key_with_its_default(void **state)
{
    (void)state;
    static const char *const keys[][2] = {
#define X(id, path, type, field, lowest, highest, choices, def) {path, def},
        CONFIG_KEYS(X)
#undef X
    };
    FILE *f = open_docs();
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
            fail_msg("docs/configuration.md has no row for %s with default %s", keys[i][0], keys[i][1] ? keys[i][1] : "(any)");
}

/* The YAML examples of the page must load. */
static void documented_examples_load(void **state)
{
    (void)state;
    FILE *f = open_docs();
    assert_non_null(f);
    char *line = NULL;
    size_t size = 0;
    char text[8192] = "";
    int examples = 0;
    bool inside = false;
    while (getline(&line, &size, f) > 0) {
        if (!strcmp(line, "```yaml\n")) {
            inside = true;
            text[0] = 0;
        } else if (inside && !strcmp(line, "```\n")) {
            inside = false;
            examples++;
            config_free(load_good(text, NULL));
        } else if (inside) {
            assert_true(strlen(text) + strlen(line) < sizeof text);
            strcat(text, line);
        }
    }
    free(line);
    fclose(f);
    assert_true(examples >= 2);
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(file, sizeof file, "%s/e.yaml", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(file);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_work_for_one_node),
        cmocka_unit_test(every_key_is_read),
        cmocka_unit_test(databases_wait_for_numbers_of_their_own),
        cmocka_unit_test(primary_defaults_to_first_node),
        cmocka_unit_test(empty_sections_and_documents_are_good),
        cmocka_unit_test(arguments_stand_above_the_file),
        cmocka_unit_test(arguments_alone_are_enough),
        cmocka_unit_test(each_bad_file_is_refused_with_its_line_and_message),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(a_file_that_cannot_be_read_is_an_errno),
        cmocka_unit_test(oversized_input_is_refused),
        cmocka_unit_test(every_truncation_is_handled),
        cmocka_unit_test(options_are_taken_out_of_the_arguments),
        cmocka_unit_test(loopback_is_recognised),
        cmocka_unit_test(sizes_reach_their_limits_without_overflow),
        cmocka_unit_test(documentation_lists_every_key_with_its_default),
        cmocka_unit_test(documented_examples_load),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
