#include "ctl/cluster.h"

#include "ctl/cluster_private.h"
#include "ctl/field.h"
#include "ctl/progress.h"
#include "lib/config_value.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>

#define TOKEN_MAX 4096
#define TICK_NS 200000000

/* ---- where to ask ------------------------------------------------------------------------------------------ */

static int add_url(struct cluster *c, const char *url, const char *where, struct err *e)
{
    if (c->n_urls == (int)ARRAY_SIZE(c->urls))
        return err_set(e, ERR_CONFIG, "%s: too many URLs", where);
    int rc = config_parse_url(url, &c->urls[c->n_urls], e);
    if (rc) {
        err_wrap(e, "%s", where);
        return rc;
    }
    c->n_urls++;
    return 0;
}

static int add_environment(struct cluster *c, const char *text, struct err *e)
{
    static const char separators[] = ", \t\n";
    while (*(text += strspn(text, separators))) {
        size_t n = strcspn(text, separators);
        _cleanup_free_ char *url = strndup(text, n);
        int rc = url ? add_url(c, url, "EDGEFS_URL", e) : err_errno(e, ENOMEM, "EDGEFS_URL");
        if (rc)
            return rc;
        text += n;
    }
    return 0;
}

static int add_config(struct cluster *c, const struct config *config, struct err *e)
{
    int rc = add_url(c, config->http.advertise, "http.advertise", e);
    for (int i = 0; !rc && i < config->n_nodes; i++)
        if (strcmp(config->nodes[i].url, config->http.advertise))
            rc = add_url(c, config->nodes[i].url, "nodes", e);
    return rc;
}

/* The first line of the file, without blanks around it: what a shell's `echo secret > file` leaves. */
static int read_token(const char *path, char **token, struct err *e)
{
    char buf[TOKEN_MAX + 2];
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof buf - 1);
    if (n < 0)
        return err_set(e, ERR_CONFIG, "token file %s: %s", path, err_name(errno));
    if (n > TOKEN_MAX)
        return err_set(e, ERR_CONFIG, "token file %s: longer than %d bytes", path, TOKEN_MAX);
    while (n && strchr(" \t\r\n", buf[n - 1]))
        n--;
    for (ssize_t i = 0; i < n; i++)
        if (buf[i] <= ' ' || buf[i] > '~')
            return err_set(e, ERR_CONFIG, "token file %s: must hold one word of printable ASCII", path);
    if (n == 0)
        return err_set(e, ERR_CONFIG, "token file %s is empty", path);
    *token = strndup(buf, (size_t)n);
    return *token ? 0 : err_errno(e, ENOMEM, "token file %s", path);
}

static int find_nodes(struct cluster *c, const struct cluster_options *o, struct err *e)
{
    struct config *config = NULL;
    const char *env = getenv("EDGEFS_URL"), *token = o->token_file;
    int rc = 0;
    struct config_args args = o->config;
    bool wanted = args.file || args.dir || args.data;
    args.dir = "/edgefs-ctl/dir"; /* what we need is URL and token file; the file may leave the other two to the launcher's arguments */
    args.data = "/edgefs-ctl/data";
    if (wanted && (rc = config_load(&args, &config, e)))
        return e->code = ERR_CONFIG; /* a file that cannot be read (-ENOENT …) is a configuration error here, not an I/O error */
    for (int i = 0; !rc && i < o->n_urls; i++)
        rc = add_url(c, o->urls[i], "--url", e);
    if (!rc && !c->n_urls && config)
        rc = add_config(c, config, e);
    if (!rc && !c->n_urls && env)
        rc = add_environment(c, env, e);
    if (!rc && !c->n_urls)
        rc = add_url(c, CLUSTER_DEFAULT_URL, "default", e);
    if (!token && config)
        token = config->token_file;
    if (!token)
        token = getenv("EDGEFS_TOKEN_FILE");
    if (!rc && token && *token)
        rc = read_token(token, &c->token, e);
    config_free(config);
    return rc;
}

int cluster_open(const struct cluster_options *o, struct cluster **out, struct err *e)
{
    struct cluster *c = calloc(1, sizeof *c);
    if (!c)
        return err_errno(e, ENOMEM, "start");
    pthread_mutex_init(&c->lock, NULL);
    json_object_seed(0); /* once, before there are threads */
    int rc = find_nodes(c, o, e);
    if (rc) {
        cluster_close(c);
        return rc;
    }
    *out = c;
    return 0;
}

void cluster_close(struct cluster *c)
{
    if (!c)
        return;
    for (int i = 0; i < c->n_urls; i++)
        free(c->urls[i]);
    cluster_close_clients(c);
    pthread_mutex_destroy(&c->lock);
    if (c->token)
        explicit_bzero(c->token, strlen(c->token));
    free(c->token);
    free(c);
}

/* ---- names ------------------------------------------------------------------------------------------------- */

char *cluster_escape(const char *name)
{
    static const char hex[] = "0123456789ABCDEF";
    char *out = malloc(strlen(name) * 3 + 1), *p = out;
    if (!out)
        return NULL;
    for (; *name; name++) {
        unsigned char b = (unsigned char)*name;
        if ((b >= '0' && b <= '9') || (b >= 'A' && b <= 'Z') || (b >= 'a' && b <= 'z') || strchr("-._~", b)) {
            *p++ = (char)b;
        } else {
            *p++ = '%';
            *p++ = hex[b >> 4];
            *p++ = hex[b & 15];
        }
    }
    *p = 0;
    return out;
}

char *cluster_path(const char *fmt, ...)
{
    char *path = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&path, fmt, ap) < 0)
        path = NULL;
    va_end(ap);
    return path;
}

int cluster_check_name(const char *name, struct err *e)
{
    size_t n = strlen(name);
    if (n < 1 || n > LAYOUT_NAME_MAX)
        return err_set(e, -EINVAL, "the name of a database has 1 to %d bytes", LAYOUT_NAME_MAX);
    for (const char *p = name; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return err_set(e, -EINVAL, "\"%.80s\" has a control character in it", name);
    for (const char *p = name;; p++) {
        size_t part = strcspn(p, "/");
        if (part == 0 || (part == 1 && *p == '.') || (part == 2 && p[0] == '.' && p[1] == '.'))
            return err_set(e, -EINVAL, "\"%.80s\" is not a path inside the mount; it looks like app.db or tenants/a.db", name);
        p += part;
        if (!*p)
            return 0;
    }
}

/* ---- many at once ------------------------------------------------------------------------------------------ */

struct crowd {
    void (*fn)(int i, void *ctx);
    void *ctx;
    int n;
    atomic_int next;
    pthread_mutex_t lock; /* running, done */
    pthread_cond_t done;
    int running;
};

static void *crowd_thread(void *arg)
{
    struct crowd *w = arg;
    for (int i; (i = atomic_fetch_add(&w->next, 1)) < w->n;)
        w->fn(i, w->ctx);
    pthread_mutex_lock(&w->lock);
    w->running--;
    pthread_cond_signal(&w->done);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

void cluster_each(int n, void (*fn)(int i, void *ctx), void *ctx)
{
    struct crowd w = {.fn = fn, .ctx = ctx, .n = n, .lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};
    pthread_t threads[CLUSTER_THREADS_MAX];
    int started = 0;
    while (started < MIN(n, CLUSTER_THREADS_MAX)) {
        pthread_mutex_lock(&w.lock);
        w.running++;
        pthread_mutex_unlock(&w.lock);
        if (pthread_create(&threads[started], NULL, crowd_thread, &w)) {
            pthread_mutex_lock(&w.lock);
            w.running--;
            pthread_mutex_unlock(&w.lock);
            break;
        }
        started++;
    }
    if (!started)
        for (int i = 0; i < n; i++)
            fn(i, ctx);
    pthread_mutex_lock(&w.lock);
    while (w.running) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += TICK_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (pthread_cond_timedwait(&w.done, &w.lock, &until) == ETIMEDOUT)
            progress_add(0);
    }
    pthread_mutex_unlock(&w.lock);
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
}

/* ---- nodes ------------------------------------------------------------------------------------------------- */

static int ask_status(struct cluster *c, const char *url, json_t **out, struct err *e)
{
    int status;
    struct request r = {.url = url, .path = "/v1/status", .timeout_ms = CLUSTER_STATUS_MS};
    int rc = cluster_ask(c, &r, &status, out, e);
    if (rc && *out) {
        json_decref(*out); /* the error object: its text is in e */
        *out = NULL;
    }
    return rc;
}

/* The first of our URLs that answers. A refusal counts as an answer only if nobody else gives a better one: with a wrong token all refuse. */
static int find_first(struct cluster *c, const char **url, json_t **status, struct err *e)
{
    struct err worst = {0};
    for (int i = 0; i < c->n_urls; i++) {
        if (ask_status(c, c->urls[i], status, e) == 0) {
            *url = c->urls[i];
            return 0;
        }
        if (!worst.code || (worst.code == -EHOSTUNREACH && e->code != -EHOSTUNREACH))
            worst = *e;
    }
    return err_set(e, worst.code, "%s%s", worst.text, worst.code == -EHOSTUNREACH ? " (--url URL asks another node)" : "");
}

static int set_node(struct node *n, const char *name, const char *url, struct err *e)
{
    n->name = strdup(name);
    n->url = strdup(url);
    if (n->name && n->url)
        return 0;
    return err_errno(e, ENOMEM, "list of nodes");
}

/* From the `nodes` of one node's status; that node itself keeps the URL under which it answered. */
static int list_nodes(struct nodes *ns, const char *url, json_t *status, struct err *e)
{
    const json_t *list = json_object_get(status, "nodes");
    const char *self = field_text_or(status, "node", "?");
    size_t n = MIN(json_array_size(list), (size_t)CONFIG_NODES_MAX);
    ns->items = calloc(n + 1, sizeof *ns->items);
    if (!ns->items)
        return err_errno(e, ENOMEM, "list of nodes");
    ns->first = -1;
    for (size_t i = 0; i < n; i++) {
        const json_t *entry = json_array_get(list, i);
        const char *name = field_text(entry, "name"), *at = field_text(entry, "url");
        if (!name || !at)
            continue;
        bool is_self = !strcmp(name, self);
        if (is_self && ns->first < 0)
            ns->first = ns->n;
        if (set_node(&ns->items[ns->n++], name, is_self ? url : at, e))
            return -ENOMEM;
    }
    if (ns->first < 0) {
        ns->first = ns->n;
        if (set_node(&ns->items[ns->n++], self, url, e))
            return -ENOMEM;
    }
    ns->items[ns->first].status = json_incref(status);
    return 0;
}

struct survey {
    struct cluster *c;
    struct nodes *ns;
};

static void survey_node(int i, void *ctx)
{
    struct survey *s = ctx;
    struct node *n = &s->ns->items[i];
    struct err e = {0};
    char *url = NULL;
    if (!n->status) {
        if (config_parse_url(n->url, &url, &e)) { /* it comes from another program: nothing goes to what is no http://HOST:PORT */
            n->code = ERR_REMOTE;
            snprintf(n->error, sizeof n->error, "%.400s", e.text);
            return;
        }
        free(n->url);
        n->url = url;
        n->code = ask_status(s->c, n->url, &n->status, &e);
    }
    if (n->status)
        snprintf(n->role, sizeof n->role, "%s", field_text_or(n->status, "role", "?"));
    else
        snprintf(n->error, sizeof n->error, "%s", e.text);
}

int nodes_primary(const struct nodes *ns)
{
    int best = -1;
    uint64_t best_epoch = 0;
    for (int i = 0; i < ns->n; i++) {
        const struct node *n = &ns->items[i];
        if (strcmp(n->role, "primary") && strcmp(n->role, "handing-over"))
            continue;
        uint64_t epoch = field_u64_or(n->status, "epoch", 0);
        if (best < 0 || epoch > best_epoch) {
            best = i;
            best_epoch = epoch;
        }
    }
    return best;
}

int cluster_nodes(struct cluster *c, struct nodes *out, struct err *e)
{
    const char *url = NULL;
    json_t *status = NULL;
    *out = (struct nodes){0};
    int rc = find_first(c, &url, &status, e);
    if (rc)
        return rc;
    rc = list_nodes(out, url, status, e);
    json_decref(status);
    if (rc) {
        nodes_free(out);
        return rc;
    }
    struct survey s = {c, out};
    cluster_each(out->n, survey_node, &s);
    int p = nodes_primary(out);
    if (p > 0) {
        struct node primary = out->items[p];
        memmove(out->items + 1, out->items, (size_t)p * sizeof primary);
        out->items[0] = primary;
        out->first = out->first == p ? 0 : out->first < p ? out->first + 1 : out->first;
    }
    return 0;
}

void nodes_free(struct nodes *ns)
{
    for (int i = 0; i < ns->n; i++) {
        free(ns->items[i].name);
        free(ns->items[i].url);
        json_decref(ns->items[i].status);
    }
    free(ns->items);
    *ns = (struct nodes){0};
}

int cluster_one(struct cluster *c, char **url, struct err *e)
{
    const char *first = NULL;
    json_t *status = NULL;
    int rc = find_first(c, &first, &status, e);
    if (rc)
        return rc;
    json_decref(status);
    *url = strdup(first);
    return *url ? 0 : err_errno(e, ENOMEM, "start");
}

int cluster_primary(struct cluster *c, char **url, struct err *e)
{
    struct nodes ns;
    int rc = cluster_nodes(c, &ns, e);
    if (rc)
        return rc;
    int p = nodes_primary(&ns);
    if (p >= 0) {
        *url = strdup(ns.items[p].url);
        rc = *url ? 0 : err_errno(e, ENOMEM, "start");
    } else {
        const json_t *s = ns.items[ns.first].status;
        const char *name = field_text(s, "primary"), *at = field_text(s, "primary_url");
        if (name)
            rc = err_set(e, -EHOSTUNREACH, "the primary, %.64s (%.200s), cannot be reached; `edgefs-ctl status` shows who can", name,
                         at ? at : "URL unknown");
        else
            rc = err_set(e, -EHOSTUNREACH, "no node that can be reached is primary; `edgefs-ctl status` shows them");
    }
    nodes_free(&ns);
    return rc;
}

bool cluster_redirect(const json_t *answer, char **url)
{
    const char *to = field_text(answer, "primary_url");
    char *parsed;
    if (!to || config_parse_url(to, &parsed, NULL))
        return false;
    free(*url);
    *url = parsed;
    return true;
}
