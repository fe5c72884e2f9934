#include "replicator/apply/stray.h"

#include "lib/crc.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/apply/apply_records.h"
#include "replicator/database/quarantine.h"
#include "replicator/database/resum.h"
#include "replicator/database/scan.h"
#include "replicator/database/walframes.h"
#include <errno.h>

/* ---- what is in the WAL ---- */

struct page {
    uint32_t pgno, frame;
    uint64_t sum;
};

struct pages {
    struct page *v; /* by number, one each */
    size_t n;
};

static int by_number(const void *a, const void *b)
{
    const struct page *x = a, *y = b;
    return x->pgno != y->pgno ? (x->pgno < y->pgno ? -1 : 1) : x->frame < y->frame ? -1 : 1;
}

/* The pages of frames from+1..to as the last of them left each. 0 or -errno. */
static int newest(const struct walview *v, uint32_t from, uint32_t to, struct pages *l)
{
    uint32_t size = v->header.page_size;
    _cleanup_free_ uint8_t *frame = malloc(WAL_FRAME_HEADER_SIZE + (size_t)size);
    l->v = malloc((size_t)(to - from) * sizeof *l->v);
    if (!frame || !l->v)
        return -ENOMEM;
    for (uint32_t i = from + 1; i <= to; i++) {
        struct wal_frame_header h;
        if (pread(v->wal_fd, frame, WAL_FRAME_HEADER_SIZE + (size_t)size, wal_frame_offset(i, size)) != (ssize_t)(WAL_FRAME_HEADER_SIZE + size))
            return -EIO;
        wal_frame_header_decode(frame, &h);
        l->v[l->n++] = (struct page){h.pgno, i, page_checksum(h.pgno, frame + WAL_FRAME_HEADER_SIZE, size)};
    }
    qsort(l->v, l->n, sizeof *l->v, by_number);
    size_t kept = 0;
    for (size_t i = 0; i < l->n; i++)
        if (i + 1 == l->n || l->v[i + 1].pgno != l->v[i].pgno)
            l->v[kept++] = l->v[i];
    l->n = kept;
    return 0;
}

static void leave_out_known(const struct database *db, struct pages *l)
{
    size_t kept = 0;
    for (size_t i = 0; i < l->n; i++)
        if (sums_get(db->sums, l->v[i].pgno) != l->v[i].sum)
            l->v[kept++] = l->v[i];
    l->n = kept;
}

/* A page of a record that waits: a replicator that was killed may have written it, and not have noted it yet. */
static int explain(void *ctx, uint32_t page_size, uint32_t pgno, const uint8_t *page, struct err *e)
{
    struct pages *l = ctx;
    (void)e;
    size_t lo = 0, hi = l->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (l->v[mid].pgno < pgno)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo < l->n && l->v[lo].pgno == pgno && l->v[lo].sum == page_checksum(pgno, page, page_size)) {
        memmove(l->v + lo, l->v + lo + 1, (l->n - lo - 1) * sizeof *l->v);
        l->n--;
    }
    return 0;
}

static bool in_wal(struct node *n, struct database *db)
{
    const struct dbstate st = *database_dbstate(db);
    struct err e;
    struct walview v;
    struct walframes at = {0};
    struct walindex_header h;
    struct pages l = {0};
    if (walview_open_frames(n, db, &v, &e))
        return false;
    bool found = false;
    if (walframes_read(&v, &at, &st, &h) == 0 && h.max_frame) {
        bool known = st.wal_frame && st.wal_salt1 == h.salt1 && st.wal_salt2 == h.salt2;
        uint32_t from = known ? st.wal_frame : 0, commit;
        if (h.max_frame > from && h.page_size != st.page_size) {
            found = true;
        } else if (h.max_frame > from && database_load(n->databases, db, &e) == 0 && newest(&v, from, h.max_frame, &l) == 0) {
            leave_out_known(db, &l);
            if (l.n && db->pending) /* as far as it gets: what it does not explain is a stray */
                (void)apply_each_page(n, db->name, db->pending, rlog_last(n->rlog).lsn, explain, &l, &commit, &e);
            found = l.n != 0;
        }
    }
    free(l.v);
    walview_close_held(&v);
    return found;
}

/* ---- */

bool stray_found(struct node *n, struct database *db)
{
    const struct dbstate *st = database_dbstate(db);
    /* After a sudden stop of the machine nothing that is known of a file can be compared with it. */
    if (n->crashed || !st->txid || !st->page_size || st->needs_image || st->torn)
        return false;
    struct filestamp now = database_stamp(n->db_fd, db->name);
    if (!now.ino)
        return false;
    if (st->wal_frame && !walview_exists(n, db))
        return true;
    return (st->file.ino && !filestamp_same_contents(&st->file, &now)) || in_wal(n, db);
}

/* Whether the database is what its sidecar says after all. 0 or why it cannot be told now. */
static int compare(struct node *n, struct database *db, bool *same, struct err *e)
{
    struct scan *s;
    struct scan_result r;
    *same = false;
    int rc = scan_open(n, db, SCAN_FREE, NULL, &s, &r, e);
    if (rc == ERR_AGAIN_LATER)
        return rc;
    if (rc)
        return 0; /* whatever it is, it is kept */
    pthread_mutex_lock(&db->lock);
    const struct dbstate *st = database_dbstate(db);
    *same = st->page_size == r.page_size && st->commit == r.commit && st->checksum == r.checksum;
    pthread_mutex_unlock(&db->lock);
    scan_close(s);
    scan_result_free(&r);
    return 0;
}

int stray_keep(struct node *n, struct database *db, struct err *e)
{
    bool same;
    int rc = compare(n, db, &same, e);
    if (rc)
        return rc;
    pthread_mutex_lock(&db->sqlite);
    pthread_mutex_lock(&db->lock);
    if (!same)
        rc = quarantine_stray(n, db, e);
    if (!rc || rc == -ENOENT) { /* gone meanwhile: there is nothing to keep */
        db->stray = false;
        resum_needed(n, db);
    }
    pthread_mutex_unlock(&db->lock);
    pthread_mutex_unlock(&db->sqlite);
    if (!rc && !same)
        log_warn("quarantine", "%s was written here while this node was a replica: what it was is in quarantine", db->name);
    return rc == -ENOENT ? 0 : rc;
}
