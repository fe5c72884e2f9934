#include "replicator/apply/apply_records.h"
#include "replicator/apply/apply_merge.h"

#include "lib/crc.h"
#include "lib/log.h"
#include "lib/ltx.h"
#include "lib/util.h"
#include "lib/filter.h"
#include "replicator/image/image_client.h"
#include "replicator/stream/position_server.h"
#include <errno.h>

#define BATCH_BYTES (8u << 20) /* pages in memory before they are applied */
#define BATCH_RECORDS 4096u
#define BATCH_DATABASES 64u /* that are locked together while their changes are shown */
#define RETRY_NS 50000000u
#define RETRY_SOON_NS 1000000u /* a rollback-journal database waits for a reader's transaction to end, and keeps new ones out */

struct apply {
    struct node *node;
    struct ltx_decoder *dec;
    struct merges merges;
    unsigned records;
    uint64_t last_lsn; /* of the last record added */
    uint64_t retry_ns;
    atomic_bool hurry; /* set by any thread: whatever retry_ns says */
    bool soon; /* of those that wait, one does so only for readers that are about to leave */
    uint8_t *payload; /* of a record that is read back from the log; APPLY_IN_MEMORY bytes, allocated when first needed */
};

int apply_records_open(struct node *n, struct apply **out, struct err *e)
{
    struct apply *a = calloc(1, sizeof *a);
    if (!a || !(a->dec = ltx_decoder_new())) {
        free(a);
        return err_errno(e, ENOMEM, "apply");
    }
    a->node = n;
    merges_init(&a->merges);
    *out = a;
    return 0;
}

void apply_records_close(struct apply *a)
{
    if (!a)
        return;
    for (struct merge *m; (m = merges_take_first(&a->merges));)
        merge_free(&a->merges, m);
    ltx_decoder_free(a->dec);
    free(a->payload);
    free(a);
}

/* ---- databases that cannot go on ---- */

void apply_needs_image(struct node *n, struct database *db, uint64_t lsn, const char *why)
{
    struct err e;
    if (!db->pending)
        database_set_pending(n->databases, db, lsn);
    database_mark(db, DATABASE_IMAGE, "%s", why);
    if (database_load(n->databases, db, &e) == 0) { /* so that a restart knows it too */
        struct dbstate st = *database_dbstate(db);
        st.needs_image = 1;
        sums_touch(db->sums, &st);
    }
    image_client_kick(n);
}

static void block(struct apply *a, struct database *db, uint64_t lsn, int rc, const char *why)
{
    pthread_mutex_lock(&db->lock);
    if (!db->pending || lsn < db->pending)
        database_set_pending(a->node->databases, db, lsn);
    switch (rc) {
    case ERR_CHECKSUM:
    case ERR_CORRUPT:
    case ERR_GONE:
        apply_needs_image(a->node, db, lsn, why);
        break;
    default:
        if (rc == -ENOSPC || rc == -EDQUOT)
            atomic_store(&a->node->disk_full, true);
        if (rc == ERR_AGAIN_LATER && apply_inplace_waits(db))
            a->soon = true, a->retry_ns = MIN(a->retry_ns, now_ns() + RETRY_SOON_NS); /* for no longer than apply-wait: nothing to speak of yet */
        else if (db->state != DATABASE_IMAGE)
            database_mark(db, DATABASE_WAITING, "%s", why);
    }
    pthread_mutex_unlock(&db->lock);
}

uint64_t apply_lowest_pending(struct node *n)
{
    return databases_lowest_pending(n->databases);
}

static void set_applied(struct apply *a)
{
    uint64_t applied = MIN(a->last_lsn, apply_lowest_pending(a->node) - 1);
    if (applied) {
        atomic_store(&a->node->applied, applied);
        position_server_moved(a->node->positions);
    }
}

/* ---- what was merged ---- */

static void merged(void *ctx, const struct merge *m, int rc, const char *why)
{
    if (rc)
        block(ctx, m->db, m->first_lsn, rc, why);
}

/* Applies what was merged, all at once: who sees a transaction sees those of other databases that went before it, too. */
static void flush_all(struct apply *a)
{
    merges_apply(&a->merges, a->node, merged, a);
}

/* Applies one database's records before something that must come after them. */
static void flush_one(struct apply *a, struct database *db)
{
    struct err e;
    struct merge *m = merges_take(&a->merges, db);
    if (!m)
        return;
    merged(a, m, merge_run(a->node, m, &e), e.text);
    merge_free(&a->merges, m);
}

/* ---- records ---- */

static int apply_drop(struct apply *a, struct database *db, uint64_t lsn, struct err *e)
{
    pthread_mutex_lock(&db->sqlite);
    pthread_mutex_lock(&db->lock);
    int rc = apply_remove(a->node, db, e);
    if (!rc)
        database_forget(a->node->databases, db, lsn);
    pthread_mutex_unlock(&db->lock);
    pthread_mutex_unlock(&db->sqlite);
    return rc;
}

static int apply_state(struct apply *a, struct database *db, const struct record_head *h, const uint8_t *payload, struct err *e)
{
    struct record_state s;
    int rc = record_state_decode(payload, h->payload_len, &s);
    if (rc)
        return err_set(e, ERR_CORRUPT, "%s: STATE record cannot be decoded", db->name);
    pthread_mutex_lock(&db->lock);
    rc = database_load(a->node->databases, db, e);
    const struct dbstate *st = database_dbstate(db);
    bool have = !rc && st->txid == s.txid && st->checksum == s.checksum;
    pthread_mutex_unlock(&db->lock);
    return rc || have ? rc : err_set(e, ERR_GONE, "its pages are not in the log: waiting for an image");
}

int apply_rename_target(const struct record_head *h, const uint8_t *payload, int fd, int64_t offset, char *name)
{
    if (h->type != RECORD_RENAME || h->payload_len < 1 || h->payload_len > LAYOUT_NAME_MAX)
        return -EBADMSG;
    if (payload)
        memcpy(name, payload, h->payload_len);
    else if (pread(fd, name, h->payload_len, offset) != (ssize_t)h->payload_len)
        return -EIO;
    name[h->payload_len] = 0;
    return 0;
}

/* What was to be renamed is not here, or not whole: its new self comes as an image. */
static int rename_without(struct apply *a, struct database *from, struct database *to, uint64_t lsn, struct err *e)
{
    int rc = apply_drop(a, from, lsn, e);
    pthread_mutex_lock(&to->lock);
    if (!rc && database_dbstate(to)->lsn <= lsn) {
        apply_needs_image(a->node, to, lsn, "it was renamed from one that is not here: waiting for an image");
    }
    pthread_mutex_unlock(&to->lock);
    return rc;
}

/* A rename concerns two databases, and either may be behind. What the old name still waits for comes first: then it is not now that the rename is
 * carried out but when catch_up gets there, and the new name waits, too. What the new name waits for is of no importance: it is replaced. */
static int rename_record(struct apply *a, struct database *from, const struct record_head *h, const uint8_t *payload, int fd, int64_t offset,
                         struct err *e)
{
    char name[LAYOUT_NAME_MAX + 1];
    uint64_t lsn = h->pos.lsn;
    if (apply_rename_target(h, payload, fd, offset, name))
        return err_set(e, ERR_CORRUPT, "the RENAME record %llu of %s cannot be read", (unsigned long long)lsn, from->name);
    if (!filter_wants(a->node->filter, name))
        return apply_drop(a, from, lsn, e); /* it goes on elsewhere, under that name */
    struct database *to = databases_get(a->node->databases, name, e);
    if (!to)
        return e->code;
    flush_one(a, to);
    pthread_mutex_lock(&from->lock);
    uint64_t behind = from->pending;
    bool image = from->state == DATABASE_IMAGE;
    pthread_mutex_unlock(&from->lock);
    int rc = 0;
    if (behind && behind < lsn && !image)
        rc = err_set(e, ERR_AGAIN_LATER, "waits for %s, which becomes it", from->name);
    else if (!image)
        rc = apply_rename(a->node, from, to, lsn, e);
    if (image || rc == ERR_GONE)
        return rename_without(a, from, to, lsn, e);
    if (rc) {
        block(a, to, lsn, rc, e->text);
        return rc;
    }
    pthread_mutex_lock(&to->lock);
    if (to->pending) { /* what came after the rename while it could not be carried out */
        database_set_pending(a->node->databases, to, lsn + 1);
        if (to->state == DATABASE_IMAGE)
            database_mark(to, DATABASE_WAITING, "the log is being applied");
    }
    pthread_mutex_unlock(&to->lock);
    return 0;
}

/* db is the new name: in its turn only if the old one has been there. */
static int renamed_to(struct apply *a, struct database *db, const struct record_head *h, struct err *e)
{
    struct database *from = databases_find(a->node->databases, h->name);
    if (!from || from == db)
        return 0;
    pthread_mutex_lock(&from->lock);
    bool waits = from->pending && from->pending <= h->pos.lsn && from->state != DATABASE_IMAGE;
    pthread_mutex_unlock(&from->lock);
    (void)db;
    return waits ? err_set(e, ERR_AGAIN_LATER, "waits for %s, which becomes it", h->name) : 0;
}

static int apply_record(struct apply *a, struct database *db, const struct record_head *h, const uint8_t *payload, int fd,
                        int64_t offset, struct err *e)
{
    uint8_t small[RECORD_STATE_SIZE];
    switch (h->type) {
    case RECORD_TX:
        return tx_record_apply(a->node, a->dec, db, h, payload, fd, offset, e);
    case RECORD_DROP:
        return apply_drop(a, db, h->pos.lsn, e);
    case RECORD_RENAME:
        return rename_record(a, db, h, payload, fd, offset, e);
    case RECORD_STATE:
        if (!payload) {
            if (h->payload_len != sizeof small || pread(fd, small, sizeof small, offset) != (ssize_t)sizeof small)
                return err_set(e, ERR_CORRUPT, "%s: STATE record cannot be read", db->name);
            payload = small;
        }
        return apply_state(a, db, h, payload, e);
    default:
        return 0; /* EPOCH, NOOP: the follower's business; PREPARE, ABORT: see apply_commit_prepared */
    }
}

static int apply_from_log(struct apply *a, struct database *db, const struct record_head *want, struct err *e)
{
    struct rlog_cursor c = {.fd = -1};
    struct record_head h;
    int64_t offset;
    int rc = rlog_seek(a->node->rlog, want->pos.lsn, &c, e);
    if (!rc)
        rc = rlog_next(a->node->rlog, &c, &h, &offset, e);
    if (rc > 0)
        rc = apply_record(a, db, &h, NULL, c.fd, offset, e);
    rlog_cursor_close(&c);
    return rc;
}

void apply_records_add(struct apply *a, const struct record_head *h, const uint8_t *payload)
{
    struct err e;
    a->last_lsn = h->pos.lsn;
    a->records++;
    if (!h->name_len || (h->type != RECORD_RENAME && !filter_wants(a->node->filter, h->name)))
        return;
    struct database *db = databases_get(a->node->databases, h->name, &e);
    if (!db) {
        log_error("apply", "%s", e.text);
        return;
    }
    pthread_mutex_lock(&db->lock);
    db->prepared = h->type == RECORD_PREPARE ? h->pos.lsn : 0;
    bool blocked = db->pending != 0;
    if (blocked && (h->type == RECORD_DROP || h->type == RECORD_RENAME) && db->state == DATABASE_IMAGE)
        blocked = false; /* no image can come any more */
    pthread_mutex_unlock(&db->lock);
    if (h->type == RECORD_PREPARE || h->type == RECORD_ABORT)
        return;
    if (blocked && h->type == RECORD_RENAME)
        rename_record(a, db, h, payload, -1, 0, &e); /* its other half has to wait, too */
    if (blocked)
        return;
    int rc;
    if (h->type == RECORD_TX && payload) {
        rc = merges_add(&a->merges, a->node, a->dec, db, h, payload, &e);
    } else {
        flush_all(a);
        rc = payload || !h->payload_len ? apply_record(a, db, h, payload, -1, 0, &e) : apply_from_log(a, db, h, &e);
    }
    if (rc) {
        flush_all(a);
        block(a, db, h->pos.lsn, rc, e.text);
    }
}

void apply_records_hurry(struct apply *a)
{
    atomic_store(&a->hurry, true);
}

bool apply_records_full(const struct apply *a)
{
    return a->merges.bytes >= BATCH_BYTES || a->records >= BATCH_RECORDS || a->merges.n >= BATCH_DATABASES;
}

static bool any_waits(const struct apply *a)
{
    return apply_lowest_pending(a->node) != UINT64_MAX; /* the image's thread makes databases wait, too */
}

int apply_records_wait_ms(const struct apply *a)
{
    return !any_waits(a) ? -1 : (int)((a->soon ? RETRY_SOON_NS : RETRY_NS) / 1000000u);
}

void apply_records_flush(struct apply *a)
{
    flush_all(a);
    a->records = 0;
    set_applied(a);
}

static bool is_renamed_to(const struct record_head *h, int fd, int64_t offset, const struct database *db)
{
    char name[LAYOUT_NAME_MAX + 1];
    return h->type == RECORD_RENAME && !apply_rename_target(h, NULL, fd, offset, name) && !strcmp(name, db->name);
}

/* Everything before lsn is applied to db: whoever waits for it must see that. */
static void reached(struct apply *a, struct database *db, uint64_t lsn)
{
    pthread_mutex_lock(&db->lock);
    if (db->pending && db->pending < lsn)
        database_set_pending(a->node->databases, db, lsn);
    pthread_mutex_unlock(&db->lock);
}

/* Applies what catch_up has merged. *at: first record that is not applied. */
static int flush_caught_up(struct apply *a, struct database *db, uint64_t *at, struct err *e)
{
    struct merge *m = merges_take(&a->merges, db);
    if (!m)
        return 0;
    int rc = merge_run(a->node, m, e);
    if (rc)
        *at = m->first_lsn;
    merge_free(&a->merges, m);
    return rc;
}

/* One record of the log, at c: merged with those before it, or applied after them. */
static int catch_up_record(struct apply *a, struct database *db, const struct rlog_cursor *c, const struct record_head *h, int64_t offset,
                           uint64_t *at, struct err *e)
{
    int rc = 0;
    if (h->type == RECORD_TX && h->payload_len <= APPLY_IN_MEMORY) {
        if (!a->payload && !(a->payload = malloc(APPLY_IN_MEMORY)))
            return err_errno(e, ENOMEM, "apply");
        if (pread(c->fd, a->payload, h->payload_len, offset) != (ssize_t)h->payload_len)
            return err_set(e, ERR_CORRUPT, "%s: a record cannot be read", db->name);
        rc = merges_add(&a->merges, a->node, a->dec, db, h, a->payload, e);
        if (!rc)
            return a->merges.bytes >= BATCH_BYTES ? flush_caught_up(a, db, at, e) : 0;
        struct err flushed;
        int before = flush_caught_up(a, db, at, &flushed); /* those before one that cannot be taken */
        if (before) {
            *e = flushed;
            return before;
        }
        *at = h->pos.lsn;
        return rc;
    }
    rc = flush_caught_up(a, db, at, e);
    if (rc)
        return rc;
    *at = h->pos.lsn;
    return apply_record(a, db, h, NULL, c->fd, offset, e);
}

/* Goes through the log from the first record that db lacks. */
static int catch_up(struct apply *a, struct database *db, uint64_t from, struct err *e)
{
    struct rlog_cursor c = {.fd = -1};
    struct record_head h;
    int64_t offset;
    uint64_t at = from;
    int rc = rlog_seek(a->node->rlog, from, &c, e);
    while (!rc && (rc = rlog_next(a->node->rlog, &c, &h, &offset, e)) > 0) {
        rc = 0;
        if (!db->merge)
            at = h.pos.lsn;
        if (h.type == RECORD_RENAME) { /* what was merged comes before it */
            rc = flush_caught_up(a, db, &at, e);
            at = rc ? at : h.pos.lsn;
            if (!rc)
                reached(a, db, at);
        }
        if (!rc && !strcmp(h.name, db->name))
            rc = catch_up_record(a, db, &c, &h, offset, &at, e);
        else if (!rc)
            rc = is_renamed_to(&h, c.fd, offset, db) ? renamed_to(a, db, &h, e) : 0;
        if (!rc && h.type == RECORD_RENAME)
            reached(a, db, at + 1);
        if (h.pos.lsn >= a->last_lsn)
            break; /* later ones come through apply_records_add */
    }
    rlog_cursor_close(&c);
    if (rc >= 0)
        rc = flush_caught_up(a, db, &at, e);
    if (rc < 0) {
        pthread_mutex_lock(&db->lock);
        database_set_pending(a->node->databases, db, at);
        pthread_mutex_unlock(&db->lock);
    }
    return rc;
}

/* Rollback mode: no record is read from the log before the readers have left. */
static int wait_for_readers(struct apply *a, struct database *db, struct err *e)
{
    pthread_mutex_lock(&db->sqlite);
    pthread_mutex_lock(&db->lock);
    int rc = db->apply && db->apply->open && !db->apply->wal ? apply_inplace_lock(a->node, db, e) : 0;
    pthread_mutex_unlock(&db->lock);
    pthread_mutex_unlock(&db->sqlite);
    return rc;
}

void apply_records_retry(struct apply *a)
{
    struct err e;
    size_t n;
    if (!any_waits(a) || (now_ns() < a->retry_ns && !atomic_load(&a->hurry)))
        return;
    atomic_store(&a->hurry, false);
    apply_records_flush(a);
    a->soon = false;
    struct database **list = databases_pending(a->node->databases, &n);
    for (size_t i = 0; i < n; i++) {
        struct database *db = list[i];
        pthread_mutex_lock(&db->lock);
        bool waits = db->pending && db->state != DATABASE_IMAGE;
        pthread_mutex_unlock(&db->lock);
        if (!waits)
            continue;
        int rc = wait_for_readers(a, db, &e);
        if (!rc)
            rc = catch_up(a, db, db->pending, &e);
        pthread_mutex_lock(&db->lock);
        if (rc != ERR_AGAIN_LATER)
            apply_inplace_unlock(db); /* done, or not to be done now */
        pthread_mutex_unlock(&db->lock);
        if (rc < 0) {
            block(a, db, db->pending, rc, e.text);
            continue;
        }
        atomic_store(&a->node->disk_full, false);
        pthread_mutex_lock(&db->lock);
        database_set_pending(a->node->databases, db, 0);
        if (db->state == DATABASE_WAITING)
            database_mark(db, DATABASE_OK, NULL);
        pthread_mutex_unlock(&db->lock);
    }
    free(list);
    a->retry_ns = now_ns() + (a->soon ? RETRY_SOON_NS : RETRY_NS);
    set_applied(a);
}

int apply_each_page(struct node *n, const char *name, uint64_t from, uint64_t to,
                    int (*fn)(void *ctx, uint32_t page_size, uint32_t pgno, const uint8_t *page, struct err *e), void *ctx,
                    uint32_t *commit, struct err *e)
{
    struct rlog_cursor c = {.fd = -1};
    struct record_head h = {0};
    int64_t offset;
    struct ltx_decoder *dec = ltx_decoder_new();
    int rc = !dec ? err_errno(e, ENOMEM, "image") : from > to ? 0 : rlog_seek(n->rlog, from, &c, e);
    while (!rc && from <= to && h.pos.lsn < to && (rc = rlog_next(n->rlog, &c, &h, &offset, e)) > 0) {
        rc = 0;
        char other[LAYOUT_NAME_MAX + 1];
        bool renamed = h.type == RECORD_RENAME && !apply_rename_target(&h, NULL, c.fd, offset, other) && !strcmp(other, name);
        if (!renamed && strcmp(h.name, name) != 0)
            continue;
        if (h.type == RECORD_PREPARE || h.type == RECORD_ABORT)
            continue;
        if (h.type != RECORD_TX) {
            rc = err_set(e, ERR_GONE, "%s was replaced while its image was being sent", name);
            break;
        }
        struct ltx_source s = {.dec = dec, .fd = c.fd, .start = offset, .end = offset + h.payload_len};
        uint32_t pgno;
        const uint8_t *page;
        rc = ltx_source_rewind(&s, e);
        while (!rc && (rc = ltx_source_next(&s, &pgno, &page, e)) > 0)
            rc = fn(ctx, s.h.page_size, pgno, page, e);
        if (!rc)
            *commit = s.h.commit;
    }
    rlog_cursor_close(&c);
    ltx_decoder_free(dec);
    return rc;
}

/* ---- prepared transactions ---- */

/* Does the transaction at c/offset continue what is here? 0, ERR_CHECKSUM, … */
static int prepared_continues(struct apply *a, struct database *db, const struct record_head *h, int fd, int64_t offset, struct err *e)
{
    struct ltx_source s = {.dec = a->dec, .fd = fd, .start = offset, .end = offset + h->payload_len};
    return ltx_source_continues(a->node, db, &s, e);
}

static int copy_payload(struct node *n, int fd, int64_t at, uint32_t len, struct err *e)
{
    uint8_t buf[65536];
    for (uint32_t done = 0; done < len;) {
        ssize_t k = pread(fd, buf, MIN(sizeof buf, (size_t)(len - done)), at + done);
        if (k <= 0)
            return err_errno(e, k ? errno : EIO, "read the log");
        int rc = sequencer_write(n->sequencer, buf, (size_t)k, e);
        if (rc)
            return rc;
        done += (uint32_t)k;
    }
    return 0;
}

static int commit_record(struct apply *a, struct database *db, const struct record_head *h, int fd, int64_t offset, uint64_t *lsn, struct err *e)
{
    int rc = prepared_continues(a, db, h, fd, offset, e);
    if (rc)
        return rc;
    rc = sequencer_begin(a->node->sequencer, RECORD_TX, db->name, lsn, e);
    if (rc)
        return rc;
    rc = copy_payload(a->node, fd, offset, h->payload_len, e);
    if (rc) {
        sequencer_abort(a->node->sequencer);
        return rc;
    }
    return sequencer_commit(a->node->sequencer, e);
}

int apply_commit_prepared(struct apply *a, struct database *db, uint64_t deadline_ns, struct err *e)
{
    struct rlog_cursor c = {.fd = -1};
    struct record_head h;
    int64_t offset;
    uint64_t lsn;
    int rc = rlog_seek(a->node->rlog, db->prepared, &c, e);
    if (!rc)
        rc = rlog_next(a->node->rlog, &c, &h, &offset, e);
    if (rc > 0)
        rc = commit_record(a, db, &h, c.fd, offset, &lsn, e);
    rlog_cursor_close(&c);
    if (rc == ERR_CHECKSUM) {
        log_info("apply", "%s: a prepared transaction is not committed: %s", db->name, e->text);
        db->prepared = 0;
        return 0;
    }
    if (rc)
        return rc;
    a->last_lsn = lsn;
    h = (struct record_head){.type = RECORD_TX, .pos.lsn = lsn};
    while ((rc = apply_from_log(a, db, &h, e)) == ERR_AGAIN_LATER && now_ns() < deadline_ns)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    if (rc)
        return rc;
    log_info("apply", "%s: a prepared transaction, which may have been acknowledged, is committed by this node", db->name);
    db->prepared = 0;
    set_applied(a);
    return 0;
}

/* ---- start and reset ---- */

static bool lacks(struct database *db, uint64_t lsn)
{
    pthread_mutex_lock(&db->lock);
    bool yes = db->pending && db->pending <= lsn && db->state != DATABASE_IMAGE;
    pthread_mutex_unlock(&db->lock);
    return yes;
}

/* Merges a record of the log for a database that lacks it. False: something else is in the log than whole transactions of few pages. */
static bool replay(struct apply *a, const struct record_head *h, int fd, int64_t offset)
{
    struct err e;
    struct database *db = h->name_len && filter_wants(a->node->filter, h->name) ? databases_find(a->node->databases, h->name) : NULL;
    if (h->type == RECORD_RENAME)
        return false;
    if (!db || !lacks(db, h->pos.lsn) || h->type == RECORD_PREPARE || h->type == RECORD_ABORT)
        return true;
    if (h->type != RECORD_TX || h->payload_len > APPLY_IN_MEMORY || a->merges.bytes >= BATCH_BYTES || a->merges.n >= BATCH_DATABASES)
        return false;
    if (!a->payload && !(a->payload = malloc(APPLY_IN_MEMORY)))
        return false;
    return pread(fd, a->payload, h->payload_len, offset) == (ssize_t)h->payload_len && !merges_add(&a->merges, a->node, a->dec, db, h, a->payload, &e);
}

static void replayed(void *ctx, const struct merge *m, int rc, const char *why)
{
    struct apply *a = ctx;
    merged(a, m, rc, why);
    if (rc)
        return;
    pthread_mutex_lock(&m->db->lock);
    database_set_pending(a->node->databases, m->db, 0);
    pthread_mutex_unlock(&m->db->lock);
}

/* What was in the log and not applied when the process ended is shown at once, as if it had just come, if it is little, as it should be: one database after the other would show
 * transactions before those that they stand on. Otherwise nothing is done here. */
static void recover_together(struct apply *a)
{
    struct rlog_cursor c = {.fd = -1};
    struct record_head h;
    struct err e;
    int64_t offset;
    bool whole = true;
    int rc = any_waits(a) ? rlog_seek(a->node->rlog, MAX(apply_lowest_pending(a->node), rlog_first(a->node->rlog)), &c, &e) : ERR_GONE;
    while (!rc && whole && (rc = rlog_next(a->node->rlog, &c, &h, &offset, &e)) > 0) {
        rc = 0;
        whole = replay(a, &h, c.fd, offset);
    }
    rlog_cursor_close(&c);
    if (!rc && whole)
        merges_apply(&a->merges, a->node, replayed, a);
    for (struct merge *m; (m = merges_take_first(&a->merges));)
        merge_free(&a->merges, m);
}

void apply_records_recover(struct apply *a)
{
    struct position last = rlog_last(a->node->rlog);
    a->last_lsn = last.lsn;
    recover_together(a);
    a->retry_ns = 0;
    apply_records_retry(a);
    set_applied(a);
}

struct reset {
    struct node *node;
    uint64_t lsn;
};

static int wait_for_image(void *ctx, struct database *db)
{
    struct reset *r = ctx;
    pthread_mutex_lock(&db->lock);
    if (db->state != DATABASE_ABSENT && db->state != DATABASE_OTHER) {
        database_set_pending(r->node->databases, db, 0);
        apply_needs_image(r->node, db, 1, "waiting for an image"); /* 1: until it is there no position has been reached */
    }
    pthread_mutex_unlock(&db->lock);
    return 0;
}

void apply_records_reset(struct apply *a, uint64_t lsn)
{
    flush_all(a); /* and says nothing of where the old log was applied to: by the new one's numbers that would be a position */
    a->records = 0;
    a->last_lsn = lsn;
    databases_each(a->node->databases, wait_for_image, &(struct reset){a->node, lsn});
    set_applied(a);
}
