/* After the launcher was killed: the fences of a replica stand for as long as applications have its databases open. The launcher, which keeps their descriptors for the
 * case that this process is killed, is gone; when this process ends, too, whoever has a database open on the mount can write to it. So it stays, stops all else that it
 * does, and ends when nobody has one open any more. Applications read on, and may open further databases. A primary that lets go of its lease fences itself first and does the same.
 * What applications commit if this process is killed as well is kept in quarantine by the next start (stray.h). */
#ifndef EDGEFS_LINGER_H
#define EDGEFS_LINGER_H

#include "replicator/node.h"

/* Blocks until no application has a database of the mount open. edgefs-fs says so; if that is dead (with passthrough applications do not need it), /proc does.
 * Capture's thread and the worker run, as they answer opens. */
void linger(struct node *n);

#endif
