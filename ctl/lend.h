/* Lends a file to a node on this host, which then copies it by itself (edgefs/lend.h). */
#ifndef EDGEFS_CTL_LEND_H
#define EDGEFS_CTL_LEND_H

#include "ctl/cluster.h"
#include "edgefs/lend.h"

struct lend {
    int sock; /* as long as it is open the file is lent */
    char number[LEND_NUMBER_LEN + 1];
};

/* Lends fd (it stays the caller's; its position is moved while it is read) to the node at url. False, nothing to be ended: that node is not on this
 * host, takes no files, is another user's, …: then the file has to be uploaded. Blocks for a few seconds at most. */
bool lend_begin(struct cluster *c, const char *url, int fd, struct lend *l);
void lend_end(struct lend *l);

#endif
