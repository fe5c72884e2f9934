#include "replicator/database/mend.h"

#include "lib/crc.h"
#include "lib/http/client.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/apply/apply_file.h"
#include "replicator/image/image.h"
#include "replicator/stream/replicas.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#define BATCH 128u /* pages at a time: 8 MiB at most */
#define NODES_MAX 32u
#define READERS_NS UINT64_C(10000000000)

struct peer {
    char name[128], url[256];
};

/* Some of the pages, and what came for them. */
struct batch {
    struct node *node;
    struct database *db;
    struct scrub_result *r;
    struct scrub_page **pages; /* n, ascending */
    uint8_t **data;            /* n; NULL: not found yet */
    uint32_t n, found;
    uint32_t at; /* of the transaction's reader */
};

/* ---- who may have it ---- */

static void add_peer(struct node *n, struct peer *peers, unsigned *count, const char *name, const char *url)
{
    if (!name || !url || !*url || !strcmp(name, n->config->node) || *count == NODES_MAX)
        return;
    for (unsigned i = 0; i < *count; i++)
        if (!strcmp(peers[i].name, name))
            return;
    snprintf(peers[*count].name, sizeof peers->name, "%s", name);
    snprintf(peers[(*count)++].url, sizeof peers->url, "%s", url);
}

/* The primary first. */
static unsigned list_peers(struct node *n, struct peer *peers)
{
    unsigned count = 0;
    char name[128], url[256];
    node_primary(n, name, url);
    add_peer(n, peers, &count, name, url);
    for (int i = 0; i < n->config->n_nodes; i++)
        add_peer(n, peers, &count, n->config->nodes[i].name, n->config->nodes[i].url);
    json_t *list = replicas_json(n->replicas), *o;
    size_t i;
    json_array_foreach(list, i, o)
    {
        if (json_is_true(json_object_get(o, "connected")))
            add_peer(n, peers, &count, json_string_value(json_object_get(o, "node")), json_string_value(json_object_get(o, "url")));
    }
    json_decref(list);
    return count;
}

/* ---- fetching ---- */

/* One page that came: is it one that is wanted, with exactly the bytes that it should have? */
static int offer(struct batch *b, uint32_t pgno, const uint8_t *page)
{
    for (uint32_t i = 0; i < b->n; i++) {
        if (b->pages[i]->pgno != pgno || b->data[i] || page_checksum(pgno, page, b->r->page_size) != b->pages[i]->sum)
            continue;
        if (!(b->data[i] = malloc(b->r->page_size)))
            return -ENOMEM;
        memcpy(b->data[i], page, b->r->page_size);
        b->found++;
    }
    return 0;
}

/* Goes through an image of some pages (image.h). Whether it ends as it should is of no importance: each page is looked at by itself. */
static int take_image(struct batch *b, const uint8_t *p, size_t n)
{
    struct image_header h;
    struct image_chunk c;
    if (n < IMAGE_HEADER_SIZE || image_header_decode(p, &h) || h.page_size != b->r->page_size)
        return ERR_CORRUPT;
    p += IMAGE_HEADER_SIZE;
    n -= IMAGE_HEADER_SIZE;
    while (n >= IMAGE_CHUNK_SIZE && image_chunk_decode(p, &c) == 0) {
        uint64_t size = (uint64_t)c.pages * h.page_size;
        if (n - IMAGE_CHUNK_SIZE < size || crc32c(0, p + IMAGE_CHUNK_SIZE, (size_t)size) != c.crc)
            return ERR_CORRUPT;
        for (uint32_t i = 0; i < c.pages; i++)
            if (offer(b, c.pgno + i, p + IMAGE_CHUNK_SIZE + (size_t)i * h.page_size))
                return -ENOMEM;
        p += IMAGE_CHUNK_SIZE + size;
        n -= IMAGE_CHUNK_SIZE + (size_t)size;
    }
    return 0;
}

static int ask(struct batch *b, struct http_client *http, const struct peer *peer, struct err *e)
{
    char url[LAYOUT_NAME_MAX * 3 + 400];
    uint8_t body[BATCH * 8];
    size_t len = 0, k = (size_t)snprintf(url, sizeof url, "%s/v1/databases/", peer->url);
    k += database_url_name(b->db, url + k, sizeof url - k);
    snprintf(url + k, sizeof url - k, "/image?format=pages");
    for (uint32_t i = 0; i < b->n; i++)
        if (!b->data[i]) {
            be32_put(body + len, b->pages[i]->pgno);
            be32_put(body + len + 4, 1);
            len += 8;
        }
    struct http_response r;
    uint32_t before = b->found;
    int rc = http_client_request(http, "POST", url, "application/octet-stream", body, len, &r, e);
    if (!rc)
        rc = http_response_check(&r, "POST", url, e);
    if (!rc && take_image(b, (const uint8_t *)r.body, r.body_len))
        rc = err_set(e, ERR_CORRUPT, "%s: what arrives is no image", url);
    if (!rc && b->found == before)
        rc = err_set(e, ERR_CHECKSUM, "%s has other pages there", peer->name);
    http_response_free(&r);
    if (b->found > before)
        snprintf(b->r->from, sizeof b->r->from, "%s", peer->name);
    return rc;
}

static void fetch(struct batch *b, struct http_client *http, const struct peer *peers, unsigned n)
{
    struct err e = {0};
    if (!n)
        snprintf(b->r->why, sizeof b->r->why, "no other node is known");
    for (unsigned i = 0; i < n && b->found < b->n && !atomic_load(&b->node->stopping); i++)
        if (ask(b, http, &peers[i], &e))
            snprintf(b->r->why, sizeof b->r->why, "%.250s", e.text);
}

/* ---- a replica ---- */

static int batch_next(void *ctx, uint32_t *pgno, const uint8_t **page, struct err *e)
{
    struct batch *b = ctx;
    (void)e;
    while (b->at < b->n && !b->data[b->at])
        b->at++;
    if (b->at == b->n)
        return 0;
    *pgno = b->pages[b->at]->pgno;
    *page = b->data[b->at++];
    return 1;
}

static int batch_rewind(void *ctx, struct err *e)
{
    (void)e;
    ((struct batch *)ctx)->at = 0;
    return 0;
}

static int write_replica(struct batch *b, struct err *e)
{
    struct database *db = b->db;
    uint64_t deadline = now_ns() + READERS_NS;
    int rc;
    do {
        pthread_mutex_lock(&db->lock);
        const struct dbstate st = *database_dbstate(db);
        bool good = db->state == DATABASE_OK && st.page_size == b->r->page_size;
        pthread_mutex_unlock(&db->lock);
        if (!good)
            return err_set(e, ERR_AGAIN_LATER, "%s has changed meanwhile", db->name);
        struct apply_tx tx = {
            .page_size = st.page_size,
            .commit = st.commit,
            .txid = st.txid,
            .checksum = st.checksum,
            .first_lsn = st.lsn,
            .last_lsn = st.lsn,
            .same = true,
            .next = batch_next,
            .rewind = batch_rewind,
            .ctx = b,
        };
        b->at = 0;
        rc = apply_tx_run(b->node, db, &tx, e);
        if (rc == ERR_AGAIN_LATER) /* readers are in, without a WAL; or a record came in between */
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    } while (rc == ERR_AGAIN_LATER && now_ns() < deadline && !atomic_load(&b->node->stopping));
    if (rc == ERR_AGAIN_LATER) {
        pthread_mutex_lock(&db->lock);
        apply_inplace_unlock(db);
        pthread_mutex_unlock(&db->lock);
    }
    return rc;
}

/* ---- the primary ---- */

static int begin_immediate(struct node *n, struct database *db, sqlite3 **conn, struct err *e)
{
    _cleanup_free_ char *path = node_mount_path(n, db->name);
    if (!path)
        return err_errno(e, ENOMEM, "mend");
    int rc = sqlite3_open_v2(path, conn, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_db_config(*conn, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL); /* capture may not have seen all of the WAL */
        sqlite3_busy_timeout(*conn, 2000);
        rc = sqlite3_exec(*conn, "PRAGMA cache_size=8; BEGIN IMMEDIATE", NULL, NULL, NULL);
    }
    if (rc == SQLITE_OK)
        return 0;
    bool busy = rc == SQLITE_BUSY || rc == SQLITE_LOCKED || rc == SQLITE_PROTOCOL;
    return err_set(e, busy ? ERR_AGAIN_LATER : -EIO, "%s: %s", db->name, *conn ? sqlite3_errmsg(*conn) : sqlite3_errstr(rc));
}

/* Is it as the scrub has seen it? The writer's lock and db->lock are held. */
static bool as_seen(struct batch *b, struct scrub_look *look, uint32_t i, uint8_t *buf)
{
    const struct scrub_page *p = b->pages[i];
    const struct dbstate *st = database_dbstate(b->db);
    struct err e;
    if (database_load(b->node->databases, b->db, &e) || st->page_size != b->r->page_size || p->pgno > st->commit || sums_get(b->db->sums, p->pgno) != p->sum)
        return false;
    if (scrub_look_read(look, p->pgno, 1, buf) || page_checksum(p->pgno, buf, st->page_size) != p->found || scrub_look_good(look, p->pgno, buf, p->sum))
        return false;
    struct filestamp now = database_stamp(b->node->db_fd, b->db->name);
    if (p->pgno == 1) /* then it is not page 1 that tells */
        return st->wal_mode || (st->file.ino && filestamp_same(&st->file, &now));
    return st->wal_mode || (scrub_look_read(look, 1, 1, buf) == 0 && page_checksum(1, buf, st->page_size) == sums_get(b->db->sums, 1));
}

static int write_locked(struct batch *b, int fd, struct err *e)
{
    _cleanup_free_ uint8_t *buf = malloc(b->r->page_size);
    struct scrub_look *look = scrub_look_open(b->node, b->db, b->r->page_size, e);
    int rc = !look ? e->code : buf ? 0 : err_errno(e, ENOMEM, "mend");
    for (uint32_t i = 0; !rc && i < b->n; i++) {
        if (!b->data[i])
            continue;
        pthread_mutex_lock(&b->db->lock);
        bool good = as_seen(b, look, i, buf);
        pthread_mutex_unlock(&b->db->lock);
        if (!good || scrub_look_in_wal(look, b->pages[i]->pgno)) {
            snprintf(b->r->why, sizeof b->r->why, "it has changed meanwhile");
            continue;
        }
        ssize_t k = pwrite(fd, b->data[i], b->r->page_size, (off_t)(b->pages[i]->pgno - 1) * b->r->page_size);
        if (k != (ssize_t)b->r->page_size)
            rc = err_errno(e, k < 0 ? errno : ENOSPC, "write page %u of %s", b->pages[i]->pgno, b->db->name);
        else
            b->pages[i]->mended = true;
    }
    scrub_look_close(look);
    return rc;
}

static int write_primary(struct batch *b, struct err *e)
{
    struct database *db = b->db;
    sqlite3 *conn = NULL;
    pthread_mutex_lock(&db->sqlite);
    int fd = openat(b->node->mount_fd, db->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    int rc = fd < 0 ? err_errno(e, errno, "open %s", db->name) : begin_immediate(b->node, db, &conn, e);
    if (!rc)
        rc = write_locked(b, fd, e);
    sqlite3_close(conn); /* rolls back; before fd: closing that would drop its locks */
    if (fd >= 0) {
        (void)fdatasync(fd); /* if it fails the disk keeps what was wrong, and the next scrub finds it */
        close(fd);
    }
    pthread_mutex_unlock(&db->sqlite);
    return rc;
}

/* ---- */

static void mend_batch(struct batch *b, struct http_client *http, const struct peer *peers, unsigned n_peers)
{
    struct err e = {0};
    fetch(b, http, peers, n_peers);
    if (!b->found)
        return;
    enum node_role role = node_role(b->node);
    int rc = role == NODE_REPLICA ? write_replica(b, &e) : role == NODE_PRIMARY ? write_primary(b, &e) : err_set(&e, ERR_ROLE, "this node changes its role");
    if (rc)
        snprintf(b->r->why, sizeof b->r->why, "%.250s", e.text);
    for (uint32_t i = 0; i < b->n; i++)
        b->pages[i]->mended |= !rc && role == NODE_REPLICA && b->data[i];
}

void mend_pages(struct node *n, struct database *db, struct scrub_result *r)
{
    struct peer *peers = calloc(NODES_MAX, sizeof *peers);
    struct http_client *http = http_client_new(&(struct http_client_options){.token = n->token, .connect_ms = 2000, .idle_ms = 5000, .total_ms = 60000});
    struct scrub_page *pages[BATCH];
    uint8_t *data[BATCH];
    unsigned n_peers = peers ? list_peers(n, peers) : 0;
    for (uint32_t at = 0; http && at < r->n_bad && !atomic_load(&n->stopping); at += BATCH) {
        struct batch b = {.node = n, .db = db, .r = r, .pages = pages, .data = data, .n = MIN(r->n_bad - at, BATCH)};
        memset(data, 0, sizeof data);
        for (uint32_t i = 0; i < b.n; i++)
            pages[i] = &r->bad[at + i];
        mend_batch(&b, http, peers, n_peers);
        for (uint32_t i = 0; i < b.n; i++)
            free(data[i]);
    }
    http_client_free(http);
    free(peers);
}
