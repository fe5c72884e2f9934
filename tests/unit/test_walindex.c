/* The wal-index on files of our own: layout, torn and damaged headers, growth, locks. With SQLite: test_walindex_sqlite.c. */
#include "lib/util.h"
#include "lib/walindex.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmocka.h>

#define REGION 32768

static char path[] = "/tmp/test_walindex.XXXXXX";

static int setup(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
    (void)state;
    return unlink(path);
}

static int make_shm(off_t size)
{
    int fd = open(path, O_RDWR | O_TRUNC | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    return fd;
}

static const struct walindex_header sample = {
    .version = 3007000,
    .change = 0x01020304,
    .initialized = true,
    .page_size = 4096,
    .max_frame = 0x11121314,
    .page_count = 0x21222324,
    .frame_cksum = {0x31323334, 0x41424344},
    .salt1 = 0x51525354,
    .salt2 = 0x61626364,
};

static void header_lies_where_the_format_says(void **state)
{
    (void)state;
    struct walindex *w;
    struct walindex_header h;
    uint8_t p[96];
    uint32_t word, sum[2];
    uint16_t half;
    const uint32_t zero[2] = {0, 0};
    int fd = make_shm(REGION);
    assert_int_equal(walindex_open(fd, true, &w, NULL), 0);
    walindex_publish(w, &sample);
    assert_int_equal(pread(fd, p, sizeof p, 0), sizeof p);
    assert_memory_equal(p, p + 48, 48);
    const struct {
        size_t at;
        uint32_t want;
    } words[] = {{0, 3007000},     {4, 0},          {8, 0x01020304},  {16, 0x11121314},
                 {20, 0x21222324}, {24, 0x31323334}, {28, 0x41424344}, {32, htobe32(0x51525354)},
                 {36, htobe32(0x61626364)}};
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        memcpy(&word, p + words[i].at, 4);
        assert_int_equal(word, words[i].want);
    }
    assert_int_equal(p[12], 1);
    assert_int_equal(p[13], 0);
    memcpy(&half, p + 14, 2);
    assert_int_equal(half, 4096);
    wal_checksum(__BYTE_ORDER == __BIG_ENDIAN, p, 40, zero, sum);
    assert_memory_equal(p + 40, sum, 8);
    for (uint32_t size = 512; size <= 65536; size *= 2) {
        struct walindex_header set = sample;
        set.page_size = size;
        set.big_endian_cksum = size & 1024;
        walindex_publish(w, &set);
        assert_int_equal(pread(fd, &half, 2, 14), 2);
        assert_int_equal(half, size == 65536 ? 1 : size);
        assert_int_equal(walindex_read(w, &h), 0);
        assert_true(h.page_size == size && h.big_endian_cksum == set.big_endian_cksum && h.version == 3007000 &&
                    h.change == sample.change && h.initialized && h.max_frame == sample.max_frame &&
                    h.page_count == sample.page_count && h.frame_cksum[0] == 0x31323334 &&
                    h.frame_cksum[1] == 0x41424344 && h.salt1 == sample.salt1 && h.salt2 == sample.salt2);
    }
    static const uint32_t info[6] = {77, 1, 2, 3, 4, 5};
    assert_int_equal(pwrite(fd, info, sizeof info, 96), sizeof info);
    assert_int_equal(walindex_backfilled(w), 77);
    for (int i = 0; i < WALINDEX_N_READERS; i++)
        assert_int_equal(walindex_read_mark(w, i), i + 1);
    walindex_close(w);
    close(fd);
}

static void flip(int fd, size_t bit)
{
    uint8_t byte;
    assert_int_equal(pread(fd, &byte, 1, (off_t)(bit / 8)), 1);
    byte ^= (uint8_t)(1 << bit % 8);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)(bit / 8)), 1);
}

static void torn_or_damaged_header_is_not_taken(void **state)
{
    (void)state;
    struct walindex *w;
    struct walindex_header h = {.change = 99};
    int fd = make_shm(REGION);
    assert_int_equal(walindex_open(fd, false, &w, NULL), 0);
    assert_int_equal(walindex_read(w, &h), ERR_AGAIN_LATER); /* all zero */
    walindex_close(w);
    assert_int_equal(walindex_open(fd, true, &w, NULL), 0);
    walindex_publish(w, &sample);
    for (size_t bit = 0; bit < 48 * 8; bit++) {
        flip(fd, bit);
        assert_int_equal(walindex_read(w, &h), ERR_AGAIN_LATER); /* one copy: torn */
        flip(fd, bit + 48 * 8);
        int want = bit == 12 * 8 ? ERR_AGAIN_LATER : ERR_CORRUPT; /* bit of isInit */
        assert_int_equal(walindex_read(w, &h), want);
        flip(fd, bit);
        assert_int_equal(walindex_read(w, &h), ERR_AGAIN_LATER);
        flip(fd, bit + 48 * 8);
    }
    assert_int_equal(h.change, 99);
    assert_int_equal(walindex_read(w, &h), 0);

    uint32_t words[12], sum[2];
    const uint32_t zero[2] = {0, 0};
    assert_int_equal(pread(fd, words, sizeof words, 0), sizeof words);
    words[0]++; /* another version, checksum right */
    wal_checksum(__BYTE_ORDER == __BIG_ENDIAN, words, 40, zero, sum);
    memcpy(words + 10, sum, sizeof sum);
    assert_int_equal(pwrite(fd, words, sizeof words, 0), sizeof words);
    assert_int_equal(pwrite(fd, words, sizeof words, 48), sizeof words);
    assert_int_equal(walindex_read(w, &h), ERR_CORRUPT);
    struct walindex_header set = sample;
    set.page_size = 0;
    walindex_publish(w, &set);
    assert_int_equal(walindex_read(w, &h), ERR_CORRUPT); /* frames, but no page size */
    set.max_frame = 0;
    walindex_publish(w, &set);
    assert_int_equal(walindex_read(w, &h), 0); /* as recovery of an empty WAL leaves it */
    walindex_close(w);
    close(fd);
}

/* A writer that dies while it publishes has written, of 24 words, the first n: of the second copy, then of the first. */
static void header_of_a_writer_that_died_is_mended(void **state)
{
    (void)state;
    struct walindex *w;
    struct walindex_header h, next = sample;
    uint32_t old[12], new[12];
    int fd = make_shm(REGION);
    assert_int_equal(walindex_open(fd, true, &w, NULL), 0);
    assert_int_equal(walindex_repair(w, NULL), ERR_CORRUPT); /* never initialized */
    next.change++;
    next.max_frame += 5;
    next.frame_cksum[0] ^= 0xffff;
    walindex_publish(w, &next);
    assert_int_equal(pread(fd, new, sizeof new, 0), sizeof new);
    walindex_publish(w, &sample);
    assert_int_equal(pread(fd, old, sizeof old, 0), sizeof old);
    for (size_t n = 0; n <= 24; n++) {
        uint32_t words[24];
        memcpy(words, old, sizeof old);
        memcpy(words + 12, old, sizeof old);
        memcpy(words + 12, new, MIN(n, 12) * 4);
        memcpy(words, new, n < 12 ? 0 : (n - 12) * 4);
        assert_int_equal(pwrite(fd, words, sizeof words, 0), sizeof words);
        assert_int_equal(walindex_repair(w, NULL), 0);
        assert_int_equal(walindex_read(w, &h), 0);
        assert_int_equal(h.change, n < 12 ? sample.change : next.change);
        assert_int_equal(h.max_frame, n < 12 ? sample.max_frame : next.max_frame);
    }
    flip(fd, 100);
    flip(fd, 48 * 8 + 100);
    assert_int_equal(walindex_repair(w, NULL), ERR_CORRUPT);
    walindex_close(w);
    close(fd);
}

static void file_that_is_too_short_is_for_later(void **state)
{
    (void)state;
    static const off_t sizes[] = {0, 1, 136, 4096, REGION - 1};
    struct walindex *w;
    struct err e;
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        int fd = make_shm(sizes[i]);
        assert_int_equal(walindex_open(fd, true, &w, &e), ERR_AGAIN_LATER);
        assert_int_equal(walindex_open(fd, false, &w, &e), ERR_AGAIN_LATER);
        close(fd);
    }
    int fd = make_shm(REGION);
    assert_int_equal(walindex_open(fd, false, &w, &e), 0);
    assert_true(walindex_find(w, 1, 4063, &e) == UINT32_MAX); /* the second region is not there */
    assert_int_equal(e.code, ERR_AGAIN_LATER);
    assert_int_equal(ftruncate(fd, 2 * REGION), 0);
    assert_int_equal(walindex_find(w, 1, 4063, &e), 0);
    walindex_close(w);
    close(fd);
}

static void file_grows_by_whole_regions_or_says_why_not(void **state)
{
    (void)state;
    struct walindex *w;
    struct err e;
    struct stat st;
    struct rlimit old, low = {.rlim_cur = REGION + 5000, .rlim_max = RLIM_INFINITY};
    int fd = make_shm(REGION);
    assert_int_equal(walindex_open(fd, true, &w, NULL), 0);
    for (uint32_t frame = 1; frame <= 4062; frame++)
        assert_int_equal(walindex_append(w, frame, frame % 50 + 1, NULL), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, REGION);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low.rlim_max = old.rlim_max;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    int rc = walindex_append(w, 4063, 7, &e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(rc, -EFBIG);
    assert_int_equal(walindex_append(w, 4063, 7, &e), 0); /* goes on when there is room */
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 2 * REGION);
    assert_true(st.st_blocks * 512 >= REGION); /* no hole */
    assert_int_equal(walindex_find(w, 7, 4063, NULL), 4063);
    assert_int_equal(walindex_find(w, 7, 4062, NULL), 4056);
    walindex_close(w);
    close(fd);
}

static void bad_appends_and_damaged_tables_are_errors(void **state)
{
    (void)state;
    struct walindex *w;
    struct err e;
    int fd = make_shm(REGION);
    assert_int_equal(walindex_open(fd, true, &w, NULL), 0);
    assert_int_equal(walindex_append(w, 0, 1, &e), -EINVAL);
    assert_int_equal(walindex_append(w, 1, 0, &e), -EINVAL);
    assert_int_equal(walindex_append(w, 2, 1, &e), ERR_CORRUPT); /* frame 1 is missing */
    assert_int_equal(walindex_append(w, 1, 1, &e), 0);
    assert_int_equal(walindex_append(w, 3, 1, &e), ERR_CORRUPT);
    assert_int_equal(walindex_append(w, 2, 1, &e), 0);
    assert_int_equal(walindex_find(w, 1, 1, &e), 1);
    assert_int_equal(walindex_find(w, 1, 2, &e), 2);
    uint16_t full[8192];
    for (size_t i = 0; i < ARRAY_SIZE(full); i++)
        full[i] = UINT16_MAX;
    assert_int_equal(pwrite(fd, full, sizeof full, REGION - (off_t)sizeof full), sizeof full);
    assert_true(walindex_find(w, 1, 2, &e) == UINT32_MAX);
    assert_int_equal(e.code, ERR_CORRUPT);
    assert_int_equal(walindex_append(w, 3, 1, &e), ERR_CORRUPT);
    walindex_cleanup(w, 2); /* throws out what cannot be */
    assert_int_equal(walindex_append(w, 3, 1, &e), 0);
    walindex_close(w);
    walindex_close(NULL);
    close(fd);
}

/* Header fields that belong together; a reader must never see them apart. */
struct racer {
    struct walindex *w;
    int stop;
};

static void *publish_all_the_time(void *arg)
{
    struct racer *r = arg;
    for (uint32_t i = 1; !__atomic_load_n(&r->stop, __ATOMIC_RELAXED); i++) {
        struct walindex_header h = sample;
        h.change = i;
        h.max_frame = i * 3;
        h.page_count = i * 5;
        h.salt1 = i * 7;
        walindex_publish(r->w, &h);
    }
    return NULL;
}

static void concurrent_reader_sees_whole_headers_in_order(void **state)
{
    (void)state;
    struct racer r = {0};
    struct walindex *reader;
    struct walindex_header h;
    pthread_t thread;
    uint32_t last = 0, seen = 0;
    int fd = make_shm(REGION), rc;
    assert_int_equal(walindex_open(fd, true, &r.w, NULL), 0);
    assert_int_equal(walindex_open(fd, false, &reader, NULL), 0);
    assert_int_equal(pthread_create(&thread, NULL, publish_all_the_time, &r), 0);
    uint64_t end = now_ns() + 300000000;
    bool right = true;
    while (right && now_ns() < end)
        for (int i = 0; i < 1000 && right; i++) {
            rc = walindex_read(reader, &h);
            if (rc == ERR_AGAIN_LATER)
                continue;
            right = rc == 0 && h.change >= last && h.max_frame == h.change * 3 && h.page_count == h.change * 5 &&
                    h.salt1 == h.change * 7;
            last = h.change;
            seen++;
        }
    __atomic_store_n(&r.stop, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    assert_true(right);
    assert_true(seen > 100);
    walindex_close(r.w);
    walindex_close(reader);
    close(fd);
}

static void locks_exclude_each_other_across_descriptors(void **state)
{
    (void)state;
    int a = make_shm(REGION), b = open(path, O_RDWR | O_CLOEXEC);
    assert_true(b >= 0);
    assert_int_equal(lock_range(a, F_RDLCK, 100, 5), 0);
    assert_int_equal(lock_range(b, F_RDLCK, 102, 1), 0);
    assert_int_equal(lock_range(b, F_WRLCK, 104, 2), -EAGAIN);
    assert_int_equal(lock_range(b, F_WRLCK, 105, 2), 0);
    assert_int_equal(lock_range(a, F_WRLCK, 100, 5), -EAGAIN); /* b shares one byte */
    assert_int_equal(lock_range(b, F_UNLCK, 102, 1), 0);
    assert_int_equal(lock_range(a, F_WRLCK, 100, 5), 0);
    assert_int_equal(lock_range(b, F_RDLCK, 102, 1), -EAGAIN);
    close(open(path, O_RDONLY)); /* closing another descriptor drops nothing */
    assert_int_equal(lock_range(b, F_RDLCK, 102, 1), -EAGAIN);
    close(a);
    assert_int_equal(lock_range(b, F_RDLCK, 102, 1), 0);
    close(b);
    assert_int_equal(lock_range(b, F_RDLCK, 102, 1), -EBADF);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_lies_where_the_format_says),
        cmocka_unit_test(torn_or_damaged_header_is_not_taken),
        cmocka_unit_test(header_of_a_writer_that_died_is_mended),
        cmocka_unit_test(file_that_is_too_short_is_for_later),
        cmocka_unit_test(file_grows_by_whole_regions_or_says_why_not),
        cmocka_unit_test(bad_appends_and_damaged_tables_are_errors),
        cmocka_unit_test(concurrent_reader_sees_whole_headers_in_order),
        cmocka_unit_test(locks_exclude_each_other_across_descriptors),
    };
    return cmocka_run_group_tests_name("walindex", tests, setup, teardown);
}
