#include "http-proxy/decide.h"

#include "http-proxy/cookie.h"
#include "http-proxy/credit.h"
#include "http-proxy/degrade.h"
#include "http-proxy/metrics.h"
#include "http-proxy/route.h"
#include "http-proxy/rules.h"
#include "lib/util.h"
#include <errno.h>
#include <stdio.h>

/* Positions so far beyond what this node knows that no lag explains them. */
#define ABSURD_EPOCHS 100000u
#define ABSURD_LSNS (UINT64_C(1) << 40)

struct decide {
    const struct config *config;
    const struct config_proxy *app;
    struct position_tracker *tracker;
    struct degrade *degrade;
    struct credit *credit;
};

int decide_open(const struct config *config, const struct config_proxy *app, struct position_tracker *t, struct degrade *g,
                struct decide **out, struct err *e)
{
    struct decide *d = calloc(1, sizeof *d);
    if (!d || !(d->credit = credit_open())) {
        free(d);
        return err_errno(e, ENOMEM, "rules of an application");
    }
    d->config = config;
    d->app = app;
    d->tracker = t;
    d->degrade = g;
    *out = d;
    return 0;
}

void decide_close(struct decide *d)
{
    if (!d)
        return;
    credit_close(d->credit);
    free(d);
}

static uint64_t now_ms(void)
{
    return now_ns() / 1000000u;
}

/* ---- what is asked ---- */

static bool reads_only(const struct config_proxy *app, struct slice method)
{
    static const struct slice usual[] = {{"GET", 3}, {"HEAD", 4}, {"OPTIONS", 7}};
    for (int i = 0; i < app->read_only_methods.n; i++)
        if (slice_equal(method, (struct slice){app->read_only_methods.items[i], strlen(app->read_only_methods.items[i])}))
            return true;
    for (size_t i = 0; !app->read_only_methods.n && i < ARRAY_SIZE(usual); i++)
        if (slice_equal(method, usual[i]))
            return true;
    return false;
}

static bool in_list(const struct config_list *l, struct slice path)
{
    return route_match_any(path, l->items, l->n);
}

static enum decide_kind kind_of(const struct config_proxy *app, const struct head *r)
{
    if (in_list(&app->passthrough, r->path))
        return DECIDE_PASSTHROUGH;
    bool write = !reads_only(app, r->method) || in_list(&app->always_forward, r->path) ||
                 (r->upgrade && in_list(&app->upgrade_writes, r->path));
    return write ? DECIDE_WRITE : DECIDE_READ;
}

/* Cache-Control: max-stale (RFC 9111 §5.2.1.2). */
static uint64_t max_stale_ms(const struct head *r)
{
    for (const struct head_field *f = head_find(r, HEAD_CACHE_CONTROL); f; f = head_next(r, f)) {
        struct slice value = {0};
        uint64_t s = 0;
        if (!head_list_has(head_value(r, f), "max-stale", &value))
            continue;
        if (!value.n)
            return UINT64_MAX;
        for (size_t i = 0; i < value.n; i++) {
            if (value.p[i] < '0' || value.p[i] > '9')
                return 0;
            s = MIN(s * 10 + (uint64_t)(value.p[i] - '0'), UINT64_C(1) << 31);
        }
        return s * 1000u;
    }
    return 0;
}

static bool absurd(const struct decide *d, struct position p)
{
    const struct position_state *s = position_state(d->tracker);
    return s->connected && (p.epoch > s->last.epoch + ABSURD_EPOCHS || p.lsn > s->last.lsn + ABSURD_LSNS);
}

static void gather(struct decide *d, const struct head *request, bool first, struct rules_facts *f, struct decision *out)
{
    unsigned malformed = 0;
    f->kind = out->kind;
    if (out->kind == DECIDE_WRITE && first) {
        struct position brought = cookie_position(request, &malformed);
        out->brought_epoch = absurd(d, brought) ? 0 : brought.epoch;
    }
    if (out->kind != DECIDE_READ)
        return;
    f->want = cookie_position(request, &malformed);
    if (f->want.epoch && absurd(d, f->want)) {
        malformed++;
        f->want = (struct position){0};
    }
    if (first) {
        proxy_count(PROXY_COUNT_POSITIONS_IGNORED, malformed);
        proxy_count(PROXY_COUNT_POSITIONS, f->want.epoch != 0);
    }
    f->stale_ok = in_list(&d->app->stale_ok, request->path);
    f->max_stale_ms = max_stale_ms(request);
    f->reached = f->want.epoch && position_reached(d->tracker, f->want);
    out->unknown = f->want.epoch && !position_exists(d->tracker, f->want);
    if (first && f->want.epoch && !f->reached)
        out->credit = credit_take(d->credit, out->client, out->began_ms);
    f->credit = out->credit;
}

static void apply(struct decide *d, const struct head *request, bool first, enum decide_event event, struct decision *out)
{
    const struct position_state *s = position_state(d->tracker);
    struct rules_facts f = {.hop = out->hop, .relayed = out->relayed};
    gather(d, request, first, &f, out);
    struct rules_node n = {
        .state = s,
        .self_primary_name = !strcmp(s->primary, d->config->node),
        .slow = degrade_holds(d->degrade, d->app, 2),
        .behind = degrade_holds(d->degrade, d->app, 1),
        .writes = position_writes(d->tracker),
        .scattered = degrade_holds(d->degrade, d->app, 4),
    };
    while (n.scattered && n.neighbours < RULES_RELAYS_MAX && position_neighbour(d->tracker, n.neighbours))
        n.neighbours++;
    uint64_t now = now_ms();
    rules_apply(d->app, &f, &n, event, now - out->began_ms, out);
    const char *via = out->relays ? position_neighbour(d->tracker, out->relays - 1u) : NULL;
    snprintf(out->via, sizeof out->via, "%s", via ? via : "");
    out->degraded = degrade_app_level(d->degrade, d->app);
    if (out->credit && event == DECIDE_EV_REACHED) {
        credit_give(d->credit, out->client);
        out->credit = false;
    }
}

void decide_request(struct decide *d, const struct head *request, unsigned hop, struct decision *out)
{
    uint64_t client = out->client;
    bool relayed = out->relayed, as_write = out->as_write;
    *out = (struct decision){.kind = as_write ? DECIDE_WRITE : kind_of(d->app, request), .client = client, .relayed = relayed, .as_write = as_write,
                             .hop = (uint8_t)MIN(hop, 255u), .began_ms = now_ms()};
    apply(d, request, true, DECIDE_EV_CHANGED, out);
}

void decide_again(struct decide *d, const struct head *request, enum decide_event event, struct decision *out)
{
    if (event == DECIDE_EV_REPLAY)
        out->kind = DECIDE_WRITE;
    apply(d, request, false, event, out);
}

/* ---- what the response says ---- */

static void add_text(struct extra *out, struct slice name, const char *text)
{
    extra_add(out, name, (struct slice){text, strlen(text)});
}

static void add_timing(const struct decision *d, uint64_t total_us, struct extra *out)
{
    char text[96];
    const char *how = d->verdict == DECIDE_FORWARD ? "forwarded" : d->waited ? "waited" : "local";
    snprintf(text, sizeof text, "edgefs;dur=%llu.%03u;desc=\"%s\"", (unsigned long long)(total_us / 1000u), (unsigned)(total_us % 1000u), how);
    add_text(out, SLICE("Server-Timing"), text);
}

/* How far behind the answer may be, in seconds; "unknown" when this node never had all there is, or is primary and was asked for a position that it does not know. */
static void add_staleness(const struct position_state *s, bool unknown, struct extra *out)
{
    char text[32] = "unknown";
    if (s->lag_ms != UINT64_MAX && !(unknown && s->role == POSITION_ROLE_PRIMARY))
        snprintf(text, sizeof text, "%llu.%03u", (unsigned long long)(s->lag_ms / 1000u), (unsigned)(s->lag_ms % 1000u));
    add_text(out, SLICE("X-Edge-Staleness"), text);
}

/* The primary's proxy answered: if it does not say that it never heard of the position, the client did not make it up. */
static void settle_credit(struct decide *d, const struct decision *decision, const struct head *response)
{
    if (decision->credit && decision->verdict == DECIDE_FORWARD && response && !head_find_name(response, "x-edge-position"))
        credit_give(d->credit, decision->client);
}

void decide_response(struct decide *d, const struct decision *decision, const struct head *response, struct position written,
                     uint64_t total_us, struct extra *out)
{
    char text[16];
    bool forwarded = decision->verdict == DECIDE_FORWARD;
    add_timing(decision, total_us, out);
    /* A client that has seen a later epoch than ours keeps its position: this node was primary and does not know yet that another one has taken over. */
    if (written.epoch && !forwarded && decision->kind == DECIDE_READ)
        cookie_add_read(out, written);
    else if (written.epoch && !forwarded)
        cookie_add(out, written, decision->brought_epoch <= written.epoch, d->app->tls.certificate != NULL);
    bool routed = response && head_find_name(response, "x-routed-to"); /* the other proxy has said more */
    if (forwarded && !routed)
        add_text(out, SLICE("X-Routed-To"), *decision->via ? decision->via : "primary");
    if (decision->reason && ((forwarded && !routed) || decision->verdict == DECIDE_REFUSE || decision->stale))
        add_text(out, SLICE("X-Reason"), decision->reason);
    if (decision->kind == DECIDE_READ && decision->verdict == DECIDE_LOCAL &&
        (decision->stale || degrade_holds(d->degrade, d->app, 1)))
        add_staleness(position_state(d->tracker), decision->unknown, out);
    if (decision->unknown && decision->hop > 0 && decision->verdict == DECIDE_LOCAL)
        add_text(out, SLICE("X-Edge-Position"), "unknown");
    if (decision->degraded && !(response && head_find_name(response, "x-edge-degraded"))) {
        snprintf(text, sizeof text, "%u", decision->degraded);
        add_text(out, SLICE("X-Edge-Degraded"), text);
    }
    if (decision->verdict == DECIDE_REFUSE)
        add_text(out, SLICE("Retry-After"), "1");
    settle_credit(d, decision, response);
}

void decide_wrote(struct decide *d, uint64_t us)
{
    degrade_wrote(d->degrade, us);
}
