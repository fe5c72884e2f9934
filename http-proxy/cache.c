/*  slot: one Host and target ──┬── flight      a response that is being fetched: at most one, others wait for it
 *                              ├── waits       who waits for it
 *                              └── entries     stored responses: one for each combination of what Vary names, newest first
 *
 * An entry without a body (uncacheable) says for a while that waiting for one another is of no use here. */
#include "http-proxy/cache.h"

#include "http-proxy/condition.h"
#include "http-proxy/freshness.h"
#include "http-proxy/metrics.h"
#include "http-proxy/route.h"
#include "lib/http/chunked.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <stdio.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define VARIANTS_MAX 8        /* entries of a slot */
#define VARY_MAX 8            /* names in Vary */
#define KEY_MAX 8192          /* bytes of Host and target */
#define SLOTS_MAX 65536u
#define UNCACHEABLE_MS 10000u
#define OVERHEAD 512u         /* of an entry and its share of the slot, about */

TAILQ_HEAD(wait_list, cache_wait);
TAILQ_HEAD(entry_list, cache_entry);

struct slot {
    struct cache *cache;
    struct cache_flight *flight;
    struct wait_list waits;
    struct cache_entry *entries;
    UT_hash_handle hh;
    size_t key_len;
    char key[]; /* host NUL target */
};

struct cache_entry {
    struct slot *slot; /* NULL: no longer to be found; lives for who still sends it */
    struct cache_entry *next;
    TAILQ_ENTRY(cache_entry) lru;
    unsigned refs; /* the slot's is one */
    bool uncacheable;
    struct position tag; /* what it was made of, at least */
    uint64_t stored_ms, fresh_until_ms, stale_until_ms, age_ms;
    int status;
    char *vary; /* name NUL value NUL …, vary_len bytes */
    size_t vary_len;
    char *head, *body;
    size_t head_len, body_len, size;
};

struct cache_flight {
    struct slot *slot;
    const struct head *request;
    struct position tag;
    uint64_t now_ms;
    bool got_head;
    struct freshness freshness;
    int status;
    char *vary, *head, *body;
    size_t vary_len, head_len, body_len, body_room;
    bool chunked;
    struct http_chunked decoder;
};

struct route {
    const char *path;
    int n;
    int watches[]; /* numbers of position_watch */
};

struct cache {
    const struct config_proxy *app;
    struct position_tracker *tracker;
    struct slot *slots;
    struct entry_list lru; /* least recently used first */
    size_t bytes;
    struct proxy_gauges *gauges;
    int n_routes;
    struct route *routes[];
};

/* ---- life and death of entries ---- */

static void entry_unref(struct cache_entry *e)
{
    if (--e->refs)
        return;
    free(e->vary);
    free(e->head);
    free(e->body);
    free(e);
}

static void slot_drop_if_empty(struct slot *s)
{
    if (s->entries || s->flight || !TAILQ_EMPTY(&s->waits))
        return;
    HASH_DEL(s->cache->slots, s);
    free(s);
}

/* Takes e out; its slot stays, also if it is empty. */
static void entry_remove(struct cache_entry *e)
{
    struct slot *s = e->slot;
    struct cache *c = s->cache;
    struct cache_entry **p = &s->entries;
    while (*p != e)
        p = &(*p)->next;
    *p = e->next;
    TAILQ_REMOVE(&c->lru, e, lru);
    c->bytes -= e->size;
    if (c->gauges) {
        c->gauges->cache_bytes -= e->size;
        c->gauges->cache_entries--;
    }
    e->slot = NULL;
    entry_unref(e);
}

static void make_room(struct cache *c, size_t size, const struct slot *keep)
{
    struct cache_entry *e = TAILQ_FIRST(&c->lru), *next;
    for (; e && c->bytes + size > c->app->cache_size; e = next) {
        next = TAILQ_NEXT(e, lru);
        struct slot *s = e->slot;
        entry_remove(e);
        proxy_count(PROXY_COUNT_CACHE_EVICTED, 1);
        if (s != keep)
            slot_drop_if_empty(s);
    }
}

static void entry_add(struct slot *s, struct cache_entry *e)
{
    struct cache *c = s->cache;
    unsigned n = 0;
    make_room(c, e->size, s);
    e->slot = s;
    e->refs = 1;
    e->next = s->entries;
    s->entries = e;
    TAILQ_INSERT_TAIL(&c->lru, e, lru);
    c->bytes += e->size;
    if (c->gauges) {
        c->gauges->cache_bytes += e->size;
        c->gauges->cache_entries++;
    }
    for (struct cache_entry *x = s->entries, *next; x; x = next) {
        next = x->next;
        bool same = x != e && x->vary_len == e->vary_len && !memcmp(x->vary ? x->vary : "", e->vary ? e->vary : "", e->vary_len);
        if (same || (x != e && (x->uncacheable || e->uncacheable)) || ++n > VARIANTS_MAX)
            entry_remove(x);
    }
}

/* ---- keys ---- */

static const struct route *route_of(const struct cache *c, struct slice path)
{
    for (int i = 0; i < c->n_routes; i++)
        if (route_match(path, c->routes[i]->path))
            return c->routes[i];
    return NULL;
}

static size_t make_key(const struct head *r, char key[KEY_MAX])
{
    const struct head_field *f = head_find(r, HEAD_HOST);
    struct slice host = r->authority.n ? r->authority : f ? head_value(r, f) : (struct slice){"", 0};
    if (host.n + r->target.n + 1 > KEY_MAX)
        return 0;
    for (size_t i = 0; i < host.n; i++)
        key[i] = (char)(host.p[i] >= 'A' && host.p[i] <= 'Z' ? host.p[i] + 32 : host.p[i]);
    key[host.n] = 0;
    memcpy(key + host.n + 1, r->target.p, r->target.n);
    return host.n + 1 + r->target.n;
}

static struct slot *slot_of(struct cache *c, const char *key, size_t n)
{
    struct slot *s;
    HASH_FIND(hh, c->slots, key, n, s);
    if (s || HASH_COUNT(c->slots) >= SLOTS_MAX || !(s = calloc(1, sizeof *s + n)))
        return s;
    s->cache = c;
    s->key_len = n;
    memcpy(s->key, key, n);
    TAILQ_INIT(&s->waits);
    HASH_ADD_KEYPTR(hh, c->slots, s->key, n, s);
    if (!s->hh.tbl) { /* no memory for the table */
        free(s);
        return NULL;
    }
    return s;
}

/* All fields of that name in one text, as Vary compares them (RFC 9111 §4.1): appended to *p. */
static bool append(char **p, size_t *n, const char *bytes, size_t k)
{
    char *more = realloc(*p, *n + k + 1);
    if (!more)
        return false;
    *p = more;
    memcpy(more + *n, bytes, k);
    *n += k;
    return true;
}

static bool append_values(const struct head *r, const char *name, char **p, size_t *n)
{
    for (unsigned i = 0; i < r->n_fields; i++) {
        struct slice have = head_name(r, &r->fields[i]), value = head_value(r, &r->fields[i]);
        if (slice_equal_case(have, (struct slice){name, strlen(name)}) && (!append(p, n, value.p, value.n) || !append(p, n, ",", 1)))
            return false;
    }
    return append(p, n, "", 1);
}

static bool vary_matches(const struct cache_entry *e, const struct head *r)
{
    for (const char *p = e->vary; p && p < e->vary + e->vary_len;) {
        const char *name = p, *value = p + strlen(p) + 1;
        char *now = NULL;
        size_t n = 0;
        bool ok = append_values(r, name, &now, &n) && !strcmp(now, value);
        free(now);
        if (!ok)
            return false;
        p = value + strlen(value) + 1;
    }
    return true;
}

/* ---- validity ---- */

/* LSN of the last change of what a route is made of; UINT64_MAX: it is not known. */
static uint64_t touched(const struct cache *c, const struct route *r)
{
    uint64_t last = 0;
    for (int i = 0; i < r->n; i++)
        last = MAX(last, position_touched(c->tracker, r->watches[i]));
    return last;
}

static void drop_invalid(struct cache *c, struct slot *s, const struct route *r, uint64_t now_ms)
{
    uint64_t epoch = position_state(c->tracker)->pos.epoch, last = touched(c, r);
    for (struct cache_entry *e = s->entries, *next; e; e = next) {
        next = e->next;
        bool changed = !e->uncacheable && (e->tag.epoch != epoch || last > e->tag.lsn);
        proxy_count(PROXY_COUNT_CACHE_CHANGED, changed);
        if (changed || now_ms >= e->stale_until_ms)
            entry_remove(e);
    }
}

static struct cache_entry *find_entry(struct slot *s, const struct head *r)
{
    for (struct cache_entry *e = s->entries; e; e = e->next)
        if (e->uncacheable || vary_matches(e, r))
            return e;
    return NULL;
}

/* ---- asking ---- */

static struct cache_flight *take_off(struct slot *s, const struct head *request, uint64_t now_ms)
{
    struct cache_flight *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->slot = s;
    f->request = request;
    f->tag = position_state(s->cache->tracker)->pos;
    f->now_ms = now_ms;
    s->flight = f;
    return f;
}

static enum cache_result fetch(struct slot *s, const struct head *request, uint64_t now_ms, struct cache_flight **flight)
{
    proxy_count(PROXY_COUNT_CACHE_MISSES, 1);
    *flight = take_off(s, request, now_ms);
    if (*flight)
        return CACHE_FETCH;
    slot_drop_if_empty(s);
    return CACHE_BYPASS;
}

static enum cache_result hit(struct cache_entry *e, bool stale, struct cache_entry **out)
{
    struct cache *c = e->slot->cache;
    TAILQ_REMOVE(&c->lru, e, lru);
    TAILQ_INSERT_TAIL(&c->lru, e, lru);
    e->refs++;
    *out = e;
    proxy_count(stale ? PROXY_COUNT_CACHE_STALE : PROXY_COUNT_CACHE_HITS, 1);
    return CACHE_HIT;
}

enum cache_result cache_lookup(struct cache *c, const struct head *request, uint64_t now_ms, struct cache_wait *w, struct cache_entry **entry,
                               struct cache_flight **flight)
{
    char key[KEY_MAX];
    const struct route *r = route_of(c, request->path);
    enum freshness_asks asks = r ? freshness_of_request(request) : FRESHNESS_NOTHING;
    size_t n = asks == FRESHNESS_NOTHING || touched(c, r) == UINT64_MAX ? 0 : make_key(request, key);
    struct slot *s = n ? slot_of(c, key, n) : NULL;
    if (!s)
        return CACHE_BYPASS;
    drop_invalid(c, s, r, now_ms);
    struct cache_entry *e = find_entry(s, request);
    if (e && e->uncacheable)
        return CACHE_BYPASS;
    bool stored = asks == FRESHNESS_STORED;
    bool fresh = e && asks != FRESHNESS_REFRESH && now_ms < e->fresh_until_ms;
    if (fresh)
        return hit(e, false, entry);
    if (stored && !(e && s->flight)) {
        slot_drop_if_empty(s);
        return CACHE_BYPASS;
    }
    if (!s->flight)
        return fetch(s, request, now_ms, flight);
    if (e && asks != FRESHNESS_REFRESH)
        return hit(e, true, entry);
    if (asks == FRESHNESS_REFRESH) /* the one under way may have begun too early for it */
        return CACHE_BYPASS;
    w->parked = s;
    TAILQ_INSERT_TAIL(&s->waits, w, link);
    proxy_count(PROXY_COUNT_CACHE_SHARED, 1);
    return CACHE_WAIT;
}

void cache_wait_cancel(struct cache *c, struct cache_wait *w)
{
    struct slot *s = w->parked;
    (void)c;
    if (!s)
        return;
    TAILQ_REMOVE(&s->waits, w, link);
    w->parked = NULL;
    slot_drop_if_empty(s);
}

void cache_release(struct cache *c, struct cache_entry *e)
{
    (void)c;
    entry_unref(e);
}

/* ---- entries ---- */

struct slice cache_entry_head(const struct cache_entry *e)
{
    return (struct slice){e->head, e->head_len};
}

struct slice cache_entry_body(const struct cache_entry *e)
{
    return (struct slice){e->body, e->body_len};
}

int cache_entry_status(const struct cache_entry *e)
{
    return e->status;
}

bool cache_entry_unmodified(const struct cache_entry *e, const struct head *request)
{
    return e->status == 200 && condition_unmodified(request, cache_entry_head(e));
}

void cache_entry_fields(const struct cache_entry *e, uint64_t now_ms, struct extra *out)
{
    char text[32];
    uint64_t age = e->age_ms + (now_ms > e->stored_ms ? now_ms - e->stored_ms : 0);
    int n = snprintf(text, sizeof text, "%llu", (unsigned long long)(age / 1000u));
    extra_add(out, SLICE("Age"), (struct slice){text, (size_t)n});
}

/* ---- flights ---- */

/* The flight is over: whoever waited asks again. */
static void land(struct cache_flight *f)
{
    struct slot *s = f->slot;
    s->flight = NULL;
    free(f->vary);
    free(f->head);
    free(f->body);
    free(f);
    for (struct cache_wait *w; (w = TAILQ_FIRST(&s->waits));) {
        TAILQ_REMOVE(&s->waits, w, link);
        w->parked = NULL;
        w->done(w);
    }
    slot_drop_if_empty(s);
}

static void mark_uncacheable(struct cache_flight *f)
{
    struct slot *s = f->slot;
    struct cache_entry *e = calloc(1, sizeof *e);
    if (!e)
        return;
    *e = (struct cache_entry){.uncacheable = true, .stale_until_ms = f->now_ms + UNCACHEABLE_MS, .size = OVERHEAD + s->key_len};
    entry_add(s, e);
}

static bool dropped_field(const struct head_field *f)
{
    switch (f->id) {
    case HEAD_CONNECTION:
    case HEAD_CONTENT_LENGTH:
    case HEAD_TRANSFER_ENCODING:
    case HEAD_UPGRADE:
    case HEAD_TE:
    case HEAD_TRAILER:
    case HEAD_KEEP_ALIVE:
    case HEAD_PROXY_CONNECTION:
    case HEAD_PROXY_AUTHENTICATE:
    case HEAD_PROXY_AUTHORIZATION:
    case HEAD_SET_COOKIE:
    case HEAD_SERVER_TIMING:
    case HEAD_AGE:
        return true;
    default:
        return false;
    }
}

static bool keep_head(struct cache_flight *f, const struct head *r)
{
    char line[64];
    int n = snprintf(line, sizeof line, "HTTP/1.1 %u ", r->status);
    bool ok = append(&f->head, &f->head_len, line, (size_t)n) && append(&f->head, &f->head_len, r->reason.p, r->reason.n) &&
              append(&f->head, &f->head_len, "\r\n", 2);
    for (unsigned i = 0; ok && i < r->n_fields; i++) {
        struct slice name = head_name(r, &r->fields[i]), value = head_value(r, &r->fields[i]);
        if (dropped_field(&r->fields[i]))
            continue;
        ok = append(&f->head, &f->head_len, name.p, name.n) && append(&f->head, &f->head_len, ": ", 2) &&
             append(&f->head, &f->head_len, value.p, value.n) && append(&f->head, &f->head_len, "\r\n", 2);
    }
    return ok;
}

/* The names in Vary and what the request said to each. */
static bool keep_vary(struct cache_flight *f, const struct head *r)
{
    unsigned names = 0;
    for (const struct head_field *v = head_find(r, HEAD_VARY); v; v = head_next(r, v)) {
        struct slice list = head_value(r, v);
        while (list.n) {
            char name[65];
            size_t n = 0, k = 0;
            while (n < list.n && list.p[n] != ',')
                n++;
            for (size_t i = 0; i < n; i++)
                if (list.p[i] != ' ' && list.p[i] != '\t' && k < sizeof name)
                    name[k++] = list.p[i];
            if (k == sizeof name || (k && ++names > VARY_MAX))
                return false;
            name[k] = 0;
            if (k && (!append(&f->vary, &f->vary_len, name, k + 1) || !append_values(f->request, name, &f->vary, &f->vary_len)))
                return false;
            n += n < list.n;
            list.p += n;
            list.n -= n;
        }
    }
    return true;
}

bool cache_flight_head(struct cache_flight *f, const struct head *response)
{
    uint64_t limit = f->slot->cache->app->cache_object;
    bool sized = response->body == HEAD_BODY_LENGTH;
    if (!freshness_of_response(f->request, response, &f->freshness) || (sized && response->content_length > limit) ||
        (!sized && response->body != HEAD_BODY_CHUNKED) || !keep_head(f, response) || !keep_vary(f, response)) {
        mark_uncacheable(f);
        land(f);
        return false;
    }
    f->got_head = true;
    f->status = response->status;
    f->chunked = !sized;
    http_chunked_init(&f->decoder);
    if (sized && response->content_length) {
        f->body_room = (size_t)response->content_length;
        if (!(f->body = malloc(f->body_room))) {
            land(f);
            return false;
        }
    }
    return true;
}

/* False: the flight is over. */
static bool keep_data(struct cache_flight *f, struct slice data)
{
    uint64_t limit = f->slot->cache->app->cache_object;
    if (data.n > limit - f->body_len) {
        mark_uncacheable(f);
        land(f);
        return false;
    }
    if (f->body_len + data.n > f->body_room) {
        size_t room = MAX(f->body_len + data.n, MIN(f->body_room * 2, (size_t)limit));
        char *more = realloc(f->body, room);
        if (!more) {
            land(f);
            return false;
        }
        f->body = more;
        f->body_room = room;
    }
    memcpy(f->body + f->body_len, data.p, data.n);
    f->body_len += data.n;
    return true;
}

bool cache_flight_data(struct cache_flight *f, struct slice data)
{
    while (f->chunked && data.n) {
        size_t part = 0, len = 0;
        const uint8_t *p = NULL;
        enum http_chunked_result r = http_chunked_next(&f->decoder, (const uint8_t *)data.p, data.n, &part, &p, &len);
        if (r == HTTP_CHUNKED_DATA && !keep_data(f, (struct slice){(const char *)p, len}))
            return false;
        if (r == HTTP_CHUNKED_BAD || !part)
            break; /* the engine has seen it, too: the response breaks off, or is at its end */
        data.p += part;
        data.n -= part;
    }
    return f->chunked || keep_data(f, data);
}

void cache_flight_done(struct cache_flight *f)
{
    struct slot *s = f->slot;
    char length[48];
    int n = snprintf(length, sizeof length, "Content-Length: %zu\r\n", f->body_len);
    struct cache_entry *e = f->got_head ? calloc(1, sizeof *e) : NULL;
    if (e && append(&f->head, &f->head_len, length, (size_t)n)) {
        *e = (struct cache_entry){.tag = f->tag,
                                  .stored_ms = f->now_ms,
                                  .fresh_until_ms = f->now_ms + f->freshness.fresh_ms,
                                  .stale_until_ms = f->now_ms + f->freshness.fresh_ms + f->freshness.stale_ms,
                                  .age_ms = f->freshness.age_ms,
                                  .status = f->status,
                                  .vary = f->vary,
                                  .vary_len = f->vary_len,
                                  .head = f->head,
                                  .head_len = f->head_len,
                                  .body = f->body,
                                  .body_len = f->body_len,
                                  .size = OVERHEAD + s->key_len + f->vary_len + f->head_len + f->body_room};
        f->vary = f->head = f->body = NULL;
        if (e->size <= s->cache->app->cache_size) {
            entry_add(s, e);
            proxy_count(PROXY_COUNT_CACHE_STORED, 1);
        } else {
            e->refs = 1;
            entry_unref(e);
        }
    } else {
        free(e);
    }
    land(f);
}

void cache_flight_abandon(struct cache_flight *f)
{
    land(f);
}

/* ---- the cache ---- */

static int open_route(struct cache *c, const struct config_cache_route *from, struct err *e)
{
    static char *all[] = {"*"};
    int n = from->databases.n ? from->databases.n : 1;
    char *const *globs = from->databases.n ? from->databases.items : all;
    struct route *r = calloc(1, sizeof *r + (size_t)n * sizeof r->watches[0]);
    if (!r)
        return err_errno(e, ENOMEM, "response cache");
    c->routes[c->n_routes++] = r;
    r->path = from->path;
    for (; r->n < n; r->n++) {
        int number = position_watch(c->tracker, globs[r->n]);
        if (number < 0)
            return err_errno(e, -number, "cache: %s: database \"%.100s\"", from->path, globs[r->n]);
        r->watches[r->n] = number;
    }
    return 0;
}

int cache_open(const struct config_proxy *app, struct position_tracker *t, struct cache **out, struct err *e)
{
    *out = NULL;
    if (!app->n_cache)
        return 0;
    struct cache *c = calloc(1, sizeof *c + (size_t)app->n_cache * sizeof c->routes[0]);
    if (!c)
        return err_errno(e, ENOMEM, "response cache");
    c->app = app;
    c->tracker = t;
    TAILQ_INIT(&c->lru);
    for (int i = 0; i < app->n_cache; i++) {
        int rc = open_route(c, &app->cache[i], e);
        if (rc) {
            cache_close(c);
            return rc;
        }
    }
    *out = c;
    return 0;
}

void cache_count(struct cache *c, struct proxy_gauges *gauges)
{
    if (c)
        c->gauges = gauges;
}

void cache_close(struct cache *c)
{
    struct cache_entry *e;
    if (!c)
        return;
    while ((e = TAILQ_FIRST(&c->lru))) {
        struct slot *s = e->slot;
        entry_remove(e);
        slot_drop_if_empty(s);
    }
    for (int i = 0; i < c->n_routes; i++)
        free(c->routes[i]);
    free(c);
}
