/* Who of the nodes that live may become primary when nobody is: the most advanced candidate. Pure: no state, no waiting, any thread. */
#ifndef EDGEFS_ELECTION_H
#define EDGEFS_ELECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct contender {
    char node[65], url[256];
    uint64_t epoch, lsn; /* end of its log */
    uint64_t priority;
    uint64_t election; /* number of the epoch that it stands for with this position; 0: it has not noticed yet that nobody is primary */
    bool candidate;
    bool complete; /* everything in its log is applied, no database waits for an image */
    bool counts;   /* where it says to stand is all that it may have vouched for to a primary, or told an application (needed) */
};

enum election_verdict {
    ELECTION_TAKE,
    ELECTION_WAIT,   /* somebody else is to go first, or has not said yet where it stands */
    ELECTION_REFUSE, /* this node must not, whoever else there is */
};

/* other[0..n): the rest of the nodes with a live lease. election: number of the epoch that is to begin (1: the cluster has never had one).
 * needed: so many that count, self included, must have said where they stand, however long it takes (synchronous commit); 1: none but self.
 * patience_over: who has not answered by now is not waited for. why: at least 200 bytes, for a person; "" with TAKE. */
enum election_verdict election_judge(const struct contender *self, const struct contender *other, size_t n, uint64_t election, unsigned needed,
                                     bool patience_over, char why[200]);

#endif
