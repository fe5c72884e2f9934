#include "replicator/apply/fences.h"

#include "edgefs/launch.h"
#include "lib/localsock.h"
#include "lib/log.h"
#include "lib/util.h"
#include "lib/walindex.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

struct left { /* by a predecessor */
    int db_fd, shm_fd;
    struct left *next; /* settle */
    UT_hash_handle hh;
    char name[];
};

struct fences {
    struct node *node;
    int fd;
    pthread_mutex_t lock; /* one request to the launcher at a time; guards left */
    struct left *left;
};

static int request(struct fences *f, uint32_t kind, const char *name, const int *fds, int nfds)
{
    struct launch_msg m = {.kind = kind, .name_len = (uint16_t)strlen(name)}, reply;
    uint8_t buf[LAUNCH_PACKET_MAX];
    if (f->fd < 0)
        return 0;
    pthread_mutex_lock(&f->lock);
    int rc = localsock_send(f->fd, &m, sizeof m, name, m.name_len, fds, nfds);
    if (!rc) {
        ssize_t n = localsock_recv(f->fd, buf, sizeof buf, NULL, NULL);
        memcpy(&reply, buf, sizeof reply);
        rc = n < (ssize_t)sizeof reply ? -EPIPE : reply.kind == LAUNCH_FENCE_ACK ? 0 : -EBADMSG;
    }
    pthread_mutex_unlock(&f->lock);
    return rc;
}

static int add_left(struct fences *f, const char *name, size_t len, int *fds, int nfds)
{
    struct left *l = calloc(1, sizeof *l + len + 1);
    if (!l || nfds < 1) {
        free(l);
        for (int i = 0; i < nfds; i++)
            close(fds[i]);
        return l ? 0 : -ENOMEM;
    }
    memcpy(l->name, name, len);
    l->db_fd = fds[0];
    l->shm_fd = nfds > 1 ? fds[1] : -1;
    HASH_ADD_STR(f->left, name, l);
    return 0;
}

static int fetch_left(struct fences *f, struct err *e)
{
    struct launch_msg m = {.kind = LAUNCH_FENCE_LIST};
    int rc = localsock_send(f->fd, &m, sizeof m, NULL, 0, NULL, 0);
    while (!rc) {
        uint8_t buf[LAUNCH_PACKET_MAX];
        int fds[LOCALSOCK_FDS_MAX], nfds = 0;
        ssize_t n = localsock_recv(f->fd, buf, sizeof buf, fds, &nfds);
        if (n < (ssize_t)sizeof m) {
            rc = n < 0 ? (int)n : -EPIPE;
            break;
        }
        memcpy(&m, buf, sizeof m);
        if (m.kind == LAUNCH_FENCE_END)
            return 0;
        if (m.kind == LAUNCH_FENCE && (size_t)n == sizeof m + m.name_len)
            rc = add_left(f, (const char *)buf + sizeof m, m.name_len, fds, nfds);
    }
    return err_errno(e, -rc, "ask the launcher for fences");
}

int fences_open(struct node *n, struct fences **out, struct err *e)
{
    struct fences *f = calloc(1, sizeof *f);
    if (!f)
        return err_errno(e, ENOMEM, "fences");
    const char *v = getenv("EDGEFS_LAUNCHER_FD");
    f->node = n;
    f->fd = v ? atoi(v) : -1;
    pthread_mutex_init(&f->lock, NULL);
    *out = f;
    if (f->fd >= 0)
        fcntl(f->fd, F_SETFD, FD_CLOEXEC);
    return f->fd >= 0 ? fetch_left(f, e) : 0;
}

void fences_close(struct fences *f)
{
    if (!f)
        return;
    if (f->fd >= 0)
        close(f->fd);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

int fences_launcher_fd(const struct fences *f)
{
    return f->fd;
}

void fences_ready(struct fences *f)
{
    struct launch_msg m = {.kind = LAUNCH_READY};
    if (f->fd < 0)
        return;
    pthread_mutex_lock(&f->lock);
    int rc = localsock_send(f->fd, &m, sizeof m, NULL, 0, NULL, 0);
    pthread_mutex_unlock(&f->lock);
    if (rc)
        log_warn("fences", "cannot tell the launcher that we are ready: %s", err_name(rc));
}

static void unlock_all(int db_fd, int shm_fd)
{
    /* Unlocking what one holds cannot fail. */
    if (db_fd >= 0)
        (void)lock_range(db_fd, F_UNLCK, DBLOCK_PENDING, 2 + DBLOCK_SHARED_SIZE);
    if (shm_fd >= 0)
        (void)lock_range(shm_fd, F_UNLCK, WALINDEX_WRITE_LOCK, WALINDEX_DMS_LOCK - WALINDEX_WRITE_LOCK + 1);
}

static bool same_file(const struct node *n, const char *name, int fd)
{
    struct stat a, b;
    return !fstat(fd, &a) && a.st_nlink && !fstatat(n->mount_fd, name, &b, AT_SYMLINK_NOFOLLOW) && a.st_ino == b.st_ino;
}

static void shm_name(const struct database *db, char buf[LAYOUT_NAME_MAX + 8])
{
    snprintf(buf, LAYOUT_NAME_MAX + 8, "%s%s", db->name, LAYOUT_SHM);
}

bool fence_left(struct node *n, const struct database *db)
{
    struct left *l;
    pthread_mutex_lock(&n->fences->lock);
    HASH_FIND_STR(n->fences->left, db->name, l);
    pthread_mutex_unlock(&n->fences->lock);
    return l != NULL;
}

static void let_go(struct node *n, struct left *l)
{
    unlock_all(l->db_fd, l->shm_fd);
    close(l->db_fd);
    if (l->shm_fd >= 0)
        close(l->shm_fd);
    request(n->fences, LAUNCH_FENCE_DROP, l->name, NULL, 0);
}

void fence_drop_left(struct node *n, const struct database *db)
{
    struct left *l;
    pthread_mutex_lock(&n->fences->lock);
    HASH_FIND_STR(n->fences->left, db->name, l);
    if (l)
        HASH_DEL(n->fences->left, l);
    pthread_mutex_unlock(&n->fences->lock);
    if (l)
        let_go(n, l);
    free(l);
}

/* False: killed after it had let go, and before the launcher knew. A descriptor of its own asks: for the fence's own, its locks are in nobody's way. */
static bool still_held(const struct node *n, const struct database *db, const struct left *left)
{
    struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = DBLOCK_RESERVED, .l_len = 1};
    _cleanup_fd_ int fd = openat(n->mount_fd, db->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return fd >= 0 && !fcntl(fd, F_OFD_GETLK, &l) && l.l_type != F_UNLCK && !lock_range(left->db_fd, F_WRLCK, DBLOCK_RESERVED, 1);
}

bool fence_take_over(struct node *n, struct database *db, bool wal, struct fence *out)
{
    struct left *l;
    char shm[LAYOUT_NAME_MAX + 8];
    pthread_mutex_lock(&n->fences->lock);
    HASH_FIND_STR(n->fences->left, db->name, l);
    if (l)
        HASH_DEL(n->fences->left, l);
    pthread_mutex_unlock(&n->fences->lock);
    if (!l)
        return false;
    shm_name(db, shm);
    bool fits = wal == (l->shm_fd >= 0) && same_file(n, db->name, l->db_fd) && (!wal || same_file(n, shm, l->shm_fd)) && still_held(n, db, l);
    if (fits) {
        *out = (struct fence){.db_fd = l->db_fd, .shm_fd = l->shm_fd, .kept = true};
    } else {
        let_go(n, l);
    }
    free(l);
    return fits;
}

static int lock_until(int fd, short type, int64_t start, int64_t len, uint64_t deadline_ns)
{
    uint64_t wait = 50000;
    for (;;) {
        int rc = lock_range(fd, type, start, len);
        uint64_t now = now_ns();
        if (rc != -EAGAIN || now >= deadline_ns)
            return rc;
        /* Nothing tells when a lock becomes free (a blocking F_OFD_SETLKW knows no time-out). */
        nanosleep(&(struct timespec){.tv_nsec = (long)MIN(wait, deadline_ns - now)}, NULL);
        wait = MIN(wait * 2, 2000000u);
    }
}

int fence_take(struct node *n, struct database *db, bool wal, uint64_t deadline_ns, struct fence *out, struct err *e)
{
    char shm[LAYOUT_NAME_MAX + 8];
    *out = (struct fence){.db_fd = -1, .shm_fd = -1};
    int rc = 0;
    const char *what = "open";
    out->db_fd = openat(n->mount_fd, db->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (out->db_fd < 0)
        rc = -errno;
    if (!rc && wal) {
        shm_name(db, shm);
        out->shm_fd = openat(n->mount_fd, shm, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        rc = out->shm_fd < 0 ? -errno : 0;
    }
    if (!rc) {
        what = "lock";
        if (wal) {
            rc = lock_until(out->shm_fd, F_RDLCK, WALINDEX_DMS_LOCK, 1, deadline_ns);
            if (!rc)
                rc = lock_until(out->shm_fd, F_WRLCK, WALINDEX_WRITE_LOCK, 1, deadline_ns);
        }
        if (!rc)
            rc = lock_until(out->db_fd, F_WRLCK, DBLOCK_RESERVED, 1, deadline_ns);
        if (!rc && wal) /* in rollback mode SHARED would keep apply's own EXCLUSIVE out of reach of nobody, and is not needed */
            rc = lock_until(out->db_fd, F_RDLCK, DBLOCK_SHARED_FIRST, DBLOCK_SHARED_SIZE, deadline_ns);
    }
    if (rc) {
        fence_drop(n, db, out);
        return rc == -EAGAIN ? err_set(e, ERR_AGAIN_LATER, "%s: somebody is writing to it", db->name)
                             : err_errno(e, -rc, "%s %s for its fence", what, db->name);
    }
    rc = request(n->fences, LAUNCH_FENCE_PUT, db->name, (int[]){out->db_fd, out->shm_fd}, wal ? 2 : 1);
    if (rc) /* then a crash of ours opens it for a moment: worth a warning, not worth refusing */
        log_warn("fences", "%s: the launcher does not keep its fence: %s", db->name, err_name(rc));
    out->kept = n->fences->fd >= 0 && !rc;
    return 0;
}

void fence_drop(struct node *n, struct database *db, struct fence *f)
{
    unlock_all(f->db_fd, f->shm_fd);
    if (f->kept)
        request(n->fences, LAUNCH_FENCE_DROP, db->name, NULL, 0);
    if (f->db_fd >= 0)
        close(f->db_fd);
    if (f->shm_fd >= 0)
        close(f->shm_fd);
    *f = (struct fence){.db_fd = -1, .shm_fd = -1};
}

void fence_rename(struct node *n, const struct database *from, const struct database *to, struct fence *f)
{
    if (!f->kept)
        return;
    int rc = request(n->fences, LAUNCH_FENCE_PUT, to->name, (int[]){f->db_fd, f->shm_fd}, f->shm_fd >= 0 ? 2 : 1);
    if (rc)
        log_warn("fences", "%s: the launcher does not keep its fence: %s", to->name, err_name(rc));
    f->kept = !rc;
    request(n->fences, LAUNCH_FENCE_DROP, from->name, NULL, 0);
}

struct owner {
    const struct node *n;
    uint64_t ino;
    struct database *db;
};

static int owns(void *ctx, struct database *db)
{
    struct owner *o = ctx;
    struct stat st;
    if (fstatat(o->n->mount_fd, db->name, &st, AT_SYMLINK_NOFOLLOW) || st.st_ino != o->ino)
        return 0;
    o->db = db;
    return 1;
}

/* l, which is on no list any more, belongs to the database called name now. */
static void settle_as(struct fences *f, struct left *l, const char *name)
{
    struct left *there;
    HASH_FIND_STR(f->left, name, there);
    if (there && same_file(f->node, name, there->db_fd)) { /* one and the same: killed when the launcher knew both names */
        close(l->db_fd);
        if (l->shm_fd >= 0)
            close(l->shm_fd);
        request(f, LAUNCH_FENCE_DROP, l->name, NULL, 0);
        return;
    }
    if (there) { /* of the file that had the name before */
        HASH_DEL(f->left, there);
        let_go(f->node, there);
        free(there);
    }
    int rc = request(f, LAUNCH_FENCE_PUT, name, (int[]){l->db_fd, l->shm_fd}, l->shm_fd >= 0 ? 2 : 1);
    if (rc)
        log_warn("fences", "%s: the launcher does not keep its fence: %s", name, err_name(rc));
    request(f, LAUNCH_FENCE_DROP, l->name, NULL, 0);
    rc = add_left(f, name, strlen(name), (int[]){l->db_fd, l->shm_fd}, l->shm_fd >= 0 ? 2 : 1);
    if (rc)
        log_warn("fences", "%s: its fence is lost: %s", name, err_name(rc));
}

static void settle(struct fences *f)
{
    struct left *l, *next, *elsewhere = NULL;
    struct stat st;
    HASH_ITER(hh, f->left, l, next)
    {
        if (same_file(f->node, l->name, l->db_fd))
            continue;
        HASH_DEL(f->left, l);
        l->next = elsewhere;
        elsewhere = l;
    }
    for (l = elsewhere; l; l = next) {
        next = l->next;
        struct owner o = {.n = f->node};
        if (!fstat(l->db_fd, &st) && st.st_nlink) {
            o.ino = st.st_ino;
            databases_each(f->node->databases, owns, &o);
        }
        if (o.db)
            settle_as(f, l, o.db->name);
        else /* its file is gone */
            let_go(f->node, l);
        free(l);
    }
}

void fences_settle(struct node *n)
{
    struct left *l, *next;
    settle(n->fences);
    HASH_ITER(hh, n->fences->left, l, next)
    {
        const struct database *db = databases_find(n->databases, l->name);
        if (db && (database_dbstate(db)->torn || db->moving_to))
            continue;
        if (l->shm_fd < 0)
            (void)lock_range(l->db_fd, F_UNLCK, DBLOCK_SHARED_FIRST, DBLOCK_SHARED_SIZE);
        (void)lock_range(l->db_fd, F_UNLCK, DBLOCK_PENDING, 1);
    }
}

void fences_drop_rest(struct node *n)
{
    struct left *l, *next;
    HASH_ITER(hh, n->fences->left, l, next)
    {
        HASH_DEL(n->fences->left, l);
        unlock_all(l->db_fd, l->shm_fd);
        request(n->fences, LAUNCH_FENCE_DROP, l->name, NULL, 0);
        close(l->db_fd);
        if (l->shm_fd >= 0)
            close(l->shm_fd);
        free(l);
    }
}
