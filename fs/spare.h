/* Spare threads: they carry out what was parked or resent, since the threads that read requests must not be made to wait for it. */
#ifndef EDGEFS_FS_SPARE_H
#define EDGEFS_FS_SPARE_H

#include "lib/err.h"

#define SPARE_THREADS 4

struct spare;

/* Part of something that lives until its function is called (which may free it); the contents are private to spare.c. */
struct spare_work {
    struct spare_work *next;
    void (*fn)(void *arg);
    void *arg;
};

/* Starts the threads; they live until the process ends. 0 or -errno. */
int spare_start(struct spare **out, struct err *e);

/* Runs fn(arg) soon on a spare thread; work given by one thread begins in the order given. Never blocks; any thread, whatever locks it
 * holds. */
void spare_defer(struct spare *s, struct spare_work *w, void (*fn)(void *arg), void *arg);

/* Starts a thread with a small stack, detached unless id is not NULL. 0 or -errno. */
int spare_thread(void *(*fn)(void *), void *arg, unsigned long *id, struct err *e);

#endif
