/* The application: an ordinary child process with the launcher's own working directory, environment, process group, limits and signal
 * mask, as if the shell had started it. */
#ifndef EDGEFS_LAUNCHER_APP_H
#define EDGEFS_LAUNCHER_APP_H

#include "ctl/launcher/children.h"
#include <stdbool.h>

/* Starts argv[0] (found on PATH). Its pid, or -errno of fork. If it cannot be run, the process exits like a shell's: 127 not found,
 * 126 otherwise, after a line in the log. */
pid_t app_start(char **argv, const struct inherited *inherited);

/* Exit status for the launcher: the application's own, or 128 + signal. */
int app_exit_status(int wait_status);

/* Whether a signal that came to the launcher from the kernel (code SI_KERNEL: a key on the terminal, a hang-up) went to the application as
 * well, being in the same process group: then it is not passed on a second time. */
bool app_got_it_too(pid_t app, int si_code);

#endif
