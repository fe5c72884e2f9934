#include "http-proxy/body.h"

void body_begin(struct body *b, enum head_body kind, uint64_t length)
{
    b->kind = kind;
    b->left = length;
    b->decode = false;
    b->done = kind == HEAD_BODY_NONE || (kind == HEAD_BODY_LENGTH && !length);
    if (kind == HEAD_BODY_CHUNKED)
        http_chunked_init(&b->chunked);
}

static int take_chunked(struct body *b, char *p, size_t n, size_t *used, size_t *out)
{
    size_t at = 0, kept = 0;
    while (at < n && !b->done) {
        size_t part = 0, len = 0;
        const uint8_t *data = NULL;
        enum http_chunked_result r = http_chunked_next(&b->chunked, (const uint8_t *)p + at, n - at, &part, &data, &len);
        if (r == HTTP_CHUNKED_BAD) {
            b->reason = b->chunked.reason;
            return -1;
        }
        if (r == HTTP_CHUNKED_DATA && b->decode) {
            memmove(p + kept, data, len);
            kept += len;
        }
        at += part;
        b->done = r == HTTP_CHUNKED_DONE;
    }
    *used = at;
    *out = b->decode ? kept : at;
    return 0;
}

int body_take(struct body *b, char *p, size_t n, size_t *used, size_t *out)
{
    switch (b->kind) {
    case HEAD_BODY_CHUNKED:
        return take_chunked(b, p, n, used, out);
    case HEAD_BODY_LENGTH:
        *used = *out = n < b->left ? n : (size_t)b->left;
        b->left -= *used;
        b->done = !b->left;
        return 0;
    case HEAD_BODY_TO_EOF:
        *used = *out = n;
        return 0;
    default:
        *used = *out = 0;
        return 0;
    }
}

enum head_body body_of_response(const struct head *response, bool to_head)
{
    if (to_head || response->status < 200 || response->status == 204 || response->status == 304)
        return HEAD_BODY_NONE;
    return response->body;
}
