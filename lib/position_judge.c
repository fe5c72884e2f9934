#include "edgefs/position_feed.h"

#include "lib/util.h"
#include <errno.h>

int position_judge(struct position p, const struct position_feed_epoch *list, unsigned n, uint64_t *lsn)
{
    if (n ? p.epoch > list[n - 1].epoch : p.epoch > 0)
        return -EAGAIN;
    /* The first entry of a later epoch says where p's epoch, or the last one before p's fork, ended. */
    for (unsigned i = 0; i < n; i++)
        if (list[i].epoch > p.epoch) {
            *lsn = MIN(p.lsn, list[i].first_lsn - 1);
            return 0;
        }
    *lsn = p.lsn;
    return 0;
}
