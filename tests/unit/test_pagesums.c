/* Page checksums of a file in pieces: however it is cut, they are those of its pages. */
#include "replicator/database/pagesums.h"

#include "lib/crc.h"
#include "lib/util.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define PAGES 7u

static uint8_t *make_file(uint32_t page_size)
{
    uint8_t *p = calloc(PAGES, page_size);
    assert_non_null(p);
    for (size_t i = 0; i < (size_t)PAGES * page_size; i++)
        p[i] = (uint8_t)(i * 31 + i / 251);
    memset(p, 0, 100);
    memcpy(p, "SQLite format 3", 16);
    p[16] = (uint8_t)(page_size == 65536 ? 0 : page_size >> 8);
    p[17] = page_size == 65536;
    p[18] = p[19] = 1;
    p[21] = 64;
    p[22] = p[23] = 32;
    return p;
}

static void however_it_is_cut(void **state)
{
    static const uint32_t sizes[] = {512, 4096, 65536};
    static const size_t pieces[] = {100, 511, 512, 513, 4096, 5000, 65537, 1u << 20};
    (void)state;
    for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
        uint8_t *file = make_file(sizes[s]);
        size_t size = (size_t)PAGES * sizes[s];
        uint64_t sums[PAGES], whole = 0;
        for (uint32_t p = 1; p <= PAGES; p++)
            whole ^= sums[p - 1] = page_checksum(p, file + (size_t)(p - 1) * sizes[s], sizes[s]);
        for (size_t k = 0; k < ARRAY_SIZE(pieces); k++) {
            struct pagesums ps = {0};
            struct err e;
            assert_int_equal(pagesums_begin(&ps, file, MIN(size, pieces[k]), (int64_t)size, &e), 0);
            for (size_t at = 0; at < size; at += pieces[k])
                pagesums_add(&ps, file + at, MIN(pieces[k], size - at));
            assert_int_equal(ps.pages, PAGES);
            assert_int_equal(ps.commit, PAGES);
            assert_memory_equal(ps.sums, sums, sizeof sums);
            assert_true(ps.checksum == (whole | CHECKSUM_FLAG));
            pagesums_free(&ps);
        }
        free(file);
    }
}

static void what_is_no_database_is_refused(void **state)
{
    uint8_t *file = make_file(4096);
    (void)state;
    struct err e;
    const struct {
        size_t n;
        int64_t size;
    } bad[] = {{99, PAGES * 4096}, {4096, PAGES * 4096 - 1}, {4096, INT64_C(4096) << 32}};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct pagesums ps = {0};
        assert_int_equal(pagesums_begin(&ps, file, bad[i].n, bad[i].size, &e), ERR_NOT_DATABASE);
        pagesums_free(&ps);
    }
    file[0] = 'x';
    struct pagesums ps = {0};
    assert_int_equal(pagesums_begin(&ps, file, 4096, PAGES * 4096, &e), ERR_NOT_DATABASE);
    pagesums_free(&ps);
    free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(however_it_is_cut), cmocka_unit_test(what_is_no_database_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
