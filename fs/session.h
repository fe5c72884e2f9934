/* The FUSE session: conversation with the kernel, take-over, threads. */
#ifndef EDGEFS_FS_SESSION_H
#define EDGEFS_FS_SESSION_H

#include "fs/fs.h"
#include "fs/slots.h"

#define SESSION_WORKERS 16 /* threads that serve requests: as many fsyncs can run at a time */
#define SESSION_READERS 2  /* so many of them wait for a request at a time */

/* Makes fs->session and comes to terms with the kernel: waits for its INIT and answers it, or replays it and collects what a predecessor
 * left unanswered. Requests are not served yet. 0 or -errno (-EOPNOTSUPP: this kernel cannot hand requests over to a successor; before 6.9). */
int session_open(struct fs *fs, const struct fuse_lowlevel_ops *ops, size_t ops_size, struct err *e);

/* Serves until the mount is gone, then returns 0; -errno if it could not begin, or go on. ready() is called once requests are being served.
 * fs is complete by now. Called once, on the main thread. */
int session_run(struct fs *fs, void (*ready)(struct fs *fs), struct err *e);

/* What is known of the request that this thread is processing. */
struct session_request {
    uint64_t unique; /* without the resend bit */
    uint32_t opcode;
    bool resent;
};
const struct session_request *session_current(void);

/* Has the kernel forget what it has cached of a file's contents (a change that did not come through the mount). Any thread that serves no
 * request of the kernel's at this moment but may have parked one. */
void session_forget_contents(struct fs *fs, uint64_t ino, int64_t offset, int64_t length);

#endif
