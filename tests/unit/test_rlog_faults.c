/* The fault matrix of the log: one story (appends of all sizes, syncs, trims, a reset, a reopening) is told
 * again and again, and each time the Nth call of one system call fails: once, or until it is allowed again;
 * with an error, or after half of a write. Whatever fails, the log is as before the operation, can be read,
 * is found so by somebody who opens a copy of the directory (a crash at that moment), and the operation
 * succeeds when it is repeated. */
#include "tests/unit/rlog_helper.h"

#include "lib/log.h"
#include "replicator/log/rlog_private.h"

enum call {
    CALL_OPEN,
    CALL_PWRITE,
    CALL_ALLOCATE,
    CALL_TRUNCATE,
    CALL_SYNC_DATA,
    CALL_SYNC_ALL,
    CALL_UNLINK,
    CALLS
};

static struct {
    enum call which;
    int nth;      /* of these calls, from 1; 0: none fails */
    bool lasting; /* … and all after it */
    bool half;    /* of a write: half of it is done first */
    int error;
    int count;
    bool hit;
} fault;

static bool fails(enum call which)
{
    if (which != fault.which || fault.nth == 0 ||
        (++fault.count != fault.nth && !(fault.lasting && fault.count > fault.nth)))
        return false;
    fault.hit = true;
    errno = fault.error;
    return true;
}

static int f_open(int dirfd, const char *name, int flags, mode_t mode)
{
    return fails(CALL_OPEN) ? -1 : rlog_io_system.open_at(dirfd, name, flags, mode);
}
static ssize_t f_pwrite(int fd, const void *p, size_t n, off_t offset)
{
    if (!fails(CALL_PWRITE))
        return rlog_io_system.pwrite_at(fd, p, n, offset);
    if (fault.half && n > 1) { /* a disk that fills up: the rest of this write fails */
        fault.nth = fault.count + 1;
        fault.half = false;
        return rlog_io_system.pwrite_at(fd, p, n / 2, offset);
    }
    errno = fault.error;
    return -1;
}
static int f_allocate(int fd, int mode, off_t offset, off_t len)
{
    return fails(CALL_ALLOCATE) ? -1 : rlog_io_system.allocate(fd, mode, offset, len);
}
static int f_truncate(int fd, off_t size)
{
    return fails(CALL_TRUNCATE) ? -1 : rlog_io_system.truncate_to(fd, size);
}
/* Nobody cuts the power here: what does not fail need not take as long as the disk does. */
static int f_sync_data(int fd)
{
    (void)fd;
    return fails(CALL_SYNC_DATA) ? -1 : 0;
}
static int f_sync_all(int fd)
{
    (void)fd;
    return fails(CALL_SYNC_ALL) ? -1 : 0;
}
static int f_unlink(int dirfd, const char *name, int flags)
{
    return fails(CALL_UNLINK) ? -1 : rlog_io_system.unlink_at(dirfd, name, flags);
}

static const struct rlog_io faulty = {
    .open_at = f_open,
    .pwrite_at = f_pwrite,
    .allocate = f_allocate,
    .truncate_to = f_truncate,
    .sync_data = f_sync_data,
    .sync_all = f_sync_all,
    .unlink_at = f_unlink,
};

/* ---- the story ---- */

static const struct rlog_options options = {.segment_size = 256 << 10, .retention_bytes = 400000};

/* What the log must be like. */
static struct {
    struct rlog *l;
    uint64_t epoch, first, last; /* first: lowest LSN that may be kept */
} now;

static void copy_dir(const char *to)
{
    struct dirent *de;
    DIR *d = opendir(dir);
    assert_non_null(d);
    remove_dir(to);
    assert_int_equal(mkdir(to, 0700), 0);
    while ((de = readdir(d)) != NULL) {
        char path[600];
        struct stat st;
        size_t n;
        if (de->d_name[0] == '.')
            continue;
        uint8_t *p = load_file(de->d_name, &n);
        path_of(path, sizeof path, de->d_name);
        assert_int_equal(stat(path, &st), 0);
        snprintf(path, sizeof path, "%s/%s", to, de->d_name);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, st.st_mode & 07777);
        assert_int_equal(pwrite(fd, p, n, 0), n);
        close(fd);
        free(p);
    }
    closedir(d);
}

/* Opens a copy of the directory, as after a crash of the process. in_reset: the copy must stand where this
 * log does. */
static void check_crash(bool in_reset)
{
    char copy[256];
    struct rlog *l;
    snprintf(copy, sizeof copy, "%s-copy", dir);
    copy_dir(copy);
    assert_ok(rlog_open(copy, &options, &l, &err));
    struct position last = rlog_last(l);
    if (in_reset)
        now.last = rlog_last(now.l).lsn; /* of before, or of after it */
    check_log(l, rlog_first(l), now.last);
    assert_ok(try_append(l, last.epoch + 1, last.lsn + 1, 70000));
    check_log(l, rlog_first(l), last.lsn + 1);
    rlog_close(l);
    remove_dir(copy);
}

static void check_now(bool crash)
{
    typeof(fault) saved = fault;
    fault.nth = 0;
    if (now.l) {
        uint64_t first = rlog_first(now.l);
        assert_true(first >= now.first && first <= now.last + 1);
        check_log(now.l, first, now.last);
        assert_true(rlog_durable(now.l) <= now.last);
    }
    if (crash)
        check_crash(false);
    fault = saved;
}

/* Runs op until it succeeds; after each failure the log is checked. A lasting fault is met twice, then
 * lifted. */
static void persist(int (*op)(uint64_t arg), uint64_t arg)
{
    for (int tries = 0; op(arg) != 0; tries++) {
        assert_true(fault.hit);
        assert_true(tries < 4);
        assert_true(err.text[0] != '\0');
        check_now(true);
        if (tries == 1)
            fault.nth = 0;
    }
}

static int op_open(uint64_t arg)
{
    (void)arg;
    return rlog_open(dir, &options, &now.l, &err);
}

/* Behind the last record there is nothing but zeros, whatever was tried before. */
static void check_tail(void)
{
    const struct rlog_segment *s = rlog_newest(now.l);
    char name[RLOG_SEGMENT_NAME_SIZE];
    size_t n;
    rlog_segment_name(s->first, name);
    uint8_t *file = load_file(name, &n);
    for (size_t i = (size_t)s->end; i < n; i++)
        if (file[i] != 0)
            fail_msg("byte %zu behind the last record is %02x", i - (size_t)s->end, file[i]);
    free(file);
}

static int op_append(uint64_t len)
{
    int rc = try_append(now.l, now.epoch, now.last + 1, len);
    now.last += rc == 0;
    if (rc == 0)
        check_tail();
    return rc;
}

/* A large record is given up; what cannot be cleared away then is the next append's to clear away. */
static int op_give_up(uint64_t len)
{
    static const uint8_t junk[100000] = {[0 ... 99999] = 0xaa};
    struct record_head h = head_for(now.epoch, now.last + 1);
    int rc = rlog_begin(now.l, &h, &err);
    for (uint64_t at = 0; rc == 0 && at < len; at += sizeof junk)
        rc = rlog_write(now.l, junk, sizeof junk, &err);
    rlog_abort(now.l);
    return rc;
}

static int op_sync(uint64_t arg)
{
    (void)arg;
    uint64_t before = rlog_durable(now.l);
    int rc = rlog_sync(now.l, &err);
    assert_true(rlog_durable(now.l) >= before);
    if (rc == 0)
        assert_int_equal(rlog_durable(now.l), now.last);
    else
        assert_non_null(strstr(err.text, dir)); /* names the file, or the directory */
    return rc;
}

static int op_trim(uint64_t keep_from)
{
    return rlog_trim(now.l, keep_from, &err);
}

static int op_reset(uint64_t lsn)
{
    struct position pos = {now.epoch + 1, lsn};
    int rc = rlog_reset(now.l, pos, &err);
    typeof(fault) saved = fault;
    fault.nth = 0;
    check_crash(true);
    fault = saved;
    if (rc != 0)
        return rc;
    now.epoch++;
    now.last = lsn;
    now.first = lsn + 1;
    return 0;
}

/* A reset that failed half-way leaves an empty log, which is not what check_now expects: so it has its own
 * loop. */
static void persist_reset(uint64_t lsn)
{
    for (int tries = 0; op_reset(lsn) != 0; tries++) {
        assert_true(fault.hit && tries < 4);
        if (tries == 1)
            fault.nth = 0;
    }
}

static void tell(void)
{
    static const uint32_t before[] = {100, 1000,   300000, 50, 200000, 700000,
                                      10,  100000, 100000, 0,  262144, 5000};
    static const uint32_t after[] = {10, 400000, 70, 250000, 33};
    now.l = NULL;
    now.epoch = 1;
    now.first = 1;
    now.last = 0;
    persist(op_open, 0);
    for (size_t i = 0; i < ARRAY_SIZE(before); i++) {
        if (i % 3 == 1)
            persist(op_give_up, 400000);
        persist(op_append, before[i]);
        if (i % 4 == 2)
            persist(op_sync, 0);
        if (i == 9)
            persist(op_trim, 6);
    }
    check_now(true);
    rlog_close(now.l);
    now.l = NULL;
    persist(op_open, 0);
    check_now(false);
    persist(op_append, 12345);
    persist_reset(40);
    for (size_t i = 0; i < ARRAY_SIZE(after); i++)
        persist(op_append, after[i]);
    persist(op_sync, 0);
    persist(op_trim, UINT64_MAX);
    rlog_close(now.l);
    fault.nth = 0;
    now.l = NULL;
    persist(op_open, 0);
    check_now(true);
    rlog_close(now.l);
    now.l = NULL;
}

static void matrix(enum call which, bool lasting, bool half, int error)
{
    for (int nth = 1;; nth++) {
        remove_dir(dir);
        memset(&fault, 0, sizeof fault);
        fault.which = which;
        fault.nth = nth;
        fault.lasting = lasting;
        fault.half = half;
        fault.error = error;
        tell();
        if (!fault.hit) {
            assert_true(nth > 1);
            return;
        }
    }
}

static void any_open_may_fail(void **state)
{
    (void)state;
    matrix(CALL_OPEN, false, false, EMFILE);
    matrix(CALL_OPEN, true, false, EMFILE);
}
static void any_write_may_fail(void **state)
{
    (void)state;
    matrix(CALL_PWRITE, false, false, EIO);
    matrix(CALL_PWRITE, true, false, ENOSPC);
}
static void any_write_may_be_half_done(void **state)
{
    (void)state;
    matrix(CALL_PWRITE, false, true, ENOSPC);
    matrix(CALL_PWRITE, true, true, ENOSPC);
}
static void any_allocation_may_fail(void **state)
{
    (void)state;
    matrix(CALL_ALLOCATE, false, false, ENOSPC);
    matrix(CALL_ALLOCATE, true, false, EOPNOTSUPP);
}
static void any_truncation_may_fail(void **state)
{
    (void)state;
    matrix(CALL_TRUNCATE, false, false, EIO);
    matrix(CALL_TRUNCATE, true, false, EIO);
}
static void any_fdatasync_may_fail(void **state)
{
    (void)state;
    matrix(CALL_SYNC_DATA, false, false, EIO);
    matrix(CALL_SYNC_DATA, true, false, EIO);
}
static void any_sync_of_the_directory_may_fail(void **state)
{
    (void)state;
    matrix(CALL_SYNC_ALL, false, false, EIO);
    matrix(CALL_SYNC_ALL, true, false, EIO);
}
static void any_unlink_may_fail(void **state)
{
    (void)state;
    matrix(CALL_UNLINK, false, false, EIO);
    matrix(CALL_UNLINK, true, false, EROFS);
}

/* The kernel says so once, drops the pages, and says 0 the next time: that must not be believed. */
static bool lose_pages;
static int lossy_sync(int fd)
{
    if (!lose_pages)
        return rlog_io_system.sync_data(fd);
    lose_pages = false;
    off_t size = lseek(fd, 0, SEEK_END);
    for (off_t at = 0; at < size; at += 4096) /* what the disk has: nothing of it */
        assert_int_equal(pwrite(fd, (char[4096]){0}, (size_t)MIN(4096, size - at), at), MIN(4096, size - at));
    errno = EIO;
    return -1;
}

static void records_that_the_disk_lost_are_never_called_durable(void **state)
{
    (void)state;
    struct rlog_io io = rlog_io_system;
    io.sync_data = lossy_sync;
    struct rlog *l = open_log(1 << 20);
    append(l, 1, 1000);
    append(l, 2, 1000);
    rlog_io = &io;
    lose_pages = true;
    assert_int_equal(rlog_sync(l, &err), -EIO);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(rlog_sync(l, &err), ERR_CORRUPT);
        assert_non_null(strstr(err.text, "0000000000000001.log: offset 0: "));
        assert_int_equal(rlog_durable(l), 0);
    }
    rlog_close(l);
    l = open_log(1 << 20);
    assert_int_equal(rlog_last(l).lsn, 0);
    append(l, 1, 1000);
    rlog_close(l);
    rlog_io = &faulty;
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(any_open_may_fail),
        T(any_write_may_fail),
        T(any_write_may_be_half_done),
        T(any_allocation_may_fail),
        T(any_truncation_may_fail),
        T(any_fdatasync_may_fail),
        T(any_sync_of_the_directory_may_fail),
        T(any_unlink_may_fail),
        T(records_that_the_disk_lost_are_never_called_durable),
    };
    log_init("test", NULL, LOG_LEVEL_ERROR);
    rlog_io = &faulty;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
