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

#include "lib/journal.h"
#include "replicator/capture/txrecord.h"

/* How a journal ends. */
struct journal_end {
    bool zeroed; /* its header is zeros already: `header` is what it was, if `known`. Otherwise it is in the file */
    bool known;
    bool anew;   /* the file is not the one that is known (cp over it, say): what is in it now begins a new life, if it is small enough to be read whole */
    uint8_t header[JOURNAL_HEADER_SIZE];
    /* Called once everything has been read that the application could change when it goes on; nothing needs it to wait any longer. May be called before the record
     * is in the log, and never if there is an error or nothing to do. *stamp: the database file as it was read. */
    void (*read)(void *ctx);
    void *ctx;
    struct filestamp stamp; /* result */
};

struct capture_journal; /* buffers, reused for every database; one thread */

int capture_journal_open(struct capture_journal **out, struct err *e);
void capture_journal_close(struct capture_journal *c);

enum journal_proof {
    JOURNAL_UNPROVEN, /* that nothing was missed before */
    JOURNAL_PAGE1,    /* page 1 says so */
    JOURNAL_WHOLE,    /* all pages were read */
};

/* Captures. db->lock is held. Reads backing files only. end->stamp is set if the result is 0. whole: the tracked state is not to be trusted, so if the database is small all its pages are
 * compared. 0: the tracked state is that of the file, as far as *proof says. 1: there is no valid journal (nothing was written under it). ERR_GONE: all
 * pages must be compared; ERR_NOT_DATABASE; -ENOSPC … */
int capture_journal_run(struct capture_journal *c, struct node *n, struct database *db, struct journal_end *end, bool whole, enum journal_proof *proof, struct err *e);
/* The same, but writes a PREPARE record, if anything has changed, and leaves the state as it is. *lsn: that of the record; 0: nothing has changed. */
int capture_journal_prepare(struct capture_journal *c, struct node *n, struct database *db, bool whole, uint64_t *lsn, struct err *e);

#endif
