/* The wal-index (NAME-shm): https://sqlite.org/walformat.html §2. Native byte order, memory-mapped, shared with every SQLite
 * process that has the database open. Behaves as wal.c of SQLite 3.40 does.
 *
 * The file is made of regions of 32 KiB, each mapped on its own when it is first needed.
 *   region 0:  header, 48 bytes; the same header again; checkpoint info, 40 bytes (nBackfill u32 at 96, aReadMark u32[5] at 100, the
 *              bytes that are locked at 120, nBackfillAttempted u32 at 128, unused u32)
 *              page numbers of frames 1..4062, u32 each; hash table
 *   region k:  page numbers of frames 4062 + 4096 (k - 1) + 1 …, 4096 of them; hash table
 *   hash table: 8192 slots, u16 each, 0: free; else the index (from 1) among the region's frames. Slot of page p: 383 p mod 8192, or the
 *              next free one after it. Of several entries of one page the newest frame counts.
 *
 * Reading takes no lock. Why that is safe:
 *   - Header: the writer stores the second copy first, then the first copy; the reader loads the first copy, then the second.
 *     (Release stores and acquire loads, word by word, keep both orders.) Say the reader's first copy holds a word of a
 *     new header. Then the writer had finished its second copy before, so the reader's second copy is that new header, or a still newer
 *     one. A first copy that mixes old and new, therefore, differs from the second. Copies that are equal are one whole header; its
 *     checksum guards against a writer that died half way through both, and against damage.
 *   - Frames up to a published max_frame: WAL file, page numbers and hash entries of these were stored before the header was (release
 *     and acquire again) and nobody changes them until the WAL restarts. A restart needs READ_LOCK(1..4), so whoever holds one of
 *     these shared is safe; whoever does not compares the salts in the header before and after.
 *   - Entries beyond max_frame may come and go meanwhile (a writer's transaction, its rollback). They are skipped. They were put after
 *     the others in their chains, so that removing them hides nobody else.
 *   - Nothing that lies in the mapping is trusted: indexes are checked, searches are bounded. The mapping itself cannot go away
 *     (SIGBUS) while DMS is held shared.
 *
 * Writing (struct walindex, writable) is done only by who holds WAL_WRITE_LOCK: one at a time, and the order above is kept.
 *
 * Not thread-safe: one struct walindex, one thread at a time. Nothing here blocks, but for page faults. */
#ifndef EDGEFS_WALINDEX_H
#define EDGEFS_WALINDEX_H

#include "lib/err.h"
#include "lib/sqlitefile.h"
#include <stdbool.h>
#include <stdint.h>

/* Byte offsets of the locks in NAME-shm. */
#define WALINDEX_WRITE_LOCK 120
#define WALINDEX_CKPT_LOCK 121
#define WALINDEX_RECOVER_LOCK 122
#define WALINDEX_READ_LOCK(i) (123 + (i)) /* i = 0..4 */
#define WALINDEX_N_READERS 5
#define WALINDEX_DMS_LOCK 128 /* "dead man's switch": shared by everybody who has it mapped */

/* Locks of the database file. https://sqlite.org/lockingv3.html; os.h of SQLite. */
#define DBLOCK_PENDING 0x40000000
#define DBLOCK_RESERVED 0x40000001
#define DBLOCK_SHARED_FIRST 0x40000002
#define DBLOCK_SHARED_SIZE 510

struct walindex_header {
    uint32_t version; /* 3007000 */
    uint32_t change;  /* iChange: +1 for each transaction */
    bool initialized;
    bool big_endian_cksum;
    uint32_t page_size; /* bytes; 0 while nothing was ever written to this WAL (then max_frame is 0 too, salts mean nothing) */
    uint32_t max_frame; /* mxFrame: last valid commit frame; 0: the WAL is empty */
    uint32_t page_count;
    uint32_t frame_cksum[2];
    uint32_t salt1, salt2; /* as numbers, comparable with struct wal_header's (in shm they lie as in the WAL file: big-endian) */
};

struct walindex;

/* Maps fd (a descriptor of NAME-shm, read-write if writable is wanted; stays the caller's, who must keep it open and hold DMS
 * shared on it as long as the walindex lives, so that nobody truncates the file under the mapping). Fails with ERR_AGAIN_LATER when the file is
 * shorter than its first 32 KiB region, or with -errno. *out is the caller's (walindex_close). */
int walindex_open(int fd, bool writable, struct walindex **out, struct err *e);
/* Unmaps; fd stays open, locks stay. NULL is allowed. */
void walindex_close(struct walindex *w);

/* Reads the header: 0; ERR_AGAIN_LATER if the copies differed each time (bounded tries) or it is not initialized; ERR_CORRUPT if
 * they agree and their checksum does not or the version is not ours. Cheap: some tens of ns; called in a loop by capture. */
int walindex_read(const struct walindex *w, struct walindex_header *h);

/* After ERR_AGAIN_LATER: what is published while somebody is just publishing more (and may have lost the processor in its middle, for milliseconds): the first copy, which is the old
 * one until the second is written. 0, or ERR_AGAIN_LATER: it is being written itself, or is no header. */
int walindex_read_before(const struct walindex *w, struct walindex_header *h);

/* The same from the first 96 bytes of NAME-shm as they lie in a file. 0, ERR_AGAIN_LATER (the copies differ, or not initialized), ERR_CORRUPT. */
#define WALINDEX_HEADERS_SIZE 96u
int walindex_decode(const uint8_t buf[WALINDEX_HEADERS_SIZE], struct walindex_header *h);

/* Newest frame ≤ max_frame that holds pgno, or 0 if none. Maps further regions as needed. UINT32_MAX on failure, with e set: -errno,
 * ERR_AGAIN_LATER (the file does not reach that far: not a published max_frame), ERR_CORRUPT. Frames that were already copied into
 * the database file are found too. max_frame must be a published one. Result is right only while the WAL was not restarted meanwhile: the caller compares salts
 * before and after, or holds a lock that keeps it. */
uint32_t walindex_find(struct walindex *w, uint32_t pgno, uint32_t max_frame, struct err *e);

/* Fields of the checkpoint info (after the two headers). */
uint32_t walindex_backfilled(const struct walindex *w);               /* nBackfill: frames already in the database file */
uint32_t walindex_read_mark(const struct walindex *w, int i);         /* aReadMark[i] */

/* ---- writing; the caller holds WALINDEX_WRITE_LOCK exclusively ---- */

/* Enters frame → pgno into the hash tables, as SQLite's walIndexAppend does: frames in ascending order without gaps after the
 * published max_frame; entries of frames beyond it that a writer left behind are cleaned first. Not visible to readers until published.
 * May grow the file through fd, by whole regions, by writing one byte into each 4 KiB: a full disk is an error here (-ENOSPC), not a
 * SIGBUS later. ERR_CORRUPT: the frame before has no entry, or the hash table is overfull. */
int walindex_append(struct walindex *w, uint32_t frame, uint32_t pgno, struct err *e);

/* Forgets hash entries of frames > max_frame in its region (walCleanupHash): after an append that will not be published. Regions beyond
 * it, and all of them if max_frame is 0, need nothing: the first append into a region clears it. */
void walindex_cleanup(struct walindex *w, uint32_t max_frame);

/* Publishes h (computes its checksum; second copy first, then the first copy), with h->change as given by the caller (old + 1).
 * version and initialized are not looked at. The frames must be in the WAL file, and appended here, before. */
void walindex_publish(struct walindex *w, const struct walindex_header *h);

/* The same in two steps, for what is to be seen in several databases at once: after `begin` of all of them nobody can begin a read of any (the copies differ: SQLite's readers try
 * again, at once at first, since the write lock is held and no recovery is under way; wal.c, walTryBeginRead), and after `end` they see the new state. Microseconds in between. */
void walindex_publish_begin(struct walindex *w, const struct walindex_header *h);
void walindex_publish_end(struct walindex *w, const struct walindex_header *h);

/* Mends a header whose writer died between the two copies: the copy that checks (the second, which is written first, before the
 * first) becomes both. Nothing happens if they are well. ERR_CORRUPT if neither checks. */
int walindex_repair(struct walindex *w, struct err *e);

/* Restarts the log as walRestartHdr does: requires that all frames are backfilled and that the caller ALSO holds READ_LOCK(1..4) exclusively.
 * Publishes a header with max_frame 0 and the new salts (salt1 + 1, salt2 as given), resets nBackfill and the read marks. h is the header
 * as last read, and is updated. The WAL file's header with these salts must be written before frame 1 is. */
void walindex_restart(struct walindex *w, struct walindex_header *h, uint32_t new_salt2);

/* ---- locks: open file description locks (F_OFD_SETLK), any file ---- */
/* type: F_RDLCK, F_WRLCK, F_UNLCK. 0, -EAGAIN if somebody else holds it, or -errno. Never blocks. */
int lock_range(int fd, short type, int64_t start, int64_t len);

#endif
