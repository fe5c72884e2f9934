/* Between cluster.c (who there is) and request.c (how they are asked). */
#ifndef EDGEFS_CTL_CLUSTER_PRIVATE_H
#define EDGEFS_CTL_CLUSTER_PRIVATE_H

#include "ctl/cluster.h"

struct cluster {
    char *urls[CLUSTER_URLS_MAX + CONFIG_NODES_MAX + 1]; /* to be tried in this order */
    int n_urls;
    char *token; /* NULL: none */
};

#endif
