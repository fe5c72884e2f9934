/* What capture keeps for a database that was touched: its open WAL and where it stands in watching it. */
#ifndef EDGEFS_CAPTURE_FILE_H
#define EDGEFS_CAPTURE_FILE_H

#include "replicator/capture_wal.h"

#define CAPTURE_DEFERRED_MAX 16

/* How a database's changes are found now:
 *
 *   IDLE ──wal event──► MAPPING ──worker──► MAPPED ──unlink hook, last close──► IDLE
 *    │ ▲                   │                  │
 *    │ └───worker──────────┴── DIFFING ◄──────┘ (frames lost, or a change without a commit signal)           */
enum capture_mode {
    CAPTURE_IDLE,
    CAPTURE_MAPPING, /* the worker is opening the wal-index */
    CAPTURE_MAPPED,  /* view is open; step() looks at it */
    CAPTURE_DIFFING, /* the worker compares all pages; step() keeps out */
};

struct capture_file {
    struct database *db;
    struct capture_file *next; /* capture thread: list of all */
    /* guarded by db->lock */
    enum capture_mode mode;
    struct walview view;
    bool view_open;
    uint32_t covered;  /* frames up to here were captured when a hook or slot 4 held up any restart: see step() */
    bool behind;       /* what is published could not be captured (no room, too much at once): it will be tried again */
    bool diff_again;   /* a change came in while DIFFING */
    bool checkpoint_seen; /* HOOK_CHECKPOINT was answered while DIFFING */
    /* capture thread only */
    bool dirty;            /* look at it in this round */
    bool recheck;          /* NAME-wal or NAME-shm was created or removed: is the view still the right one? */
    uint64_t look_ns;      /* look again at this time; 0: no */
    uint64_t look_wait_ns; /* the present back-off */
    uint64_t look_since_ns;
    uint64_t publish_ns;   /* how long a publication took after its first look, averaged */
    uint64_t diff_ns;      /* diff at this time; 0: no */
    uint64_t diff_first_ns;
    uint64_t deferred[CAPTURE_DEFERRED_MAX]; /* hooks to be answered once it is captured */
    int n_deferred;
    uint64_t step_seq; /* number of the last round in which step() ran to the end */
};

#endif
