/* Finding the primary: asks every configured node for its status. */
#ifndef EDGEFS_DISCOVER_H
#define EDGEFS_DISCOVER_H

#include "replicator/node.h"

/* What one node says of itself. */
struct discovered {
    bool reached;
    enum node_role role;
    struct position pos;
    char node[128], url[256];
    char primary[128], primary_url[256]; /* whom it believes to be primary */
};

/* GET url/v1/status. 0 or a negative code. Blocks up to about 3 s. */
int discover_ask(struct node *n, const char *url, struct discovered *d, struct err *e);

/* Asks all configured nodes and the primary known so far: *best is the one that says that it is primary, with the highest epoch. True if one was found. Blocks for
 * seconds: this node may have become primary itself meanwhile. */
bool discover_primary(struct node *n, struct discovered *best);
/* It becomes this node's idea of the primary (node_set_primary). The caller sees to it that this node's role does not change meanwhile. */
void discover_believe(struct node *n, const struct discovered *d);

#endif
