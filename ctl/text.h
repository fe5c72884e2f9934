/* Numbers and names as people read them. Pure functions. */
#ifndef EDGEFS_CTL_TEXT_H
#define EDGEFS_CTL_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_NUMBER_MAX 32 /* enough for each of the next three, NUL included */

/* "0 B", "1023 B", "1.0 KiB", "12.3 MiB", "123 GiB": three significant digits. Return buf. */
const char *text_size(uint64_t bytes, char buf[TEXT_NUMBER_MAX]);
/* "0 ms", "999 ms", "1.5 s", "59 s", "2 min 5 s", "3 h 4 min", "5 d 6 h". */
const char *text_duration(uint64_t ms, char buf[TEXT_NUMBER_MAX]);
/* "m:ss" or "h:mm:ss". */
const char *text_clock(uint64_t seconds, char buf[TEXT_NUMBER_MAX]);

/* Columns that s takes on a terminal: combining marks 0, East Asian wide characters and pictographs 2, invalid bytes 1. */
size_t text_width(const char *s);
/* Bytes of the longest prefix of s that takes at most width columns and splits no character. */
size_t text_prefix(const char *s, size_t width);

/* A copy of s that is safe to show: control characters (C0, DEL, C1, bidirectional overrides, line separators) and invalid UTF-8 become '?',
 * each. The caller frees it; NULL: out of memory. */
char *text_printable(const char *s);

/* True if standard output (fd 1) or error (fd 2) is a terminal that may be coloured: not with NO_COLOR (https://no-color.org), not TERM=dumb. */
bool text_colours(int fd);

#endif
