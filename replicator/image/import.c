/* PUT /v1/databases/NAME: a body of any size, or a file that was lent (lent.h), becomes a database, with the memory of one piece.
 *
 *   OPENING ──► RECEIVING ──body complete──► COMMITTING ──► answered
 *   (pool)  │    (loop: one write a piece)    (pool) ▲
 *      │    └─► COPYING ──file complete──────────────┘
 *      │         (a pool of its own)
 *      │            │ read or write failed, client gone, lender gone
 *      └────────────┴──────► CLEANING (pool: temporary file and new directories are removed) ──► freed                            */
#include "replicator/image/import.h"

#include "lib/log.h"
#include "lib/util.h"
#include "replicator/api/api_private.h"
#include "replicator/capture/capture.h"
#include "replicator/image/import_feed.h"
#include "replicator/image/incoming.h"
#include "replicator/image/lent.h"
#include "replicator/metrics.h"
#include "replicator/database/pagesums.h"
#include "replicator/database/scan.h"
#include "replicator/capture/txrecord.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#define FLUSH_BYTES (8u << 20) /* written to disk while more arrives, so that the end does not have to wait for all of it */
#define IMPORTS_MAX 16u
#define PIECE (1u << 20) /* bytes that are copied at once */

static unsigned imports_open; /* the loop's thread */

struct import {
    struct job job; /* first member */
    struct api *api;
    struct node *node;
    struct http_request *req; /* NULL once the client is gone */
    bool working;  /* the job is with the pool: the loop touches nothing below */
    bool answered;
    bool complete; /* the whole body has come */
    int fd;         /* the temporary file, through the mount; -1 */
    int backing_fd; /* the same in the backing directory */
    int64_t announced;     /* bytes; -1: not known */
    int64_t size, flushed; /* the loop's thread; in COPYING and COMMITTING the job's */
    int source;            /* the file that was lent; -1 */
    struct lent *lent;     /* NULL: it comes as a body. The loop's thread */
    struct http_wake *copied;       /* COPYING: there is more (on_copied) */
    atomic_int_fast64_t there;      /* … in all */
    atomic_bool unwanted;           /* … and nobody waits for it any more */
    struct pagesums sums;     /* taken as it comes, of one that is announced. As size */
    struct import_feed *feed; /* replicas get it meanwhile; NULL: too small, of unknown size, or over. The loop's thread */
    struct err e; /* of the job; code 0: none */
    size_t made;  /* length of the part of name whose directory was made here first; 0: none was */
    char name[LAYOUT_NAME_MAX + 1];
    char temp[LAYOUT_NAME_MAX + 64]; /* path in the mount; "" when there is none */
    struct dbstate state;
};

static void submit(struct import *im, struct jobs *jobs, void (*work)(struct job *), void (*done)(struct job *));

/* ---- OPENING: a thread of the pool ---- */

static int make_parents(struct import *im, struct err *e)
{
    char path[LAYOUT_NAME_MAX + 1];
    snprintf(path, sizeof path, "%s", im->name);
    for (char *p = strchr(path, '/'); p; p = strchr(p + 1, '/')) {
        *p = '\0';
        int rc = mkdirat(im->node->mount_fd, path, 0777);
        if (rc && errno != EEXIST)
            return err_errno(e, errno, "directory %s", path);
        if (!rc && !im->made)
            im->made = (size_t)(p - path);
        *p = '/';
    }
    return 0;
}

/* Owner and permissions: of the file that is replaced, or such as a file made in that directory by its owner would have. */
static int set_owner(struct import *im, struct err *e)
{
    struct stat st;
    char dir[LAYOUT_NAME_MAX + 1];
    if (fstatat(im->node->db_fd, im->name, &st, AT_SYMLINK_NOFOLLOW)) {
        snprintf(dir, sizeof dir, "%s", im->name);
        char *slash = strrchr(dir, '/');
        if (slash)
            *slash = '\0';
        if (fstatat(im->node->db_fd, slash ? dir : ".", &st, 0))
            return err_errno(e, errno, "directory of %s", im->name);
    } else if (!S_ISREG(st.st_mode)) {
        return err_set(e, -EISDIR, "%s is there already and is not a file", im->name);
    }
    if (fchmod(im->fd, st.st_mode & 0666))
        return err_errno(e, errno, "%s", im->temp);
    if (fchown(im->fd, st.st_uid, st.st_gid) && errno != EPERM) /* an ordinary user's node has only its own files */
        return err_errno(e, errno, "%s", im->temp);
    return 0;
}

static int open_temp(struct import *im, struct err *e)
{
    static atomic_uint counter;
    const char *slash = strrchr(im->name, '/');
    int dir_len = slash ? (int)(slash - im->name) + 1 : 0;
    char temp[sizeof im->temp];
    snprintf(temp, sizeof temp, "%.*s" LAYOUT_PRIVATE_PREFIX "import-%d-%u", dir_len, im->name, (int)getpid(),
             atomic_fetch_add(&counter, 1));
    im->fd = openat(im->node->mount_fd, temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (im->fd < 0)
        return err_errno(e, errno, "%s", temp);
    memcpy(im->temp, temp, sizeof temp);
    im->backing_fd = openat(im->node->db_fd, temp, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    return im->backing_fd < 0 ? err_errno(e, errno, "%s", temp) : set_owner(im, e);
}

static void open_work(struct job *job)
{
    struct import *im = (struct import *)job;
    if (make_parents(im, &im->e) == 0)
        (void)open_temp(im, &im->e); /* the code is in im->e */
}

/* ---- COMMITTING ---- */

/* The pages need not be read again to be compared, if they are those that came in. */
static void give_sums(struct import *im)
{
    struct err e;
    struct database *db = im->sums.sums && im->sums.pages == im->sums.commit ? databases_get(im->node->databases, im->name, &e) : NULL;
    if (!db)
        return;
    scan_give(db, im->backing_fd, im->sums.page_size, im->sums.commit, im->sums.sums);
    im->sums.sums = NULL;
}

static int commit(struct import *im, struct err *e)
{
    struct node *n = im->node;
    _cleanup_free_ char *path = node_backing_path(n, im->temp);
    if (!path)
        return err_errno(e, ENOMEM, "import");
    /* The bytes went past the mount, which spares each of them the way through the file system and capture an event for each piece. Nobody
     * has read the file there, so all that the kernel has to be told is its size. */
    int rc = ftruncate(im->fd, im->size) ? err_errno(e, errno, "%s", im->temp) : import_check(im->backing_fd, path, e);
    if (!rc && fdatasync(im->backing_fd))
        rc = err_errno(e, errno, "%s", im->temp);
    if (!rc)
        give_sums(im);
    close(im->fd); /* while it is not the database yet: later that would drop libsqlite3's locks on it (database.h) */
    im->fd = -1;
    if (!rc)
        rc = import_commit(n, im->temp, im->name, e);
    if (rc)
        return rc;
    im->temp[0] = '\0';
    im->made = 0;
    struct database *db = databases_find(n->databases, im->name);
    rc = import_captured(n, db, e);
    if (rc)
        return err_wrap(e, "%s is in place, but not yet in the log", im->name);
    pthread_mutex_lock(&db->lock);
    im->state = *database_dbstate(db);
    enum database_state s = db->state;
    if (s != DATABASE_OK)
        rc = err_set(e, -EIO, "%s is in place, but is not replicated yet: %s", im->name,
                     db->warning[0] ? db->warning : database_state_name(s));
    pthread_mutex_unlock(&db->lock);
    return rc;
}

/* ---- COPYING ---- */

/* The next piece of the file. */
static int take(struct import *im, const uint8_t *data, size_t len, struct err *e)
{
    struct err ignored;
    if (im->feed && !im->size && pagesums_begin(&im->sums, data, len, im->announced, &ignored))
        pagesums_free(&im->sums); /* then they are taken when it is compared */
    if (im->sums.sums)
        pagesums_add(&im->sums, data, len);
    for (size_t done = 0; done < len;) {
        ssize_t k = pwrite(im->backing_fd, data + done, len - done, im->size);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return err_errno(e, k < 0 ? errno : ENOSPC, "%s", im->name);
        done += (size_t)k;
        im->size += k;
    }
    if (im->size - im->flushed >= FLUSH_BYTES) { /* begins the writing and does not wait for it */
        sync_file_range(im->backing_fd, im->flushed, im->size - im->flushed, SYNC_FILE_RANGE_WRITE);
        im->flushed = im->size;
    }
    return 0;
}

/* Reads by the descriptor's position, which tells the lender how far this is. */
static int copy(struct import *im, struct err *e)
{
    _cleanup_free_ uint8_t *piece = malloc(PIECE);
    if (!piece || lseek(im->source, 0, SEEK_SET))
        return err_errno(e, piece ? errno : ENOMEM, "import");
    int rc = 0;
    while (!rc && im->size < im->announced) {
        if (atomic_load(&im->unwanted))
            return err_set(e, -ECANCELED, "the file is no longer lent");
        if (atomic_load(&im->node->stopping))
            return err_set(e, -EBUSY, "this node stops");
        ssize_t k = read(im->source, piece, MIN((size_t)PIECE, (size_t)(im->announced - im->size)));
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return k ? err_errno(e, errno, "reading the file that was lent") : err_set(e, ERR_NOT_DATABASE, "the file became shorter while it was being copied");
        rc = take(im, piece, (size_t)k, e);
        atomic_store(&im->there, im->size);
        http_wake(im->copied);
    }
    return rc;
}

static void copy_work(struct job *job)
{
    struct import *im = (struct import *)job;
    (void)copy(im, &im->e); /* the code is in im->e */
}

static void commit_work(struct job *job)
{
    struct import *im = (struct import *)job;
    (void)commit(im, &im->e); /* the code is in im->e */
}

/* ---- CLEANING ---- */

static void clean_work(struct job *job)
{
    struct import *im = (struct import *)job;
    if (im->fd >= 0)
        close(im->fd);
    if (im->backing_fd >= 0)
        close(im->backing_fd);
    if (im->source >= 0)
        close(im->source);
    im->fd = im->backing_fd = im->source = -1;
    if (im->temp[0] && unlinkat(im->node->mount_fd, im->temp, 0))
        log_warn("import", "%s: %s", im->temp, strerror(errno));
    im->temp[0] = '\0';
    char *slash;
    while (im->made && (slash = strrchr(im->name, '/')) && (size_t)(slash - im->name) >= im->made) {
        *slash = '\0';
        if (unlinkat(im->node->mount_fd, im->name, AT_REMOVEDIR)) /* somebody uses it by now */
            break;
    }
}

static void clean_done(struct job *job)
{
    struct import *im = (struct import *)job;
    imports_open--;
    lent_return(im->lent);
    http_wake_free(im->copied);
    pagesums_free(&im->sums);
    free(im);
}

/* The last step in the loop: everything was answered, and the request is gone. */
static void finish(struct import *im)
{
    import_feed_end(im->feed, im->complete); /* not before: a replica may ask only now */
    im->feed = NULL;
    metrics_add(METRIC_IMPORT_BYTES, (uint64_t)im->size);
    im->job.work = clean_work;
    im->job.done = clean_done;
    im->working = true;
    if (jobs_submit(im->api->jobs, &im->job)) { /* full, or this node stops: here, then */
        clean_work(&im->job);
        clean_done(&im->job);
    }
}

/* ---- the loop's thread ---- */

static void fail(struct import *im, int status, const char *text)
{
    if (im->answered || !im->req)
        return;
    im->answered = true;
    if (status == 503)
        http_set_header(im->req, "Retry-After", "1");
    if (status == 421)
        http_reply_json(im->req, 421, request_not_primary(im->node));
    else
        http_reply_error(im->req, status, "%s", text);
}

static void on_closed(struct http_request *req, enum http_closed why, void *arg)
{
    struct import *im = arg;
    (void)req;
    (void)why;
    im->req = NULL;
    atomic_store(&im->unwanted, true);
    if (!im->working)
        finish(im);
}

/* Back from the pool. False if nobody waits any more. */
static bool came_back(struct import *im)
{
    im->working = false;
    if (!im->req) {
        finish(im);
        return false;
    }
    if (im->job.cancelled)
        fail(im, 503, "this node stops");
    else if (im->e.code)
        fail(im, request_status(im->e.code), im->e.text);
    return !im->answered;
}

static void on_copied(void *arg)
{
    struct import *im = arg;
    import_feed_grow(im->feed, atomic_load(&im->there));
}

static void on_lender_gone(void *arg)
{
    struct import *im = arg;
    atomic_store(&im->unwanted, true);
}

static void copy_done(struct job *job)
{
    struct import *im = (struct import *)job;
    if (!came_back(im))
        return;
    on_copied(im);
    http_body_resume(im->req); /* its end is all that there is of it: on_end */
}

static void open_done(struct job *job)
{
    struct import *im = (struct import *)job;
    if (!came_back(im))
        return;
    if (im->announced >= INCOMING_MIN) /* a smaller one is over before anybody could ask for it */
        im->feed = import_feed_open(im->api->streams, im->name, im->backing_fd, im->announced);
    if (im->lent)
        submit(im, im->api->copying, copy_work, copy_done);
    else
        http_body_resume(im->req);
}

static void commit_done(struct job *job)
{
    struct import *im = (struct import *)job;
    if (!came_back(im))
        return;
    im->answered = true;
    metrics_add(METRIC_IMPORTS, 1);
    metrics_add(METRIC_IMPORTS_LENT, im->lent != NULL);
    log_info("import", "%s: %" PRId64 " bytes, LSN %" PRIu64, im->name, im->size, im->state.lsn);
    http_reply_json(im->req, 200,
                    json_pack("{s:s,s:I,s:I,s:o}", "name", im->name, "lsn", (json_int_t)im->state.lsn, "txid",
                              (json_int_t)im->state.txid, "checksum", request_hex(im->state.checksum)));
}

static void on_data(struct http_request *req, const void *data, size_t len, void *arg)
{
    struct import *im = arg;
    struct err e;
    (void)req;
    if (im->answered)
        return;
    int rc = take(im, data, len, &e);
    if (rc)
        fail(im, request_status(rc), e.text);
    else
        import_feed_grow(im->feed, im->size);
}

static void on_end(struct http_request *req, void *arg)
{
    struct import *im = arg;
    (void)req;
    if (im->answered)
        return;
    im->complete = true;
    submit(im, im->api->jobs, commit_work, commit_done);
}

static void submit(struct import *im, struct jobs *jobs, void (*work)(struct job *), void (*done)(struct job *))
{
    im->job.work = work;
    im->job.done = done;
    im->e.code = 0;
    im->working = true;
    if (jobs_submit(jobs, &im->job) == 0)
        return;
    im->working = false;
    metrics_add(METRIC_JOBS_REFUSED, 1);
    fail(im, 503, "this node has too much to do already, try again");
}

/* Asked again in import_commit; this spares the client the upload. */
static bool is_open(struct node *n, const char *name)
{
    struct database *db = databases_find(n->databases, name);
    if (!db)
        return false;
    pthread_mutex_lock(&db->lock);
    bool open = db->apps_open;
    pthread_mutex_unlock(&db->lock);
    return open;
}

void import_put(struct api *a, struct http_request *req, const char *name)
{
    if (!request_needs_primary(req, a->node))
        return;
    if (is_open(a->node, name)) {
        http_reply_error(req, 409, "applications have %s open: close it there first", name);
        return;
    }
    const char *number = http_query(req, "file");
    if (number && http_body_length(req) != 0) {
        http_reply_error(req, 400, "either a body or a file that was lent");
        return;
    }
    struct import *im = imports_open < IMPORTS_MAX ? calloc(1, sizeof *im) : NULL;
    if (!im) {
        request_busy(req, "%u imports are going on already", imports_open);
        return;
    }
    *im = (struct import){.api = a, .node = a->node, .req = req, .fd = -1, .backing_fd = -1, .source = -1, .announced = http_body_length(req)};
    if (number && !(im->lent = lent_take(a->lent, number, on_lender_gone, im, &im->source, &im->announced))) {
        free(im);
        http_reply_error(req, 410, "no file of that number is lent to this node");
        return;
    }
    imports_open++;
    snprintf(im->name, sizeof im->name, "%s", name);
    http_set_closed(req, on_closed, im);
    http_set_body(req, on_data, on_end, im);
    http_body_pause(req);
    if (number && !(im->copied = http_wake_new(a->http, on_copied, im)))
        fail(im, 503, "no memory");
    else
        submit(im, a->jobs, open_work, open_done);
}

/* ---- DELETE ---- */

static void delete_work(struct call *c)
{
    struct node *n = c->api->node;
    struct err e = {0};
    int rc = import_remove(n, c->name, &e);
    struct database *db = rc ? NULL : databases_find(n->databases, c->name);
    if (!rc)
        rc = import_captured(n, db, &e);
    if (rc)
        call_error(c, &e);
    else
        c->answer = json_pack("{s:s,s:I}", "name", c->name, "lsn", (json_int_t)rlog_last(n->rlog).lsn);
}

void import_delete(struct api *a, struct http_request *req, const char *name)
{
    if (!request_needs_primary(req, a->node))
        return;
    struct call *c = call_new(a, req, delete_work);
    if (!c)
        return;
    snprintf(c->name, sizeof c->name, "%s", name);
    call_submit(c, a->jobs);
}
