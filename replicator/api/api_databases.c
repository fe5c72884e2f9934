/* GET /v1/databases, /v1/databases/NAME/checksum and /sums. */
#include "lib/crc.h"
#include "lib/filter.h"
#include "lib/util.h"
#include "replicator/api/api_private.h"
#include "replicator/database/scan.h"
#include "replicator/image/tempfile.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#define WAIT_MAX_MS 60000u
#define BAD_PAGES_MAX 1000u

struct listing {
    struct node *node;
    json_t *list;
    bool at_lsn;
    uint64_t lsn;
    const char *gone; /* a database whose past is not known far enough back */
};

static json_t *describe(struct node *n, const struct database *db, const struct database_past *p)
{
    bool other = db->state == DATABASE_OTHER;
    const struct dbstate *st = database_dbstate(db);
    uint64_t bytes = (uint64_t)p->commit * st->page_size;
    struct stat sb;
    if (other && fstatat(n->db_fd, db->name, &sb, AT_SYMLINK_NOFOLLOW) == 0)
        bytes = (uint64_t)sb.st_size;
    json_t *o = json_pack("{s:s,s:s,s:s?,s:I,s:I,s:I,s:I,s:o,s:I,s:s,s:s?,s:b}", "name", db->name, "kind",
                          other ? "other" : "database", "mode", other ? NULL : st->wal_mode ? "wal" : "rollback", "page_size",
                          (json_int_t)st->page_size, "pages", (json_int_t)p->commit, "bytes", (json_int_t)bytes, "txid",
                          (json_int_t)p->txid, "checksum", request_hex(p->checksum), "lsn", (json_int_t)p->lsn, "state",
                          other ? "ok" : database_state_name(db->state), "warning", db->warning[0] ? db->warning : NULL, "open",
                          (int)db->apps_open);
    return o;
}

static int add(void *ctx, struct database *db)
{
    struct listing *l = ctx;
    json_t *o = NULL;
    int rc = 0;
    pthread_mutex_lock(&db->lock);
    const struct dbstate *st = database_dbstate(db);
    struct database_past p = {.lsn = st->lsn, .txid = st->txid, .checksum = st->checksum, .commit = st->commit};
    bool skip = db->state == DATABASE_ABSENT;
    if (l->at_lsn) { /* then the past counts, also of one that is gone by now */
        skip = db->state == DATABASE_OTHER || (db->state == DATABASE_ABSENT && db->past_count == 0);
        if (!skip && database_past_at(db, l->lsn, &p)) {
            l->gone = db->name;
            rc = 1;
        }
        skip = skip || p.checksum == 0;
    }
    if (!rc && !skip) {
        o = describe(l->node, db, &p);
        rc = o ? 0 : -ENOMEM;
    }
    pthread_mutex_unlock(&db->lock);
    if (o)
        rc = json_array_append_new(l->list, o) ? -ENOMEM : 0;
    return rc;
}

static void list_now(struct call *c)
{
    struct node *n = c->api->node;
    struct listing l = {.node = n, .list = json_array(), .at_lsn = c->limit != 0, .lsn = c->from};
    if (c->status == 200) {
        struct position p = node_applied(n);
        int rc = databases_each(n->databases, add, &l);
        if (rc == 1) {
            c->status = 410;
            err_set(&c->e, ERR_GONE, "%s: its state at LSN %" PRIu64 " is no longer remembered", l.gone, c->from);
        } else if (rc) {
            c->status = 503;
            err_set(&c->e, rc, "no memory");
        } else {
            c->answer = json_pack("{s:I,s:I,s:O}", "epoch", (json_int_t)p.epoch, "lsn",
                                  (json_int_t)(l.at_lsn ? l.lsn : p.lsn), "databases", l.list);
            const struct filter *f = c->api->node->filter;
            if (c->answer && node_role(c->api->node) == NODE_REPLICA && !filter_everything(f)) /* what is not listed may be missing on purpose */
                json_object_set_new(c->answer, "filter", json_pack("{s:s,s:s}", "include", f->include, "exclude", f->exclude));
        }
    }
    json_decref(l.list);
    call_finish(c);
}

void api_databases(struct http_request *req, void *arg)
{
    uint64_t lsn, ms;
    if (request_query_u64(req, "lsn", 0, INT64_MAX, &lsn) || request_query_u64(req, "wait_ms", 0, WAIT_MAX_MS, &ms))
        return;
    bool at_lsn = http_query(req, "lsn") != NULL;
    struct call *c = call_new(arg, req, NULL);
    if (!c)
        return;
    c->from = lsn;
    c->limit = at_lsn;
    api_when_applied(c, lsn, at_lsn ? ms : 0, list_now);
}

/* ---- checksum ---- */

/* What the sidecar says next to what the pages say. Either may be ahead of the other while the database is being written: pages that were
 * written in between are counted (in_flux), not blamed. */
static void compare(struct call *c, struct database *db, struct scan *s, const struct scan_result *r)
{
    json_t *bad = json_array();
    json_int_t count = 0, in_flux = 0;
    pthread_mutex_lock(&db->lock);
    struct dbstate st = *database_dbstate(db);
    if (r->checksum != st.checksum || r->commit != st.commit) {
        uint32_t n = 0, pages = MAX(r->commit, st.commit), lock = r->page_size ? lock_pgno(r->page_size) : 0;
        const uint64_t *tracked = database_load(c->api->node->databases, db, &c->e) ? NULL : sums_array(db->sums, &n);
        for (uint32_t p = 1; p <= pages; p++) {
            uint64_t is = p <= r->commit ? r->sums[p - 1] : 0, should = p <= n && tracked ? tracked[p - 1] : 0;
            if (p == lock || is == should)
                continue;
            if (scan_in_flux(s, p, &st)) {
                in_flux++;
                continue;
            }
            if (++count <= BAD_PAGES_MAX)
                json_array_append_new(bad, json_integer(p));
        }
    }
    pthread_mutex_unlock(&db->lock);
    c->answer = json_pack("{s:s,s:I,s:I,s:I,s:I,s:o,s:o,s:O,s:I,s:I}", "name", db->name, "txid", (json_int_t)st.txid, "lsn",
                          (json_int_t)st.lsn, "page_size", (json_int_t)r->page_size, "pages", (json_int_t)r->commit, "checksum",
                          request_hex(r->checksum), "tracked", request_hex(st.checksum), "bad_pages", bad, "bad_count", count, "in_flux", in_flux);
    json_decref(bad);
}

static bool exists(struct call *c, struct database *db)
{
    enum database_state s = DATABASE_ABSENT;
    if (db) {
        pthread_mutex_lock(&db->lock);
        s = db->state;
        pthread_mutex_unlock(&db->lock);
    }
    if (s != DATABASE_ABSENT && s != DATABASE_OTHER)
        return true;
    c->status = 404;
    err_set(&c->e, -ENOENT, s == DATABASE_OTHER ? "%s is not an SQLite database" : "there is no database %s", c->name);
    return false;
}

/* A database that is being written differs from what was captured a moment ago: looked at again, a few times. */
static void checksum_work(struct call *c)
{
    struct node *n = c->api->node;
    struct database *db = databases_find(n->databases, c->name);
    if (!exists(c, db))
        return;
    for (int tries = 0;; tries++) {
        struct scan *s;
        struct scan_result r;
        int rc = scan_open(n, db, SCAN_FREE, NULL, &s, &r, &c->e);
        if (!rc) {
            json_decref(c->answer);
            compare(c, db, s, &r);
            scan_close(s);
            scan_result_free(&r);
        }
        bool settled = !rc && json_integer_value(json_object_get(c->answer, "bad_count")) == 0;
        if (settled || tries >= 4 || atomic_load(&n->stopping)) {
            if (!c->answer)
                c->status = request_status(rc); /* c->e has the text */
            return;
        }
        nanosleep(&(struct timespec){.tv_nsec = 20000000L << tries}, NULL);
    }
}

void api_checksum(struct api *a, struct http_request *req, const char *name)
{
    struct call *c = call_new(a, req, checksum_work);
    if (!c)
        return;
    snprintf(c->name, sizeof c->name, "%s", name);
    call_submit(c, a->jobs);
}

/* ---- sums ---- */

static int write_sums(struct node *nd, struct database *db, int fd, int64_t *at, struct err *e)
{
    uint8_t buf[64 * 1024];
    uint32_t n = 0;
    int rc = database_load(nd->databases, db, e);
    const uint64_t *array = rc ? NULL : sums_array(db->sums, &n);
    n = MIN(n, database_dbstate(db)->commit);
    for (uint32_t i = 0; !rc && i < n;) {
        uint32_t k = MIN(n - i, (uint32_t)(sizeof buf / 8));
        for (uint32_t j = 0; j < k; j++)
            be64_put(buf + (size_t)j * 8, array[i + j]);
        rc = tempfile_write(fd, buf, (size_t)k * 8, at, e);
        i += k;
    }
    return rc;
}

/* Under the database's lock, because the array must be of one state; to a file, because it may be large. */
static void sums_work(struct call *c)
{
    struct node *n = c->api->node;
    struct database *db = databases_find(n->databases, c->name);
    struct err e = {0};
    int64_t at = 0;
    if (!exists(c, db))
        return;
    c->fd = tempfile_open(n, &e);
    if (c->fd < 0) {
        call_error(c, &e);
        return;
    }
    pthread_mutex_lock(&db->lock);
    int rc = write_sums(n, db, c->fd, &at, &e);
    struct dbstate st = *database_dbstate(db);
    pthread_mutex_unlock(&db->lock);
    if (rc) {
        call_error(c, &e);
        return;
    }
    c->limit = (uint64_t)at;
    c->body = json_sprintf("%016" PRIx64 "/%016" PRIx64, st.txid, st.checksum);
}

static void sums_reply(struct call *c)
{
    http_set_header(c->req, "X-Edgefs-Position", json_string_value(c->body));
    if (http_start(c->req, 200, "application/octet-stream", (int64_t)c->limit) == 0 && c->limit)
        (void)http_write_file(c->req, c->fd, 0, c->limit); /* an error ends the connection, and the closed callback comes */
    http_end(c->req);
}

void api_sums(struct api *a, struct http_request *req, const char *name)
{
    struct call *c = call_new(a, req, sums_work);
    if (!c)
        return;
    c->reply = sums_reply;
    snprintf(c->name, sizeof c->name, "%s", name);
    call_submit(c, a->jobs);
}
