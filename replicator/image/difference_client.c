#include "replicator/image/difference_client.h"

#include "lib/crc.h"
#include "lib/util.h"
#include <errno.h>
#include <stdio.h>

#define OCTETS "application/octet-stream"
#define COMMIT_BYTES_MAX (UINT64_C(1) << 48) /* SQLite's own limit: 2^32 - 2 pages of 64 KiB */

static int ask(struct difference *d, const char *suffix, const void *body, size_t len, struct http_response *r, int *status, struct err *e)
{
    char url[4096];
    const char *method = body ? "POST" : "GET";
    *r = (struct http_response){0};
    if ((size_t)snprintf(url, sizeof url, "%s/%s", d->url, suffix) >= sizeof url)
        return err_set(e, -EINVAL, "URL too long");
    int rc = http_client_request(d->http, method, url, OCTETS, body, len, r, e);
    if (!rc && status)
        *status = r->status;
    if (!rc)
        rc = http_response_check(r, method, url, e);
    return rc;
}

int difference_begin(struct difference *d, int *status, struct err *e)
{
    struct http_response r;
    char suffix[64];
    *status = 0;
    snprintf(suffix, sizeof suffix, "blocks?lsn=%llu", (unsigned long long)d->least);
    int rc = ask(d, suffix, NULL, 0, &r, status, e);
    size_t n = rc || r.body_len < DIFFERENCE_HEAD_SIZE ? 0 : (r.body_len - DIFFERENCE_HEAD_SIZE) / 8;
    if (!rc && (r.body_len != DIFFERENCE_HEAD_SIZE + n * 8 || difference_head_decode((const uint8_t *)r.body, &d->head) ||
                n > UINT32_MAX / DIFFERENCE_BLOCK || (uint64_t)d->head.commit * d->head.page_size > COMMIT_BYTES_MAX))
        rc = err_set(e, ERR_CORRUPT, "%s/blocks: what arrives is no list of blocks", d->url);
    if (!rc && n) {
        d->blocks = malloc(n * sizeof *d->blocks);
        rc = d->blocks ? 0 : err_errno(e, ENOMEM, "list of %zu blocks", n);
    }
    for (size_t i = 0; !rc && i < n; i++)
        d->blocks[i] = be64_get(r.body + DIFFERENCE_HEAD_SIZE + i * 8);
    d->n_blocks = rc ? 0 : (uint32_t)n;
    http_response_free(&r);
    return rc;
}

/* The page as it would be taken: one that was fetched comes before the database's own. */
static uint64_t guess(const struct difference_have *h, uint32_t i)
{
    return h->sums[i] ? h->sums[i] : i < h->n_base ? h->base[i] : 0;
}

static int want(struct difference *d, uint32_t pgno, struct err *e)
{
    uint8_t *last = d->ranges_len ? d->ranges + d->ranges_len - 8 : NULL;
    if (last && be32_get(last) + be32_get(last + 4) == pgno) {
        be32_put(last + 4, be32_get(last + 4) + 1);
        d->wanted++;
        return 0;
    }
    if (d->ranges_len == (size_t)DIFFERENCE_RANGES_MAX * 8) {
        d->more = true;
        return 0;
    }
    if (d->ranges_len == d->ranges_size) {
        size_t size = d->ranges_size ? d->ranges_size * 2 : 4096;
        void *p = realloc(d->ranges, size);
        if (!p)
            return err_errno(e, ENOMEM, "list of pages");
        d->ranges = p;
        d->ranges_size = size;
    }
    be32_put(d->ranges + d->ranges_len, pgno);
    be32_put(d->ranges + d->ranges_len + 4, 1);
    d->ranges_len += 8;
    d->wanted++;
    return 0;
}

static bool same(uint64_t mine, const uint8_t *theirs, bool wide)
{
    return mine && (wide ? be64_get(theirs) == mine : be32_get(theirs) == difference_page(mine));
}

/* One block of an answer: k numbers at p. */
static int compare_block(struct difference *d, struct difference_have *h, uint32_t block, uint32_t k, const uint8_t *p, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; !rc && i < k; i++, p += d->wide ? 8 : 4) {
        uint32_t at = block * DIFFERENCE_BLOCK + i;
        if (at >= h->n || at >= d->head.commit || at + 1 == lock_pgno(d->head.page_size)) /* what has come since is in the log */
            continue;
        if (!same(h->sums[at], p, d->wide))
            h->sums[at] = at < h->n_base && same(h->base[at], p, d->wide) ? h->base[at] : 0;
        if (!h->sums[at])
            rc = want(d, at + 1, e);
    }
    return rc;
}

static int compare_answer(struct difference *d, struct difference_have *h, const uint8_t *asked, uint32_t n_asked, const struct http_response *r,
                          struct difference_head *last, struct err *e)
{
    const uint8_t *p = (const uint8_t *)r->body;
    size_t left = r->body_len;
    int rc = left < DIFFERENCE_HEAD_SIZE || difference_head_decode(p, last) ? ERR_CORRUPT : 0;
    if (!rc && (last->page_size != d->head.page_size || last->epoch != d->head.epoch || last->from < d->head.from))
        return err_set(e, ERR_AGAIN_LATER, "%s was replaced while it was being compared", d->url);
    p += rc ? 0 : DIFFERENCE_HEAD_SIZE;
    left -= rc ? 0 : DIFFERENCE_HEAD_SIZE;
    for (uint32_t i = 0; !rc && left; i++) {
        uint32_t block = left >= 8 ? be32_get(p) : 0, k = left >= 8 ? be32_get(p + 4) : 0;
        size_t size = (size_t)k * (d->wide ? 8 : 4);
        /* In the order of the question; those that are gone by now are left out. */
        while (i < n_asked && be32_get(asked + (size_t)i * 4) != block)
            i++;
        if (left < 8 || i >= n_asked || k < 1 || k > DIFFERENCE_BLOCK || left - 8 < size)
            rc = ERR_CORRUPT;
        if (rc)
            break;
        int bad = compare_block(d, h, block, k, p + 8, e);
        if (bad)
            return bad;
        p += 8 + size;
        left -= 8 + size;
    }
    return rc ? err_set(e, rc, "%s/blocks: the answer is damaged", d->url) : 0;
}

static int ask_pages(struct difference *d, struct difference_have *h, const uint8_t *asked, uint32_t n, struct difference_head *last, struct err *e)
{
    struct http_response r;
    int rc = ask(d, d->wide ? "blocks?wide" : "blocks", asked, (size_t)n * 4, &r, NULL, e);
    if (!rc)
        rc = compare_answer(d, h, asked, n, &r, last, e);
    http_response_free(&r);
    return rc;
}

int difference_find(struct difference *d, struct difference_have *h, struct err *e)
{
    uint8_t asked[DIFFERENCE_ASK_MAX * 4];
    uint64_t mine[DIFFERENCE_BLOCK];
    uint32_t n_asked = 0, blocks = difference_blocks(d->head.commit);
    struct difference_head last = d->head;
    int rc = 0;
    for (uint32_t b = 0; !rc && b < blocks; b++) {
        uint32_t at = b * DIFFERENCE_BLOCK, n = MIN(d->head.commit - at, DIFFERENCE_BLOCK);
        for (uint32_t i = 0; i < n; i++)
            mine[i] = at + i + 1 == lock_pgno(d->head.page_size) ? 0 : guess(h, at + i);
        if (b < d->n_blocks && difference_block(mine, n) == d->blocks[b])
            memcpy(h->sums + at, mine, (size_t)n * sizeof *mine);
        else
            be32_put(asked + (size_t)n_asked++ * 4, b);
        if (n_asked && (n_asked == DIFFERENCE_ASK_MAX || b == blocks - 1)) {
            rc = ask_pages(d, h, asked, n_asked, &last, e);
            n_asked = 0;
        }
    }
    if (!rc) { /* from stays that of the first answer */
        d->head.lsn = last.lsn;
        d->head.txid = last.txid;
        d->head.checksum = last.checksum;
        d->head.born = last.born;
        d->head.commit = last.commit;
    }
    return rc;
}

void difference_end(struct difference *d)
{
    free(d->blocks);
    free(d->ranges);
    d->blocks = NULL;
    d->ranges = NULL;
}
