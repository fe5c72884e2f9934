/* libFuzzer: rollback journals and freelist trunks. Whatever the bytes: no read past them, an end, and only page numbers that can be.
 * Build: clang -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -Iinclude -I. tests/fuzz/fuzz_journal.c lib/journal.c lib/sqlitefile.c lib/crc.c lib/err.c -lisal
 * Seeds: tests/fuzz/corpus/journal. */
#include "lib/crc.h"
#include "lib/journal.h"
#include "lib/sqlitefile.h"
#include "lib/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct input {
    const uint8_t *p;
    size_t n;
};

static long read_input(void *ctx, void *p, size_t n, int64_t at)
{
    const struct input *in = ctx;
    if (at >= (int64_t)in->n)
        return 0;
    n = MIN(n, in->n - (size_t)at);
    memcpy(p, in->p + at, n);
    return (long)n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct input in = {data, n};
    struct journal *j = journal_new();
    struct journal_header h;
    struct err e;
    uint32_t pgno;
    const uint8_t *page;
    if (!j)
        return 0;
    if (journal_begin(j, read_input, &in, &h, &e) == 0) {
        size_t records = 0;
        int rc;
        while ((rc = journal_next(j, &pgno, &page, &e)) > 0) {
            if (pgno == 0 || pgno == lock_pgno(h.page_size) || ++records > n / 512)
                abort();
            int leaves = freelist_trunk_leaves(page, h.page_size, h.page_count);
            for (int i = 0; i < leaves; i++)
                if (freelist_leaf(page, i) < 2 || freelist_leaf(page, i) > h.page_count)
                    abort();
        }
        if (rc != 0)
            abort();
    }
    journal_free(j);
    return 0;
}
