/* The numbers are made in a pool's thread, some blocks at a time under the database's lock, so that capture never waits for long. What changes between two
 * of these moments is in the log behind `from`. */
#include "replicator/image/difference_server.h"

#include "lib/util.h"
#include "replicator/api/api_private.h"
#include "replicator/image/difference.h"
#include "replicator/image/image_server.h"
#include "replicator/metrics.h"
#include <errno.h>
#include <stdio.h>

#define BLOCKS_AT_ONCE 256u

struct answer {
    struct node *node;
    struct database *db;
    struct difference_head head;
    uint64_t first_txid;
    uint8_t *p;
    size_t len;
};

/* Asked for by a POST; NULL: all. */
struct asked {
    const uint8_t *blocks; /* u32 each */
    uint32_t n;
    bool wide;
};

/* The state of now must be a later one of the same database. */
static int look_again(struct answer *w, bool first, struct err *e)
{
    struct dbstate st;
    uint64_t lsn;
    int rc = image_look(w->node, w->db, &st, &lsn, e);
    if (rc)
        return rc;
    if (first) {
        w->head = (struct difference_head){.page_size = st.page_size, .epoch = node_applied(w->node).epoch, .from = lsn};
        w->first_txid = st.txid;
    } else if (st.page_size != w->head.page_size || st.txid < w->first_txid) {
        return err_set(e, ERR_AGAIN_LATER, "%s was replaced meanwhile", w->db->name);
    }
    w->head.commit = st.commit;
    w->head.lsn = MAX(lsn, w->head.from);
    w->head.txid = st.txid;
    w->head.checksum = st.checksum;
    w->head.born = st.born;
    return 0;
}

/* The array and its length as they are now; NULL with e set. db->lock is held. */
static const uint64_t *array_now(struct answer *w, uint32_t *n, struct err *e)
{
    const struct dbstate *st = database_dbstate(w->db);
    if (database_load(w->node->databases, w->db, e))
        return NULL;
    if (st->page_size != w->head.page_size) {
        err_set(e, ERR_AGAIN_LATER, "%s was replaced meanwhile", w->db->name);
        return NULL;
    }
    const uint64_t *sums = sums_array(w->db->sums, n);
    *n = MIN(*n, st->commit);
    return sums;
}

static int all_blocks(struct answer *w, struct err *e)
{
    uint32_t blocks = difference_blocks(w->head.commit), n = 0;
    w->p = malloc(DIFFERENCE_HEAD_SIZE + (size_t)blocks * 8);
    if (!w->p)
        return err_errno(e, ENOMEM, "blocks of %s", w->db->name);
    for (uint32_t b = 0; b < blocks;) {
        pthread_mutex_lock(&w->db->lock);
        const uint64_t *sums = array_now(w, &n, e);
        for (uint32_t end = MIN(blocks, b + BLOCKS_AT_ONCE); sums && b < end; b++) {
            uint32_t at = b * DIFFERENCE_BLOCK, k = at < n ? MIN(n - at, DIFFERENCE_BLOCK) : 0; /* it may have become shorter */
            be64_put(w->p + DIFFERENCE_HEAD_SIZE + (size_t)b * 8, difference_block(sums + (k ? at : 0), k));
        }
        pthread_mutex_unlock(&w->db->lock);
        if (!sums)
            return e->code;
    }
    w->len = DIFFERENCE_HEAD_SIZE + (size_t)blocks * 8;
    return 0;
}

static void put_pages(struct answer *w, const uint64_t *sums, uint32_t n, uint32_t block, bool wide)
{
    uint32_t at = block * DIFFERENCE_BLOCK, k = block < difference_blocks(n) ? MIN(n - at, DIFFERENCE_BLOCK) : 0;
    uint8_t *p = w->p + w->len;
    if (!k)
        return;
    be32_put(p, block);
    be32_put(p + 4, k);
    p += 8;
    for (uint32_t i = 0; i < k; i++, p += wide ? 8 : 4) {
        if (wide)
            be64_put(p, sums[at + i]);
        else
            be32_put(p, difference_page(sums[at + i]));
    }
    w->len = (size_t)(p - w->p);
}

static int some_blocks(struct answer *w, const struct asked *ask, struct err *e)
{
    uint32_t n = 0;
    w->len = DIFFERENCE_HEAD_SIZE;
    w->p = malloc(DIFFERENCE_HEAD_SIZE + (size_t)ask->n * (8 + DIFFERENCE_BLOCK * (ask->wide ? 8 : 4)));
    if (!w->p)
        return err_errno(e, ENOMEM, "blocks of %s", w->db->name);
    for (uint32_t i = 0; i < ask->n;) {
        pthread_mutex_lock(&w->db->lock);
        const uint64_t *sums = array_now(w, &n, e);
        for (uint32_t end = MIN(ask->n, i + BLOCKS_AT_ONCE); sums && i < end; i++)
            put_pages(w, sums, n, be32_get(ask->blocks + (size_t)i * 4), ask->wide);
        pthread_mutex_unlock(&w->db->lock);
        if (!sums)
            return e->code;
    }
    return 0;
}

struct blocks_call {
    struct call *call;
    struct answer w;
    struct asked ask;
    bool some;
    uint8_t body[];
};

static void blocks_work(struct call *c)
{
    struct blocks_call *b = c->extra;
    struct err e = {0};
    b->w.node = c->api->node;
    b->w.db = databases_find(c->api->node->databases, c->name);
    int rc = b->w.db ? look_again(&b->w, true, &e) : err_set(&e, -ENOENT, "there is no database %s", c->name);
    if (!rc)
        rc = b->some ? some_blocks(&b->w, &b->ask, &e) : all_blocks(&b->w, &e);
    if (!rc)
        rc = look_again(&b->w, false, &e); /* it may have grown: then the list is shorter than commit says, and the new pages are in the log */
    if (rc)
        call_error(c, &e);
    else
        difference_head_encode(&b->w.head, b->w.p);
}

static void blocks_reply(struct call *c)
{
    struct blocks_call *b = c->extra;
    metrics_add(METRIC_DIFFERENCE_BYTES, b->w.len + (uint64_t)b->ask.n * 4);
    http_reply(c->req, 200, "application/x-edgefs-blocks", b->w.p, b->w.len);
}

static void blocks_free(void *extra)
{
    struct blocks_call *b = extra;
    free(b->w.p);
    free(b);
}

void difference_server_blocks(struct api *a, struct http_request *req, const char *name)
{
    bool some = http_method(req) == HTTP_M_POST;
    size_t len = 0;
    const char *body = some ? http_body(req, &len) : "";
    if (len % 4 || len / 4 > DIFFERENCE_ASK_MAX) {
        http_reply_error(req, 400, "the body is a list of up to %u block numbers of 4 bytes", DIFFERENCE_ASK_MAX);
        return;
    }
    struct blocks_call *b = calloc(1, sizeof *b + len);
    if (!b) {
        request_busy(req, "no memory");
        return;
    }
    bool wide = http_query(req, "wide") != NULL;
    struct call *c = call_new(a, req, blocks_work);
    if (!c) {
        free(b);
        return;
    }
    memcpy(b->body, body, len);
    b->ask = (struct asked){.blocks = b->body, .n = (uint32_t)(len / 4), .wide = wide};
    b->some = some;
    c->extra = b;
    c->free_extra = blocks_free;
    c->reply = blocks_reply;
    snprintf(c->name, sizeof c->name, "%s", name);
    call_submit(c, a->jobs);
}
