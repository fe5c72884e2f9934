#include "ctl/cluster.h"
#include "ctl/field.h"
#include "ctl/interrupt.h"
#include "ctl/options.h"
#include "ctl/table.h"
#include "ctl/text.h"
#include "lib/util.h"
#include <errno.h>
#include <inttypes.h>
#include <sys/ioctl.h>

#define WARNINGS_MAX 100 /* lines; a node can have a warning for each of its databases */
#define INTERVAL_MIN_MS 100
#define LAG_HIGH_MS 60000 /* from here on /healthz says "lagging" */

struct screen {
    bool terminal, colours;
    unsigned width; /* 0: no terminal */
};

static struct screen screen_now(void)
{
    struct winsize w;
    struct screen s = {.terminal = isatty(STDOUT_FILENO), .colours = text_colours(STDOUT_FILENO)};
    if (s.terminal)
        s.width = ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col ? w.ws_col : 80;
    return s;
}

static void number_cell(struct table *t, const json_t *status, const char *path)
{
    uint64_t v;
    if (field_u64(status, path, &v))
        table_cell(t, TABLE_PLAIN, "%" PRIu64, v);
    else
        table_cell(t, TABLE_DIM, "-");
}

static void size_cell(struct table *t, const json_t *status, const char *path)
{
    uint64_t v;
    char buf[TEXT_NUMBER_MAX];
    if (field_u64(status, path, &v))
        table_cell(t, TABLE_PLAIN, "%s", text_size(v, buf));
    else
        table_cell(t, TABLE_DIM, "-");
}

/* A replica without its stream. (One that is starting has none yet.) */
static bool is_cut_off(const struct node *n)
{
    return !strcmp(n->role, "replica") && !field_true(n->status, "connected");
}

static void lag_cell(struct table *t, const struct node *n)
{
    uint64_t lag;
    char buf[TEXT_NUMBER_MAX];
    if (is_cut_off(n))
        table_cell(t, TABLE_BAD, "disconnected");
    else if (strcmp(n->role, "starting") && field_u64(n->status, "lag_ms", &lag))
        table_cell(t, lag >= LAG_HIGH_MS ? TABLE_BAD : lag >= 1000 ? TABLE_WARN : TABLE_PLAIN, "%s", text_duration(lag, buf));
    else
        table_cell(t, TABLE_DIM, "-");
}

static void node_row(struct table *t, const struct node *n)
{
    char buf[TEXT_NUMBER_MAX];
    table_cell(t, TABLE_BOLD, "%s", n->name);
    if (!n->status) {
        table_cell(t, TABLE_BAD, n->code == -EHOSTUNREACH ? "unreachable" : "refused");
        for (int i = 0; i < 7; i++)
            table_cell(t, TABLE_DIM, "-");
        table_cell(t, TABLE_DIM, "%s", n->url);
        table_end_row(t);
        return;
    }
    bool usual = !strcmp(n->role, "replica");
    table_cell(t, !strcmp(n->role, "primary") ? TABLE_GOOD : usual ? TABLE_PLAIN : TABLE_WARN, "%s", n->role);
    number_cell(t, n->status, "epoch");
    number_cell(t, n->status, "lsn");
    lag_cell(t, n);
    number_cell(t, n->status, "databases.count");
    size_cell(t, n->status, "databases.bytes");
    size_cell(t, n->status, "log.bytes");
    uint64_t up;
    if (field_u64(n->status, "uptime_s", &up) && up < UINT64_MAX / 1000)
        table_cell(t, TABLE_PLAIN, "%s", text_duration(up * 1000, buf));
    else
        table_cell(t, TABLE_DIM, "-");
    table_cell(t, TABLE_DIM, "%s", n->url);
    table_end_row(t);
}

static void print_table(const struct nodes *ns, const struct screen *s)
{
    struct table *t = table_new(s->colours);
    table_column(t, "NODE", false);
    table_column(t, "ROLE", false);
    table_column(t, "EPOCH", true);
    table_column(t, "LSN", true);
    table_column(t, "LAG", true);
    table_column(t, "DATABASES", true);
    table_column(t, "SIZE", true);
    table_column(t, "LOG", true);
    table_column(t, "UP", true);
    table_column(t, "URL", false);
    for (int i = 0; i < ns->n; i++)
        node_row(t, &ns->items[i]);
    table_print(t, stdout, s->width);
    table_free(t);
}

/* ---- warnings ---------------------------------------------------------------------------------------------- */

/* Lines below the table, the bad ones first. NULL entries: out of memory, left out. */
struct warnings {
    char *lines[WARNINGS_MAX];
    enum table_style styles[WARNINGS_MAX];
    int n;
    int left_out;
};

static void warn(struct warnings *w, enum table_style style, const char *node, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void warn(struct warnings *w, enum table_style style, const char *node, const char *fmt, ...)
{
    if (w->n == WARNINGS_MAX) {
        w->left_out++;
        return;
    }
    _cleanup_free_ char *text = NULL, *line = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        text = NULL;
    va_end(ap);
    if (text && asprintf(&line, "%s%s%s", node ? node : "", node ? ": " : "", text) < 0)
        line = NULL;
    w->styles[w->n] = style;
    w->lines[w->n++] = line ? text_printable(line) : NULL;
}

/* What no single node can know. */
static void warn_cluster(struct warnings *w, const struct nodes *ns)
{
    int primaries = 0, p = nodes_primary(ns);
    for (int i = 0; i < ns->n; i++)
        primaries += !strcmp(ns->items[i].role, "primary");
    if (p < 0)
        warn(w, TABLE_BAD, NULL, "no node that can be reached is primary: nobody accepts writes");
    else if (primaries > 1)
        warn(w, TABLE_BAD, NULL, "%d nodes say that they are primary; %s has the highest epoch", primaries, ns->items[p].name);
    const char *version = NULL;
    bool differ = false;
    for (int i = 0; i < ns->n; i++) {
        const char *v = field_text(ns->items[i].status, "version");
        differ = differ || (v && version && strcmp(v, version));
        version = v ? v : version;
    }
    for (int i = 0; differ && i < ns->n; i++)
        if (ns->items[i].status)
            warn(w, TABLE_WARN, ns->items[i].name, "runs version %s", field_text_or(ns->items[i].status, "version", "?"));
}

static void warn_node(struct warnings *w, const struct node *n, const struct node *primary)
{
    if (!n->status) {
        warn(w, TABLE_BAD, n->name, "%s", n->error);
        return;
    }
    if (!strcmp(n->role, "handing-over"))
        warn(w, TABLE_WARN, n->name, "a promotion is under way; writes wait");
    if (is_cut_off(n))
        warn(w, TABLE_BAD, n->name, "does not receive changes: it is not connected to the primary");
    uint64_t epoch = field_u64_or(n->status, "epoch", 0);
    if (primary && primary != n && primary->status && epoch < field_u64_or(primary->status, "epoch", 0))
        warn(w, TABLE_WARN, n->name, "is still in epoch %" PRIu64, epoch);
    size_t i;
    json_t *text;
    json_array_foreach(json_object_get(n->status, "warnings"), i, text) {
        if (json_is_string(text))
            warn(w, TABLE_WARN, n->name, "%s", json_string_value(text));
    }
    uint64_t count;
    if (i == 0 && field_u64(n->status, "databases.warnings", &count) && count)
        warn(w, TABLE_WARN, n->name, "%" PRIu64 " %s; `%s databases --url %s` shows more", count,
             count == 1 ? "database has a warning" : "databases have warnings", CTL_PROGRAM, n->url);
    if (field_u64(n->status, "databases.others", &count) && count)
        warn(w, TABLE_DIM, n->name, "%" PRIu64 " %s", count,
             count == 1 ? "file is no SQLite database: kept here, not replicated" : "files are no SQLite databases: kept here, not replicated");
}

static void print_warnings(const struct nodes *ns, const struct screen *s)
{
    struct warnings w = {0};
    int p = nodes_primary(ns);
    warn_cluster(&w, ns);
    for (int i = 0; i < ns->n; i++)
        warn_node(&w, &ns->items[i], p < 0 ? NULL : &ns->items[p]);
    if (w.n)
        printf("\n%sWarnings%s\n", table_style_begin(TABLE_BOLD, s->colours), table_style_end(TABLE_BOLD, s->colours));
    for (int i = 0; i < w.n; i++) {
        if (w.lines[i])
            printf("  %s%s%s\n", table_style_begin(w.styles[i], s->colours), w.lines[i],
                   table_style_end(w.styles[i], s->colours));
        free(w.lines[i]);
    }
    if (w.left_out)
        printf("  … and %d more\n", w.left_out);
}

/* ---- whole ------------------------------------------------------------------------------------------------- */

static json_t *to_json(const struct nodes *ns)
{
    int p = nodes_primary(ns);
    json_t *list = json_array();
    for (int i = 0; i < ns->n; i++) {
        const struct node *n = &ns->items[i];
        json_t *o = json_pack("{s:s, s:s, s:b}", "name", n->name, "url", n->url, "reachable", n->status != NULL);
        if (n->status)
            json_object_set(o, "status", n->status);
        else
            json_object_set_new(o, "error", json_string(n->error));
        json_array_append_new(list, o);
    }
    return json_pack("{s:s?, s:o}", "primary", p < 0 ? NULL : ns->items[p].name, "nodes", list);
}

static int show(struct cluster *c, bool json, bool redraw, bool watch)
{
    struct nodes ns;
    struct err e;
    int rc = cluster_nodes(c, &ns, &e);
    if (rc && !watch)
        return ctl_fail_err(&e);
    struct screen s = screen_now();
    if (redraw)
        fputs("\033[H\033[2J", stdout);
    if (rc && json) {
        rc = field_print(json_pack("{s:s}", "error", e.text), true);
    } else if (rc) {
        _cleanup_free_ char *text = text_printable(e.text);
        printf("%s%s%s\n", table_style_begin(TABLE_BAD, s.colours), text ? text : "", table_style_end(TABLE_BAD, s.colours));
        rc = 0;
    } else if (json) {
        rc = field_print(to_json(&ns), watch);
    } else {
        print_table(&ns, &s);
        print_warnings(&ns, &s);
    }
    nodes_free(&ns);
    return rc;
}

/* Until a signal, or until the reader of our output is gone. */
static int watch_loop(struct cluster *c, bool json, uint64_t interval_ms)
{
    bool redraw = !json && isatty(STDOUT_FILENO);
    if (redraw) {
        interrupt_cursor_hidden(true);
        fputs("\033[?25l", stdout);
    }
    for (;;) {
        int rc = show(c, json, redraw, true);
        if (rc)
            return rc;
        if (!redraw && !json)
            putchar('\n');
        if (fflush(stdout))
            return CTL_OK; /* main says why, if it is worth saying */
        struct timespec t = {.tv_sec = (time_t)(interval_ms / 1000), .tv_nsec = (long)(interval_ms % 1000) * 1000000};
        while (nanosleep(&t, &t) && errno == EINTR)
            ;
    }
}

static int run(struct cluster *c, int argc, char **argv)
{
    bool json = false, watch = false;
    uint64_t interval = 1000;
    const struct option options[] = {
        {"--json", OPTION_FLAG, &json, 0, 0},
        {"--watch", OPTION_FLAG, &watch, 0, 0},
        {"--interval", OPTION_DURATION, &interval, INTERVAL_MIN_MS, 86400000},
    };
    int n, rc = options_parse(&cmd_status, options, ARRAY_SIZE(options), argc, argv, 0, 0, &n);
    if (rc)
        return rc;
    return watch ? watch_loop(c, json, interval) : show(c, json, false, false);
}

const struct command cmd_status = {
    .name = "status",
    .usage = "[--json] [--watch [--interval 1s]]",
    .summary = "all nodes of the cluster: role, position, lag, sizes, warnings",
    .help = "Asks one node, then all nodes that it knows. Nodes that do not answer within 3 seconds are shown as unreachable\n"
            "(that is no error: exit code 0 as long as one node answers).\n\n"
            "  --json           {\"primary\":…, \"nodes\":[{\"name\", \"url\", \"reachable\", \"status\" as /v1/status says, or \"error\"}]}\n"
            "  --watch          again and again, until Ctrl-C; redraws a terminal, otherwise one table (with --json: one line) each time\n"
            "  --interval TIME  how often (default 1s)\n",
    .run = run,
};
