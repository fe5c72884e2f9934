#include "ctl/quarantine.h"

#include "ctl/field.h"
#include "ctl/localfile.h"
#include "ctl/options.h"
#include "ctl/table.h"
#include "ctl/text.h"
#include "lib/util.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

int quarantine_get_list(struct cluster *c, const char *url, json_t **out, struct err *e)
{
    int status, rc;
    struct request r = {.url = url, .path = "/v1/quarantine"};
    rc = cluster_ask(c, &r, &status, out, e);
    if (!rc && !json_is_array(json_object_get(*out, "quarantine")))
        rc = err_set(e, ERR_REMOTE, "%s: the answer of /v1/quarantine lacks what it should have", url);
    return rc;
}

static int run_ls(struct cluster *c, const char *url, bool as_json)
{
    struct err e;
    json_t *answer = NULL, *item;
    size_t i;
    if (quarantine_get_list(c, url, &answer, &e)) {
        json_decref(answer);
        return ctl_fail_err(&e);
    }
    if (as_json) {
        json_dumpf(answer, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(answer);
        return CTL_OK;
    }
    struct table *t = table_new(text_colours(STDOUT_FILENO));
    table_column(t, "FILE", false);
    table_column(t, "DATABASE", false);
    table_column(t, "KIND", false);
    table_column(t, "EPOCH", true);
    table_column(t, "LSN", true);
    table_column(t, "TXIDS", true);
    table_column(t, "SIZE", true);
    table_column(t, "KEPT AT", false);
    json_array_foreach(json_object_get(answer, "quarantine"), i, item)
    {
        char buf[TEXT_NUMBER_MAX];
        uint64_t min, max;
        table_cell(t, TABLE_PLAIN, "%s", field_text_or(item, "file", "?"));
        table_cell(t, TABLE_PLAIN, "%s", field_text_or(item, "name", "?"));
        table_cell(t, TABLE_PLAIN, "%s", field_text_or(item, "kind", "?"));
        table_cell(t, TABLE_PLAIN, "%" PRIu64, field_u64_or(item, "epoch", 0));
        table_cell(t, TABLE_PLAIN, "%" PRIu64, field_u64_or(item, "lsn", 0));
        if (field_u64(item, "min_txid", &min) && field_u64(item, "max_txid", &max))
            table_cell(t, TABLE_PLAIN, min == max ? "%" PRIu64 : "%" PRIu64 "-%" PRIu64, min, max);
        else
            table_cell(t, TABLE_DIM, "-");
        table_cell(t, TABLE_PLAIN, "%s", text_size(field_u64_or(item, "bytes", 0), buf));
        table_cell(t, TABLE_PLAIN, "%s", field_text_or(item, "time", "?"));
        table_end_row(t);
    }
    table_print(t, stdout, 0);
    table_free(t);
    json_decref(answer);
    return CTL_OK;
}

static int take(void *ctx, const void *p, size_t n, struct err *e)
{
    return localfile_write(ctx, p, n, e);
}

static int fetch_one(struct cluster *c, const char *url, const char *file, const char *to, struct err *e)
{
    int status;
    struct localfile f;
    _cleanup_free_ char *name = cluster_escape(file);
    _cleanup_free_ char *path = name ? cluster_path("/v1/quarantine/%s", name) : NULL;
    int rc = path ? localfile_create(to, &f, e) : err_errno(e, ENOMEM, "quarantine");
    if (rc)
        return rc;
    struct request r = {.url = url, .path = path};
    struct download d = {.sink = take, .ctx = &f};
    rc = cluster_download(c, &r, &d, &status, e);
    if (!rc)
        return localfile_commit(&f, false, true, e);
    localfile_abort(&f);
    return rc == ERR_REMOTE && status == 404 ? -ENOENT : rc;
}

int quarantine_fetch(struct cluster *c, const char *url, const char *file, const char *to, struct err *e)
{
    size_t n = strlen(file);
    int rc = fetch_one(c, url, file, to, e);
    if (!rc && n > 3 && !strcmp(file + n - 3, ".db")) { /* with its WAL, if it has one: SQLite looks for it under that name */
        char wal[600], to_wal[4096];
        snprintf(wal, sizeof wal, "%.500s-wal", file);
        snprintf(to_wal, sizeof to_wal, "%s-wal", to);
        rc = fetch_one(c, url, wal, to_wal, e);
        rc = rc == -ENOENT ? 0 : rc;
    }
    return rc;
}

static int run_export(struct cluster *c, const char *url, const char *file, const char *to)
{
    struct err e;
    int rc = quarantine_fetch(c, url, file, to, &e);
    if (rc == -ENOENT)
        return ctl_fail(CTL_REFUSED, "%s: nothing of that name is in quarantine there; `%s quarantine ls` lists it", file, CTL_PROGRAM);
    return rc ? ctl_fail_err(&e) : CTL_OK;
}

static int drop_one(struct cluster *c, const char *url, const char *file)
{
    struct err e;
    int status;
    json_t *answer = NULL;
    _cleanup_free_ char *name = cluster_escape(file);
    _cleanup_free_ char *path = name ? cluster_path("/v1/quarantine/%s", name) : NULL;
    struct request r = {.method = "DELETE", .url = url, .path = path};
    int rc = path ? cluster_ask(c, &r, &status, &answer, &e) : err_errno(&e, ENOMEM, "quarantine");
    json_decref(answer);
    return rc ? ctl_fail_err(&e) : CTL_OK;
}

static int run_drop(struct cluster *c, const char *url, char **files, int n, bool all)
{
    if (all == (n > 0))
        return ctl_fail(CTL_USAGE, "quarantine drop: name files, or say --all");
    int rc = CTL_OK;
    for (int i = 0; i < n && rc == CTL_OK; i++)
        rc = drop_one(c, url, files[i]);
    if (!all)
        return rc;
    struct err e;
    json_t *answer = NULL, *item;
    size_t i;
    if (quarantine_get_list(c, url, &answer, &e))
        rc = ctl_fail_err(&e);
    json_array_foreach(json_object_get(answer, "quarantine"), i, item)
    {
        if (rc == CTL_OK)
            rc = drop_one(c, url, field_text_or(item, "file", "?"));
    }
    json_decref(answer);
    return rc;
}

static int run(struct cluster *c, int argc, char **argv)
{
    bool as_json = false, all = false;
    uint64_t limit = 20;
    const struct option options[] = {
        {"--json", OPTION_FLAG, &as_json, 0, 0}, {"--all", OPTION_FLAG, &all, 0, 0}, {"--limit", OPTION_NUMBER, &limit, 0, UINT64_MAX}};
    int n, rc = options_parse(&cmd_quarantine, options, ARRAY_SIZE(options), argc, argv, 1, 1000, &n);
    if (rc)
        return rc;
    bool ls = !strcmp(argv[1], "ls"), show = !strcmp(argv[1], "show"), export = !strcmp(argv[1], "export"), drop = !strcmp(argv[1], "drop");
    if ((!ls && !show && !export && !drop) || (ls && n != 1) || (export && n != 3))
        return ctl_fail(CTL_USAGE, "quarantine: ls, show [FILE…], export FILE TO, or drop FILE…; `%s help quarantine` says more", CTL_PROGRAM);
    struct err e;
    _cleanup_free_ char *url = NULL;
    if (cluster_one(c, &url, &e))
        return ctl_fail_err(&e);
    if (ls)
        return run_ls(c, url, as_json);
    if (show)
        return quarantine_show(c, url, argv + 2, n - 1, limit, as_json);
    return export ? run_export(c, url, argv[2], argv[3]) : run_drop(c, url, argv + 2, n - 1, all);
}

const struct command cmd_quarantine = {
    .name = "quarantine",
    .usage = "ls [--json] | show [FILE…] [--limit N] [--json] | export FILE TO | drop FILE… | drop --all",
    .summary = "what a node had that the cluster's history has not",
    .help = "A node that was primary, and whose last transactions nobody else had when another one took over, keeps them when it comes back:\n"
            "each record as an LTX file, and the databases as they were. Nothing deletes them but `drop`.\n"
            "Concerns the node itself (--url), not the cluster.\n\n"
            "  ls            lists them; --json: as the API has it\n"
            "  show          the rows in which databases in quarantine differ from those that the node has now; FILE: only this one, or the\n"
            "                database that this record belongs to. Tables are compared by rowid or primary key\n"
            "  --limit N     how many rows of each kind `show` prints for a table (20; 0: all)\n"
            "  export        writes one to a new local file (a database with its WAL, as TO and TO-wal)\n"
            "  drop          deletes them; --all: every one\n",
    .run = run,
};
