#include "replicator/database/leftover.h"

#include "lib/crc.h"
#include "lib/journal.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define SUPER_NAME_MAX 4096u

struct kept {
    uint32_t pgno, order;
    int64_t at; /* of the page, in the file */
};

struct leftover {
    int dir_fd, fd;
    struct stat st;
    uint32_t page_size, page_count;
    struct kept *pages; /* ascending, each once */
    uint32_t n, size;
    char name[LAYOUT_NAME_MAX + sizeof LAYOUT_JOURNAL];
};

static long read_journal(void *ctx, void *p, size_t n, int64_t at)
{
    const struct leftover *h = ctx;
    ssize_t k = pread(h->fd, p, n, at);
    return k < 0 ? -errno : k;
}

static int add(struct leftover *h, uint32_t pgno, int64_t at, struct err *e)
{
    if (h->n == h->size) {
        uint32_t size = h->size ? h->size * 2 : 256;
        void *p = realloc(h->pages, size * sizeof *h->pages);
        if (!p)
            return err_errno(e, ENOMEM, "%s: list of %u pages", h->name, size);
        h->pages = p;
        h->size = size;
    }
    h->pages[h->n] = (struct kept){.pgno = pgno, .order = h->n, .at = at};
    h->n++;
    return 0;
}

static int by_page(const void *a, const void *b)
{
    const struct kept *x = a, *y = b;
    if (x->pgno != y->pgno)
        return x->pgno < y->pgno ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* Records are played back in their order, so the last one of a page counts. Pages beyond the end are cut off again. */
static void last_of_each(struct leftover *h)
{
    uint32_t kept = 0;
    qsort(h->pages, h->n, sizeof *h->pages, by_page);
    for (uint32_t i = 0; i < h->n; i++)
        if (h->pages[i].pgno <= h->page_count && (i + 1 == h->n || h->pages[i + 1].pgno != h->pages[i].pgno))
            h->pages[kept++] = h->pages[i];
    h->n = kept;
}

static int list_records(struct leftover *h, struct err *e)
{
    struct journal *j = journal_new();
    struct journal_header jh;
    uint32_t pgno;
    const uint8_t *page;
    if (!j)
        return err_errno(e, ENOMEM, "%s", h->name);
    int rc = journal_begin(j, read_journal, h, &jh, e);
    while (!rc && (rc = journal_next(j, &pgno, &page, e)) > 0)
        rc = add(h, pgno, journal_page_at(j), e);
    journal_free(j);
    if (rc)
        return rc;
    h->page_size = jh.page_size;
    h->page_count = jh.page_count;
    last_of_each(h);
    return 0;
}

/* The end of a journal whose transaction spans several databases: the super-journal's name, its length, the sum of its bytes, the magic (pager.c,
 * readSuperJournal). True if one is named and is no longer there. Applications name it by a path of their own view of the file system: if
 * that leads nowhere from here, a file of that name beside the database is looked for. */
static bool super_is_gone(const struct leftover *h)
{
    static const uint8_t magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};
    uint8_t tail[16];
    char path[SUPER_NAME_MAX + 1], beside[LAYOUT_NAME_MAX + SUPER_NAME_MAX + 2];
    if (h->st.st_size < (off_t)sizeof tail || pread(h->fd, tail, sizeof tail, h->st.st_size - (off_t)sizeof tail) != (ssize_t)sizeof tail ||
        memcmp(tail + 8, magic, sizeof magic) != 0)
        return false;
    uint32_t length = be32_get(tail), sum = be32_get(tail + 4);
    if (length == 0 || length > SUPER_NAME_MAX || h->st.st_size < (off_t)(sizeof tail + length) ||
        pread(h->fd, path, length, h->st.st_size - (off_t)(sizeof tail + length)) != (ssize_t)length)
        return false;
    int64_t bytes = 0; /* signed ones, as SQLite's char is here */
    for (uint32_t i = 0; i < length; i++)
        bytes += (signed char)path[i];
    path[length] = 0;
    if ((uint32_t)bytes != sum || strlen(path) != length)
        return false;
    if (path[0] == '/' && access(path, F_OK) == 0)
        return false;
    const char *slash = strrchr(h->name, '/'), *base = strrchr(path, '/');
    snprintf(beside, sizeof beside, "%.*s%s", slash ? (int)(slash - h->name) + 1 : 0, h->name, base ? base + 1 : path);
    return faccessat(h->dir_fd, beside, F_OK, AT_SYMLINK_NOFOLLOW) != 0;
}

static int open_journal(const struct node *n, const char *name, struct leftover **out, struct err *e)
{
    struct leftover *h = calloc(1, sizeof *h);
    if (!h)
        return err_errno(e, ENOMEM, "%s", name);
    snprintf(h->name, sizeof h->name, "%s%s", name, LAYOUT_JOURNAL);
    h->dir_fd = n->db_fd;
    h->fd = openat(n->db_fd, h->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (h->fd >= 0 && fstat(h->fd, &h->st) == 0) {
        *out = h;
        return 0;
    }
    int rc = errno == ENOENT ? ERR_CORRUPT : err_errno(e, errno, "open %s", h->name);
    leftover_close(h);
    return rc;
}

int leftover_journal(const struct node *n, const char *name, struct leftover **out, struct err *e)
{
    struct leftover *h = NULL;
    *out = NULL;
    int rc = open_journal(n, name, &h, e);
    if (!rc)
        rc = list_records(h, e);
    if (!rc && !super_is_gone(h))
        *out = h;
    else
        leftover_close(h);
    return rc == ERR_CORRUPT ? 0 : rc;
}

void leftover_close(struct leftover *h)
{
    if (!h)
        return;
    if (h->fd >= 0)
        close(h->fd);
    free(h->pages);
    free(h);
}

uint32_t leftover_page_size(const struct leftover *h)
{
    return h->page_size;
}

uint32_t leftover_page_count(const struct leftover *h)
{
    return h->page_count;
}

static int read_page(const struct leftover *h, const struct kept *p, void *buf, struct err *e)
{
    ssize_t k = pread(h->fd, buf, h->page_size, p->at);
    if (k < 0)
        return err_errno(e, errno, "read %s", h->name);
    return k == (ssize_t)h->page_size ? 0 : err_set(e, ERR_AGAIN_LATER, "%s was cut off", h->name);
}

int leftover_page(const struct leftover *h, uint32_t pgno, void *buf, struct err *e)
{
    uint32_t from = 0, to = h->n;
    while (from < to) {
        uint32_t mid = from + (to - from) / 2;
        if (h->pages[mid].pgno < pgno)
            from = mid + 1;
        else
            to = mid;
    }
    if (from == h->n || h->pages[from].pgno != pgno)
        return 0;
    int rc = read_page(h, &h->pages[from], buf, e);
    return rc ? rc : 1;
}

int leftover_each(const struct leftover *h, int (*fn)(void *ctx, uint32_t pgno, const void *page), void *ctx, struct err *e)
{
    _cleanup_free_ uint8_t *buf = malloc(h->page_size);
    if (!buf)
        return err_errno(e, ENOMEM, "%s", h->name);
    int rc = 0;
    for (uint32_t i = 0; i < h->n && !rc; i++) {
        rc = read_page(h, &h->pages[i], buf, e);
        if (!rc)
            rc = fn(ctx, h->pages[i].pgno, buf);
    }
    return rc;
}

int64_t leftover_age_us(const struct leftover *h)
{
    return (int64_t)wall_us() - ((int64_t)h->st.st_mtim.tv_sec * 1000000 + h->st.st_mtim.tv_nsec / 1000);
}

bool leftover_unchanged(const struct leftover *h)
{
    struct stat now;
    return !fstatat(h->dir_fd, h->name, &now, AT_SYMLINK_NOFOLLOW) && now.st_ino == h->st.st_ino && now.st_size == h->st.st_size &&
           now.st_mtim.tv_sec == h->st.st_mtim.tv_sec && now.st_mtim.tv_nsec == h->st.st_mtim.tv_nsec;
}
