/* Finding the pages in which a copy here differs from the one of another node: the asking side of difference.h. Blocks on the network. */
#ifndef EDGEFS_DIFFERENCE_CLIENT_H
#define EDGEFS_DIFFERENCE_CLIENT_H

#include "lib/http/client.h"
#include "replicator/image/difference.h"
#include <stdbool.h>

/* Checksums of pages that are at hand, page 1 first. What is not there, or not known, is 0. */
struct difference_have {
    const uint64_t *base; /* of the database as it is; n_base entries; NULL: there is none */
    uint32_t n_base;
    uint64_t *sums; /* in: of pages fetched earlier. out: of the pages that are as on the server, wherever they are at hand; 0: wanted */
    uint32_t n;     /* entries: at least head.commit */
};

struct difference {
    struct http_client *http;
    const char *url; /* …/v1/databases/NAME; the caller's */
    uint64_t least;  /* LSN: not a state before this one */
    bool wide;
    struct difference_head head; /* of the first answer; of its lsn, txid, checksum and commit that of the last one */
    uint64_t *blocks;
    uint32_t n_blocks;
    uint8_t *ranges; /* what to ask for, as the body of POST /image */
    size_t ranges_len, ranges_size;
    uint64_t wanted; /* pages in them */
    bool more;       /* there were too many ranges: these first, and then it is to be asked again */
};

/* Asks for the blocks. *status: of the answer, 404 if there is no such database. 0, ERR_REMOTE, ERR_CORRUPT or an error of http_client_request. */
int difference_begin(struct difference *d, int *status, struct err *e);
/* Compares, and asks for the pages of the blocks that differ. */
int difference_find(struct difference *d, struct difference_have *have, struct err *e);
/* Frees what these made. */
void difference_end(struct difference *d);

#endif
