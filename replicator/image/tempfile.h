/* A nameless file in the data directory, for answers that are made first and sent afterwards. */
#ifndef EDGEFS_TEMPFILE_H
#define EDGEFS_TEMPFILE_H

#include "replicator/node.h"

/* Read-write, close-on-exec, gone with its last descriptor; in <data>/run. The descriptor or -errno. Any thread. */
int tempfile_open(struct node *n, struct err *e);
/* Writes all n bytes at *at and moves it on. 0 or -errno (-ENOSPC …). */
int tempfile_write(int fd, const void *p, size_t n, int64_t *at, struct err *e);

#endif
