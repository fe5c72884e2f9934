/* One change, entered whole: which way it is written, and that nothing is ever written unchecked. */
#include "replicator/apply/apply_file.h"

#include "lib/crc.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/metrics.h"
#include "replicator/database/walview.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

/* What page 1 says, if the change has it. */
struct page1 {
    uint32_t wal_mode;
    bool there;
    uint8_t version[16]; /* bytes 24 to 39: by these a connection without a WAL sees that its cache is stale (pager.c, sqlite3PagerSharedLock) */
};

/* First pass: checksums of all pages, the database checksum that results, and what page 1 says. */
static int check(struct database *db, const struct apply_tx *tx, struct sums_list *l, struct page1 *p1, struct err *e)
{
    const struct dbstate *old = database_dbstate(db);
    bool from_nothing = !old->txid || tx->born || old->page_size != tx->page_size;
    uint64_t x = from_nothing ? 0 : old->checksum;
    uint32_t pgno, lock = lock_pgno(tx->page_size);
    const uint8_t *page;
    int rc;
    *p1 = (struct page1){.wal_mode = tx->commit ? old->wal_mode : 0}; /* a file of 0 bytes has no mode, and no WAL can say that a database has no pages */
    while ((rc = tx->next(tx->ctx, &pgno, &page, e)) > 0) {
        if (pgno > tx->commit || pgno == lock)
            continue;
        if (l->n == l->size) {
            uint32_t size = l->size ? l->size * 2 : 64;
            void *p = realloc(l->v, (size_t)size * sizeof *l->v);
            if (!p)
                return err_errno(e, ENOMEM, "list of %u pages", size);
            l->v = p;
            l->size = size;
        }
        uint64_t sum = page_checksum(pgno, page, tx->page_size);
        x ^= (from_nothing ? 0 : sums_get(db->sums, pgno)) ^ sum;
        l->v[l->n++] = (struct apply_sum){pgno, sum};
        if (pgno == 1) {
            p1->there = true;
            p1->wal_mode = page[18] == 2;
            memcpy(p1->version, page + 24, sizeof p1->version);
        }
    }
    if (rc)
        return rc;
    if (!from_nothing)
        for (uint32_t p = tx->commit + 1; p <= old->commit; p++)
            x ^= sums_get(db->sums, p);
    if ((x | CHECKSUM_FLAG) != tx->checksum)
        return err_set(e, ERR_CHECKSUM, "%s: after LSN %llu its checksum would be %016llx, the primary's is %016llx", db->name,
                       (unsigned long long)tx->last_lsn, (unsigned long long)(x | CHECKSUM_FLAG), (unsigned long long)tx->checksum);
    return tx->rewind(tx->ctx, e);
}

/* WAL mode ends here: libsqlite3 copies the WAL and removes it, which needs all readers to have left. */
static int leave_wal(struct node *n, struct database *db, struct err *e)
{
    struct apply_file *f = db->apply;
    walindex_close(f->index);
    f->index = NULL;
    close(f->wal_fd);
    f->wal_fd = -1;
    fence_drop(n, db, &f->fence);
    int rc = sqlite3_exec(f->conn, "PRAGMA journal_mode=DELETE", NULL, NULL, NULL);
    f->open = true;
    apply_file_close(n, db);
    bool still;
    if (rc == SQLITE_OK)
        rc = file_is_wal_mode(n, db, &still, e) || still ? SQLITE_BUSY : SQLITE_OK;
    if (rc != SQLITE_OK)
        return err_set(e, ERR_AGAIN_LATER, "%s leaves WAL mode: waiting until no application here has it open", db->name);
    return 0;
}

#define HOT_NS 1000000000u

/* Nobody has it open, and it was not changed just now: not worth opening a WAL for. (Its first open by an application waits in edgefs-fs for us, and takes
 * db->lock.) */
static bool idle(struct node *n, const struct database *db)
{
    const struct apply_file *f = db->apply;
    return !db->apps_open && !(f && f->open) && !(f && now_ns() - f->used_ns < HOT_NS) && !walview_exists(n, db);
}

/* Pages go into the file itself. Killed in between: the sidecar says so, nobody is let in before the record was entered again. */
static int write_idle(struct node *n, struct database *db, const struct apply_tx *tx, struct err *e)
{
    if (!db->apply) {
        db->apply = calloc(1, sizeof *db->apply);
        if (!db->apply)
            return err_errno(e, ENOMEM, "apply");
        db->apply->wal_fd = db->apply->fence.db_fd = db->apply->fence.shm_fd = -1;
        db->apply->db = db;
    }
    struct apply_file *f = db->apply;
    int rc = apply_file_roll_back(n, db, e);
    if (rc)
        return rc;
    f->fence.db_fd = openat(n->mount_fd, db->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (f->fence.db_fd < 0)
        return err_errno(e, errno, "open %s", db->name);
    struct stat st;
    off_t size = (off_t)tx->commit * tx->page_size;
    if (!fstatat(n->db_fd, db->name, &st, AT_SYMLINK_NOFOLLOW) && st.st_size < size) /* a full disk shows before anything was changed */
        rc = -posix_fallocate(f->fence.db_fd, st.st_size, size - st.st_size);
    if (rc) {
        rc = err_errno(e, -rc, "grow %s to %lld bytes", db->name, (long long)size);
    } else {
        rc = apply_inplace_write(n, db, tx, e);
    }
    close(f->fence.db_fd);
    f->fence.db_fd = -1;
    f->exclusive = false;
    f->waiting_ns = 0;
    f->used_ns = now_ns();
    return rc;
}

/* Would connections that stay open here see, after this change of a database without a WAL, that what they have in their caches is stale? A primary's transactions
 * after the first one in PRAGMA locking_mode=EXCLUSIVE, whose change counter stays as it is, would give them a mixture of old and new pages. */
static int readers_would_notice(struct database *db, const struct page1 *p1, struct err *e)
{
    uint8_t version[16];
    if (!db->apps_open)
        return 0;
    ssize_t k = pread(db->apply->fence.db_fd, version, sizeof version, 24);
    if (k < 0)
        return err_errno(e, errno, "read %s", db->name);
    if (k < (ssize_t)sizeof version || (p1->there && memcmp(version, p1->version, sizeof version) != 0))
        return 0;
    apply_inplace_unlock(db);
    return err_set(e, ERR_AGAIN_LATER, "%s: a change that its change counter does not announce (locking_mode=EXCLUSIVE on the primary?): waiting for the next one, or "
                   "until no application here has it open", db->name);
}

static int write_tx(struct node *n, struct database *db, const struct apply_tx *tx, const struct page1 *p1, struct dbstate *st,
                    struct err *e)
{
    if (tx->born || faccessat(n->db_fd, db->name, F_OK, AT_SYMLINK_NOFOLLOW)) {
        st->wal_salt1 = st->wal_salt2 = st->wal_frame = 0;
        return apply_create(n, db, tx, e);
    }
    if (!tx->same && !(db->apply && db->apply->open) && apply_spoilt(n, db))
        return err_set(e, ERR_CORRUPT, "%s was written by somebody else than replication: waiting for an image", db->name);
    if (idle(n, db))
        return write_idle(n, db, tx, e);
    int rc = apply_file_open(n, db, e);
    if (rc)
        return rc;
    /* While applications have it open here it stays in WAL mode even if the primary's is not: whoever finds a WAL uses it, whatever page 1 says, and nobody has
     * to wait for anybody. Once the last one has closed it, it is as on the primary. */
    if (db->apply->wal && (p1->wal_mode || db->apps_open) && tx->page_size == database_dbstate(db)->page_size)
        return apply_wal_write(n, db, tx, st, e);
    if (db->apply->wal) {
        rc = leave_wal(n, db, e);
        if (!rc)
            rc = apply_file_open(n, db, e);
        if (rc)
            return rc;
    }
    st->wal_salt1 = st->wal_salt2 = st->wal_frame = 0;
    rc = tx->same ? 0 : readers_would_notice(db, p1, e);
    if (!rc)
        rc = apply_inplace_write(n, db, tx, e);
    if (!rc && p1->wal_mode) { /* from now on in WAL mode: open anew, that way, and fenced as before */
        struct err ignored;
        apply_file_close(n, db);
        if (db->apps_open && apply_file_open(n, db, &ignored))
            log_warn("apply", "%s", ignored.text); /* the next record tries again */
    }
    return rc;
}

static bool open_in_wal(const struct database *db, const struct apply_tx *tx)
{
    return !tx->born && db->apply && db->apply->open && db->apply->wal && database_dbstate(db)->page_size == tx->page_size;
}

/* Checks and writes it; what is left is held->st. locked_sqlite: db->sqlite is held. 1: it must be. */
static int enter(struct node *n, struct database *db, const struct apply_tx *tx, bool locked_sqlite, struct apply_held *held, struct err *e)
{
    const struct dbstate old = *database_dbstate(db);
    *held = (struct apply_held){.db = db, .tx = tx};
    held->st = (struct dbstate){
        .page_size = tx->page_size,
        .commit = tx->commit,
        .txid = tx->txid,
        .checksum = tx->checksum,
        .lsn = tx->last_lsn,
        .wal_salt1 = old.wal_salt1,
        .wal_salt2 = old.wal_salt2,
        .wal_frame = old.wal_frame,
        .born = tx->born ? tx->born : tx->life ? tx->life : old.born,
        .inode = tx->born ? 0 : old.inode,
    };
    struct page1 p1;
    int rc = database_load(n->databases, db, e);
    if (!rc && tx->same && (old.txid != tx->txid || old.lsn != tx->last_lsn))
        rc = err_set(e, ERR_AGAIN_LATER, "%s has changed meanwhile", db->name);
    if (!rc)
        rc = check(db, tx, &held->sums, &p1, e);
    if (!rc)
        held->st.wal_mode = p1.wal_mode;
    if (!rc && !locked_sqlite && !(open_in_wal(db, tx) && (p1.wal_mode || db->apps_open))) {
        rc = tx->rewind(tx->ctx, e);
        rc = rc ? rc : 1;
    }
    if (!rc)
        rc = sums_reserve(db->sums, tx->commit, e);
    if (!rc)
        rc = write_tx(n, db, tx, &p1, &held->st, e);
    if (rc) {
        free(held->sums.v);
        held->sums.v = NULL;
    }
    return rc;
}

/* It can be seen: what is known of the database follows. */
static int note(struct node *n, struct apply_held *held, struct err *e)
{
    struct database *db = held->db;
    const struct apply_tx *tx = held->tx;
    struct dbstate *st = &held->st;
    if (!(db->apply && db->apply->open && db->apply->wal) && !walview_exists(n, db)) {
        st->wal_salt1 = st->wal_salt2 = st->wal_frame = 0;
        st->file = database_stamp(n->db_fd, db->name);
    }
    /* killed before this line: the log has the record, and it is entered again */
    int rc = sums_begin(db->sums, tx->first_lsn, tx->last_lsn, tx->commit, e);
    if (!rc) {
        for (uint32_t i = 0; i < held->sums.n; i++)
            sums_set(db->sums, held->sums.v[i].pgno, held->sums.v[i].sum);
        sums_commit(db->sums, st);
        if (!tx->same)
            database_remember(db, tx->first_lsn);
        metrics_add(METRIC_APPLIED_WRITES, 1);
        if (db->state != DATABASE_OK || db->warning[0])
            database_mark(db, DATABASE_OK, NULL);
    }
    free(held->sums.v);
    held->sums.v = NULL;
    return rc;
}

static int run_locked(struct node *n, struct database *db, const struct apply_tx *tx, bool locked_sqlite, struct err *e)
{
    struct apply_held held;
    int rc = enter(n, db, tx, locked_sqlite, &held, e);
    return rc ? rc : note(n, &held, e);
}

int apply_tx_run(struct node *n, struct database *db, const struct apply_tx *tx, struct err *e)
{
    pthread_mutex_lock(&db->lock);
    int rc = run_locked(n, db, tx, false, e);
    pthread_mutex_unlock(&db->lock);
    if (rc <= 0)
        return rc;
    pthread_mutex_lock(&db->sqlite);
    pthread_mutex_lock(&db->lock);
    rc = run_locked(n, db, tx, true, e);
    pthread_mutex_unlock(&db->lock);
    pthread_mutex_unlock(&db->sqlite);
    return rc;
}

/* ---- several at once ---- */

static int begin_wal(struct node *n, struct database *db, const struct apply_tx *tx, struct apply_held *held, struct err *e)
{
    if (!open_in_wal(db, tx))
        return APPLY_ALONE;
    db->apply->hold = true;
    int rc = enter(n, db, tx, false, held, e);
    db->apply->hold = false;
    return rc == 1 ? APPLY_ALONE : rc;
}

static int begin_slow(struct node *n, struct database *db, const struct apply_tx *tx, struct apply_held *held, struct err *e)
{
    if (tx->born || tx->page_size != database_dbstate(db)->page_size || faccessat(n->db_fd, db->name, F_OK, AT_SYMLINK_NOFOLLOW))
        return APPLY_ALONE;
    if (!(db->apply && db->apply->open) && apply_spoilt(n, db))
        return APPLY_ALONE;
    if (!idle(n, db)) {
        int rc = apply_file_open(n, db, e);
        if (rc)
            return rc;
        if (db->apply->wal)
            return APPLY_OTHER_PASS;
        db->apply->hold = true;
    }
    int rc = enter(n, db, tx, true, held, e);
    if (db->apply)
        db->apply->hold = false;
    held->sqlite = true;
    return rc;
}

int apply_tx_begin(struct node *n, struct database *db, const struct apply_tx *tx, enum apply_pass pass, struct apply_held *held, struct err *e)
{
    bool slow = pass == APPLY_PASS_SLOW;
    int rc;
    *held = (struct apply_held){0};
    if (slow) {
        pthread_mutex_lock(&db->lock);
        rc = open_in_wal(db, tx) ? APPLY_OTHER_PASS : 0;
        pthread_mutex_unlock(&db->lock);
        if (rc)
            return rc;
        pthread_mutex_lock(&db->sqlite);
    }
    pthread_mutex_lock(&db->lock);
    rc = slow ? begin_slow(n, db, tx, held, e) : begin_wal(n, db, tx, held, e);
    if (!rc)
        return 0;
    held->db = NULL;
    pthread_mutex_unlock(&db->lock);
    if (slow)
        pthread_mutex_unlock(&db->sqlite);
    return rc;
}

static bool to_publish(const struct apply_held *h)
{
    return h->db && h->db->apply && h->db->apply->to_publish;
}

void apply_tx_show(const struct apply_held *v, size_t n)
{
    /* Killed in the middle, the successor mends each wal-index (walindex_repair), and until then nobody can read one that was begun. */
    for (size_t i = 0; i < n; i++)
        if (to_publish(&v[i]))
            walindex_publish_begin(v[i].db->apply->index, &v[i].db->apply->header);
    for (size_t i = 0; i < n; i++)
        if (v[i].db && v[i].sqlite)
            apply_inplace_unlock(v[i].db);
    for (size_t i = 0; i < n; i++)
        if (to_publish(&v[i])) {
            walindex_publish_end(v[i].db->apply->index, &v[i].db->apply->header);
            v[i].db->apply->to_publish = false;
        }
}

int apply_tx_end(struct node *n, struct apply_held *held, struct err *e)
{
    struct database *db = held->db;
    int rc = note(n, held, e);
    pthread_mutex_unlock(&db->lock);
    if (held->sqlite)
        pthread_mutex_unlock(&db->sqlite);
    return rc;
}
