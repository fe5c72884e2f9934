/* The steps of an import, or a removal, that replace files. Each may block. */
#include "replicator/image/import.h"

#include "lib/log.h"
#include "lib/sqlitefile.h"
#include "lib/util.h"
#include "replicator/capture/capture.h"
#include "replicator/capture/capture_diff.h"
#include "replicator/image/image_server.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/stat.h>

#define CAPTURE_NS UINT64_C(120000000000)
#define DEPTH_MAX 32

static const char *const companions[] = {LAYOUT_WAL, LAYOUT_SHM, LAYOUT_JOURNAL};

/* ---- is it a database? ---- */

/* Reads the schema without any lock or recovery: the file is ours alone. */
static int check_schema(const char *path, struct err *e)
{
    sqlite3 *conn = NULL;
    _cleanup_free_ char *uri = malloc(strlen(path) * 3 + 32);
    if (!uri)
        return err_errno(e, ENOMEM, "import");
    char *p = stpcpy(uri, "file:");
    for (const char *s = path; *s; s++)
        p += *s == '?' || *s == '#' || *s == '%' ? sprintf(p, "%%%02x", (unsigned char)*s) : sprintf(p, "%c", *s);
    strcpy(p, "?immutable=1");
    int rc = sqlite3_open_v2(uri, &conn, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_URI, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(conn, "SELECT count(*) FROM sqlite_schema", NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        err_set(e, ERR_NOT_DATABASE, "the body is no SQLite database that can be used: %s", sqlite3_errmsg(conn));
    sqlite3_close(conn);
    return rc == SQLITE_OK ? 0 : ERR_NOT_DATABASE;
}

int import_check(int fd, const char *path, struct err *e)
{
    uint8_t buf[DBFILE_HEADER_SIZE];
    struct dbfile_header h;
    struct stat st;
    if (fstat(fd, &st))
        return err_errno(e, errno, "import");
    ssize_t n = pread(fd, buf, sizeof buf, 0);
    if (n < 0)
        return err_errno(e, errno, "import");
    if (dbfile_header_decode(buf, (size_t)n, &h))
        return err_set(e, ERR_NOT_DATABASE, "the body is not an SQLite database");
    if (st.st_size % h.page_size)
        return err_set(e, ERR_NOT_DATABASE, "the body is cut off: %lld bytes are no multiple of the page size %u",
                       (long long)st.st_size, h.page_size);
    if (h.page_count_valid && st.st_size / h.page_size != (off_t)h.page_count)
        return err_set(e, ERR_NOT_DATABASE, "the body has %lld pages, its header says %u: cut off, or copied while it was being written",
                       (long long)(st.st_size / h.page_size), h.page_count);
    return check_schema(path, e);
}

/* ---- replacing ---- */

static int check_not_open(struct database *db, struct err *e)
{
    pthread_mutex_lock(&db->lock);
    bool open = db->apps_open;
    pthread_mutex_unlock(&db->lock);
    return open ? err_set(e, -EEXIST, "applications have %s open: close it there first", db->name) : 0;
}

static bool present(const struct node *n, const char *name, const char *suffix)
{
    char path[LAYOUT_NAME_MAX + 16];
    snprintf(path, sizeof path, "%s%s", name, suffix);
    return faccessat(n->db_fd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Brings the old database into one file, so that a stop between the removal of its companions and the rename leaves it whole.
 * db->sqlite is held. */
static int settle(struct node *n, const char *name, struct err *e)
{
    if (!present(n, name, "") || (!present(n, name, LAYOUT_WAL) && !present(n, name, LAYOUT_JOURNAL)))
        return 0;
    _cleanup_free_ char *path = node_mount_path(n, name);
    sqlite3 *conn = NULL;
    int frames = 0, copied = 0;
    if (!path)
        return err_errno(e, ENOMEM, "import");
    int rc = sqlite3_open_v2(path, &conn, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_db_config(conn, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
        sqlite3_busy_timeout(conn, 1000);
        rc = sqlite3_exec(conn, "PRAGMA schema_version", NULL, NULL, NULL);
    }
    if (rc == SQLITE_OK)
        rc = sqlite3_wal_checkpoint_v2(conn, NULL, SQLITE_CHECKPOINT_PASSIVE, &frames, &copied);
    sqlite3_close(conn);
    if (rc == SQLITE_BUSY || rc == SQLITE_LOCKED || (rc == SQLITE_OK && copied < frames))
        return err_set(e, ERR_AGAIN_LATER, "%s is being used, try again", name);
    if (rc != SQLITE_OK) /* no database, or a broken one: it is about to go anyway */
        log_info("import", "%s, about to be replaced, cannot be opened: %s", name, sqlite3_errstr(rc));
    return 0;
}

static int remove_companions(struct node *n, const char *name, struct err *e)
{
    for (size_t i = 0; i < ARRAY_SIZE(companions); i++) {
        char path[LAYOUT_NAME_MAX + 16];
        snprintf(path, sizeof path, "%s%s", name, companions[i]);
        if (unlinkat(n->mount_fd, path, 0) && errno != ENOENT)
            return err_errno(e, errno, "removing %s", path);
    }
    return 0;
}

static int sync_parent(const struct node *n, const char *name, struct err *e)
{
    char dir[LAYOUT_NAME_MAX + 1];
    snprintf(dir, sizeof dir, "%s", name);
    char *slash = strrchr(dir, '/');
    if (slash)
        *slash = '\0';
    _cleanup_fd_ int fd = openat(n->db_fd, slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 || fsync(fd) ? err_errno(e, errno, "fsync of the directory of %s", name) : 0;
}

static int check_role(struct node *n, struct err *e)
{
    return node_role(n) == NODE_PRIMARY ? 0 : err_set(e, ERR_ROLE, "this node is no longer the primary");
}

int import_commit(struct node *n, const char *temp, const char *name, struct err *e)
{
    struct database *db = databases_get(n->databases, name, e);
    if (!db)
        return e->code;
    pthread_mutex_lock(&db->sqlite);
    int rc = settle(n, name, e);
    if (!rc)
        rc = check_role(n, e);
    if (!rc)
        rc = check_not_open(db, e);
    if (!rc)
        rc = remove_companions(n, name, e);
    if (!rc && renameat(n->mount_fd, temp, n->mount_fd, name))
        rc = err_errno(e, errno, "renaming the import to %s", name);
    pthread_mutex_unlock(&db->sqlite);
    if (rc)
        return rc;
    rc = sync_parent(n, name, e);
    capture_request_diff(n->capture, db);
    return rc;
}

int import_remove(struct node *n, const char *name, struct err *e)
{
    struct database *db = databases_find(n->databases, name);
    if (!db || !present(n, name, ""))
        return err_set(e, -ENOENT, "there is no database %s", name);
    pthread_mutex_lock(&db->sqlite);
    int rc = check_role(n, e);
    if (!rc)
        rc = check_not_open(db, e);
    /* The database first: SQLite takes a WAL or journal without it for what it is, a leftover. */
    if (!rc && unlinkat(n->mount_fd, name, 0))
        rc = err_errno(e, errno, "removing %s", name);
    if (!rc)
        rc = remove_companions(n, name, e);
    pthread_mutex_unlock(&db->sqlite);
    if (rc)
        return rc;
    rc = sync_parent(n, name, e);
    capture_notice(n->capture, NULL); /* it compares names with files */
    return rc;
}

int import_captured(struct node *n, struct database *db, struct err *e)
{
    uint64_t end = now_ns() + CAPTURE_NS;
    int rc;
    do
        rc = capture_now(n->capture, db, now_ns() + 1000000000u, e);
    while (rc == -ETIMEDOUT && now_ns() < end && !atomic_load(&n->stopping));
    if (!rc)
        e->code = 0; /* of a try that was too short */
    return rc;
}

/* ---- leftovers ---- */

static void clean_below(struct node *n, const char *dir, const char *own, int depth)
{
    int fd = openat(n->db_fd, *dir ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *de;
    if (!d) {
        if (fd >= 0)
            close(fd);
        return;
    }
    while ((de = readdir(d))) {
        static const char prefix[] = LAYOUT_PRIVATE_PREFIX "import-";
        char path[LAYOUT_NAME_MAX + 300];
        if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0 ||
            (size_t)snprintf(path, sizeof path, "%s%s%s", dir, *dir ? "/" : "", de->d_name) >= sizeof path)
            continue;
        if (de->d_type == DT_DIR && depth < DEPTH_MAX)
            clean_below(n, path, own, depth + 1);
        else if (strncmp(de->d_name, prefix, sizeof prefix - 1) == 0 && strncmp(de->d_name, own, strlen(own)) != 0 &&
                 unlinkat(n->mount_fd, path, 0) == 0)
            log_info("import", "removed %s, left by an import that did not end", path);
    }
    closedir(d);
}

void import_clean_copies(struct node *n)
{
    int fd = openat(n->data_fd, LAYOUT_RUN, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *de;
    if (!d) {
        if (fd >= 0)
            close(fd);
        return;
    }
    while ((de = readdir(d)))
        if (strncmp(de->d_name, IMAGE_COPY_PREFIX, sizeof IMAGE_COPY_PREFIX - 1) == 0)
            unlinkat(fd, de->d_name, 0);
    closedir(d);
}

void import_clean(struct node *n)
{
    char own[32];
    snprintf(own, sizeof own, LAYOUT_PRIVATE_PREFIX "import-%d-", (int)getpid());
    clean_below(n, "", own, 0);
}
