/* The proxy's end of the socket to the launcher (include/edgefs/launch.h): says that it is ready, and has its listening sockets kept. Without a
 * launcher (started by hand, tests) every call does nothing and succeeds. Blocks for one round trip to the launcher at most. */
#ifndef EDGEFS_PROXY_LINK_H
#define EDGEFS_PROXY_LINK_H

#include "lib/err.h"
#include <stdbool.h>

#define LINK_KEPT_MAX 64

struct link {
    int fd; /* -1: no launcher */
    int n;
    struct {
        char name[300];
        int fd;
    } kept[LINK_KEPT_MAX]; /* what a predecessor left; link_take takes one out */
};

/* Finds the launcher (EDGEFS_LAUNCHER_FD) and fetches what it keeps. 0 or -errno. */
int link_open(struct link *l, struct err *e);
/* Closes what nobody took, here and at the launcher. */
void link_close_rest(struct link *l);
void link_close(struct link *l);

/* The kept descriptor of that name, now the caller's; -1: none. */
int link_take(struct link *l, const char *name);
/* Has fd (still the caller's) kept under name; drop: no longer. 0 or -errno. */
int link_keep(struct link *l, const char *name, int fd);
int link_drop(struct link *l, const char *name);

void link_ready(struct link *l);

#endif
