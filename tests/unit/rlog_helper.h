/* What the tests of the log share: a temporary directory, records whose payload follows from their LSN, and
 * the check that a log holds exactly the records it should. */
#ifndef EDGEFS_TESTS_RLOG_HELPER_H
#define EDGEFS_TESTS_RLOG_HELPER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/util.h"
#include "replicator/log/rlog.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>

#define HELPER __attribute__((unused)) static
#define PATH_BUF 512

#define assert_ok(call)                                                                                      \
    do {                                                                                                     \
        int ok_rc = (call);                                                                                  \
        if (ok_rc != 0)                                                                                      \
            fail_msg("%s: %d, %s", #call, ok_rc, err.text);                                                  \
    } while (0)

static struct err err;
static char dir[128]; /* of the log; below a temporary directory */

HELPER void path_of(char *path, size_t size, const char *name)
{
    snprintf(path, size, "%s/%s", dir, name);
}

HELPER void remove_dir(const char *path)
{
    char name[600];
    DIR *d = opendir(path);
    struct dirent *de;
    if (!d)
        return;
    while ((de = readdir(d)) != NULL) {
        snprintf(name, sizeof name, "%s/%s", path, de->d_name);
        unlink(name);
    }
    closedir(d);
    rmdir(path);
}

HELPER int teardown(void **state)
{
    char copy[sizeof dir + 8];
    (void)state;
    snprintf(copy, sizeof copy, "%s-copy", dir); /* test_rlog_faults.c, should a check of it have failed */
    remove_dir(copy);
    remove_dir(dir);
    *strrchr(dir, '/') = '\0';
    return rmdir(dir);
}

HELPER struct rlog *open_log(uint64_t segment_size)
{
    struct rlog_options o = {.segment_size = segment_size};
    struct rlog *l = NULL;
    assert_ok(rlog_open(dir, &o, &l, &err));
    return l;
}

#define PAYLOAD_PERIOD 65536u

/* PAYLOAD_PERIOD bytes of the endless payload of record lsn from byte `from` on. */
HELPER const uint8_t *payload_at(uint64_t lsn, uint64_t from)
{
    static uint8_t table[2 * PAYLOAD_PERIOD];
    if (!table[1]) /* filled by setup(), before there are threads */
        for (uint32_t i = 0; i < sizeof table; i++)
            table[i] = (uint8_t)((i % PAYLOAD_PERIOD) * 2654435761u >> 24);
    return table + (from + lsn * 977) % PAYLOAD_PERIOD;
}

HELPER void payload_fill(uint64_t lsn, uint64_t from, uint8_t *p, size_t n)
{
    for (size_t k; n > 0; n -= k, p += k, from += k) {
        k = MIN(n, (size_t)PAYLOAD_PERIOD);
        memcpy(p, payload_at(lsn, from), k);
    }
}

HELPER bool payload_is(uint64_t lsn, uint64_t from, const uint8_t *p, size_t n)
{
    for (size_t k; n > 0; n -= k, p += k, from += k) {
        k = MIN(n, (size_t)PAYLOAD_PERIOD);
        if (memcmp(p, payload_at(lsn, from), k) != 0)
            return false;
    }
    return true;
}

HELPER int setup(void **state)
{
    const char *tmp = getenv("TMPDIR");
    char base[100];
    (void)state;
    snprintf(base, sizeof base, "%s/edgefs-rlog.XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(base))
        return -1;
    snprintf(dir, sizeof dir, "%s/log", base);
    (void)payload_at(0, 0);
    return 0;
}

HELPER struct record_head head_for(uint64_t epoch, uint64_t lsn)
{
    struct record_head h = {
        .type = RECORD_TX, .flags = (uint8_t)(lsn & 3), .pos = {epoch, lsn}, .timestamp = 1000000 + lsn};
    h.name_len = (uint16_t)snprintf(h.name, sizeof h.name, "dir/db%u", (unsigned)(lsn % 7));
    return h;
}

/* Appends record lsn with len bytes of payload, in pieces. Returns the first error. */
HELPER int try_append(struct rlog *l, uint64_t epoch, uint64_t lsn, size_t len)
{
    uint8_t piece[50000];
    struct record_head h = head_for(epoch, lsn);
    int rc = rlog_begin(l, &h, &err);
    for (size_t at = 0; rc == 0 && at < len;) {
        size_t n = MIN(sizeof piece, len - at);
        payload_fill(lsn, at, piece, n);
        rc = rlog_write(l, piece, n, &err);
        at += n;
    }
    if (rc == 0)
        rc = rlog_commit(l, &err);
    return rc;
}

HELPER void append(struct rlog *l, uint64_t lsn, size_t len)
{
    int rc = try_append(l, 1, lsn, len);
    if (rc != 0)
        fail_msg("append %" PRIu64 ": %d, %s", lsn, rc, err.text);
}

/* Checks the payload of h at offset in fd. */
HELPER bool payload_matches(int fd, int64_t offset, const struct record_head *h)
{
    uint8_t buf[65536];
    for (uint64_t at = 0; at < h->payload_len;) {
        size_t n = MIN(sizeof buf, h->payload_len - at);
        if (pread(fd, buf, n, offset + (int64_t)at) != (ssize_t)n || !payload_is(h->pos.lsn, at, buf, n))
            return false;
        at += n;
    }
    return true;
}

/* Reads records first..last one by one and then finds the end. */
HELPER void check_next(struct rlog *l, uint64_t first, uint64_t last)
{
    struct rlog_cursor c = {0};
    struct record_head h;
    int64_t offset;
    assert_ok(rlog_seek(l, first, &c, &err));
    for (uint64_t lsn = first; lsn <= last; lsn++) {
        int rc = rlog_next(l, &c, &h, &offset, &err);
        if (rc != 1)
            fail_msg("record %" PRIu64 ": %d, %s", lsn, rc, rc < 0 ? err.text : "the end");
        struct record_head want = head_for(h.pos.epoch, lsn);
        assert_int_equal(h.pos.lsn, lsn);
        assert_int_equal(h.flags, want.flags);
        assert_int_equal(h.timestamp, want.timestamp);
        assert_string_equal(h.name, want.name);
        assert_true(payload_matches(c.fd, offset, &h));
    }
    assert_int_equal(rlog_next(l, &c, &h, &offset, &err), 0);
    rlog_cursor_close(&c);
}

/* The same by ranges of at most max bytes. */
HELPER void check_spans(struct rlog *l, uint64_t first, uint64_t last, uint64_t max)
{
    struct rlog_cursor c = {0};
    uint64_t lsn = first, upto;
    int64_t offset, length;
    assert_ok(rlog_seek(l, first, &c, &err));
    while (lsn <= last) {
        int rc = rlog_span(l, &c, max, &offset, &length, &upto, &err);
        if (rc != 1)
            fail_msg("range from %" PRIu64 ": %d, %s", lsn, rc, rc < 0 ? err.text : "the end");
        int64_t end = offset + length;
        for (int n = 0; offset < end; n++, lsn++) {
            uint8_t head[RECORD_HEAD_MAX];
            struct record_head h;
            ssize_t k = pread(c.fd, head, (size_t)MIN((int64_t)sizeof head, end - offset), offset);
            long size = record_head_decode(head, (size_t)k, &h);
            assert_true(size > 0);
            assert_int_equal(h.pos.lsn, lsn);
            assert_true(payload_matches(c.fd, offset + size, &h));
            offset += size + (int64_t)h.payload_len;
            assert_true(n == 0 || (uint64_t)length <= max);
        }
        assert_int_equal(offset, end);
        assert_int_equal(upto, lsn - 1);
    }
    assert_int_equal(lsn, last + 1);
    assert_int_equal(rlog_span(l, &c, max, &offset, &length, &upto, &err), 0);
    rlog_cursor_close(&c);
}

/* The log holds exactly first..last, and every way of reading says so. */
HELPER void check_log(struct rlog *l, uint64_t first, uint64_t last)
{
    assert_int_equal(rlog_last(l).lsn, last);
    assert_int_equal(rlog_first(l), first);
    check_next(l, first, last);
    check_spans(l, first, last, 1);
    check_spans(l, first, last, 100000);
}

/* Names of the segments, ascending; returns how many. */
HELPER size_t list_segments(const char *path, char names[][32], size_t room)
{
    struct dirent **list;
    size_t n = 0;
    int all = scandir(path, &list, NULL, alphasort);
    assert_true(all >= 0);
    for (int i = 0; i < all; i++) {
        if (strlen(list[i]->d_name) == 20 && strcmp(list[i]->d_name + 16, ".log") == 0) {
            assert_true(n < room);
            snprintf(names[n++], 32, "%.31s", list[i]->d_name);
        }
        free(list[i]);
    }
    free(list);
    return n;
}

HELPER int64_t size_of(const char *name)
{
    char path[PATH_BUF];
    struct stat st;
    path_of(path, sizeof path, name);
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

HELPER uint8_t *load_file(const char *name, size_t *n)
{
    char path[PATH_BUF];
    path_of(path, sizeof path, name);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    *n = (size_t)lseek(fd, 0, SEEK_END);
    uint8_t *p = malloc(*n + 1);
    assert_int_equal(pread(fd, p, *n, 0), *n);
    close(fd);
    return p;
}

HELPER void store_file(const char *name, const void *p, size_t n)
{
    char path[PATH_BUF];
    path_of(path, sizeof path, name);
    unlink(path);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, p, n), n);
    close(fd);
}

#endif
