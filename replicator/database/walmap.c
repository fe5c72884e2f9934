#include "replicator/database/walmap.h"

#include "lib/crc.h"
#include "lib/sqlitefile.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>

#define READ_BYTES (256u << 10)

struct slot {
    uint32_t pgno; /* 0: free */
    uint32_t frame, before; /* the last one, and the last one before it; 0: none */
};

struct walmap {
    int fd;
    uint32_t page_size;
    uint32_t used, mask; /* entries; size of the table minus 1 */
    struct slot *slots;  /* open addressing, at most half full */
};

static struct slot *find(const struct walmap *m, uint32_t pgno)
{
    for (uint32_t i = pgno * 2654435761u;; i++) {
        struct slot *s = &m->slots[i & m->mask];
        if (s->pgno == pgno || s->pgno == 0)
            return s;
    }
}

static int grow(struct walmap *m)
{
    struct walmap bigger = *m;
    bigger.mask = m->mask ? m->mask * 2 + 1 : 1023;
    bigger.slots = calloc((size_t)bigger.mask + 1, sizeof *bigger.slots);
    if (!bigger.slots)
        return -ENOMEM;
    for (uint32_t i = 0; m->slots && i <= m->mask; i++)
        if (m->slots[i].pgno)
            *find(&bigger, m->slots[i].pgno) = m->slots[i];
    free(m->slots);
    *m = bigger;
    return 0;
}

static int enter(struct walmap *m, uint32_t pgno, uint32_t frame)
{
    if ((!m->slots || m->used > m->mask / 2) && grow(m))
        return -ENOMEM;
    struct slot *s = find(m, pgno);
    m->used += s->pgno == 0;
    *s = (struct slot){pgno, frame, s->pgno ? s->frame : 0};
    return 0;
}

/* Small pages: many headers in one read. Large ones: a read for each header, so that no page has to come along. */
static int read_frames(struct walmap *m, const struct wal_header *w, struct err *e)
{
    size_t frame_size = WAL_FRAME_HEADER_SIZE + m->page_size;
    uint32_t batch = m->page_size <= 2048 ? READ_BYTES / (uint32_t)frame_size : 1;
    size_t want = batch == 1 ? WAL_FRAME_HEADER_SIZE : batch * frame_size;
    _cleanup_free_ uint8_t *buf = malloc(want);
    if (!buf)
        return err_errno(e, ENOMEM, "map of a WAL");
    for (uint32_t f = 1; f < WALMAP_FRAMES_MAX; f += batch) {
        ssize_t n = pread(m->fd, buf, want, wal_frame_offset(f, m->page_size));
        if (n < 0)
            return err_errno(e, errno, "reading a WAL");
        for (uint32_t i = 0; i < batch; i++) {
            struct wal_frame_header h;
            if ((size_t)n < i * frame_size + WAL_FRAME_HEADER_SIZE)
                return 0;
            wal_frame_header_decode(buf + i * frame_size, &h);
            if (h.salt1 != w->salt1 || h.salt2 != w->salt2)
                return 0;
            if (h.pgno && enter(m, h.pgno, f + i))
                return err_errno(e, ENOMEM, "map of a WAL");
        }
    }
    return 0;
}

int walmap_open(int dirfd, const char *name, uint32_t page_size, struct walmap **out, struct err *e)
{
    uint8_t buf[WAL_HEADER_SIZE];
    struct wal_header w;
    *out = NULL;
    _cleanup_fd_ int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || pread(fd, buf, sizeof buf, 0) != (ssize_t)sizeof buf || wal_header_decode(buf, &w) || w.page_size != page_size)
        return 0;
    struct walmap *m = calloc(1, sizeof *m);
    if (!m)
        return err_errno(e, ENOMEM, "map of a WAL");
    m->fd = steal_fd(&fd);
    m->page_size = page_size;
    int rc = read_frames(m, &w, e);
    if (rc || !m->used) {
        walmap_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

void walmap_close(struct walmap *m)
{
    if (!m)
        return;
    close(m->fd); /* the backing file, on which nobody has locks */
    free(m->slots);
    free(m);
}

static bool read_frame(const struct walmap *m, uint32_t frame, void *page)
{
    int64_t at = wal_frame_offset(frame, m->page_size) + (int64_t)WAL_FRAME_HEADER_SIZE;
    return pread(m->fd, page, m->page_size, at) == (ssize_t)m->page_size;
}

int walmap_read(const struct walmap *m, uint32_t pgno, void *page)
{
    const struct slot *s = m ? find(m, pgno) : NULL;
    return s && s->pgno && read_frame(m, s->frame, page);
}

int walmap_fit(const struct walmap *m, uint32_t pgno, uint64_t sum, void *page)
{
    const struct slot *s = m ? find(m, pgno) : NULL;
    if (!s || !s->pgno)
        return 0;
    return (read_frame(m, s->frame, page) && page_checksum(pgno, page, m->page_size) == sum) ||
           (s->before && read_frame(m, s->before, page) && page_checksum(pgno, page, m->page_size) == sum);
}
