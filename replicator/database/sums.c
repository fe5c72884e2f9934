#include "replicator/database/sums.h"

#include "lib/crc.h"
#include "lib/log.h"
#include "lib/util.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define SUMS_MAGIC 0x33534d5553464445ull /* "EDFSUMS3" */
#define SUMS_DATA 4096u
#define SUMS_GROW_PAGES 512u /* entries; 4 KiB: there may be ten thousand small databases */

struct sums_file_header {
    uint64_t magic;
    struct dbstate state;
    uint64_t updating_from, updating_to; /* equal to state.lsn when nothing is being entered */
    uint64_t rename_lsn; /* 0: no rename is under way */
    uint32_t name_len, rename_len;
    uint32_t moving; /* see sums_begin_rename */
    uint32_t reserved;
    char name[LAYOUT_NAME_MAX + 1];
    char rename_to[LAYOUT_NAME_MAX + 1];
};
_Static_assert(sizeof(struct sums_file_header) <= SUMS_DATA, "header fits its page");

struct sums {
    int fd;
    size_t size; /* of file and mapping */
    union {
        struct sums_file_header *h;
        uint8_t *map;
    };
};

static void file_name(const char *name, char buf[32])
{
    /* A name may be longer than a directory entry; the header holds it in full, so a collision of hashes is noticed
     * (and costs a comparison with the database, nothing else). */
    snprintf(buf, 32, "%016llx.sums", (unsigned long long)crc64_iso(0, name, strlen(name)));
}

static uint64_t *entries(const struct sums *s)
{
    return (uint64_t *)(void *)(s->map + SUMS_DATA);
}

static uint32_t capacity(const struct sums *s)
{
    return (uint32_t)((s->size - SUMS_DATA) / sizeof(uint64_t));
}

static int start_afresh(struct sums *s, const char *name, struct err *e)
{
    size_t size = SUMS_DATA;
    if (ftruncate(s->fd, 0) || posix_fallocate(s->fd, 0, (off_t)size))
        return err_errno(e, errno ? errno : ENOSPC, "allocate the checksum file of %s", name);
    if (s->map)
        munmap(s->map, s->size);
    s->map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
    if (s->map == MAP_FAILED) {
        s->map = NULL;
        return err_errno(e, errno, "map the checksum file of %s", name);
    }
    s->size = size;
    s->h->magic = SUMS_MAGIC;
    s->h->name_len = (uint32_t)strlen(name);
    memcpy(s->h->name, name, strlen(name) + 1);
    return 0;
}

int sums_open(int dirfd, const char *name, struct sums **out, struct err *e)
{
    char file[32];
    file_name(name, file);
    struct sums *s = calloc(1, sizeof *s);
    if (!s)
        return err_errno(e, ENOMEM, "checksums of %s", name);
    int rc;
    s->fd = openat(dirfd, file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat st;
    if (s->fd < 0 || fstat(s->fd, &st)) {
        rc = err_errno(e, errno, "open the checksum file %s of %s", file, name);
        goto fail;
    }
    bool good = st.st_size >= (off_t)SUMS_DATA && st.st_size % 8 == 0;
    if (good) {
        s->size = (size_t)st.st_size;
        s->map = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
        if (s->map == MAP_FAILED) {
            s->map = NULL;
            rc = err_errno(e, errno, "map the checksum file of %s", name);
            goto fail;
        }
        good = s->h->magic == SUMS_MAGIC && s->h->name_len == strlen(name) && s->h->name_len <= LAYOUT_NAME_MAX &&
               !memcmp(s->h->name, name, s->h->name_len) && s->h->state.commit <= capacity(s);
    }
    rc = good ? 0 : start_afresh(s, name, e);
    if (rc)
        goto fail;
    *out = s;
    return 0;
fail:
    if (s->map)
        munmap(s->map, s->size);
    if (s->fd >= 0)
        close(s->fd);
    free(s);
    return rc;
}

void sums_close(struct sums *s)
{
    if (!s)
        return;
    munmap(s->map, s->size);
    close(s->fd);
    free(s);
}

void sums_remove(int dirfd, const char *name)
{
    char file[32];
    file_name(name, file);
    if (unlinkat(dirfd, file, 0) && errno != ENOENT)
        log_warn("sums", "cannot remove the checksum file %s of %s: %s", file, name, err_name(errno));
}

int sums_sync(int dirfd, const char *name)
{
    char file[32];
    file_name(name, file);
    _cleanup_fd_ int fd = openat(dirfd, file, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    return fsync(fd) ? -errno : 0;
}

static bool header_good(const struct sums_file_header *h)
{
    return h->magic == SUMS_MAGIC && h->name_len >= 1 && h->name_len <= LAYOUT_NAME_MAX && h->rename_len <= LAYOUT_NAME_MAX;
}

static void set_name(struct sums_file_header *h, const char *name, size_t n)
{
    memmove(h->name, name, n);
    h->name[n] = 0;
    h->name_len = (uint32_t)n;
    /* Now, and not a moment later: killed in between, it would look as if the record was yet to be applied. */
    if (h->rename_lsn && h->updating_to == h->state.lsn)
        h->state.lsn = h->updating_from = h->updating_to = h->rename_lsn;
    h->rename_lsn = 0;
    h->rename_len = h->moving = 0;
}

/* Killed between the two steps of sums_rename: the file has its new name, and the header the old one. False: neither fits the file's name. */
static bool finish_rename(int fd, struct sums_file_header *h, const char *found)
{
    char file[32];
    h->name[h->name_len] = 0;
    file_name(h->name, file);
    if (!strcmp(file, found))
        return true;
    h->rename_to[h->rename_len] = 0;
    file_name(h->rename_to, file);
    if (!h->rename_lsn || strcmp(file, found))
        return false;
    set_name(h, h->rename_to, h->rename_len);
    return pwrite(fd, h, sizeof *h, 0) == (ssize_t)sizeof *h;
}

int sums_each(int dirfd, int (*fn)(void *ctx, const struct sums_info *info), void *ctx)
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            close(fd);
        return -errno;
    }
    struct dirent *de;
    while (!rc && (de = readdir(d))) {
        struct sums_file_header h;
        struct sums_info info = {0};
        size_t n = strlen(de->d_name);
        if (n < 5 || strcmp(de->d_name + n - 5, ".sums") != 0)
            continue;
        _cleanup_fd_ int f = openat(fd, de->d_name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (f < 0 || pread(f, &h, sizeof h, 0) != (ssize_t)sizeof h || !header_good(&h) || !finish_rename(f, &h, de->d_name))
            continue;
        memcpy(info.name, h.name, h.name_len);
        memcpy(info.rename_to, h.rename_to, h.rename_len);
        info.state = h.state;
        info.rename_lsn = h.rename_lsn;
        info.moving = h.moving != 0;
        info.unfinished = h.updating_to != h.state.lsn;
        rc = fn(ctx, &info);
    }
    closedir(d);
    return rc;
}

void sums_begin_rename(struct sums *s, const char *to, uint64_t lsn, bool moves)
{
    size_t n = strlen(to);
    memcpy(s->h->rename_to, to, n);
    s->h->rename_len = (uint32_t)n;
    s->h->moving = moves;
    atomic_thread_fence(memory_order_release);
    s->h->rename_lsn = lsn;
}

int sums_rename(int dirfd, struct sums *s, const char *to, struct err *e)
{
    char from_file[32], to_file[32];
    file_name(s->h->name, from_file);
    file_name(to, to_file);
    if (renameat(dirfd, from_file, dirfd, to_file))
        return err_errno(e, errno, "rename the checksum file of %s", s->h->name);
    set_name(s->h, to, strlen(to));
    return 0;
}

const struct dbstate *sums_state(const struct sums *s)
{
    return &s->h->state;
}

bool sums_unfinished(const struct sums *s, uint64_t *from, uint64_t *to)
{
    if (s->h->updating_to == s->h->state.lsn)
        return false;
    *from = s->h->updating_from;
    *to = s->h->updating_to;
    return true;
}

uint64_t sums_get(const struct sums *s, uint32_t pgno)
{
    return pgno >= 1 && pgno <= s->h->state.commit ? entries(s)[pgno - 1] : 0;
}

const uint64_t *sums_array(const struct sums *s, uint32_t *n)
{
    *n = s->h->state.commit;
    return entries(s);
}

int sums_reserve(struct sums *s, uint32_t commit, struct err *e)
{
    if (commit > capacity(s)) {
        /* An eighth more than asked for, so that a growing database does not come here for every page. */
        uint64_t want = (uint64_t)commit + commit / 8;
        size_t size = SUMS_DATA + (size_t)(want / SUMS_GROW_PAGES * SUMS_GROW_PAGES + SUMS_GROW_PAGES) * sizeof(uint64_t);
        int rc = posix_fallocate(s->fd, (off_t)s->size, (off_t)(size - s->size));
        if (rc)
            return err_errno(e, rc, "grow the checksum file of %s to %zu bytes", s->h->name, size);
        void *m = mremap(s->map, s->size, size, MREMAP_MAYMOVE);
        if (m == MAP_FAILED)
            return err_errno(e, errno, "map the checksum file of %s", s->h->name);
        s->map = m;
        s->size = size;
    }
    return 0;
}

int sums_begin(struct sums *s, uint64_t from_lsn, uint64_t to_lsn, uint32_t commit, struct err *e)
{
    int rc = sums_reserve(s, commit, e);
    if (rc)
        return rc;
    s->h->updating_from = from_lsn;
    s->h->updating_to = to_lsn;
    atomic_thread_fence(memory_order_release);
    return 0;
}

void sums_mark_torn(struct sums *s)
{
    s->h->state.torn = 1;
    s->h->state.file = (struct filestamp){0};
    atomic_thread_fence(memory_order_release);
}

void sums_set(struct sums *s, uint32_t pgno, uint64_t checksum)
{
    if (pgno >= 1 && pgno <= capacity(s))
        entries(s)[pgno - 1] = checksum;
}

void sums_commit(struct sums *s, const struct dbstate *st)
{
    if (st->commit < s->h->state.commit)
        memset(entries(s) + st->commit, 0, (size_t)(s->h->state.commit - st->commit) * sizeof(uint64_t));
    atomic_thread_fence(memory_order_release);
    s->h->state = *st;
    s->h->updating_from = s->h->updating_to = st->lsn;
    s->h->state.torn = 0;
}

void sums_touch(struct sums *s, const struct dbstate *st)
{
    s->h->state = *st;
    s->h->updating_from = s->h->updating_to = st->lsn;
}

uint64_t sums_total(const struct sums *s, uint32_t commit, uint32_t page_size)
{
    uint64_t x = 0;
    uint32_t lock = lock_pgno(page_size);
    uint32_t n = MIN(commit, capacity(s));
    for (uint32_t i = 0; i < n; i++)
        if (i + 1 != lock)
            x ^= entries(s)[i];
    return x | CHECKSUM_FLAG;
}
