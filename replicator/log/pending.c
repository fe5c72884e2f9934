/* A record is applied if the database has a state of that LSN or later; but names change. What happened to x before it was renamed to y is in
 * the state of y, if that has the rename; and what happened to the y that was replaced does not matter any more. So the log is gone through from its end, and
 * for each name is known up to which LSN everything is applied that happened under it *before the point that was reached*: database.covered. */
#include "replicator/log/pending.h"

#include "lib/util.h"
#include "replicator/apply/apply_records.h"
#include <errno.h>
#include <fcntl.h>

struct event {
    struct database *db, *to; /* to: of a rename */
    uint64_t lsn;
    uint8_t type;
};

struct events {
    struct event *v;
    size_t n, size;
};

static int add(struct events *l, const struct event *ev, struct err *e)
{
    if (l->n == l->size) {
        size_t size = l->size ? l->size * 2 : 1024;
        void *v = realloc(l->v, size * sizeof *l->v);
        if (!v)
            return err_errno(e, ENOMEM, "list of %zu records", size);
        l->v = v;
        l->size = size;
    }
    l->v[l->n++] = *ev;
    return 0;
}

static struct database *met(struct node *n, const char *name, struct err *e)
{
    struct database *db = databases_get(n->databases, name, e);
    if (db) {
        db->covered = database_dbstate(db)->lsn;
        db->lacks = 0;
    }
    return db;
}

/* fn is called for each record of the log; an error of its ends the walk and is returned. */
typedef int (*record_fn)(struct node *n, const struct record_head *h, int fd, int64_t offset, void *ctx, struct err *e);

static int each_record(struct node *n, record_fn fn, void *ctx, struct err *e)
{
    struct rlog_cursor c = {.fd = -1};
    struct record_head h;
    int64_t offset;
    uint64_t first = rlog_first(n->rlog), last = rlog_last(n->rlog).lsn;
    int rc = first > last ? 0 : rlog_seek(n->rlog, first, &c, e);
    while (!rc && first <= last && (rc = rlog_next(n->rlog, &c, &h, &offset, e)) > 0) {
        rc = fn(n, &h, c.fd, offset, ctx, e);
        if (h.pos.lsn >= last)
            break;
    }
    rlog_cursor_close(&c);
    return rc < 0 ? rc : 0;
}

static void note_prepared(struct database *db, const struct record_head *h)
{
    if (db)
        db->prepared = h->type == RECORD_PREPARE ? h->pos.lsn : 0;
}

static int collect(struct node *n, const struct record_head *h, int fd, int64_t offset, void *ctx, struct err *e)
{
    char to[LAYOUT_NAME_MAX + 1];
    struct event ev = {.db = h->name_len ? met(n, h->name, e) : NULL, .lsn = h->pos.lsn, .type = h->type};
    note_prepared(ev.db, h);
    if (h->type == RECORD_PREPARE || h->type == RECORD_ABORT)
        ev.db = NULL; /* they change nothing */
    if (!apply_rename_target(h, NULL, fd, offset, to))
        ev.to = met(n, to, e);
    return ev.db ? add(ctx, &ev, e) : 0; /* a name that cannot be is nobody's */
}

static bool absent(struct node *n, const struct database *db)
{
    return !database_dbstate(db)->txid && faccessat(n->db_fd, db->name, F_OK, AT_SYMLINK_NOFOLLOW);
}

static void go_back(struct node *n, const struct event *ev)
{
    struct database *db = ev->db, *to = ev->to;
    switch (ev->type) {
    case RECORD_DROP:
        if (db->covered >= ev->lsn || absent(n, db))
            db->covered = UINT64_MAX; /* it is gone, and so is all that was before */
        else
            db->lacks = ev->lsn;
        break;
    case RECORD_RENAME:
        if (!to || to == db)
            break;
        if (to->covered >= ev->lsn && (db->covered >= ev->lsn || absent(n, db))) {
            db->covered = to->covered;
            to->covered = UINT64_MAX;
        } else if (to->covered >= ev->lsn) { /* the new one came as an image, and the old one is still there */
            db->lacks = ev->lsn;
            to->covered = UINT64_MAX;
        } else {
            db->lacks = to->lacks = ev->lsn;
        }
        break;
    default:
        if (ev->lsn > db->covered)
            db->lacks = ev->lsn;
    }
}

static int find_prepared(struct node *n, const struct record_head *h, int fd, int64_t offset, void *ctx, struct err *e)
{
    (void)fd;
    (void)offset;
    (void)ctx;
    if (h->name_len)
        note_prepared(h->type == RECORD_PREPARE ? databases_get(n->databases, h->name, e) : databases_find(n->databases, h->name), h);
    return 0;
}

int pending_prepared(struct node *n, struct err *e)
{
    return each_record(n, find_prepared, NULL, e);
}

int pending_from_log(struct node *n, struct err *e)
{
    struct events l = {0};
    int rc = each_record(n, collect, &l, e);
    for (size_t i = l.n; i-- > 0 && !rc;)
        go_back(n, &l.v[i]);
    for (size_t i = 0; i < l.n && !rc; i++) {
        if (l.v[i].db->lacks)
            database_set_pending(n->databases, l.v[i].db, l.v[i].db->lacks);
        if (l.v[i].to && l.v[i].to->lacks)
            database_set_pending(n->databases, l.v[i].to, l.v[i].to->lacks);
    }
    free(l.v);
    return rc;
}
