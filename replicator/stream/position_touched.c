#include "replicator/stream/position_touched.h"


#include "edgefs/position_feed.h"
#include "lib/util.h"
#include "replicator/apply/apply_records.h"
#include <errno.h>
#include <fnmatch.h>

struct touched {
    unsigned n;
    struct {
        const char *glob; /* in text */
        uint64_t lsn;
        bool due;
    } of[POSITION_FEED_SUBSCRIPTIONS];
    char text[];
};

int touched_open(const char *globs, size_t len, struct touched **out)
{
    *out = NULL;
    if (!len)
        return 0;
    if (globs[len - 1])
        return -EBADMSG;
    struct touched *t = calloc(1, sizeof *t + len);
    if (!t)
        return -ENOMEM;
    memcpy(t->text, globs, len);
    for (const char *p = t->text; p < t->text + len; p += strlen(p) + 1) {
        size_t k = strlen(p);
        if (!k || k > LAYOUT_NAME_MAX || t->n == POSITION_FEED_SUBSCRIPTIONS) {
            free(t);
            return k && k <= LAYOUT_NAME_MAX ? -E2BIG : -EBADMSG;
        }
        t->of[t->n++].glob = p;
    }
    *out = t;
    return 0;
}

void touched_close(struct touched *t)
{
    free(t);
}

void touched_note(struct touched *t, const struct touched_name *n)
{
    for (unsigned i = 0; i < t->n; i++)
        if (!n->name || !fnmatch(t->of[i].glob, n->name, 0) || (n->to && !fnmatch(t->of[i].glob, n->to, 0))) {
            t->of[i].lsn = n->lsn;
            t->of[i].due = true;
        }
}

void touched_all(struct touched *t)
{
    if (t)
        for (unsigned i = 0; i < t->n; i++)
            t->of[i].due = true;
}

void touched_report(struct touched *t, void (*fn)(void *ctx, unsigned number, uint64_t lsn), void *ctx)
{
    for (unsigned i = 0; t && i < t->n; i++)
        if (t->of[i].due) {
            t->of[i].due = false;
            fn(ctx, i, t->of[i].lsn);
        }
}

bool touched_next(struct rlog *log, struct rlog_cursor *c, uint64_t upto, struct touched_name *n)
{
    while (c->lsn <= upto) {
        struct err e;
        int64_t offset;
        struct rlog_cursor at = *c;
        int rc = at.fd < 0 ? rlog_seek(log, c->lsn, &at, &e) : 0;
        *c = at;
        if (!rc)
            rc = rlog_next(log, c, &n->head, &offset, &e);
        if (rc > 0 && n->head.name_len) {
            n->name = n->head.name;
            n->to = apply_rename_target(&n->head, NULL, c->fd, offset, n->other) ? NULL : n->other;
            n->lsn = n->head.pos.lsn;
            return true;
        }
        if (rc > 0)
            continue;
        /* Trimmed, reset, damaged: what they were about can no longer be known. */
        rlog_cursor_close(c);
        *c = (struct rlog_cursor){.fd = -1, .lsn = upto + 1};
        n->name = n->to = NULL;
        n->lsn = upto;
        return true;
    }
    return false;
}
