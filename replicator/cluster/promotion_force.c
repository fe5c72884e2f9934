#include "lib/log.h"
#include "lib/util.h"
#include "replicator/cluster/discover.h"
#include "replicator/cluster/lease.h"
#include "replicator/cluster/lease_etcd.h"
#include "replicator/cluster/promotion.h"
#include "replicator/cluster/takeover.h"
#include <inttypes.h>
#include <stdio.h>

/* What the other nodes say. */
struct survey {
    struct discovered primary; /* reached: somebody is primary, and answers */
    struct discovered ahead;   /* reached: the one that stands farthest beyond this node */
    uint64_t epoch;            /* the latest that anybody knows of */
};

static bool beyond(struct position a, struct position b)
{
    return a.epoch != b.epoch ? a.epoch > b.epoch : a.lsn > b.lsn;
}

static void ask_everybody(struct node *n, struct survey *s)
{
    struct position own = rlog_last(n->rlog);
    *s = (struct survey){.epoch = MAX(own.epoch, epochs_current(n->epochs).epoch)};
    for (int i = 0; i < n->config->n_nodes; i++) {
        struct discovered d;
        if (!strcmp(n->config->nodes[i].name, n->config->node) || discover_ask(n, n->config->nodes[i].url, &d, NULL))
            continue;
        s->epoch = MAX(s->epoch, d.pos.epoch);
        if (d.role == NODE_PRIMARY || d.role == NODE_HANDING_OVER)
            s->primary = d;
        if (beyond(d.pos, s->ahead.reached ? s->ahead.pos : own))
            s->ahead = d;
    }
}

static void refuse(struct promotion_result *r, const struct node *n, const struct survey *s)
{
    struct position own = rlog_last(n->rlog);
    char lost[200] = "no node that answers has more than it";
    if (s->ahead.reached)
        snprintf(lost, sizeof lost, "%.64s has more: it stands at %" PRIu64 "-%" PRIu64 ", and what is only there would go into its quarantine", s->ahead.node,
                 s->ahead.pos.epoch, s->ahead.pos.lsn);
    r->status = 409;
    snprintf(r->text, sizeof r->text,
             "%s%s stands at %" PRIu64 "-%" PRIu64 "; %s. What only the old primary had goes into its quarantine when it is back. If that is wanted, repeat with --yes",
             own.lsn ? "" : "this node is empty! ", n->config->node, own.epoch, own.lsn, lost);
}

void promotion_force(struct node *n, bool yes, struct promotion_result *r)
{
    struct survey s;
    struct err e = {0};
    *r = (struct promotion_result){.status = 200};
    if (node_role(n) != NODE_REPLICA) {
        r->status = 409;
        snprintf(r->text, sizeof r->text, "this node is %s, not a replica", node_role_name(node_role(n)));
        return;
    }
    ask_everybody(n, &s);
    if (s.primary.reached) {
        r->status = 409;
        snprintf(r->text, sizeof r->text, "%.64s is primary and answers: promote without --force, which loses nothing", s.primary.node);
        return;
    }
    if (!yes) {
        refuse(r, n, &s);
        return;
    }
    log_warn("promotion", "forced: this node takes over at LSN %" PRIu64 " without the old primary", rlog_last(n->rlog).lsn);
    if (n->lease ? lease_etcd_force(n->lease, &r->pos, &e) : takeover_run(n, lease_next_epoch(n, n->config->node, s.epoch), &r->pos, &e)) {
        r->status = 409;
        snprintf(r->text, sizeof r->text, "%s", e.text);
        return;
    }
    snprintf(r->primary, sizeof r->primary, "%s", n->config->node);
    snprintf(r->url, sizeof r->url, "%s", n->config->http.advertise);
}
