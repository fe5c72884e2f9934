#include "replicator/apply/apply_merge.h"

#include "lib/util.h"
#include <errno.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

struct merged_page {
    uint32_t pgno;
    UT_hash_handle hh;
    uint8_t data[];
};

/* ---- one LTX file as an apply_tx ---- */

static long source_read(void *ctx, void *p, size_t n, struct err *e)
{
    struct ltx_source *s = ctx;
    ssize_t k = pread(s->fd, p, MIN(n, (size_t)(s->end - s->at)), s->at);
    if (k < 0)
        return err_errno(e, errno, "read the log");
    s->at += k;
    return k;
}

int ltx_source_rewind(void *ctx, struct err *e)
{
    struct ltx_source *s = ctx;
    s->at = s->start;
    return s->memory ? ltx_decode_begin_memory(s->dec, s->memory, (size_t)s->end, &s->h, e)
                     : ltx_decode_begin(s->dec, source_read, s, &s->h, e);
}

int ltx_source_next(void *ctx, uint32_t *pgno, const uint8_t **page, struct err *e)
{
    struct ltx_source *s = ctx;
    int rc = ltx_decode_page(s->dec, pgno, page, e);
    return rc ? rc : ltx_decode_end(s->dec, &s->t, e);
}

/* Does a record with this header continue what is there? 0 or ERR_CHECKSUM. (A record that is there already does not come again: LSNs tell.) A snapshot, which
 * has all pages, replaces whatever is there. */
static int continues(const struct database *db, const struct ltx_header *h, uint64_t txid, uint64_t checksum, uint32_t page_size,
                     struct err *e)
{
    if (h->min_txid == 1 || (h->min_txid == txid + 1 && h->pre_checksum == checksum && h->page_size == page_size))
        return 0;
    return err_set(e, ERR_CHECKSUM, "%s: its copy here is at TXID %llu with checksum %016llx, the record continues TXID %llu, %016llx",
                   db->name, (unsigned long long)txid, (unsigned long long)checksum, (unsigned long long)h->min_txid - 1,
                   (unsigned long long)h->pre_checksum);
}

int ltx_source_continues(struct node *n, struct database *db, struct ltx_source *s, struct err *e)
{
    int rc = ltx_source_rewind(s, e);
    if (rc)
        return rc;
    pthread_mutex_lock(&db->lock);
    rc = database_load(n->databases, db, e);
    const struct dbstate *st = database_dbstate(db);
    if (!rc)
        rc = continues(db, &s->h, st->txid, st->checksum, st->page_size, e);
    pthread_mutex_unlock(&db->lock);
    return rc;
}

int tx_record_apply(struct node *n, struct ltx_decoder *dec, struct database *db, const struct record_head *h, const uint8_t *payload, int fd, int64_t offset,
                    struct err *e)
{
    struct ltx_source s = {.dec = dec, .memory = payload, .fd = fd, .start = offset, .end = offset + h->payload_len};
    struct apply_tx tx = {.next = ltx_source_next, .rewind = ltx_source_rewind, .ctx = &s, .first_lsn = h->pos.lsn, .last_lsn = h->pos.lsn};
    int rc = ltx_source_continues(n, db, &s, e);
    if (rc)
        return rc;
    /* The trailer, with the checksum to reach, is at the end: read through once. */
    uint32_t pgno;
    const uint8_t *page;
    while ((rc = ltx_source_next(&s, &pgno, &page, e)) > 0)
        continue;
    if (!rc)
        rc = ltx_source_rewind(&s, e);
    if (rc)
        return rc;
    tx.page_size = s.h.page_size;
    tx.commit = s.h.commit;
    tx.txid = s.h.max_txid;
    tx.checksum = s.t.post_checksum;
    tx.born = s.h.min_txid == 1 ? h->pos.lsn : 0;
    return apply_tx_run(n, db, &tx, e);
}

/* ---- several ---- */

void merges_init(struct merges *l)
{
    *l = (struct merges){.last = &l->first};
}

static void free_pages(struct merges *l, struct merge *m)
{
    struct merged_page *p, *next;
    HASH_ITER(hh, m->pages, p, next)
    {
        HASH_DEL(m->pages, p);
        l->bytes -= m->page_size;
        free(p);
    }
}

void merge_free(struct merges *l, struct merge *m)
{
    free_pages(l, m);
    m->db->merge = NULL;
    free(m);
}

/* ---- merging ---- */

static int merge_next(void *ctx, uint32_t *pgno, const uint8_t **page, struct err *e)
{
    struct merge *m = ctx;
    (void)e;
    if (!m->at)
        return 0;
    *pgno = m->at->pgno;
    *page = m->at->data;
    m->at = m->at->hh.next;
    return 1;
}

static int merge_rewind(void *ctx, struct err *e)
{
    struct merge *m = ctx;
    (void)e;
    m->at = m->pages;
    return 0;
}

static int merge_put(struct merges *l, struct merge *m, uint32_t pgno, const uint8_t *page, struct err *e)
{
    struct merged_page *p;
    HASH_FIND(hh, m->pages, &pgno, sizeof pgno, p);
    if (!p) {
        p = malloc(sizeof *p + m->page_size);
        if (!p)
            return err_errno(e, ENOMEM, "apply");
        p->pgno = pgno;
        HASH_ADD(hh, m->pages, pgno, sizeof p->pgno, p);
        l->bytes += m->page_size;
    }
    memcpy(p->data, page, m->page_size);
    return 0;
}

static struct apply_tx merge_tx(struct merge *m)
{
    merge_rewind(m, NULL);
    return (struct apply_tx){
        .page_size = m->page_size,
        .commit = m->commit,
        .txid = m->max_txid,
        .checksum = m->post,
        .first_lsn = m->first_lsn,
        .last_lsn = m->last_lsn,
        .born = m->born,
        .next = merge_next,
        .rewind = merge_rewind,
        .ctx = m,
    };
}

int merge_run(struct node *n, struct merge *m, struct err *e)
{
    struct apply_tx tx = merge_tx(m);
    return apply_tx_run(n, m->db, &tx, e);
}

struct merge *merges_take(struct merges *l, struct database *db)
{
    if (!db->merge)
        return NULL;
    for (struct merge **p = &l->first; *p; p = &(*p)->next)
        if ((*p)->db == db) {
            struct merge *m = *p;
            *p = m->next;
            if (!m->next)
                l->last = p;
            l->n--;
            return m;
        }
    return NULL;
}

struct merge *merges_take_first(struct merges *l)
{
    struct merge *m = l->first;
    if (!m)
        return NULL;
    l->first = m->next;
    if (!l->first)
        l->last = &l->first;
    l->n--;
    return m;
}

/* One of several that are shown at once. */
struct part {
    struct merge *m;
    struct apply_tx tx;
    int rc;
    struct err e;
};

static void begin_pass(struct node *n, struct part *v, struct apply_held *held, size_t count, enum apply_pass pass)
{
    for (size_t i = 0; i < count; i++)
        if (v[i].rc == APPLY_OTHER_PASS)
            v[i].rc = apply_tx_begin(n, v[i].m->db, &v[i].tx, pass, &held[i], &v[i].e);
}

/* Those that cannot be hidden. */
static void run_alone(struct node *n, struct part *v, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (v[i].rc == APPLY_ALONE) {
            merge_rewind(v[i].m, NULL);
            v[i].rc = apply_tx_run(n, v[i].m->db, &v[i].tx, &v[i].e);
        }
}

static void together(struct node *n, struct part *v, struct apply_held *held, size_t count)
{
    begin_pass(n, v, held, count, APPLY_PASS_SLOW);
    run_alone(n, v, count); /* as early as may be */
    begin_pass(n, v, held, count, APPLY_PASS_WAL);
    apply_tx_show(held, count);
    for (size_t i = 0; i < count; i++)
        if (held[i].db)
            v[i].rc = apply_tx_end(n, &held[i], &v[i].e);
    run_alone(n, v, count); /* one that leaves WAL mode */
}

void merges_apply(struct merges *l, struct node *n, void (*done)(void *ctx, const struct merge *m, int rc, const char *why), void *ctx)
{
    size_t count = l->n, i = 0;
    _cleanup_free_ struct part *v = count > 1 ? calloc(count, sizeof *v) : NULL;
    _cleanup_free_ struct apply_held *held = v ? calloc(count, sizeof *held) : NULL;
    if (held) {
        for (struct merge *m = l->first; m; m = m->next, i++)
            v[i] = (struct part){.m = m, .tx = merge_tx(m), .rc = APPLY_OTHER_PASS};
        together(n, v, held, count);
    }
    i = 0;
    for (struct merge *m; (m = merges_take_first(l)); i++) { /* a single one, or no memory: one by one */
        struct err e = {0};
        int rc = held ? v[i].rc : merge_run(n, m, &e);
        done(ctx, m, rc, held ? v[i].e.text : e.text);
        merge_free(l, m);
    }
}

int merges_add(struct merges *l, struct node *n, struct ltx_decoder *dec, struct database *db, const struct record_head *rh, const uint8_t *payload, struct err *e)
{
    struct ltx_header h;
    struct ltx_trailer t;
    struct merge *m = db->merge;
    int rc = ltx_decode_begin_memory(dec, payload, rh->payload_len, &h, e);
    if (rc)
        return rc;
    if (m) {
        rc = continues(db, &h, m->max_txid, m->post, m->page_size, e);
    } else {
        pthread_mutex_lock(&db->lock);
        rc = database_load(n->databases, db, e);
        const struct dbstate *st = database_dbstate(db);
        if (!rc)
            rc = continues(db, &h, st->txid, st->checksum, st->page_size, e);
        pthread_mutex_unlock(&db->lock);
    }
    if (rc)
        return rc;
    if (!m) {
        m = calloc(1, sizeof *m);
        if (!m)
            return err_errno(e, ENOMEM, "apply");
        *m = (struct merge){.db = db, .page_size = h.page_size, .first_lsn = rh->pos.lsn};
        *l->last = m;
        l->last = &m->next;
        l->n++;
        db->merge = m;
    }
    if (h.min_txid == 1) { /* what came before it does not matter */
        free_pages(l, m);
        m->page_size = h.page_size;
        m->born = rh->pos.lsn;
    }
    uint32_t pgno;
    const uint8_t *page;
    while ((rc = ltx_decode_page(dec, &pgno, &page, e)) > 0) {
        rc = merge_put(l, m, pgno, page, e);
        if (rc)
            return rc;
    }
    if (!rc)
        rc = ltx_decode_end(dec, &t, e);
    if (rc)
        return rc;
    m->commit = h.commit;
    m->max_txid = h.max_txid;
    m->post = t.post_checksum;
    m->last_lsn = rh->pos.lsn;
    return 0;
}
