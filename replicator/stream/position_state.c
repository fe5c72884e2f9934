#include "replicator/stream/position_state.h"

#include "lib/util.h"
#include "replicator/capture/hooks.h"
#include "replicator/cluster/lease_etcd.h"
#include "replicator/cluster/neighbours.h"

static uint8_t feed_role(const struct node *n)
{
    switch (node_role(n)) {
    case NODE_STARTING:
        break;
    case NODE_REPLICA:
        return POSITION_FEED_REPLICA;
    case NODE_PRIMARY: /* for applications it is one when edgefs-fs lets them write, and no fence is left that a write would meet */
        return hooks_in_force(n->hooks) && !atomic_load(&n->unfencing) ? POSITION_FEED_PRIMARY : POSITION_FEED_HANDING_OVER;
    case NODE_HANDING_OVER:
        return POSITION_FEED_HANDING_OVER;
    }
    return POSITION_FEED_STARTING;
}

static bool writes(const struct node *n)
{
    enum node_role r = node_role(n);
    return r == NODE_PRIMARY || r == NODE_HANDING_OVER;
}

void position_state_now(struct node *n, struct position_feed_now *now)
{
    bool primary = writes(n);
    now->applied = node_applied(n);
    now->last = rlog_last(n->rlog);
    if (!primary)
        now->last.lsn = MAX(now->last.lsn, (uint64_t)atomic_load(&n->upstream_lsn));
    now->current_ns = primary ? now_ns() : atomic_load(&n->current_ns);
}

static uint8_t flags(const struct node *n, uint32_t hold)
{
    return (uint8_t)((node_live(n) ? POSITION_FEED_CONNECTED : 0u) | (hold ? POSITION_FEED_HOLDING : 0u));
}

bool position_state_stale(struct node *n, const struct position_snapshot *s)
{
    struct position_feed_state st;
    memcpy(&st, s->tail, sizeof st);
    return st.role != feed_role(n) || st.flags != flags(n, st.hold) || s->epoch != rlog_last(n->rlog).epoch;
}

static void add(struct position_snapshot *s, const void *p, size_t n)
{
    if (n <= sizeof s->tail - s->tail_len) { /* always: POSITION_FEED_PACKET_MAX has room for the most there can be */
        memcpy(s->tail + s->tail_len, p, n);
        s->tail_len += n;
    }
}

static void add_neighbour(void *ctx, const char *name, bool reached)
{
    uint8_t head[2] = {reached, (uint8_t)strlen(name)};
    add(ctx, head, sizeof head);
    add(ctx, name, head[1]);
}

bool position_state_take(struct node *n, uint32_t hold, struct position_snapshot *s)
{
    struct position_snapshot fresh = {.epoch = rlog_last(n->rlog).epoch};
    struct epoch_entry epochs[POSITION_FEED_EPOCHS];
    char name[128], url[256];
    node_primary(n, name, url);
    unsigned n_epochs = (unsigned)epochs_newest(n->epochs, epochs, POSITION_FEED_EPOCHS);
    struct position_feed_state st = {
        .role = feed_role(n),
        .lease = !n->lease                         ? POSITION_FEED_LEASE_STATIC
                 : lease_etcd_reachable(n->lease) ? POSITION_FEED_LEASE_OK
                                                   : POSITION_FEED_LEASE_UNREACHABLE,
        .flags = flags(n, hold),
        .n_epochs = (uint8_t)n_epochs,
        .primary_len = (uint16_t)strlen(name),
        .primary_url_len = (uint16_t)strlen(url),
        .n_neighbours = (uint16_t)neighbours_count(n->neighbours),
        .hold = hold,
    };
    add(&fresh, &st, sizeof st);
    for (unsigned i = 0; i < n_epochs; i++)
        add(&fresh, &(struct position_feed_epoch){epochs[i].epoch, epochs[i].first_lsn}, sizeof(struct position_feed_epoch));
    add(&fresh, name, st.primary_len);
    add(&fresh, url, st.primary_url_len);
    neighbours_each(n->neighbours, add_neighbour, &fresh);
    bool changed = fresh.tail_len != s->tail_len || memcmp(fresh.tail, s->tail, fresh.tail_len) != 0;
    *s = fresh;
    return changed;
}
