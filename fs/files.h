/* Backing files: where the file of an inode lies, and descriptors for it.
 *
 * A descriptor is opened when it is needed, and kept only while the inode has open descriptions: ten thousand idle databases cost no
 * descriptor. The cache is private to the process; a successor opens again by path, which is why a file that was unlinked while open
 * is kept, renamed, in <data>/orphans. */
#ifndef EDGEFS_FS_FILES_H
#define EDGEFS_FS_FILES_H

#include "edgefs/layout.h"
#include "fs/fs.h"

struct where {
    int dirfd;
    char path[FS_PATH_MAX + 1]; /* "." for the root */
};

/* Memory for the cache; limit: descriptors kept at most. NULL: out of memory. */
struct files *files_new(unsigned limit);
/* Closes all; no call may be under way. */
void files_close(struct files *f);

/* Where an inode's file lies now; the caller holds fs->ns. 0, -ESTALE or -ENAMETOOLONG. */
int files_where(struct fs *fs, uint64_t ino, struct where *w);
/* Where name in the directory parent lies; as above. */
int files_where_child(struct fs *fs, uint64_t parent, const char *name, struct where *w);

/* A descriptor of a regular file, read-write if permissions of the backing file let us; borrowed until files_put. Opens the file if
 * need be, under fs->ns, which the caller holds already if ns_held. The descriptor or -errno (-ESTALE: no such file any more). Any thread. */
int files_get(struct fs *fs, uint64_t ino, bool ns_held);
void files_put(struct fs *fs, uint64_t ino);
/* Keeps fd, which is open and belongs to this inode, in the cache (or closes it): the caller gives it away. */
void files_adopt(struct fs *fs, uint64_t ino, int fd);
/* The last open description is gone: closes the descriptor unless it is borrowed (then files_put does). */
void files_trim(struct fs *fs, uint64_t ino);

/* fstat of the inode's file, or directory, whether open or not; never blocks for long. 0 or -errno. The caller does not hold fs->ns. */
int files_stat(struct fs *fs, uint64_t ino, struct stat *st);

/* Name of an orphan in <data>/orphans. buf holds 48 bytes. */
void files_orphan_name(struct table *t, uint32_t ino, char *buf);

#endif
