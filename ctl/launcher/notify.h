/* sd_notify(3) without libsystemd. */
#ifndef EDGEFS_LAUNCHER_NOTIFY_H
#define EDGEFS_LAUNCHER_NOTIFY_H

/* Sends state ("READY=1", "STOPPING=1", …) to the service manager's NOTIFY_SOCKET; does nothing without one. Never blocks; a
 * manager that is away is no error of ours. 1 if it was sent, 0 if nobody asked for it, or -errno. */
int notify_manager(const char *state);

#endif
