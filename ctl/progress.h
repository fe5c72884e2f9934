/* A progress bar on standard error, if that is a terminal; nothing otherwise. One at a time. progress_add may be called from any
 * thread, the others from the main thread only. */
#ifndef EDGEFS_CTL_PROGRESS_H
#define EDGEFS_CTL_PROGRESS_H

#include <stdint.h>

/* label is copied (what is going on: "import app.db"); total: bytes, 0 if unknown (then no bar and no time left). */
void progress_begin(const char *label, uint64_t total);
/* The total has become known, or is another one. */
void progress_total(uint64_t total);
/* So many bytes more are done. Redraws at most ten times a second. */
void progress_add(uint64_t bytes);
/* Removes the bar; without one, does nothing. */
void progress_end(void);

/* Whether a bar is on the screen now: for who writes to the terminal in between, and for the signal handler. */
int progress_visible(void);

#endif
