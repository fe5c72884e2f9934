#include "lib/config.h"
#include <fnmatch.h>

unsigned config_sync_replicas(const struct config *c, const char *database)
{
    bool listed = c->sync.databases.n == 0;
    for (int i = 0; i < c->sync.databases.n && c->sync.replicas && !listed; i++)
        listed = fnmatch(c->sync.databases.items[i], database, 0) == 0;
    return listed ? (unsigned)c->sync.replicas : 0;
}
