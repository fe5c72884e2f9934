#include "tests/torture/files.h"

#include "lib/util.h"
#include "tests/torture/content.h"
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATIENCE_NS UINT64_C(10000000000)

/* The other name of each follows it. */
const char *const files_names[] = {"d0.db", "m0.db", "s/d1.db", "s/m1.db", "d2.db", "s/m2.db", NULL};

static const enum files_place written[] = {FILES_MODEL, FILES_PRIMARY};

void files_init(struct files *f, const char *primary, const char *replica, const char *model)
{
    memset(f, 0, sizeof *f);
    f->root[FILES_PRIMARY] = primary;
    f->root[FILES_REPLICA] = replica;
    f->root[FILES_MODEL] = model;
    for (int i = 0; i < 2; i++) {
        char path[4200];
        (void)snprintf(path, sizeof path, "%s/s", f->root[written[i]]);
        (void)mkdir(path, 0777);
    }
}

const char *files_name(const struct files *f, int database)
{
    return files_names[2 * database + f->moved[database]];
}

void files_path(const struct files *f, enum files_place place, int database, char *path, size_t room)
{
    (void)snprintf(path, room, "%s/%s", f->root[place], files_name(f, database));
}

static bool fails(char *error, size_t room, const char *what, const char *path)
{
    (void)snprintf(error, room, "%s %s: %s", what, path, strerror(errno));
    return false;
}

static bool exists_with(const char *path, const char *suffix)
{
    char name[4300];
    (void)snprintf(name, sizeof name, "%s%s", path, suffix);
    return access(name, F_OK) == 0;
}

/* Opens, reads and closes: SQLite recovers it if need be, and the last close takes the WAL away. */
static int visit(const char *path)
{
    sqlite3 *db = NULL;
    int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "SELECT count(*) FROM sqlite_schema", NULL, NULL, NULL);
    int closed = sqlite3_close(db);
    return rc == SQLITE_OK ? closed : rc & 0xff;
}

bool files_settle(struct files *f, int database, char *error, size_t room)
{
    for (int i = 0; i < 2; i++) {
        char path[4200];
        files_path(f, written[i], database, path, sizeof path);
        uint64_t deadline = now_ns() + PATIENCE_NS;
        while (exists_with(path, "")) {
            int rc = visit(path);
            if (rc == SQLITE_OK && !exists_with(path, "-wal"))
                break;
            if (now_ns() > deadline || (rc != SQLITE_OK && rc != SQLITE_BUSY)) {
                (void)snprintf(error, room, "%s, open nowhere, cannot be opened and closed whole: %d %s", path, rc, sqlite3_errstr(rc));
                return false;
            }
            f->retries++;
            usleep(1000);
        }
    }
    return true;
}

bool files_source(struct files *f, unsigned seed, char *path, size_t path_room, char *error, size_t room)
{
    (void)snprintf(path, path_room, "%s/source-%u", f->root[FILES_MODEL], seed);
    if (access(path, F_OK) == 0)
        return true;
    int rc = content_make(path, seed);
    if (rc == SQLITE_OK)
        return true;
    (void)snprintf(error, room, "making %s: %s", path, sqlite3_errstr(rc));
    return false;
}

static bool copy(const char *from, const char *to, char *error, size_t room)
{
    _cleanup_fd_ int in = open(from, O_RDONLY | O_CLOEXEC);
    _cleanup_fd_ int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (in < 0 || out < 0)
        return fails(error, room, "opening", in < 0 ? from : to);
    char buf[65536];
    ssize_t n;
    while ((n = read(in, buf, sizeof buf)) > 0)
        if (write(out, buf, (size_t)n) != n)
            return fails(error, room, "writing", to);
    return n == 0 || fails(error, room, "reading", from);
}

/* A journal that PERSIST left behind belongs to the file that was there. */
static bool remove_journal(const char *path, char *error, size_t room)
{
    char name[4300];
    (void)snprintf(name, sizeof name, "%s-journal", path);
    return unlink(name) == 0 || errno == ENOENT || fails(error, room, "removing", name);
}

bool files_copy_in(struct files *f, int database, unsigned seed, bool rename_over, char *error, size_t room)
{
    char source[4200], path[4200], aside[4300];
    if (!files_source(f, seed, source, sizeof source, error, room))
        return false;
    for (int i = 0; i < 2; i++) {
        files_path(f, written[i], database, path, sizeof path);
        (void)snprintf(aside, sizeof aside, "%s.tmp", path);
        if (!remove_journal(path, error, room) || !copy(source, rename_over ? aside : path, error, room))
            return false;
        if (rename_over && rename(aside, path))
            return fails(error, room, "renaming over", path);
    }
    return true;
}

bool files_remove(struct files *f, int database, char *error, size_t room)
{
    for (int i = 0; i < 2; i++) {
        char path[4200];
        files_path(f, written[i], database, path, sizeof path);
        if (unlink(path) && errno != ENOENT)
            return fails(error, room, "removing", path);
        if (!remove_journal(path, error, room))
            return false;
    }
    return true;
}

bool files_move(struct files *f, int database, char *error, size_t room)
{
    for (int i = 0; i < 2; i++) {
        char from[4200], to[4200];
        files_path(f, written[i], database, from, sizeof from);
        f->moved[database] = !f->moved[database];
        files_path(f, written[i], database, to, sizeof to);
        f->moved[database] = !f->moved[database];
        if (rename(from, to) && errno != ENOENT)
            return fails(error, room, "renaming", from);
        if (!remove_journal(from, error, room))
            return false;
    }
    f->moved[database] = !f->moved[database];
    return true;
}

bool files_transactions(struct files *f, int database, int64_t *n)
{
    char path[4200];
    files_path(f, FILES_PRIMARY, database, path, sizeof path);
    sqlite3 *db = NULL;
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL);
    if (rc == SQLITE_OK) {
        (void)sqlite3_busy_timeout(db, (int)(PATIENCE_NS / 1000000));
        rc = sqlite3_prepare_v2(db, "SELECT n FROM inv", -1, &q, NULL);
    }
    if (rc == SQLITE_OK)
        rc = sqlite3_step(q);
    if (rc == SQLITE_ROW)
        *n = sqlite3_column_int64(q, 0);
    (void)sqlite3_finalize(q);
    (void)sqlite3_close(db);
    return rc == SQLITE_ROW;
}
