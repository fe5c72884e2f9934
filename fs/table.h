/* The inode table: struct shared (fs/shared.h, with the reasons why it survives kill -9) plus a private index by name.
 *
 * All functions but table_open and table_lock itself are called with the table's mutex held, and none blocks. Fields of an inode
 * may be read without the mutex where a stale value does no harm (single words, __atomic loads); they are changed by transactions
 * only. Lock order: fs.ns → passthrough → table → hooks. */
#ifndef EDGEFS_FS_TABLE_H
#define EDGEFS_FS_TABLE_H

#include "fs/shared.h"
#include "lib/err.h"
#include <stdbool.h>
#include <stddef.h>

#define TABLE_ROOT 1u
#define TABLE_UNSEEN_MAX 65536u /* marks that are kept for an absent replicator */

struct table;

/* Maps the memory file of descriptor fd (which stays the caller's, and may be closed). An empty file becomes a table; one that a
 * predecessor left is repaired (an interrupted transaction finished, inodes that nothing holds freed, index rebuilt).
 * *fresh: no predecessor served a mount with it. 0; -errno; -EPROTO if another version of edgefs wrote it. */
int table_open(int fd, struct table **out, bool *fresh, struct err *e);
void table_close(struct table *t);

void table_lock(struct table *t);
void table_unlock(struct table *t);
/* The mapped file. */
struct shared *table_shared(struct table *t);

/* Transactions. table_put notes that the n bytes at dst (inside the mapping) become those at src; table_commit makes all notes
 * since the last commit happen, or none of them if the process dies before. Reads see old values until then. */
void table_put(struct table *t, void *dst, const void *src, size_t n);
void table_commit(struct table *t);
#define table_set(t, field, value)                                                                                       \
    do {                                                                                                                   \
        __typeof__(field) table_set_v_ = (value);                                                                          \
        table_put((t), &(field), &table_set_v_, sizeof table_set_v_);                                                      \
    } while (0)

/* The inode of that number, or NULL if there is none (a number that this table never gave out, or freed). */
struct shared_inode *table_inode(struct table *t, uint64_t ino);

/* Number of the inode called name[0..len) in parent, or 0. */
uint32_t table_find(struct table *t, uint32_t parent, const char *name, size_t len);

/* A new inode of that name, its look-up count 0, part of the open transaction: it exists once that commits (which must be before the
 * mutex is let go). Inode number; 0: the table is full. */
uint32_t table_add(struct table *t, uint32_t parent, const char *name, size_t len, uint32_t flags);

/* Takes the name away (adds to the open transaction, to be committed before unlocking); flags gets more_flags besides. */
void table_remove_name(struct table *t, uint32_t ino, uint32_t more_flags);
/* Gives it another name, replacing nothing: the caller removed the name of whatever had it. As above. */
void table_rename(struct table *t, uint32_t ino, uint32_t parent, const char *name, size_t len);
/* Exchanges the names of two inodes. As above. */
void table_exchange(struct table *t, uint32_t a, uint32_t b);

/* Frees ino if nothing holds it (kernel references, opens, children, marks), then its parents likewise. Transactions of its own:
 * call it after the commit. */
void table_release(struct table *t, uint32_t ino);

/* Path of an inode inside the mount, NUL-terminated; "" for the root. Length, -ESTALE (no name, or none of its ancestors) or
 * -ENAMETOOLONG. */
int table_path(struct table *t, uint32_t ino, char *buf, size_t size);
/* Path of name in parent. */
int table_child_path(struct table *t, uint32_t parent, const char *name, char *buf, size_t size);

/* Marks path[0..len) unseen, with a transaction of its own; the file need not exist (any more). 0, -ENOSPC (too many marks, or
 * the table is full), -EINVAL (not a path). emptied: and INODE_EMPTIED. */
int table_mark_unseen(struct table *t, const char *path, size_t len, bool emptied);
/* Clears the marks that are INODE_UNSEEN_SENT. */
void table_clear_unseen_sent(struct table *t);

/* Calls fn for each inode that is in use, by number. fn must not add inodes. */
void table_each(struct table *t, void (*fn)(struct table *t, uint32_t ino, void *arg), void *arg);

/* Inodes in use, the root included. */
uint32_t table_count(struct table *t);

#endif
