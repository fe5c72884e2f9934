/* The API of a whole primary in this process: log, capture, worker, HTTP. A plain directory stands for the mount (no edgefs-fs: whoever
 * writes says so). */
#include "replicator/api/api.h"

#include "lib/crc.h"
#include "lib/http/client.h"
#include "lib/http/server.h"
#include "lib/log.h"
#include "lib/ltx.h"
#include "lib/util.h"
#include "lib/walindex.h"
#include "replicator/capture/capture_private.h"
#include "replicator/capture/hooks.h"
#include "replicator/image/image.h"
#include "replicator/image/import.h"
#include "replicator/metrics.h"
#include "replicator/stream/replicas.h"
#include "replicator/stream/stream_server.h"
#include "replicator/stream/sync.h"
#include "replicator/worker.h"
#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

struct world {
    char dir[64], db_dir[80], base_url[64];
    struct config config;
    struct node n;
    struct event_base *base;
    struct api *api;
    pthread_t loop;
    struct http_client *client;
};

static void *run_loop(void *arg)
{
    event_base_loop(((struct world *)arg)->base, EVLOOP_NO_EXIT_ON_EMPTY);
    return NULL;
}

static int open_dir(const struct world *w, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", w->dir, name);
    mkdir(path, 0755);
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct node *n = &w->n;
    struct err e;
    static char name[] = "a", host[] = "127.0.0.1", url[] = "http://127.0.0.1:0";
    strcpy(w->dir, "/tmp/test_api.XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->db_dir, sizeof w->db_dir, "%s/db", w->dir);
    w->config = (struct config){.node = name, .dir = w->db_dir, .data = w->dir, .http = {.host = host, .advertise = url}};
    *n = (struct node){.config = &w->config, .start_ns = now_ns(), .primary = "a", .primary_url = "http://a:1"};
    pthread_mutex_init(&n->lock, NULL);
    n->data_fd = open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    n->db_fd = open_dir(w, "db");
    n->mount_fd = dup(n->db_fd);
    n->sums_fd = open_dir(w, "sums");
    close(open_dir(w, "run"));
    close(open_dir(w, "log"));
    char log[128];
    snprintf(log, sizeof log, "%s/log", w->dir);
    struct rlog_options o = {.segment_size = 4 << 20, .retention_bytes = 1 << 30, .retention_age_ms = 1u << 30};
    assert_int_equal(rlog_open(log, &o, &n->rlog, &e), 0);
    assert_int_equal(sequencer_open(n->rlog, &n->sequencer, &e), 0);
    assert_int_equal(epochs_open(n->data_fd, &n->epochs, &e), 0);
    assert_int_equal(epochs_begin(n->epochs, 1, 1, &e), 0);
    sequencer_set_epoch(n->sequencer, 1);
    assert_int_equal(databases_open(n->sums_fd, &n->databases, &e), 0);
    assert_int_equal(replicas_open(&n->replicas, &e), 0);
    assert_int_equal(worker_open(n, &n->worker, &e), 0);
    assert_int_equal(worker_open(n, &n->differ, &e), 0);
    assert_int_equal(hooks_open(n, &n->hooks, &e), 0);
    assert_int_equal(sync_open(n, &n->sync, &e), 0);
    atomic_store(&n->role, NODE_PRIMARY);
    evthread_use_pthreads();
    w->base = event_base_new();
    if (api_open(n, w->base, &w->api, &e))
        fail_msg("%s", e.text);
    sequencer_on_append(n->sequencer, stream_server_wake, n->streams);
    assert_int_equal(capture_open(n, &n->capture, &e), 0);
    assert_int_equal(pthread_create(&w->loop, NULL, run_loop, w), 0);
    snprintf(w->base_url, sizeof w->base_url, "http://127.0.0.1:%u", http_server_port(n->http));
    w->client = http_client_new(&(struct http_client_options){.total_ms = 30000, .max_body = 256u << 20});
    *state = w;
    return 0;
}

static void stop_loop(void *arg)
{
    event_base_loopbreak(((struct world *)arg)->base);
}

static int teardown(void **state)
{
    struct world *w = *state;
    char cmd[128];
    http_server_post(w->n.http, stop_loop, w);
    pthread_join(w->loop, NULL);
    http_client_free(w->client);
    api_stop(w->api);
    capture_stop(w->n.capture);
    worker_close(w->n.worker);
    worker_close(w->n.differ);
    capture_close(w->n.capture);
    api_close(w->api);
    event_base_free(w->base);
    hooks_close(w->n.hooks);
    sync_close(w->n.sync);
    replicas_close(w->n.replicas);
    databases_close(w->n.databases);
    epochs_close(w->n.epochs);
    sequencer_close(w->n.sequencer);
    rlog_close(w->n.rlog);
    close(w->n.data_fd);
    close(w->n.db_fd);
    close(w->n.mount_fd);
    close(w->n.sums_fd);
    snprintf(cmd, sizeof cmd, "rm -r %s", w->dir);
    assert_int_equal(system(cmd), 0);
    free(w);
    return 0;
}

/* ---- helpers ---- */

static int call(struct world *w, const char *method, const char *path, const void *body, size_t len, struct http_response *r)
{
    char url[2048];
    struct err e;
    snprintf(url, sizeof url, "%s%s", w->base_url, path);
    if (http_client_request(w->client, method, url, NULL, body, len, r, &e))
        fail_msg("%s", e.text);
    return r->status;
}

static int keep(void *ctx, const void *p, size_t n)
{
    struct http_response *r = ctx;
    size_t size = r->status ? (size_t)r->status : 1 << 20; /* of the buffer */
    while (r->body_len + n > size)
        size *= 2;
    if (!r->body || size != (size_t)r->status)
        r->body = realloc(r->body, size);
    r->status = (int)size;
    memcpy(r->body + r->body_len, p, n);
    r->body_len += n;
    return 0;
}

/* GET of something large. */
static void download(struct world *w, const char *path, struct http_response *r)
{
    char url[2048];
    struct err e;
    *r = (struct http_response){0};
    snprintf(url, sizeof url, "%s%s", w->base_url, path);
    if (http_client_download(w->client, url, keep, r, NULL, &e))
        fail_msg("%s", e.text);
}

static int status_of(struct world *w, const char *method, const char *path, const char *body)
{
    struct http_response r;
    int status = call(w, method, path, body, body ? strlen(body) : 0, &r);
    http_response_free(&r);
    return status;
}

static json_t *get_json(struct world *w, const char *method, const char *path, const char *body, int status)
{
    struct http_response r;
    int got = call(w, method, path, body, body ? strlen(body) : 0, &r);
    if (got != status)
        fail_msg("%s %s: %d %s", method, path, got, r.body);
    json_t *o = json_loads(r.body, 0, NULL);
    assert_non_null(o);
    http_response_free(&r);
    return o;
}

static json_int_t number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    assert_true(json_is_integer(v));
    return json_integer_value(v);
}

static void sql(sqlite3 *db, const char *text)
{
    char *msg = NULL;
    if (sqlite3_exec(db, text, NULL, NULL, &msg) != SQLITE_OK)
        fail_msg("%s: %s", text, msg);
}

/* A database of n rows of 1,000 bytes, as bytes; and a path to it. */
static uint8_t *make_database(struct world *w, const char *setup_sql, int rows, size_t *len, char path[128])
{
    sqlite3 *db;
    char text[256];
    snprintf(path, 128, "%s/source.db", w->dir);
    unlink(path);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    sql(db, setup_sql);
    snprintf(text, sizeof text,
             "CREATE TABLE t(x INTEGER PRIMARY KEY, y); WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i < %d) "
             "INSERT INTO t SELECT i, randomblob(1000) FROM c",
             rows);
    sql(db, text);
    sqlite3_close(db);
    int fd = open(path, O_RDONLY);
    struct stat st;
    fstat(fd, &st);
    *len = (size_t)st.st_size;
    uint8_t *p = malloc(*len);
    assert_int_equal(read(fd, p, *len), *len);
    close(fd);
    return p;
}

static json_t *import(struct world *w, const char *path, const void *data, size_t len, int status)
{
    struct http_response r;
    int got = call(w, "PUT", path, data, len, &r);
    if (got != status)
        fail_msg("PUT %s: %d %s", path, got, r.body);
    json_t *o = json_loads(r.body, 0, NULL);
    http_response_free(&r);
    return o;
}

static int rows(const char *file)
{
    sqlite3 *db;
    sqlite3_stmt *s;
    assert_int_equal(sqlite3_open(file, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT count(*), (SELECT integrity_check FROM pragma_integrity_check) FROM t", -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    int n = sqlite3_column_int(s, 0);
    assert_string_equal((const char *)sqlite3_column_text(s, 1), "ok");
    sqlite3_finalize(s);
    sqlite3_close(db);
    return n;
}

static int leftovers(struct world *w)
{
    DIR *d = opendir(w->db_dir);
    struct dirent *de;
    int n = 0;
    while ((de = readdir(d)))
        n += strncmp(de->d_name, LAYOUT_PRIVATE_PREFIX, strlen(LAYOUT_PRIVATE_PREFIX)) == 0;
    closedir(d);
    return n;
}

/* ---- an image, put together as a replica does ---- */

struct state {
    uint32_t page_size, commit;
    uint8_t *pages;
    uint32_t capacity;
};

static uint8_t *page_at(struct state *s, uint32_t pgno)
{
    while (pgno > s->capacity) {
        uint32_t more = s->capacity ? s->capacity * 2 : 1024;
        s->pages = realloc(s->pages, (size_t)more * s->page_size);
        memset(s->pages + (size_t)s->capacity * s->page_size, 0, (size_t)(more - s->capacity) * s->page_size);
        s->capacity = more;
    }
    return s->pages + (size_t)(pgno - 1) * s->page_size;
}

static uint64_t checksum(struct state *s)
{
    uint64_t sum = CHECKSUM_FLAG;
    for (uint32_t p = 1; p <= s->commit; p++)
        if (p != lock_pgno(s->page_size))
            sum ^= page_checksum(p, page_at(s, p), s->page_size) & ~CHECKSUM_FLAG;
    return sum;
}

static void replay(struct world *w, struct state *s, const char *name, uint64_t from, uint64_t to)
{
    struct rlog_cursor c = {.fd = -1};
    struct record_head h;
    struct err e;
    int64_t at;
    struct ltx_decoder *dec = ltx_decoder_new();
    assert_int_equal(rlog_seek(w->n.rlog, from, &c, &e), 0);
    while (c.lsn <= to && rlog_next(w->n.rlog, &c, &h, &at, &e) == 1) {
        struct ltx_header lh;
        struct ltx_trailer t;
        uint32_t pgno;
        const uint8_t *page;
        if (h.type != RECORD_TX || strcmp(h.name, name) != 0)
            continue;
        uint8_t *buf = malloc(h.payload_len);
        assert_int_equal(pread(c.fd, buf, h.payload_len, at), h.payload_len);
        assert_int_equal(ltx_decode_begin_memory(dec, buf, h.payload_len, &lh, &e), 0);
        while (ltx_decode_page(dec, &pgno, &page, &e) == 1)
            memcpy(page_at(s, pgno), page, s->page_size);
        assert_int_equal(ltx_decode_end(dec, &t, &e), 0);
        s->commit = lh.commit;
        free(buf);
    }
    rlog_cursor_close(&c);
    ltx_decoder_free(dec);
}

/* Fetches and checks an image; how many pages came. */
static uint32_t check_image(struct world *w, const char *name)
{
    char path[256];
    struct http_response r;
    struct image_header h;
    struct image_chunk c;
    struct image_end end;
    uint32_t n = 0;
    snprintf(path, sizeof path, "/v1/databases/%s/image?format=pages", name);
    download(w, path, &r);
    const uint8_t *p = (const uint8_t *)r.body, *limit = p + r.body_len;
    assert_int_equal(image_header_decode(p, &h), 0);
    p += IMAGE_HEADER_SIZE;
    struct state s = {.page_size = h.page_size, .commit = h.commit};
    while (image_chunk_decode(p, &c) == 0) {
        size_t size = (size_t)c.pages * h.page_size;
        p += IMAGE_CHUNK_SIZE;
        assert_true((size_t)(limit - p) >= size);
        assert_int_equal(crc32c(0, p, size), c.crc);
        for (uint32_t i = 0; i < c.pages; i++)
            memcpy(page_at(&s, c.pgno + i), p + (size_t)i * h.page_size, h.page_size);
        p += size;
        n += c.pages;
    }
    assert_int_equal(limit - p, IMAGE_END_SIZE);
    assert_int_equal(image_end_decode(p, &end), 0);
    assert_true(end.lsn >= h.lsn);
    replay(w, &s, name, h.lsn + 1, end.lsn);
    s.commit = end.commit;
    assert_true(checksum(&s) == end.checksum);
    http_response_free(&r);
    free(s.pages);
    return n;
}

/* ---- tests ---- */

static void an_import_can_be_read_back_in_every_form(void **state)
{
    struct world *w = *state;
    static const char *const modes[] = {"PRAGMA journal_mode=DELETE", "PRAGMA journal_mode=WAL", "PRAGMA page_size=512", "PRAGMA page_size=65536"};
    for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
        size_t len;
        char source[128], path[192];
        struct http_response r;
        uint8_t *data = make_database(w, modes[i], 3000, &len, source);
        json_t *o = import(w, "/v1/databases/sub%2Fa%20b.db", data, len, 200);
        json_int_t lsn = number(o, "lsn");
        const char *sum = json_string_value(json_object_get(o, "checksum"));
        snprintf(path, sizeof path, "%s/sub/a b.db", w->db_dir);
        assert_int_equal(rows(path), 3000);
        json_t *list = get_json(w, "GET", "/v1/databases", NULL, 200);
        json_t *d = json_array_get(json_object_get(list, "databases"), 0);
        assert_string_equal(json_string_value(json_object_get(d, "name")), "sub/a b.db");
        assert_string_equal(json_string_value(json_object_get(d, "state")), "ok");
        assert_string_equal(json_string_value(json_object_get(d, "checksum")), sum);
        assert_int_equal(number(d, "bytes"), len);
        assert_true(number(list, "lsn") >= lsn);
        json_t *c = get_json(w, "GET", "/v1/databases/sub%2Fa%20b.db/checksum", NULL, 200);
        assert_int_equal(number(c, "bad_count"), 0);
        assert_string_equal(json_string_value(json_object_get(c, "checksum")), sum);
        assert_int_equal(call(w, "GET", "/v1/databases/sub%2Fa%20b.db/sums", NULL, 0, &r), 200);
        assert_int_equal(r.body_len, (size_t)number(d, "pages") * 8);
        assert_int_equal(be64_get(r.body), page_checksum(1, data, (size_t)number(d, "page_size")));
        http_response_free(&r);
        assert_int_equal(call(w, "GET", "/v1/databases/sub%2Fa%20b.db/image", NULL, 0, &r), 200);
        assert_int_equal(r.body_len, len);
        assert_memory_equal(r.body + 100, data + 100, len - 100);
        http_response_free(&r);
        assert_int_equal(check_image(w, "sub%2Fa%20b.db"), number(d, "pages"));
        json_decref(o);
        json_decref(list);
        json_decref(c);
        free(data);
    }
    assert_int_equal(leftovers(w), 0);
    json_t *o = get_json(w, "DELETE", "/v1/databases/sub%2Fa%20b.db", NULL, 200);
    json_decref(o);
    o = get_json(w, "GET", "/v1/databases", NULL, 200);
    assert_int_equal(json_array_size(json_object_get(o, "databases")), 0);
    json_decref(o);
    assert_int_equal(status_of(w, "DELETE", "/v1/databases/sub%2Fa%20b.db", NULL), 404);
    assert_int_equal(status_of(w, "GET", "/v1/databases/sub%2Fa%20b.db/image?format=pages", NULL), 404);
    assert_int_equal(status_of(w, "GET", "/v1/databases/sub%2Fa%20b.db/checksum", NULL), 404);
}

static void what_is_no_database_is_not_imported(void **state)
{
    struct world *w = *state;
    size_t len;
    char source[128];
    uint8_t *data = make_database(w, "PRAGMA page_size=4096", 10, &len, source);
    json_decref(import(w, "/v1/databases/x.db", "", 0, 400));
    json_decref(import(w, "/v1/databases/x.db", "hello", 5, 400));
    json_decref(import(w, "/v1/databases/x.db", data, len - 1, 400));
    json_decref(import(w, "/v1/databases/x.db", data, len - 4096, 400));
    data[100] = 77; /* the schema's page is of no kind that there is */
    json_decref(import(w, "/v1/databases/x.db", data, len, 400));
    static const char *const names[] = {"x.db-wal", "x.db-shm", "x.db-journal", "x.db-pos", ".primary", ".edgefs-x", "..%2Fx.db", "a%2F%2Fb", "%2Fetc", "x%00y", ""};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char path[128];
        snprintf(path, sizeof path, "/v1/databases/%s", names[i]);
        int status = status_of(w, "PUT", path, "x");
        assert_true(status == 404 || status == 400);
    }
    assert_int_equal(leftovers(w), 0);
    json_t *o = get_json(w, "GET", "/v1/databases", NULL, 200);
    assert_int_equal(json_array_size(json_object_get(o, "databases")), 0);
    json_decref(o);
    free(data);
}

static void an_upload_that_breaks_off_leaves_nothing(void **state)
{
    struct world *w = *state;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(http_server_port(w->n.http)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char path[128], req[256];
    for (int i = 0; i < 3; i++) {
        int n = snprintf(req, sizeof req,
                         "PUT /v1/databases/new%d%%2Fdir%%2Fx.db HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nSQLite format 3", i);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
        assert_int_equal(send(fd, req, (size_t)n, 0), n);
        if (i)
            nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        close(fd);
    }
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/new%d", w->db_dir, i);
        for (int k = 0; k < 500 && access(path, F_OK) == 0; k++)
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        assert_int_equal(access(path, F_OK), -1);
    }
}

static void a_replica_sends_writers_to_the_primary(void **state)
{
    struct world *w = *state;
    atomic_store(&w->n.role, NODE_REPLICA);
    pthread_mutex_lock(&w->n.lock);
    strcpy(w->n.primary, "z");
    strcpy(w->n.primary_url, "http://z:1");
    pthread_mutex_unlock(&w->n.lock);
    static const char *const requests[][3] = {
        {"PUT", "/v1/databases/x.db", "x"}, {"DELETE", "/v1/databases/x.db", NULL}, {"POST", "/v1/promote", "{\"node\":\"b\"}"}};
    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        json_t *o = get_json(w, requests[i][0], requests[i][1], requests[i][2], 421);
        assert_string_equal(json_string_value(json_object_get(o, "primary")), "z");
        assert_string_equal(json_string_value(json_object_get(o, "primary_url")), "http://z:1");
        json_decref(o);
    }
    json_t *o = get_json(w, "GET", "/healthz", NULL, 503);
    assert_string_equal(json_string_value(json_object_get(o, "status")), "disconnected");
    json_decref(o);
    atomic_store(&w->n.role, NODE_PRIMARY);
}

#ifdef __SANITIZE_ADDRESS__
#define WRITER_PAUSE_NS 10000000
#else
#define WRITER_PAUSE_NS 500000
#endif

struct writer {
    struct world *w;
    atomic_bool stop;
    int commits;
    const char *error;
};

static void *write_rows(void *arg)
{
    struct writer *wr = arg;
    sqlite3 *db;
    char path[128];
    snprintf(path, sizeof path, "%s/busy.db", wr->w->db_dir);
    if (sqlite3_open(path, &db) != SQLITE_OK)
        wr->error = "open";
    sqlite3_busy_timeout(db, 5000);
    sqlite3_exec(db, "PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=200; SELECT count(*) FROM t", NULL, NULL, NULL);
    /* What says that the wal-index is in use. SQLite's own lock does not outlive the closing of any descriptor in this process, and the writer here is
     * in one process with what reads its files. */
    char shm[160];
    snprintf(shm, sizeof shm, "%s-shm", path);
    int shm_fd = open(shm, O_RDWR | O_CLOEXEC);
    if (shm_fd < 0 || lock_range(shm_fd, F_RDLCK, WALINDEX_DMS_LOCK, 1))
        wr->error = "lock";
    while (!atomic_load(&wr->stop) && !wr->error) {
        if (sqlite3_exec(db, "UPDATE t SET y = randomblob(1000) WHERE x = abs(random()) % 5000; INSERT INTO t(y) VALUES (randomblob(3000))", NULL,
                         NULL, NULL) != SQLITE_OK)
            wr->error = "write";
        wr->commits++;
        capture_notice(wr->w->n.capture, databases_find(wr->w->n.databases, "busy.db")); /* no edgefs-fs here that tells what is open, so no file is watched */
        /* Nobody holds up a checkpoint for capture here, as edgefs-fs does: no faster than capture follows. */
        nanosleep(&(struct timespec){.tv_nsec = WRITER_PAUSE_NS}, NULL);
    }
    sqlite3_close(db);
    close(shm_fd);
    return NULL;
}

static void images_of_a_database_that_is_being_written_are_exact(void **state)
{
    struct world *w = *state;
    size_t len;
    char source[128];
    uint8_t *data = make_database(w, "PRAGMA journal_mode=WAL", 5000, &len, source);
    json_decref(import(w, "/v1/databases/busy.db", data, len, 200));
    free(data);
    struct writer wr = {.w = w};
    pthread_t t;
    pthread_create(&t, NULL, write_rows, &wr);
    for (int i = 0; i < 12; i++) {
        assert_true(check_image(w, "busy.db") > 1000);
        struct http_response r;
        download(w, "/v1/databases/busy.db/image?format=sqlite", &r);
        char path[128];
        snprintf(path, sizeof path, "%s/copy.db", w->dir);
        int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
        assert_int_equal(write(fd, r.body, r.body_len), r.body_len);
        close(fd);
        http_response_free(&r);
        assert_true(rows(path) >= 5000);
    }
    atomic_store(&wr.stop, true);
    pthread_join(t, NULL);
    assert_null(wr.error);
    assert_true(wr.commits > 10);
    assert_true(check_image(w, "busy.db") > 1000);
    json_t *o = get_json(w, "GET", "/v1/databases/busy.db/checksum", NULL, 200);
    assert_int_equal(number(o, "bad_count"), 0);
    json_decref(o);
}

static void waiting_is_for_the_position_asked_for(void **state)
{
    struct world *w = *state;
    struct err e;
    uint64_t lsn;
    char path[64], body[64];
    assert_int_equal(sequencer_append(w->n.sequencer, RECORD_NOOP, "", NULL, 0, &lsn, &e), 0);
    json_decref(get_json(w, "POST", "/v1/wait", "{\"lsn\":1}", 200));
    assert_int_equal(status_of(w, "POST", "/v1/wait", "{\"lsn\":2,\"timeout_ms\":20}"), 408);
    assert_int_equal(status_of(w, "POST", "/v1/wait", "{\"lsn\":-1}"), 400);
    assert_int_equal(status_of(w, "POST", "/v1/wait", "{\"timeout_ms\":1}"), 400);
    assert_int_equal(status_of(w, "POST", "/v1/wait", "{\"lsn\":1,\"timeout_ms\":60001}"), 400);
    assert_int_equal(status_of(w, "POST", "/v1/wait", "[]"), 400);
    assert_int_equal(status_of(w, "GET", "/v1/databases?lsn=99&wait_ms=10", NULL), 408);
    assert_int_equal(status_of(w, "GET", "/v1/databases?lsn=x", NULL), 400);
    snprintf(path, sizeof path, "/v1/databases?lsn=%" PRIu64, lsn);
    json_decref(get_json(w, "GET", path, NULL, 200));
    snprintf(body, sizeof body, "{\"lsn\":%" PRIu64 ",\"timeout_ms\":5000}", lsn);
    json_decref(get_json(w, "POST", "/v1/wait", body, 200));
}

static void the_log_is_listed_and_its_records_can_be_fetched(void **state)
{
    struct world *w = *state;
    size_t len;
    char source[128];
    struct http_response r;
    struct err e;
    uint64_t lsn;
    assert_int_equal(sequencer_append(w->n.sequencer, RECORD_EPOCH, "", "a", 1, &lsn, &e), 0);
    uint8_t *data = make_database(w, "PRAGMA page_size=4096", 10, &len, source);
    json_decref(import(w, "/v1/databases/x.db", data, len, 200));
    json_t *o = get_json(w, "GET", "/v1/log", NULL, 200);
    json_t *list = json_object_get(o, "records");
    assert_true(json_array_size(list) >= 2);
    json_t *first = json_array_get(list, 0), *tx = json_array_get(list, 1);
    assert_string_equal(json_string_value(json_object_get(first, "primary")), "a");
    assert_string_equal(json_string_value(json_object_get(tx, "type")), "tx");
    assert_string_equal(json_string_value(json_object_get(tx, "name")), "x.db");
    assert_int_equal(number(tx, "pages"), len / 4096);
    assert_int_equal(number(tx, "commit"), len / 4096);
    assert_int_equal(call(w, "GET", "/v1/log/2", NULL, 0, &r), 200);
    assert_int_equal(r.body_len, number(tx, "payload"));
    assert_memory_equal(r.body, "LTX1", 4);
    http_response_free(&r);
    json_decref(o);
    o = get_json(w, "GET", "/v1/log?from=2&limit=1", NULL, 200);
    assert_int_equal(json_array_size(json_object_get(o, "records")), 1);
    json_decref(o);
    assert_int_equal(status_of(w, "GET", "/v1/log/999", NULL), 404);
    assert_int_equal(status_of(w, "GET", "/v1/log/0", NULL), 404);
    assert_int_equal(status_of(w, "GET", "/v1/log/x", NULL), 404);
    assert_int_equal(status_of(w, "GET", "/v1/log?limit=10001", NULL), 400);
    assert_int_equal(rlog_reset(w->n.rlog, (struct position){1, 50}, &e), 0);
    assert_int_equal(status_of(w, "GET", "/v1/log/2", NULL), 410);
    free(data);
}

static void status_health_and_metrics_answer(void **state)
{
    struct world *w = *state;
    struct http_response r;
    json_t *o = get_json(w, "GET", "/v1/status", NULL, 200);
    assert_string_equal(json_string_value(json_object_get(o, "node")), "a");
    assert_string_equal(json_string_value(json_object_get(o, "role")), "primary");
    assert_string_equal(json_string_value(json_object_get(o, "url")), w->base_url); /* with the real port */
    assert_int_equal(number(o, "lag_ms"), 0);
    assert_int_equal(json_array_size(json_object_get(o, "nodes")), 1);
    assert_true(json_is_null(json_object_get(o, "promotion")));
    static const char *const keys[] = {"applied", "log", "databases", "warnings", "replicas", "dir", "data", "passthrough", "uptime_s", "pid"};
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        assert_non_null(json_object_get(o, keys[i]));
    json_decref(o);
    json_decref(get_json(w, "GET", "/healthz", NULL, 200));
    assert_int_equal(call(w, "GET", "/metrics", NULL, 0, &r), 200);
    assert_non_null(strstr(r.body, "\nedgefs_primary 1\n"));
    assert_non_null(strstr(r.body, "# TYPE edgefs_stream_sent_bytes_total counter\n"));
    http_response_free(&r);
    o = get_json(w, "POST", "/v1/promote", "{\"node\":\"a\"}", 200); /* is it already */
    assert_string_equal(json_string_value(json_object_get(o, "primary")), "a");
    json_decref(o);
    assert_int_equal(status_of(w, "POST", "/v1/promote", "{\"node\":5}"), 400);
    assert_int_equal(status_of(w, "POST", "/v1/promote", "{\"node\":\"a\",\"timeout_ms\":0}"), 400);
    assert_int_equal(status_of(w, "POST", "/v1/ack", "{\"node\":\"b\",\"received\":1,\"applied\":1,\"durable\":1}"), 204);
    assert_int_equal(status_of(w, "POST", "/v1/ack", "{\"node\":\"b\",\"received\":\"1\"}"), 400);
    assert_int_equal(status_of(w, "POST", "/v1/ack", "nonsense"), 400);
    assert_int_equal(status_of(w, "GET", "/v1/databases/x.db/nothing", NULL), 404);
    assert_int_equal(status_of(w, "GET", "/v1/databases/x.db", NULL), 405);
    assert_int_equal(status_of(w, "GET", "/v1/databases/x.db/image?format=zip", NULL), 400);
    assert_int_equal(status_of(w, "GET", "/v1/nothing", NULL), 404);
}

static void what_a_dead_import_left_is_removed_at_start(void **state)
{
    struct world *w = *state;
    char path[128];
    snprintf(path, sizeof path, "%s/sub", w->db_dir);
    mkdir(path, 0755);
    static const char *const names[] = {"db/.edgefs-import-1-1", "db/sub/.edgefs-import-1-2", "run/copy.3", "db/kept.db", "db/.edgefs-other"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        snprintf(path, sizeof path, "%s/%s", w->dir, names[i]);
        close(open(path, O_CREAT | O_WRONLY, 0600));
    }
    import_clean_copies(&w->n);
    import_clean(&w->n);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        snprintf(path, sizeof path, "%s/%s", w->dir, names[i]);
        assert_int_equal(access(path, F_OK), i < 3 ? -1 : 0);
    }
}

int main(void)
{
    log_init("test", "a", getenv("TEST_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(an_import_can_be_read_back_in_every_form),
        T(what_is_no_database_is_not_imported),
        T(an_upload_that_breaks_off_leaves_nothing),
        T(a_replica_sends_writers_to_the_primary),
        T(images_of_a_database_that_is_being_written_are_exact),
        T(waiting_is_for_the_position_asked_for),
        T(the_log_is_listed_and_its_records_can_be_fetched),
        T(status_health_and_metrics_answer),
        T(what_a_dead_import_left_is_removed_at_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
