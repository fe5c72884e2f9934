/* A process that reads a seed's databases on the replica all the time, as an application there does: whatever it sees must be a state that was
 * committed, and one read transaction must see one state however long it takes. */
#ifndef TORTURE_WATCHER_H
#define TORTURE_WATCHER_H

#include <sys/types.h>

/* Starts it on the files (NULL at the end) below root. It ends with its parent; with exit status 1, and a line on standard error, when it saw
 * what must not be. Returns its pid. */
pid_t watcher_start(const char *root, const char *const *files, unsigned seed);

#endif
