/* libFuzzer: positions in the fields of a request, and what the replicator's STATE is made of. Whatever the bytes: no read past them, the largest
 * position is one that stands in them, and a field that is taken again gives the same.
 * Build: clang -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -Iinclude -I. tests/fuzz/fuzz_cookie.c http-proxy/cookie.c http-proxy/head.c
 *        http-proxy/feed.c lib/position.c lib/localsock.c lib/log.c lib/err.c -levent
 * Seeds: tests/fuzz/corpus/cookie: the first byte chooses (0: fields, 1: a STATE). */
#include "http-proxy/cookie.h"
#include "http-proxy/feed.h"
#include "lib/util.h"
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void fields(const uint8_t *data, size_t n)
{
    static const char line[] = "GET / HTTP/1.1\r\nHost: h\r\nCookie: ", behind[] = "\r\n\r\n";
    static struct head h;
    struct head_error e;
    unsigned malformed;
    size_t len = sizeof line - 1 + n + sizeof behind - 1;
    char *text = malloc(len), again[POSITION_TEXT_MAX];
    if (!text)
        return;
    memcpy(text, line, sizeof line - 1);
    memcpy(text + sizeof line - 1, data, n);
    memcpy(text + sizeof line - 1 + n, behind, sizeof behind - 1);
    if (head_parse_request(&h, text, len, HEAD_BLOCK_MAX, HEAD_FIELDS_MAX, &e) == HEAD_DONE) {
        struct position p = cookie_position(&h, &malformed);
        if (p.epoch) {
            position_format(p, again);
            if (!memmem(text, len, again, strlen(again)))
                abort();
        } else if (p.lsn) {
            abort();
        }
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct feed_state s;
    if (n == 0)
        return 0;
    uint8_t *copy = malloc(n); /* so that a read past the end is seen */
    if (!copy)
        return 0;
    memcpy(copy, data, n);
    if (data[0] == 0)
        fields(copy + 1, n - 1);
    else if (feed_decode_state(copy + 1, n - 1, &s) && (strlen(s.primary) >= sizeof s.primary || strlen(s.primary_url) >= sizeof s.primary_url ||
                                                        s.head.n_epochs > POSITION_FEED_EPOCHS || s.unreachable > s.head.n_neighbours))
        abort();
    free(copy);
    return 0;
}
