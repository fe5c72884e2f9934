/* Packets over SOCK_SEQPACKET Unix sockets, with file descriptors. Every function may be called from any thread; one packet
 * is sent or received whole. */
#ifndef EDGEFS_LOCALSOCK_H
#define EDGEFS_LOCALSOCK_H

#include "lib/err.h"
#include <stddef.h>
#include <sys/types.h>

#define LOCALSOCK_FDS_MAX 4

/* Connects to path. Returns the descriptor (close-on-exec; the caller closes it) or -errno. */
int localsock_connect(const char *path, struct err *e);

/* Binds and listens on path (an old socket file there is removed), mode 0600. Descriptor, close-on-exec, or -errno. */
int localsock_listen(const char *path, struct err *e);

/* Sends one packet made of head and body (body may be NULL/0) and nfds descriptors (they stay the caller's). Blocks unless the
 * socket is non-blocking. 0 or -errno (-EPIPE: the other side is gone; no signal). */
int localsock_send(int fd, const void *head, size_t head_len, const void *body, size_t body_len, const int *fds, int nfds);

/* Receives one packet into buf; descriptors, close-on-exec, into fds[0..*nfds) (room for LOCALSOCK_FDS_MAX; fds NULL: any are
 * closed). Returns its length, 0 at end of file, or -errno (-EMSGSIZE: it was longer than size; descriptors closed). */
ssize_t localsock_recv(int fd, void *buf, size_t size, int *fds, int *nfds);

#endif
