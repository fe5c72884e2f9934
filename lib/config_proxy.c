#include "lib/config_proxy.h"

#include "lib/config_keys.h"
#include "lib/config_load.h"
#include "lib/config_proxy_keys.h"
#include "lib/config_table.h"
#include "lib/config_value.h"
#include "lib/util.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/un.h>

#define PAGE "docs/proxy.md"

enum key_id {
#define X(id, path, type, field, lowest, highest, choices, def) KEY_##id,
    CONFIG_PROXY_KEYS(X)
#undef X
        KEY_COUNT
};

static const struct config_key keys[KEY_COUNT] = {
#define X(id, path, type, field, lowest, highest, choices, def)                                                                            \
    {path, CONFIG_TYPE_##type, offsetof(struct config_proxy, field), lowest, highest, choices, def},
    CONFIG_PROXY_KEYS(X)
#undef X
};

_Static_assert(KEY_COUNT <= CONFIG_TABLE_MAX, "a table has room for all keys");
static const struct config_table table = {keys, KEY_COUNT, PAGE, "proxy: "};

_Static_assert(offsetof(struct config_proxy, listen) == offsetof(struct config_proxy, listen.host), "listen begins with host");

static int no_memory(struct loader *l)
{
    return err_errno(l->e, ENOMEM, "configuration");
}

/* ---- values ---------------------------------------------------------------------------------------------------------------- */

static int list_add(struct loader *l, struct config_list *list, const char *text)
{
    if (list->n >= CONFIG_LIST_MAX)
        return err_set(l->e, ERR_CONFIG, "more than %d elements", CONFIG_LIST_MAX);
    char **more = realloc(list->items, (size_t)(list->n + 1) * sizeof *more);
    if (!more)
        return no_memory(l);
    list->items = more;
    if (!(more[list->n] = strdup(text)))
        return no_memory(l);
    list->n++;
    return 0;
}

static int set_target(struct loader *l, struct config_address *a, const char *text)
{
    struct err *e = l->e;
    if (!strncmp(text, "unix:", 5)) {
        int rc = config_absolute_path(l, text + 5, &a->path);
        if (!rc && strlen(a->path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
            return err_set(e, ERR_CONFIG, "\"%.80s\" is too long for a unix socket", a->path);
        return rc;
    }
    if (config_parse_listen(text, &a->host, &a->port, e) || !a->port)
        return err_set(e, ERR_CONFIG, "\"%.80s\" is not a target: HOST:PORT, or unix:PATH", text);
    return 0;
}

static int set_value(struct config_mapping *m, int id, const char *text)
{
    void *field = (char *)m->object + keys[id].offset;
    if (keys[id].type == CONFIG_TYPE_LISTEN)
        return config_parse_listen(text, field, &((struct config_proxy *)m->object)->listen.port, m->l->e);
    if (keys[id].type == CONFIG_TYPE_TARGET)
        return set_target(m->l, field, text);
    return config_set_scalar(m, id, text);
}

/* ---- elements of lists ------------------------------------------------------------------------------------------------------ */

/* Words and patterns have their rules. */
static int check_item(struct loader *l, enum key_id id, const char *text)
{
    struct err *e = l->e;
    if (id == KEY_READ_ONLY_METHODS) {
        for (const char *c = text; *c; c++)
            if (!((*c >= 'A' && *c <= 'Z') || *c == '-'))
                return err_set(e, ERR_CONFIG, "\"%.64s\" is not a method; methods are written in capitals", text);
        return *text ? 0 : err_set(e, ERR_CONFIG, "an empty method");
    }
    if (id == KEY_TRUST) {
        char address[64];
        const char *slash = strchr(text, '/');
        size_t n = slash ? (size_t)(slash - text) : strlen(text);
        unsigned char bin[16];
        uint64_t bits = 0;
        if (n < sizeof address) {
            memcpy(address, text, n);
            address[n] = 0;
            bool v6 = inet_pton(AF_INET6, address, bin) == 1;
            if ((v6 || inet_pton(AF_INET, address, bin) == 1) && (!slash || !config_parse_count(slash + 1, 0, v6 ? 128 : 32, &bits, e)))
                return 0;
        }
        return err_set(e, ERR_CONFIG, "\"%.64s\" is neither an address nor a block such as 10.0.0.0/8", text);
    }
    if (*text != '/' && *text != '*')
        return err_set(e, ERR_CONFIG, "\"%.64s\" is not a path pattern: it begins with '/' or '*'", text);
    return 0;
}

/* A list of single values, or one value alone; id < 0: names of databases. */
static int load_list(struct loader *l, struct config_list *list, int id, const char *path)
{
    yaml_event_t ev;
    bool many = false;
    for (;;) {
        int rc = config_next_event(l, &ev);
        if (rc)
            return rc;
        int line = config_event_line(&ev);
        if (ev.type == YAML_SEQUENCE_START_EVENT && !many) {
            many = true;
            yaml_event_delete(&ev);
            continue;
        }
        if (ev.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&ev);
            return 0;
        }
        const char *text = config_scalar_text(l, &ev, path);
        rc = text ? 0 : ERR_CONFIG;
        if (!rc && id >= 0)
            rc = check_item(l, (enum key_id)id, text);
        if (!rc)
            rc = list_add(l, list, text);
        yaml_event_delete(&ev);
        if (rc) {
            if (text)
                err_wrap(l->e, "proxy: %s", path);
            return config_at_line(l, line, rc);
        }
        if (!many)
            return 0;
    }
}

/* Reads the start of a mapping or sequence; what: how it should look. */
static int expect_start(struct loader *l, yaml_event_type_t type, const char *path, const char *what)
{
    yaml_event_t ev;
    int rc = config_next_event(l, &ev);
    if (rc)
        return rc;
    if (ev.type != type) {
        err_set(l->e, ERR_CONFIG, "proxy: \"%s\" must look like %s, not %s", path, what, config_event_kind(&ev));
        rc = config_at_line(l, config_event_line(&ev), ERR_CONFIG);
    }
    yaml_event_delete(&ev);
    return rc;
}

static int load_peers(struct loader *l, struct config_proxy *p)
{
    struct err *e = l->e;
    int rc = expect_start(l, YAML_MAPPING_START_EVENT, "peers", "{a: http://host:port, b: …}");
    char node[96];
    int line;
    while (!rc && (rc = config_next_key(l, "", node, sizeof node, &line)) > 0) {
        for (int i = 0; i < p->n_peers; i++)
            if (!strcmp(p->peers[i].node, node))
                return config_given_twice(l, node, line, line);
        yaml_event_t ev;
        if ((rc = config_next_event(l, &ev)))
            return rc;
        struct config_peer peer = {0}, *more = NULL;
        const char *text = config_scalar_text(l, &ev, "peers");
        rc = text ? 0 : ERR_CONFIG;
        if (!rc && !(rc = config_parse_name(node, e)) && !(rc = config_parse_proxy_url(text, &peer.url, e)))
            rc = (peer.node = strdup(node)) && p->n_peers < CONFIG_NODES_MAX &&
                         (more = realloc(p->peers, (size_t)(p->n_peers + 1) * sizeof *more))
                     ? 0
                     : no_memory(l);
        yaml_event_delete(&ev);
        if (more)
            p->peers = more;
        if (rc) {
            free(peer.node);
            free(peer.url);
            return config_at_line(l, line, rc);
        }
        p->peers[p->n_peers++] = peer;
    }
    return rc;
}

static int load_cache_route(struct loader *l, struct config_cache_route *r, int start_line)
{
    static const char *const fields[] = {"path", "databases"};
    char key[96];
    int line, rc, lines[2] = {0};
    while ((rc = config_next_key(l, "", key, sizeof key, &line)) > 0) {
        int i = !strcmp(key, fields[0]) ? 0 : !strcmp(key, fields[1]) ? 1 : 2;
        if (i == 2)
            return config_unknown_key(l, key, line, fields, 2, PAGE);
        if (lines[i])
            return config_given_twice(l, key, line, lines[i]);
        lines[i] = line;
        struct config_list one = {0};
        rc = load_list(l, i ? &r->databases : &one, i ? -1 : (int)KEY_CACHE, i ? "cache.databases" : "cache.path");
        if (!rc && !i && one.n != 1) {
            err_set(l->e, ERR_CONFIG, "proxy: cache: one path a route");
            rc = config_at_line(l, line, ERR_CONFIG);
        }
        if (!rc && !i)
            r->path = steal_ptr(&one.items[0]);
        config_free_list(&one);
        if (rc)
            return rc;
    }
    if (rc)
        return rc;
    if (!r->path) {
        err_set(l->e, ERR_CONFIG, "proxy: cache: a route without \"path\"");
        return config_at_line(l, start_line, ERR_CONFIG);
    }
    return 0;
}

static int load_cache(struct loader *l, struct config_proxy *p)
{
    int rc = expect_start(l, YAML_SEQUENCE_START_EVENT, "cache", "[{path: /news/*, databases: [news.db]}, …]");
    while (!rc) {
        yaml_event_t ev;
        if ((rc = config_next_event(l, &ev)))
            return rc;
        yaml_event_type_t type = ev.type;
        int line = config_event_line(&ev);
        yaml_event_delete(&ev);
        if (type == YAML_SEQUENCE_END_EVENT)
            return 0;
        if (type != YAML_MAPPING_START_EVENT || p->n_cache >= CONFIG_LIST_MAX) {
            err_set(l->e, ERR_CONFIG, "proxy: cache: a route must look like {path: /news/*, databases: [news.db]}");
            return config_at_line(l, line, ERR_CONFIG);
        }
        struct config_cache_route *more = realloc(p->cache, (size_t)(p->n_cache + 1) * sizeof *more);
        if (!more)
            return no_memory(l);
        p->cache = more;
        more[p->n_cache] = (struct config_cache_route){0};
        rc = load_cache_route(l, &more[p->n_cache++], line);
    }
    return rc;
}

/* ---- an entry --------------------------------------------------------------------------------------------------------------- */

static int load_value(struct config_mapping *m, int id, int key_line)
{
    struct loader *l = m->l;
    struct config_proxy *p = m->object;
    const char *path = keys[id].path;
    if (m->line[id])
        return config_given_twice(l, path, key_line, m->line[id]);
    m->line[id] = key_line;
    void *field = (char *)p + keys[id].offset;
    if (keys[id].type == CONFIG_TYPE_LIST)
        return load_list(l, field, id, path);
    if (keys[id].type == CONFIG_TYPE_PEERS)
        return load_peers(l, p);
    if (keys[id].type == CONFIG_TYPE_CACHE)
        return load_cache(l, p);
    yaml_event_t ev;
    int rc = config_next_event(l, &ev);
    if (rc)
        return rc;
    int line = config_is_null(&ev) ? key_line : config_event_line(&ev);
    const char *text = config_scalar_text(l, &ev, path);
    rc = text ? set_value(m, id, text) : ERR_CONFIG;
    yaml_event_delete(&ev);
    if (rc) {
        if (text)
            err_wrap(l->e, "proxy: %s", path);
        return config_at_line(l, line, rc);
    }
    return 0;
}

static int load_entry(struct loader *l, struct config_proxy *p, int start_line)
{
    static const char *const methods[] = {"GET", "HEAD", "OPTIONS"};
    int lines[KEY_COUNT] = {0}, sections[KEY_COUNT] = {0};
    struct config_mapping m = {.l = l, .table = &table, .object = p, .line = lines, .section = sections, .value = load_value};
    struct err *e = l->e;
    p->line = start_line;
    int rc;
    for (int i = 0; i < KEY_COUNT; i++)
        if (keys[i].def && (rc = set_value(&m, i, keys[i].def)))
            return rc;
    if ((rc = config_read_mapping(&m, "")))
        return rc;
    for (size_t i = 0; !lines[KEY_READ_ONLY_METHODS] && i < ARRAY_SIZE(methods); i++)
        if ((rc = list_add(l, &p->read_only_methods, methods[i])))
            return rc;
    const char *missing = !p->listen.host                                ? "listen"
                          : !p->target.host && !p->target.path           ? "target"
                          : p->tls.certificate && !p->tls.key            ? "tls.key"
                          : p->tls.key && !p->tls.certificate            ? "tls.certificate"
                                                                         : NULL;
    if (missing) {
        err_set(e, ERR_CONFIG, "proxy: an entry without \"%s\"", missing);
        return config_at_line(l, start_line, ERR_CONFIG);
    }
    if (p->name)
        return 0;
    char name[CONFIG_NAME_MAX + 1];
    snprintf(name, sizeof name, "port-%u", p->listen.port);
    return (p->name = strdup(name)) ? 0 : no_memory(l);
}

int config_load_proxies(struct loader *l)
{
    struct config *c = l->c;
    if (!(c->proxies = calloc(CONFIG_PROXIES_MAX, sizeof *c->proxies)))
        return no_memory(l);
    for (;;) {
        yaml_event_t ev;
        int rc = config_next_event(l, &ev);
        if (rc)
            return rc;
        yaml_event_type_t type = ev.type;
        int line = config_event_line(&ev);
        yaml_event_delete(&ev);
        if (type == YAML_SEQUENCE_END_EVENT)
            return 0;
        if (type != YAML_MAPPING_START_EVENT || c->n_proxies == CONFIG_PROXIES_MAX) {
            err_set(l->e, ERR_CONFIG, "proxy: at most %d entries like {listen: HOST:PORT, target: HOST:PORT, …}",
                    CONFIG_PROXIES_MAX);
            return config_at_line(l, line, ERR_CONFIG);
        }
        if ((rc = load_entry(l, &c->proxies[c->n_proxies++], line)))
            return rc;
    }
}

int config_complete_proxies(struct loader *l)
{
    struct config *c = l->c;
    for (int i = 0; i < c->n_proxies; i++)
        for (int j = 0; j < i; j++) {
            const struct config_proxy *a = &c->proxies[i], *b = &c->proxies[j];
            bool name = !strcmp(a->name, b->name);
            if (!name && (a->listen.port != b->listen.port || !a->listen.port || strcmp(a->listen.host, b->listen.host)))
                continue;
            err_set(l->e, ERR_CONFIG, "proxy: two entries with the same %s (the first in line %d)", name ? "name" : "listen",
                    b->line);
            return config_at_line(l, a->line, ERR_CONFIG);
        }
    return 0;
}

void config_free_proxies(struct config *c)
{
    for (int i = 0; i < c->n_proxies; i++) {
        struct config_proxy *p = &c->proxies[i];
        for (int j = 0; j < p->n_peers; j++) {
            free(p->peers[j].node);
            free(p->peers[j].url);
        }
        free(p->peers);
        for (int j = 0; j < p->n_cache; j++) {
            free(p->cache[j].path);
            config_free_list(&p->cache[j].databases);
        }
        free(p->cache);
        for (int j = 0; j < KEY_COUNT; j++)
            if (keys[j].type == CONFIG_TYPE_LIST)
                config_free_list((struct config_list *)((char *)p + keys[j].offset));
            else if (keys[j].type == CONFIG_TYPE_NAME || keys[j].type == CONFIG_TYPE_PATH)
                free(*(char **)((char *)p + keys[j].offset));
        free(p->listen.host);
        free(p->target.host);
        free(p->target.path);
    }
    free(c->proxies);
}

int config_proxy_peer(const struct config *c, const struct config_proxy *p, const char *node, const char *api_url, char *url)
{
    for (int i = 0; i < p->n_peers; i++)
        if (!strcmp(p->peers[i].node, node)) {
            snprintf(url, 256, "%s", p->peers[i].url);
            return 0;
        }
    const struct config_node *n = config_node(c, node);
    if (n && n->proxy) {
        snprintf(url, 256, "%s", n->proxy);
        return 0;
    }
    const char *from = n ? n->url : api_url;
    const char *host = from && !strncmp(from, "http://", 7) ? from + 7 : NULL;
    const char *colon = host ? strrchr(host, ':') : NULL;
    if (!colon)
        return -ENOENT;
    snprintf(url, 256, "%s://%.*s:%u", p->tls.certificate ? "https" : "http", (int)(colon - host), host, p->listen.port);
    return 0;
}
