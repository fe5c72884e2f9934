/* The order between databases: what one look takes of all of them is a *consistent cut*. If it has a transaction, it has every one, of whichever database, that had returned before that one
 * was begun.
 *
 * The ends of the WALs (mxFrame) of all databases that may have something new are read, then the events that inotify has, then the ends once more. If nothing has changed, there
 * was a moment, between the two, at which all of them had just these ends, and no other database had anything that is not captured:
 *   - each end only grows, so one that is the same before and after was the same in between (while a transaction is being published its end is the one before: it has not returned);
 *   - a WAL's frames are written before they are published, and the write raises an event before write(2) returns. So a database that had published something by then, and is not
 *     among those whose ends are read, has an event in the queue, and is among them the next time.
 * Whatever had returned by that moment is in the cut, and what is in the cut had been published by it. Each look captures up to the cut, never beyond it. If it does not come to
 * rest in TRIES (which takes commits closer together than some 500 ns), it is taken as it is, and counted.
 *
 * What a cut has of several databases is one group of records (RECORD_MORE): within it no order is known, so nobody may see a part of it.
 *
 * Transactions that are captured otherwise, in a hook that holds up the application (the end of a rollback journal, a PREPARE, a checkpoint), come after such a look of their own.
 * Not ordered is what comparing pages finds, and what is committed while a WAL without a wal-index, or that cannot be opened within MAPPING_WAIT_NS, has something new. */
#include "replicator/capture/capture_private.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/metrics.h"
#include <errno.h>

#define TRIES 8
#define GROUP_DATABASES 256u
#define GROUP_BYTES (RECORD_GROUP_MAX / 2) /* of frames: the records are smaller, with room for names and what else enters the log meanwhile */
#define MAPPING_WAIT_NS 50000000u
#define RESUME_WAIT_NS 1000000000u

static bool same_end(const struct walindex_header *a, const struct walindex_header *b)
{
    return a->max_frame == b->max_frame && a->salt1 == b->salt1 && a->salt2 == b->salt2 && a->change == b->change;
}

/* Frames that are published and not captured. db->lock is held. */
static uint32_t fresh_frames(const struct capture_file *cf)
{
    const struct dbstate *st = database_dbstate(cf->db);
    bool same = st->wal_salt1 == cf->end.salt1 && st->wal_salt2 == cf->end.salt2;
    return !same ? cf->end.max_frame : cf->end.max_frame > st->wal_frame ? cf->end.max_frame - st->wal_frame : 0;
}

/* True if its end is not what it was when this cut's was read last. */
static bool read_end(struct capture *c, struct capture_file *cf)
{
    struct walindex_header h = {0};
    bool moved = false;
    pthread_mutex_lock(&cf->db->lock);
    cf->fresh = 0;
    if (cf->mode == CAPTURE_MAPPED) {
        int rc = capture_read_end(cf, &h);
        moved = cf->end_cut != c->cut || cf->end_rc != rc || (rc && cf->view.index) || !same_end(&cf->end, &h);
        cf->end_cut = c->cut;
        cf->end_rc = rc;
        cf->end = h;
        cf->fresh = rc ? 0 : fresh_frames(cf);
    }
    pthread_mutex_unlock(&cf->db->lock);
    return moved;
}

static bool read_ends(struct capture *c)
{
    bool moved = false;
    for (struct capture_file *cf = c->hot; cf; cf = cf->next)
        moved |= read_end(c, cf);
    return moved;
}

/* From now on the records of this cut belong together, if there are several. */
static void begin_group(struct capture *c)
{
    unsigned n = 0;
    uint64_t bytes = 0;
    for (const struct capture_file *cf = c->hot; cf; cf = cf->next) {
        n += cf->fresh != 0;
        bytes += (uint64_t)cf->fresh * (WAL_FRAME_HEADER_SIZE + (uint64_t)cf->end.page_size);
    }
    if (n < 2)
        return;
    if (n > GROUP_DATABASES || bytes > GROUP_BYTES) {
        metrics_add(METRIC_UNORDERED, 1);
        return;
    }
    c->group_left = n;
    c->group_begun = true;
    sequencer_group(c->node->sequencer, true);
}

bool capture_cut(struct capture *c)
{
    if (!node_captures(c->node) || !c->hot)
        return false;
    c->cut++;
    bool moved = read_ends(c);
    for (int i = 0; moved && i < TRIES; i++) {
        capture_drain(c);
        moved = read_ends(c);
    }
    if (moved)
        metrics_add(METRIC_UNORDERED, 1);
    c->cutting = true;
    begin_group(c);
    return true;
}

void capture_cut_takes(struct capture *c, struct capture_file *cf)
{
    if (!c->cutting || !cf->fresh)
        return;
    cf->fresh = 0;
    if (c->group_left && !--c->group_left && !c->resuming)
        sequencer_group(c->node->sequencer, false); /* the last one */
}

/* The group ends here, whether its last record came or not. */
static void end_group(struct capture *c)
{
    struct err e;
    uint64_t lsn;
    sequencer_group(c->node->sequencer, false);
    c->group_left = 0;
    c->group_begun = node_captures(c->node) && sequencer_in_group(c->node->sequencer) && sequencer_append(c->node->sequencer, RECORD_NOOP, "", NULL, 0, &lsn, &e);
    if (c->group_begun)
        log_warn("capture", "%s", e.text); /* no room: the next record ends it */
}

void capture_cut_end(struct capture *c)
{
    c->cutting = false;
    if (c->group_begun && !c->resuming)
        end_group(c);
}

void capture_resume(struct capture *c)
{
    c->resuming = true;
    sequencer_group(c->node->sequencer, true);
    c->resume_ns = now_ns() + RESUME_WAIT_NS;
}

void capture_resumed(struct capture *c, bool all)
{
    enum node_role role = node_role(c->node);
    if (role == NODE_STARTING)
        c->resume_ns = now_ns() + RESUME_WAIT_NS;
    if (role == NODE_STARTING || (role != NODE_REPLICA && !all && now_ns() < c->resume_ns))
        return;
    if (role != NODE_REPLICA && !all)
        metrics_add(METRIC_UNORDERED, 1);
    c->resuming = false;
    end_group(c);
}

bool capture_mapping(struct capture *c, uint64_t now)
{
    bool mapping = false;
    struct capture_file *next;
    if (!node_captures(c->node))
        return false;
    for (struct capture_file *cf = c->hot; cf; cf = next) {
        next = cf->next;
        if (cf->dirty && capture_mode_of(cf) == CAPTURE_IDLE)
            capture_step(c, cf);
        mapping |= capture_mode_of(cf) == CAPTURE_MAPPING;
    }
    for (struct capture_file *cf = c->busy; cf && !mapping; cf = cf->next)
        mapping = capture_mode_of(cf) == CAPTURE_MAPPING;
    if (!mapping) {
        c->mapping_until_ns = 0;
        return false;
    }
    if (!c->mapping_until_ns)
        c->mapping_until_ns = now + MAPPING_WAIT_NS;
    return now < c->mapping_until_ns;
}

/* Captures what the cut that it takes has. */
static void begin_order(struct capture *c)
{
    struct capture_file *next;
    if (c->cutting || !capture_cut(c)) /* within a look: what goes before is on its way */
        return;
    for (struct capture_file *cf = c->hot; cf; cf = next) {
        next = cf->next;
        if (cf->fresh)
            capture_step_mapped(c, cf);
    }
}

void capture_order(struct capture *c)
{
    begin_order(c);
    capture_cut_end(c);
}

void capture_look_in_order(struct capture *c, struct capture_file *cf)
{
    capture_touch(c, cf);
    begin_order(c);
    capture_step(c, cf);
    capture_cut_end(c);
}
