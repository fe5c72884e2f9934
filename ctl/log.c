#include "ctl/log.h"

#include "ctl/field.h"
#include "ctl/options.h"
#include "ctl/table.h"
#include "ctl/text.h"
#include "lib/util.h"
#include <errno.h>
#include <inttypes.h>

#define LS_DEFAULT 50
#define LS_MAX 1000000

static int get_page(struct cluster *c, const char *url, uint64_t from, uint64_t limit, json_t **out, struct err *e)
{
    _cleanup_free_ char *path = from ? cluster_path("/v1/log?from=%" PRIu64 "&limit=%" PRIu64, from, limit)
                                     : cluster_path("/v1/log?limit=%" PRIu64, limit);
    if (!path)
        return err_errno(e, ENOMEM, "log");
    int status;
    struct request r = {.url = url, .path = path};
    int rc = cluster_ask(c, &r, &status, out, e);
    if (rc) {
        json_decref(*out);
        *out = NULL;
        return rc;
    }
    uint64_t n;
    if (field_u64(*out, "first_lsn", &n) && field_u64(*out, "last_lsn", &n) && json_is_array(field_get(*out, "records")))
        return 0;
    json_decref(*out);
    *out = NULL;
    return err_set(e, ERR_REMOTE, "%s: the answer of /v1/log lacks what it should have", url);
}

int log_bounds_get(struct cluster *c, const char *url, struct log_bounds *b, struct err *e)
{
    json_t *page;
    int rc = get_page(c, url, 0, 1, &page, e);
    if (rc)
        return rc;
    b->first = field_u64_or(page, "first_lsn", 0);
    b->last = field_u64_or(page, "last_lsn", 0);
    json_decref(page);
    return 0;
}

int log_check_from(const struct log_bounds *b, uint64_t from, struct err *e)
{
    if (from >= b->first)
        return 0;
    return err_set(e, ERR_GONE, "LSN %" PRIu64 " is no longer kept: the log begins at LSN %" PRIu64, from, b->first);
}

int log_each(struct cluster *c, const char *url, uint64_t from, uint64_t to, int (*fn)(const json_t *records, void *ctx, struct err *e),
             void *ctx, struct err *e)
{
    while (from <= to) {
        json_t *page;
        uint64_t limit = MIN(to - from + 1, (uint64_t)LOG_PAGE), last;
        int rc = get_page(c, url, from, limit, &page, e);
        if (rc)
            return rc;
        const json_t *records = field_get(page, "records");
        size_t n = json_array_size(records);
        if (n == 0) {
            json_decref(page);
            return err_set(e, ERR_GONE, "LSN %" PRIu64 " is not in the log any more", from);
        }
        uint64_t begins;
        bool whole = n <= limit && field_u64(json_array_get(records, 0), "lsn", &begins) && begins >= from &&
                     field_u64(json_array_get(records, n - 1), "lsn", &last) && last == begins + n - 1;
        if (!whole) /* also what keeps a confused server from holding us here for ever */
            rc = err_set(e, ERR_REMOTE, "%s: /v1/log?from=%" PRIu64 " answered with other records", url, from);
        else if (begins > from)
            rc = err_set(e, ERR_GONE, "LSN %" PRIu64 " was deleted meanwhile: the log begins at LSN %" PRIu64 " now", from, begins);
        else
            rc = fn(records, ctx, e);
        json_decref(page);
        if (rc)
            return rc;
        from = last + 1;
    }
    return 0;
}

/* ---- ls ---------------------------------------------------------------------------------------------------- */

struct listing {
    struct table *table; /* or … */
    json_t *all;
};

static void row(struct table *t, const json_t *r)
{
    char buf[TEXT_NUMBER_MAX];
    uint64_t min, max, pages;
    const char *type = field_text_or(r, "type", "?");
    table_cell(t, TABLE_PLAIN, "%" PRIu64, field_u64_or(r, "lsn", 0));
    table_cell(t, TABLE_PLAIN, "%" PRIu64, field_u64_or(r, "epoch", 0));
    table_cell(t, !strcmp(type, "tx") ? TABLE_PLAIN : TABLE_WARN, "%s", type);
    table_cell(t, TABLE_DIM, "%s", field_text_or(r, "time", ""));
    bool range = field_u64(r, "min_txid", &min) && field_u64(r, "max_txid", &max);
    if (range && min != max)
        table_cell(t, TABLE_PLAIN, "%" PRIu64 "-%" PRIu64, min, max);
    else if (range)
        table_cell(t, TABLE_PLAIN, "%" PRIu64, min);
    else
        table_cell(t, TABLE_PLAIN, "%s", "");
    if (field_u64(r, "pages", &pages))
        table_cell(t, TABLE_PLAIN, "%" PRIu64, pages);
    else
        table_cell(t, TABLE_PLAIN, "%s", "");
    table_cell(t, TABLE_PLAIN, "%s", text_size(field_u64_or(r, "payload", 0), buf));
    const char *to = field_text(r, "to"), *primary = field_text(r, "primary"); /* of a rename, of an epoch */
    table_cell(t, TABLE_PLAIN, "%s%s%s%s%s", field_text_or(r, "name", ""), to ? " → " : "", to ? to : "", primary ? "primary " : "",
               primary ? primary : "");
    table_end_row(t);
}

static int collect(const json_t *records, void *ctx, struct err *e)
{
    struct listing *l = ctx;
    (void)e;
    for (size_t i = 0; i < json_array_size(records); i++) {
        if (l->all)
            json_array_append(l->all, json_array_get(records, i));
        else
            row(l->table, json_array_get(records, i));
    }
    return 0;
}

static struct table *new_table(void)
{
    static const struct {
        const char *head;
        bool right;
    } columns[] = {{"LSN", true},  {"EPOCH", true}, {"TYPE", false}, {"TIME", false},
                   {"TXID", true}, {"PAGES", true}, {"SIZE", true},  {"DATABASE", false}};
    struct table *t = table_new(text_colours(STDOUT_FILENO));
    for (size_t i = 0; i < ARRAY_SIZE(columns); i++)
        table_column(t, columns[i].head, columns[i].right);
    return t;
}

static int ls(struct cluster *c, int argc, char **argv)
{
    bool json = false;
    uint64_t from = 0, limit = LS_DEFAULT;
    const struct option options[] = {
        {"--from", OPTION_NUMBER, &from, 1, INT64_MAX},
        {"--limit", OPTION_NUMBER, &limit, 1, LS_MAX},
        {"--json", OPTION_FLAG, &json, 0, 0},
    };
    int n, rc = options_parse(&cmd_log, options, ARRAY_SIZE(options), argc, argv, 0, 0, &n);
    if (rc)
        return rc;
    struct err e;
    struct log_bounds b;
    _cleanup_free_ char *url = NULL;
    if (cluster_one(c, &url, &e) || log_bounds_get(c, url, &b, &e) || (from && log_check_from(&b, from, &e)))
        return ctl_fail_err(&e);
    if (!from) /* the newest ones */
        from = b.last - b.first + 1 > limit ? b.last - limit + 1 : b.first;
    uint64_t to = b.last < from ? b.last : MIN(b.last, from + limit - 1);
    struct listing l = {.all = json ? json_array() : NULL, .table = json ? NULL : new_table()};
    if (log_each(c, url, from, to, collect, &l, &e)) {
        json_decref(l.all);
        table_free(l.table);
        return ctl_fail_err(&e);
    }
    if (json)
        return field_print(json_pack("{s:I, s:I, s:o}", "first_lsn", (json_int_t)b.first, "last_lsn", (json_int_t)b.last, "records",
                                     l.all),
                           false);
    table_print(l.table, stdout, 0);
    table_free(l.table);
    return CTL_OK;
}

static int run(struct cluster *c, int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "ls"))
        return ls(c, argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "export"))
        return log_export(c, argc - 1, argv + 1);
    return ctl_fail(CTL_USAGE, "log: say `%s log ls` or `%s log export`; `%s help log` explains", CTL_PROGRAM, CTL_PROGRAM,
                    CTL_PROGRAM);
}

const struct command cmd_log = {
    .name = "log",
    .usage = "ls [--from N] [--limit M] [--json] | export [--from N] [--to M] DIR",
    .summary = "list the records of the replication log, or export them as LTX files",
    .help = "log ls      the newest records, or those from an LSN on\n"
            "  --from N    first LSN\n"
            "  --limit M   at most so many records (default 50)\n"
            "  --json      {\"first_lsn\", \"last_lsn\", \"records\"} as /v1/log says\n\n"
            "log export  one LTX file for each record of transactions: DIR/NAME/MINTXID-MAXTXID.ltx, 16 hex digits each; a / in the name of the\n"
            "            database is written %2F, a % is %25. A file that is there with the same size is kept, with another one it is an error.\n"
            "  --from N    first LSN (default: all that are kept)\n"
            "  --to M      last LSN (default: the last one now)\n",
    .run = run,
};
