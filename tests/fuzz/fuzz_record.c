/* libFuzzer: record headers. Whatever the bytes: no read past them, and what is taken encodes back to the same bytes.
 * Build: clang -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -Iinclude -I. tests/fuzz/fuzz_record.c lib/record.c lib/crc.c -lisal
 * Seeds: tests/fuzz/corpus/record. The CRC is put right before each try, so that the fuzzer gets past it. */
#include "edgefs/record.h"
#include "lib/crc.h"
#include "lib/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct record_head h;
    struct record_state s;
    uint8_t again[RECORD_HEAD_MAX], *copy = malloc(n > 0 ? n : 1);
    if (!copy)
        return 0;
    if (n > 0)
        memcpy(copy, data, n);
    if (n >= 8) {
        size_t size = be16_get(copy + 6);
        if (size >= RECORD_HEAD_MIN && size <= n)
            be32_put(copy + size - 4, crc32c(0, copy, size - 4));
    }
    long rc = record_head_decode(copy, n, &h);
    if (rc > 0 && (rc > (long)n || record_head_encode(&h, again) != (size_t)rc || memcmp(again, copy, (size_t)rc) != 0 ||
                   strlen(h.name) != h.name_len))
        abort();
    if (record_state_decode(copy, n, &s) == 0) {
        record_state_encode(&s, again);
        if (memcmp(again, copy, n) != 0)
            abort();
    }
    free(copy);
    return 0;
}
