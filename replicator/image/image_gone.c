#include "replicator/image/image_gone.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/apply/apply_file.h"
#include "replicator/apply/apply_records.h"
#include "replicator/database/quarantine.h"
#include <fcntl.h>

/* The first record of db in the log at or after from that belongs to a life after its last DROP there; 0: none. */
static uint64_t next_life(struct node *n, const struct database *db, uint64_t from)
{
    struct rlog_cursor cur = {.fd = -1};
    struct record_head h;
    int64_t offset;
    uint64_t found = 0;
    bool dropped = false;
    if (rlog_seek(n->rlog, MAX(from, rlog_first(n->rlog)), &cur, NULL) == 0)
        while (rlog_next(n->rlog, &cur, &h, &offset, NULL) > 0) {
            char other[LAYOUT_NAME_MAX + 1];
            if (!apply_rename_target(&h, NULL, cur.fd, offset, other) && !strcmp(other, db->name)) { /* another one has the name from here on */
                dropped = true;
                found = h.pos.lsn;
                continue;
            }
            if (strcmp(h.name, db->name) != 0)
                continue;
            if (h.type == RECORD_DROP || h.type == RECORD_RENAME) {
                dropped = true;
                found = 0;
            } else if (dropped && !found) {
                found = h.pos.lsn;
            }
        }
    rlog_cursor_close(&cur);
    return found;
}

int image_gone(struct node *n, struct database *db, struct err *e)
{
    log_info("image", "%s does not exist on the primary any more: removed here", db->name);
    pthread_mutex_lock(&db->sqlite);
    pthread_mutex_lock(&db->lock);
    uint64_t from = db->pending;
    int rc = faccessat(n->db_fd, db->name, F_OK, AT_SYMLINK_NOFOLLOW) ? 0 : quarantine_database(n, db, e);
    if (!rc)
        rc = apply_remove(n, db, e);
    if (!rc) {
        database_forget(n->databases, db, 0);
        database_set_pending(n->databases, db, next_life(n, db, from));
        if (db->pending)
            database_mark(db, DATABASE_WAITING, "the log is being applied");
    }
    pthread_mutex_unlock(&db->lock);
    pthread_mutex_unlock(&db->sqlite);
    return rc;
}
