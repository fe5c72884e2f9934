/* Between cluster.c (who there is) and request.c (how they are asked). */
#ifndef EDGEFS_CTL_CLUSTER_PRIVATE_H
#define EDGEFS_CTL_CLUSTER_PRIVATE_H

#include "ctl/cluster.h"
#include "lib/http/client.h"
#include <pthread.h>

#define CLUSTER_THREADS_MAX 32
#define CLUSTER_CLIENTS_MAX (CLUSTER_THREADS_MAX + 1) /* the main thread too */

struct cluster {
    char *urls[CLUSTER_URLS_MAX + CONFIG_NODES_MAX + 1]; /* to be tried in this order */
    int n_urls;
    char *token; /* NULL: none */

    pthread_mutex_t lock; /* idle and n_idle */
    struct idle_client {
        struct http_client *client; /* with a connection that is still open, most likely */
        char *url;                  /* to this node */
    } idle[CLUSTER_CLIENTS_MAX];
    int n_idle;
};

/* request.c */
void cluster_close_clients(struct cluster *c);

#endif
