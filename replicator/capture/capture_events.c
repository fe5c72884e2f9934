#include "replicator/capture/capture_diff.h"
#include "replicator/capture/capture_private.h"

#include "lib/log.h"
#include "lib/sqlitefile.h"
#include "lib/util.h"
#include "replicator/apply/apply.h"
#include "replicator/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

const char *capture_companion(const char *path, char *name)
{
    static const char *const suffixes[] = {LAYOUT_WAL, LAYOUT_SHM, LAYOUT_JOURNAL};
    size_t n = strlen(path);
    const char *suffix = "";
    for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
        size_t k = strlen(suffixes[i]);
        if (n > k && !strcmp(path + n - k, suffixes[i])) {
            suffix = suffixes[i];
            n -= k;
            break;
        }
    }
    if (n == 0 || n > LAYOUT_NAME_MAX)
        return NULL;
    memcpy(name, path, n);
    name[n] = 0;
    return database_name_possible(name) ? suffix : NULL;
}

struct capture_file *capture_file_by_name(struct capture *c, const char *name)
{
    struct err e;
    struct database *db = databases_get(c->node->databases, name, &e);
    if (!db)
        node_warn(c->node, "a file is not replicated: %s", e.text);
    return db ? capture_file_of(c, db) : NULL;
}

/* … unless it is as it was when it was last captured: the event is about that. */
static void main_changed(struct capture *c, struct capture_file *cf)
{
    pthread_mutex_lock(&cf->db->lock);
    bool known = database_dbstate(cf->db)->file.ino != 0, unproven = cf->check_at_close && !cf->suspect;
    pthread_mutex_unlock(&cf->db->lock);
    struct filestamp now = unproven ? database_stamp(c->node->db_fd, cf->db->name) : (struct filestamp){0};
    if (unproven && filestamp_same(&cf->unproven, &now))
        return; /* compared at the last close */
    if (!known || capture_file_differs(c, cf->db))
        capture_main_changed(c, cf, false);
}

static void on_inotify(void *ctx, struct filewatch_target *t, enum filewatch_file file)
{
    struct capture *c = ctx;
    struct capture_file *cf = (struct capture_file *)t;
    if (!t) {
        capture_rescan(c);
        return;
    }
    if (node_role(c->node) != NODE_PRIMARY)
        return;
    if (file == FILEWATCH_MAIN) {
        main_changed(c, cf);
    } else {
        capture_dirty(c, cf, file == FILEWATCH_SHM); /* one that was made empty is somebody's again */
        if (cf->look_ns && now_ns() - cf->look_since_ns > 20000000u)
            cf->look_ns = 0; /* a fresh write after a long time: publication is near, start the back-off again */
    }
}

/* Before the hooks that may be in the socket: only what means the same whatever those say. */
static void on_early(void *ctx, struct filewatch_target *t, enum filewatch_file file)
{
    struct capture *c = ctx;
    struct capture_file *cf = (struct capture_file *)t;
    if (t && file == FILEWATCH_WAL) {
        on_inotify(ctx, t, file);
        return;
    }
    c->overflowed |= !t;
    c->early = c->inotify_ready = true;
    if (t) {
        cf->early |= 1u << file;
        capture_touch(c, cf);
    }
}

void capture_drain(struct capture *c)
{
    bool any;
    filewatch_report(c->filewatch, on_early, c); /* what was taken and not gone through */
    do {
        any = filewatch_fill(c->filewatch);
        filewatch_report(c->filewatch, on_early, c);
    } while (any && filewatch_more(c->filewatch));
}

/* What was set aside has its turn. */
static void on_late(struct capture *c)
{
    struct capture_file *next;
    c->early = false;
    if (c->overflowed)
        on_inotify(c, NULL, FILEWATCH_MAIN);
    c->overflowed = false;
    for (struct capture_file *cf = c->hot; cf; cf = next) {
        next = cf->next;
        unsigned early = cf->early;
        cf->early = 0;
        for (unsigned file = 0; file < FILEWATCH_FILES; file++)
            if (early & 1u << file)
                on_inotify(c, &cf->watch, file);
    }
}

/* ---- hooks ---- */

static void query_position(struct capture *c, uint64_t id, const char *path)
{
    struct database *db = databases_find(c->node->databases, path);
    char text[64] = "";
    struct err e;
    bool known = false;
    if (db) {
        pthread_mutex_lock(&db->lock);
        known = db->state != DATABASE_OTHER && db->state != DATABASE_ABSENT && !database_load(c->node->databases, db, &e);
        const struct dbstate *st = database_dbstate(db);
        known = known && st->txid;
        snprintf(text, sizeof text, "%016" PRIx64 "/%016" PRIx64 "\n", st->txid, st->checksum);
        pthread_mutex_unlock(&db->lock);
    }
    hooks_answer(c->node->hooks, id, known ? 0 : ENOENT, known ? text : NULL);
}

static void query_lag(struct capture *c, uint64_t id)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64 "\n", node_lag_ms(c->node));
    hooks_answer(c->node->hooks, id, 0, text);
}

/* A checkpoint is complete but for the note in the wal-index: answer when every frame that it copied is in the log. */
static void checkpoint_done(struct capture *c, struct capture_file *cf, uint64_t id, uint64_t size)
{
    if (!size && node_role(c->node) == NODE_PRIMARY)
        capture_replaced(c, cf, true); /* no checkpoint */
    pthread_mutex_lock(&cf->db->lock);
    bool can_wait = cf->mode != CAPTURE_DIFFING && cf->n_deferred < CAPTURE_DEFERRED_MAX;
    cf->checkpoint_seen |= !can_wait;
    pthread_mutex_unlock(&cf->db->lock);
    if (!can_wait || node_role(c->node) != NODE_PRIMARY) {
        hooks_answer(c->node->hooks, id, 0, NULL);
        return;
    }
    cf->deferred[cf->n_deferred++] = id;
    capture_look_in_order(c, cf);
}

/* What happened while no replicator was there is not known: its pages are compared, unless its file tells that it was only read. Not at once: what was renamed
 * meanwhile is found out first (SYNCED), and then needs no comparison under its new name. */
static void unseen(struct capture *c, struct capture_file *cf, bool emptied)
{
    pthread_mutex_lock(&cf->db->lock);
    bool only_read = !emptied && cf->mode != CAPTURE_DIFFING && !cf->suspect && database_untouched(c->node->databases, cf->db, c->node->db_fd);
    if (only_read) {
        pthread_mutex_unlock(&cf->db->lock);
        capture_dirty(c, cf, true);
        return;
    }
    cf->suspect = true;
    cf->anew |= emptied;
    pthread_mutex_unlock(&cf->db->lock);
    cf->diff_ns = cf->diff_first_ns = now_ns() + CAPTURE_QUIET_NS;
    capture_touch(c, cf);
}

static void at_rest(struct capture *c, struct capture_file *cf, const char *text, pid_t tid)
{
    struct filestamp before = {0}, now = {0};
    uint8_t head[DBFILE_HEADER_SIZE];
    struct dbfile_header h;
    if (sscanf(text, "%" SCNu64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64, &now.ino, &before.size, &before.mtime_ns, &now.size, &now.mtime_ns) != 5)
        return;
    before.ino = now.ino;
    bool synced = filestamp_same_contents(&before, &now), whole = synced;
    if (!synced) { /* a truncation: SQLite's own, after a commit, leaves all that page 1 names */
        _cleanup_fd_ int fd = openat(c->node->db_fd, cf->db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        whole = fd >= 0 && pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head && !dbfile_header_decode(head, sizeof head, &h) &&
                h.page_count_valid && (int64_t)h.page_count * h.page_size <= now.size;
    }
    pthread_mutex_lock(&cf->db->lock);
    if (synced || (whole && filestamp_same_contents(&cf->at_rest, &before) && cf->at_rest_tid == tid)) {
        cf->at_rest = now;
        cf->at_rest_tid = tid;
    }
    pthread_mutex_unlock(&cf->db->lock);
    if (whole)
        main_changed(c, cf);
}

static void on_event(struct capture *c, const struct hook_msg *m, const char *path, const char *text)
{
    char name[LAYOUT_NAME_MAX + 1];
    const char *suffix = capture_companion(path, name);
    struct capture_file *cf;
    switch (m->kind) {
    case HOOK_CREATED:
    case HOOK_MODIFIED:
    case HOOK_UNSEEN:
        if (node_role(c->node) != NODE_PRIMARY || !suffix || !(cf = capture_file_by_name(c, name)))
            return;
        if (!*suffix && m->kind != HOOK_UNSEEN)
            main_changed(c, cf);
        else if (m->kind == HOOK_CREATED && !strcmp(suffix, LAYOUT_JOURNAL))
            capture_journal_changed(c, cf);
        else if (m->kind == HOOK_UNSEEN)
            unseen(c, cf, m->value != 0);
        else
            capture_dirty(c, cf, true);
        return;
    case HOOK_AT_REST:
        if (node_role(c->node) == NODE_PRIMARY && suffix && !*suffix && (cf = capture_file_by_name(c, name)))
            at_rest(c, cf, text, (pid_t)m->value);
        return;
    case HOOK_RENAMED:
        capture_renamed(c, path, text);
        return;
    case HOOK_EXCHANGED:
        capture_exchanged(c, path, text);
        return;
    case HOOK_REMOVED:
        capture_removed(c, path);
        return;
    case HOOK_ROLE:
        hooks_role_in_force(c->node->hooks, text);
        return;
    case HOOK_OPENED:
        capture_opened(c, path);
        return;
    case HOOK_LAST_CLOSE:
        capture_closed(c, path);
        return;
    default:
        return;
    }
}

struct question {
    struct hooks *hooks;
    uint64_t id; /* 0: answered */
};

static void answer(void *ctx)
{
    struct question *q = ctx;
    if (q->id)
        hooks_answer(q->hooks, q->id, 0, NULL);
    q->id = 0;
}

static void journal_ends(struct capture *c, struct capture_file *cf, const struct hook_msg *m, const char *text)
{
    struct question q = {c->node->hooks, m->id};
    struct journal_end end = {.zeroed = m->value == HOOKS_JOURNAL_ZEROED, .read = answer, .ctx = &q};
    end.known = strlen(text) == HOOKS_JOURNAL_TEXT;
    for (size_t i = 0; end.known && i < sizeof end.header; i++)
        end.known = sscanf(text + 2 * i, "%2hhx", &end.header[i]) == 1;
    if (cf)
        capture_journal_ends(c, cf, &end);
    answer(&q);
    if (cf)
        capture_journal_changed(c, cf);
}

static void on_hook(struct capture *c, const struct hook_msg *m, const char *path, const char *text)
{
    char name[LAYOUT_NAME_MAX + 1];
    const char *suffix = capture_companion(path, name);
    struct capture_file *cf = suffix && m->kind < HOOK_QUERY_POS ? capture_file_by_name(c, name) : NULL;
    switch (m->kind) {
    case HOOK_QUERY_POS:
        query_position(c, m->id, path);
        return;
    case HOOK_QUERY_LAG:
        query_lag(c, m->id);
        return;
    case HOOK_OPENING:
        if (suffix && !*suffix && node_role(c->node) == NODE_PRIMARY && (cf = capture_file_by_name(c, name))) {
            capture_opening(c, cf, m->id);
            return;
        }
        apply_opening(c->node, suffix && !*suffix ? name : NULL, m->id);
        return;
    case HOOK_CHECKPOINT:
        if (cf)
            checkpoint_done(c, cf, m->id, m->value);
        else
            hooks_answer(c->node->hooks, m->id, 0, NULL);
        return;
    case HOOK_EMPTIED:
        if (cf && node_role(c->node) == NODE_PRIMARY)
            capture_replaced(c, cf, true);
        break;
    case HOOK_WAL_UNLINK:
    case HOOK_WAL_TRUNCATE:
        if (cf)
            capture_wal_vanishes(c, cf);
        break;
    case HOOK_WAL_SYNC:
        if (cf) {
            capture_wal_sync(c, cf, m->id);
            return;
        }
        break;
    case HOOK_JOURNAL_END:
        if (cf && m->value != HOOKS_JOURNAL_ZEROED && capture_journal_sync(c, cf, m->id))
            return;
        journal_ends(c, cf, m, text);
        return;
    default:
        break;
    }
    hooks_answer(c->node->hooks, m->id, 0, NULL);
}

static void take_hooks(struct capture *c)
{
    char path[HOOKS_PACKET_MAX + 1], text[HOOKS_PACKET_MAX + 1];
    struct hook_msg m;
    for (int budget = 256; budget > 0; budget--) {
        int rc = hooks_recv(c->node->hooks, &m, path, text);
        if (rc == 0)
            return;
        if (rc < 0) {
            log_info("capture", "edgefs-fs is gone (%s); connecting again", err_name(rc));
            hooks_disconnect(c->node->hooks);
            c->hooks_fd = -1;
            capture_sync_forget(c);
            return;
        }
        if (m.kind == HOOK_HELLO) {
            atomic_store(&c->node->passthrough, (m.flags & 1) != 0);
            capture_opens_begin(c);
            if (m.value != HOOKS_VERSION)
                log_error("capture", "edgefs-fs speaks version %" PRIu64 " of the hook protocol, this is version %d: use `edgefs upgrade`",
                          m.value, HOOKS_VERSION);
        } else if (m.kind == HOOK_SYNCED) {
            capture_opens_end(c);
            capture_rescan(c); /* whatever happened before we were connected */
            c->known = true;
            capture_sync_start(c);
        } else if (m.id) {
            on_hook(c, &m, path, text);
        } else {
            on_event(c, &m, path, text);
        }
    }
    c->hooks_ready = true; /* there may be more */
}

void capture_events(struct capture *c, bool inotify)
{
    /* Rename, then write: the message about the rename was in the socket before the application's call returned, so before the write raised its
     * event. Hence: events that are at hand, hooks, and only then what the events mean. */
    bool any;
    do {
        c->inotify_ready &= !inotify;
        any = inotify && filewatch_fill(c->filewatch);
        do {
            c->hooks_ready = false;
            if (c->hooks_fd >= 0)
                take_hooks(c);
        } while (any && c->hooks_ready);
        filewatch_report(c->filewatch, on_inotify, c);
    } while (any && filewatch_more(c->filewatch));
    if (inotify && c->early)
        on_late(c);
}
