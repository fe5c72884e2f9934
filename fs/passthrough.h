/* Passthrough or fallback: this file alone knows which.
 *
 * Passthrough: the kernel does read, write and mmap of an open file on the backing file itself. It is told which by a backing id, which
 * the kernel gives out for a descriptor (FUSE_DEV_IOC_BACKING_OPEN); all open descriptions of an inode that overlap must be served alike and
 * with the same id (fs/fuse/iomode.c refuses others), so the id is taken at the first open, lives in the inode table, and is
 * given back at the last release. A rollback journal is not passed through while its writes must be seen (journals.h says when).
 *
 * Fallback: reads and writes come here (ops_file.c), cached by the kernel and written through.
 *
 * libfuse before 3.17 knows nothing of all this: the INIT reply is amended on its way out, and the replies to OPEN and CREATE
 * are built by hand. From 3.17 on it is the library that does it.
 *
 * A kill between the ioctl and the transaction that records its id would leak the id (and the space of a deleted file) until the unmount.
 * Ids are given out in ascending order and one at a time under our mutex, so it lies behind the last recorded: the
 * successor gives it back (passthrough_reclaim). */
#ifndef EDGEFS_FS_PASSTHROUGH_H
#define EDGEFS_FS_PASSTHROUGH_H

#include "fs/fs.h"
#include <stdbool.h>
#include <sys/uio.h>

/* What open files' replies carry in `fh`: what the file was when it was opened, so that later requests need no look-up. The kernel keeps
 * it, hence a successor has it too. */
enum fh_bits {
    FH_REPLICATOR = 1, /* opened by the replicator */
    FH_JOURNAL = 2,    /* NAME-journal */
    FH_DATABASE = 4,   /* may be a database */
    FH_VIRTUAL = 8,    /* number of its contents in the bits from FH_SHIFT on */
    FH_WRITES = 16,    /* NAME-journal, opened for writing */
    FH_WAL = 32,       /* NAME-wal */
    FH_SHIFT = 8,
};

/* wanted: by the configuration. NULL: out of memory. */
struct passthrough *passthrough_new(int dev_fd, bool wanted);

/* Is it on? (Before INIT: false.) */
bool passthrough_active(struct fs *fs);

/* INIT: the request as the kernel sent it, at the first start and at a take-over … */
void passthrough_saw_init(struct fs *fs, const void *request, size_t n);
/* … libfuse's op.init … */
void passthrough_negotiate(struct fs *fs, struct fuse_conn_info *conn);
/* … and the reply as libfuse wants it sent: amended in place. */
void passthrough_amend_init(struct fs *fs, struct iovec *iov, int count);

/* Begins the open of a file: how it shall be served. ino: its inode, 0 if it has none yet. fd: its backing file. Returns the
 * backing id or 0 for fallback, and in *first whether nobody has it open. see_writes: fallback if it is the first open. Takes the passthrough mutex, so that no other open comes between; then table's mutex, which it lets go. */
int32_t passthrough_begin(struct fs *fs, uint32_t ino, int fd, bool see_writes, bool *first);
/* Adds the counting of the open to the caller's transaction. Table's mutex held. */
void passthrough_count(struct fs *fs, uint32_t ino, int32_t backing_id, bool replicator);
/* Ends it. counted: passthrough_count was committed; otherwise an id that was new is given back. */
void passthrough_end(struct fs *fs, uint32_t ino, int32_t backing_id, bool counted);

/* The passthrough mutex, for the transaction of a release: an open must not be given an id that is about to be closed. Taken before
 * the table's. */
void passthrough_lock(struct fs *fs);
void passthrough_unlock(struct fs *fs);

/* Gives an id back to the kernel, after the transaction that took it out of the inode. 0: nothing. Repeating it is harmless. */
void passthrough_close(struct fs *fs, int32_t backing_id);

/* At take-over, before any request: see above. fd: any regular file. */
void passthrough_reclaim(struct fs *fs, int fd);

/* Replies. 0 or -errno (-ENOENT: the caller of open is gone and no release will come). */
int passthrough_reply_open(fuse_req_t req, uint64_t fh, int32_t backing_id);
int passthrough_reply_create(fuse_req_t req, const struct fuse_entry_param *entry, uint64_t fh, int32_t backing_id);

#endif
