/* Rollback journals that are passed through: when do they end?
 *
 * SQLite ends a journal by unlinking it, by truncating it, or, in PRAGMA journal_mode=PERSIST and in locking_mode=EXCLUSIVE, by writing 28 zero bytes over its
 * header. The first two are calls that edgefs-fs gets; the third is a write, which the kernel carries out alone. But unless PRAGMA synchronous is OFF an fsync
 * of the journal follows it at once, with the EXCLUSIVE lock still held (pager.c, zeroJournalHdr). So an fsync that finds zeros where the header was is the end. A header
 * that is being prepared never looks so: it has its page size from the first write on, only magic and count come later.
 *
 * What the header said is gone then. It was on the disk before the first page of the transaction could be written to the database: SQLite syncs the
 * journal, header included, first (syncJournal). So each fsync that finds a valid header notes it here, and the end has it. A journal whose header was
 * not seen since it was opened has let nothing be written.
 *
 * With synchronous=OFF no fsync comes. So a database's journals are passed through only once one of them was synced (INODE_SYNCS), and not any more when one
 * was closed that had ended without. Until then writes come to edgefs-fs, which sees the zeros (ops_data.c). What the one transaction did that went from
 * being synced to not being synced is found by comparing pages, as after any change without a signal.
 *
 * Notes are private to the process; a successor does not have them, and says so (JOURNALS_END with known false). */
#ifndef EDGEFS_FS_JOURNALS_H
#define EDGEFS_FS_JOURNALS_H

#include "lib/journal.h"
#include <stdbool.h>
#include <stdint.h>

struct journals;

struct journals *journals_new(void); /* NULL: no memory */

/* An application has opened the journal with this inode number, for the first time or one more. fd: its backing file. */
void journals_opened(struct journals *j, uint32_t ino, int fd, bool first);

enum journals_sync {
    JOURNALS_GOES_ON, /* nothing has ended */
    JOURNALS_END,     /* the header was taken off */
};
/* It is about to be synced. JOURNALS_END: if *known, header gets what it was. Any thread. */
enum journals_sync journals_sync(struct journals *j, uint32_t ino, int fd, uint8_t header[JOURNAL_HEADER_SIZE], bool *known);

/* The last descriptor is closed, and it could write. True: it was never synced since the first was opened; then … */
bool journals_closed(struct journals *j, uint32_t ino);
/* … this says whether a transaction has ended unseen: its header is zeros. */
bool journals_zeroed(int fd);
/* Does the file begin with a header that makes it a journal to be played back? */
bool journals_valid(int fd);

#endif
