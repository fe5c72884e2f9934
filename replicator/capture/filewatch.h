/* inotify over the files of the databases that applications have open: NAME, NAME-wal and NAME-shm each have a watch while they exist, those of idle databases
 * none.
 *
 * Files, not directories: with a watch on a directory the kernel asks about the parent's watches at each access to each file in it, reads included (about 5 % of
 * a point read; docs/performance.md). Files of the backing directory, not of the mount: passthrough and edgefs-fs both write there, and no call into the
 * mount is needed, so capture's own thread sets the watches.
 *
 * A file that appears has no watch before capture hears of it (HOOK_OPENED, HOOK_CREATED, HOOK_RENAMED). What is written until then raises no event: so whoever
 * calls filewatch_set looks at the database *afterwards*. What comes before the watch is seen by the look, what comes later raises an event.
 *
 * Everything here is called from one thread (capture's) and takes microseconds. */
#ifndef EDGEFS_FILEWATCH_H
#define EDGEFS_FILEWATCH_H

#include "replicator/node.h"

struct filewatch;

enum filewatch_file { FILEWATCH_MAIN, FILEWATCH_WAL, FILEWATCH_SHM, FILEWATCH_FILES };

/* The watches of one database; zeroed before its first use, and cleared (filewatch_clear) before it is freed. */
struct filewatch_target {
    int wd[FILEWATCH_FILES]; /* 0: none */
    bool muted;
};

int filewatch_open(const struct node *n, struct filewatch **out, struct err *e);
void filewatch_close(struct filewatch *w); /* targets may be freed before */
int filewatch_fd(const struct filewatch *w);

/* Watches those of the files of database name that exist now; a file that was known as another target's, because it has been renamed, is this one's from
 * here on. muted: writes of NAME and NAME-wal raise no event (which spares the writer the making of them) until it is set again without.
 * Errors (no more watches, no memory) leave what could be set. */
int filewatch_set(struct filewatch *w, const char *name, struct filewatch_target *t, bool muted, struct err *e);
void filewatch_clear(struct filewatch *w, struct filewatch_target *t);

/* Takes what events there are, without blocking; true if there are any. Afterwards filewatch_more: there may be more of them. */
bool filewatch_fill(struct filewatch *w);
bool filewatch_more(const struct filewatch *w);
/* Calls fn(ctx, target, file) for each file written to, made longer or shorter among the events taken. target NULL: events were lost, look at everything. fn may
 * set and clear. */
void filewatch_report(struct filewatch *w, void (*fn)(void *ctx, struct filewatch_target *t, enum filewatch_file file), void *ctx);

#endif
