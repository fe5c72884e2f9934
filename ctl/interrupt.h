/* Ctrl-C and its relatives leave nothing behind: no temporary file, no half a progress bar, no hidden cursor. */
#ifndef EDGEFS_CTL_INTERRUPT_H
#define EDGEFS_CTL_INTERRUPT_H

#include <stdbool.h>

/* Installs the handler for SIGINT, SIGTERM and SIGHUP: cleans up, then dies of that signal. SIGPIPE is ignored from now on. */
void interrupt_install(void);

/* The one file to unlink if a signal comes (copied; too long a path is not remembered); NULL: none any more. Main thread. */
void interrupt_temporary(const char *path);

/* The cursor of standard output's terminal is hidden now, or visible again. */
void interrupt_cursor_hidden(bool hidden);

#endif
