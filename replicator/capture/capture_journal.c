#include "replicator/capture/capture_journal.h"

#include "lib/crc.h"
#include "lib/journal.h"
#include "lib/log.h"
#include "lib/sqlitefile.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

/* A database of which nothing (usable, trusted) is tracked is read whole while the application waits if it is no larger than this; a larger one is compared later. */
#define WHOLE_MAX (16u << 20)
/* … or than this, if the transaction has written all of it (a new database, a VACUUM that changes the page size): reading takes a fraction of that time. */
#define WRITTEN_MAX (64u << 20)
/* So much of what changed is copied, so that the application need not wait until it is in the log. */
#define COPY_MAX (4u << 20)

struct capture_journal {
    struct journal *reader;
    struct ltx_encoder *enc;
    struct tx_page *pages; /* candidates, then what changed */
    uint32_t n, size;
    uint8_t *copy; /* of changed pages, in the order of `pages` */
    size_t copy_size;
    bool copied;
    int journal_fd, db_fd; /* of the present run */
    struct journal_end *end;
    uint64_t *prepare;     /* of the present run: where the LSN of a PREPARE record goes; NULL: a TX record is wanted */
    uint32_t page_size;
    uint8_t page[65536];
};

int capture_journal_open(struct capture_journal **out, struct err *e)
{
    struct capture_journal *c = calloc(1, sizeof *c);
    if (c) {
        c->reader = journal_new();
        c->enc = ltx_encoder_new();
    }
    if (!c || !c->reader || !c->enc) {
        capture_journal_close(c);
        return err_errno(e, ENOMEM, "capture");
    }
    *out = c;
    return 0;
}

void capture_journal_close(struct capture_journal *c)
{
    if (!c)
        return;
    journal_free(c->reader);
    ltx_encoder_free(c->enc);
    free(c->pages);
    free(c->copy);
    free(c);
}

static long read_journal(void *ctx, void *p, size_t n, int64_t at)
{
    struct capture_journal *c = ctx;
    ssize_t k = pread(c->journal_fd, p, n, at);
    if (c->end->zeroed && at < JOURNAL_HEADER_SIZE && k > 0) {
        size_t from = (size_t)at, to = MIN((size_t)JOURNAL_HEADER_SIZE, from + (size_t)k);
        memcpy(p, c->end->header + from, to - from);
    }
    return k < 0 ? -errno : k;
}

static int add(struct capture_journal *c, uint32_t pgno, struct err *e)
{
    if (c->n == c->size) {
        uint32_t size = c->size ? c->size * 2 : 256;
        void *p = realloc(c->pages, size * sizeof *c->pages);
        if (!p)
            return err_errno(e, ENOMEM, "list of %u pages", size);
        c->pages = p;
        c->size = size;
    }
    c->pages[c->n++] = (struct tx_page){.pgno = pgno};
    return 0;
}

/* Pages of the database as it was that the transaction may have written. */
static int list_journaled(struct capture_journal *c, const struct database *db, const struct journal_header *h, enum journal_proof *proof, struct err *e)
{
    const struct dbstate *st = database_dbstate(db);
    uint32_t pgno;
    const uint8_t *page;
    int rc;
    while ((rc = journal_next(c->reader, &pgno, &page, e)) > 0) {
        if (pgno > h->page_count || pgno > st->commit)
            return err_set(e, ERR_GONE, "the journal names page %u of a database of %u pages", pgno, st->commit);
        if (pgno == 1 && page_checksum(pgno, page, h->page_size) != sums_get(db->sums, pgno))
            return err_set(e, ERR_GONE, "%s had changed before this transaction", db->name);
        if (pgno == 1)
            *proof = JOURNAL_PAGE1;
        rc = add(c, pgno, e);
        int leaves = freelist_trunk_leaves(page, h->page_size, h->page_count);
        for (int i = 0; i < leaves && !rc; i++)
            rc = add(c, freelist_leaf(page, i), e);
        if (rc)
            return rc;
    }
    return rc;
}

static int by_page(const void *a, const void *b)
{
    uint32_t x = ((const struct tx_page *)a)->pgno, y = ((const struct tx_page *)b)->pgno;
    return x < y ? -1 : x > y;
}

static int read_page(struct capture_journal *c, uint32_t pgno, struct err *e)
{
    ssize_t k = pread(c->db_fd, c->page, c->page_size, (off_t)(pgno - 1) * c->page_size);
    if (k < 0)
        return err_errno(e, errno, "read page %u", pgno);
    memset(c->page + k, 0, c->page_size - (size_t)k);
    return 0;
}

static void read_all(struct capture_journal *c)
{
    if (c->end->read)
        c->end->read(c->end->ctx);
    c->end->read = NULL;
}

/* For tx_record. */
static int from_copy(void *ctx, const struct tx_page *p, const uint8_t **page, struct err *e)
{
    const struct capture_journal *c = ctx;
    (void)e;
    *page = c->copy + (size_t)(p - c->pages) * c->page_size;
    return 0;
}

static int read_again(void *ctx, const struct tx_page *p, const uint8_t **page, struct err *e)
{
    struct capture_journal *c = ctx;
    *page = c->page;
    int rc = read_page(c, p->pgno, e);
    if (!rc && page_checksum(p->pgno, c->page, c->page_size) != p->sum)
        rc = err_set(e, ERR_GONE, "page %u was written without a lock while it was being captured", p->pgno);
    return rc;
}

static void keep_copy(struct capture_journal *c, uint32_t kept)
{
    size_t at = (size_t)kept * c->page_size, need = at + c->page_size;
    if (need > c->copy_size && need <= COPY_MAX) {
        size_t size = MAX(MIN(c->copy_size * 2, COPY_MAX), MAX(need, (size_t)65536));
        void *p = realloc(c->copy, size);
        if (p) {
            c->copy = p;
            c->copy_size = size;
        }
    }
    c->copied = c->copied && need <= c->copy_size;
    if (c->copied)
        memcpy(c->copy + at, c->page, c->page_size);
}

/* Leaves those candidates that did change, once each, in order. all: each of them counts. */
static int only_changed(struct capture_journal *c, const struct database *db, uint32_t commit, bool all, struct err *e)
{
    uint32_t kept = 0, last = 0, lock = lock_pgno(c->page_size);
    c->copied = true;
    qsort(c->pages, c->n, sizeof *c->pages, by_page);
    for (uint32_t i = 0; i < c->n; i++) {
        uint32_t pgno = c->pages[i].pgno;
        if (pgno == last || pgno > commit || pgno == lock)
            continue;
        last = pgno;
        int rc = read_page(c, pgno, e);
        if (rc)
            return rc;
        uint64_t sum = page_checksum(pgno, c->page, c->page_size);
        if (!all && sum == sums_get(db->sums, pgno))
            continue;
        keep_copy(c, kept);
        c->pages[kept++] = (struct tx_page){.pgno = pgno, .sum = sum};
    }
    c->n = kept;
    return 0;
}

static int record(struct capture_journal *c, struct node *n, struct database *db, const struct tx *shape, bool all, struct err *e)
{
    struct dbstate st = *database_dbstate(db);
    struct tx tx = *shape;
    int rc = only_changed(c, db, tx.commit, all, e);
    if (rc)
        return rc;
    if (!c->n && st.commit == tx.commit && st.txid) {
        if (!c->prepare && (st.wal_frame || st.wal_salt1 || st.wal_salt2)) { /* whatever WAL there was is gone: the file is that state */
            st.wal_salt1 = st.wal_salt2 = st.wal_frame = 0;
            sums_touch(db->sums, &st);
        }
        return 0;
    }
    tx.ntx = 1;
    tx.pages = c->pages;
    tx.n_pages = c->n;
    tx.read = c->copied ? from_copy : read_again;
    tx.ctx = c;
    if (c->copied)
        read_all(c);
    return c->prepare ? tx_prepare(n, db, &tx, c->enc, c->prepare, e) : tx_record(n, db, &tx, c->enc, e);
}

/* h: NULL if the journal's header is not known. */
static int capture(struct capture_journal *c, struct node *n, struct database *db, const struct journal_header *h, bool whole,
                   enum journal_proof *proof, struct err *e)
{
    uint8_t head[DBFILE_HEADER_SIZE];
    struct dbfile_header dh;
    struct stat file;
    const struct dbstate *st = database_dbstate(db);
    if (fstat(c->db_fd, &file))
        return err_errno(e, errno, "stat %s", db->name);
    if (file.st_size == 0) { /* created and rolled back; or a database became empty, which the comparison enters */
        *proof = JOURNAL_WHOLE;
        return st->txid ? err_set(e, ERR_GONE, "%s is empty", db->name) : 0;
    }
    ssize_t k = pread(c->db_fd, head, sizeof head, 0);
    if (k < 0)
        return err_errno(e, errno, "read %s", db->name);
    if (dbfile_header_decode(head, (size_t)k, &dh))
        return err_set(e, ERR_NOT_DATABASE, "%s is not an SQLite database", db->name);
    struct tx tx = {.page_size = dh.page_size, .commit = dbfile_pages(&dh, file.st_size), .wal_mode = dh.write_version == 2};
    tx.anew = c->end->anew && st->txid;
    tx.inode = tx.anew ? c->end->stamp.ino : 0;
    bool all = !st->txid || tx.anew || st->page_size != dh.page_size;
    off_t max = h && (!h->page_count || h->page_size != dh.page_size) ? WRITTEN_MAX : WHOLE_MAX;
    whole = all || ((whole || !h) && file.st_size <= max);
    if (!whole && !h)
        return err_set(e, ERR_GONE, "the journal of %s is gone", db->name);
    c->page_size = dh.page_size;
    int rc = 0;
    if (all && file.st_size > max)
        return err_set(e, ERR_GONE, "%s is seen for the first time, is another file now, or has another page size", db->name);
    if (!whole && h->page_size != dh.page_size)
        return err_set(e, ERR_GONE, "the journal of %s has another page size", db->name);
    if (!whole && h->page_count != st->commit)
        return err_set(e, ERR_GONE, "%s had %u pages before this transaction, %u are tracked", db->name, h->page_count, st->commit);
    if (whole)
        *proof = JOURNAL_WHOLE;
    else
        rc = list_journaled(c, db, h, proof, e);
    for (uint32_t p = whole ? 1 : st->commit + 1; p <= tx.commit && !rc; p++)
        rc = add(c, p, e);
    return rc ? rc : record(c, n, db, &tx, all, e);
}

static int run(struct capture_journal *c, struct node *n, struct database *db, struct journal_end *end, bool whole, enum journal_proof *proof, struct err *e)
{
    char name[LAYOUT_NAME_MAX + sizeof LAYOUT_JOURNAL];
    struct journal_header h;
    *proof = JOURNAL_UNPROVEN;
    snprintf(name, sizeof name, "%s%s", db->name, LAYOUT_JOURNAL);
    _cleanup_fd_ int journal_fd = openat(n->db_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (journal_fd < 0)
        return errno == ENOENT ? 1 : err_errno(e, errno, "open %s", name);
    _cleanup_fd_ int db_fd = openat(n->db_fd, db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (db_fd < 0)
        return errno == ENOENT ? 1 : err_errno(e, errno, "open %s", db->name);
    c->end = end;
    c->journal_fd = journal_fd;
    c->db_fd = db_fd;
    c->n = 0;
    bool known = !end->zeroed || end->known;
    int rc = known ? journal_begin(c->reader, read_journal, c, &h, e) : 0;
    if (rc == ERR_CORRUPT)
        return 1;
    end->stamp = database_stamp(n->db_fd, db->name); /* before the application goes on */
    if (!rc)
        rc = database_load(n->databases, db, e);
    return rc ? rc : capture(c, n, db, known ? &h : NULL, whole, proof, e);
}

int capture_journal_run(struct capture_journal *c, struct node *n, struct database *db, struct journal_end *end, bool whole, enum journal_proof *proof, struct err *e)
{
    c->prepare = NULL;
    return run(c, n, db, end, whole, proof, e);
}

int capture_journal_prepare(struct capture_journal *c, struct node *n, struct database *db, bool whole, uint64_t *lsn, struct err *e)
{
    enum journal_proof proof;
    struct journal_end end = {0}; /* the application goes on waiting */
    *lsn = 0;
    c->prepare = lsn;
    return run(c, n, db, &end, whole, &proof, e);
}
