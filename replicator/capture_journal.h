/* From a rollback journal that is about to go to a record: what its transaction changed.
 *
 * The application that ends the journal (unlink, truncation, header zeroed) waits in a hook, and holds SQLite's EXCLUSIVE lock: the database file is what the
 * transaction made of it, and nobody else writes. The journal names the pages that were there before and may have changed; those that the
 * transaction took from the freelist it does not name, but it has the trunk pages that did; and the file has grown by the others. What is read
 * counts only where a checksum differs, so a rollback, also one of a hot journal, captures nothing.
 *
 * That what is tracked was the state before this transaction is not assumed: page 1 in the journal must have the tracked checksum. It is there, and each
 * transaction increments its change counter, except in PRAGMA locking_mode=EXCLUSIVE after the first one. (Of other pages this cannot be asked: SQLite does
 * not write what it changed in a page that is free in the end, but it journals that, from its cache, when the page is used again.) */
#ifndef EDGEFS_CAPTURE_JOURNAL_H
#define EDGEFS_CAPTURE_JOURNAL_H

#include "replicator/txrecord.h"

struct capture_journal; /* buffers, reused for every database; one thread */

int capture_journal_open(struct capture_journal **out, struct err *e);
void capture_journal_close(struct capture_journal *c);

/* Captures. db->lock is held. Reads backing files only. 0: the tracked state is that of the file (*proven: and page 1 says that nothing was missed
 * before). 1: there is no valid journal (nothing was written under it). ERR_GONE: all pages must be compared; ERR_NOT_DATABASE;
 * -ENOSPC … */
int capture_journal_run(struct capture_journal *c, struct node *n, struct database *db, bool *proven, struct err *e);

#endif
