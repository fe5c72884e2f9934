/* Files that programs on this host have lent to the replicator (edgefs/lend.h), until an import takes them. Everything in the loop's thread. */
#ifndef EDGEFS_LENT_H
#define EDGEFS_LENT_H

#include "lib/err.h"
#include <stdint.h>

struct event_base;
struct lent_server;
struct lent;

/* Listens on LAYOUT_FILES_SOCK in the data directory. 0 or -errno. */
int lent_open(const char *data, struct event_base *base, struct lent_server **out, struct err *e);
/* Lets go of all that nobody has taken. What was taken must have been returned. NULL: nothing. */
void lent_close(struct lent_server *s);

/* Absolute path of the socket. */
const char *lent_path(const struct lent_server *s);

/* The file of that number, which nobody else gets from now on: *fd is the caller's, *size its length in bytes. on_gone is called, once, if the lender goes before
 * lent_return. NULL: no such file (any text will do for number), or s is NULL. */
struct lent *lent_take(struct lent_server *s, const char *number, void (*on_gone)(void *arg), void *arg, int *fd, int64_t *size);
/* It is no longer used. NULL: nothing. */
void lent_return(struct lent *l);

#endif
