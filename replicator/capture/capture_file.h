/* What capture keeps for a database that was touched: its open WAL and where it stands in watching it. */
#ifndef EDGEFS_CAPTURE_FILE_H
#define EDGEFS_CAPTURE_FILE_H

#include "replicator/capture/capture_wal.h"
#include "replicator/capture/filewatch.h"
#include "replicator/database/walframes.h"

#define CAPTURE_DEFERRED_MAX 16
#define CAPTURE_FILLING_NS UINT64_C(5000000000) /* a file that was emptied is given this long to be written again before changes are looked at */

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

/* Where a file is kept, so that ten thousand idle ones cost a round nothing (capture thread). */
enum capture_place {
    CAPTURE_COLD, /* on no list: nothing is open, nothing to do */
    CAPTURE_WARM, /* its WAL is mapped, or an application has it open: nothing to do now */
    CAPTURE_BUSY, /* a worker has it, and will tell (capture_notice) */
    CAPTURE_HOT,  /* something is due, or will be at a known time: looked at in each round */
};

struct capture_file {
    struct filewatch_target watch; /* first: the events' callback gets its address. Capture thread; muted: see CAPTURE_HOLD_NS */
    struct database *db;
    struct capture_file *next, *prev; /* capture thread: of its list */
    enum capture_place place;
    struct capture_file *next_all; /* capture thread: for the end */
    /* guarded by db->lock */
    enum capture_mode mode;
    struct walview view;
    bool view_open;    /* without a wal-index (view.index NULL) the WAL's own frames tell what is committed */
    struct walframes frames;
    uint32_t covered;  /* frames up to here were captured when a hook or slot 4 held up any restart: see step() */
    bool behind;       /* what is published could not be captured (no room, too much at once): it will be tried again */
    bool unseen_view;  /* the view is new: step() has not looked through it yet */
    bool diff_again;   /* a change came in while DIFFING */
    bool diff_unwanted; /* what the diff under way was started for has been captured otherwise */
    bool suspect;      /* only a diff can say whether the tracked state is the database's: nothing else calls one off */
    bool anew;         /* the file is not the one that is known, or was emptied and is being written again: only a comparison may tell what is in it now,
                        * and what differs begins a new life (struct dbstate, born). Goes with suspect */
    uint64_t emptied_ns; /* with anew, since it was emptied: whoever writes it may not be done; 0: it was replaced at one blow */
    struct filestamp at_rest; /* as long as the file has this size and modification time it holds a committed state, whoever has it locked (HOOK_AT_REST); the change time does
                               * not count */
    pid_t at_rest_tid;     /* the thread that has synced it */
    bool checkpoint_seen; /* HOOK_CHECKPOINT was answered while DIFFING */
    uint32_t life;        /* +1 when the name was dropped, or came to mean another file: what a scan that began before has read is void */
    uint32_t tried_life;  /* the life that the last try of a comparison was about: the next one's patience with it */
    /* capture thread only */
    bool dirty;            /* look at it in this round */
    bool unwatched;        /* its files cannot be watched */
    bool moved;            /* the last look has captured something */
    /* capture_cut.c */
    uint64_t end_cut;      /* the cut that `end` belongs to; 0: none */
    struct walindex_header end; /* what is published, in that cut … */
    int end_rc;            /* … or why that cannot be read */
    uint32_t fresh;        /* frames of it that are not captured yet */
    unsigned early;        /* bits, of enum filewatch_file: events that were taken before it was their turn (capture_drain) */
    bool recheck;          /* NAME-wal or NAME-shm was created or removed: is the view still the right one? */
    bool closed;           /* applications have closed it */
    uint64_t look_ns;      /* look again at this time; 0: no */
    uint64_t look_wait_ns; /* the present back-off */
    uint64_t look_since_ns;
    uint64_t publish_ns;   /* how long a publication took after its first look, averaged */
    uint64_t diff_ns;      /* diff at this time; 0: no */
    uint64_t diff_first_ns;
    bool check_at_close;   /* transactions were captured whose journal did not prove that nothing was missed before: compare all pages at the last close */
    struct filestamp unproven; /* … and the file as the last of them left it: not noted in the sidecar, for the comparison may not come to pass */
    /* synchronous commit: capture_sync.c */
    uint64_t sync_hook;       /* the sync of the WAL that waits to be looked at; 0: none. The kernel syncs a file for one call at a time */
    uint64_t sync_ns;         /* when it came */
    uint64_t open_hook;       /* the first open, which may recover what lies in the WAL, waits to be looked at; 0: none */
    uint64_t open_ns;         /* when it came */
    struct capture_commit {
        uint32_t salt1, salt2, frame; /* a commit frame */
        uint32_t cksum[2];
    } prepared;               /* what db->prepared holds, or held, and what was last asked about (sync_hook) */
    uint32_t refused;         /* first frame of a transaction that was refused, and lost its salts; 0: none */
    bool unasked;             /* transactions came without a question */
    uint64_t decide_ns;       /* not before that is a prepared transaction of which nothing is to be seen given up */
    uint64_t deferred[CAPTURE_DEFERRED_MAX]; /* hooks to be answered once it is captured */
    int n_deferred;
};

#endif
