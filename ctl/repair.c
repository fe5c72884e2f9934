#include "ctl/repair.h"

#include "ctl/field.h"
#include "ctl/text.h"
#include "lib/util.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

static const struct compared *cell_of(const struct comparison *x, int name, int node)
{
    return &x->cells[(size_t)name * (size_t)x->nodes.n + (size_t)node];
}

/* Whether something can be done about it, and whether that is to fetch it from the primary. */
static bool wanted(const struct comparison *x, int name, int node, bool *resync)
{
    const struct compared *cell = cell_of(x, name, node);
    bool primary = node == 0, there = cell_of(x, name, 0)->db != NULL;
    *resync = !primary && there && (cell->verdict == VERDICT_DIFFERS || cell->verdict == VERDICT_MISSING);
    return x->per_node[node].answer && (cell->verdict == VERDICT_DAMAGED || *resync);
}

static json_t *repair_one(struct cluster *c, const struct compare_options *o, const struct comparison *x, int name, int node, bool resync)
{
    const struct node *n = &x->nodes.items[node];
    _cleanup_free_ char *escaped = cluster_escape(x->names[name]);
    _cleanup_free_ char *path = escaped ? cluster_path("/v1/databases/%s/repair%s", escaped, resync ? "?resync" : "") : NULL;
    json_t *answer = NULL, *out = json_pack("{s:s,s:s}", "database", x->names[name], "node", n->name);
    struct err e;
    int status, rc = path ? 0 : err_set(&e, -ENOMEM, "out of memory");
    struct request r = {.method = "POST", .url = n->url, .path = path, .timeout_ms = o->scrub_ms};
    if (!rc)
        rc = cluster_ask(c, &r, &status, &answer, &e);
    if (rc)
        json_object_set_new(out, "error", json_string(e.text));
    else
        json_object_update_missing(out, answer);
    json_decref(answer);
    return out;
}

int repair_run(struct cluster *c, const struct compare_options *o, const struct comparison *x, json_t **done)
{
    bool resync;
    *done = json_array();
    for (int i = 0; i < x->n_names; i++)
        for (int j = 0; j < x->nodes.n; j++)
            if (wanted(x, i, j, &resync))
                json_array_append_new(*done, repair_one(c, o, x, i, j, resync));
    return (int)json_array_size(*done);
}

void repair_print(const json_t *done)
{
    size_t i;
    json_t *o;
    json_array_foreach(done, i, o)
    {
        _cleanup_free_ char *name = text_printable(field_text_or(o, "database", "?")), *node = text_printable(field_text_or(o, "node", "?"));
        const char *error = field_text(o, "error"), *why = field_text(o, "why");
        _cleanup_free_ char *text = text_printable(error ? error : why ? why : ""), *from = text_printable(field_text_or(o, "from", "?"));
        uint64_t bad = field_u64_or(o, "bad_count", 0), mended = field_u64_or(o, "mended", 0);
        printf("%s on %s: ", name ? name : "?", node ? node : "?");
        if (error)
            printf("cannot be repaired: %s\n", text ? text : "?");
        else if (mended)
            printf("%" PRIu64 " of %" PRIu64 " damaged %s mended from %s%s%s\n", mended, bad, bad == 1 ? "page" : "pages", from ? from : "?", why ? "; " : "",
                   text ? text : "");
        else if (json_is_true(json_object_get(o, "resync")))
            printf("what differs is fetched from the primary\n");
        else if (bad)
            printf("%" PRIu64 " damaged %s not mended: %s\n", bad, bad == 1 ? "page" : "pages", text ? text : "?");
        else
            printf("nothing to mend was found\n");
    }
}
