#include "replicator/image/image_fetch.h"

#include "lib/crc.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/apply/apply_file.h"
#include "replicator/stream/follower.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define INSTALL_WAIT_NS 10000000000u

static int install_new(struct fetch *f, struct err *e)
{
    struct node *n = f->c->node;
    struct database *db = f->db;
    struct dbstate st = {
        .page_size = f->end.page_size,
        .commit = f->end.commit,
        .txid = f->end.txid,
        .checksum = f->end.checksum,
        .lsn = f->end.lsn,
        .born = f->end.born,
    };
    uint8_t version;
    if (st.commit && pread(f->data_fd, &version, 1, 18) == 1)
        st.wal_mode = version == 2;
    if (ftruncate(f->fd, (off_t)st.commit * st.page_size) || fchown(f->fd, f->parent.st_uid, f->parent.st_gid))
        return err_errno(e, errno, "finish the image of %s", db->name);
    int rc = sums_reserve(db->sums, st.commit, e);
    if (rc)
        return rc;
    rc = apply_put(n, db, f->temp, e);
    if (rc)
        return rc;
    /* Not sums_begin: the log does not hold these pages. Killed from here on: needs_image still stands, and the image comes again. */
    for (uint32_t p = 1; p <= st.commit; p++)
        sums_set(db->sums, p, f->sums[p - 1]);
    sums_commit(db->sums, &st);
    database_remember(db, 1);
    return 0;
}

struct changes {
    struct fetch *f;
    uint32_t at;
    uint8_t *page;
};

static int changes_next(void *ctx, uint32_t *pgno, const uint8_t **page, struct err *e)
{
    struct changes *d = ctx;
    struct fetch *f = d->f;
    const struct dbstate *st = database_dbstate(f->db);
    bool all = !st->txid || st->page_size != f->end.page_size;
    while (d->at < f->end.commit) {
        uint32_t p = ++d->at;
        if (p == lock_pgno(f->end.page_size) || (!all && sums_get(f->db->sums, p) == f->sums[p - 1]))
            continue;
        if (pread(f->data_fd, d->page, f->end.page_size, (off_t)(p - 1) * f->end.page_size) != (ssize_t)f->end.page_size)
            return err_errno(e, errno ? errno : EIO, "read the image of %s", f->db->name);
        *pgno = p;
        *page = d->page;
        return 1;
    }
    return 0;
}

static int changes_rewind(void *ctx, struct err *e)
{
    (void)e;
    ((struct changes *)ctx)->at = 0;
    return 0;
}

/* Nothing differs: the database is what the image is. db->lock is held. */
static bool is_there(const struct fetch *f)
{
    const struct dbstate *st = database_dbstate(f->db);
    return f->base && !st->torn && st->page_size == f->end.page_size && st->commit == f->end.commit && st->checksum == f->end.checksum && !f->pages &&
           st->txid;
}

static void install_same(struct fetch *f)
{
    struct dbstate st = *database_dbstate(f->db);
    st.txid = f->end.txid;
    st.lsn = f->end.lsn;
    st.born = f->end.born;
    st.needs_image = 0;
    sums_touch(f->db->sums, &st);
    database_remember(f->db, 1);
}

/* Rollback mode: until readers have left, for a while. The image is here; to fetch it again would only take longer. */
static int run_patiently(struct fetch *f, const struct apply_tx *tx, struct err *e)
{
    struct node *n = f->c->node;
    struct database *db = f->db;
    uint64_t deadline = now_ns() + INSTALL_WAIT_NS;
    long pause = 1000000;
    int rc;
    while ((rc = apply_tx_run(n, db, tx, e)) == ERR_AGAIN_LATER && now_ns() < deadline && !atomic_load(&n->stopping)) {
        int wait = ERR_AGAIN_LATER;
        pause = MIN(pause * 2, 200000000); /* it may be something else: each try reads the image */
        nanosleep(&(struct timespec){.tv_nsec = pause}, NULL);
        while (wait == ERR_AGAIN_LATER && now_ns() < deadline && !atomic_load(&n->stopping)) {
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
            pthread_mutex_lock(&db->sqlite);
            pthread_mutex_lock(&db->lock);
            wait = db->apply && db->apply->open && !db->apply->wal ? apply_inplace_lock(n, db, e) : 0;
            pthread_mutex_unlock(&db->lock);
            pthread_mutex_unlock(&db->sqlite);
        }
        int again = tx->rewind(tx->ctx, e);
        if (wait || again)
            return wait ? wait : again;
    }
    return rc;
}

static bool wants_image_locked(const struct database *db)
{
    return db->state == DATABASE_IMAGE || (db->state == DATABASE_UNKNOWN && db->pending);
}

bool image_wanted(struct database *db)
{
    pthread_mutex_lock(&db->lock);
    bool wants = wants_image_locked(db);
    pthread_mutex_unlock(&db->lock);
    return wants;
}

/* As a new file, whatever is there? If there is nothing; if applications have another database open, or one whose WAL would have to take pages of another size (all its
 * frames have one); and if nobody has it open and all pages are here anyway. Otherwise those who have it open are to see the change, in place. Both locks are held. */
static bool must_replace(const struct fetch *f)
{
    const struct database *db = f->db;
    const struct dbstate *st = database_dbstate(db);
    if (faccessat(f->c->node->db_fd, db->name, F_OK, AT_SYMLINK_NOFOLLOW))
        return true;
    bool sizes = db->apply && db->apply->open && db->apply->wal && st->page_size != f->end.page_size;
    return db->apps_open ? st->born != f->end.born || sizes : !f->base;
}

/* The private file has only what differs from what is here, and that is of no use: next time all of it. */
static int want_whole(struct fetch *f, const char *why, struct err *e)
{
    f->c->whole = f->db;
    return err_set(e, ERR_AGAIN_LATER, "%s: %s: all its pages are wanted", f->db->name, why);
}

static int install_over(struct fetch *f, struct err *e)
{
    struct database *db = f->db;
    struct err why = *e;
    int rc;
    pthread_mutex_lock(&db->sqlite);
    pthread_mutex_lock(&db->lock);
    if (!wants_image_locked(db))
        rc = err_set(e, -ECANCELED, "%s needs no image any more", db->name);
    else
        rc = f->base ? want_whole(f, "it cannot be opened", e) : install_new(f, e);
    if (!rc)
        log_warn("image", "%s: replaced as a whole", why.text);
    pthread_mutex_unlock(&db->lock);
    pthread_mutex_unlock(&db->sqlite);
    return rc;
}

int image_install(struct fetch *f, struct err *e)
{
    struct node *n = f->c->node;
    struct database *db = f->db;
    pthread_mutex_lock(&db->sqlite);
    pthread_mutex_lock(&db->lock);
    /* Removed meanwhile, or brought up by the log? Then this image is of yesterday. */
    int rc = wants_image_locked(db) ? database_load(n->databases, db, e) : err_set(e, -ECANCELED, "%s needs no image any more", db->name);
    bool fresh = !rc && must_replace(f);
    if (fresh && f->base)
        rc = want_whole(f, "it cannot be changed in place", e);
    else if (fresh)
        rc = install_new(f, e);
    bool same = !rc && !fresh && is_there(f);
    if (same)
        install_same(f);
    pthread_mutex_unlock(&db->lock);
    pthread_mutex_unlock(&db->sqlite);
    if (!rc && !fresh && !same) {
        struct changes d = {.f = f, .page = malloc(65536)};
        struct apply_tx tx = {
            .page_size = f->end.page_size,
            .commit = f->end.commit,
            .txid = f->end.txid,
            .checksum = f->end.checksum,
            .first_lsn = f->end.lsn,
            .last_lsn = f->end.lsn,
            .life = f->end.born,
            .next = changes_next,
            .rewind = changes_rewind,
            .ctx = &d,
        };
        rc = d.page ? run_patiently(f, &tx, e) : err_errno(e, ENOMEM, "image");
        free(d.page);
        if (rc == ERR_CORRUPT) /* SQLite cannot open what is here */
            rc = install_over(f, e);
    }
    if (rc)
        return rc;
    pthread_mutex_lock(&db->lock);
    db->damaged = 0;
    db->spoilt = db->doubtful = false;
    database_set_pending(n->databases, db, f->end.lsn + 1);
    database_mark(db, DATABASE_WAITING, "its image is in place; the log since then is being applied");
    pthread_mutex_unlock(&db->lock);
    if (n->follower)
        follower_hurry(n->follower);
    return 0;
}
