#include "replicator/database/scrub.h"

#include "lib/crc.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/capture/capture.h"
#include "replicator/database/mend.h"
#include "replicator/metrics.h"
#include <errno.h>
#include <stdio.h>
#include <sys/prctl.h>

#define SLICE (256u << 10)
#define LOOKS 4u
#define PAUSE_NS 20000000u /* before the first look again; longer each time */
#define BARRIER_NS UINT64_C(10000000000)
#define FIRST_MS 600000u   /* the first round begins this long after the start, or an interval, if that is shorter */
#define LOGGED_MAX 20u

struct scrub {
    struct node *node;
    pthread_t thread;
    pthread_mutex_t lock; /* guards stop */
    pthread_cond_t changed;
    bool stop;
    pthread_mutex_t one; /* one run at a time */
};

/* A run over one database. */
struct run {
    struct node *node;
    struct database *db;
    struct scrub_result *r;
    uint64_t rate, began_ns, bytes;
    uint64_t sums[SLICE / 512];
    uint8_t *buf;
    uint32_t size; /* entries allocated in r->bad */
};

void scrub_result_free(struct scrub_result *r)
{
    free(r->bad);
    r->bad = NULL;
}

/* False if the node stops meanwhile. */
static bool nap(struct scrub *s, uint64_t ns)
{
    uint64_t until = now_ns() + ns;
    struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
    pthread_mutex_lock(&s->lock);
    while (!s->stop && pthread_cond_timedwait(&s->changed, &s->lock, &t) == 0)
        continue;
    bool go_on = !s->stop;
    pthread_mutex_unlock(&s->lock);
    return go_on;
}

/* The state to compare with; an error if it is none that could be compared. */
static int look_at_state(struct node *n, struct database *db, struct dbstate *st, struct err *e)
{
    pthread_mutex_lock(&db->lock);
    enum database_state s = db->state;
    *st = *database_dbstate(db);
    pthread_mutex_unlock(&db->lock);
    (void)n;
    if (s == DATABASE_ABSENT || s == DATABASE_OTHER)
        return err_set(e, -ENOENT, "there is no database %s", db->name);
    if (s != DATABASE_OK || st->torn || st->needs_image || (!st->page_size && st->commit))
        return err_set(e, ERR_AGAIN_LATER, "%s is in no state in which its pages could be compared (%s)", db->name, database_state_name(s));
    return 0;
}

/* Tracked checksums of n pages from first on, and the database's length; -1: it is another one by now, or has none. db->lock is held. */
static int copy_sums(struct run *run, uint32_t first, uint32_t n, uint32_t *commit)
{
    struct err e;
    const struct dbstate *st = database_dbstate(run->db);
    if (st->page_size != run->r->page_size || st->torn || database_load(run->node->databases, run->db, &e))
        return -1;
    *commit = st->commit;
    for (uint32_t i = 0; i < n; i++)
        run->sums[i] = sums_get(run->db->sums, first + i);
    return 0;
}

static int suspect(struct run *run, uint32_t pgno, uint64_t sum, uint64_t found, struct err *e)
{
    struct scrub_result *r = run->r;
    if (r->n_bad == SCRUB_BAD_MAX)
        return 0;
    if (r->n_bad == run->size) {
        uint32_t size = run->size ? run->size * 2 : 64;
        void *p = realloc(r->bad, size * sizeof *r->bad);
        if (!p)
            return err_errno(e, ENOMEM, "scrub");
        r->bad = p;
        run->size = size;
    }
    r->bad[r->n_bad++] = (struct scrub_page){.pgno = pgno, .sum = sum, .found = found};
    return 0;
}

/* First pass: everything, in slices; what is not as it should be is noted. */
static int read_all(struct run *run, struct err *e)
{
    struct scrub_result *r = run->r;
    uint32_t per_slice = SLICE / r->page_size, lock = lock_pgno(r->page_size), commit = r->commit;
    struct scrub_look *look = scrub_look_open(run->node, run->db, r->page_size, e);
    int rc = look ? 0 : e->code;
    for (uint64_t first = 1; !rc && first <= commit; first += per_slice) {
        uint32_t n = (uint32_t)MIN(per_slice, commit - first + 1);
        pthread_mutex_lock(&run->db->lock);
        bool same = copy_sums(run, (uint32_t)first, n, &commit) == 0;
        pthread_mutex_unlock(&run->db->lock);
        if (!same)
            rc = err_set(e, ERR_AGAIN_LATER, "%s was replaced while it was being read", run->db->name);
        int read = rc ? 0 : scrub_look_read(look, (uint32_t)first, n, run->buf);
        if (read)
            rc = err_errno(e, -read, "read %s at page %u", run->db->name, (uint32_t)first);
        for (uint32_t i = 0; !rc && i < n; i++) {
            uint32_t pgno = (uint32_t)first + i;
            uint8_t *page = run->buf + (size_t)i * r->page_size;
            if (pgno == lock || pgno > commit)
                continue;
            uint64_t found = page_checksum(pgno, page, r->page_size);
            if (found != run->sums[i] && !scrub_look_good(look, pgno, page, run->sums[i]))
                rc = suspect(run, pgno, run->sums[i], found, e);
        }
        uint64_t bytes = (uint64_t)n * r->page_size;
        run->bytes += bytes;
        metrics_add(METRIC_SCRUB_BYTES, bytes);
        uint64_t due = run->rate ? run->began_ns + run->bytes * 1000 / MAX(run->rate / 1000000, 1) : 0, now = now_ns();
        if (!rc && (due > now ? !nap(run->node->scrub, due - now) : atomic_load(&run->node->stopping)))
            rc = err_set(e, -ECANCELED, "this node stops");
    }
    scrub_look_close(look);
    return rc;
}

/* One suspect once more. False: it is all right, or gone. */
static bool still_bad(struct run *run, struct scrub_look *look, struct scrub_page *p)
{
    uint32_t commit;
    bool replica = node_role(run->node) == NODE_REPLICA;
    pthread_mutex_lock(&run->db->lock);
    bool bad = copy_sums(run, p->pgno, 1, &commit) == 0 && p->pgno <= commit;
    if (!replica) /* there nothing may wait for the disk; on a replica who holds it keeps changes out */
        pthread_mutex_unlock(&run->db->lock);
    bad = bad && scrub_look_read(look, p->pgno, 1, run->buf) == 0;
    uint64_t found = bad ? page_checksum(p->pgno, run->buf, run->r->page_size) : 0;
    bad = bad && found != run->sums[0] && !scrub_look_good(look, p->pgno, run->buf, run->sums[0]);
    if (replica)
        pthread_mutex_unlock(&run->db->lock);
    p->looks = p->sum == run->sums[0] && p->found == found ? p->looks + 1 : 0;
    p->sum = run->sums[0];
    p->found = found;
    return bad;
}

static int look_again(struct run *run, bool wal_mode, struct err *e)
{
    struct scrub_result *r = run->r;
    struct node *n = run->node;
    bool primary = node_role(n) == NODE_PRIMARY;
    int rc = primary ? capture_now(n->capture, run->db, now_ns() + BARRIER_NS, e) : 0;
    if (rc)
        return rc == -ETIMEDOUT || rc == ERR_ROLE ? err_set(e, ERR_AGAIN_LATER, "%s: what was committed is not captured yet", run->db->name) : rc;
    if (primary && !wal_mode && scrub_writer_at_work(n, run->db))
        return err_set(e, ERR_AGAIN_LATER, "%s is being written", run->db->name);
    struct scrub_look *look = scrub_look_open(n, run->db, r->page_size, e);
    if (!look)
        return e->code;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < r->n_bad; i++)
        if (still_bad(run, look, &r->bad[i]))
            r->bad[kept++] = r->bad[i];
    r->n_bad = kept;
    scrub_look_close(look);
    return 0;
}

/* Leaves in r->bad what is damaged for sure. */
static int confirm(struct run *run, bool wal_mode, struct err *e)
{
    struct scrub_result *r = run->r;
    for (unsigned i = 0; r->n_bad && i < LOOKS; i++) {
        if (!nap(run->node->scrub, (uint64_t)PAUSE_NS << i))
            return err_set(e, -ECANCELED, "this node stops");
        int rc = look_again(run, wal_mode, e);
        if (rc)
            return rc;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < r->n_bad; i++)
        if (r->bad[i].looks >= LOOKS - 1) /* a page that is written all the time was another one each time */
            r->bad[kept++] = r->bad[i];
    r->n_bad = kept;
    return 0;
}

static void report(struct run *run)
{
    struct scrub_result *r = run->r;
    struct database *db = run->db;
    uint32_t left = 0, first = 0;
    for (uint32_t i = 0; i < r->n_bad; i++) {
        const struct scrub_page *p = &r->bad[i];
        r->n_mended += p->mended;
        if (!p->mended && !left++)
            first = p->pgno;
        if (i < LOGGED_MAX)
            log_warn("scrub", "%s: page %u had changed on the disk by itself (checksum %016llx, it should be %016llx): %s%s", db->name, p->pgno,
                     (unsigned long long)p->found, (unsigned long long)p->sum, p->mended ? "mended from " : "not mended: ", p->mended ? r->from : r->why);
    }
    if (r->n_bad > LOGGED_MAX)
        log_warn("scrub", "%s: and %u more pages, %u mended in all", db->name, r->n_bad - LOGGED_MAX, r->n_mended);
    metrics_add(METRIC_SCRUB_BAD, r->n_bad);
    metrics_add(METRIC_SCRUB_MENDED, r->n_mended);
    pthread_mutex_lock(&db->lock);
    db->damaged = left;
    db->damaged_page = first;
    pthread_mutex_unlock(&db->lock);
}

static int run_locked(struct run *run, struct err *e)
{
    struct dbstate st;
    int rc = look_at_state(run->node, run->db, &st, e);
    if (rc || !st.commit)
        return rc;
    run->r->page_size = st.page_size;
    run->r->commit = st.commit;
    run->buf = malloc(SLICE);
    rc = run->buf ? read_all(run, e) : err_errno(e, ENOMEM, "scrub");
    if (!rc)
        rc = confirm(run, st.wal_mode, e);
    if (!rc && run->r->n_bad)
        mend_pages(run->node, run->db, run->r);
    if (!rc)
        report(run);
    free(run->buf);
    return rc;
}

int scrub_run(struct node *n, struct database *db, uint64_t rate, struct scrub_result *r, struct err *e)
{
    struct run *run = calloc(1, sizeof *run);
    *r = (struct scrub_result){0};
    if (!run)
        return err_errno(e, ENOMEM, "scrub");
    *run = (struct run){.node = n, .db = db, .r = r, .rate = rate};
    pthread_mutex_lock(&n->scrub->one);
    run->began_ns = now_ns();
    int rc = run_locked(run, e);
    pthread_mutex_unlock(&n->scrub->one);
    free(run);
    return rc;
}

/* ---- in the background ---- */

static int scrub_one(void *ctx, struct database *db)
{
    struct scrub *s = ctx;
    struct scrub_result r;
    struct err e = {0};
    struct dbstate st;
    if (atomic_load(&s->node->stopping))
        return 1;
    if (look_at_state(s->node, db, &st, &e)) /* the next round finds it in another one */
        return 0;
    int rc = scrub_run(s->node, db, s->node->config->scrub.rate, &r, &e);
    if (rc && rc != -ECANCELED && rc != -ENOENT)
        log_info("scrub", "not now: %s", e.text);
    scrub_result_free(&r);
    return rc == -ECANCELED;
}

static void *scrub_thread(void *arg)
{
    struct scrub *s = arg;
    uint64_t interval = s->node->config->scrub.interval_ms * 1000000u, wait = MIN(interval, FIRST_MS * UINT64_C(1000000));
    prctl(PR_SET_NAME, "scrub");
    while (interval && nap(s, wait)) {
        uint64_t began = now_ns();
        enum node_role role = node_role(s->node);
        if (role == NODE_PRIMARY || role == NODE_REPLICA)
            databases_each(s->node->databases, scrub_one, s);
        uint64_t took = now_ns() - began;
        wait = took < interval ? interval - took : 0;
    }
    return NULL;
}

int scrub_open(struct node *n, struct err *e)
{
    struct scrub *s = calloc(1, sizeof *s);
    if (!s)
        return err_errno(e, ENOMEM, "scrub");
    s->node = n;
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->one, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &a);
    pthread_condattr_destroy(&a);
    int rc = pthread_create(&s->thread, NULL, scrub_thread, s);
    if (rc) {
        free(s);
        return err_errno(e, rc, "start the scrub thread");
    }
    n->scrub = s;
    return 0;
}

void scrub_stop(struct node *n)
{
    struct scrub *s = n->scrub;
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

void scrub_close(struct node *n)
{
    struct scrub *s = n->scrub;
    if (!s)
        return;
    pthread_join(s->thread, NULL);
    pthread_mutex_destroy(&s->one);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    free(s);
    n->scrub = NULL;
}
