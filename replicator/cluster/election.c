#include "replicator/cluster/election.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Whether a goes before b: the later epoch, then the longer log, then priority; names decide what is left, so that all judge alike. */
static bool before(const struct contender *a, const struct contender *b)
{
    if (a->epoch != b->epoch)
        return a->epoch > b->epoch;
    if (a->lsn != b->lsn)
        return a->lsn > b->lsn;
    if (a->priority != b->priority)
        return a->priority > b->priority;
    return strcmp(a->node, b->node) < 0;
}

enum election_verdict election_judge(const struct contender *self, const struct contender *other, size_t n, uint64_t election, unsigned needed,
                                     bool patience_over, char why[200])
{
    unsigned heard = 1;
    why[0] = 0;
    if (!self->candidate) {
        snprintf(why, 200, "nobody is primary, and this node is no candidate");
        return ELECTION_REFUSE;
    }
    if (election > 1 && !self->lsn) {
        snprintf(why, 200, "nobody is primary, and this node is empty while the cluster has had %" PRIu64 " epochs", election - 1);
        return ELECTION_REFUSE;
    }
    if (!self->complete) {
        snprintf(why, 200, "nobody is primary, and this node has not applied all that it received");
        return ELECTION_WAIT;
    }
    for (size_t i = 0; i < n; i++) {
        const struct contender *o = &other[i];
        if (!o->candidate)
            continue;
        if (o->election != election) {
            if (patience_over)
                continue;
            snprintf(why, 200, "nobody is primary; waiting for %.64s to say where it stands", o->node);
            return ELECTION_WAIT;
        }
        heard += o->counts;
        if (o->complete ? before(o, self) : o->epoch > self->epoch || (o->epoch == self->epoch && o->lsn > self->lsn)) {
            snprintf(why, 200, "nobody is primary, and %.64s goes first: it stands at %" PRIu64 "-%" PRIu64 ", this node at %" PRIu64 "-%" PRIu64,
                     o->node, o->epoch, o->lsn, self->epoch, self->lsn);
            return ELECTION_WAIT;
        }
    }
    if (heard < needed && (election > 1 || self->lsn)) {
        snprintf(why, 200, "nobody is primary, and %u of the nodes that may have acknowledged commits are heard: it takes %u (docs/synchronous-commit.md)", heard, needed);
        return ELECTION_WAIT;
    }
    return ELECTION_TAKE;
}
