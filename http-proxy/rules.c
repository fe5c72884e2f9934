#include "http-proxy/rules.h"

#include "lib/util.h"

/* How far a request has come. A decision only ever moves down this list, but for HOLD and FORWARD, which take turns until the time is over. */
enum step {
    STEP_NEW,
    STEP_WAITED,  /* a read has waited for its position, or for the replica to catch up */
    STEP_TRIED,   /* the primary was tried and could not be reached */
};

static void local(struct decision *d, bool stale, const char *reason)
{
    d->verdict = DECIDE_LOCAL;
    d->stale = stale;
    d->reason = reason;
}

static void forward(struct decision *d, const char *reason)
{
    d->verdict = DECIDE_FORWARD;
    d->reason = reason;
    d->relays = 0;
}

/* Level 4: the primary is out of reach, and others are not: one of them may know a way. Only for a client's own request, or nodes would send it
 * around among themselves. */
static bool relay(const struct rules_facts *f, const struct rules_node *n, struct decision *d)
{
    if (!n->scattered || f->hop || d->relays >= n->neighbours)
        return false;
    d->relays++;
    d->verdict = DECIDE_FORWARD;
    d->reason = "neighbours-gone";
    return true;
}

static void wait_for(struct decision *d, struct position want, uint64_t ms)
{
    d->verdict = DECIDE_WAIT;
    d->want = want;
    d->wait_ms = (uint32_t)MIN(ms, UINT32_MAX);
    d->waited = true;
}

static void hold(const struct config_proxy *app, struct decision *d, const char *reason)
{
    d->verdict = DECIDE_HOLD;
    d->held = true;
    d->hold_ms = (uint32_t)MIN(app->failover_wait_ms, UINT32_MAX);
    d->reason = reason;
}

static void refuse(struct decision *d, const char *reason)
{
    d->verdict = DECIDE_REFUSE;
    d->status = 503;
    d->reason = reason;
}

static bool primary_known(const struct rules_node *n)
{
    return n->state->primary[0] && !n->self_primary_name;
}

/* ---- writes ---- */

static void apply_write(const struct config_proxy *app, const struct rules_facts *f, const struct rules_node *n, enum decide_event event,
                        uint64_t elapsed_ms, struct decision *d)
{
    const struct position_state *s = n->state;
    bool over = event == DECIDE_EV_TIMEOUT || elapsed_ms >= app->failover_wait_ms;
    if (s->role == POSITION_ROLE_PRIMARY && !s->holding) {
        if (n->slow && n->writes >= app->degrade.write_queue)
            refuse(d, "write-queue");
        else
            local(d, false, NULL);
        return;
    }
    if (event == DECIDE_EV_NO_ROUTE) {
        d->step = STEP_TRIED;
        if (over)
            refuse(d, "no-primary");
        else if (!relay(f, n, d))
            hold(app, d, "no-primary");
        return;
    }
    if (over) {
        refuse(d, s->holding ? "promotion" : "no-primary");
        return;
    }
    /* Who forwarded it here took this node for the primary, or knows before it does that it will be: a moment tells. Bounced at once it could
     * go back and forth between two nodes until one of them knows. */
    bool sent_here = f->hop > 0 && !d->held && !f->relayed;
    d->relays = 0;
    if (s->role == POSITION_ROLE_REPLICA && primary_known(n) && !sent_here && f->hop < RULES_HOPS_MAX)
        forward(d, "write");
    else if (s->role != POSITION_ROLE_REPLICA || primary_known(n) || !relay(f, n, d))
        hold(app, d, s->holding ? "promotion" : "no-primary");
}

/* ---- reads ---- */

/* The primary would know better, and could not be asked. A position that somebody was promised is waited for as long as a write is; everything
 * else is answered with what is here, and says so. */
static void no_primary(const struct config_proxy *app, const struct rules_facts *f, const struct rules_node *n, uint64_t elapsed_ms,
                       struct decision *d)
{
    d->step = STEP_TRIED;
    if (relay(f, n, d))
        return;
    d->relays = 0;
    if (f->want.epoch && elapsed_ms < app->failover_wait_ms)
        wait_for(d, f->want, MIN(app->failover_wait_ms - elapsed_ms, RULES_RETRY_MS));
    else
        local(d, true, "no-primary");
}

static void to_primary(const struct config_proxy *app, const struct rules_facts *f, const struct rules_node *n, uint64_t elapsed_ms,
                       struct decision *d)
{
    if (primary_known(n) && f->hop < RULES_HOPS_MAX)
        forward(d, "replica-lag");
    else
        no_primary(app, f, n, elapsed_ms, d);
}

static void read_with_position(const struct config_proxy *app, const struct rules_facts *f, const struct rules_node *n,
                               enum decide_event event, uint64_t elapsed_ms, struct decision *d)
{
    const struct position_state *s = n->state;
    if (f->reached) {
        local(d, false, NULL);
    } else if (s->role == POSITION_ROLE_PRIMARY) {
        /* Only a position of an epoch that this node does not know is not reached here: another node may have been made primary, and this
         * one is about to learn it. If not, nobody ever gave that position. */
        if (d->step == STEP_NEW && f->credit) {
            d->step = STEP_WAITED;
            wait_for(d, f->want, app->max_wait_ms);
        } else {
            local(d, true, "unknown-epoch"); /* in the first case this node is behind, and cannot know how far */
        }
    } else if (!f->credit) {
        refuse(d, "too-many-positions");
    } else if (event == DECIDE_EV_NO_ROUTE) {
        no_primary(app, f, n, elapsed_ms, d);
    } else if (d->step == STEP_NEW && s->lag_records <= app->lag.stale_records) {
        d->step = STEP_WAITED;
        wait_for(d, f->want, app->max_wait_ms);
    } else {
        to_primary(app, f, n, elapsed_ms, d);
    }
}

static bool may_be_stale(const struct rules_facts *f, const struct position_state *s)
{
    return f->stale_ok || f->max_stale_ms == UINT64_MAX || (f->max_stale_ms && s->lag_ms <= f->max_stale_ms);
}

static void read_any(const struct config_proxy *app, const struct rules_facts *f, const struct rules_node *n, enum decide_event event,
                     uint64_t elapsed_ms, struct decision *d)
{
    const struct position_state *s = n->state;
    bool behind = s->lag_records > 0 || n->behind;
    if (s->role == POSITION_ROLE_PRIMARY) {
        local(d, false, NULL);
    } else if (event == DECIDE_EV_NO_ROUTE) {
        no_primary(app, f, n, elapsed_ms, d);
    } else if (event == DECIDE_EV_REACHED || !behind) {
        local(d, false, NULL);
    } else if (!s->connected || !s->primary_reachable) {
        local(d, true, "no-primary"); /* how far behind nobody knows; reads go on */
    } else if (s->lag_records <= app->lag.wait_records) {
        if (d->step == STEP_NEW && s->lag_records && app->lag.wait_ms) {
            d->step = STEP_WAITED;
            wait_for(d, s->last, app->lag.wait_ms);
        } else {
            local(d, true, NULL);
        }
    } else if (s->lag_records <= app->lag.stale_records && may_be_stale(f, s)) {
        local(d, true, NULL);
    } else if (s->lag_records <= app->lag.stale_records && d->step == STEP_NEW) {
        d->step = STEP_WAITED;
        wait_for(d, s->last, app->max_wait_ms);
    } else {
        to_primary(app, f, n, elapsed_ms, d);
    }
}

/* ---- */

void rules_apply(const struct config_proxy *app, const struct rules_facts *f, const struct rules_node *n, enum decide_event event,
                 uint64_t elapsed_ms, struct decision *d)
{
    if (event == DECIDE_EV_REPLAY) {
        if (n->state->role == POSITION_ROLE_PRIMARY && !n->state->holding)
            local(d, false, "replay");
        else
            apply_write(app, f, n, DECIDE_EV_CHANGED, elapsed_ms, d);
        return;
    }
    if (f->kind == DECIDE_PASSTHROUGH)
        local(d, false, NULL);
    else if (f->kind == DECIDE_WRITE)
        apply_write(app, f, n, event, elapsed_ms, d);
    else if (f->want.epoch)
        read_with_position(app, f, n, event, elapsed_ms, d);
    else
        read_any(app, f, n, event, elapsed_ms, d);
}
