#include "ctl/compare.h"
#include "ctl/field.h"
#include "ctl/options.h"
#include "ctl/repair.h"
#include "ctl/table.h"
#include "ctl/text.h"
#include "lib/util.h"
#include <inttypes.h>

#define RANGES_SHOWN 20
#define REPAIR_WAIT_MS 60000 /* the most that a node waits for a position */

static const struct {
    const char *cell, *json;
    enum table_style style;
} words[] = {
    [VERDICT_OK] = {"ok", "ok", TABLE_GOOD},           [VERDICT_DIFFERS] = {"DIFFERS", "differs", TABLE_BAD},
    [VERDICT_MISSING] = {"missing", "missing", TABLE_BAD}, [VERDICT_EXTRA] = {"extra", "extra", TABLE_BAD},
    [VERDICT_DAMAGED] = {"DAMAGED", "damaged", TABLE_BAD}, [VERDICT_UNKNOWN] = {"unknown", "unknown", TABLE_WARN},
    [VERDICT_NOT_WANTED] = {"-", "not-wanted", TABLE_PLAIN},
};

static const struct compared *cell_of(const struct comparison *x, int name, int node)
{
    return &x->cells[(size_t)name * (size_t)x->nodes.n + (size_t)node];
}

/* ---- tables ------------------------------------------------------------------------------------------------ */

static void first_cells(struct table *t, const struct comparison *x, int name)
{
    char buf[TEXT_NUMBER_MAX];
    const json_t *db = NULL;
    for (int i = 0; i < x->nodes.n && !db; i++)
        db = cell_of(x, name, i)->db;
    table_cell(t, TABLE_PLAIN, "%s", x->names[name]);
    table_cell(t, TABLE_PLAIN, "%s", text_size(field_u64_or(db, "bytes", 0), buf));
    table_cell(t, TABLE_PLAIN, "%" PRIu64, field_u64_or(db, "txid", 0));
    table_cell(t, TABLE_PLAIN, "%s", field_text_or(db, "checksum", "-"));
}

static void print_table(const struct comparison *x, bool colours)
{
    struct table *t = table_new(colours);
    table_column(t, "DATABASE", false);
    table_column(t, "SIZE", true);
    table_column(t, "TXID", true);
    table_column(t, "CHECKSUM", false);
    for (int i = 0; i < x->nodes.n; i++)
        table_column(t, x->nodes.items[i].name, false);
    for (int i = 0; i < x->n_names; i++) {
        first_cells(t, x, i);
        for (int j = 0; j < x->nodes.n; j++) {
            const struct compared *cell = cell_of(x, i, j);
            if (x->per_node[j].answer)
                table_cell(t, words[cell->verdict].style, "%s", words[cell->verdict].cell);
            else
                table_cell(t, TABLE_WARN, "%s", x->per_node[j].why);
        }
        table_end_row(t);
    }
    table_print(t, stdout, 0);
    table_free(t);
}

/* "3, 7-9, 12 and 40 more". */
static void print_pages(const struct page_list *l)
{
    size_t n = (size_t)MIN(l->count, (uint64_t)COMPARE_PAGES_MAX), shown = 0, i = 0;
    for (int ranges = 0; i < n && ranges < RANGES_SHOWN; ranges++) {
        size_t end = i;
        while (end + 1 < n && l->pages[end + 1] == l->pages[end] + 1)
            end++;
        printf("%s%u", ranges ? ", " : "", l->pages[i]);
        if (end > i)
            printf("%s%u", end > i + 1 ? "-" : ", ", l->pages[end]);
        shown += end - i + 1;
        i = end + 1;
    }
    if (l->count > shown)
        printf("%s%" PRIu64 " more", shown ? " and " : "", l->count - shown);
}

static void print_list(const char *what, const struct page_list *l)
{
    if (!l || !l->count)
        return;
    printf("    %" PRIu64 " %s %s: ", l->count, l->count == 1 ? "page" : "pages", what);
    print_pages(l);
    putchar('\n');
}

static void print_details(const struct comparison *x, bool colours)
{
    bool any = false;
    for (int j = 0; j < x->nodes.n; j++) {
        if (x->per_node[j].answer)
            continue;
        _cleanup_free_ char *text = text_printable(x->per_node[j].error.text), *name = text_printable(x->nodes.items[j].name);
        printf("%s%s: %s\n", any ? "" : "\n", name ? name : "?", text ? text : "?");
        any = true;
    }
    for (int i = 0; i < x->n_names; i++)
        for (int j = 0; j < x->nodes.n; j++) {
            const struct compared *cell = cell_of(x, i, j);
            if (!x->per_node[j].answer || cell->verdict == VERDICT_NOT_WANTED ||
                (cell->verdict == VERDICT_OK && !cell->note && !cell->differs))
                continue;
            _cleanup_free_ char *name = text_printable(x->names[i]), *node = text_printable(x->nodes.items[j].name),
                                *why = text_printable(cell->note ? cell->note : "");
            enum table_style style = words[cell->verdict].style;
            printf("%s%s on %s: %s%s%s%s%s\n", any ? "" : "\n", name ? name : "?", node ? node : "?",
                   table_style_begin(style, colours), words[cell->verdict].cell, table_style_end(style, colours),
                   cell->note ? ", " : "", why ? why : "");
            any = true;
            print_list("damaged", cell->bad);
            print_list("not as on the primary", cell->differs);
        }
}

/* ---- JSON -------------------------------------------------------------------------------------------------- */

static void add_pages(json_t *to, const char *name, const char *count_name, const struct page_list *l)
{
    if (!l)
        return;
    json_t *list = json_array();
    for (size_t i = 0; i < MIN(l->count, (uint64_t)COMPARE_PAGES_MAX); i++)
        json_array_append_new(list, json_integer(l->pages[i]));
    json_object_set_new(to, name, list);
    json_object_set_new(to, count_name, json_integer((json_int_t)l->count));
}

static json_t *cell_json(const struct compared *cell)
{
    json_t *o = json_pack("{s:s, s:b}", "result", words[cell->verdict].json, "scrubbed", cell->scrubbed);
    static const char *const copied[] = {"txid", "checksum", "page_size", "pages", "bytes", "state"};
    for (size_t i = 0; i < ARRAY_SIZE(copied); i++)
        if (json_object_get(cell->db, copied[i]))
            json_object_set(o, copied[i], json_object_get(cell->db, copied[i]));
    if (cell->note)
        json_object_set_new(o, "note", json_string(cell->note));
    add_pages(o, "bad_pages", "bad_count", cell->bad);
    add_pages(o, "differing_pages", "differing_count", cell->differs);
    return o;
}

static json_t *to_json(const struct comparison *x, bool identical)
{
    json_t *nodes = json_array(), *databases = json_array();
    for (int j = 0; j < x->nodes.n; j++) {
        json_t *o = json_pack("{s:s, s:s, s:b}", "name", x->nodes.items[j].name, "url", x->nodes.items[j].url, "answered",
                              x->per_node[j].answer != NULL);
        if (!x->per_node[j].answer) {
            json_object_set_new(o, "why", json_string(x->per_node[j].why));
            json_object_set_new(o, "error", json_string(x->per_node[j].error.text));
        }
        json_array_append_new(nodes, o);
    }
    for (int i = 0; i < x->n_names; i++) {
        json_t *per_node = json_object();
        for (int j = 0; j < x->nodes.n; j++)
            json_object_set_new(per_node, x->nodes.items[j].name, cell_json(cell_of(x, i, j)));
        json_array_append_new(databases, json_pack("{s:s, s:o}", "name", x->names[i], "nodes", per_node));
    }
    return json_pack("{s:I, s:I, s:b, s:s, s:o, s:o}", "epoch", (json_int_t)x->epoch, "lsn", (json_int_t)x->lsn, "identical",
                     identical, "primary", x->nodes.items[0].name, "nodes", nodes, "databases", databases);
}

/* ---- whole ------------------------------------------------------------------------------------------------- */

struct tally {
    int wrong;   /* databases with at least one node where it is not as it should be */
    int silent;  /* nodes that could not be compared */
    int unknown; /* databases that could not be checked on a node that did answer */
};

static struct tally count(const struct comparison *x)
{
    struct tally t = {0};
    for (int j = 0; j < x->nodes.n; j++)
        t.silent += !x->per_node[j].answer;
    for (int i = 0; i < x->n_names; i++) {
        bool wrong = false, unknown = false;
        for (int j = 0; j < x->nodes.n; j++) {
            enum verdict v = cell_of(x, i, j)->verdict;
            wrong = wrong || (v != VERDICT_OK && v != VERDICT_UNKNOWN && v != VERDICT_NOT_WANTED);
            unknown = unknown || (v == VERDICT_UNKNOWN && x->per_node[j].answer);
        }
        t.wrong += wrong;
        t.unknown += unknown && !wrong;
    }
    return t;
}

static void print_summary(const struct comparison *x, const struct tally *t, bool scrubbed, bool colours)
{
    const char *plural = x->n_names == 1 ? "" : "s";
    enum table_style style = t->wrong ? TABLE_BAD : t->silent || t->unknown ? TABLE_WARN : TABLE_GOOD;
    printf("\nEpoch %" PRIu64 ", LSN %" PRIu64 ": %s", x->epoch, x->lsn, table_style_begin(style, colours));
    if (t->wrong)
        printf("%d of %d database%s not in order", t->wrong, x->n_names, plural);
    else if (x->nodes.n - t->silent < 2)
        printf("%d database%s on one node%s", x->n_names, plural, scrubbed && !t->unknown ? ", all pages match their checksums" : "");
    else
        printf("%d database%s identical on %d nodes%s", x->n_names, plural, x->nodes.n - t->silent,
               scrubbed && !t->unknown ? ", all pages match their checksums" : "");
    if (t->unknown)
        printf("; %d not checked", t->unknown);
    if (t->silent)
        printf("; %d node%s not compared", t->silent, t->silent == 1 ? "" : "s");
    printf("%s\n", table_style_end(style, colours));
}

static int run(struct cluster *c, int argc, char **argv)
{
    bool json = false, quick = false, repair = false;
    struct compare_options o = {.wait_ms = 10000, .scrub_ms = 3600000};
    const struct option options[] = {
        {"--json", OPTION_FLAG, &json, 0, 0},
        {"--quick", OPTION_FLAG, &quick, 0, 0},
        {"--repair", OPTION_FLAG, &repair, 0, 0},
        {"--wait", OPTION_DURATION, &o.wait_ms, 0, 60000},
        {"--timeout", OPTION_DURATION, &o.scrub_ms, 1000, 86400000},
    };
    int n, rc = options_parse(&cmd_verify, options, ARRAY_SIZE(options), argc, argv, 0, 1, &n);
    if (rc)
        return rc;
    struct err e;
    struct comparison x;
    o.only = n ? argv[1] : NULL;
    o.scrub = !quick;
    if ((o.only && cluster_check_name(o.only, &e)) || compare_run(c, &o, &x, &e))
        return ctl_fail_err(&e);
    json_t *repairs = NULL;
    if (repair && repair_run(c, &o, &x, &repairs)) {
        if (!json)
            repair_print(repairs);
        compare_free(&x);
        o.wait_ms = REPAIR_WAIT_MS; /* a replica that fetches something is behind until it has it */
        if (compare_run(c, &o, &x, &e)) {
            json_decref(repairs);
            return ctl_fail_err(&e);
        }
        if (!json)
            putchar('\n');
    }
    struct tally t = count(&x);
    bool yes = !t.wrong && !t.silent && !t.unknown;
    if (json) {
        json_t *all = to_json(&x, yes);
        if (all && repairs)
            json_object_set(all, "repairs", repairs);
        rc = field_print(all, false);
    } else {
        bool colours = text_colours(STDOUT_FILENO);
        print_table(&x, colours);
        print_details(&x, colours);
        print_summary(&x, &t, o.scrub, colours);
    }
    json_decref(repairs);
    compare_free(&x);
    return rc ? rc : yes ? CTL_OK : CTL_NO;
}

const struct command cmd_verify = {
    .name = "verify",
    .usage = "[DB] [--repair] [--json] [--quick] [--wait 10s] [--timeout 1h]",
    .summary = "is every database the same on every node, and undamaged?",
    .help = "Compares the checksum of each database on each node with the primary's, all at the same position of the log, while writing goes\n"
            "on. Then every node reads all its pages and compares them with their checksums. Where databases differ, the pages that do are\n"
            "listed. Exit code 0: all is in order; 1: something differs, is missing or damaged, or a node could not be compared.\n\n"
            "  DB              only this database\n"
            "  --repair        then mend what is not in order: damaged pages from another node, what differs or is missing on a replica from the primary; and\n"
            "                  look once more\n"
            "  --json          {\"epoch\", \"lsn\", \"identical\", \"primary\", \"nodes\", \"databases\":[{\"name\", \"nodes\":{NODE:{\"result\", …}}}]}\n"
            "  --quick         do not read the pages, only compare the checksums that the nodes keep\n"
            "  --wait TIME     how long a node that lags may take to reach the position (default 10s)\n"
            "  --timeout TIME  how long a node may read one database (default 1h)\n",
    .run = run,
};
