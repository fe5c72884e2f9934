/* Exactly once, across kill -9.
 *
 * The kernel sends a request again (FUSE_NOTIFY_RESEND) if a dead edgefs-fs had taken it and not answered. Repeating is harmless for
 * reads, stats, fsyncs, writes at an offset and truncations (the kernel holds the inode's lock while it waits, so nothing came
 * in between). It is not for requests that change names or counts: these note in a slot how far they came.
 *
 *   TAKEN    nothing was changed yet                          → the request is carried out as if it were new
 *   STARTED  the backing directory may have been changed      → each operation finds out, from src_ino and dst_ino, which name the
 *                                                               inodes of the backing files that it was about to move or remove
 *                                                               (ENOENT for a file that was there when we started: it was us;
 *                                                               EEXIST for one that was not: it was us)
 *   DONE     the table was changed too (same transaction)     → only the reply is built again
 *   FREE     the reply was given to the kernel, or there never was a slot
 *
 * A slot whose reply reached the kernel but that was not freed before the kill is stale: its request never comes again. A successor
 * reads every resent request before it serves new ones (session.c), so it knows exactly which slots are stale: those of no resent
 * request. Slots are taken without a lock (compare and swap); the owner alone writes the rest. */
#ifndef EDGEFS_FS_SLOTS_H
#define EDGEFS_FS_SLOTS_H

#include "fs/shared.h"
#include <stddef.h>

/* A slot for this request, TAKEN, result fields zero. Never fails in practice: there are many more slots than threads that use one at a
 * time; NULL with a log line if all are in use (the request is then carried out without this protection). Any thread. */
struct shared_slot *slots_take(struct shared *sh, uint64_t unique, uint32_t opcode);

/* The slot that a predecessor left for this request, or NULL. */
struct shared_slot *slots_find(struct shared *sh, uint64_t unique);

/* From now on the backing directory may change; src and dst as in struct shared_slot. slot may be NULL. */
void slots_start(struct shared_slot *slot, uint64_t src_ino, uint64_t dst_ino);

/* The request was answered. slot may be NULL. */
void slots_free(struct shared_slot *slot);

/* At take-over: frees the slots of requests that are not among uniques[0..n). Returns how many of them had begun something. */
unsigned slots_free_stale(struct shared *sh, const uint64_t *uniques, size_t n);

#endif
