/* The priority of a program of ours among the others of the machine. */
#ifndef EDGEFS_PRIORITY_H
#define EDGEFS_PRIORITY_H

/* Sets the nice value (-20 … 19, lower: more) of the calling process: for threads that it starts from now on, and, where the kernel groups
 * the processes of a session to share the processors evenly (sched_autogroup, proc(5) /proc/PID/autogroup), for its group, without
 * which nice would mean nothing between two sessions. A value below the present one needs CAP_SYS_NICE; refused, all stays as
 * it is. */
void priority_set(int nice);

#endif
