/* Whether the event loop's thread is short of processor time. Process-wide, as there is one loop; its thread only.
 *
 * Long bodies can be copied or spliced (relay.c). Copying costs this thread two and a half times as much; but buffers that were written in one piece are quicker
 * to read for whoever comes next, and a thread that has something to do need not be woken, which on a virtual machine costs the one that wakes it 20 to 50 µs.
 * So bodies are copied while there is time for it, and spliced when there is not. docs/performance.md has the figures. */
#ifndef EDGEFS_PROXY_BUSY_H
#define EDGEFS_PROXY_BUSY_H

#include <stdbool.h>
#include <stdint.h>

/* Once a second: looks how much of the time since the last call this thread ran, or was ready and waited for a processor. Reads /proc; does not block. */
void busy_tick(void);
/* What the last two ticks said. False in the first second. */
bool busy_short(void);

/* The rule, for tests: the thread needed needed_ns of passed_ns; was: what it said before. */
bool busy_judge(bool was, uint64_t needed_ns, uint64_t passed_ns);

#endif
