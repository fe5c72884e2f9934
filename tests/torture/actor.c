#include "tests/torture/actor.h"

#include "lib/util.h"
#include "tests/torture/content.h"
#include "tests/torture/picture.h"
#include "tests/torture/statement.h"
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define AGAIN_NS UINT64_C(10000000000) /* how long the mount may be busy where the model is not */

struct connection {
    struct side model, mount;
    bool attached, exclusive;
    char mode[2][16];
};

/* Asks both sides, so that both have read the schema, or not. */
static void look_at_modes(struct connection *c)
{
    char mode[16], there[16];
    uint64_t deadline = now_ns() + AGAIN_NS;
    for (int i = 0; i < 1 + c->attached; i++) {
        const char *schema = i ? "x" : "main";
        statement_mode(&c->model, schema, mode, sizeof mode);
        while (statement_mode(&c->mount, schema, there, sizeof there), *mode && !*there && now_ns() < deadline)
            usleep(500);
        if (*mode)
            memcpy(c->mode[i], mode, sizeof mode);
    }
}

static bool any_mode(const struct connection *c, const char *mode)
{
    return strcmp(c->mode[0], mode) == 0 || (c->attached && strcmp(c->mode[1], mode) == 0);
}

static bool in_transaction(const struct connection *c)
{
    return !sqlite3_get_autocommit(c->model.db);
}

static void state_of(const struct connection *c, struct actor_state *s)
{
    s->in_transaction = in_transaction(c);
    s->non_wal = strcmp(c->mode[0], "wal") != 0 || (c->attached && strcmp(c->mode[1], "wal") != 0);
    s->fragile = any_mode(c, "off") || any_mode(c, "memory");
    s->exclusive = c->exclusive;
}

/* What SQLite's documentation leaves undefined is not asked for: without a journal nothing can be rolled back. Changes the words so that the
 * step is defined; false: it is left out. */
static bool make_defined(const struct connection *c, char **word)
{
    bool off = any_mode(c, "off");
    if (off && strcmp(word[0], "begin") == 0)
        word[2] = (char *)"exclusive";
    if (off && (strcmp(word[0], "rollback") == 0))
        word[0] = (char *)"commit";
    if (off && (strcmp(word[0], "savepoint") == 0 || strcmp(word[0], "rollbackto") == 0 || strcmp(word[0], "blob") == 0 ||
                strcmp(word[0], "setup") == 0 || strcmp(word[0], "backup") == 0))
        return false;
    if (strcmp(word[0], "pragma") == 0 && in_transaction(c) && (strcmp(word[3], "journal_mode") == 0 || strcmp(word[3], "locking_mode") == 0))
        return false;
    return true;
}

static bool asks_state(char *const *word)
{
    return strcmp(word[0], "checkpoint") == 0 || (strcmp(word[0], "pragma") == 0 && strcmp(word[3], "journal_mode") == 0);
}

static bool agree(int want, int got, const char *want_text, const char *got_text, char *const *word)
{
    if (want != got)
        return false;
    if (want != SQLITE_OK || strcmp(want_text, got_text) == 0)
        return true;
    /* Another process may stand in a checkpoint's way here and not there, or the other way round. */
    return strcmp(word[0], "checkpoint") == 0 && (strcmp(word[3], "passive") == 0 || *want_text != '0');
}

static void run_both(struct connection *c, int n, char **word, char *reply, size_t room)
{
    char want[STATEMENT_TEXT], got[STATEMENT_TEXT];
    int rc = statement_run(&c->model, n, word, want), there;
    uint64_t deadline = now_ns() + AGAIN_NS;
    long retries = 0;
    for (;; retries++) {
        there = statement_run(&c->mount, n, word, got);
        if (agree(rc, there, want, got, word))
            break;
        bool busy = there == SQLITE_BUSY || there == SQLITE_LOCKED;
        if ((!busy && !(there == rc && asks_state(word))) || now_ns() > deadline) {
            (void)snprintf(reply, room, "bad the model says %d (%s), the mount %d (%s: %s, system error %d)", rc, want, there, got,
                           sqlite3_errmsg(c->mount.db), sqlite3_system_errno(c->mount.db));
            return;
        }
        usleep(500);
    }
    if (rc == SQLITE_OK && strcmp(word[0], "pragma") == 0 && strcmp(word[3], "locking_mode") == 0)
        c->exclusive = c->exclusive || strcmp(want, "exclusive") == 0;
    if (rc == SQLITE_OK && strcmp(word[0], "attach") == 0)
        c->attached = true;
    if (rc == SQLITE_OK && strcmp(word[0], "detach") == 0)
        c->attached = false;
    look_at_modes(c);
    struct actor_state s;
    state_of(c, &s);
    (void)snprintf(reply, room, "ok %ld %d %d %d %d %d %s", retries, s.in_transaction, s.non_wal, s.fragile, s.exclusive, rc, want);
}

/* A whole transaction of one step, on one side: what a process is doing when it is killed in the middle. */
static void run_one(struct side *s, int n, char **word, char *reply, size_t room)
{
    char text[STATEMENT_TEXT];
    uint64_t deadline = now_ns() + AGAIN_NS;
    int rc;
    s->touched[0] = s->touched[1] = s->marked[0] = s->marked[1] = false;
    while ((rc = sqlite3_exec(s->db, "BEGIN IMMEDIATE", NULL, NULL, NULL)) == SQLITE_BUSY && now_ns() < deadline)
        usleep(500);
    if (rc == SQLITE_OK)
        rc = statement_run(s, n, word, text);
    int end = rc;
    while (rc == SQLITE_OK && (end = statement_commit(s)) == SQLITE_BUSY && now_ns() < deadline)
        usleep(500);
    if (end != SQLITE_OK && !sqlite3_get_autocommit(s->db))
        (void)statement_rollback(s);
    (void)snprintf(reply, room, "one %d %s", end, end ? sqlite3_errmsg(s->db) : "");
}

/* Pictures of both sides as this connection sees them: for databases that it keeps locked. The images stay here. */
static void run_picture(struct connection *c, const char *schema, char *reply, size_t room)
{
    struct picture a, b;
    picture_take(c->model.db, schema, &a);
    picture_take(c->mount.db, schema, &b);
    (void)snprintf(reply, room, "picture %d %d %d %" PRIx64 " %d %d %" PRIx64 " %" PRIx64 " %s %s", a.rc || b.rc, a.rc, a.empty, a.logical, b.rc,
                   b.empty, b.logical, b.checksum, a.error, b.error);
    picture_free(&a);
    picture_free(&b);
}

static bool open_side(struct side *s, const char *root, const char *file, char *reply, size_t room)
{
    char path[4200];
    (void)snprintf(path, sizeof path, "%s/%s", root, file);
    s->root = root;
    int rc = sqlite3_open(path, &s->db);
    if (rc == SQLITE_OK)
        rc = content_register(s->db);
    if (rc != SQLITE_OK)
        (void)snprintf(reply, room, "bad open of %s: %d %s", file, rc, sqlite3_errmsg(s->db));
    return rc == SQLITE_OK;
}

static void finish(struct connection *c)
{
    if (in_transaction(c) && (any_mode(c, "off"))) {
        (void)statement_commit(&c->model);
        (void)statement_commit(&c->mount);
    }
    (void)sqlite3_close(c->model.db);
    (void)sqlite3_close(c->mount.db);
}

static void serve(struct connection *c, int fd, char *reply)
{
    char line[1000];
    for (;;) {
        ssize_t n = recv(fd, line, sizeof line - 1, 0);
        if (n <= 0)
            _exit(0);
        line[n] = 0;
        char *word[STATEMENT_WORDS] = {(char *)"", (char *)"", (char *)"", (char *)"", (char *)""}; /* as many as are looked at below */
        int words = statement_split(line + 1, word);
        if (words == 1 && strcmp(word[0], "bye") == 0) {
            finish(c);
            _exit(0);
        }
        if (words == 2 && strcmp(word[0], "picture") == 0)
            run_picture(c, word[1], reply, ACTOR_REPLY);
        else if (*line != '0' + ACTOR_BOTH)
            run_one(*line == '0' + ACTOR_MODEL ? &c->model : &c->mount, words, word, reply, ACTOR_REPLY);
        else if (make_defined(c, word))
            run_both(c, words, word, reply, ACTOR_REPLY);
        else
            (void)snprintf(reply, ACTOR_REPLY, "skip");
        if (send(fd, reply, strlen(reply) + 1, MSG_NOSIGNAL) < 0)
            _exit(0);
    }
}

static void be_actor(int fd, const char *model_root, const char *mount_root, const char *file)
{
    char reply[ACTOR_REPLY] = "ok 0 0 0 0 0 0 ";
    struct connection c = {0};
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    bool good = open_side(&c.model, model_root, file, reply, sizeof reply) && open_side(&c.mount, mount_root, file, reply, sizeof reply);
    if (send(fd, reply, strlen(reply) + 1, MSG_NOSIGNAL) < 0 || !good)
        _exit(1);
    serve(&c, fd, reply);
}

bool actor_start(struct actor *a, const char *model_root, const char *mount_root, const char *file, char reply[ACTOR_REPLY])
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds)) {
        (void)snprintf(reply, ACTOR_REPLY, "socketpair: %s", strerror(errno));
        return false;
    }
    (void)fflush(NULL);
    a->pid = fork();
    if (a->pid == 0) {
        (void)close(fds[0]);
        be_actor(fds[1], model_root, mount_root, file);
    }
    (void)close(fds[1]);
    a->fd = fds[0];
    a->attached = -1;
    memset(&a->state, 0, sizeof a->state);
    return actor_receive(a, reply);
}

bool actor_send(struct actor *a, enum actor_side side, const char *line)
{
    char text[1000];
    int n = snprintf(text, sizeof text, "%c%s", '0' + (int)side, line);
    return send(a->fd, text, (size_t)n, MSG_NOSIGNAL) == n;
}

bool actor_receive(struct actor *a, char reply[ACTOR_REPLY])
{
    ssize_t n = recv(a->fd, reply, ACTOR_REPLY - 1, 0);
    if (n <= 0) {
        (void)snprintf(reply, ACTOR_REPLY, "the process of the connection died");
        return false;
    }
    reply[n] = 0;
    long retries;
    int t, w, u, e;
    if (sscanf(reply, "ok %ld %d %d %d %d", &retries, &t, &w, &u, &e) == 5) {
        a->retries += retries;
        a->state = (struct actor_state){.in_transaction = t, .non_wal = w, .fragile = u, .exclusive = e};
    }
    return strncmp(reply, "bad", 3) != 0;
}

static void reap(struct actor *a)
{
    (void)waitpid(a->pid, NULL, 0);
    (void)close(a->fd);
    a->pid = 0;
    a->database = a->attached = -1;
}

bool actor_close(struct actor *a, char reply[ACTOR_REPLY])
{
    if (!actor_send(a, ACTOR_BOTH, "bye")) {
        (void)snprintf(reply, ACTOR_REPLY, "the process of the connection died");
        return false;
    }
    reap(a);
    return true;
}

void actor_kill(struct actor *a)
{
    (void)kill(a->pid, SIGKILL);
    reap(a);
}
