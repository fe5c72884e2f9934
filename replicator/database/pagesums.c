#include "replicator/database/pagesums.h"

#include "lib/crc.h"
#include "lib/sqlitefile.h"
#include "lib/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int pagesums_begin(struct pagesums *s, const uint8_t *first, size_t n, int64_t size, struct err *e)
{
    struct dbfile_header h;
    if (n < DBFILE_HEADER_SIZE || dbfile_header_decode(first, n, &h) || size % h.page_size || size / h.page_size > UINT32_MAX)
        return err_set(e, ERR_NOT_DATABASE, "what comes in is no database");
    s->page_size = h.page_size;
    s->commit = (uint32_t)(size / h.page_size);
    s->checksum = CHECKSUM_FLAG;
    s->sums = calloc(MAX(s->commit, 1u), sizeof *s->sums);
    s->page = malloc(h.page_size);
    return s->sums && s->page ? 0 : err_errno(e, ENOMEM, "checksums of %u pages", s->commit);
}

static void take_page(struct pagesums *s, const uint8_t *page)
{
    uint32_t pgno = ++s->pages;
    uint64_t sum = pgno == lock_pgno(s->page_size) ? 0 : page_checksum(pgno, page, s->page_size);
    s->sums[pgno - 1] = sum;
    s->checksum = (s->checksum ^ sum) | CHECKSUM_FLAG;
}

void pagesums_add(struct pagesums *s, const uint8_t *p, size_t n)
{
    while (n) {
        if (!s->page_len && n >= s->page_size) {
            take_page(s, p);
            p += s->page_size;
            n -= s->page_size;
            continue;
        }
        size_t k = MIN(n, (size_t)(s->page_size - s->page_len));
        memcpy(s->page + s->page_len, p, k);
        s->page_len += (uint32_t)k;
        p += k;
        n -= k;
        if (s->page_len == s->page_size) {
            take_page(s, s->page);
            s->page_len = 0;
        }
    }
}

void pagesums_free(struct pagesums *s)
{
    free(s->sums);
    free(s->page);
    *s = (struct pagesums){0};
}
