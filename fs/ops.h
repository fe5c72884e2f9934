/* The operations of the file system, and what they share. Each file ops_*.c holds the operations on one kind of thing.
 *
 * An operation runs on the thread that read its request, until it replies or parks itself in a question to the replicator; then it goes on
 * on a spare thread. Between, it holds neither lock nor slot. */
#ifndef EDGEFS_FS_OPS_H
#define EDGEFS_FS_OPS_H

#include "fs/fs.h"
#include "fs/hookserver.h"
#include "fs/names.h"
#include "fs/slots.h"

/* How long the kernel may believe names and attributes, seconds: every change comes through this mount. */
#define OPS_FOREVER 31536000.0
/* Bits of a mode that regular files can have. Not set-user-ID and set-group-ID: the mount is nosuid, and nobody is to find them in the backing directory. */
#define OPS_FILE_MODE 01777u

/* One request. Copied freely; belongs to whoever works on it. */
struct call {
    struct fs *fs;
    fuse_req_t req;
    uint64_t unique;
    uint32_t opcode;
    uint32_t seen;            /* enum shared_slot_state: how far a predecessor came with it; SLOT_FREE: it is new */
    struct shared_slot *slot; /* NULL: none (yet) */
    uid_t uid;
    gid_t gid;
    pid_t tid;
};

void call_begin(struct call *c, fuse_req_t req);
/* Gives it a slot if it has none. Before the first change. */
void call_slot(struct call *c);
/* Adds to the caller's transaction that the request has been carried out. Table's mutex held. */
void call_done(struct call *c, uint32_t ino, int32_t backing_id);
/* Replies with an error (0: success), and frees the slot. */
void call_reply(struct call *c, int errnum);
/* The reply has been sent by other means: frees the slot. */
void call_end(struct call *c);

bool call_is_replicator(const struct call *c);
/* May the caller change names and contents? 0 or EROFS. */
int call_may_change(const struct call *c);
/* Are the caller's changes to be asked about and told? (An application's on the primary.) */
bool call_is_hooked(const struct call *c);

/* The errno for a negative code of ours. */
static inline int ops_errno(int rc)
{
    return rc < 0 ? -rc : rc;
}

/* Tells the replicator of a change, or marks the file unseen. Table's mutex held, nothing uncommitted. Private names are not told.
 * newparent/newname: for HOOK_RENAMED, else 0/NULL. */
void ops_tell(struct fs *fs, enum hooks_kind kind, uint32_t parent, const char *name, uint32_t newparent, const char *newname);

/* Path of name in parent, for a question. 0 or -errno. Takes the table's mutex. */
int ops_child_path(struct fs *fs, uint64_t parent, const char *name, char *path);

/* Finds or makes the inode of a name, whose backing file st describes, and adds one look-up to it, as part of the open transaction (which
 * the caller commits under the same mutex). flags: INODE_DIR, INODE_VIRTUAL or 0. Its number, or 0: the table is full. */
uint32_t ops_look_up(struct fs *fs, uint32_t parent, const char *name, const struct stat *st, uint32_t flags);

/* Fills a reply for an inode. */
void ops_entry(struct fs *fs, uint32_t ino, const struct stat *st, struct fuse_entry_param *e);
/* Sends it; if the caller of the system call is gone, the look-up is taken back. Ends the call. */
void ops_reply_entry(struct call *c, uint32_t ino, const struct stat *st);
/* Undoes look-ups (FORGET). */
void ops_forget(struct fs *fs, uint64_t ino, uint64_t n);

/* What an open file carries (enum fh_bits). flags: of open(2). */
uint64_t ops_fh(enum name_kind k, int flags, bool replicator);
/* Does the database of the rollback journal `name` sync its journals (INODE_SYNCS)? Table's mutex held, as for the other one. */
bool ops_syncs(struct fs *fs, uint32_t parent, const char *name);
void ops_set_syncs(struct fs *fs, uint32_t parent, const char *name, bool syncs);
/* Has an application the database of that rollback journal open? Table's mutex held. */
bool ops_database_open(struct fs *fs, uint32_t parent, const char *name);
/* Counts one open description less, with all that follows from it. slot: of the request, or NULL. */
void ops_release(struct fs *fs, struct call *c, uint64_t ino, uint64_t fh);

/* At the start: fresh: everything in <data>/orphans goes; otherwise the orphans that nobody has open any more. */
void ops_sweep_orphans(struct fs *fs, bool fresh);

/* ops_name.c */
void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup);
void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi);
void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void op_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name);
void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent, const char *newname);
/* ops_remove.c */
void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent, const char *newname, unsigned flags);
/* ops_open.c */
void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
/* ops_data.c */
void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi);
void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
/* ops_sync.c */
/* The fsync of a WAL whose commits wait for replicas: true if it replies, now or later; false: an ordinary one. */
bool ops_sync_wal(fuse_req_t req, fuse_ino_t ino);
/* For a question whose path and kind are set: where replicas are waited for, how long it may take and what happens without an answer. */
void ops_sync_policy(struct fs *fs, struct hook_ask *a);
/* ops_data.c */
void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t length, struct fuse_file_info *fi);
void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
/* ops_attr.c */
void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi);
void op_statfs(fuse_req_t req, fuse_ino_t ino);
/* ops_dir.c */
/* In INIT: can the kernel do without opendir? */
void ops_dir_init(const struct fuse_conn_info *conn);
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);

#endif
