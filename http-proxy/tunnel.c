/* After 101 (RFC 9110 §7.8): bytes in both directions until both sides have ended. An end of one direction is passed on as such. */
#include "http-proxy/engine.h"

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
    bool up = one_way(&ex->up, client, upstream), down = up && one_way(&ex->down, upstream, client);
    if (!up || !down) {
        client_close(ex->c, true);
    } else if (client->shut && upstream->shut) {
        ex->response_sent = true;
        client_close(ex->c, false);
    }
}
