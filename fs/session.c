/* Why a kill at any instruction is not noticed.
 *
 * The launcher holds /dev/fuse, so the connection lives. The kernel keeps requests that were read and not answered; FUSE_NOTIFY_RESEND
 * puts all of them back to the head of the queue, with bit 63 of their unique id set. A successor
 *
 *   1. shows libfuse the INIT request that the first edgefs-fs got (it is in the memory file) and swallows the answer, since the kernel
 *      has it already. If the kill fell between receiving INIT and answering it, the kernel does not have it: whether INIT comes
 *      again after RESEND tells;
 *   2. asks for the resend, and reads with a non-blocking descriptor until a request comes that is not resent, or none is there:
 *      then it has seen all resent ones, for they stood at the head. Slots of other requests are stale and freed (slots.h);
 *   3. has the spare threads carry out what was collected, and starts the workers.
 *
 * Killed while doing so, its successor finds the same situation: what had been collected is unanswered and comes again.
 * FORGET has no answer and does not come again: one that dies with us leaves an inode in the table that the kernel forgot. That costs
 * 320 bytes, no correctness: looked up again, the inode is counted again. */
#include "fs/session.h"

#include "fs/cpulatency.h"
#include "fs/passthrough.h"
#include "fs/spare.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdio.h>
#include <sys/uio.h>

#define RESEND_BIT (1ull << 63)  /* FUSE_UNIQUE_RESEND, Linux 6.9 */
#define NOTIFY_RESEND 7          /* FUSE_NOTIFY_RESEND */
#define READ_SIZE (2u << 20)     /* no request is longer: libfuse 3.14 negotiates writes of 1 MiB, and a page of header */
#define MOUNT_WAIT_MS 30000      /* how long the launcher may take to mount */

struct collected {
    struct spare_work work;
    struct fs *fs;
    size_t len;
    uint8_t bytes[] __attribute__((aligned(8)));
};

struct collection {
    struct collected **item;
    size_t n, room;
};

struct parked { /* on the stack of a worker that waits to become a reader */
    pthread_cond_t wanted;
    bool called;
    struct parked *below;
};

struct session {
    struct fs *fs;
    struct fuse_session *se;
    struct collection collected; /* unanswered requests of the predecessor */
    bool took_over;
    int error; /* atomic; errno that ended a worker */
    pthread_mutex_t turn; /* guards readers, parked */
    int readers;           /* workers that wait for a request in the kernel, or are about to */
    struct parked *parked; /* workers that wait to become readers, the last one that did first */
};

static _Thread_local struct session_request current;
static _Thread_local enum { INIT_ORDINARY, INIT_ANSWERING, INIT_SWALLOWING } init_mode;

const struct session_request *session_current(void)
{
    return &current;
}

void session_forget_contents(struct fs *fs, uint64_t ino, int64_t offset, int64_t length)
{
    int rc = fuse_lowlevel_notify_inval_inode(fs->session->se, ino, offset, length);
    if (rc && rc != -ENOENT)
        log_warn("fs", "the kernel does not forget contents that have changed: %s", err_name(rc));
}

static void note(const void *buf, ssize_t n)
{
    const struct fuse_in_header *h = buf;
    if (n < (ssize_t)sizeof *h)
        return;
    current.unique = h->unique & ~RESEND_BIT;
    current.resent = (h->unique & RESEND_BIT) != 0;
    current.opcode = h->opcode;
}

/* ---- libfuse's input and output ---- */

static ssize_t read_request(int fd, void *buf, size_t len, void *userdata)
{
    struct fs *fs = userdata;
    ssize_t n = read(fd, buf, len);
    note(buf, n);
    if (n > 0 && (current.opcode == FUSE_FSYNC || current.opcode == FUSE_FSYNCDIR))
        cpulatency_sync(fs->cpulatency);
    return n;
}

/* Files here never have set-user-ID bits (OPS_FILE_MODE), so there are none that somebody must take off: otherwise the kernel asks for the mode before each chown, which SQLite
 * does with each journal that root makes. libfuse (3.14) names this flag, but does not pass it on. */
static void amend_init(struct iovec *iov, int count)
{
    struct fuse_init_out out;
    if (count != 2 || iov[1].iov_len < sizeof out)
        return;
    memcpy(&out, iov[1].iov_base, sizeof out);
    out.flags |= FUSE_HANDLE_KILLPRIV;
    memcpy(iov[1].iov_base, &out, sizeof out);
}

static ssize_t write_reply(int fd, struct iovec *iov, int count, void *userdata)
{
    struct fs *fs = userdata;
    if (init_mode == INIT_SWALLOWING) {
        ssize_t total = 0;
        for (int i = 0; i < count; i++)
            total += (ssize_t)iov[i].iov_len;
        return total;
    }
    if (init_mode == INIT_ANSWERING) {
        amend_init(iov, count);
        passthrough_amend_init(fs, iov, count);
    }
    return writev(fd, iov, count);
}

/* ---- workers ---- */

/* READ_SIZE bytes for requests, every page of it there already: when the kernel copies a request and has to wait for a page, and this
 * process is killed at that moment, it does not send the request again but fails it: the application would see EIO. NULL: no memory. */
static void *request_buffer(void)
{
    void *bytes = malloc(READ_SIZE);
    if (bytes)
        memset(bytes, 0xff, READ_SIZE); /* not zero: calloc would leave the pages to the first use */
    return bytes;
}

/* The kernel gives a request to the reader that has waited longest. If all workers waited there, each fsync of a single application would go
 * to another one, whose stack and registers nobody has touched for a while: about 20 µs of each commit (measured). So only
 * SESSION_READERS wait; as long as one is left when another got a request, nobody needs to be woken. For the same reason it is the last one that
 * began to wait which is woken: a rollback journal's requests come two at a time (RELEASE, for which nobody waits, and the next one). */
static bool become_reader(struct session *s)
{
    struct parked me = {.wanted = PTHREAD_COND_INITIALIZER};
    pthread_mutex_lock(&s->turn);
    while (s->readers >= SESSION_READERS && !fuse_session_exited(s->se)) {
        me.called = false;
        me.below = s->parked;
        s->parked = &me;
        while (!me.called)
            pthread_cond_wait(&me.wanted, &s->turn);
    }
    s->readers++;
    pthread_mutex_unlock(&s->turn);
    return !fuse_session_exited(s->se);
}

static void call_one(struct session *s)
{
    struct parked *p = s->parked;
    s->parked = p->below;
    p->called = true;
    pthread_cond_signal(&p->wanted);
}

static void stop_reading(struct session *s, bool end)
{
    if (end)
        fuse_session_exit(s->se);
    pthread_mutex_lock(&s->turn);
    s->readers--;
    if (s->readers == 0 && s->parked)
        call_one(s);
    while (end && s->parked)
        call_one(s);
    pthread_mutex_unlock(&s->turn);
}

static void *work(void *arg)
{
    struct session *s = arg;
    struct fuse_buf buf = {.mem = request_buffer()}; /* NULL: libfuse tries again */
    while (become_reader(s)) {
        int n = fuse_session_receive_buf(s->se, &buf);
        bool again = n == -EINTR || n == -EAGAIN;
        if (n <= 0 && !again) /* 0: the mount is gone (ENODEV) */
            __atomic_store_n(&s->error, -n, __ATOMIC_RELAXED);
        stop_reading(s, n <= 0 && !again);
        if (n > 0)
            fuse_session_process_buf(s->se, &buf);
    }
    free(buf.mem);
    return NULL;
}

/* ---- INIT ---- */

static void process(struct session *s, void *bytes, size_t n)
{
    struct fuse_buf buf = {.size = n, .mem = bytes};
    note(bytes, (ssize_t)n);
    fuse_session_process_buf(s->se, &buf);
}

static void set_init_state(struct fs *fs, uint32_t state)
{
    __atomic_store_n(&table_shared(fs->table)->init_state, state, __ATOMIC_SEQ_CST);
}

static int answer_init(struct session *s, void *bytes, size_t n, struct err *e)
{
    struct shared *sh = table_shared(s->fs->table);
    const struct fuse_in_header *h = bytes;
    if (n < sizeof *h || h->opcode != FUSE_INIT || n > SHARED_INIT_MAX)
        return err_set(e, -EPROTO, "the first request on this mount is not INIT (opcode %u)", n >= sizeof *h ? h->opcode : 0);
    memcpy(sh->init, bytes, n);
    sh->init_len = (uint32_t)n;
    set_init_state(s->fs, INIT_RECEIVED);
    passthrough_saw_init(s->fs, bytes, n);
    init_mode = INIT_ANSWERING;
    process(s, bytes, n);
    init_mode = INIT_ORDINARY;
    if (fuse_session_exited(s->se))
        return err_set(e, -EPROTO, "the kernel's version of FUSE is not supported");
    set_init_state(s->fs, INIT_REPLIED);
    return 0;
}

static int replay_init(struct session *s, void *bytes, struct err *e)
{
    struct shared *sh = table_shared(s->fs->table);
    if (sh->init_len < sizeof(struct fuse_in_header) || sh->init_len > SHARED_INIT_MAX)
        return err_set(e, -EPROTO, "the inode table holds no INIT request");
    memcpy(bytes, sh->init, sh->init_len);
    passthrough_saw_init(s->fs, bytes, sh->init_len);
    init_mode = INIT_SWALLOWING;
    process(s, bytes, sh->init_len);
    init_mode = INIT_ORDINARY;
    if (fuse_session_exited(s->se))
        return err_set(e, -EPROTO, "libfuse does not accept the INIT request of the predecessor");
    set_init_state(s->fs, INIT_REPLIED);
    return 0;
}

/* Waits until the launcher has mounted (before, read says EPERM) and INIT is there. Bytes, or -errno. */
static ssize_t first_request(struct fs *fs, void *bytes, struct err *e)
{
    for (uint64_t until = now_ns() + MOUNT_WAIT_MS * 1000000ull;;) {
        ssize_t n = read(fs->dev_fd, bytes, READ_SIZE);
        if (n >= 0)
            return n;
        if (errno == EPERM && now_ns() < until)
            (void)poll(NULL, 0, 5);
        else if (errno != EINTR && errno != EAGAIN)
            return err_errno(e, errno, errno == EPERM ? "/dev/fuse: not mounted" : "read /dev/fuse");
    }
}

/* ---- take-over ---- */

static int ask_resend(struct fs *fs, struct err *e)
{
    struct fuse_out_header h = {.len = sizeof h, .error = NOTIFY_RESEND};
    if (write(fs->dev_fd, &h, sizeof h) == sizeof h)
        return 0;
    if (errno == EINVAL)
        return err_set(e, -EOPNOTSUPP, "this kernel cannot send requests again (FUSE_NOTIFY_RESEND came with Linux 6.9): the mount "
                                       "has to be made afresh");
    return err_errno(e, errno, "ask the kernel to send requests again");
}

static void run_collected(void *arg)
{
    struct collected *c = arg;
    process(c->fs->session, c->bytes, c->len);
    free(c);
}

static int collect(struct fs *fs, struct collection *all, const void *bytes, size_t n)
{
    if (all->n == all->room) {
        size_t room = all->room ? 2 * all->room : 64;
        struct collected **bigger = reallocarray(all->item, room, sizeof(struct collected *));
        if (!bigger)
            return -ENOMEM;
        all->item = bigger;
        all->room = room;
    }
    struct collected *c = malloc(sizeof *c + n);
    if (!c)
        return -ENOMEM;
    c->fs = fs;
    c->len = n;
    memcpy(c->bytes, bytes, n);
    all->item[all->n++] = c;
    return 0;
}

static int set_nonblocking(int fd, bool on, struct err *e)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK))
        return err_errno(e, errno, "/dev/fuse");
    return 0;
}

/* Reads until all resent requests have been seen. *init: the INIT request was among them, as item 0. 0 or -errno; what was collected is
 * the caller's either way. */
static int collect_resent(struct fs *fs, void *bytes, struct collection *all, bool *init, struct err *e)
{
    int rc = set_nonblocking(fs->dev_fd, true, e);
    bool going_on = rc == 0;
    while (going_on) {
        ssize_t n = read(fs->dev_fd, bytes, READ_SIZE);
        if (n < 0 && (errno == EINTR || errno == ENOENT))
            continue; /* ENOENT: that request was aborted while it was read */
        if (n < 0) {
            if (errno != EAGAIN)
                rc = err_errno(e, errno, "read /dev/fuse");
            break;
        }
        const struct fuse_in_header *h = bytes;
        if (collect(fs, all, bytes, (size_t)n))
            rc = err_set(e, -ENOMEM, "out of memory for requests of the predecessor");
        *init |= h->opcode == FUSE_INIT;
        /* FORGET and INTERRUPT come before the queue and never carry the bit. */
        going_on = rc == 0 && ((h->unique & RESEND_BIT) || h->opcode == FUSE_FORGET || h->opcode == FUSE_BATCH_FORGET ||
                               h->opcode == FUSE_INTERRUPT);
    }
    int back = set_nonblocking(fs->dev_fd, false, e);
    return rc ? rc : back;
}

static void start_collected(struct fs *fs, struct collection *all)
{
    uint64_t *uniques = calloc(all->n + 1, sizeof *uniques);
    size_t resent = 0;
    for (size_t k = 0; k < all->n && uniques; k++) {
        const struct fuse_in_header *h = (const void *)all->item[k]->bytes;
        if (h->unique & RESEND_BIT)
            uniques[resent++] = h->unique & ~RESEND_BIT;
    }
    unsigned stale = uniques ? slots_free_stale(table_shared(fs->table), uniques, resent) : 0;
    log_info("session", "took over the mount: %zu unanswered requests, %u slots were stale, %u inodes", resent, stale,
             table_count(fs->table));
    for (size_t k = 0; k < all->n; k++)
        spare_defer(fs->spare, &all->item[k]->work, run_collected, all->item[k]);
    free(uniques);
    free(all->item);
    *all = (struct collection){0};
}

static int take_over(struct session *s, void *bytes, struct err *e)
{
    struct fs *fs = s->fs;
    struct collection *all = &s->collected;
    bool init = false;
    uint32_t state = table_shared(fs->table)->init_state;
    int rc = state == INIT_REPLIED ? replay_init(s, bytes, e) : 0;
    if (rc == 0)
        rc = ask_resend(fs, e);
    if (rc == 0)
        rc = collect_resent(fs, bytes, all, &init, e);
    if (rc == 0 && state == INIT_RECEIVED) {
        if (init) {
            rc = answer_init(s, all->item[0]->bytes, all->item[0]->len, e);
            free(all->item[0]);
            all->item[0] = all->item[--all->n]; /* nothing else can have come before the answer */
        } else
            rc = replay_init(s, bytes, e);
    }
    s->took_over = rc == 0;
    return rc;
}

static int begin(struct session *s, struct err *e)
{
    void *bytes = request_buffer();
    if (!bytes)
        return err_set(e, -ENOMEM, "out of memory");
    int rc = set_nonblocking(s->fs->dev_fd, false, e); /* a predecessor may have died with it set */
    if (rc == 0 && table_shared(s->fs->table)->init_state == INIT_NONE) {
        ssize_t n = first_request(s->fs, bytes, e);
        rc = n < 0 ? (int)n : answer_init(s, bytes, (size_t)n, e);
    } else if (rc == 0)
        rc = take_over(s, bytes, e);
    free(bytes);
    return rc;
}

/* ---- running ---- */

static int new_session(struct session *s, const struct fuse_lowlevel_ops *ops, size_t ops_size, struct err *e)
{
    static const struct fuse_custom_io io = {.read = read_request, .writev = write_reply};
    char name[] = "edgefs-fs";
    char *argv[] = {name, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(1, argv);
    s->se = fuse_session_new(&args, ops, ops_size, s->fs);
    fuse_opt_free_args(&args);
    if (!s->se)
        return err_set(e, -EINVAL, "libfuse refuses the session");
    int rc = fuse_session_custom_io(s->se, &io, s->fs->dev_fd);
    return rc ? err_set(e, rc, "libfuse refuses the descriptor of /dev/fuse") : 0;
}

int session_open(struct fs *fs, const struct fuse_lowlevel_ops *ops, size_t ops_size, struct err *e)
{
    struct session *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(e, -ENOMEM, "out of memory");
    s->fs = fs;
    pthread_mutex_init(&s->turn, NULL);
    fs->session = s;
    int rc = new_session(s, ops, ops_size, e);
    if (rc == 0)
        rc = begin(s, e);
    return rc;
}

int session_run(struct fs *fs, void (*ready)(struct fs *fs), struct err *e)
{
    struct session *s = fs->session;
    pthread_t first = 0;
    int rc = 0;
    if (s->took_over)
        start_collected(fs, &s->collected);
    for (int i = 0; i < SESSION_WORKERS && rc == 0; i++)
        rc = spare_thread(work, s, i ? NULL : &first, e);
    if (rc)
        return rc;
    ready(fs);
    /* Whoever sees the end of the mount ends the process: there is nothing to tidy up that a kill would leave. */
    pthread_join(first, NULL);
    int error = __atomic_load_n(&s->error, __ATOMIC_RELAXED);
    return error ? err_errno(e, error, "read /dev/fuse") : 0;
}
