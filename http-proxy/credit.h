/* How many requests of one client may wait, or go to the primary, because of positions that nobody on this node has seen. Whoever makes
 * positions up would otherwise have each of its requests parked and then forwarded. A position that turns out to exist costs nothing in the end. One
 * thread; memory is fixed; clients that hash to the same bucket share it. */
#ifndef EDGEFS_PROXY_CREDIT_H
#define EDGEFS_PROXY_CREDIT_H

#include <stdbool.h>
#include <stdint.h>

#define CREDIT_MAX 256     /* of one client: open, or found to be made up */
#define CREDIT_PER_S 16    /* comes back by itself */
#define CREDIT_BUCKETS 1024

struct credit;
struct sockaddr;

struct credit *credit_open(void); /* NULL: no memory */
void credit_close(struct credit *c);
/* False: there is none left. */
bool credit_take(struct credit *c, uint64_t client, uint64_t now_ms);
void credit_give(struct credit *c, uint64_t client);
/* A number for the client at this address: all of an IPv4 address, the /64 of an IPv6 address; NULL or another family: one for all. */
uint64_t credit_client(const struct sockaddr *peer);

#endif
