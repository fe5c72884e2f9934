#include "ctl/cluster.h"
#include "ctl/field.h"
#include "ctl/options.h"
#include "ctl/table.h"
#include "ctl/text.h"
#include "lib/util.h"
#include <inttypes.h>

static enum table_style state_style(const char *state)
{
    return !strcmp(state, "ok") ? TABLE_PLAIN : !strcmp(state, "damaged") ? TABLE_BAD : TABLE_WARN;
}

static void row(struct table *t, const json_t *db)
{
    char buf[TEXT_NUMBER_MAX];
    const char *kind = field_text_or(db, "kind", "?"), *state = field_text_or(db, "state", "?");
    bool other = strcmp(kind, "database") != 0;
    table_cell(t, TABLE_PLAIN, "%s", field_text_or(db, "name", "?"));
    table_cell(t, TABLE_PLAIN, "%s", text_size(field_u64_or(db, "bytes", 0), buf));
    if (other) {
        table_cell(t, TABLE_DIM, "-");
        table_cell(t, TABLE_DIM, "not replicated");
        for (int i = 0; i < 4; i++)
            table_cell(t, TABLE_DIM, "-");
    } else {
        table_cell(t, TABLE_PLAIN, "%s", field_text_or(db, "mode", "?"));
        table_cell(t, state_style(state), "%s", state);
        table_cell(t, TABLE_PLAIN, "%" PRIu64, field_u64_or(db, "page_size", 0));
        table_cell(t, TABLE_PLAIN, "%" PRIu64, field_u64_or(db, "pages", 0));
        table_cell(t, TABLE_PLAIN, "%" PRIu64, field_u64_or(db, "txid", 0));
        table_cell(t, TABLE_PLAIN, "%s", field_text_or(db, "checksum", "-"));
    }
    table_cell(t, TABLE_PLAIN, "%s", field_true(db, "open") ? "open" : "");
    table_end_row(t);
}

static void print(const json_t *answer)
{
    bool colours = text_colours(STDOUT_FILENO);
    struct table *t = table_new(colours);
    static const struct {
        const char *head;
        bool right;
    } columns[] = {{"NAME", false}, {"SIZE", true},  {"MODE", false},     {"STATE", false}, {"PAGE", true},
                   {"PAGES", true}, {"TXID", true}, {"CHECKSUM", false}, {"", false}};
    for (size_t i = 0; i < ARRAY_SIZE(columns); i++)
        table_column(t, columns[i].head, columns[i].right);
    const json_t *list = json_object_get(answer, "databases");
    size_t i, n = json_array_size(list);
    for (i = 0; i < n; i++)
        row(t, json_array_get(list, i));
    table_print(t, stdout, 0);
    table_free(t);
    bool any = false;
    for (i = 0; i < n; i++) {
        const json_t *db = json_array_get(list, i);
        const char *warning = field_text(db, "warning");
        if (!warning)
            continue;
        if (!any)
            printf("\n%sWarnings%s\n", table_style_begin(TABLE_BOLD, colours), table_style_end(TABLE_BOLD, colours));
        any = true;
        _cleanup_free_ char *name = text_printable(field_text_or(db, "name", "?")), *text = text_printable(warning);
        printf("  %s%s: %s%s\n", table_style_begin(TABLE_WARN, colours), name ? name : "?", text ? text : "?",
               table_style_end(TABLE_WARN, colours));
    }
}

static int run(struct cluster *c, int argc, char **argv)
{
    bool json = false;
    const struct option options[] = {{"--json", OPTION_FLAG, &json, 0, 0}};
    int n, status, rc = options_parse(&cmd_databases, options, ARRAY_SIZE(options), argc, argv, 0, 0, &n);
    if (rc)
        return rc;
    struct err e;
    _cleanup_free_ char *url = NULL;
    json_t *answer = NULL;
    if (cluster_one(c, &url, &e))
        return ctl_fail_err(&e);
    struct request r = {.url = url, .path = "/v1/databases"};
    if (cluster_ask(c, &r, &status, &answer, &e)) {
        json_decref(answer);
        return ctl_fail_err(&e);
    }
    if (json)
        return field_print(answer, false);
    print(answer);
    json_decref(answer);
    return CTL_OK;
}

const struct command cmd_databases = {
    .name = "databases",
    .usage = "[--json]",
    .summary = "the databases of one node",
    .help = "One node's view: with --url that of another one. A file that is no SQLite database is listed as \"not replicated\".\n\n"
            "  --json  what /v1/databases says\n",
    .run = run,
};
