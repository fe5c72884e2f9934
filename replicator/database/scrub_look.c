#include "replicator/database/scrub.h"

#include "lib/crc.h"
#include "lib/sqlitefile.h"
#include "lib/util.h"
#include "lib/walindex.h"
#include "replicator/apply/apply_file.h"
#include "replicator/capture/capture_file.h"
#include "replicator/database/walmap.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/uio.h>

#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x80 /* Linux 6.14: what was not in the cache before is not kept there */
#endif

struct scrub_look {
    int fd;
    int flags; /* of preadv2 */
    uint32_t page_size;
    struct walmap *wal; /* NULL: none that counts */
};

/* Everything in the WAL is in the database file, too: then the file alone is read by whoever begins now, and it is what has to be right. Asked of the
 * wal-index that capture, or apply, has mapped (without passthrough the file behind the mount is not what is mapped). It may move on while we look:
 * then a page is looked at again. */
static bool wal_is_copied(struct node *n, struct database *db)
{
    struct walindex_header h;
    pthread_mutex_lock(&db->lock);
    const struct walindex *w = NULL;
    if (node_role(n) == NODE_REPLICA)
        w = db->apply && db->apply->open ? db->apply->index : NULL;
    else if (db->capture && db->capture->view_open)
        w = db->capture->view.index;
    bool copied = w && !walindex_read(w, &h) && walindex_backfilled(w) >= h.max_frame;
    pthread_mutex_unlock(&db->lock);
    return copied;
}

struct scrub_look *scrub_look_open(struct node *n, struct database *db, uint32_t page_size, struct err *e)
{
    char name[LAYOUT_NAME_MAX + sizeof LAYOUT_WAL];
    struct scrub_look *l = calloc(1, sizeof *l);
    if (!l) {
        err_errno(e, ENOMEM, "scrub");
        return NULL;
    }
    *l = (struct scrub_look){.page_size = page_size, .flags = RWF_DONTCACHE};
    l->fd = openat(n->db_fd, db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (l->fd < 0) {
        err_errno(e, errno, "%s", db->name);
        free(l);
        return NULL;
    }
    snprintf(name, sizeof name, "%s%s", db->name, LAYOUT_WAL);
    if (!wal_is_copied(n, db))
        (void)walmap_open(n->db_fd, name, page_size, &l->wal, NULL); /* without it more pages are looked at again */
    return l;
}

void scrub_look_close(struct scrub_look *l)
{
    if (!l)
        return;
    walmap_close(l->wal);
    close(l->fd);
    free(l);
}

int scrub_look_read(struct scrub_look *l, uint32_t first, uint32_t n, uint8_t *buf)
{
    size_t size = (size_t)n * l->page_size, got = 0;
    while (got < size) {
        struct iovec v = {buf + got, size - got};
        ssize_t k = preadv2(l->fd, &v, 1, (off_t)(first - 1) * l->page_size + (off_t)got, l->flags);
        if (k < 0 && l->flags && (errno == EOPNOTSUPP || errno == EINVAL)) {
            l->flags = 0;
            continue;
        }
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -errno;
        if (k == 0)
            break;
        got += (size_t)k;
    }
    memset(buf + got, 0, size - got); /* pages that are only in the WAL yet */
    return 0;
}

bool scrub_look_good(struct scrub_look *l, uint32_t pgno, uint8_t *page, uint64_t sum)
{
    return page_checksum(pgno, page, l->page_size) == sum || walmap_fit(l->wal, pgno, sum, page);
}

bool scrub_look_in_wal(struct scrub_look *l, uint32_t pgno)
{
    uint8_t page[65536];
    return walmap_read(l->wal, pgno, page);
}

bool scrub_writer_at_work(struct node *n, struct database *db)
{
    pthread_mutex_lock(&db->sqlite); /* closing it must not drop locks of ours: database.h */
    int fd = openat(n->mount_fd, db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = DBLOCK_PENDING, .l_len = DBLOCK_SHARED_FIRST + DBLOCK_SHARED_SIZE - DBLOCK_PENDING};
    bool busy = fd < 0 || fcntl(fd, F_OFD_GETLK, &l) || l.l_type != F_UNLCK;
    if (fd >= 0)
        close(fd);
    pthread_mutex_unlock(&db->sqlite);
    return busy;
}
