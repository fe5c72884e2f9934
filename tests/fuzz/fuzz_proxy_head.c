/* libFuzzer target: heads and bodies of requests and responses as the proxy reads them.
 *
 * For each input: the verdict does not depend on how the bytes are cut; a request that the proxy passes on is one that the other parser of this house
 * (lib/http: guard and llhttp) reads as the same message, with the same fields and the same end; chunked bodies end where they end however they
 * are cut, and what is decoded is what the chunks hold.
 *
 *   clang -fsanitize=fuzzer,address … tests/fuzz/fuzz_proxy_head.c http-proxy/{head,body}.c lib/http/{guard,head,chunked}.c libllhttp.a
 *   ./fuzz_proxy_head tests/fuzz/corpus/http_request */
#include "http-proxy/body.h"
#include "http-proxy/head.h"
#include "lib/http/head.h"
#include "lib/util.h"

#include <stdio.h>

#define MAX_LEN 15360u
#define MAX_FIELDS 100

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void need(bool holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "does not hold: %s\n", what);
    abort();
}

typedef enum head_result parser(struct head *h, const char *p, size_t n, size_t max_len, unsigned max_fields, struct head_error *e);

/* Any piece from the start says MORE, or what the whole says. */
static void cuts(parser *parse, const char *p, size_t n, enum head_result whole, const struct head *h)
{
    static struct head part;
    struct head_error e;
    for (size_t i = 0; i < n; i += 1 + i / 16) {
        enum head_result r = parse(&part, p, i, MAX_LEN, MAX_FIELDS, &e);
        need(r == HEAD_MORE || (r == whole && (r == HEAD_BAD || part.len == h->len)), "the verdict does not depend on the cut");
    }
}

static void inside(const struct head *h)
{
    for (int i = 0; i < h->n_fields; i++) {
        const struct head_field *f = &h->fields[i];
        need(f->name_len && f->name + f->name_len < h->len && f->value + f->value_len <= h->len, "fields lie in the block");
        need(h->block[f->name + f->name_len] == ':', "a colon right behind the name");
        need(!memchr(h->block + f->value, '\r', f->value_len) && !memchr(h->block + f->value, '\n', f->value_len), "no line end in a value");
    }
}

/* What we pass on, others must read as we do. */
static void other_parser(const struct head *h, const char *p, size_t n)
{
    static struct http_head other;
    struct http_guard g;
    size_t used = 0;
    http_guard_init(&g, HTTP_HEAD_MAX, HTTP_HEAD_MAX);
    need(http_guard_feed(&g, (const uint8_t *)p, n, &used) == HTTP_GUARD_DONE && used == h->len, "the guard lets it pass and ends at the same byte");
    if (http_head_parse(&other, p, used, &g)) {
        need(other.status == 501, "llhttp knows it, except methods that it has never heard of");
        return;
    }
    need(other.n_fields == h->n_fields && other.minor == h->minor, "as many fields, the same version");
    for (int i = 0; i < h->n_fields; i++)
        need(other.fields[i].name == h->fields[i].name && other.fields[i].name_len == h->fields[i].name_len &&
                 other.fields[i].value_len == h->fields[i].value_len && (!h->fields[i].value_len || other.fields[i].value == h->fields[i].value),
             "the same fields");
    need(other.chunked == (h->body == HEAD_BODY_CHUNKED), "chunked or not");
    need((other.content_length >= 0) == (h->body == HEAD_BODY_LENGTH) &&
             (other.content_length < 0 || (uint64_t)other.content_length == h->content_length),
         "the same length");
}

/* The chunked body p[0..n) in pieces of `piece` bytes; hash of what comes out. */
static int chunked(const char *p, size_t n, size_t piece, bool decode, size_t *end, uint64_t *hash)
{
    struct body b;
    body_begin(&b, HEAD_BODY_CHUNKED, 0);
    b.decode = decode;
    *end = 0;
    *hash = 14695981039346656037u;
    while (*end < n && !b.done) {
        size_t take = MIN(piece, n - *end), used, out;
        char *copy = malloc(take);
        need(copy, "memory");
        memcpy(copy, p + *end, take);
        int rc = body_take(&b, copy, take, &used, &out);
        for (size_t i = 0; !rc && i < out; i++)
            *hash = (*hash ^ (uint8_t)copy[i]) * 1099511628211u;
        free(copy);
        if (rc)
            return -1;
        need(used <= take && out <= used && (used == take || b.done), "it takes what it is given");
        *end += used;
    }
    return b.done;
}

static void bodies(const char *p, size_t n)
{
    for (int decode = 0; decode < 2; decode++) {
        size_t end, other_end;
        uint64_t hash, other_hash;
        int whole = chunked(p, n, n ? n : 1, decode, &end, &hash);
        for (size_t piece = 1; piece < 8; piece += 3) {
            int r = chunked(p, n, piece, decode, &other_end, &other_hash);
            need(r == whole && (r < 0 || (end == other_end && hash == other_hash)), "bodies do not depend on the cut");
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct head h;
    struct head_error e;
    const char *p = (const char *)data;
    enum head_result r = head_parse_request(&h, p, size, MAX_LEN, MAX_FIELDS, &e);
    cuts(head_parse_request, p, size, r, &h);
    if (r == HEAD_DONE) {
        inside(&h);
        other_parser(&h, p, size);
        bodies(p + h.len, size - h.len);
    }
    r = head_parse_response(&h, p, size, MAX_LEN, MAX_FIELDS, &e);
    cuts(head_parse_response, p, size, r, &h);
    if (r == HEAD_DONE)
        inside(&h);
    need(r != HEAD_BAD || e.status == 502, "bad responses are 502");
    bodies(p, size);
    return 0;
}
