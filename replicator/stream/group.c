#include "replicator/stream/group.h"

#include "lib/crc.h"
#include "lib/util.h"
#include <errno.h>
#include <inttypes.h>

bool group_takes(const struct group *g, const struct record_head *h)
{
    return h->type < RECORD_CONTROL && (h->flags & RECORD_MORE || g->len);
}

bool group_has_room(const struct group *g, const struct record_head *h)
{
    return g->len + record_head_size(h) + h->payload_len <= RECORD_GROUP_MAX;
}

int group_add(struct group *g, const struct record_head *h, const uint8_t *payload, struct err *e)
{
    size_t want = g->len + record_head_size(h) + h->payload_len;
    if (want > g->size) {
        size_t size = MAX(want, g->size * 2);
        void *p = realloc(g->bytes, size);
        if (!p)
            return err_errno(e, ENOMEM, "%zu bytes of records that belong together", want);
        g->bytes = p;
        g->size = size;
    }
    if (crc32c(0, payload, h->payload_len) != h->payload_crc)
        return err_set(e, ERR_CORRUPT, "record %" PRIu64 " arrived damaged", h->pos.lsn);
    g->len += record_head_encode(h, g->bytes + g->len);
    if (h->payload_len)
        memcpy(g->bytes + g->len, payload, h->payload_len);
    g->len += h->payload_len;
    g->records++;
    return 0;
}

void group_forget(struct group *g)
{
    g->len = 0;
    g->records = 0;
}

void group_free(struct group *g)
{
    free(g->bytes);
    *g = (struct group){0};
}
