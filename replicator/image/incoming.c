#include "replicator/image/incoming.h"

#include "lib/http/client.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/image/image_client.h"
#include "replicator/database/pagesums.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/prctl.h>

#define KEEP_NS UINT64_C(60000000000)
#define PIECE (1u << 20) /* bytes that are written at once: libcurl hands out 16 KiB at a time, and 500 MB in such pieces take 0.19 s to write, in these 0.06 s */

enum phase { IDLE, COMING, READY };

struct incoming {
    struct node *node;
    struct http_client *http;
    pthread_mutex_t lock; /* guards phase, ready_ns, stop; the rest is the thread's while COMING, otherwise guarded too */
    enum phase phase;
    bool stop;
    bool started; /* thread is to be joined */
    pthread_t thread;
    uint64_t ready_ns;
    uint64_t id;
    char url[512];
    int64_t size, got;
    uint8_t *piece; /* the thread's; what has come and is not written yet: piece_len bytes, the first of them the file's byte got */
    size_t piece_len;
    char name[LAYOUT_NAME_MAX + 1];
    struct incoming_file file;
    struct pagesums sums; /* the thread's */
    struct err error;
};

int incoming_open(struct node *n, struct err *e)
{
    struct incoming *in = calloc(1, sizeof *in);
    if (!in)
        return err_errno(e, ENOMEM, "incoming imports");
    in->node = n;
    in->file.fd = in->file.data_fd = -1;
    in->http = http_client_new(&(struct http_client_options){.token = n->token, .connect_ms = 2000, .idle_ms = 30000});
    if (!in->http) {
        free(in);
        return err_errno(e, ENOMEM, "incoming imports");
    }
    pthread_mutex_init(&in->lock, NULL);
    n->incoming = in;
    return 0;
}

/* Not while COMING. */
static void throw_away(struct incoming *in)
{
    struct incoming_file *f = &in->file;
    if (f->fd >= 0)
        close(f->fd);
    if (f->data_fd >= 0)
        close(f->data_fd);
    if (f->temp[0] && unlinkat(in->node->mount_fd, f->temp, 0) && errno != ENOENT)
        log_warn("import", "cannot remove %s: %s", f->temp, err_name(errno));
    free(f->sums);
    *f = (struct incoming_file){.fd = -1, .data_fd = -1};
    in->phase = IDLE;
}

void incoming_stop(struct node *n)
{
    struct incoming *in = n->incoming;
    if (!in)
        return;
    pthread_mutex_lock(&in->lock);
    in->stop = true;
    bool started = in->started;
    in->started = false;
    pthread_mutex_unlock(&in->lock);
    if (started) {
        http_client_abort(in->http);
        pthread_join(in->thread, NULL);
    }
}

void incoming_close(struct node *n)
{
    struct incoming *in = n->incoming;
    if (!in)
        return;
    throw_away(in);
    http_client_free(in->http);
    pthread_mutex_destroy(&in->lock);
    free(in);
    n->incoming = NULL;
}

/* ---- the thread ---- */

static int open_temp(struct incoming *in, struct err *e)
{
    struct incoming_file *f = &in->file;
    snprintf(f->temp, sizeof f->temp, LAYOUT_PRIVATE_PREFIX "import-in-%016" PRIx64, in->id); /* such as import_clean removes */
    f->fd = openat(in->node->mount_fd, f->temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (f->fd < 0)
        return err_errno(e, errno, "create %s", f->temp);
    f->data_fd = openat(in->node->db_fd, f->temp, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    return f->data_fd < 0 ? err_errno(e, errno, "open %s", f->temp) : 0;
}

static int write_piece(struct incoming *in)
{
    int rc = in->got ? 0 : pagesums_begin(&in->sums, in->piece, in->piece_len, in->size, &in->error);
    if (rc)
        return rc;
    pagesums_add(&in->sums, in->piece, in->piece_len);
    for (size_t done = 0; done < in->piece_len;) {
        ssize_t k = pwrite(in->file.data_fd, in->piece + done, in->piece_len - done, in->got);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return err_errno(&in->error, k < 0 ? errno : ENOSPC, "write %s", in->file.temp);
        done += (size_t)k;
        in->got += k;
    }
    in->piece_len = 0;
    return 0;
}

static int on_data(void *ctx, const void *data, size_t n)
{
    struct incoming *in = ctx;
    const uint8_t *p = data;
    int rc = 0;
    pthread_mutex_lock(&in->lock);
    bool stop = in->stop;
    pthread_mutex_unlock(&in->lock);
    if (stop || node_role(in->node) != NODE_REPLICA)
        return err_set(&in->error, -ECANCELED, "no longer wanted");
    if ((int64_t)n > in->size - in->got - (int64_t)in->piece_len)
        return err_set(&in->error, -EMSGSIZE, "more comes than was announced");
    while (n && !rc) {
        size_t k = MIN(n, PIECE - in->piece_len);
        memcpy(in->piece + in->piece_len, p, k);
        in->piece_len += k;
        p += k;
        n -= k;
        if (in->piece_len == PIECE || in->got + (int64_t)in->piece_len == in->size)
            rc = write_piece(in);
    }
    return rc;
}

static int fetch(struct incoming *in, struct err *e)
{
    int status = 0;
    int rc = open_temp(in, e);
    if (rc)
        return rc;
    in->piece_len = 0;
    in->piece = malloc(PIECE);
    if (!in->piece)
        return err_errno(e, ENOMEM, "import");
    rc = http_client_download(in->http, in->url, on_data, in, &status, e);
    if (rc && in->error.code == rc)
        *e = in->error;
    free(in->piece);
    in->piece = NULL;
    if (!rc && (in->got != in->size || in->sums.pages != in->sums.commit))
        rc = err_set(e, -ECONNRESET, "it ended early");
    /* The bytes went past the mount: all that it has to be told is the size. */
    if (!rc && ftruncate(in->file.fd, in->size))
        rc = err_errno(e, errno, "%s", in->file.temp);
    in->file.page_size = in->sums.page_size;
    in->file.commit = in->sums.commit;
    in->file.checksum = in->sums.checksum;
    in->file.sums = in->sums.sums;
    in->sums.sums = NULL;
    pagesums_free(&in->sums);
    return rc;
}

static void *run(void *arg)
{
    struct incoming *in = arg;
    struct err e = {0};
    prctl(PR_SET_NAME, "incoming");
    uint64_t began = now_ns();
    int rc = fetch(in, &e);
    pthread_mutex_lock(&in->lock);
    if (rc)
        throw_away(in);
    else
        in->phase = READY;
    in->ready_ns = now_ns();
    pthread_mutex_unlock(&in->lock);
    if (rc)
        log_info("import", "%s, which comes in at the primary, is not fetched: %s", in->name, e.text);
    else
        log_info("import", "%s came in: %" PRId64 " bytes in %" PRIu64 " ms", in->name, in->size, (now_ns() - began) / 1000000u);
    image_client_kick(in->node);
    return NULL;
}

/* ---- the others' ---- */

void incoming_announced(struct node *n, const char *url, const char *name, uint64_t id, int64_t size)
{
    struct incoming *in = n->incoming;
    if (!in || size < INCOMING_MIN || !database_name_possible(name))
        return;
    pthread_mutex_lock(&in->lock);
    if (in->phase != COMING && !in->stop) {
        if (in->started) /* it has ended, or has nothing more to do than to let go of the lock and say so */
            pthread_join(in->thread, NULL);
        throw_away(in);
        in->id = id;
        snprintf(in->url, sizeof in->url, "%s/v1/imports/%016" PRIx64, url, id);
        in->size = size;
        in->got = 0;
        in->error = (struct err){0};
        snprintf(in->name, sizeof in->name, "%s", name);
        in->phase = COMING;
        in->started = pthread_create(&in->thread, NULL, run, in) == 0;
        if (!in->started)
            in->phase = IDLE;
    }
    pthread_mutex_unlock(&in->lock);
}

/* The STATE record that db waits for, if it is one: its image is the database as it says. */
static bool state_wanted(struct node *n, struct database *db, struct record_state *st, uint64_t *lsn)
{
    struct rlog_cursor cur = {.fd = -1};
    struct record_head h;
    uint8_t buf[RECORD_STATE_SIZE];
    int64_t offset;
    pthread_mutex_lock(&db->lock);
    *lsn = db->state == DATABASE_IMAGE ? db->pending : 0;
    pthread_mutex_unlock(&db->lock);
    bool found = *lsn && !rlog_seek(n->rlog, *lsn, &cur, NULL) && rlog_next(n->rlog, &cur, &h, &offset, NULL) > 0 && h.type == RECORD_STATE &&
                 !strcmp(h.name, db->name) && h.payload_len == sizeof buf && pread(cur.fd, buf, sizeof buf, offset) == (ssize_t)sizeof buf &&
                 !record_state_decode(buf, sizeof buf, st);
    rlog_cursor_close(&cur);
    return found;
}

int incoming_take(struct node *n, struct database *db, struct incoming_file *f)
{
    struct incoming *in = n->incoming;
    struct record_state want;
    uint64_t lsn;
    int rc = 0;
    if (!in || !state_wanted(n, db, &want, &lsn))
        return 0;
    pthread_mutex_lock(&in->lock);
    bool same = in->phase != IDLE && !strcmp(in->name, db->name) && in->size == (int64_t)want.commit * want.page_size;
    if (same && in->phase == COMING) {
        rc = ERR_AGAIN_LATER;
    } else if (same && in->file.checksum == want.checksum && in->file.page_size == want.page_size) {
        *f = in->file;
        f->lsn = lsn;
        f->txid = want.txid;
        in->file = (struct incoming_file){.fd = -1, .data_fd = -1};
        in->phase = IDLE;
        rc = 1;
    } else if (in->phase == READY && !strcmp(in->name, db->name)) {
        throw_away(in);
    }
    pthread_mutex_unlock(&in->lock);
    return rc;
}

void incoming_trim(struct node *n)
{
    struct incoming *in = n->incoming;
    if (!in)
        return;
    pthread_mutex_lock(&in->lock);
    if (in->phase == READY && now_ns() > in->ready_ns + KEEP_NS)
        throw_away(in);
    pthread_mutex_unlock(&in->lock);
}
