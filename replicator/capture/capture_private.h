/* Inside capture: capture.c (thread, lists, requests), capture_events.c (inotify and hooks), capture_names.c (what appears, goes and moves),
 * capture_step.c (one look at one database). */
#ifndef EDGEFS_CAPTURE_PRIVATE_H
#define EDGEFS_CAPTURE_PRIVATE_H

#include "replicator/capture/capture.h"
#include "replicator/capture/capture_file.h"
#include "replicator/capture/capture_journal.h"
#include "replicator/capture/filewatch.h"
#include "replicator/capture/hooks.h"

/* When records follow each other this closely, or come this soon after a look that was held back, the next look is held back: what is
 * committed meanwhile goes into one record, which costs the cores much less than several, on this node and on every replica, and they are
 * left to the application. A commit after a pause is captured at once. */
#define CAPTURE_BUSY_NS 1000000u
#define CAPTURE_HOLD_NS 1000000u

/* While looks are held back anyway, the files that are written so often raise no events (filewatch_set, muted): making one costs the writer some 0.3 µs a write,
 * 2 to 3 µs a commit. They are looked at after each hold, and watched again when a look finds nothing new. */

#define CAPTURE_LOOK_SOON_NS 20000000u /* so long a publication is expected at any moment */

#define CAPTURE_QUIET_NS 100000000u   /* a change without a commit signal is looked at this long after the last one … */
#define CAPTURE_QUIET_MAX_NS 1000000000u /* … but no later than this after the first */

struct capture_waiter {
    struct capture_waiter *next;
    struct database *db; /* NULL: all */
    uint64_t round;      /* the first that began after the question came; 0: not seen yet */
    bool done;
};

struct capture {
    struct node *node;
    pthread_t thread;
    int wake_fd;
    int epoll_fd; /* hooks, wake_fd */
    int all_fd;   /* those, and inotify: what is waited for unless looks are held back, or this node does not capture */
    struct filewatch *filewatch;
    struct capture_wal *wal;
    struct capture_journal *journal;
    /* capture thread only */
    struct capture_file *all, *hot, *busy, *warm;
    bool blind;    /* some file could not be watched: whoever waits for a capture has every open database looked at */
    bool watching; /* some file may be watched */
    uint64_t round; /* counts rounds of the loop, from 1 */
    int hooks_fd;
    bool hooks_ready;
    uint32_t opens_told; /* +1 with each connection: see capture_opens_begin */
    bool inotify_ready;
    bool positions_ready;
    struct capture_ask *asks;
    uint64_t reconnect_ns, rescan_ns; /* rescan_ns 0: none is due */
    uint64_t last_lsn, last_record_ns, hold_until_ns;
    /* capture_cut.c */
    uint64_t cut;        /* counts them, from 1 */
    bool cutting;        /* looks capture up to the ends of that cut */
    unsigned group_left; /* databases of its group that are not captured yet */
    bool group_begun;    /* and not ended */
    bool resuming;       /* what was committed while no replicator was there is one group, with the one within which the log may have ended: until everything is captured, or resume_ns */
    bool known;          /* edgefs-fs has told what is open */
    uint64_t resume_ns, mapping_until_ns;
    bool early, overflowed; /* some file has `early`; events were lost */
    /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t answered;
    bool stop;
    struct database **noticed; /* asked for from outside */
    size_t n_noticed, size_noticed;
    struct database **diffs;
    size_t n_diffs, size_diffs;
    struct capture_waiter *waiters;
};

/* capture thread: the file of db, made on first use (NULL: no memory, logged). */
struct capture_file *capture_file_of(struct capture *c, struct database *db);
/* capture thread: it is looked at in this round and, while something is due, in the following ones. To be called with every change of what is due. */
void capture_touch(struct capture *c, struct capture_file *cf);
/* The same, and capture_step will run; recheck: its companions may be others than before. */
void capture_dirty(struct capture *c, struct capture_file *cf, bool recheck);
enum capture_mode capture_mode_of(struct capture_file *cf);

/* capture_step.c: looks at one database: captures what is published, decides when to look again. */
void capture_step(struct capture *c, struct capture_file *cf);
/* A look at one database whose WAL is open, for what it is in the present cut. */
void capture_step_mapped(struct capture *c, struct capture_file *cf);
/* What is published. 0; ERR_AGAIN_LATER: look again; anything else: pages must be compared. db->lock is held, mode is MAPPED. */
int capture_read_end(struct capture_file *cf, struct walindex_header *h);
/* Asks the worker for a diff now. suspect: nothing but its result counts. */
void capture_start_diff(struct capture *c, struct capture_file *cf, bool suspect);
/* True when nothing is under way or scheduled for it. */
bool capture_settled(struct capture_file *cf);
/* Answers the hooks that wait for cf. */
void capture_answer_deferred(struct capture *c, struct capture_file *cf);
/* NAME-wal is about to vanish (unlink, truncate): capture to its end, then the database file alone is the state. */
void capture_wal_vanishes(struct capture *c, struct capture_file *cf);
/* NAME-journal is about to end: capture its transaction. */
void capture_journal_ends(struct capture *c, struct capture_file *cf, struct journal_end *end);
/* The database has been removed. */
void capture_dropped(struct capture *c, struct capture_file *cf);
/* The name is about to stand for nothing, or for another file: captures what can be captured and lets go of the WAL; a scan that is under way is void.
 * db->lock is held. True if the state that is known is all there was. */
bool capture_leave(struct capture *c, struct capture_file *cf);

/* capture_cut.c: the order between databases */
/* Takes a cut of the hot files; until capture_cut_end looks capture no more than it has. False: nothing to do. */
bool capture_cut(struct capture *c);
void capture_cut_end(struct capture *c);
/* What the cut has of cf is captured now. */
void capture_cut_takes(struct capture *c, struct capture_file *cf);
/* Everything that was committed before this call, in databases whose WAL is open, goes into the log: before something that is captured outside of a round. No lock is held. */
void capture_order(struct capture *c);
/* The same, and a look at cf, for what it has in the same cut. */
void capture_look_in_order(struct capture *c, struct capture_file *cf);
/* A WAL is just being opened in which there may be what others stand on: looks had better wait, until c->mapping_until_ns at the latest. */
bool capture_mapping(struct capture *c, uint64_t now);
/* At the start: what is captured first is a group (resuming); and after each round: all: everything is captured, the group ends. */
void capture_resume(struct capture *c);
void capture_resumed(struct capture *c, bool all);

/* capture_sync.c: synchronous commit */
struct sync_wait;
/* An application's WAL is being synced: answers the hook, at once or when replicas have the transaction. */
void capture_wal_sync(struct capture *c, struct capture_file *cf, uint64_t hook);
/* NAME-journal is about to end: true: the hook is answered, or will be; false: capture_journal_ends at once, nobody waits. */
bool capture_journal_sync(struct capture *c, struct capture_file *cf, uint64_t hook);
/* The first open of a database by an application, which will recover what lies in its WAL: answers the hook when all of that is captured, and durable on replicas
 * if it did not wait for them. */
void capture_opening(struct capture *c, struct capture_file *cf, uint64_t hook);
/* At the end of a look, db->lock held: the open that waits. */
void capture_opening_step(struct capture *c, struct capture_file *cf);
/* This node is a replica now: the open that waits is one of a replica. */
void capture_opening_pass_on(struct capture *c, struct capture_file *cf);
/* When the open that waits has waited too long; UINT64_MAX: none does. */
uint64_t capture_opening_ns(const struct capture *c, const struct capture_file *cf);
/* Part of a look, db->lock held: everything that is published as h says is captured. True: a hook was looked at. */
bool capture_sync_step(struct capture *c, struct capture_file *cf, const struct walindex_header *h);
/* The same for a file whose WAL is not open, or could not be captured. */
void capture_sync_idle(struct capture *c, struct capture_file *cf);
/* A record of transactions up to h->max_frame was written: should they have waited, and did they? db->lock is held. */
void capture_sync_published(struct capture *c, struct capture_file *cf, const struct walindex_header *h);
/* A wait is over. For SYNC_WAL db->lock is held. */
void capture_sync_end(struct capture *c, const struct sync_wait *w);
/* Ends all waits that are over. */
void capture_sync_due(struct capture *c);
/* edgefs-fs is connected: looks at what a predecessor has prepared and not decided. */
void capture_sync_start(struct capture *c);
/* The connection to edgefs-fs is gone. */
void capture_sync_forget(struct capture *c);

/* capture_events.c */
/* Takes what inotify has, then all hooks, then goes through the former: an event that was caused by an action that followed a rename is then seen
 * after the rename. inotify: false leaves it alone. On a broken connection hooks_fd is -1 afterwards. */
void capture_events(struct capture *c, bool inotify);
/* Takes what inotify has without going through hooks first: takes note of written WALs; the rest waits for capture_events. */
void capture_drain(struct capture *c);
/* Splits path into the database's name (into name, LAYOUT_NAME_MAX + 1 bytes) and the suffix that it carries ("" for the database itself).
 * NULL: not a name that concerns us. */
const char *capture_companion(const char *path, char *name);
/* The file of that name, made on first use; NULL: not possible (said). */
struct capture_file *capture_file_by_name(struct capture *c, const char *name);

/* capture_names.c */
/* The database file itself changed: a diff is due once it is quiet. suspect: and nothing else will do. */
void capture_main_changed(struct capture *c, struct capture_file *cf, bool suspect);
/* Looks at every file of the backing directory, and at every database known before. */
void capture_rescan(struct capture *c);
/* The same in a moment: something could not be done now, or is not known well enough. */
void capture_rescan_later(struct capture *c);
/* A file, or a directory, is gone. */
void capture_removed(struct capture *c, const char *path);
/* A file, or a directory, has another name; whatever bore that is gone. */
void capture_renamed(struct capture *c, const char *from, const char *to);
/* Two files, or directories, have changed places. */
void capture_exchanged(struct capture *c, const char *one, const char *other);
/* Applications have a database open (their first open, their last close). */
void capture_opened(struct capture *c, const char *name);
void capture_closed(struct capture *c, const char *name);
/* The connection to edgefs-fs is new: it says what is open, and what it does not say has been closed meanwhile. */
void capture_opens_begin(struct capture *c);
void capture_opens_end(struct capture *c);
/* Watches the files of a database that applications have open, those which exist by now; to be followed by a look. */
void capture_watch(struct capture *c, struct capture_file *cf, bool muted);
/* Its files are not watched any more. */
void capture_unwatch(struct capture *c, struct database *db);
/* What its files may have gone through while they raised no events is looked for. */
void capture_unseen_changes(struct capture *c, struct capture_file *cf);
/* Another file has taken the place of the one that is known (emptied: it was truncated to 0 bytes, or is about to be, and will be written again). What was committed
 * before is captured, as far as it can be. */
void capture_replaced(struct capture *c, struct capture_file *cf, bool emptied);
/* NAME-journal has appeared, was changed or is gone. While no application has the database open it was not SQLite that did it, but somebody who copies or removes
 * files: what the database is may have changed with it. */
void capture_journal_changed(struct capture *c, struct capture_file *cf);
/* True if the file is not the one that the state describes, as far as can be told without reading it. Asked while no WAL is open. */
bool capture_file_differs(struct capture *c, struct database *db);

#endif
