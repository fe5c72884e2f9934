/* Finds pages that changed on the disk by themselves, and has them mended: reads every page of a database and compares it with its tracked checksum, while the
 * database is read and written. In the background, at `scrub.rate`, every `scrub.interval`; and when somebody asks (POST /v1/databases/NAME/repair).
 *
 * Nothing is locked while pages are read. A page counts if it is right in the file or, as long as the WAL is not copied whole, in the WAL; what is not right is
 * looked at again, several times, on a primary each time after capture has caught up. Damaged is what shows the same wrong bytes each time while its
 * checksum stays the same and, without a WAL, no writer is at work. (A write that nobody captures, by a program that is no SQLite, is found by capture's own
 * comparison, not here.) What the kernel has in its cache is read from there. */
#ifndef EDGEFS_SCRUB_H
#define EDGEFS_SCRUB_H

#include "replicator/node.h"

struct scrub_page {
    uint32_t pgno;
    uint32_t looks;  /* how often the same was found */
    uint64_t sum;    /* as it should be */
    uint64_t found;  /* as the file's page is */
    bool mended;
};

#define SCRUB_BAD_MAX 65536u /* pages that are listed and mended in one run; the next finds more */

struct scrub_result {
    uint32_t page_size, commit;
    uint32_t n_bad, n_mended;
    struct scrub_page *bad; /* n_bad, ascending; malloc'ed */
    char from[256];         /* node that they were mended from, the last one; "" none */
    char why[256];          /* why some were not mended */
};

/* The background thread. */
int scrub_open(struct node *n, struct err *e);
/* All runs end soon, with -ECANCELED; then, when nobody can begin one any more: scrub_close. */
void scrub_stop(struct node *n);
void scrub_close(struct node *n);

/* Reads db, rate bytes a second (0: as fast as it goes), mends what is damaged, logs and counts it, and notes in db->damaged what is left. One at a time on a
 * node: waits for another. Blocks; no lock is held by the caller. 0; ERR_AGAIN_LATER: it is being written in a way that does not allow to say anything now, or
 * is in no good state; -ENOENT: there is none; -ECANCELED: the node stops. *r is the caller's (scrub_result_free). */
int scrub_run(struct node *n, struct database *db, uint64_t rate, struct scrub_result *r, struct err *e);
void scrub_result_free(struct scrub_result *r);

/* scrub_look.c: one page as it is now. */
struct scrub_look;
/* db->lock must not be held. NULL with e set. page_size: of the tracked state. */
struct scrub_look *scrub_look_open(struct node *n, struct database *db, uint32_t page_size, struct err *e);
void scrub_look_close(struct scrub_look *l);
/* Whether page pgno, at page as the file has it, is what sum says; if need be the WAL's is taken. page is overwritten then. */
bool scrub_look_good(struct scrub_look *l, uint32_t pgno, uint8_t *page, uint64_t sum);
/* Reads n pages from first on, as the file has them; what is beyond its end is zeroes. 0 or -errno. */
int scrub_look_read(struct scrub_look *l, uint32_t first, uint32_t n, uint8_t *buf);
/* There is a frame of it in the WAL that is not in the database file yet. */
bool scrub_look_in_wal(struct scrub_look *l, uint32_t pgno);
/* Without a WAL: somebody is in a transaction that may have written pages already. db->sqlite must not be held. */
bool scrub_writer_at_work(struct node *n, struct database *db);

#endif
