#include "replicator/capture/capture_wal.h"

#include "lib/crc.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define CHUNK_BYTES (1u << 20)  /* read at once; a change that fits is never read twice */
#define FRAMES_AT_ONCE 65536u   /* a record holds about this many frames, unless one transaction is longer */

struct capture_wal {
    struct ltx_encoder *enc;
    uint8_t *chunk; /* frames first_in_chunk … of the file, whole */
    size_t chunk_size;
    uint32_t chunk_first, chunk_frames;
    struct tx_page *pages;
    size_t pages_size; /* entries allocated */
    struct walview *view;
    uint32_t page_size, salt1, salt2;
    int db_fd; /* backing file, for pages that grew the database without a frame; -1: not opened */
    uint8_t *page; /* a frame of the largest page size */
};

int capture_wal_open(struct capture_wal **out, struct err *e)
{
    struct capture_wal *c = calloc(1, sizeof *c);
    if (!c)
        return err_errno(e, ENOMEM, "capture");
    c->enc = ltx_encoder_new();
    c->chunk_size = CHUNK_BYTES;
    c->chunk = malloc(c->chunk_size);
    c->page = malloc(WAL_FRAME_HEADER_SIZE + 65536);
    c->db_fd = -1;
    if (!c->enc || !c->chunk || !c->page) {
        capture_wal_close(c);
        return err_errno(e, ENOMEM, "capture");
    }
    *out = c;
    return 0;
}

void capture_wal_close(struct capture_wal *c)
{
    if (!c)
        return;
    ltx_encoder_free(c->enc);
    free(c->chunk);
    free(c->pages);
    free(c->page);
    free(c);
}

static size_t stride(const struct capture_wal *c)
{
    return WAL_FRAME_HEADER_SIZE + (size_t)c->page_size;
}

/* Reads frames first..last (as many as fit) into the chunk. */
static int load_chunk(struct capture_wal *c, uint32_t first, uint32_t last, struct err *e)
{
    uint32_t k = (uint32_t)MIN((size_t)(last - first + 1), c->chunk_size / stride(c));
    size_t want = (size_t)k * stride(c), got = 0;
    c->chunk_frames = 0;
    while (got < want) {
        ssize_t r = pread(c->view->wal_fd, c->chunk + got, want - got, wal_frame_offset(first, c->page_size) + (off_t)got);
        if (r < 0)
            return err_errno(e, errno, "read the WAL");
        if (r == 0)
            return err_set(e, ERR_AGAIN_LATER, "the WAL ends before frame %u", last);
        got += (size_t)r;
    }
    c->chunk_first = first;
    c->chunk_frames = k;
    return 0;
}

static int add_page(struct capture_wal *c, uint32_t n, uint32_t pgno, uint32_t frame, struct err *e)
{
    if (n >= c->pages_size) {
        size_t size = c->pages_size ? c->pages_size * 2 : 1024;
        void *p = realloc(c->pages, size * sizeof *c->pages);
        if (!p)
            return err_errno(e, ENOMEM, "list of %zu frames", size);
        c->pages = p;
        c->pages_size = size;
    }
    c->pages[n] = (struct tx_page){.pgno = pgno, .frame = frame};
    return 0;
}

/* Lists the frames of whole transactions from first on; fills tx->commit, ntx, wal_frame. */
static int list_frames(struct capture_wal *c, const struct walindex_header *h, uint32_t first, struct tx *tx, struct err *e)
{
    uint32_t n = 0, upto_commit = 0;
    for (uint32_t f = first; f <= h->max_frame;) {
        int rc = load_chunk(c, f, h->max_frame, e);
        if (rc)
            return rc;
        for (uint32_t i = 0; i < c->chunk_frames; i++, f++) {
            struct wal_frame_header fh;
            wal_frame_header_decode(c->chunk + i * stride(c), &fh);
            if (fh.salt1 != h->salt1 || fh.salt2 != h->salt2 || fh.pgno == 0)
                return err_set(e, ERR_AGAIN_LATER, "frame %u belongs to another generation of the WAL", f);
            rc = add_page(c, n++, fh.pgno, f, e);
            if (rc)
                return rc;
            if (fh.commit) {
                tx->commit = fh.commit;
                tx->ntx++;
                tx->wal_frame = f;
                upto_commit = n;
                if (n >= FRAMES_AT_ONCE)
                    goto enough;
            }
        }
    }
enough:
    if (!tx->ntx)
        return err_set(e, ERR_CORRUPT, "frames %u to %u are published but hold no commit", first, h->max_frame);
    tx->n_pages = upto_commit;
    return 0;
}

static int by_page_newest_first(const void *a, const void *b)
{
    const struct tx_page *x = a, *y = b;
    if (x->pgno != y->pgno)
        return x->pgno < y->pgno ? -1 : 1;
    return x->frame > y->frame ? -1 : x->frame < y->frame;
}

/* One entry a page, the newest; none beyond the database's new end. */
static void newest_only(struct tx *tx)
{
    uint32_t n = 0, lock = lock_pgno(tx->page_size);
    qsort(tx->pages, tx->n_pages, sizeof *tx->pages, by_page_newest_first);
    for (uint32_t i = 0; i < tx->n_pages; i++) {
        const struct tx_page p = tx->pages[i];
        if ((n && tx->pages[n - 1].pgno == p.pgno) || p.pgno > tx->commit || p.pgno == lock)
            continue;
        tx->pages[n++] = p;
    }
    tx->n_pages = n;
}

static int read_page(void *ctx, const struct tx_page *p, const uint8_t **page, struct err *e)
{
    struct capture_wal *c = ctx;
    if (p->frame >= c->chunk_first && p->frame < c->chunk_first + c->chunk_frames) {
        *page = c->chunk + (p->frame - c->chunk_first) * stride(c) + WAL_FRAME_HEADER_SIZE;
        return 0;
    }
    if (p->frame) {
        struct wal_frame_header fh;
        ssize_t r = pread(c->view->wal_fd, c->page, stride(c), wal_frame_offset(p->frame, c->page_size));
        if (r != (ssize_t)stride(c))
            return err_errno(e, r < 0 ? errno : EIO, "read frame %u", p->frame);
        wal_frame_header_decode(c->page, &fh);
        if (fh.pgno != p->pgno || fh.salt1 != c->salt1 || fh.salt2 != c->salt2)
            return err_set(e, ERR_AGAIN_LATER, "frame %u was overwritten while it was being read", p->frame);
        *page = c->page + WAL_FRAME_HEADER_SIZE;
        return 0;
    }
    ssize_t r = pread(c->db_fd, c->page, c->page_size, (off_t)(p->pgno - 1) * c->page_size);
    if (r < 0)
        return err_errno(e, errno, "read page %u", p->pgno);
    memset(c->page + r, 0, c->page_size - (size_t)r);
    *page = c->page;
    return 0;
}

/* A database may grow by pages that have no frame (allocated and freed in one transaction): they are what the database file says. */
static int add_unframed(struct capture_wal *c, struct tx *tx, uint32_t old_commit, struct err *e)
{
    uint32_t lock = lock_pgno(tx->page_size), expected = old_commit + 1, n = tx->n_pages, listed = tx->n_pages;
    for (uint32_t i = 0; i < listed; i++) {
        if (c->pages[i].pgno <= old_commit)
            continue;
        for (; expected < c->pages[i].pgno; expected++)
            if (expected != lock) {
                int rc = add_page(c, n++, expected, 0, e);
                if (rc)
                    return rc;
            }
        expected = c->pages[i].pgno + 1;
    }
    for (; expected <= tx->commit; expected++)
        if (expected != lock) {
            int rc = add_page(c, n++, expected, 0, e);
            if (rc)
                return rc;
        }
    tx->pages = c->pages;
    if (n == tx->n_pages)
        return 0;
    tx->n_pages = n;
    qsort(tx->pages, n, sizeof *tx->pages, by_page_newest_first);
    return 0;
}

static bool changes_something(const struct database *db, const struct tx *tx)
{
    const struct dbstate *old = database_dbstate(db);
    bool changed = !old->txid || tx->page_size != old->page_size || tx->commit != old->commit;
    for (uint32_t i = 0; i < tx->n_pages && !changed; i++)
        changed = sums_get(db->sums, tx->pages[i].pgno) != tx->pages[i].sum;
    return changed;
}

/* prepare: NULL, or where the LSN of a PREPARE record goes. */
static int run(struct capture_wal *c, struct node *n, struct database *db, struct walview *v, const struct walindex_header *h, uint64_t *prepare,
               struct err *e)
{
    const struct dbstate *old = database_dbstate(db);
    uint32_t first = old->wal_frame + 1;
    struct tx tx = {
        .page_size = h->page_size,
        .wal_mode = 1,
        .wal_salt1 = h->salt1,
        .wal_salt2 = h->salt2,
        .wal_offset = wal_frame_offset(first, h->page_size),
        .read = read_page,
        .ctx = c,
    };
    c->view = v;
    c->page_size = h->page_size;
    c->salt1 = h->salt1;
    c->salt2 = h->salt2;
    int rc = list_frames(c, h, first, &tx, e);
    if (rc)
        return rc;
    tx.wal_size = (int64_t)(tx.wal_frame - first + 1) * (int64_t)stride(c);
    tx.pages = c->pages;
    newest_only(&tx);
    rc = add_unframed(c, &tx, MIN(old->commit, tx.commit), e);
    _cleanup_fd_ int db_fd = -1;
    for (uint32_t i = 0; i < tx.n_pages && !rc; i++) {
        const uint8_t *page;
        if (!tx.pages[i].frame && db_fd < 0) {
            db_fd = openat(n->db_fd, db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
            c->db_fd = db_fd;
            if (db_fd < 0)
                return err_errno(e, errno, "open %s", db->name);
        }
        rc = read_page(c, &tx.pages[i], &page, e);
        if (!rc)
            tx.pages[i].sum = page_checksum(tx.pages[i].pgno, page, tx.page_size);
    }
    bool changed = !rc && changes_something(db, &tx);
    if (prepare && !rc && !changed) { /* nothing that replicas would have to know */
        *prepare = 0;
        return 0;
    }
    if (rc || changed)
        return rc ? rc : prepare ? tx_prepare(n, db, &tx, c->enc, prepare, e) : tx_record(n, db, &tx, c->enc, e);
    struct dbstate st = *old; /* frames of what a comparison had found in the database file already, or of a transaction that wrote what was there */
    st.wal_salt1 = tx.wal_salt1;
    st.wal_salt2 = tx.wal_salt2;
    st.wal_frame = tx.wal_frame;
    st.wal_mode = 1;
    st.file = (struct filestamp){0};
    sums_touch(db->sums, &st);
    return 0;
}

int capture_wal_run(struct capture_wal *c, struct node *n, struct database *db, struct walview *v, const struct walindex_header *h,
                    struct err *e)
{
    return run(c, n, db, v, h, NULL, e);
}

int capture_wal_prepare(struct capture_wal *c, struct node *n, struct database *db, struct walview *v, const struct walindex_header *h, uint64_t *lsn,
                        struct err *e)
{
    return run(c, n, db, v, h, lsn, e);
}

/* Lists the pages of all frames of the WAL's present generation. */
static int list_all_frames(struct capture_wal *c, const struct wal_header *h, struct tx *tx, struct err *e)
{
    struct wal_frame_header fh;
    uint8_t buf[WAL_FRAME_HEADER_SIZE];
    for (uint32_t f = 1; pread(c->view->wal_fd, buf, sizeof buf, wal_frame_offset(f, c->page_size)) == (ssize_t)sizeof buf; f++) {
        wal_frame_header_decode(buf, &fh);
        if (fh.salt1 != h->salt1 || fh.salt2 != h->salt2 || fh.pgno == 0)
            break;
        int rc = add_page(c, tx->n_pages++, fh.pgno, 0, e);
        if (rc)
            return rc;
        tx->ntx += fh.commit != 0;
    }
    return 0;
}

/* True if the database file has every page as the list says: whoever removes the WAL has copied all of it. */
static bool in_file(struct capture_wal *c, const struct tx *tx)
{
    for (uint32_t i = 0; i < tx->n_pages; i++) {
        off_t at = (off_t)(tx->pages[i].pgno - 1) * c->page_size;
        if (tx->pages[i].pgno <= tx->commit && (pread(c->db_fd, c->page, c->page_size, at) != (ssize_t)c->page_size ||
                                                page_checksum(tx->pages[i].pgno, c->page, c->page_size) != tx->pages[i].sum))
            return false;
    }
    return true;
}

int capture_wal_closed(struct capture_wal *c, struct node *n, struct database *db, struct err *e)
{
    const struct dbstate *old = database_dbstate(db);
    char name[LAYOUT_NAME_MAX + sizeof LAYOUT_WAL];
    struct stat st;
    struct walview v = {.shm_fd = -1};
    struct tx tx = {.page_size = old->page_size, .wal_mode = 1, .read = read_page, .ctx = c};
    snprintf(name, sizeof name, "%s%s", db->name, LAYOUT_WAL);
    _cleanup_fd_ int wal_fd = openat(n->db_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    _cleanup_fd_ int db_fd = openat(n->db_fd, db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (wal_fd < 0 || db_fd < 0 || fstat(wal_fd, &st))
        return err_errno(e, errno, "open %s", name);
    if (st.st_size == 0)
        return 0; /* somebody only read */
    v.wal_fd = wal_fd;
    if (!old->txid || walview_header(&v) || v.header.page_size != old->page_size || fstat(db_fd, &st))
        return err_set(e, ERR_GONE, "%s cannot be read", name);
    c->view = &v;
    c->page_size = old->page_size;
    c->db_fd = db_fd;
    c->chunk_frames = 0;
    int rc = list_all_frames(c, &v.header, &tx, e);
    if (rc || !tx.ntx)
        return rc;
    tx.commit = (uint32_t)(st.st_size / old->page_size);
    tx.pages = c->pages;
    newest_only(&tx);
    rc = add_unframed(c, &tx, MIN(old->commit, tx.commit), e);
    for (uint32_t i = 0; i < tx.n_pages && !rc; i++) {
        const uint8_t *page;
        rc = read_page(c, &tx.pages[i], &page, e);
        if (!rc)
            tx.pages[i].sum = page_checksum(tx.pages[i].pgno, page, tx.page_size);
    }
    bool whole = !rc && in_file(c, &tx);
    /* Nothing new: it had been captured while it was mapped. */
    if (!rc && changes_something(db, &tx))
        rc = tx_record(n, db, &tx, c->enc, e);
    if (!rc && whole) {
        struct filestamp now = database_stamp(n->db_fd, db->name);
        database_settle(n->databases, db, &now);
    }
    return rc;
}
