/* One running node: from the data directory's lock to its release. The event loop of the program that must not die.
 *
 *   FS ──► PROBE ──► REPLICATOR ──► UP         start: edgefs-fs is ready, the mount answers, edgefs-replicator is ready
 *    └───────┴───────────┴──────────┤          any failure of the start, a signal, `edgefs stop`, the application's end
 *                                   ▼
 *          STOP_PROXY ──► STOP_APP ──► STOP_REPLICATOR ──► UNMOUNT ──► STOP_FS ──► DONE
 *
 * edgefs-proxy, if it is configured, is started when the node is UP, beside the application; what it does when it dies has no influence on
 * the node. Stopping begins with it: requests that it has are finished while the application still runs.
 *
 * In each state but the last two a program that dies is started again at once (children.h). */
#ifndef EDGEFS_LAUNCHER_SUPERVISOR_H
#define EDGEFS_LAUNCHER_SUPERVISOR_H

#include "lib/config.h"

struct supervisor_options {
    const struct config *config;
    const struct config_args *args; /* as the user gave them; passed on to the programs */
    const char *programs;           /* folder of edgefs-fs, edgefs-replicator and edgefs-proxy */
    char **app;                     /* NULL: none */
};

/* Runs the node until it is stopped. Blocks; call once, in a single-threaded process: it changes signal mask, SIGPIPE, and the limit of
 * open files. Returns the exit status: the application's; without one 0 after a clean stop; 1 when something failed (said
 * on standard error); 2 when a program found the configuration bad. */
int supervisor_run(const struct supervisor_options *options);

#endif
