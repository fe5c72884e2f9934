/* The programs that the launcher keeps running. One struct child each:
 *
 *              start                READY packet
 *      OFF ───────────► STARTING ─────────────────► READY
 *       ▲                │  ▲  │ no READY in time     │
 *       │          death │  │  └──── SIGKILL          │ death
 *       │                ▼  │ due                     │
 *       │             DELAYED ◄────────────────────── ┘
 *       │ death, not wanted any more
 *      ENDING ◄── child_end() in STARTING or READY: SIGTERM, SIGKILL when due; its death leads to OFF, or, if it is to be
 *                 replaced, to DELAYED without delay
 *
 * Single-threaded; nothing blocks. Times are nanoseconds of CLOCK_MONOTONIC. */
#ifndef EDGEFS_LAUNCHER_CHILDREN_H
#define EDGEFS_LAUNCHER_CHILDREN_H

#include "ctl/launcher/backoff.h"
#include "ctl/launcher/keeper.h"
#include "lib/err.h"
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#define CHILD_NEVER UINT64_MAX
#define CHILD_VERSION_MAX 63

enum child_state { CHILD_OFF, CHILD_DELAYED, CHILD_STARTING, CHILD_READY, CHILD_ENDING };

/* What a process gets back that the launcher changed for itself. */
struct inherited {
    sigset_t mask;
    struct sigaction pipe; /* of SIGPIPE */
    struct rlimit files;
    int oom_score_adj; /* INT32_MIN: not changed */
};

/* How to start one: set once, by the owner of the struct child. */
struct child_spec {
    const char *name;       /* for messages, and argv[0] */
    const char *path;       /* of the program; looked up again at each start */
    char *const *args;      /* argv[1…], NULL-terminated */
    int last_signal;        /* that ends it when no successor will be started; 0: SIGTERM */
    int replace_signal;     /* that asks it to make room for a successor; 0: SIGTERM */
    bool keeps_fences;      /* may send LAUNCH_FENCE_*: each program has its own store */
    uint64_t ready_timeout; /* ns; a start that takes longer is killed; 0: as long as it likes */
    uint64_t eof_timeout;   /* ns from the end of its socket to SIGKILL; 0: it may go on without one once it is READY */
    /* Descriptors that it inherits, as environment variables that hold their numbers; -1: left out. */
    struct {
        const char *variable;
        int fd;
    } fds[4];
};

struct child {
    struct child_spec spec;
    enum child_state state;
    bool wanted; /* it is started again when it dies */
    pid_t pid;   /* 0: no process */
    int sock;    /* the launcher's end; -1: none, or at its end */
    uint64_t started;
    uint64_t due; /* DELAYED: start; STARTING: SIGKILL or CHILD_NEVER; ENDING: SIGKILL */
    uint64_t eof_due;
    struct backoff backoff;
    unsigned starts_failed; /* deaths before the first READY of this launcher's life */
    bool ever_ready;
    char version[CHILD_VERSION_MAX + 1]; /* as the last READY said; "": it did not say */
    /* Answers that did not fit into its socket yet. While there are any, nothing is read from it. */
    unsigned acks;
    bool listing;
    const struct kept *list_at; /* the next to be sent; NULL: LAUNCH_FENCE_END is */
};

void child_init(struct child *c, const struct child_spec *spec);

/* Starts the process (OFF or DELAYED → STARTING). Failures (no memory, no process table entry) are logged and count as a death. */
void child_start(struct child *c, const struct inherited *inherited);

/* SIGTERM (or last_signal, replace_signal) now, SIGKILL after grace ns. again: then start a new one. Without a process: nothing, or a start at
 * once. */
void child_end(struct child *c, uint64_t grace, bool again);
/* SIGKILL, at once; it is started again if it was wanted. */
void child_kill(struct child *c);

/* Its process was reaped with this wait status. Logs, and decides when to start the next. */
void child_died(struct child *c, int wait_status, uint64_t now);

/* When child_timer() wants to be called; CHILD_NEVER. */
uint64_t child_due(const struct child *c);
/* Returns true if the process should be started now (child_start). */
bool child_timer(struct child *c, uint64_t now);

/* poll(2) events to wait for on c->sock. */
short child_poll_events(const struct child *c);
/* Its socket is readable, writable or at its end: reads packets, obeys them, sends answers. What does not belong there is logged, and the
 * socket is closed. Reads a bounded number of packets a call. */
void child_talk(struct child *c, struct keeper *keeper, uint64_t now);

/* For children and the application, between fork and exec: gives back what the launcher changed for itself. */
void inherited_restore(const struct inherited *inherited);

/* "exit status 3" or "signal 9 (Killed)", for messages; static storage. */
const char *wait_status_text(int wait_status);

#endif
