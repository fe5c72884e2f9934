/* The hook server: one replicator at a time (edgefs/hooks.h), events to it, and questions that an application's call waits for.
 *
 * A question never blocks the thread that asks: the request is parked inside the question, and `done` is called later on one of
 * the spare threads (spare.h). Which of answer, time-out and disconnect comes first is decided under the server's mutex; exactly one
 * of them calls `done`.
 *
 * Life of a question:
 *
 *     hookserver_ask ──► WAITING (no replicator yet) ──► SENT ──► done: answer, time-out, disconnect
 *         │              └──► done: nobody came in time
 *         └──► returns false: not asked, go on
 *
 * After a take-over the replicator of the predecessor is expected back: for RETURN_MS questions wait for it instead of being given up at
 * once, so that a restart of edgefs-fs costs no diff. */
#ifndef EDGEFS_FS_HOOKSERVER_H
#define EDGEFS_FS_HOOKSERVER_H

#include "edgefs/hooks.h"
#include "fs/fs.h"
#include "fs/spare.h"
#include <stdbool.h>

#define HOOKSERVER_RETURN_MS 1000     /* how long a successor waits for the replicator of its predecessor */
#define HOOKSERVER_QUERY_WAIT_MS 2000 /* how long a read of a virtual file waits for a replicator to connect */
#define HOOKSERVER_QUICK_MAX (4 << 20) /* bytes: a file up to this size is unlinked or truncated quickly */
#define HOOKSERVER_ASKS_MAX 4096      /* questions open at a time; power of two */
#define HOOKSERVER_BACKLOG_MAX (64u << 20) /* bytes of events kept for a replicator that does not read; more: disconnected */

enum ask_policy {
    ASK_GO_ON, /* without an answer the call goes on, and the database is marked unseen */
    ASK_FENCE, /* waits for an answer, from this replicator or the next, until the time-out; until then also without a connection */
    ASK_REFUSE, /* waits like ASK_FENCE; without an answer it counts as answered with EIO */
    ASK_QUERY, /* waits HOOKSERVER_QUERY_WAIT_MS for a replicator, then until the time-out for the answer */
};

struct hook_ask {
    /* The caller sets, and keeps the struct alive until done (which may free it). */
    enum hooks_kind kind;
    enum ask_policy policy;
    uint64_t value;
    uint64_t wait_ms; /* time-out; 0: HOOKS_TIMEOUT_MS */
    char path[FS_PATH_MAX + 1];
    char question[64]; /* the message's text, NUL-terminated; "": none */
    /* Called exactly once if hookserver_ask returned true; on a spare thread (or the server's, see quick); holds no lock. */
    void (*done)(struct hook_ask *a);
    bool any_role; /* an ASK_FENCE that a primary waits for, too: the replicator's role does not answer it */
    bool quick; /* done waits for nothing but the disk, and not long (HOOKSERVER_QUICK_MAX): the server's thread may call it itself, if nobody else waits for an answer */

    /* The result. */
    bool answered;
    int error;       /* answered: 0 or an errno; otherwise -1 */
    char text[256];  /* NUL-terminated */
    size_t text_len;

    /* Private to hookserver.c. */
    struct spare_work work;
    uint64_t id, deadline;
    bool sent;
};

/* Starts the server's thread on a listening socket (stays the caller's; kept until exit). expect: a predecessor's replicator is alive.
 * 0 or -errno. */
int hookserver_start(struct fs *fs, int listen_fd, bool expect, struct err *e);

/* Asks. True: parked, done will be called (perhaps before this returns: the caller must not touch a any more). False: not asked, because
 * nobody is there (or too many are waiting); for ASK_GO_ON the database is marked unseen, for ASK_REFUSE it is never so. The caller holds no lock of fs but may
 * hold fs->ns for reading. Never blocks. */
bool hookserver_ask(struct fs *fs, struct hook_ask *a);

/* An event. Table's mutex held, so that events leave in the order of the changes. text may be NULL. False: nobody is connected. Never
 * blocks. */
bool hookserver_tell(struct fs *fs, enum hooks_kind kind, const char *path, const char *text);
bool hookserver_tell_value(struct fs *fs, enum hooks_kind kind, uint64_t value, const char *path, const char *text);

/* The same for a change that a replicator must not miss: if nobody is there, path is marked unseen. Table's mutex held and nothing
 * uncommitted. */
void hookserver_tell_or_mark(struct fs *fs, enum hooks_kind kind, const char *path, const char *text);

#endif
