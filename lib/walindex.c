#include "lib/walindex.h"

#include "lib/util.h"
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* The layout is described at the end of walindex.h's opening comment. */
#define VERSION 3007000u
#define REGION_SIZE 32768u
#define FILE_PAGE 4096u        /* a new region is written once in each of these, see grow() */
#define N_ENTRY 4096u          /* frames of a region … */
#define N_ENTRY_FIRST 4062u    /* … and of the first one, whose headers take the room of 34 */
#define N_SLOT 8192u           /* of a hash table; a power of two, and twice N_ENTRY: never full */
#define HASH_OFFSET (REGION_SIZE - N_SLOT * (uint32_t)sizeof(uint16_t))
#define HEADER_WORDS 12u
#define READMARK_NOT_USED 0xffffffffu
#define READ_TRIES 100

struct shm_header {
    uint32_t version;
    uint32_t unused;
    uint32_t change;
    uint8_t is_init;
    uint8_t big_endian_cksum;
    uint16_t page_size; /* 65536 as 1 */
    uint32_t max_frame;
    uint32_t page_count;
    uint32_t frame_cksum[2];
    uint32_t salt[2]; /* big-endian */
    uint32_t cksum[2];
};

struct shm_info {
    uint32_t backfill;
    uint32_t read_mark[WALINDEX_N_READERS];
    uint8_t lock[8];
    uint32_t backfill_attempted;
    uint32_t unused;
};

struct shm_first {
    uint32_t header[2][HEADER_WORDS]; /* two struct shm_header, accessed word by word */
    struct shm_info info;
};

_Static_assert(sizeof(struct shm_header) == HEADER_WORDS * 4, "WalIndexHdr is 48 bytes");
_Static_assert(offsetof(struct shm_first, info.lock) == WALINDEX_WRITE_LOCK, "aLock is at byte 120");
_Static_assert(sizeof(struct shm_first) == (N_ENTRY - N_ENTRY_FIRST) * 4, "headers take the room of 34 entries");

struct walindex {
    int fd; /* the caller's */
    bool writable;
    uint32_t n_regions; /* length of region[] */
    uint8_t **region;   /* NULL: not mapped yet */
};

/* The part of one region that the hash functions work on. */
struct table {
    uint32_t *pgno; /* pgno[i]: page of frame zero + 1 + i */
    uint16_t *slot; /* 0: free; else 1 + index in pgno */
    uint32_t zero;  /* the frame before the first one of this region */
    uint32_t n;     /* entries */
};

/* SQLite extends the file by writing, not by ftruncate: a disk that is full says so here, instead of by a SIGBUS at the
 * first store into a hole. */
static int grow(struct walindex *w, int64_t have, int64_t want, struct err *e)
{
    for (int64_t at = have - have % FILE_PAGE; at < want; at += FILE_PAGE) {
        ssize_t n = pwrite(w->fd, "", 1, at + FILE_PAGE - 1);
        if (n < 0 && errno == EINTR) {
            at -= FILE_PAGE;
            continue;
        }
        if (n != 1)
            return err_errno(e, n < 0 ? errno : ENOSPC, "wal-index: cannot grow to %lld bytes", (long long)want);
    }
    return 0;
}

static int map_region(struct walindex *w, uint32_t k, struct err *e)
{
    struct stat st;
    int64_t offset = (int64_t)k * REGION_SIZE, end = offset + REGION_SIZE;
    if (fstat(w->fd, &st) < 0)
        return err_errno(e, errno, "wal-index: fstat");
    if (st.st_size < end) {
        if (!w->writable || st.st_size < REGION_SIZE)
            return err_set(e, ERR_AGAIN_LATER, "wal-index: has %lld bytes, region %u ends at %lld",
                           (long long)st.st_size, k, (long long)end);
        int rc = grow(w, st.st_size, end, e);
        if (rc < 0)
            return rc;
    }
    if (k >= w->n_regions) {
        uint32_t n = MAX(k + 1, w->n_regions * 2);
        uint8_t **region = reallocarray(w->region, n, sizeof *region);
        if (!region)
            return err_errno(e, ENOMEM, "wal-index: table of %u regions", n);
        memset(region + w->n_regions, 0, (n - w->n_regions) * sizeof *region);
        w->region = region;
        w->n_regions = n;
    }
    void *p = mmap(NULL, REGION_SIZE, w->writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, w->fd, offset);
    if (p == MAP_FAILED)
        return err_errno(e, errno, "wal-index: mmap of region %u", k);
    w->region[k] = p;
    return 0;
}

static uint32_t region_of(uint32_t frame)
{
    return frame <= N_ENTRY_FIRST ? 0 : (frame - N_ENTRY_FIRST - 1) / N_ENTRY + 1;
}

static int table_get(struct walindex *w, uint32_t k, struct table *t, struct err *e)
{
    if (k >= w->n_regions || !w->region[k]) {
        int rc = map_region(w, k, e);
        if (rc < 0)
            return rc;
    }
    uint8_t *base = w->region[k];
    size_t skip = k == 0 ? sizeof(struct shm_first) : 0;
    t->pgno = (void *)(base + skip);
    t->slot = (void *)(base + HASH_OFFSET);
    t->zero = k == 0 ? 0 : N_ENTRY_FIRST + (k - 1) * N_ENTRY;
    t->n = k == 0 ? N_ENTRY_FIRST : N_ENTRY;
    return 0;
}

static uint32_t hash_of(uint32_t pgno)
{
    return pgno * 383u & (N_SLOT - 1);
}

static struct shm_first *first(const struct walindex *w)
{
    return (void *)w->region[0];
}

int walindex_open(int fd, bool writable, struct walindex **out, struct err *e)
{
    struct walindex *w = calloc(1, sizeof *w);
    if (!w)
        return err_errno(e, ENOMEM, "wal-index");
    w->fd = fd;
    w->writable = writable;
    int rc = map_region(w, 0, e);
    if (rc < 0) {
        walindex_close(w);
        return rc;
    }
    *out = w;
    return 0;
}

void walindex_close(struct walindex *w)
{
    if (!w)
        return;
    for (uint32_t k = 0; k < w->n_regions; k++)
        if (w->region[k])
            munmap(w->region[k], REGION_SIZE);
    free(w->region);
    free(w);
}

/* SQLite's walChecksumBytes over the header but its last two words, always of native byte order. */
static void header_checksum(const uint32_t words[HEADER_WORDS], uint32_t out[2])
{
    static const uint32_t zero[2];
    wal_checksum(__BYTE_ORDER == __BIG_ENDIAN, words, (HEADER_WORDS - 2) * sizeof *words, zero, out);
}

/* Page size 0 is right as long as no transaction was ever written to this WAL. */
static bool header_plausible(const struct shm_header *s, uint32_t page_size)
{
    if (s->version != VERSION)
        return false;
    if (page_size == 0)
        return s->max_frame == 0;
    return page_size >= 512 && (page_size & (page_size - 1)) == 0;
}

/* One try to copy the header: true if both copies were equal. The acquire loads keep the order "first copy, then second". */
static bool copies_equal(const struct shm_first *f, uint32_t words[HEADER_WORDS])
{
    uint32_t differ = 0;
    for (uint32_t i = 0; i < HEADER_WORDS; i++)
        words[i] = __atomic_load_n(&f->header[0][i], __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < HEADER_WORDS; i++)
        differ |= words[i] ^ __atomic_load_n(&f->header[1][i], __ATOMIC_ACQUIRE);
    return differ == 0;
}

static int decode(const uint32_t words[HEADER_WORDS], struct walindex_header *h)
{
    uint32_t sum[2];
    struct shm_header s;
    memcpy(&s, words, sizeof s);
    if (!s.is_init)
        return ERR_AGAIN_LATER;
    header_checksum(words, sum);
    uint32_t page_size = (s.page_size & 0xfe00u) + ((s.page_size & 1u) << 16);
    if (sum[0] != s.cksum[0] || sum[1] != s.cksum[1] || !header_plausible(&s, page_size))
        return ERR_CORRUPT;
    *h = (struct walindex_header){
        .version = s.version,
        .change = s.change,
        .initialized = true,
        .big_endian_cksum = s.big_endian_cksum != 0,
        .page_size = page_size,
        .max_frame = s.max_frame,
        .page_count = s.page_count,
        .frame_cksum = {s.frame_cksum[0], s.frame_cksum[1]},
        .salt1 = be32toh(s.salt[0]),
        .salt2 = be32toh(s.salt[1]),
    };
    return 0;
}

int walindex_read(const struct walindex *w, struct walindex_header *h)
{
    uint32_t words[HEADER_WORDS];
    int tries = 0;
    while (!copies_equal(first(w), words))
        if (++tries == READ_TRIES)
            return ERR_AGAIN_LATER;
    return decode(words, h);
}

int walindex_read_before(const struct walindex *w, struct walindex_header *h)
{
    uint32_t words[HEADER_WORDS], differ = 0;
    const struct shm_first *f = first(w);
    for (uint32_t i = 0; i < HEADER_WORDS; i++)
        words[i] = __atomic_load_n(&f->header[0][i], __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < HEADER_WORDS; i++)
        differ |= words[i] ^ __atomic_load_n(&f->header[0][i], __ATOMIC_ACQUIRE);
    return differ || decode(words, h) ? ERR_AGAIN_LATER : 0;
}

int walindex_decode(const uint8_t buf[WALINDEX_HEADERS_SIZE], struct walindex_header *h)
{
    uint32_t words[2][HEADER_WORDS];
    memcpy(words, buf, sizeof words);
    return memcmp(words[0], words[1], sizeof words[0]) ? ERR_AGAIN_LATER : decode(words[0], h);
}

/* Newest frame ≤ max_frame of the table that holds pgno; 0: none; UINT32_MAX: no free slot ends the search, which cannot be.
 * What lies in shared memory is not trusted: an index beyond the table is skipped, a probe is bounded. */
static uint32_t table_find(const struct table *t, uint32_t pgno, uint32_t max_frame)
{
    uint32_t found = 0, key = hash_of(pgno);
    for (uint32_t probes = 0; probes < N_SLOT; probes++, key = (key + 1) & (N_SLOT - 1)) {
        uint32_t index = __atomic_load_n(&t->slot[key], __ATOMIC_ACQUIRE);
        if (index == 0)
            return found;
        uint32_t frame = t->zero + index;
        if (index <= t->n && frame <= max_frame && frame > found &&
            __atomic_load_n(&t->pgno[index - 1], __ATOMIC_RELAXED) == pgno)
            found = frame;
    }
    return UINT32_MAX;
}

uint32_t walindex_find(struct walindex *w, uint32_t pgno, uint32_t max_frame, struct err *e)
{
    if (max_frame == 0)
        return 0;
    for (uint32_t k = region_of(max_frame) + 1; k-- > 0;) {
        struct table t;
        if (table_get(w, k, &t, e) < 0)
            return UINT32_MAX;
        uint32_t frame = table_find(&t, pgno, max_frame);
        if (frame == UINT32_MAX)
            err_set(e, ERR_CORRUPT, "wal-index: hash table of region %u has no free slot", k);
        if (frame != 0)
            return frame;
    }
    return 0;
}

uint32_t walindex_backfilled(const struct walindex *w)
{
    return __atomic_load_n(&first(w)->info.backfill, __ATOMIC_ACQUIRE);
}

uint32_t walindex_read_mark(const struct walindex *w, int i)
{
    return __atomic_load_n(&first(w)->info.read_mark[i], __ATOMIC_ACQUIRE);
}

/* ---- writing ---- */

/* Readers may look into the table meanwhile, but only for frames ≤ limit, which stay as they are: entries of other frames that are
 * freed make their probe sequences end early only where nothing of theirs followed, because slots are filled in the order
 * of the frames. */
static void table_cut(struct table *t, uint32_t limit)
{
    for (uint32_t i = 0; i < N_SLOT; i++)
        if (t->slot[i] > limit)
            __atomic_store_n(&t->slot[i], 0, __ATOMIC_RELAXED);
    memset(t->pgno + limit, 0, (t->n - limit) * sizeof *t->pgno);
}

int walindex_append(struct walindex *w, uint32_t frame, uint32_t pgno, struct err *e)
{
    struct table t;
    if (frame == 0 || pgno == 0)
        return err_set(e, -EINVAL, "wal-index: frame %u of page %u", frame, pgno);
    int rc = table_get(w, region_of(frame), &t, e);
    if (rc < 0)
        return rc;
    uint32_t index = frame - t.zero;
    /* The first frame of a region finds what an earlier run of the WAL left there; any other may find what a writer left that
     * rolled back or died. */
    if (index == 1 || t.pgno[index - 1] != 0)
        table_cut(&t, index - 1);
    if (index > 1 && t.pgno[index - 2] == 0)
        return err_set(e, ERR_CORRUPT, "wal-index: frame %u has no entry, cannot append %u", frame - 1, frame);
    uint32_t key = hash_of(pgno);
    for (uint32_t probes = 0; t.slot[key] != 0; key = (key + 1) & (N_SLOT - 1))
        if (++probes > index)
            return err_set(e, ERR_CORRUPT, "wal-index: hash table of frame %u is overfull", frame);
    __atomic_store_n(&t.pgno[index - 1], pgno, __ATOMIC_RELAXED);
    __atomic_store_n(&t.slot[key], (uint16_t)index, __ATOMIC_RELEASE);
    return 0;
}

/* A failure to map is left alone: walindex_append meets the same stale entries, and the same failure, later. */
void walindex_cleanup(struct walindex *w, uint32_t max_frame)
{
    struct table t;
    if (max_frame != 0 && table_get(w, region_of(max_frame), &t, NULL) == 0)
        table_cut(&t, max_frame - t.zero);
}

static void header_words(const struct walindex_header *h, uint32_t words[HEADER_WORDS])
{
    struct shm_header s = {
        .version = VERSION,
        .change = h->change,
        .is_init = 1,
        .big_endian_cksum = h->big_endian_cksum,
        .page_size = (uint16_t)((h->page_size & 0xff00u) | (h->page_size >> 16)),
        .max_frame = h->max_frame,
        .page_count = h->page_count,
        .frame_cksum = {h->frame_cksum[0], h->frame_cksum[1]},
        .salt = {htobe32(h->salt1), htobe32(h->salt2)},
    };
    memcpy(words, &s, sizeof s);
    header_checksum(words, words + HEADER_WORDS - 2);
}

/* Release: whoever sees a word of a copy sees all that was written before it: hash entries, then second copy, then first. */
static void store_copy(struct walindex *w, int copy, const struct walindex_header *h)
{
    uint32_t words[HEADER_WORDS];
    header_words(h, words);
    for (uint32_t i = 0; i < HEADER_WORDS; i++)
        __atomic_store_n(&first(w)->header[copy][i], words[i], __ATOMIC_RELEASE);
}

void walindex_publish_begin(struct walindex *w, const struct walindex_header *h)
{
    store_copy(w, 1, h);
}

void walindex_publish_end(struct walindex *w, const struct walindex_header *h)
{
    store_copy(w, 0, h);
}

void walindex_publish(struct walindex *w, const struct walindex_header *h)
{
    walindex_publish_begin(w, h);
    walindex_publish_end(w, h);
}

void walindex_restart(struct walindex *w, struct walindex_header *h, uint32_t new_salt2)
{
    struct shm_info *info = &first(w)->info;
    h->max_frame = 0;
    h->salt1++;
    h->salt2 = new_salt2;
    walindex_publish(w, h);
    __atomic_store_n(&info->backfill, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&info->backfill_attempted, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&info->read_mark[1], 0, __ATOMIC_RELEASE);
    for (int i = 2; i < WALINDEX_N_READERS; i++)
        __atomic_store_n(&info->read_mark[i], READMARK_NOT_USED, __ATOMIC_RELEASE);
}

int walindex_repair(struct walindex *w, struct err *e)
{
    struct shm_first *f = first(w);
    struct walindex_header h;
    if (walindex_read(w, &h) == 0)
        return 0;
    for (int copy = 1; copy >= 0; copy--) {
        uint32_t words[HEADER_WORDS], sum[2];
        for (uint32_t i = 0; i < HEADER_WORDS; i++)
            words[i] = __atomic_load_n(&f->header[copy][i], __ATOMIC_ACQUIRE);
        header_checksum(words, sum);
        if (words[0] != VERSION || memcmp(sum, words + HEADER_WORDS - 2, sizeof sum))
            continue;
        for (int k = 1; k >= 0; k--)
            for (uint32_t i = 0; i < HEADER_WORDS; i++)
                __atomic_store_n(&f->header[k][i], words[i], __ATOMIC_RELEASE);
        return walindex_read(w, &h) == 0 ? 0 : err_set(e, ERR_CORRUPT, "wal-index: not initialized");
    }
    return err_set(e, ERR_CORRUPT, "wal-index: neither copy of its header checks");
}
