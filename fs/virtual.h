/* Virtual files: .primary and .lag at the root of the mount, NAME-pos beside each file NAME that may be a database (unless a real
 * file bears that name). Read-only, never cached, not listed in directories: who copies or globs the mount gets databases and
 * nothing else.
 *
 * Contents are fetched at open, so that one reader sees one text whatever the sizes of its reads. They are kept in a ring of this
 * process; a reader that is overtaken by the ring, or by a restart, gets fresh contents if it is at the start, else end of file. */
#ifndef EDGEFS_FS_VIRTUAL_H
#define EDGEFS_FS_VIRTUAL_H

#include "fs/ops.h"

/* Is this name a virtual file, whether it has contents now or not? For NAME-pos: if there is no such backing file and NAME is a
 * regular one. The caller holds fs->ns. */
bool virtual_is(struct fs *fs, uint64_t parent, const char *name);

/* Replies to the look-up of a name for which virtual_is holds. Ends the call. */
void virtual_lookup(struct call *c, uint32_t parent, const char *name);

/* Is this inode virtual? Takes the table's mutex. */
bool virtual_inode(struct fs *fs, uint64_t ino);

/* Operations on such an inode; they reply, now or later, and end the call. */
void virtual_getattr(struct call *c, uint64_t ino);
void virtual_open(struct call *c, uint64_t ino, int flags);
void virtual_read(struct call *c, uint64_t ino, uint64_t fh, size_t size, off_t off);

#endif
