#include "http-proxy/health.h"

#include <jansson.h>
#include <string.h>

static const char *role_text(const struct position_state *s)
{
    switch (s->role) {
    case POSITION_ROLE_PRIMARY:
        return s->holding ? "handing-over" : "primary";
    case POSITION_ROLE_REPLICA:
        return "replica";
    case POSITION_ROLE_UNKNOWN:
        break;
    }
    return "unknown";
}

/* Why this node should get no traffic; NULL: it should. */
static const char *problem(const struct config *config, const struct position_state *s, const struct degrade *g, bool draining)
{
    if (draining)
        return "draining";
    if (s->role == POSITION_ROLE_UNKNOWN)
        return "the replicator is not there yet";
    for (int i = 0; i < config->n_proxies; i++)
        if (degrade_holds(g, &config->proxies[i], 1))
            return "this replica is too far behind";
    return NULL;
}

/* {"web": [1, 3], …}: the levels that hold, of entries for which any does. */
static json_t *levels(const struct config *config, const struct degrade *g)
{
    json_t *o = json_object();
    for (int i = 0; i < config->n_proxies; i++) {
        json_t *list = json_array();
        for (unsigned k = 1; k <= DEGRADE_LEVELS; k++)
            if (degrade_holds(g, &config->proxies[i], k))
                json_array_append_new(list, json_integer((json_int_t)k));
        if (json_array_size(list))
            json_object_set(o, config->proxies[i].name, list);
        json_decref(list);
    }
    return o;
}

char *health_text(const struct config *config, const struct position_tracker *t, const struct degrade *g, bool draining, int *status,
                  size_t *len)
{
    const struct position_state *s = position_state(t);
    const char *why = problem(config, s, g, draining);
    char pos[POSITION_TEXT_MAX];
    position_format(s->pos, pos);
    json_t *lag = s->lag_ms == UINT64_MAX ? json_null() : json_integer((json_int_t)s->lag_ms);
    json_t *o = json_pack("{s:s,s:s,s:s,s:s,s:s,s:i,s:o,s:o,s:I,s:b,s:b,s:b,s:{s:I,s:I},s:I,s:b}", "status", why ? why : "ok", "node",
                          config->node, "role", role_text(s), "position", pos, "primary", s->primary, "degraded", (int)degrade_level(g),
                          "levels", levels(config, g), "lag_ms", lag, "lag_records", (json_int_t)s->lag_records, "replicator", s->connected,
                          "primary_reachable", s->primary_reachable, "lease_reachable", s->lease_reachable, "neighbours", "configured",
                          (json_int_t)s->nodes, "unreachable", (json_int_t)s->nodes_unreachable, "write_p50_us",
                          (json_int_t)degrade_write_p50(g), "draining", draining);
    char *text = o ? json_dumps(o, JSON_INDENT(1)) : NULL;
    json_decref(o);
    *status = why ? 503 : 200;
    *len = text ? strlen(text) : 0;
    return text;
}
