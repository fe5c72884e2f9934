#include "edgefs/record.h"

#include "lib/crc.h"
#include "lib/util.h"
#include <errno.h>
#include <stdbool.h>

/* Offsets of the fields; the layout is documented in record.h. */
enum {
    AT_MAGIC = 0,
    AT_TYPE = 4,
    AT_FLAGS = 5,
    AT_HEAD_LEN = 6,
    AT_LSN = 8,
    AT_EPOCH = 16,
    AT_TIMESTAMP = 24,
    AT_PAYLOAD_LEN = 32,
    AT_PAYLOAD_CRC = 36,
    AT_NAME_LEN = 40,
    AT_NAME = 42,
};

size_t record_head_encode(const struct record_head *h, uint8_t *buf)
{
    size_t size = record_head_size(h);
    be32_put(buf + AT_MAGIC, RECORD_MAGIC);
    buf[AT_TYPE] = h->type;
    buf[AT_FLAGS] = h->flags;
    be16_put(buf + AT_HEAD_LEN, (uint16_t)size);
    be64_put(buf + AT_LSN, h->pos.lsn);
    be64_put(buf + AT_EPOCH, h->pos.epoch);
    be64_put(buf + AT_TIMESTAMP, h->timestamp);
    be32_put(buf + AT_PAYLOAD_LEN, h->payload_len);
    be32_put(buf + AT_PAYLOAD_CRC, h->payload_crc);
    be16_put(buf + AT_NAME_LEN, h->name_len);
    memcpy(buf + AT_NAME, h->name, h->name_len);
    be32_put(buf + AT_NAME + h->name_len, crc32c(0, buf, AT_NAME + (size_t)h->name_len));
    return size;
}

/* Whether name is a path that stays inside the mount and has one spelling: components separated by single slashes, none of
 * them empty, "." or "..", no NUL. */
static bool name_is_path(const uint8_t *name, size_t n)
{
    size_t start = 0;
    for (size_t i = 0; i <= n; i++) {
        if (i < n && name[i] == '\0')
            return false;
        if (i < n && name[i] != '/')
            continue;
        size_t len = i - start;
        if (len == 0 || (len == 1 && name[start] == '.') ||
            (len == 2 && name[start] == '.' && name[start + 1] == '.'))
            return false;
        start = i + 1;
    }
    return true;
}

/* Records about a database name it. */
static bool type_needs_name(uint8_t type)
{
    return type == RECORD_TX || type == RECORD_DROP || type == RECORD_RENAME || type == RECORD_STATE || type == RECORD_PREPARE ||
           type == RECORD_ABORT;
}

/* Refuses as early as the bytes at hand allow: a reader that waits for more of something that is no header waits in vain. */
long record_head_decode(const uint8_t *buf, size_t n, struct record_head *h)
{
    static const uint8_t magic[4] = {'E', 'F', 'R', '1'};
    if (n > 0 && memcmp(buf, magic, MIN(n, sizeof magic)) != 0)
        return -EBADMSG;
    if (n < AT_HEAD_LEN + 2)
        return 0;
    size_t size = be16_get(buf + AT_HEAD_LEN);
    if (size < RECORD_HEAD_MIN || size > RECORD_HEAD_MAX)
        return -EBADMSG;
    if (n < AT_NAME)
        return 0;
    size_t name_len = be16_get(buf + AT_NAME_LEN);
    if (RECORD_HEAD_MIN + name_len != size)
        return -EBADMSG;
    if (n < size)
        return 0;
    if (be32_get(buf + AT_NAME + name_len) != crc32c(0, buf, AT_NAME + name_len))
        return -EBADMSG;
    if (name_len == 0 ? type_needs_name(buf[AT_TYPE]) : !name_is_path(buf + AT_NAME, name_len))
        return -EBADMSG;

    h->type = buf[AT_TYPE];
    h->flags = buf[AT_FLAGS];
    h->pos.lsn = be64_get(buf + AT_LSN);
    h->pos.epoch = be64_get(buf + AT_EPOCH);
    h->timestamp = be64_get(buf + AT_TIMESTAMP);
    h->payload_len = be32_get(buf + AT_PAYLOAD_LEN);
    h->payload_crc = be32_get(buf + AT_PAYLOAD_CRC);
    h->name_len = (uint16_t)name_len;
    memcpy(h->name, buf + AT_NAME, name_len);
    h->name[name_len] = '\0';
    return (long)size;
}

void record_state_encode(const struct record_state *s, uint8_t buf[RECORD_STATE_SIZE])
{
    be32_put(buf, s->page_size);
    be32_put(buf + 4, s->commit);
    be64_put(buf + 8, s->txid);
    be64_put(buf + 16, s->checksum);
}

int record_state_decode(const uint8_t *buf, size_t n, struct record_state *s)
{
    if (n != RECORD_STATE_SIZE)
        return -EBADMSG;
    uint32_t page_size = be32_get(buf);
    if (page_size < 512 || page_size > 65536 || (page_size & (page_size - 1)) != 0)
        return -EBADMSG;
    s->page_size = page_size;
    s->commit = be32_get(buf + 4);
    s->txid = be64_get(buf + 8);
    s->checksum = be64_get(buf + 16);
    return 0;
}
