/* A WAL without a wal-index, judged by its own frames, as SQLite's recovery does (https://sqlite.org/fileformat2.html §4.3): PRAGMA
 * locking_mode=EXCLUSIVE keeps the wal-index in the application's memory; and nobody has one after everybody was killed.
 *
 * Committed is what ends with a frame that carries a commit size, in an unbroken chain of checksums from the header on. A transaction that spilled and was rolled back leaves
 * frames with right checksums, but none with a commit size, until they are overwritten. One that writes a page again before its commit
 * overwrites the frame in place, which breaks the chain there; SQLite mends the checksums after the last frame was written (wal.c, walRewriteChecksums). */
#ifndef EDGEFS_WALFRAMES_H
#define EDGEFS_WALFRAMES_H

#include "replicator/database/walview.h"

/* Where the chain has been followed to, so that a long transaction is not read again with each of its writes. Zeroed: nowhere. */
struct walframes {
    uint32_t salt1, salt2;
    uint32_t frame;    /* the last frame that was checked */
    uint32_t cksum[2]; /* its checksum */
    uint32_t commit_frame, page_count; /* the last committed one, and the size of the database then; 0: none yet */
};

/* Follows the WAL at v->wal_fd on from *at, or from frame st->wal_frame if the WAL has the salts of st (that frame is known to be committed), or from its beginning. Fills in h as a
 * wal-index would have it: salts, page_size, max_frame, page_count. 0; ERR_AGAIN_LATER: no valid header (yet); -errno. */
int walframes_read(struct walview *v, struct walframes *at, const struct dbstate *st, struct walindex_header *h);

#endif
