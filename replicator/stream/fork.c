#include "replicator/stream/fork.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/database/quarantine.h"
#include <inttypes.h>

/* An old primary that was paused, or cut off, and has not found out yet: its history is the one that ends, not ours, if anything was written in the epoch that it
 * does not know. (An epoch that was begun and never came into force, because the node that began it died in that moment, consists of its EPOCH record only.)
 * newest: the last epoch that the server knows. 0: it may be followed. */
static int refuse_older(struct node *n, uint64_t newest, uint64_t fork, struct err *e)
{
    struct rlog_cursor c = {.fd = -1};
    struct record_head h;
    int64_t at;
    struct rlog *log = n->rlog;
    uint64_t from = MAX(fork + 1, rlog_first(log));
    if (rlog_last(log).epoch <= newest || from > rlog_last(log).lsn)
        return 0;
    bool written = false;
    int rc = rlog_seek(log, from, &c, e);
    while (!rc && !written && (rc = rlog_next(log, &c, &h, &at, e)) > 0) {
        rc = 0;
        written = h.pos.epoch > newest && h.type != RECORD_EPOCH && h.type != RECORD_NOOP;
    }
    rlog_cursor_close(&c);
    if (rc || !written)
        return rc;
    return err_set(e, ERR_ROLE, "it is primary of epoch %" PRIu64 ", and this node has records of epoch %" PRIu64, newest, h.pos.epoch);
}

int fork_keep(struct node *n, uint64_t lsn, const json_t *reset, struct err *e)
{
    struct epoch_entry *theirs = NULL;
    size_t count = 0;
    unsigned kept;
    const json_t *epochs = json_object_get(reset, "epochs");
    int rc = epochs ? epochs_from_json(epochs, &theirs, &count, e) : 0;
    if (rc)
        return rc;
    uint64_t fork = quarantine_fork(n, theirs, count, lsn), newest = count ? theirs[count - 1].epoch : UINT64_MAX;
    free(theirs);
    rc = refuse_older(n, newest, fork, e);
    if (rc)
        return rc;
    rc = quarantine_records(n, fork, &kept, e);
    if (kept)
        log_warn("follower", "%u records after LSN %" PRIu64 " exist on this node only: kept in %s/" LAYOUT_QUARANTINE, kept, fork,
                 n->config->data);
    return rc;
}
