#include "ctl/quarantine.h"

#include "ctl/field.h"
#include "ctl/localfile.h"
#include "ctl/rowdiff.h"
#include "ctl/subcommands.h"
#include "ctl/text.h"
#include "lib/util.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SILENCE_MS 600000 /* the node makes a snapshot before the first byte */
#define VALUE_WIDTH 40    /* columns of a value on the screen */

static int take(void *ctx, const void *p, size_t n, struct err *e)
{
    return localfile_write(ctx, p, n, e);
}

/* The node's database as it is now. -ENOENT: it has none of that name. */
static int fetch_current(struct cluster *c, const char *url, const char *name, const char *to, struct err *e)
{
    struct localfile f;
    int status;
    _cleanup_free_ char *escaped = cluster_escape(name);
    _cleanup_free_ char *path = escaped ? cluster_path("/v1/databases/%s/image?format=sqlite", escaped) : NULL;
    int rc = path ? localfile_create(to, &f, e) : err_errno(e, ENOMEM, "quarantine");
    if (rc)
        return rc;
    struct request r = {.url = url, .path = path, .timeout_ms = SILENCE_MS};
    struct download d = {.sink = take, .ctx = &f};
    rc = cluster_download(c, &r, &d, &status, e);
    if (!rc)
        return localfile_commit(&f, false, false, e);
    localfile_abort(&f);
    return rc == ERR_REMOTE && status == 404 ? -ENOENT : rc;
}

/* A folder of our own for both states; what SQLite puts beside them goes with it. */
static void remove_folder(const char *folder)
{
    static const char *const names[] = {"kept", "kept-wal", "kept-shm", "now", "now-wal", "now-shm"};
    char path[4096];
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        (void)unlink(path); /* most of them do not exist */
    }
    (void)rmdir(folder);
}

/* {"file", "name", "epoch", "lsn", "present": whether the node has a database of that name now, "tables": rowdiff's}. */
static int compare(struct cluster *c, const char *url, const json_t *item, uint64_t limit, json_t **out, struct err *e)
{
    const char *file = field_text_or(item, "file", ""), *name = field_text_or(item, "name", ""), *tmp = getenv("TMPDIR");
    char folder[2048], kept[2100], now[2100];
    json_t *tables = NULL;
    snprintf(folder, sizeof folder, "%.2000s/edgefs-ctl-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(folder))
        return err_errno(e, errno, "make %s", folder);
    snprintf(kept, sizeof kept, "%s/kept", folder);
    snprintf(now, sizeof now, "%s/now", folder);
    int rc = quarantine_fetch(c, url, file, kept, e), current = rc ? 0 : fetch_current(c, url, name, now, e);
    if (current && current != -ENOENT)
        rc = current;
    if (!rc)
        rc = rowdiff(kept, current ? NULL : now, limit, &tables, e);
    remove_folder(folder);
    if (rc)
        return rc;
    *out = json_pack("{s:s,s:s,s:I,s:I,s:b,s:o}", "file", file, "name", name, "epoch", (json_int_t)field_u64_or(item, "epoch", 0), "lsn",
                     (json_int_t)field_u64_or(item, "lsn", 0), "present", !current, "tables", tables);
    return *out ? 0 : err_errno(e, ENOMEM, "quarantine");
}

/* ---- on the screen ---- */

static void print_value(const json_t *v)
{
    char *dumped = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    char *shown = dumped ? text_printable(dumped) : NULL;
    size_t n = shown ? text_prefix(shown, VALUE_WIDTH) : 0;
    printf("%.*s%s", (int)n, shown ? shown : "", shown && shown[n] ? "…" : "");
    free(shown);
    free(dumped);
}

static void print_values(const json_t *o, const json_t *other)
{
    const char *column;
    json_t *v;
    json_object_foreach((json_t *)o, column, v)
    {
        _cleanup_free_ char *shown = text_printable(column);
        printf("  %s=", shown ? shown : "?");
        print_value(v);
        if (other) {
            printf(" → ");
            print_value(json_object_get(other, column));
        }
    }
}

/* Columns of the row that are not in its key anyway. */
static void print_row(const json_t *row)
{
    const char *kind = field_text_or(row, "kind", "");
    bool changed = !strcmp(kind, "changed");
    printf("    %s", changed ? "~" : !strcmp(kind, "only_first") ? "-" : "+");
    print_values(json_object_get(row, "key"), NULL);
    if (changed) {
        printf(" :");
        print_values(json_object_get(row, "first"), json_object_get(row, "second"));
    } else {
        print_values(json_object_get(row, "row"), NULL);
    }
    putchar('\n');
}

static void print_table(const json_t *t)
{
    size_t i;
    json_t *row;
    uint64_t first = field_u64_or(t, "only_first", 0), second = field_u64_or(t, "only_second", 0), changed = field_u64_or(t, "changed", 0);
    _cleanup_free_ char *name = text_printable(field_text_or(t, "table", "?"));
    printf("  %s: %" PRIu64 " only in quarantine (-), %" PRIu64 " only in the database of now (+), %" PRIu64 " differ (~)%s\n", name ? name : "?", first, second,
           changed, field_true(t, "schema") ? "; the table was declared differently" : "");
    json_array_foreach(json_object_get(t, "rows"), i, row)
    {
        print_row(row);
    }
    uint64_t all = first + second + changed, shown = json_array_size(json_object_get(t, "rows"));
    if (all > shown)
        printf("    … and %" PRIu64 " more (--limit 0 shows all)\n", all - shown);
}

static void print_comparison(const json_t *o)
{
    size_t i;
    json_t *t;
    _cleanup_free_ char *name = text_printable(field_text_or(o, "name", "?")), *file = text_printable(field_text_or(o, "file", "?"));
    printf("%s as of epoch %" PRIu64 ", LSN %" PRIu64 " (%s)%s\n", name ? name : "?", field_u64_or(o, "epoch", 0), field_u64_or(o, "lsn", 0), file ? file : "?",
           field_true(o, "present") ? "" : ": there is no such database now");
    json_array_foreach(json_object_get(o, "tables"), i, t)
    {
        print_table(t);
    }
    if (!json_array_size(json_object_get(o, "tables")))
        printf("  no row differs\n");
}

/* ---- which ---- */

/* The database in quarantine that holds what the record (or database) `file` did: of the same name and epoch, the first one from its LSN on. */
static const json_t *database_of(const json_t *list, const char *file)
{
    size_t i;
    json_t *item;
    const json_t *wanted = NULL, *best = NULL;
    json_array_foreach((json_t *)list, i, item)
    {
        if (!strcmp(field_text_or(item, "file", ""), file))
            wanted = item;
    }
    json_array_foreach((json_t *)list, i, item)
    {
        uint64_t lsn = field_u64_or(item, "lsn", 0);
        if (wanted && !strcmp(field_text_or(item, "kind", ""), "database") && !strcmp(field_text_or(item, "name", ""), field_text_or(wanted, "name", "?")) &&
            field_u64_or(item, "epoch", 0) == field_u64_or(wanted, "epoch", 0) && lsn >= field_u64_or(wanted, "lsn", 0) &&
            (!best || lsn < field_u64_or(best, "lsn", 0)))
            best = item;
    }
    return best;
}

int quarantine_show(struct cluster *c, const char *url, char **files, int n_files, uint64_t limit, bool as_json)
{
    struct err e;
    json_t *answer = NULL, *found = json_array(), *o = NULL, *item;
    size_t at;
    if (quarantine_get_list(c, url, &answer, &e)) {
        json_decref(answer);
        json_decref(found);
        return ctl_fail_err(&e);
    }
    const json_t *list = json_object_get(answer, "quarantine");
    int rc = CTL_OK;
    for (int i = 0; i < n_files && rc == CTL_OK; i++) {
        const json_t *database = database_of(list, files[i]);
        if (!database)
            rc = ctl_fail(CTL_REFUSED, "%s: no database in quarantine there holds it; `%s quarantine ls` lists what there is", files[i], CTL_PROGRAM);
        else if (compare(c, url, database, limit, &o, &e))
            rc = ctl_fail_err(&e);
        else
            json_array_append_new(found, o);
    }
    json_array_foreach((json_t *)list, at, item)
    {
        if (n_files || rc != CTL_OK || strcmp(field_text_or(item, "kind", ""), "database") != 0)
            continue;
        if (compare(c, url, item, limit, &o, &e))
            rc = ctl_fail_err(&e);
        else
            json_array_append_new(found, o);
    }
    json_decref(answer);
    if (rc == CTL_OK && as_json) {
        rc = field_print(json_pack("{s:O}", "quarantine", found), false);
    } else if (rc == CTL_OK) {
        json_array_foreach(found, at, item)
        {
            print_comparison(item);
        }
    }
    json_decref(found);
    return rc;
}
