/* Asks the kernel that an idle processor wakes up at once, while an application commits through this file system without pause.
 *
 * A commit that syncs is a chain of wake-ups: application → edgefs-fs → disk → edgefs-fs → application. Each ends on a processor that has gone idle a moment ago. To wake one
 * that has halted takes 30 to 50 µs on a virtual machine, where the halt leaves the machine, so the chain costs as much as the disk. Linux lets a
 * program say how long a wake-up may take: PM QoS, /dev/cpu_dma_latency (Documentation/power/pm_qos_interface.rst). As long as the descriptor is open the idle
 * loop uses no state whose exit takes longer; with 0 µs it polls.
 *
 * The price is that processors which are idle *during that time* do not sleep: so the request stands only while one sync follows another, and is given back 20 to 40 ms
 * after that has ended (struct cpulatency_rule). Both are changes of the whole machine and interrupt its idle processors, hence the two different bounds. The kernel takes
 * the request back when this process ends, in whatever way; the descriptor is nobody else's.
 *
 * Without cpuidle driver, without the device or the right to open it there is nothing to ask for: said once in the log (info), and that is all. */
#ifndef EDGEFS_FS_CPULATENCY_H
#define EDGEFS_FS_CPULATENCY_H

#include "lib/err.h"
#include <stdbool.h>
#include <stdint.h>

#define CPULATENCY_DEVICE "/dev/cpu_dma_latency"

/* ---- the rule: pure functions of times ---- */

#define CPULATENCY_TAKE_SYNCS 8u            /* so many syncs … */
#define CPULATENCY_TAKE_NS 10000000ull      /* … within this time begin it: 800 a second. Fewer wait for a disk that is slow beside a wake-up */
#define CPULATENCY_LOOK_NS 20000000ull      /* while it is held, somebody looks so often … */
#define CPULATENCY_KEEP_SYNCS 4u            /* … and fewer since the last look end it: 200 a second */

struct cpulatency_rule { /* zeroed: not held */
    bool held;
    unsigned syncs;    /* since `since`; held: since the last look */
    uint64_t since_ns; /* not held: when the first of them came */
};

/* A sync has come at this time (CLOCK_MONOTONIC). True: it is held from now on, and was not. */
bool cpulatency_rule_sync(struct cpulatency_rule *r, uint64_t now);
/* A look, CPULATENCY_LOOK_NS after the taking or the last look. False: not held any more. */
bool cpulatency_rule_look(struct cpulatency_rule *r);

/* ---- the request ---- */

struct cpulatency;

/* Starts the thread that takes the request and gives it back; it sleeps without end while there is none. wanted: as configured (fs.cpu-latency-qos). *out is NULL
 * if there is nothing to do; else it stays for the life of the process. 0, or an error: no thread, no memory. */
int cpulatency_start(bool wanted, struct cpulatency **out, struct err *e);

/* An application waits for a sync. c may be NULL. Any thread; never waits for the device. */
void cpulatency_sync(struct cpulatency *c);

#endif
