/* <data>/run/launcher.sock: how `edgefs upgrade` and `edgefs stop` talk to the running launcher. SOCK_SEQPACKET, text packets.
 *
 *   client:   "upgrade" or "stop"
 *   launcher: any number of "+TEXT" (progress), then one "0TEXT" (done) or "!TEXT" (failed), then the end.
 *
 * The server half never blocks and never trusts: a few clients at a time, short packets, this user or root only; a client that does not
 * read its answers loses them. Single-threaded. */
#ifndef EDGEFS_LAUNCHER_CONTROL_H
#define EDGEFS_LAUNCHER_CONTROL_H

#include "lib/err.h"
#include <poll.h>
#include <stdint.h>

#define CONTROL_CLIENTS_MAX 8
#define CONTROL_POLL_MAX (CONTROL_CLIENTS_MAX + 1)
#define CONTROL_TEXT_MAX 1024

enum control_request { CONTROL_UPGRADE, CONTROL_STOP };

struct control {
    int listener;
    struct {
        int fd;      /* -1: free */
        uint64_t id; /* never used twice; 0: none */
    } clients[CONTROL_CLIENTS_MAX];
    uint64_t last_id;
    uint64_t accept_after; /* ns; a failed accept is not tried again before */
};

/* Listens on path. 0 or -errno. */
int control_open(struct control *c, const char *path, struct err *e);
void control_close(struct control *c);

/* Fills p[0..CONTROL_POLL_MAX) with what to wait for; returns how many. */
int control_poll(const struct control *c, struct pollfd *p, uint64_t now);
/* After poll(2) on what control_poll filled in: accepts, reads, and calls obey for each request. */
void control_serve(struct control *c, const struct pollfd *p, int n, uint64_t now,
                   void (*obey)(void *context, uint64_t client, enum control_request request), void *context);

/* kind: '+', '0' or '!'; the latter two end the conversation. A client that is gone is no error. */
void control_say(struct control *c, uint64_t client, char kind, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* The client half: asks, prints progress to standard output and failures to standard error, blocks until the answer. Returns the
 * exit status: 0 or 1. */
int control_ask(const char *path, enum control_request request);

#endif
