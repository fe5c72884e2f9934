/* POST /v1/databases/NAME/repair: reads the database as the scrub does, and mends it; on a replica what cannot be mended page by page is fetched anew. */
#include "lib/util.h"
#include "replicator/api/api_private.h"
#include "replicator/apply/apply_records.h"
#include "replicator/database/resum.h"
#include "replicator/database/scrub.h"
#include <errno.h>
#include <stdio.h>

#define LISTED_MAX 1000u

/* On a replica: everything is compared with the primary. Whether that was begun. */
static bool resync(struct node *n, struct database *db)
{
    bool begun = node_role(n) == NODE_REPLICA;
    pthread_mutex_lock(&db->lock);
    if (begun && db->state != DATABASE_IMAGE) {
        uint64_t lsn = database_dbstate(db)->lsn + 1;
        if (db->state != DATABASE_ABSENT)
            resum_needed(n, db);
        apply_needs_image(n, db, lsn, "its pages are compared with the primary's: somebody asked for a repair");
    }
    pthread_mutex_unlock(&db->lock);
    return begun;
}

static json_t *describe(const struct database *db, const struct scrub_result *r, bool resynced)
{
    json_t *pages = json_array();
    for (uint32_t i = 0; i < MIN(r->n_bad, LISTED_MAX); i++)
        json_array_append_new(pages, json_integer(r->bad[i].pgno));
    bool left = r->n_mended < r->n_bad;
    return json_pack("{s:s,s:I,s:o,s:I,s:I,s:s?,s:s?,s:b}", "name", db->name, "pages", (json_int_t)r->commit, "bad_pages", pages, "bad_count",
                     (json_int_t)r->n_bad, "mended", (json_int_t)r->n_mended, "from", r->n_mended ? r->from : NULL, "why", left ? r->why : NULL, "resync",
                     (int)resynced);
}

static void repair_work(struct call *c)
{
    struct node *n = c->api->node;
    struct err e = {0};
    struct scrub_result r = {0};
    bool anew = c->from != 0, replica = node_role(n) == NODE_REPLICA;
    /* A replica may not know yet that there is such a database. */
    struct database *db = anew && replica ? databases_get(n->databases, c->name, &e) : databases_find(n->databases, c->name);
    if (!db) {
        err_set(&e, -ENOENT, "there is no database %s", c->name);
        call_error(c, &e);
        return;
    }
    int rc = anew && replica ? 0 : scrub_run(n, db, 0, &r, &e);
    if (!rc && replica && (anew || r.n_mended < r.n_bad))
        anew = resync(n, db);
    else
        anew = false;
    if (rc)
        call_error(c, &e);
    else
        c->answer = describe(db, &r, anew);
    scrub_result_free(&r);
}

void api_repair(struct api *a, struct http_request *req, const char *name)
{
    struct call *c = call_new(a, req, repair_work);
    if (!c)
        return;
    c->from = http_query(req, "resync") != NULL;
    snprintf(c->name, sizeof c->name, "%s", name);
    call_submit(c, a->jobs);
}
