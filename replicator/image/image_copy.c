/* format=sqlite: a local copy first, made by libsqlite3's backup in one read transaction; then that is sent. So a slow client holds up
 * nobody, and what arrives is one ordinary SQLite file. */
#include "replicator/image/image_server.h"

#include "lib/util.h"
#include "replicator/api/api_private.h"
#include "replicator/metrics.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/stat.h>

#define BUSY_NS UINT64_C(5000000000)

/* Source through the mount, like any application. Read-write, because a WAL without its wal-index needs recovery; never the one that
 * checkpoints and deletes the WAL at its close: capture may not have seen all of it. */
static int open_source(struct node *n, const char *name, sqlite3 **out, struct err *e)
{
    _cleanup_free_ char *path = node_mount_path(n, name);
    if (!path)
        return err_errno(e, ENOMEM, "copy of %s", name);
    int rc = sqlite3_open_v2(path, out, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc != SQLITE_OK)
        return err_set(e, rc == SQLITE_CANTOPEN ? -ENOENT : -EIO, "%s: %s", name, sqlite3_errstr(rc));
    sqlite3_db_config(*out, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_busy_timeout(*out, 200);
    return 0;
}

static int open_copy(const char *path, sqlite3 **out, struct err *e)
{
    int rc = sqlite3_open_v2(path, out, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    /* Nobody else sees it, and a half-made one is thrown away. */
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(*out, "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE", NULL, NULL, NULL);
    return rc == SQLITE_OK ? 0 : err_set(e, -EIO, "temporary copy: %s", sqlite3_errstr(rc));
}

static int backup(struct node *n, sqlite3 *to, sqlite3 *from, const char *name, struct err *e)
{
    uint64_t end = now_ns() + BUSY_NS;
    int rc;
    sqlite3_backup *b = sqlite3_backup_init(to, "main", from, "main");
    if (!b)
        return err_set(e, -EIO, "copy of %s: %s", name, sqlite3_errmsg(to));
    do
        rc = sqlite3_backup_step(b, -1);
    while ((rc == SQLITE_BUSY || rc == SQLITE_LOCKED) && now_ns() < end && !atomic_load(&n->stopping));
    int done = sqlite3_backup_finish(b);
    switch (rc == SQLITE_DONE ? done : rc) {
    case SQLITE_OK:
        return 0;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
        return err_set(e, ERR_AGAIN_LATER, "%s is locked", name);
    case SQLITE_FULL:
        return err_set(e, -ENOSPC, "no room in %s for a copy of %s", n->config->data, name);
    case SQLITE_NOTADB:
        return err_set(e, ERR_NOT_DATABASE, "%s is not an SQLite database", name);
    default:
        return err_set(e, -EIO, "copy of %s: %s", name, sqlite3_errstr(rc));
    }
}

/* The copy's name lives as long as libsqlite3 works on it. */
static int copy(struct node *n, struct database *db, const char *path, struct err *e)
{
    sqlite3 *from = NULL, *to = NULL;
    pthread_mutex_lock(&db->sqlite);
    int rc = open_source(n, db->name, &from, e);
    if (!rc)
        rc = open_copy(path, &to, e);
    if (!rc)
        rc = backup(n, to, from, db->name, e);
    sqlite3_close(to);
    sqlite3_close(from);
    pthread_mutex_unlock(&db->sqlite);
    return rc;
}

static void copy_work(struct call *c)
{
    struct node *n = c->api->node;
    struct database *db = databases_find(n->databases, c->name);
    static atomic_uint counter;
    char path[PATH_MAX];
    struct err e = {0};
    struct stat st;
    bool there = false;
    if (db) {
        pthread_mutex_lock(&db->lock);
        there = db->state == DATABASE_OK || db->state == DATABASE_WAITING;
        pthread_mutex_unlock(&db->lock);
    }
    int rc = there ? 0 : err_set(&e, -ENOENT, "there is no database %s, or not yet", c->name);
    snprintf(path, sizeof path, "%s/%s/" IMAGE_COPY_PREFIX "%u", n->config->data, LAYOUT_RUN, atomic_fetch_add(&counter, 1));
    if (!rc) {
        c->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        rc = c->fd < 0 ? err_errno(&e, errno, "%s", path) : 0;
    }
    if (!rc)
        rc = copy(n, db, path, &e);
    if (c->fd >= 0)
        unlink(path);
    if (!rc && fstat(c->fd, &st))
        rc = err_errno(&e, errno, "%s", path);
    if (rc)
        call_error(c, &e);
    else
        c->limit = (uint64_t)st.st_size;
}

static void copy_reply(struct call *c)
{
    metrics_add(METRIC_IMAGES, 1);
    metrics_add(METRIC_IMAGE_BYTES, c->limit);
    if (http_start(c->req, 200, "application/vnd.sqlite3", (int64_t)c->limit) == 0 && c->limit)
        (void)http_write_file(c->req, c->fd, 0, c->limit); /* an error ends the connection, and the closed callback comes */
    http_end(c->req);
}

void image_copy_get(struct api *a, struct http_request *req, const char *name)
{
    struct call *c = call_new(a, req, copy_work);
    if (!c)
        return;
    c->reply = copy_reply;
    snprintf(c->name, sizeof c->name, "%s", name);
    call_submit(c, a->jobs);
}
