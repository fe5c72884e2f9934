#include "tests/torture/watcher.h"

#include "lib/util.h"
#include "tests/torture/content.h"
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PATIENCE_MS 10000 /* a reader may be made to wait, but not longer */

static void complain(const char *path, const char *what, const char *detail)
{
    (void)fprintf(stderr, "reader on the replica, %s: %s (%s)\n", path, what, detail);
    _exit(1);
}

/* One look: returns an SQLite code; *n is the number of transactions that the state has seen. */
static int look(sqlite3 *db, const char *path, int64_t *n)
{
    char *sql = content_check("main");
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &q, NULL);
    sqlite3_free(sql);
    if (rc == SQLITE_OK && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        *n = sqlite3_column_int64(q, 1);
        if (sqlite3_column_type(q, 0) != SQLITE_NULL)
            complain(path, "not a committed state", (const char *)sqlite3_column_text(q, 0));
        rc = SQLITE_OK;
    }
    int end = sqlite3_finalize(q);
    return rc == SQLITE_DONE || rc == SQLITE_OK ? end : rc;
}

#define SCHEMA_TRIES 20

/* A read transaction of two looks. */
static void read_twice(sqlite3 *db, const char *path, useconds_t between)
{
    int64_t first = -1, second = -1;
    int rc = SQLITE_SCHEMA;
    /* SQLITE_SCHEMA: it changed, and once more while the statement was prepared again; sqlite3_prepare_v2 tries twice (https://sqlite.org/rescode.html#schema). */
    for (int tries = 0; tries < SCHEMA_TRIES && (rc & 0xff) == SQLITE_SCHEMA; tries++) {
        if (tries)
            (void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
        rc = sqlite3_exec(db, "BEGIN", NULL, NULL, NULL);
        if (rc == SQLITE_OK)
            rc = look(db, path, &first);
    }
    if (rc == SQLITE_OK && first >= 0) {
        usleep(between);
        rc = look(db, path, &second);
        if (rc == SQLITE_OK && first != second)
            complain(path, "one read transaction saw two states", "inv.n");
    }
    (void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    int code = rc & 0xff;
    /* SQLITE_ERROR: no table yet. SQLITE_CANTOPEN: not there (any more). */
    if (code != SQLITE_OK && code != SQLITE_ERROR && code != SQLITE_CANTOPEN)
        complain(path, "an error that a reader must not see", sqlite3_errstr(rc));
}

static void watch(const char *root, const char *const *files, unsigned seed)
{
    size_t count = 0;
    while (files[count])
        count++;
    uint64_t state = seed;
    for (;;) {
        char path[4200];
        (void)snprintf(path, sizeof path, "%s/%s", root, files[content_random(&state) % count]);
        sqlite3 *db = NULL;
        /* Opened for reading, or as most applications open. */
        int flags = content_random(&state) % 2 ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
        if (access(path, F_OK) == 0 && sqlite3_open_v2(path, &db, flags, NULL) == SQLITE_OK) {
            (void)content_register(db);
            (void)sqlite3_busy_timeout(db, PATIENCE_MS);
            for (uint64_t reads = 1 + content_random(&state) % 8; reads > 0; reads--) {
                read_twice(db, path, (useconds_t)(content_random(&state) % 8 ? 0 : 20000));
                usleep((useconds_t)(2000 + content_random(&state) % 10000));
            }
        } else {
            usleep(10000);
        }
        (void)sqlite3_close(db);
    }
}

pid_t watcher_start(const char *root, const char *const *files, unsigned seed)
{
    (void)fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        watch(root, files, seed);
    }
    return pid;
}
