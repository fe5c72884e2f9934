#include "replicator/capture_diff.h"
#include "replicator/capture_private.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/apply.h"
#include "replicator/worker.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#define DEPTH_MAX 32 /* of directories */
#define WATCH_AGAIN_NS 500000u /* doubled each time */
#define WATCH_AGAIN_MAX_NS 100000000u

/* Splits path into the database's name (into name, LAYOUT_NAME_MAX + 1 bytes) and the suffix that it carries ("" for the database itself).
 * NULL: not a name that concerns us. */
static const char *companion(const char *path, char *name)
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

static struct capture_file *file_by_name(struct capture *c, const char *name)
{
    struct err e;
    struct database *db = databases_get(c->node->databases, name, &e);
    if (!db)
        node_warn(c->node, "a file is not replicated: %s", e.text);
    return db ? capture_file_of(c, db) : NULL;
}

/* The database file itself changed. */
static void main_file_changed(struct capture_file *cf)
{
    pthread_mutex_lock(&cf->db->lock);
    enum capture_mode mode = cf->mode;
    bool wal = cf->db->sums && database_dbstate(cf->db)->wal_mode;
    pthread_mutex_unlock(&cf->db->lock);
    if (mode == CAPTURE_MAPPED || (mode == CAPTURE_MAPPING && wal))
        return; /* a checkpoint: copies what was captured */
    uint64_t now = now_ns();
    if (!cf->diff_ns)
        cf->diff_first_ns = now;
    cf->diff_ns = MIN(now + CAPTURE_QUIET_NS, cf->diff_first_ns + CAPTURE_QUIET_MAX_NS);
}

static void on_inotify(void *ctx, const char *path, uint32_t mask)
{
    struct capture *c = ctx;
    char name[LAYOUT_NAME_MAX + 1];
    if (!path) {
        capture_rescan(c);
        return;
    }
    if (node_role(c->node) != NODE_PRIMARY || (mask & IN_ISDIR))
        return;
    const char *suffix = companion(path, name);
    struct capture_file *cf = suffix ? file_by_name(c, name) : NULL;
    if (!cf)
        return;
    bool names_changed = mask & (IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO);
    if (!*suffix) {
        if (!(mask & (IN_DELETE | IN_MOVED_FROM))) /* removals come as hooks, in order */
            main_file_changed(cf);
    } else if (strcmp(suffix, LAYOUT_JOURNAL) != 0) {
        cf->dirty = true;
        cf->recheck |= names_changed;
        if (cf->look_ns && now_ns() - cf->look_since_ns > 20000000u)
            cf->look_ns = 0; /* a fresh write after a long time: publication is near, start the back-off again */
    }
}

void capture_events_inotify(struct capture *c)
{
    dirwatch_read(c->dirwatch, on_inotify, c);
}

struct watch_request {
    unsigned attempt;
    char path[];
};

/* worker_fn: watches a new directory (arg), then has everything in it looked at. The news of it may be faster than the answer to mkdir: until
 * that one is there the kernel may know, from before, that there is no such name. */
static void watch_job(struct node *n, struct database *db, uint64_t arg)
{
    struct watch_request *r = (struct watch_request *)(uintptr_t)arg;
    struct err e;
    struct stat st;
    (void)db;
    int rc = dirwatch_add(n->capture->dirwatch, r->path, &e);
    uint64_t wait = MIN(WATCH_AGAIN_NS << MIN(r->attempt++, 8u), WATCH_AGAIN_MAX_NS);
    if (rc == -ENOENT && fstatat(n->db_fd, r->path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode) &&
        !worker_post(n->worker, watch_job, NULL, arg, wait))
        return;
    if (rc && rc != -ENOENT && rc != -ENOTDIR)
        node_warn(n, "changes below %s will be noticed late: %s", r->path, e.text);
    free(r);
    capture_notice(n->capture, NULL);
}

static void watch(struct capture *c, const char *path)
{
    size_t size = strlen(path) + 1;
    struct watch_request *r = malloc(sizeof *r + size);
    if (r) {
        r->attempt = 0;
        memcpy(r->path, path, size);
    }
    if (!r || worker_post(c->node->worker, watch_job, NULL, (uint64_t)(uintptr_t)r, 0)) {
        log_error("capture", "no memory to watch %s", path);
        free(r);
    }
}

static void look_at_file(struct capture *c, const char *path)
{
    char name[LAYOUT_NAME_MAX + 1];
    const char *suffix = companion(path, name);
    if (!suffix || *suffix)
        return;
    struct capture_file *cf = file_by_name(c, name);
    if (!cf)
        return;
    bool in_wal = walview_exists(c->node, cf->db);
    struct err e;
    pthread_mutex_lock(&cf->db->lock);
    bool unknown = cf->db->state == DATABASE_UNKNOWN || cf->db->state == DATABASE_ABSENT;
    /* If we know a place in the WAL, and it is still that WAL, the frames tell what is missing. Otherwise pages are compared: any number
     * of WALs may have come and gone while nobody watched. */
    if (unknown && in_wal && !database_load(c->node->databases, cf->db, &e) && database_dbstate(cf->db)->wal_frame) {
        database_mark(cf->db, DATABASE_OK, NULL);
        unknown = false;
    }
    pthread_mutex_unlock(&cf->db->lock);
    cf->dirty = cf->recheck = true;
    if (unknown) {
        main_file_changed(cf);
        cf->diff_ns = now_ns();
    }
}

static void scan_directory(struct capture *c, const char *dir, int depth)
{
    int fd = openat(c->node->db_fd, *dir ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            close(fd);
        return; /* removed meanwhile */
    }
    struct dirent *de;
    while ((de = readdir(d))) {
        char path[LAYOUT_NAME_MAX + 300];
        struct stat st;
        if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, "..") ||
            (size_t)snprintf(path, sizeof path, "%s%s%s", dir, *dir ? "/" : "", de->d_name) >= sizeof path ||
            fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW))
            continue;
        if (S_ISDIR(st.st_mode) && depth < DEPTH_MAX)
            scan_directory(c, path, depth + 1);
        else if (S_ISREG(st.st_mode))
            look_at_file(c, path);
    }
    closedir(d);
}

static int look_if_removed(void *ctx, struct database *db)
{
    struct capture *c = ctx;
    pthread_mutex_lock(&db->lock);
    enum database_state st = db->state;
    pthread_mutex_unlock(&db->lock);
    if (st == DATABASE_ABSENT || faccessat(c->node->db_fd, db->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    struct capture_file *cf = capture_file_of(c, db);
    if (cf)
        capture_dropped(c, cf);
    return 0;
}

void capture_rescan(struct capture *c)
{
    if (node_role(c->node) != NODE_PRIMARY)
        return;
    scan_directory(c, "", 0);
    databases_each(c->node->databases, look_if_removed, c);
}

/* ---- hooks ---- */

static void apps_have_it_open(struct capture *c, const char *name, bool open)
{
    struct database *db = databases_find(c->node->databases, name);
    if (!db)
        return;
    pthread_mutex_lock(&db->lock);
    db->apps_open = open;
    pthread_mutex_unlock(&db->lock);
    if (!open && node_role(c->node) == NODE_REPLICA)
        apply_idle(c->node, db);
}

static void removed(struct capture *c, const char *path)
{
    char name[LAYOUT_NAME_MAX + 1];
    const char *suffix = companion(path, name);
    struct database *db = suffix && !*suffix ? databases_find(c->node->databases, name) : NULL;
    if (suffix && *suffix) {
        struct capture_file *cf = file_by_name(c, name);
        if (cf)
            cf->dirty = cf->recheck = true;
    } else if (db && faccessat(c->node->db_fd, name, F_OK, AT_SYMLINK_NOFOLLOW)) {
        struct capture_file *cf = capture_file_of(c, db);
        if (cf)
            capture_dropped(c, cf);
    } else if (!db) {
        databases_each(c->node->databases, look_if_removed, c); /* a directory, with what was in it */
    }
}

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
static void checkpoint_done(struct capture *c, struct capture_file *cf, uint64_t id)
{
    pthread_mutex_lock(&cf->db->lock);
    bool can_wait = cf->mode != CAPTURE_DIFFING && cf->n_deferred < CAPTURE_DEFERRED_MAX;
    cf->checkpoint_seen |= !can_wait;
    pthread_mutex_unlock(&cf->db->lock);
    if (!can_wait || node_role(c->node) != NODE_PRIMARY) {
        hooks_answer(c->node->hooks, id, 0, NULL);
        return;
    }
    cf->deferred[cf->n_deferred++] = id;
    capture_step(c, cf);
}

static void on_event(struct capture *c, const struct hook_msg *m, const char *path, const char *text)
{
    char name[LAYOUT_NAME_MAX + 1];
    const char *suffix = companion(path, name);
    struct capture_file *cf;
    switch (m->kind) {
    case HOOK_CREATED:
    case HOOK_MODIFIED:
    case HOOK_UNSEEN:
        if (node_role(c->node) != NODE_PRIMARY || !suffix || !(cf = file_by_name(c, name)))
            return;
        if (!*suffix && m->kind != HOOK_UNSEEN) {
            main_file_changed(cf);
        } else if (m->kind == HOOK_UNSEEN) {
            capture_start_diff(c, cf); /* what happened while no replicator was there is not known */
        } else {
            cf->dirty = cf->recheck = true;
        }
        return;
    case HOOK_RENAMED:
        removed(c, path);
        if (node_role(c->node) == NODE_PRIMARY) {
            watch(c, text); /* if it is a directory; also has everything looked at */
            if (companion(text, name) && (cf = file_by_name(c, name)))
                capture_start_diff(c, cf);
        }
        return;
    case HOOK_REMOVED:
        removed(c, path);
        return;
    case HOOK_ROLE:
        hooks_role_in_force(c->node->hooks, text);
        return;
    case HOOK_DIR_CREATED:
        watch(c, path);
        return;
    case HOOK_OPENED:
        apps_have_it_open(c, path, true);
        return;
    case HOOK_LAST_CLOSE:
        apps_have_it_open(c, path, false);
        if ((cf = suffix && !*suffix ? file_by_name(c, name) : NULL)) {
            cf->dirty = cf->recheck = true;
            if (cf->diff_ns)
                cf->diff_ns = now_ns();
        }
        return;
    default:
        return;
    }
}

static void on_hook(struct capture *c, const struct hook_msg *m, const char *path)
{
    char name[LAYOUT_NAME_MAX + 1];
    const char *suffix = companion(path, name);
    struct capture_file *cf = suffix && m->kind < HOOK_QUERY_POS ? file_by_name(c, name) : NULL;
    switch (m->kind) {
    case HOOK_QUERY_POS:
        query_position(c, m->id, path);
        return;
    case HOOK_QUERY_LAG:
        query_lag(c, m->id);
        return;
    case HOOK_OPENING:
        apply_opening(c->node, suffix && !*suffix ? name : NULL, m->id);
        return;
    case HOOK_CHECKPOINT:
        if (cf)
            checkpoint_done(c, cf, m->id);
        else
            hooks_answer(c->node->hooks, m->id, 0, NULL);
        return;
    case HOOK_WAL_UNLINK:
    case HOOK_WAL_TRUNCATE:
        if (cf)
            capture_wal_vanishes(c, cf);
        break;
    case HOOK_JOURNAL_END:
        if (cf && node_role(c->node) == NODE_PRIMARY)
            cf->diff_ns = cf->diff_first_ns = now_ns();
        break;
    default:
        break;
    }
    hooks_answer(c->node->hooks, m->id, 0, NULL);
}

void capture_events_hooks(struct capture *c)
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
            return;
        }
        if (m.kind == HOOK_HELLO) {
            atomic_store(&c->node->passthrough, (m.flags & 1) != 0);
            if (m.value != HOOKS_VERSION)
                log_error("capture", "edgefs-fs speaks version %" PRIu64 " of the hook protocol, this is version %d: use `edgefs upgrade`",
                          m.value, HOOKS_VERSION);
        } else if (m.kind == HOOK_SYNCED) {
            capture_rescan(c); /* whatever happened before we were connected */
        } else if (m.id) {
            on_hook(c, &m, path);
        } else {
            on_event(c, &m, path, text);
        }
    }
    c->hooks_ready = true; /* there may be more */
}
