#include "lib/journal.h"

#include "lib/crc.h"
#include "lib/util.h"
#include <stdbool.h>

#define BUFFER_SIZE (256u << 10) /* holds at least three records of any page size */

static const uint8_t magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};

struct journal {
    journal_read_fn *read;
    void *ctx;
    struct journal_header h; /* of the present segment */
    int64_t at;              /* of the next record */
    uint32_t left;           /* records left in the segment, if they are counted */
    bool counted, ended;
    int64_t buf_at;          /* offset in the file of buf[0] */
    size_t buf_len;
    uint8_t buf[BUFFER_SIZE];
};

static bool power_of_two(uint32_t v, uint32_t least, uint32_t most)
{
    return v >= least && v <= most && (v & (v - 1)) == 0;
}

int journal_header_decode(const void *p, size_t n, struct journal_header *h)
{
    const uint8_t *b = p;
    if (n < JOURNAL_HEADER_SIZE || memcmp(b, magic, sizeof magic) != 0)
        return ERR_CORRUPT;
    uint32_t sector = be32_get(b + 20), page = be32_get(b + 24);
    if (!power_of_two(sector, 32, 65536) || !power_of_two(page, 512, 65536))
        return ERR_CORRUPT;
    *h = (struct journal_header){
        .records = be32_get(b + 8), .nonce = be32_get(b + 12), .page_count = be32_get(b + 16), .sector_size = sector, .page_size = page};
    return 0;
}

uint32_t journal_checksum(uint32_t nonce, const void *page, uint32_t page_size)
{
    const uint8_t *b = page;
    uint32_t sum = nonce;
    for (int64_t i = (int64_t)page_size - 200; i > 0; i -= 200)
        sum += b[i];
    return sum;
}

struct journal *journal_new(void)
{
    return malloc(sizeof(struct journal));
}

void journal_free(struct journal *j)
{
    free(j);
}

/* n bytes at offset at, from the buffer; NULL with *err 0: the file ends before. */
static const uint8_t *bytes(struct journal *j, int64_t at, size_t n, int *err)
{
    *err = 0;
    if (at < j->buf_at || at + (int64_t)n > j->buf_at + (int64_t)j->buf_len) {
        long got = j->read(j->ctx, j->buf, sizeof j->buf, at);
        if (got < 0) {
            *err = (int)got;
            return NULL;
        }
        j->buf_at = at;
        j->buf_len = (size_t)got;
    }
    return at + (int64_t)n <= j->buf_at + (int64_t)j->buf_len ? j->buf + (at - j->buf_at) : NULL;
}

/* Takes the header at offset at. ERR_CORRUPT: none is there. */
static int take_header(struct journal *j, int64_t at)
{
    int err;
    const uint8_t *p = bytes(j, at, JOURNAL_HEADER_SIZE, &err);
    if (!p)
        return err ? err : ERR_CORRUPT;
    int rc = journal_header_decode(p, JOURNAL_HEADER_SIZE, &j->h);
    if (rc)
        return rc;
    j->counted = j->h.records != 0 && j->h.records != JOURNAL_RECORDS_UNKNOWN;
    j->left = j->h.records;
    j->at = at + j->h.sector_size;
    return 0;
}

int journal_begin(struct journal *j, journal_read_fn *read, void *ctx, struct journal_header *h, struct err *e)
{
    j->read = read;
    j->ctx = ctx;
    j->buf_at = 0;
    j->buf_len = 0;
    j->ended = false;
    int rc = take_header(j, 0);
    if (rc == ERR_CORRUPT)
        return err_set(e, rc, "no valid rollback journal");
    if (rc)
        return err_errno(e, -rc, "read the journal");
    *h = j->h;
    return 0;
}

/* A segment that was not synced yet: its header has zeros in place of magic and count (pager.c, writeJournalHdr). Nothing that it names was written to the database, but
 * a page that a freelist trunk in it names may have been: such a page is not journaled, so it does not wait for the sync. */
static int take_unsynced_header(struct journal *j, int64_t at)
{
    int err;
    uint8_t head[JOURNAL_HEADER_SIZE];
    struct journal_header h;
    const uint8_t *p = bytes(j, at, JOURNAL_HEADER_SIZE, &err);
    if (!p)
        return err ? err : ERR_CORRUPT;
    for (size_t i = 0; i < 12; i++)
        if (p[i])
            return ERR_CORRUPT;
    memcpy(head, p, sizeof head);
    memcpy(head, magic, sizeof magic);
    if (journal_header_decode(head, sizeof head, &h) || h.page_count != j->h.page_count || h.sector_size != j->h.sector_size)
        return ERR_CORRUPT;
    j->h = h;
    j->counted = false;
    j->at = at + h.sector_size;
    return 0;
}

/* The segment is over: the next one begins at the next sector, if there is one of this journal (its page size is the same). */
static int next_segment(struct journal *j)
{
    const uint32_t page_size = j->h.page_size;
    int64_t sector = j->h.sector_size;
    const int64_t at = (j->at + sector - 1) / sector * sector;
    int rc = take_header(j, at);
    if (rc == ERR_CORRUPT)
        rc = take_unsynced_header(j, at);
    return !rc && j->h.page_size != page_size ? ERR_CORRUPT : rc;
}

int journal_next(struct journal *j, uint32_t *pgno, const uint8_t **page, struct err *e)
{
    int rc = 0;
    while (!j->ended && !rc && j->counted && j->left == 0)
        rc = next_segment(j);
    if (rc && rc != ERR_CORRUPT)
        return err_errno(e, -rc, "read the journal");
    j->ended |= rc != 0;
    if (j->ended)
        return 0;
    const uint8_t *p = bytes(j, j->at, j->h.page_size + 8, &rc);
    if (rc)
        return err_errno(e, -rc, "read the journal");
    uint32_t n = p ? be32_get(p) : 0;
    if (!p || n == 0 || n == lock_pgno(j->h.page_size) || journal_checksum(j->h.nonce, p + 4, j->h.page_size) != be32_get(p + 4 + j->h.page_size)) {
        j->ended = true;
        return 0;
    }
    j->at += j->h.page_size + 8;
    j->left -= j->counted;
    *pgno = n;
    *page = p + 4;
    return 1;
}

int64_t journal_page_at(const struct journal *j)
{
    return j->at - (int64_t)j->h.page_size - 4;
}
