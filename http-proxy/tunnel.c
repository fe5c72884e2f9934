/* After 101 (RFC 9110 §7.8): bytes in both directions until both sides have ended. An end of one direction is passed on as such.
 *
 * A tunnel to a path of `upgrade-writes` leads to an application that writes, so it ends with this node's time as primary: whoever connects again
 * reaches the new one. What is a request in it the proxy cannot see. So when a promotion is about to fence, nothing more is passed to the application,
 * and what it got within the last SETTLE_MS counts as a write under way. Undone, the tunnel goes on. */
#include "http-proxy/engine.h"

#include "lib/log.h"
#include <stddef.h>

#define SETTLE_MS 500

/* false: the tunnel is over. */
static bool one_way(struct flow *f, struct transport *from, struct transport *to)
{
    if (to->shut)
        return true;
    switch (flow_pump(f, from, to, NULL, NULL)) {
    case FLOW_WAIT:
        return true;
    case FLOW_AGAIN:
        event_active(&from->ev, EV_READ, 1);
        return true;
    case FLOW_DONE:
        transport_shutdown(to);
        return true;
    default:
        return false;
    }
}

void tunnel_pump(struct exchange *ex)
{
    struct transport *client = &ex->c->t, *upstream = &ex->u->t;
    uint64_t before = ex->up.bytes;
    bool up = ex->tunnel.paused || one_way(&ex->up, client, upstream), down = up && one_way(&ex->down, upstream, client);
    if (ex->tunnel.writes && ex->up.bytes != before)
        ex->tunnel.sent_ms = engine_now_ms();
    if (!up || !down) {
        client_close(ex->c, true);
    } else if (client->shut && upstream->shut) {
        ex->response_sent = true;
        client_close(ex->c, false);
    }
}

static void role_moved(struct position_wait *w, enum position_outcome outcome, struct position pos);

/* Parks for the next change. While a promotion wants to fence, the last message's time to settle is one, too. */
static void await_change(struct exchange *ex)
{
    struct engine *e = ex->c->e;
    uint64_t now = engine_now_ms(), until = ex->tunnel.sent_ms + SETTLE_MS;
    bool settling = ex->tunnel.paused && until > now, late = position_state(e->positions)->role == POSITION_ROLE_REPLICA;
    exchange_write_end(ex);
    if (settling)
        exchange_write_begin(ex, true);
    ex->wait.done = role_moved;
    position_wait_change(e->positions, &ex->wait, late ? now : settling ? until : UINT64_MAX);
}

static void role_moved(struct position_wait *w, enum position_outcome outcome, struct position pos)
{
    struct exchange *ex = (struct exchange *)((char *)w - offsetof(struct exchange, wait));
    const struct position_state *s = position_state(ex->c->e->positions);
    (void)outcome;
    (void)pos;
    if (s->role == POSITION_ROLE_REPLICA) {
        log_debug("tunnel", "%s: ended: this node is not primary any more", ex->app->c->name);
        ex->response_sent = true;
        exchange_end(ex, true);
        return;
    }
    bool goes_on = ex->tunnel.paused && !s->holding;
    ex->tunnel.paused = s->holding;
    await_change(ex);
    if (goes_on)
        tunnel_pump(ex);
}

void tunnel_begin(struct exchange *ex)
{
    ex->tunnel.writes = ex->decision.kind == DECIDE_WRITE && !ex->forwarded;
    if (ex->tunnel.writes) {
        ex->tunnel.paused = position_state(ex->c->e->positions)->holding;
        await_change(ex);
    }
    tunnel_pump(ex);
}
