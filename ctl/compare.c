#include "ctl/compare.h"

#include "ctl/field.h"
#include "ctl/progress.h"
#include "lib/filter.h"
#include "lib/util.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#define POSITION_TRIES 5 /* new common positions, while a busy node has already forgotten the last one */
#define SCRUB_TRIES 5    /* until it is sure whether pages are bad or only busy */
#define SUMS_TRIES 5     /* until the checksums of two nodes are of one transaction */

struct work {
    struct cluster *c;
    const struct compare_options *o;
    struct comparison *x;
};

static void note(struct compared *cell, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void note(struct compared *cell, const char *fmt, ...)
{
    char *text = NULL, *joined = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        text = NULL;
    va_end(ap);
    if (cell->note && text && asprintf(&joined, "%s; %s", cell->note, text) >= 0) {
        free(text);
        text = joined;
    }
    if (text) {
        free(cell->note);
        cell->note = text;
    }
}

/* ---- one position ------------------------------------------------------------------------------------------ */

static void ask_databases(int i, void *ctx)
{
    struct work *w = ctx;
    struct compare_node *n = &w->x->per_node[i];
    if (!n->node->status) {
        n->why = n->node->code == -EHOSTUNREACH ? "unreachable" : "refused";
        err_set(&n->error, n->node->code, "%s", n->node->error);
        return;
    }
    _cleanup_free_ char *path = cluster_path("/v1/databases?lsn=%" PRIu64 "&wait_ms=%" PRIu64, w->x->lsn, w->o->wait_ms);
    if (!path) {
        n->why = "no memory";
        err_errno(&n->error, ENOMEM, "verify");
        return;
    }
    int status;
    struct request r = {.url = n->node->url, .path = path, .timeout_ms = w->o->wait_ms + CLUSTER_ANSWER_MS};
    int rc = cluster_ask(w->c, &r, &status, &n->answer, &n->error);
    n->why = NULL;
    if (!rc && !json_is_array(json_object_get(n->answer, "databases")))
        rc = err_set(&n->error, ERR_REMOTE, "%s: no list of databases in its answer", n->node->url);
    if (!rc)
        return;
    json_decref(n->answer);
    n->answer = NULL;
    n->why = rc == -EHOSTUNREACH ? "unreachable" : status == 408 ? "behind" : status == 410 ? "too old" : "refused";
}

static bool too_old(const struct compare_node *n)
{
    return n->why && !strcmp(n->why, "too old");
}

/* All nodes at the LSN that the primary has now. A node that already forgot that LSN (410) wants a newer one. */
static int take_position(struct work *w, struct err *e)
{
    struct comparison *x = w->x;
    const struct node *primary = &x->nodes.items[0];
    for (int try = 0; try < POSITION_TRIES; try++) {
        json_t *answer;
        int status;
        struct request r = {.url = primary->url, .path = "/v1/status", .timeout_ms = CLUSTER_ANSWER_MS};
        int rc = cluster_ask(w->c, &r, &status, &answer, e);
        if (!rc && (!field_u64(answer, "lsn", &x->lsn) || !field_u64(answer, "epoch", &x->epoch)))
            rc = err_set(e, ERR_REMOTE, "%s: no LSN in its /v1/status", primary->url);
        json_decref(answer);
        if (rc)
            return rc;
        for (int i = 0; i < x->nodes.n; i++) {
            json_decref(x->per_node[i].answer);
            x->per_node[i].answer = NULL;
        }
        cluster_each(x->nodes.n, ask_databases, w);
        bool again = false;
        for (int i = 0; i < x->nodes.n; i++)
            again = again || too_old(&x->per_node[i]);
        if (!again)
            break;
    }
    struct compare_node *p = &x->per_node[0];
    return p->answer ? 0 : err_set(e, p->error.code, "%s", p->error.text);
}

/* ---- which databases --------------------------------------------------------------------------------------- */

static bool is_database(const json_t *db)
{
    return field_text(db, "name") && !strcmp(field_text_or(db, "kind", "database"), "database");
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int collect_names(struct work *w, struct err *e)
{
    struct comparison *x = w->x;
    size_t total = 0, n = 0;
    for (int i = 0; i < x->nodes.n; i++)
        total += json_array_size(json_object_get(x->per_node[i].answer, "databases"));
    x->names = calloc(total + 1, sizeof *x->names);
    if (!x->names)
        return err_errno(e, ENOMEM, "verify");
    for (int i = 0; i < x->nodes.n; i++) {
        size_t j;
        json_t *db;
        json_array_foreach(json_object_get(x->per_node[i].answer, "databases"), j, db) {
            if (!is_database(db) || (w->o->only && strcmp(w->o->only, field_text(db, "name"))))
                continue;
            if (!(x->names[n] = strdup(field_text(db, "name"))))
                return err_errno(e, ENOMEM, "verify");
            x->n_names = (int)++n;
        }
    }
    qsort(x->names, n, sizeof *x->names, by_text);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (kept && !strcmp(x->names[kept - 1], x->names[i]))
            free(x->names[i]);
        else
            x->names[kept++] = x->names[i];
    }
    x->n_names = (int)kept;
    if (!kept && w->o->only)
        return err_set(e, ERR_REMOTE, "no node has a database called \"%.200s\"; `edgefs-ctl databases` lists them", w->o->only);
    x->cells = calloc(kept * (size_t)x->nodes.n + 1, sizeof *x->cells);
    return x->cells ? 0 : err_errno(e, ENOMEM, "verify");
}

static struct compared *cell_of(const struct comparison *x, int name, int node)
{
    return &x->cells[(size_t)name * (size_t)x->nodes.n + (size_t)node];
}

static void place_databases(struct comparison *x)
{
    for (int i = 0; i < x->nodes.n; i++) {
        size_t j;
        json_t *db;
        json_array_foreach(json_object_get(x->per_node[i].answer, "databases"), j, db) {
            const char *name = field_text(db, "name");
            char **at = is_database(db) ? bsearch(&name, x->names, (size_t)x->n_names, sizeof name, by_text) : NULL;
            if (at)
                cell_of(x, (int)(at - x->names), i)->db = db;
        }
    }
}

/* ---- comparing --------------------------------------------------------------------------------------------- */

/* What differs between a and b, in words; NULL: nothing that matters. */
static const char *difference(const json_t *a, const json_t *b)
{
    const char *x = field_text(a, "checksum"), *y = field_text(b, "checksum");
    if (!x || !y)
        return "no checksum";
    if (field_u64_or(a, "page_size", 0) != field_u64_or(b, "page_size", 0))
        return "page size";
    if (field_u64_or(a, "pages", 0) != field_u64_or(b, "pages", 0))
        return "number of pages";
    if (strcmp(x, y))
        return "contents";
    return field_u64_or(a, "txid", 0) != field_u64_or(b, "txid", 0) ? "transaction number" : NULL;
}

/* Whether a node that has no database of that name says that it is not to have it. */
static bool not_wanted(const json_t *answer, const char *name)
{
    const json_t *filter = json_object_get(answer, "filter");
    struct filter f;
    if (!json_is_object(filter))
        return false;
    snprintf(f.include, sizeof f.include, "%s", field_text_or(filter, "include", ""));
    snprintf(f.exclude, sizeof f.exclude, "%s", field_text_or(filter, "exclude", ""));
    return !filter_wants(&f, name);
}

static void judge(struct comparison *x, int name)
{
    struct compared *primary = cell_of(x, name, 0);
    for (int i = 0; i < x->nodes.n; i++) {
        struct compared *cell = cell_of(x, name, i);
        if (!x->per_node[i].answer) {
            cell->verdict = VERDICT_UNKNOWN;
        } else if (!cell->db && primary->db && not_wanted(x->per_node[i].answer, x->names[name])) {
            cell->verdict = VERDICT_NOT_WANTED;
        } else if (!cell->db) {
            cell->verdict = i == 0 || primary->db ? VERDICT_MISSING : VERDICT_OK;
        } else if (!primary->db) {
            cell->verdict = VERDICT_EXTRA;
        } else {
            const char *what = i ? difference(primary->db, cell->db) : NULL;
            cell->verdict = what ? VERDICT_DIFFERS : VERDICT_OK;
            if (what)
                note(cell, "%s", what);
            const char *state = field_text_or(cell->db, "state", "ok"), *warning = field_text(cell->db, "warning");
            if (strcmp(state, "ok"))
                note(cell, "state %s%s%s", state, warning ? ": " : "", warning ? warning : "");
        }
    }
}

/* ---- reading the pages ------------------------------------------------------------------------------------- */

static void list_page(struct page_list *l, uint32_t page)
{
    if (l->count < COMPARE_PAGES_MAX)
        l->pages[l->count] = page;
    l->count++;
}

/* Pages that are in both; more than COMPARE_PAGES_MAX of them are estimated by the smaller count. */
static void intersect(struct page_list *l, const struct page_list *with)
{
    size_t n = (size_t)MIN(l->count, (uint64_t)COMPARE_PAGES_MAX), m = (size_t)MIN(with->count, (uint64_t)COMPARE_PAGES_MAX), kept = 0;
    uint64_t smaller = MIN(l->count, with->count);
    for (size_t i = 0, j = 0; i < n && j < m;) {
        if (l->pages[i] == with->pages[j])
            l->pages[kept++] = l->pages[i];
        if (l->pages[i] < with->pages[j])
            i++;
        else
            j++;
    }
    l->count = kept == COMPARE_PAGES_MAX ? smaller : kept;
}

enum scrub { SCRUB_CLEAN, SCRUB_BAD, SCRUB_UNUSABLE };

/* What /checksum says; the bad pages go to bad. */
static enum scrub scrub_answer(const json_t *answer, struct page_list *bad)
{
    const char *found = field_text(answer, "checksum"), *tracked = field_text(answer, "tracked");
    uint64_t count, in_flux = 0;
    bad->count = 0;
    if (!found || !tracked || !field_u64(answer, "bad_count", &count))
        return SCRUB_UNUSABLE;
    (void)field_u64(answer, "in_flux", &in_flux); /* pages that were being written: nothing can be said of them, nor of the whole */
    if (!count && (in_flux || !strcmp(found, tracked)))
        return SCRUB_CLEAN;
    size_t i;
    json_t *page;
    json_array_foreach(json_object_get(answer, "bad_pages"), i, page) {
        if (json_is_integer(page) && json_integer_value(page) > 0 && json_integer_value(page) <= UINT32_MAX)
            list_page(bad, (uint32_t)json_integer_value(page));
    }
    bad->count = MAX(count, (uint64_t)MIN(bad->count, (uint64_t)COMPARE_PAGES_MAX));
    return SCRUB_BAD;
}

static void not_checked(struct compared *cell, const char *why)
{
    cell->verdict = cell->verdict == VERDICT_OK ? VERDICT_UNKNOWN : cell->verdict;
    note(cell, "its pages were not checked: %s", why);
}

/* Lets a node read one database. While an application writes, pages and tracked checksums are not of the same moment, so what looks bad is looked
 * at again: a damaged page is bad each time, a busy one is not. A look during which nothing was committed is the answer. 0, or -EHOSTUNREACH
 * if the node is gone. */
static int scrub_database(struct work *w, const struct node *n, const char *name, struct compared *cell)
{
    _cleanup_free_ char *escaped = cluster_escape(name);
    _cleanup_free_ char *path = escaped ? cluster_path("/v1/databases/%s/checksum", escaped) : NULL;
    _cleanup_free_ struct page_list *bad = calloc(1, sizeof *bad), *now = calloc(1, sizeof *now);
    if (!path || !bad || !now) {
        not_checked(cell, "out of memory");
        return 0;
    }
    uint64_t txid = 0;
    bool stable = false;
    for (int try = 0; !stable && try < SCRUB_TRIES; try++) {
        int status;
        struct err e;
        json_t *answer;
        struct request r = {.url = n->url, .path = path, .timeout_ms = w->o->scrub_ms};
        int rc = cluster_ask(w->c, &r, &status, &answer, &e);
        enum scrub result = rc ? SCRUB_UNUSABLE : scrub_answer(answer, now);
        uint64_t at = rc ? 0 : field_u64_or(answer, "txid", 0);
        json_decref(answer);
        if (rc == ERR_REMOTE && status == 404) {
            note(cell, "removed while its pages were about to be read");
            return 0;
        }
        if (result == SCRUB_UNUSABLE) {
            not_checked(cell, rc ? e.text : "the answer has no result");
            return rc == -EHOSTUNREACH ? rc : 0;
        }
        cell->scrubbed = true;
        if (result == SCRUB_CLEAN)
            return 0;
        stable = try > 0 && at == txid; /* no commit since the end of the last look: this one is exact */
        if (try == 0 || stable)
            *bad = *now;
        else
            intersect(bad, now);
        txid = at;
    }
    if (!stable && !bad->count) {
        cell->scrubbed = false;
        not_checked(cell, "it was being written all the time");
        return 0;
    }
    cell->verdict = VERDICT_DAMAGED;
    cell->bad = steal_ptr(&bad);
    return 0;
}

static void scrub_node(int i, void *ctx)
{
    struct work *w = ctx;
    struct comparison *x = w->x;
    for (int j = 0; x->per_node[i].answer && j < x->n_names; j++) {
        struct compared *cell = cell_of(x, j, i);
        if (!cell->db)
            continue;
        int rc = scrub_database(w, &x->nodes.items[i], x->names[j], cell);
        progress_add(field_u64_or(cell->db, "bytes", 0));
        for (int k = j + 1; rc && k < x->n_names; k++) /* one time-out is enough for a node that is gone */
            if (cell_of(x, k, i)->db)
                not_checked(cell_of(x, k, i), "the node is gone");
        if (rc)
            break;
    }
}

static void scrub(struct work *w)
{
    struct comparison *x = w->x;
    uint64_t total = 0;
    for (int i = 0; i < x->n_names * x->nodes.n; i++)
        total += field_u64_or(x->cells[i].db, "bytes", 0);
    progress_begin("verify", total);
    cluster_each(x->nodes.n, scrub_node, w);
    progress_end();
}

/* ---- page by page ------------------------------------------------------------------------------------------ */

/* The page checksums of one node go to a file without a name, those of the other are compared with it as they come: memory does not grow
 * with the database. */
struct page_diff {
    FILE *base; /* the primary's, read from its beginning; owned */
    struct page_list *list;
    uint32_t page; /* the last that was compared */
    uint8_t part[8];
    size_t part_len;
};

static int save_sums(void *ctx, const void *p, size_t n, struct err *e)
{
    struct page_diff *d = ctx;
    return fwrite(p, 1, n, d->base) == n ? 0 : err_errno(e, errno, "temporary file");
}

static int compare_sums(void *ctx, const void *p, size_t n, struct err *e)
{
    struct page_diff *d = ctx;
    const uint8_t *at = p;
    (void)e;
    while (n) {
        size_t k = MIN(n, sizeof d->part - d->part_len);
        memcpy(d->part + d->part_len, at, k);
        d->part_len += k;
        at += k;
        n -= k;
        if (d->part_len < sizeof d->part)
            break;
        uint8_t base[8];
        bool same = fread(base, sizeof base, 1, d->base) == 1 && !memcmp(base, d->part, sizeof base);
        d->part_len = 0;
        d->page++;
        if (!same)
            list_page(d->list, d->page);
    }
    return 0;
}

static int get_sums(struct work *w, const struct node *n, const char *path, struct page_diff *diff, cluster_sink sink,
                    char position[40], struct err *e)
{
    int status;
    struct request r = {.url = n->url, .path = path, .timeout_ms = CLUSTER_ANSWER_MS};
    struct download d = {.sink = sink, .ctx = diff};
    int rc = cluster_download(w->c, &r, &d, &status, e);
    memcpy(position, d.position, sizeof d.position);
    return rc;
}

/* One try. 1: both of one transaction; 0: they were not; or an error. diff->base is rewound and truncated first. */
static int diff_once(struct work *w, const struct node *primary, const struct node *n, const char *path, struct page_diff *diff,
                     struct compared *cell, struct err *e)
{
    char a[40], b[40];
    rewind(diff->base);
    if (ftruncate(fileno(diff->base), 0))
        return err_errno(e, errno, "temporary file");
    memset(diff->list, 0, sizeof *diff->list);
    diff->page = 0;
    diff->part_len = 0;
    int rc = get_sums(w, primary, path, diff, save_sums, a, e);
    if (rc)
        return rc;
    if (fflush(diff->base))
        return err_errno(e, errno, "temporary file");
    rewind(diff->base);
    if ((rc = get_sums(w, n, path, diff, compare_sums, b, e)))
        return rc;
    for (uint8_t rest[8]; fread(rest, sizeof rest, 1, diff->base) == 1;)
        list_page(diff->list, ++diff->page); /* pages that only the primary has */
    size_t txid = strcspn(a, "/");
    bool one = a[0] && txid == strcspn(b, "/") && !memcmp(a, b, txid);
    if (one && !diff->list->count)
        note(cell, "no page differs any more at transaction %.*s", (int)txid, a);
    return one;
}

static void diff_pages(struct work *w, int name, int node)
{
    struct comparison *x = w->x;
    struct compared *cell = cell_of(x, name, node);
    _cleanup_free_ char *escaped = cluster_escape(x->names[name]);
    _cleanup_free_ char *path = escaped ? cluster_path("/v1/databases/%s/sums", escaped) : NULL;
    struct page_diff d = {.base = tmpfile(), .list = calloc(1, sizeof *d.list)};
    struct err e = {0};
    int rc = path && d.base && d.list ? 0 : err_errno(&e, errno ? errno : ENOMEM, "temporary file");
    bool one = false;
    for (int try = 0; !rc && !one && try < SUMS_TRIES; try++) {
        rc = diff_once(w, &x->nodes.items[0], &x->nodes.items[node], path, &d, cell, &e);
        one = rc > 0;
        rc = MIN(rc, 0);
    }
    if (rc)
        note(cell, "pages could not be compared: %s", e.text);
    else if (!one)
        note(cell, "it was being written meanwhile: some of these pages may only be newer");
    if (!rc && d.list->count)
        cell->differs = steal_ptr(&d.list);
    free(d.list);
    if (d.base)
        (void)fclose(d.base); /* its contents are of no use any more */
}

/* ---- whole ------------------------------------------------------------------------------------------------- */

static int compare_all(struct work *w, struct err *e)
{
    struct comparison *x = w->x;
    int rc = take_position(w, e);
    if (!rc)
        rc = collect_names(w, e);
    if (rc)
        return rc;
    place_databases(x);
    for (int i = 0; i < x->n_names; i++)
        judge(x, i);
    if (w->o->scrub)
        scrub(w);
    for (int i = 0; i < x->n_names; i++)
        for (int j = 1; j < x->nodes.n; j++) {
            const struct compared *a = cell_of(x, i, 0), *b = cell_of(x, i, j);
            bool differs = a->db && b->db && difference(a->db, b->db);
            if (differs && field_u64_or(a->db, "page_size", 0) == field_u64_or(b->db, "page_size", 0))
                diff_pages(w, i, j);
        }
    return 0;
}

int compare_run(struct cluster *c, const struct compare_options *o, struct comparison *out, struct err *e)
{
    *out = (struct comparison){0};
    int rc = cluster_nodes(c, &out->nodes, e);
    if (rc)
        return rc;
    if (nodes_primary(&out->nodes) != 0) {
        char *url = NULL;
        rc = cluster_primary(c, &url, e); /* for its message; or the primary came just now */
        free(url);
        if (!rc)
            rc = err_set(e, ERR_REMOTE, "the primary is changing right now; try again");
    }
    out->per_node = rc ? NULL : calloc((size_t)out->nodes.n, sizeof *out->per_node);
    if (!rc && !out->per_node)
        rc = err_errno(e, ENOMEM, "verify");
    for (int i = 0; !rc && i < out->nodes.n; i++)
        out->per_node[i].node = &out->nodes.items[i];
    struct work w = {c, o, out};
    if (!rc)
        rc = compare_all(&w, e);
    if (rc)
        compare_free(out);
    return rc;
}

void compare_free(struct comparison *x)
{
    for (int i = 0; x->cells && i < x->n_names * x->nodes.n; i++) {
        free(x->cells[i].bad);
        free(x->cells[i].differs);
        free(x->cells[i].note);
    }
    free(x->cells);
    for (int i = 0; i < x->n_names; i++)
        free(x->names[i]);
    free(x->names);
    for (int i = 0; x->per_node && i < x->nodes.n; i++)
        json_decref(x->per_node[i].answer);
    free(x->per_node);
    nodes_free(&x->nodes);
    *x = (struct comparison){0};
}
