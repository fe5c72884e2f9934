/* What SQLite's file layer calls in this process instead of the system.
 *
 * As root SQLite gives each WAL and journal that it opens the owner of the database (os_unix.c, robustFchown), whether it has that owner or not. fchown takes the
 * lock of the inode, which the kernel holds all the while that an fsync is under way: with synchronous commit, until replicas have acknowledged. Whoever waits for it
 * with a database's lock held keeps capture's thread from ending that very wait. So the owner is changed only if it is another. */
#ifndef EDGEFS_FILECALLS_H
#define EDGEFS_FILECALLS_H

/* Once, before SQLite is used and before threads start. Initialises SQLite. */
void filecalls_install(void);

#endif
