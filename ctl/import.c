#include "ctl/cluster.h"
#include "ctl/field.h"
#include "ctl/lend.h"
#include "ctl/options.h"
#include "ctl/progress.h"
#include "ctl/text.h"
#include "lib/sqlitefile.h"
#include "lib/util.h"
#include "lib/walindex.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#define HOPS_MAX 3
#define COPY_MS 600000u      /* a node that has been lent the file answers when it has checked and installed it */
#define COPY_BYTES_MS 10000u /* … and copies so many bytes a millisecond, on a slow disk */
#define WATCH_MS 100
#define DATABASE_MAX ((uint64_t)65536 * 0xfffffffe) /* page size times pages, https://sqlite.org/limits.html */

/* A companion file with something in it: the file alone is not the whole database. */
static int check_companion(const char *path, const char *suffix, const char *what, struct err *e)
{
    _cleanup_free_ char *name = NULL;
    struct stat st;
    if (asprintf(&name, "%s%s", path, suffix) < 0) {
        name = NULL;
        return err_errno(e, ENOMEM, "%s", path);
    }
    if (stat(name, &st) || st.st_size == 0)
        return 0;
    return err_set(e, -EBUSY, "%s has %s (%s%s): let no program use it and run: sqlite3 %s 'PRAGMA wal_checkpoint(TRUNCATE)'", path,
                   what, path, suffix, path);
}

/* SQLite's SHARED lock (https://sqlite.org/lockingv3.html), so that nobody writes while we read; freed with the descriptor. */
static int lock_shared(int fd, const char *path, struct err *e)
{
    int rc = lock_range(fd, F_RDLCK, DBLOCK_PENDING, 1);
    if (!rc)
        rc = lock_range(fd, F_RDLCK, DBLOCK_SHARED_FIRST, DBLOCK_SHARED_SIZE);
    (void)lock_range(fd, F_UNLCK, DBLOCK_PENDING, 1);
    if (rc == -EAGAIN || rc == -EACCES)
        return err_set(e, -EBUSY, "%s is being written by another program; wait until it is done", path);
    return rc ? err_errno(e, -rc, "lock %s", path) : 0;
}

/* Opens and checks as much as can be known without the server. 0 or -errno or ERR_NOT_DATABASE; *fd is the caller's. */
static int open_database(const char *path, int *fd_out, uint64_t *size, struct err *e)
{
    uint8_t head[DBFILE_HEADER_SIZE];
    struct dbfile_header h;
    struct stat st;
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st))
        return err_errno(e, errno, "%s", path);
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_NOT_DATABASE, "%s is not a regular file", path);
    int rc = lock_shared(fd, path, e);
    if (!rc)
        rc = check_companion(path, LAYOUT_WAL, "changes that are still in its write-ahead log", e);
    if (!rc)
        rc = check_companion(path, LAYOUT_JOURNAL, "an unfinished transaction", e);
    if (rc)
        return rc;
    ssize_t n = pread(fd, head, sizeof head, 0);
    if (n < 0 || fstat(fd, &st)) /* again: it may have grown before the lock */
        return err_errno(e, errno, "%s", path);
    if (dbfile_header_decode(head, (size_t)n, &h))
        return err_set(e, ERR_NOT_DATABASE, "%s is not an SQLite database", path);
    *size = (uint64_t)st.st_size;
    if (*size % h.page_size || *size > DATABASE_MAX)
        return err_set(e, ERR_NOT_DATABASE, "%s: %" PRIu64 " bytes are no whole number of pages of %u bytes: it was cut short", path,
                       *size, h.page_size);
    *fd_out = steal_fd(&fd);
    return 0;
}

struct watch {
    int fd, over; /* the file; an eventfd that says when to end */
    pthread_t thread;
    bool started;
};

/* The bar of a file that the node reads: its position in the file is ours, too. */
static void *watch(void *arg)
{
    struct watch *w = arg;
    struct pollfd p = {.fd = w->over, .events = POLLIN};
    off_t shown = 0;
    while (poll(&p, 1, WATCH_MS) == 0) {
        off_t now = lseek(w->fd, 0, SEEK_CUR);
        if (now > shown) {
            progress_add((uint64_t)(now - shown));
            shown = now;
        }
    }
    return NULL;
}

static void watch_begin(struct watch *w, int fd)
{
    *w = (struct watch){.fd = fd, .over = eventfd(0, EFD_CLOEXEC)};
    w->started = w->over >= 0 && pthread_create(&w->thread, NULL, watch, w) == 0; /* it can do without a bar */
}

static void watch_end(struct watch *w)
{
    if (w->started) {
        (void)eventfd_write(w->over, 1); /* cannot fail: nothing is in it */
        pthread_join(w->thread, NULL);
    }
    if (w->over >= 0)
        close(w->over);
}

/* Imports without an upload. *status 410: this node, though it is reached by an address of this host, is not the one that the file was lent to. */
static int import_lent(struct cluster *c, const char *url, const char *path, const struct lend *l, int fd, uint64_t size, int *status, json_t **answer,
                       struct err *e)
{
    _cleanup_free_ char *whole = cluster_path("%s?file=%s", path, l->number);
    if (!whole)
        return err_errno(e, ENOMEM, "import");
    struct request r = {.method = "PUT", .url = url, .path = whole, .timeout_ms = COPY_MS + size / COPY_BYTES_MS};
    struct watch w;
    watch_begin(&w, fd);
    int rc = cluster_ask(c, &r, status, answer, e);
    watch_end(&w);
    return rc;
}

static int import(struct cluster *c, const char *url, const char *path, int fd, uint64_t size, int *status, json_t **answer, struct err *e)
{
    struct request r = {.method = "PUT", .url = url, .path = path};
    struct lend l;
    if (lend_begin(c, url, fd, &l)) {
        int rc = import_lent(c, url, path, &l, fd, size, status, answer, e);
        lend_end(&l);
        if (rc != ERR_REMOTE || *status != 410)
            return rc;
        json_decref(*answer);
        *answer = NULL;
    }
    return cluster_upload(c, &r, fd, size, progress_add, status, answer, e);
}

static int import_at(struct cluster *c, char **url, const char *name, int fd, uint64_t size, struct err *e)
{
    _cleanup_free_ char *escaped = cluster_escape(name);
    _cleanup_free_ char *path = escaped ? cluster_path("/v1/databases/%s", escaped) : NULL;
    if (!path)
        return err_errno(e, ENOMEM, "import");
    for (int hop = 0;; hop++) {
        int status;
        json_t *answer = NULL;
        progress_begin(name, size);
        uint64_t begun = now_ns();
        int rc = import(c, *url, path, fd, size, &status, &answer, e);
        progress_end();
        if (rc == ERR_REMOTE && status == 421 && hop < HOPS_MAX && cluster_redirect(answer, url)) {
            json_decref(answer);
            continue;
        }
        if (!rc) {
            char bytes[TEXT_NUMBER_MAX], took[TEXT_NUMBER_MAX];
            _cleanup_free_ char *shown = text_printable(name);
            printf("%s: %s imported in %s: LSN %" PRIu64 ", transaction %" PRIu64 ", checksum %s\n", shown ? shown : "?",
                   text_size(size, bytes), text_duration((now_ns() - begun) / 1000000, took), field_u64_or(answer, "lsn", 0),
                   field_u64_or(answer, "txid", 0), field_text_or(answer, "checksum", "?"));
        }
        json_decref(answer);
        return rc;
    }
}

static int run(struct cluster *c, int argc, char **argv)
{
    int n, rc = options_parse(&cmd_import, NULL, 0, argc, argv, 2, 2, &n);
    if (rc)
        return rc;
    struct err e;
    uint64_t size = 0;
    _cleanup_fd_ int fd = -1;
    _cleanup_free_ char *url = NULL;
    if (cluster_check_name(argv[2], &e) || open_database(argv[1], &fd, &size, &e) || cluster_primary(c, &url, &e) ||
        import_at(c, &url, argv[2], fd, size, &e))
        return ctl_fail_err(&e);
    return CTL_OK;
}

const struct command cmd_import = {
    .name = "import",
    .usage = "FILE NAME",
    .summary = "put an SQLite database file into the cluster",
    .help = "FILE becomes database NAME (a path inside the mount: app.db, tenants/a.db), at once and whole, on the primary and from there\n"
            "everywhere. It replaces a database of that name, unless an application has that one open. FILE is not changed; its write-ahead\n"
            "log, if it has one, must be empty.\n",
    .run = run,
};
