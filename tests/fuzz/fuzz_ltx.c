/* libFuzzer: LTX decoder, memory and stream form. Whatever the bytes: no read past them, both forms agree, and what is taken decodes
 * to the same pages after the encoder wrote it again.
 * Build: clang -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -Iinclude -I. tests/fuzz/fuzz_ltx.c lib/ltx*.c lib/crc.c lib/err.c -llz4 -lisal
 * Seeds: tests/fuzz/corpus/ltx. The first byte of the input says whether the checksums are put right before the second try, so that the fuzzer gets past them. */
#include "lib/crc.h"
#include "lib/ltx.h"
#include "lib/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct buffer {
    uint8_t *p;
    size_t n, at, step;
};

static struct ltx_decoder *dec;
static struct ltx_encoder *enc;

static long read_buffer(void *ctx, void *p, size_t n, struct err *e)
{
    struct buffer *b = ctx;
    (void)e;
    n = MIN(MIN(n, b->step), b->n - b->at);
    if (n > 0)
        memcpy(p, b->p + b->at, n);
    b->at += n;
    return (long)n;
}

static int write_buffer(void *ctx, const void *p, size_t n, struct err *e)
{
    struct buffer *b = ctx;
    b->p = realloc(b->p, b->n + n);
    if (!b->p)
        abort();
    memcpy(b->p + b->n, p, n);
    b->n += n;
    (void)e;
    return 0;
}

struct summary {
    int rc;
    struct ltx_header h;
    struct ltx_trailer t;
    uint64_t pages; /* XOR of page checksums */
    uint32_t n;
    struct err e;
};

static void decode(struct summary *s, bool encode)
{
    uint32_t pgno;
    const uint8_t *page;
    while (s->rc == 0 && (s->rc = ltx_decode_page(dec, &pgno, &page, &s->e)) == 1) {
        s->pages ^= page_checksum(pgno, page, s->h.page_size);
        s->n++;
        s->rc = encode ? ltx_encode_page(enc, pgno, page, &s->e) : 0;
    }
    if (s->rc == 0)
        s->rc = ltx_decode_end(dec, &s->t, &s->e);
}

static struct summary decode_memory(const uint8_t *p, size_t n, struct buffer *again)
{
    struct summary s = {0};
    s.rc = ltx_decode_begin_memory(dec, p, n, &s.h, &s.e);
    if (s.rc == 0 && again)
        s.rc = ltx_encode_begin(enc, &s.h, write_buffer, again, &s.e);
    decode(&s, again != NULL);
    if (s.rc == 0 && again)
        s.rc = ltx_encode_end(enc, s.t.post_checksum, &s.e);
    return s;
}

static struct summary decode_stream(struct buffer *b)
{
    struct summary s = {0};
    s.rc = ltx_decode_begin(dec, read_buffer, b, &s.h, &s.e);
    decode(&s, false);
    return s;
}

/* The decoder says in its message which checksum it wanted: taken from there, it is right. */
static bool repair(uint8_t *p, size_t n, const struct err *e)
{
    const char *give = strstr(e->text, "give ");
    if (!give || n < LTX_TRAILER_SIZE)
        return false;
    size_t at = strstr(e->text, "file checksum") ? n - 8 : n - 16;
    be64_put(p + at, strtoull(give + 5, NULL, 16));
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 2)
        return 0;
    if (!dec && (!(dec = ltx_decoder_new()) || !(enc = ltx_encoder_new())))
        abort();
    uint8_t how = data[0], *copy = malloc(n - 1);
    if (!copy)
        return 0;
    memcpy(copy, data + 1, --n);
    struct summary m = decode_memory(copy, n, NULL);
    for (int i = 0; i < 4 && how & 1 && m.rc != 0 && repair(copy, n, &m.e); i++)
        m = decode_memory(copy, n, NULL);
    struct buffer in = {.p = copy, .n = n, .step = (size_t)(how >> 1) * 8 + 1};
    struct summary s = decode_stream(&in);
    if (m.rc == 0) {
        struct buffer again = {0};
        struct summary r = decode_memory(copy, n, &again);
        if (s.rc != 0 || s.pages != m.pages || s.n != m.n || in.at != n || r.rc != 0)
            abort();
        r = decode_memory(again.p, again.n, NULL);
        if (r.rc != 0 || r.pages != m.pages || r.n != m.n || r.t.post_checksum != m.t.post_checksum)
            abort();
        free(again.p);
    } else if (m.e.text[0] == '\0' || (s.rc == 0 && in.at == n)) {
        abort();
    }
    free(copy);
    return 0;
}
