#include "replicator/database/scan.h"

#include "lib/crc.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/capture/capture_file.h"
#include "replicator/database/leftover.h"
#include "replicator/database/walframes.h"
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define SCAN_CHUNK (1u << 20) /* bytes read at once */
#define JOURNAL_REST_US 200000
#define COPYING_NS UINT64_C(5000000000)
#define TICK_NS 20000000u     /* two ticks of the coarsest clock that file times are taken from (100 Hz) */

struct scan {
    struct node *node;
    struct database *db;
    sqlite3 *conn;
    int db_fd;   /* backing file */
    int lock_fd; /* the same file through the mount, where its locks are; -1: not needed */
    enum scan_lock lock;
    bool (*needed)(struct database *db);
    bool wal;
    struct walview view;
    uint32_t page_size, commit;
    struct walindex_header head; /* WAL: state M */
    uint32_t *frame_of;          /* without a wal-index: newest frame ≤ M of each page, page 1 first */
    struct leftover *left;       /* a hot journal, whose pages are the state; NULL: there is none */
    bool resting;
    bool not_hot;                /* there is a journal that nobody will roll back */
};

/* Whether the files beside a database are an application's to use. Otherwise nobody but us can recover it: on a replica all others are fenced. */
static bool is_primary(const struct scan *s)
{
    enum node_role role = node_role(s->node);
    return role == NODE_PRIMARY || role == NODE_HANDING_OVER;
}

/* libsqlite3 recovers the database: a hot journal, a WAL without a wal-index. */
static int recover_and_pin(struct scan *s, struct err *e)
{
    _cleanup_free_ char *path = node_mount_path(s->node, s->db->name);
    if (!path)
        return err_errno(e, ENOMEM, "scan");
    int rc = sqlite3_open_v2(path, &s->conn, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_busy_timeout(s->conn, 200);
        rc = sqlite3_exec(s->conn, "PRAGMA cache_size=16; BEGIN; PRAGMA schema_version", NULL, NULL, NULL);
    }
    switch (rc) {
    case SQLITE_OK:
        return 0;
    case SQLITE_NOTADB:
        return err_set(e, ERR_NOT_DATABASE, "%s is not an SQLite database", s->db->name);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_CANTOPEN:
    case SQLITE_PROTOCOL:
        return err_set(e, ERR_AGAIN_LATER, "%s: %s", s->db->name, s->conn ? sqlite3_errmsg(s->conn) : sqlite3_errstr(rc));
    default:
        return err_set(e, -EIO, "%s: %s", s->db->name, s->conn ? sqlite3_errmsg(s->conn) : sqlite3_errstr(rc));
    }
}

static int read_header(struct scan *s, struct dbfile_header *h, off_t *size, struct err *e)
{
    uint8_t buf[DBFILE_HEADER_SIZE];
    struct stat st;
    if (fstat(s->db_fd, &st))
        return err_errno(e, errno, "stat %s", s->db->name);
    *size = st.st_size;
    if (st.st_size == 0) {
        *h = (struct dbfile_header){0};
        return 0;
    }
    ssize_t n = pread(s->db_fd, buf, sizeof buf, 0);
    if (n < 0)
        return err_errno(e, errno, "read %s", s->db->name);
    if (dbfile_header_decode(buf, (size_t)n, h))
        return err_set(e, ERR_NOT_DATABASE, "%s is not an SQLite database", s->db->name);
    return 0;
}

/* ---- checksums that were taken before ---- */

struct scan_given {
    struct filestamp file;
    uint32_t page_size, commit;
    uint64_t *sums;
};

static void given_free(struct scan_given *g)
{
    if (g)
        free(g->sums);
    free(g);
}

static struct scan_given *given_swap(struct database *db, struct scan_given *g)
{
    pthread_mutex_lock(&db->lock);
    struct scan_given *old = db->given;
    db->given = g;
    pthread_mutex_unlock(&db->lock);
    return old;
}

static struct filestamp stamp_of(int fd)
{
    struct stat st;
    return fstat(fd, &st) ? (struct filestamp){0} : filestamp_of(&st);
}

void scan_give(struct database *db, int fd, uint32_t page_size, uint32_t commit, uint64_t *sums)
{
    struct scan_given *g = calloc(1, sizeof *g);
    struct filestamp now = stamp_of(fd);
    if (wall_us() * 1000 < (uint64_t)now.mtime_ns + TICK_NS) /* a write that comes next might leave the same time behind */
        now.ino = 0;
    if (g)
        *g = (struct scan_given){.file = now, .page_size = page_size, .commit = commit, .sums = sums};
    else
        free(sums);
    given_free(given_swap(db, g));
}

void scan_forget_given(struct database *db)
{
    given_free(given_swap(db, NULL));
}

static bool take_given(struct scan *s, uint32_t pages, uint64_t *sums)
{
    struct scan_given *g = given_swap(s->db, NULL);
    struct filestamp now = stamp_of(s->db_fd);
    bool same = g && g->page_size == s->page_size && g->commit == pages && filestamp_same_contents(&g->file, &now);
    if (same)
        memcpy(sums, g->sums, (size_t)pages * sizeof *sums);
    given_free(g);
    return same;
}

/* Checksums of all pages as the database file has them now; a page cut off by the end of the file counts as zero-filled. */
static int sum_file(struct scan *s, uint32_t pages, uint64_t *sums, struct err *e)
{
    uint32_t per_chunk = SCAN_CHUNK / s->page_size, lock = lock_pgno(s->page_size);
    if (take_given(s, pages, sums))
        return 0;
    _cleanup_free_ uint8_t *buf = malloc(SCAN_CHUNK);
    if (!buf)
        return err_errno(e, ENOMEM, "scan");
    for (uint32_t p = 1; p <= pages; p += per_chunk) {
        uint32_t k = MIN(per_chunk, pages - p + 1);
        size_t want = (size_t)k * s->page_size, got = 0;
        while (got < want) {
            ssize_t n = pread(s->db_fd, buf + got, want - got, (off_t)(p - 1) * s->page_size + (off_t)got);
            if (n < 0)
                return err_errno(e, errno, "read %s", s->db->name);
            if (n == 0)
                break;
            got += (size_t)n;
        }
        memset(buf + got, 0, want - got);
        for (uint32_t i = 0; i < k; i++)
            sums[p + i - 1] = p + i == lock ? 0 : page_checksum(p + i, buf + (size_t)i * s->page_size, s->page_size);
    }
    return 0;
}

static int read_frame(struct scan *s, uint32_t frame, void *buf, struct err *e)
{
    off_t at = wal_frame_offset(frame, s->page_size) + (off_t)WAL_FRAME_HEADER_SIZE;
    ssize_t n = pread(s->view.wal_fd, buf, s->page_size, at);
    if (n != (ssize_t)s->page_size)
        return n < 0 ? err_errno(e, errno, "read frame %u of %s-wal", frame, s->db->name)
                     : err_set(e, ERR_AGAIN_LATER, "%s-wal ends before frame %u", s->db->name, frame);
    return 0;
}

static uint32_t newest_frame(struct scan *s, uint32_t pgno, struct err *e)
{
    if (s->view.index)
        return walindex_find(s->view.index, pgno, s->head.max_frame, e);
    return s->frame_of && pgno >= 1 && pgno <= s->head.page_count ? s->frame_of[pgno - 1] : 0;
}

/* Takes M. */
static int read_head(struct scan *s, struct err *e)
{
    if (s->view.index)
        return walindex_read(s->view.index, &s->head) ? err_set(e, ERR_AGAIN_LATER, "%s: wal-index in motion", s->db->name) : 0;
    struct walframes at = {0};
    struct dbstate nothing = {0};
    if (walframes_read(&s->view, &at, &nothing, &s->head) || s->head.page_size != s->page_size)
        return err_set(e, ERR_AGAIN_LATER, "%s-wal cannot be read now", s->db->name);
    s->frame_of = calloc(s->head.page_count ? s->head.page_count : 1, sizeof *s->frame_of);
    if (!s->frame_of)
        return err_errno(e, ENOMEM, "scan");
    for (uint32_t f = 1; f <= s->head.max_frame; f++) {
        uint8_t fh[WAL_FRAME_HEADER_SIZE];
        struct wal_frame_header h;
        if (pread(s->view.wal_fd, fh, sizeof fh, wal_frame_offset(f, s->page_size)) != (ssize_t)sizeof fh)
            return err_set(e, ERR_AGAIN_LATER, "%s-wal ends before frame %u", s->db->name, f);
        wal_frame_header_decode(fh, &h);
        if (h.pgno >= 1 && h.pgno <= s->head.page_count)
            s->frame_of[h.pgno - 1] = f;
    }
    return 0;
}

/* Puts the newest frame ≤ M of every page over what the database file said. */
static int sum_frames(struct scan *s, uint64_t *sums, struct err *e)
{
    _cleanup_free_ uint8_t *buf = malloc(s->page_size);
    if (!buf)
        return err_errno(e, ENOMEM, "scan");
    for (uint32_t f = 1; f <= s->head.max_frame; f++) {
        uint8_t fh[WAL_FRAME_HEADER_SIZE];
        struct wal_frame_header h;
        if (pread(s->view.wal_fd, fh, sizeof fh, wal_frame_offset(f, s->page_size)) != (ssize_t)sizeof fh)
            return err_set(e, ERR_AGAIN_LATER, "%s-wal ends before frame %u", s->db->name, f);
        wal_frame_header_decode(fh, &h);
        if (h.salt1 != s->head.salt1 || h.salt2 != s->head.salt2)
            return err_set(e, ERR_AGAIN_LATER, "%s-wal was restarted while it was being read", s->db->name);
        if (h.pgno < 1 || h.pgno > s->commit || h.pgno == lock_pgno(s->page_size))
            continue;
        uint32_t newest = newest_frame(s, h.pgno, e);
        if (newest == UINT32_MAX)
            return -EIO;
        if (newest != f)
            continue;
        int rc = read_frame(s, f, buf, e);
        if (rc)
            return rc;
        sums[h.pgno - 1] = page_checksum(h.pgno, buf, s->page_size);
    }
    return 0;
}

static int hold_wal(struct scan *s, struct err *e)
{
    int rc = walview_open(s->node, s->db, false, &s->view, e);
    if (rc)
        return rc;
    for (int i = 0; i < 200; i++) { /* who has it exclusively has it for microseconds */
        rc = walview_hold(&s->view);
        if (rc != -EAGAIN)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    if (rc)
        return err_set(e, ERR_AGAIN_LATER, "%s: the WAL is being restarted", s->db->name);
    return walindex_read(s->view.index, &s->head) ? err_set(e, ERR_AGAIN_LATER, "%s: wal-index in motion", s->db->name) : 0;
}

static int scan_wal(struct scan *s, struct scan_result *r, off_t size, struct err *e)
{
    int rc = 0;
    uint32_t in_file = (uint32_t)(size / s->page_size);
    uint64_t *sums = calloc(in_file ? in_file : 1, sizeof *sums);
    if (!sums)
        return err_errno(e, ENOMEM, "checksums of %u pages", in_file);
    r->sums = sums;
    rc = sum_file(s, in_file, sums, e);
    if (rc)
        return rc;
    rc = read_head(s, e);
    if (rc)
        return rc;
    s->commit = s->head.max_frame ? s->head.page_count : in_file;
    if (s->commit > in_file) {
        sums = realloc(sums, (size_t)s->commit * sizeof *sums);
        if (!sums)
            return err_errno(e, ENOMEM, "checksums of %u pages", s->commit);
        r->sums = sums;
        for (uint32_t p = in_file + 1; p <= s->commit; p++) {
            static const uint8_t zeros[65536];
            sums[p - 1] = p == lock_pgno(s->page_size) ? 0 : page_checksum(p, zeros, s->page_size);
        }
    }
    rc = sum_frames(s, sums, e);
    /* Nothing keeps a WAL without a wal-index from being restarted: then the file may hold later pages than those that were read. */
    if (!rc && !s->view.index && (walview_header(&s->view) || s->view.header.salt1 != s->head.salt1 || s->view.header.salt2 != s->head.salt2))
        rc = err_set(e, ERR_AGAIN_LATER, "%s-wal was restarted while it was being read", s->db->name);
    if (s->head.max_frame) {
        r->wal_salt1 = s->head.salt1;
        r->wal_salt2 = s->head.salt2;
        r->wal_frame = s->head.max_frame;
    }
    return rc;
}

/* ---- without a WAL: nothing is locked; what is read counts if nobody wrote meanwhile ---- */

struct stamp {
    struct filestamp file;
    uint8_t counter[4]; /* file change counter, SQLite file format §1.3.5 */
};

static int journal_is_live(struct scan *s)
{
    static const uint8_t magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
    char name[LAYOUT_NAME_MAX + sizeof LAYOUT_JOURNAL];
    uint8_t head[8];
    snprintf(name, sizeof name, "%s%s", s->db->name, LAYOUT_JOURNAL);
    _cleanup_fd_ int fd = openat(s->node->db_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return fd >= 0 && pread(fd, head, sizeof head, 0) == (ssize_t)sizeof head && !memcmp(head, magic, sizeof magic);
}

static bool wal_has_frames(struct scan *s)
{
    char name[LAYOUT_NAME_MAX + sizeof LAYOUT_WAL];
    struct stat st;
    snprintf(name, sizeof name, "%s%s", s->db->name, LAYOUT_WAL);
    return !fstatat(s->node->db_fd, name, &st, AT_SYMLINK_NOFOLLOW) && st.st_size > (off_t)WAL_HEADER_SIZE;
}

/* Who has it write-locked. 0: nobody; -1: it is not known who. */
static pid_t write_locker(struct scan *s, int64_t start, int64_t len)
{
    struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
    if (fcntl(s->lock_fd, F_OFD_GETLK, &l) || l.l_type == F_UNLCK)
        return 0;
    return l.l_pid > 0 ? l.l_pid : -1;
}

static bool write_locked(struct scan *s, int64_t start, int64_t len)
{
    return write_locker(s, start, len) != 0;
}

static uint64_t age_ns(int64_t t)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t age = now.tv_sec * 1000000000ll + now.tv_nsec - t;
    return age < 0 ? UINT64_MAX : (uint64_t)age; /* the clock was set back: no telling */
}

/* Waits until a write from now on gives the file a time that it does not have yet. */
static int wait_for_a_tick(struct scan *s)
{
    struct filestamp before = database_stamp(s->node->db_fd, s->db->name);
    uint64_t age;
    while (before.ino && (age = MIN(age_ns(before.mtime_ns), age_ns(before.ctime_ns))) < TICK_NS) {
        nanosleep(&(struct timespec){.tv_nsec = (long)(TICK_NS - age)}, NULL);
        struct filestamp now = database_stamp(s->node->db_fd, s->db->name);
        if (!filestamp_same(&before, &now))
            return ERR_AGAIN_LATER;
    }
    return before.ino ? 0 : -ENOENT;
}

static int stamp_file(struct scan *s, struct stamp *t, struct err *e)
{
    int wait = wait_for_a_tick(s);
    if (wait)
        return wait == ERR_AGAIN_LATER ? err_set(e, wait, "%s is being written", s->db->name) : err_set(e, wait, "%s is gone", s->db->name);
    t->file = database_stamp(s->node->db_fd, s->db->name);
    if (!t->file.ino)
        return err_set(e, -ENOENT, "%s is gone", s->db->name);
    if (pread(s->db_fd, t->counter, sizeof t->counter, 24) < 0)
        return err_errno(e, errno, "read %s", s->db->name);
    return 0;
}

/* A journal that is nobody's is hot: libsqlite3 rolls it back on a replica; on a primary the next run reads what it stands for. *going_on: there is
 * one, and it is somebody's. */
static int recover_if_hot(struct scan *s, bool *going_on, struct err *e)
{
    *going_on = false;
    if (!journal_is_live(s))
        return 0;
    *going_on = write_locked(s, DBLOCK_RESERVED, 1);
    if (*going_on)
        return 0;
    if (is_primary(s))
        return s->not_hot ? 0 : err_set(e, ERR_AGAIN_LATER, "%s has a hot journal now", s->db->name);
    int rc = recover_and_pin(s, e);
    sqlite3_close(s->conn);
    s->conn = NULL;
    return rc;
}

/* A writer that may touch the file has it locked: who? As write_locker. */
static pid_t writer(struct scan *s)
{
    pid_t pid = write_locker(s, DBLOCK_SHARED_FIRST, DBLOCK_SHARED_SIZE);
    return pid ? pid : write_locker(s, DBLOCK_PENDING, 1) ? -1 : 0;
}

/* Is what the file holds a committed state, although pid keeps it locked? (A database without a journal: fs/atrest.h.) Only if it was pid who synced it: other programs may at any
 * moment. */
static bool at_rest(const struct scan *s, const struct filestamp *now, pid_t pid)
{
    pthread_mutex_lock(&s->db->lock);
    struct filestamp known = s->db->capture ? s->db->capture->at_rest : (struct filestamp){0};
    pid_t tid = s->db->capture ? s->db->capture->at_rest_tid : 0;
    pthread_mutex_unlock(&s->db->lock);
    if (pid <= 0 || !known.ino || !filestamp_same_contents(&known, now))
        return false;
    char thread[64];
    snprintf(thread, sizeof thread, "/proc/%d/task/%d", pid, tid);
    return tid == pid || access(thread, F_OK) == 0;
}

/* Nobody is writing: no journal in use, no lock that a writer takes before it touches the file, or it rests under that lock. 0 and *t; ERR_AGAIN_LATER. */
static int quiet(struct scan *s, struct stamp *t, struct err *e)
{
    bool going_on;
    memset(t, 0, sizeof *t);
    int rc = recover_if_hot(s, &going_on, e);
    if (rc)
        return rc;
    if (going_on && s->lock == SCAN_FREE)
        return err_set(e, ERR_AGAIN_LATER, "%s: a transaction is going on", s->db->name);
    if (s->lock == SCAN_SHARED) /* whoever has RESERVED or PENDING has not written yet, and will not while we are here */
        return stamp_file(s, t, e);
    struct filestamp now = database_stamp(s->node->db_fd, s->db->name);
    pid_t pid = writer(s);
    if (wal_has_frames(s) || (pid && !at_rest(s, &now, pid)))
        return err_set(e, ERR_AGAIN_LATER, "%s is being written", s->db->name);
    rc = stamp_file(s, t, e);
    if (!rc && pid && !at_rest(s, &t->file, pid))
        rc = err_set(e, ERR_AGAIN_LATER, "%s is being written", s->db->name);
    return rc;
}

/* As a reader takes it (https://sqlite.org/lockingv3.html §3): no writer can be, or get, where it touches the file. Not when it is not needed any more: the end of a
 * long transaction, which kept us out so far, is captured before its locks go, and the application's next one must not meet ours. */
static int lock_shared(struct scan *s, struct err *e)
{
    for (unsigned i = 0; i < 200; i++) {
        if (s->needed && !s->needed(s->db))
            break;
        int rc = lock_range(s->lock_fd, F_RDLCK, DBLOCK_PENDING, 1);
        if (!rc) {
            rc = lock_range(s->lock_fd, F_RDLCK, DBLOCK_SHARED_FIRST, DBLOCK_SHARED_SIZE);
            (void)lock_range(s->lock_fd, F_UNLCK, DBLOCK_PENDING, 1);
        }
        if (rc && rc != -EAGAIN)
            return err_errno(e, -rc, "lock %s", s->db->name);
        if (!rc && (!s->needed || s->needed(s->db)))
            return 0;
        if (!rc)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    (void)lock_range(s->lock_fd, F_UNLCK, DBLOCK_SHARED_FIRST, DBLOCK_SHARED_SIZE);
    return err_set(e, ERR_AGAIN_LATER, "%s is being written", s->db->name);
}

/* Shorter than its header says, and somebody who has it open has just written to it: a program that copies a file into it, most likely, and not done yet. SQLite
 * leaves a file like that only while it holds a lock, and would call it malformed. */
static bool being_copied(const struct scan *s, const struct dbfile_header *h, const struct filestamp *file)
{
    pthread_mutex_lock(&s->db->lock);
    bool open = s->db->apps_open;
    pthread_mutex_unlock(&s->db->lock);
    return open && h->page_count_valid && (int64_t)h->page_count * h->page_size > file->size && wall_us() * 1000 < (uint64_t)file->mtime_ns + COPYING_NS;
}

static int scan_file(struct scan *s, struct scan_result *r, struct err *e)
{
    struct stamp before, after;
    struct dbfile_header h;
    off_t size;
    if (s->lock_fd < 0)
        s->lock_fd = openat(s->node->mount_fd, s->db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (s->lock_fd < 0)
        return err_errno(e, errno, "open %s", s->db->name);
    bool going_on;
    struct filestamp now = database_stamp(s->node->db_fd, s->db->name);
    if (s->lock == SCAN_SHARED && at_rest(s, &now, writer(s)))
        s->lock = SCAN_FREE;
    int rc = s->lock == SCAN_SHARED ? recover_if_hot(s, &going_on, e) : 0; /* which the lock would not let it do */
    if (!rc && s->lock == SCAN_SHARED)
        rc = lock_shared(s, e);
    if (!rc)
        rc = quiet(s, &before, e);
    if (!rc)
        rc = read_header(s, &h, &size, e);
    if (rc)
        return rc;
    if (h.page_size != s->page_size || size != before.file.size)
        return err_set(e, ERR_AGAIN_LATER, "%s is being written", s->db->name);
    if (being_copied(s, &h, &before.file))
        return err_set(e, ERR_AGAIN_LATER, "%s is shorter than its header says, and open: somebody may be copying it", s->db->name);
    s->commit = dbfile_pages(&h, before.file.size);
    r->sums = calloc(s->commit ? s->commit : 1, sizeof *r->sums);
    if (!r->sums)
        return err_errno(e, ENOMEM, "checksums of %u pages", s->commit);
    rc = sum_file(s, s->commit, r->sums, e);
    if (!rc)
        rc = quiet(s, &after, e);
    if (!rc && memcmp(&before, &after, sizeof before))
        rc = err_set(e, ERR_AGAIN_LATER, "%s was written while it was being read", s->db->name);
    r->file = after.file;
    return rc;
}

/* A WAL with frames: its wal-index says what they are. Without a valid one (nobody has it open) libsqlite3 makes it first, and its connection
 * stays open, so that the WAL is not taken away. */
static int scan_with_wal(struct scan *s, struct scan_result *r, struct err *e)
{
    struct dbfile_header h;
    off_t size;
    int rc = hold_wal(s, e);
    bool no_index = s->view.no_index;
    if (rc == ERR_AGAIN_LATER && (no_index || !is_primary(s))) {
        walview_close_held(&s->view);
        /* On a primary whoever opens it next must meet no lock of ours; and with locking_mode=EXCLUSIVE there is no wal-index to be had. */
        bool by_frames = no_index && is_primary(s);
        rc = by_frames ? ERR_AGAIN_LATER : recover_and_pin(s, e);
        if (rc == ERR_AGAIN_LATER && no_index) { /* the frames themselves tell */
            rc = walview_open_frames(s->node, s->db, &s->view, e) ? ERR_AGAIN_LATER : 0;
        } else if (!rc) {
            sqlite3_exec(s->conn, "COMMIT", NULL, NULL, NULL);
            rc = hold_wal(s, e);
        }
    }
    /* Only now: until it was held, a checkpoint may have made the file another one. */
    if (!rc)
        rc = read_header(s, &h, &size, e);
    if (!rc && h.page_size != s->page_size)
        rc = err_set(e, ERR_AGAIN_LATER, "%s has another page size now", s->db->name);
    return rc ? rc : scan_wal(s, r, size, e);
}

/* ---- with a hot journal, on a primary ---- */

static int find_leftover(struct scan *s, struct err *e)
{
    if (!is_primary(s) || !journal_is_live(s))
        return 0;
    s->lock_fd = openat(s->node->mount_fd, s->db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (s->lock_fd < 0)
        return err_errno(e, errno, "open %s", s->db->name);
    if (write_locked(s, DBLOCK_RESERVED, 1))
        return 0; /* a transaction is using it */
    int rc = leftover_journal(s->node, s->db->name, &s->left, e);
    s->not_hot = !rc && !s->left;
    s->resting = !rc && s->left && leftover_age_us(s->left) < JOURNAL_REST_US;
    if (s->resting) /* somebody may be copying it, and not be done */
        rc = err_set(e, ERR_AGAIN_LATER, "%s-journal was written a moment ago", s->db->name);
    return rc;
}

static int sum_leftover(void *ctx, uint32_t pgno, const void *page)
{
    struct scan_result *r = ctx;
    if (pgno <= r->commit)
        r->sums[pgno - 1] = pgno == lock_pgno(r->page_size) ? 0 : page_checksum(pgno, page, r->page_size);
    return 0;
}

static bool left_alone(struct scan *s)
{
    return !write_locked(s, DBLOCK_RESERVED, 1) && !write_locked(s, DBLOCK_PENDING, 1) &&
           !write_locked(s, DBLOCK_SHARED_FIRST, DBLOCK_SHARED_SIZE) && leftover_unchanged(s->left);
}

static int scan_left(struct scan *s, struct scan_result *r, struct err *e)
{
    struct filestamp before = database_stamp(s->node->db_fd, s->db->name);
    s->page_size = r->page_size = leftover_page_size(s->left);
    s->commit = r->commit = leftover_page_count(s->left);
    r->sums = calloc(s->commit ? s->commit : 1, sizeof *r->sums);
    if (!r->sums)
        return err_errno(e, ENOMEM, "checksums of %u pages", s->commit);
    int rc = sum_file(s, s->commit, r->sums, e);
    if (!rc)
        rc = leftover_each(s->left, sum_leftover, r, e);
    struct filestamp after = database_stamp(s->node->db_fd, s->db->name);
    if (!rc && (!left_alone(s) || !filestamp_same(&before, &after)))
        rc = err_set(e, ERR_AGAIN_LATER, "%s: somebody uses it again", s->db->name);
    struct dbfile_header h;
    _cleanup_free_ uint8_t *page = malloc(s->page_size);
    if (!rc && !page)
        rc = err_errno(e, ENOMEM, "scan");
    if (!rc && s->commit)
        rc = scan_page(s, 1, page, e);
    if (!rc && s->commit && dbfile_header_decode(page, s->page_size, &h))
        rc = err_set(e, ERR_NOT_DATABASE, "%s is not an SQLite database", s->db->name);
    r->wal_mode = !rc && s->commit && h.write_version == 2;
    return rc;
}

int scan_open(struct node *n, struct database *db, enum scan_lock lock, bool (*needed)(struct database *db), struct scan **out, struct scan_result *r,
              struct err *e)
{
    struct scan *s = calloc(1, sizeof *s);
    memset(r, 0, sizeof *r);
    if (!s)
        return err_errno(e, ENOMEM, "scan");
    *s = (struct scan){.node = n, .db = db, .db_fd = -1, .lock_fd = -1, .lock = lock, .needed = needed, .view = {.shm_fd = -1, .wal_fd = -1}};
    pthread_mutex_lock(&db->sqlite);
    struct dbfile_header h = {.page_size = 512};
    off_t size = 0;
    s->db_fd = openat(n->db_fd, db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int rc = s->db_fd < 0 ? err_errno(e, errno, "open %s", db->name) : read_header(s, &h, &size, e);
    if (size > 0 && (!rc || rc == ERR_NOT_DATABASE)) { /* with a hot journal what the file begins with does not count */
        int left = find_leftover(s, e);
        rc = left ? left : s->left ? 0 : rc;
    }
    if (rc)
        goto fail;
    if (size == 0) {
        r->checksum = CHECKSUM_FLAG;
        *out = s;
        return 0;
    }
    s->page_size = h.page_size;
    r->wal_mode = h.write_version == 2;
    s->wal = !s->left && h.write_version == 2 && wal_has_frames(s);
    rc = s->left ? scan_left(s, r, e) : s->wal ? scan_with_wal(s, r, e) : scan_file(s, r, e);
    if (rc)
        goto fail;
    r->wal_held = s->wal && s->view.index;
    r->page_size = s->page_size;
    r->commit = s->commit;
    r->checksum = 0;
    for (uint32_t i = 0; i < s->commit; i++)
        r->checksum ^= r->sums[i];
    r->checksum |= CHECKSUM_FLAG;
    *out = s;
    return 0;
fail:;
    bool resting = s->resting;
    scan_close(s);
    scan_result_free(r);
    r->resting = resting;
    return rc;
}

int scan_page(struct scan *s, uint32_t pgno, void *buf, struct err *e)
{
    if (s->wal && s->head.max_frame) {
        uint32_t f = newest_frame(s, pgno, e);
        if (f == UINT32_MAX)
            return -EIO;
        if (f)
            return read_frame(s, f, buf, e);
    }
    if (s->left) {
        int rc = leftover_page(s->left, pgno, buf, e);
        if (rc)
            return MIN(rc, 0);
    }
    ssize_t n = pread(s->db_fd, buf, s->page_size, (off_t)(pgno - 1) * s->page_size);
    if (n < 0)
        return err_errno(e, errno, "read page %u of %s", pgno, s->db->name);
    memset((uint8_t *)buf + n, 0, s->page_size - (size_t)n);
    return 0;
}

bool scan_in_flux(struct scan *s, uint32_t pgno, const struct dbstate *st)
{
    struct walindex_header now;
    if (!s->wal || !s->view.index || walindex_read(s->view.index, &now))
        return s->wal;
    bool same = st->wal_salt1 == s->head.salt1 && st->wal_salt2 == s->head.salt2;
    uint32_t common = same ? MIN(st->wal_frame, s->head.max_frame) : 0;
    uint32_t newest = walindex_find(s->view.index, pgno, now.max_frame, NULL);
    return newest > common;
}

void scan_close(struct scan *s)
{
    if (!s)
        return;
    /* libsqlite3 first: our closing would drop its locks. */
    sqlite3_close(s->conn);
    walview_close_held(&s->view);
    free(s->frame_of);
    leftover_close(s->left);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    if (s->db_fd >= 0)
        close(s->db_fd);
    pthread_mutex_unlock(&s->db->sqlite);
    free(s);
}

void scan_result_free(struct scan_result *r)
{
    free(r->sums);
    r->sums = NULL;
}
