/* Which directories need no fsync because everything in them is on the disk already.
 *
 * SQLite syncs the directory with the first sync of every journal that it opens, in PRAGMA journal_mode=TRUNCATE and PERSIST, too, where no name has changed; the disk
 * flushes its cache for that. All names below the mount change through this program, so it can know better:
 *
 * Each change gets a number, once it is done and before it is replied to. An fsync of a directory covers what had a number when it began. So if there is no higher one, the
 * next fsync has nothing to do.
 *
 * And on ext4 an fsync of a new file covers its name, and every change before it: file and name are made in one transaction of its log (ext4_create), the log is written in
 * order, and fsync waits for the transaction that made the file (i_datasync_tid, ext4_fsync_journal; without a log ext4_sync_parent). "Before it" is what had a number when the
 * making began; the file's own number counts only if it is the next one, for what came between may have been done after. Other file systems do much the same; it is not relied on.
 *
 * Private to the process; a successor syncs once. */
#ifndef EDGEFS_FS_DIRSYNC_H
#define EDGEFS_FS_DIRSYNC_H

#include <stdbool.h>
#include <stdint.h>

struct dirsync;

/* db_fd: the backing directory. NULL: no memory. */
struct dirsync *dirsync_new(int db_fd);

/* A name, or an attribute of a directory, has changed. Its number. Any thread, as for all of these. */
uint64_t dirsync_changed(struct dirsync *d);
/* What has a number now. */
uint64_t dirsync_now(const struct dirsync *d);

/* A file was made: the number was `before` when that began, and its own is `number`. generation: of this use of the inode number; device: st_dev. */
void dirsync_made(struct dirsync *d, uint32_t ino, uint64_t generation, uint64_t device, uint64_t before, uint64_t number);
/* A file has been synced. Costs next to nothing if it is not new. */
void dirsync_file_synced(struct dirsync *d, uint32_t ino, uint64_t generation);

/* Directory ino has been synced; the number was `before` when that began. */
void dirsync_synced(struct dirsync *d, uint32_t ino, uint64_t before);
/* Is there nothing to sync in it? */
bool dirsync_clean(struct dirsync *d, uint32_t ino, uint64_t device);

#endif
