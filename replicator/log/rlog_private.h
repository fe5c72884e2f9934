/* Inside the log: what rlog.c, rlog_append.c, rlog_sync.c, rlog_recover.c, rlog_segment.c and rlog_cursor.c share.
 *
 * Files of a log directory
 *   NNNNNNNNNNNNNNNN.log  a segment: whole records back to back; the name is the LSN of the first, in hex. The
 *                         newest one is preallocated, so zeros follow its last record. A segment that is closed and
 *                         durable is cut to its real length and made read-only ("sealed"): recovery trusts sealed
 *                         segments and scans the others.
 *   base                  the position that the last rlog_reset gave, text; what an empty log continues.
 *
 * Locks, in the order in which they are taken
 *   files   one rlog_sync or rlog_reset at a time: who closes descriptors of segments. Held across disk waits.
 *   trim    one rlog_trim or rlog_reset at a time: who deletes segments. Held across unlink.
 *   lock    all that readers look at. Never held across a system call, so that rlog_last costs some ns.
 *
 * The writer's own fields have no lock: there is one writer at a time by contract. It alone changes `last` of the log and
 * `end` and `last` of the newest segment, under `lock`, and so may read them without. */
#ifndef EDGEFS_RLOG_PRIVATE_H
#define EDGEFS_RLOG_PRIVATE_H

#include "lib/util.h"
#include "replicator/log/rlog.h"
#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

#define RLOG_BUFFER (256u * 1024) /* payload bytes up to which a record is written in one piece */
/* Written ahead of the end of the newest segment, as zeros. On ext4 a write into preallocated but never
 * written blocks makes the next fdatasync wait for a journal commit (141 µs with records of 4.5 KB; 83 µs
 * into blocks that were written before). */
#define RLOG_ZERO_AHEAD (128u * 1024)
#define RLOG_INDEX_STRIDE (64u * 1024) /* least distance of entries of a sparse index */
#define RLOG_INDEX_ENTRIES 1024u       /* a segment of segment_size has about so many at most */
#define RLOG_INDEXED_MAX 32u           /* closed segments that keep an index in memory */
#define RLOG_UNSEALED_MAX 2u           /* closed segments that may wait for their fdatasync */
#define RLOG_SCAN_BUFFER (64u * 1024)
#define RLOG_SEGMENT_NAME_SIZE 21 /* 16 digits, ".log", NUL */

/* The system calls whose failure a test wants to choose; tests replace the pointer while no log is in use. */
struct rlog_io {
    int (*open_at)(int dirfd, const char *name, int flags, mode_t mode);
    ssize_t (*pwrite_at)(int fd, const void *p, size_t n, off_t offset);
    int (*allocate)(int fd, int mode, off_t offset, off_t len);
    int (*truncate_to)(int fd, off_t size);
    int (*sync_data)(int fd);
    int (*sync_all)(int fd);
    int (*unlink_at)(int dirfd, const char *name, int flags);
};
extern const struct rlog_io *rlog_io;
extern const struct rlog_io rlog_io_system;

/* Where some records of a segment begin, in ascending order. The segment's first record is never in it. */
struct rlog_index {
    struct rlog_index_entry {
        uint64_t lsn;
        int64_t offset;
    } *entries;
    size_t n, room;
    int64_t next; /* a record that begins here or later becomes an entry */
    int64_t stride;
};

struct rlog_segment {
    uint64_t first;    /* LSN; the file's name; constant */
    uint64_t last;     /* first - 1: no record yet */
    int64_t end;       /* bytes of whole records */
    uint64_t first_us; /* timestamp of its first record */
    bool indexed;      /* index is complete up to `end` */
    struct rlog_index index;
    uint64_t index_used; /* rlog.index_clock at its last use */
    /* Of segments that are not sealed; fd is closed only by who holds `files`. */
    int fd;             /* read-write; -1: sealed */
    int64_t synced_end; /* bytes known to be durable */
    bool suspect; /* an fdatasync failed: the kernel may have dropped what was written since synced_end */
};

struct rlog {
    /* constant */
    char *dir;
    int dirfd;
    struct rlog_options o;

    pthread_mutex_t files, trim;

    pthread_mutex_t lock; /* this block */
    /* ascending, without gaps between their LSNs; the last one is the newest */
    struct rlog_segment **segments;
    size_t n_segments, room;
    struct position last;
    uint64_t bytes;
    uint64_t durable;
    uint64_t generation; /* +1 at each reset */
    uint64_t index_clock;
    bool dir_dirty; /* the directory has entries that are not durable */

    /* the writer's */
    bool resetting; /* a reset was begun and its files are not gone yet */
    bool begun;
    bool in_group; /* the last record has RECORD_MORE */
    bool streaming; /* parts of the payload are in the file already */
    struct record_head head;
    size_t head_size;
    uint64_t payload_len;
    uint32_t payload_crc;
    uint8_t *buf;      /* head_size bytes for the header, then up to RLOG_BUFFER of payload */
    size_t buffered;   /* of payload in buf */
    bool tail_dirty;   /* the newest segment may have bytes of an aborted record behind its end */
    int64_t allocated; /* of the newest segment: bytes preallocated */
    int64_t zeroed;    /* of the newest segment: bytes written, zeros included */
};

/* ---- rlog_segment.c ---- */
void rlog_segment_name(uint64_t first, char name[RLOG_SEGMENT_NAME_SIZE]);
/* False if name is not exactly a segment's. */
bool rlog_segment_parse(const char *name, uint64_t *first);
struct rlog_segment *rlog_segment_new(const struct rlog *l, uint64_t first);
void rlog_segment_free(struct rlog_segment *s); /* closes fd; NULL is fine */

/* 0 or -errno with the file's name in e; -ENOENT too. */
int rlog_segment_open(const struct rlog *l, uint64_t first, int flags, int *fd, struct err *e);

/* Appends to / looks up in the array; `lock` held. find: the segment that lsn would be in, NULL if it is
 * before all of them. */
int rlog_segments_add(struct rlog *l, struct rlog_segment *s);
struct rlog_segment *rlog_segments_find(const struct rlog *l, uint64_t lsn);
static inline struct rlog_segment *rlog_newest(const struct rlog *l)
{
    return l->n_segments ? l->segments[l->n_segments - 1] : NULL;
}

void rlog_index_init(struct rlog_index *x, uint64_t segment_size);
/* Notes a record if it is time for an entry. Without memory the index just has fewer entries. */
void rlog_index_note(struct rlog_index *x, uint64_t lsn, int64_t offset);
/* Forgets entries of records from lsn on. */
void rlog_index_cut(struct rlog_index *x, uint64_t lsn);
/* The last entry whose LSN is at most lsn, or NULL: the start of the segment. */
const struct rlog_index_entry *rlog_index_by_lsn(const struct rlog_index *x, uint64_t lsn);
/* The last entry whose offset is at most offset, or NULL. */
const struct rlog_index_entry *rlog_index_by_offset(const struct rlog_index *x, int64_t offset);

/* Walks over the records of one file. Fields but buf are set by the caller. */
struct rlog_scan {
    int fd;         /* the caller's */
    int64_t offset; /* of the next record */
    int64_t end;    /* bytes from here on are nobody's */
    uint64_t lsn;   /* that the next record must have */
    uint8_t *buf;   /* RLOG_SCAN_BUFFER bytes */
    int64_t buf_offset;
    size_t buf_len;
    const char *damage; /* after ERR_CORRUPT: what is wrong with the record at offset */
    bool blank;         /* … and that it begins with zeros, as unused preallocated space does */
};
int rlog_scan_init(struct rlog_scan *s, int fd, int64_t offset, int64_t end, uint64_t lsn, struct err *e);
void rlog_scan_free(struct rlog_scan *s);
/* 1: *h is the header of the record at *start (header offset), offset and lsn moved behind it. 0: offset has
 * reached end. ERR_CORRUPT: see damage, nothing moved, e untouched. -errno: reading failed, e untouched. With
 * payload its CRC is checked. */
int rlog_scan_next(struct rlog_scan *s, bool payload, struct record_head *h, int64_t *start);

/* Checks the CRC of a payload in a file. Returns 0, ERR_CORRUPT or -errno. buf: scratch of size bytes. */
int rlog_payload_check(int fd, int64_t offset, uint32_t len, uint32_t crc, uint32_t want, uint8_t *buf,
                       size_t size);

/* Reads up to n bytes, whole unless the file ends. Bytes read or -errno. */
ssize_t rlog_pread(int fd, void *p, size_t n, int64_t offset);
/* 0 or -errno; part of it may have been written. */
int rlog_pwrite(int fd, const void *p, size_t n, int64_t offset);

/* ---- rlog_recover.c ---- */
/* Fills in a new log from its directory. */
int rlog_recover(struct rlog *l, struct err *e);
/* Deletes all segment files, then says in `base` that the reset to l->last is complete. */
int rlog_reset_finish(struct rlog *l, struct err *e);
/* Writes `base`. */
int rlog_base_write(struct rlog *l, struct position pos, bool resetting, struct err *e);

/* ---- rlog_append.c ---- */
/* Gives back what an aborted record left behind the end of the newest segment and preallocates again. */
int rlog_tail_clean(struct rlog *l, struct err *e);

/* ---- rlog_sync.c ---- */
/* Makes one closed, durable segment's file say so and closes its fd. `files` held. */
int rlog_seal(struct rlog *l, struct rlog_segment *s, struct err *e);

/* ---- rlog_cursor.c ---- */
/* Drops the indexes that were not used for longest, beyond RLOG_INDEXED_MAX; `lock` held. */
void rlog_index_evict(struct rlog *l);

#endif
