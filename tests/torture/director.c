#include "tests/torture/director.h"

#include "lib/util.h"
#include "tests/torture/actor.h"
#include "tests/torture/check.h"
#include "tests/torture/content.h"
#include "tests/torture/files.h"
#include "tests/torture/statement.h"
#include "tests/torture/watcher.h"
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ACTORS 4
#define AGAIN_NS UINT64_C(10000000000)

struct director {
    struct files files;
    struct actor actors[ACTORS];
    pid_t watcher; /* 0: there is none now */
    unsigned seed;
    FILE *trace;
    long steps, checks, retries;
    char error[2000];
};

/* ---- helpers ---- */

static bool fails(struct director *d, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool fails(struct director *d, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    (void)vsnprintf(d->error, sizeof d->error, format, ap);
    va_end(ap);
    return false;
}

static void note(struct director *d, const char *text)
{
    if (d->trace)
        (void)fprintf(d->trace, "    %s\n", text);
}

static bool close_actor(struct director *d, struct actor *a)
{
    char reply[ACTOR_REPLY];
    d->retries += a->retries;
    a->retries = 0;
    return actor_close(a, reply) || fails(d, "%s", reply);
}

static void kill_actor(struct director *d, struct actor *a)
{
    d->retries += a->retries;
    a->retries = 0;
    actor_kill(a);
}

static bool uses(const struct actor *a, int database)
{
    return a->pid && (a->database == database || a->attached == database);
}

/* Nobody has it open any more, and it is one file: what cp, mv and rm need, with plain SQLite as well. */
static bool evict(struct director *d, int database)
{
    for (int i = 0; i < ACTORS; i++)
        if (uses(&d->actors[i], database) && !close_actor(d, &d->actors[i]))
            return false;
    return files_settle(&d->files, database, d->error, sizeof d->error);
}

static bool to_actor(struct director *d, struct actor *a, const char *line, bool *done)
{
    char reply[ACTOR_REPLY];
    *done = false;
    if (!actor_send(a, ACTOR_BOTH, line))
        return fails(d, "the process of a connection died");
    if (!actor_receive(a, reply))
        return fails(d, "%s", reply);
    note(d, reply);
    int rc = 1;
    *done = sscanf(reply, "ok %*d %*d %*d %*d %*d %d", &rc) == 1 && rc == SQLITE_OK;
    return true;
}

static void start_watching(struct director *d)
{
    if (!d->watcher)
        d->watcher = watcher_start(d->files.root[FILES_REPLICA], files_names, d->seed++);
}

/* Before a file takes another's place. On the primary nobody has it open then. A connection on the replica that lives through it keeps the old file, but one that was opened
 * before and reads for the first time (or opens its WAL) afterwards meets the WAL of the new one, as it would in any directory (How To Corrupt, §2.4); tests/integration/test_anew.py
 * has readers for which that is no question. "watched" at the end of the step keeps the reader. */
static void stop_watching(struct director *d)
{
    if (d->watcher > 0) {
        (void)kill(d->watcher, SIGKILL);
        (void)waitpid(d->watcher, NULL, 0);
    }
    d->watcher = 0;
}

/* ---- steps ---- */

static bool step_open(struct director *d, int c, int database)
{
    struct actor *a = &d->actors[c];
    char reply[ACTOR_REPLY];
    if (a->pid && !close_actor(d, a))
        return false;
    a->database = database;
    return actor_start(a, d->files.root[FILES_MODEL], d->files.root[FILES_PRIMARY], files_name(&d->files, database), reply) || fails(d, "%s", reply);
}

static bool step_attach(struct director *d, struct actor *a, int database)
{
    char line[200];
    bool done;
    if (a->database == database || a->attached >= 0)
        return true;
    (void)snprintf(line, sizeof line, "attach 0 %s", files_name(&d->files, database));
    if (!to_actor(d, a, line, &done))
        return false;
    if (done)
        a->attached = database;
    return true;
}

static bool step_backup(struct director *d, struct actor *a, unsigned seed)
{
    char line[4400], path[4200];
    bool done;
    if (!files_source(&d->files, seed, path, sizeof path, d->error, sizeof d->error))
        return false;
    (void)snprintf(line, sizeof line, "backup 0 %u %s", seed, path);
    return to_actor(d, a, line, &done);
}

static bool nobody_in_a_transaction(const struct director *d)
{
    for (int i = 0; i < ACTORS; i++)
        if (d->actors[i].pid && (d->actors[i].state.in_transaction || d->actors[i].state.exclusive))
            return false;
    return true;
}

/* crash C USEC STEP…: a transaction of this one step, killed in the middle. Whether it took place only the database can tell; the model then follows. */
static bool step_crash(struct director *d, struct actor *a, useconds_t after, const char *step)
{
    int64_t before, now;
    int database = a->database;
    char reply[ACTOR_REPLY];
    if (!nobody_in_a_transaction(d) || a->state.fragile || !files_transactions(&d->files, database, &before))
        return true;
    if (!actor_send(a, ACTOR_MOUNT, step))
        return fails(d, "the process of a connection died");
    usleep(after);
    kill_actor(d, a);
    if (!files_transactions(&d->files, database, &now))
        return fails(d, "%s cannot be read after a process died in a transaction", files_name(&d->files, database));
    note(d, now == before ? "it did not take place" : "it took place");
    if (now == before)
        return true;
    if (now != before + 1)
        return fails(d, "%s: inv.n went from %" PRId64 " to %" PRId64 " in one transaction", files_name(&d->files, database), before, now);
    struct actor other = {0};
    other.database = database;
    if (!actor_start(&other, d->files.root[FILES_MODEL], d->files.root[FILES_PRIMARY], files_name(&d->files, database), reply) ||
        !actor_send(&other, ACTOR_MODEL, step) || !actor_receive(&other, reply))
        return fails(d, "%s", reply);
    if (strncmp(reply, "one 0", 5) != 0)
        return fails(d, "committed in the mount, refused by the model: %s", reply);
    return actor_close(&other, reply) || fails(d, "%s", reply);
}

static bool step_nodekill(struct director *d, const char *node, const char *program)
{
    char line[100];
    (void)printf("@kill %s %s\n", node, program);
    (void)fflush(stdout);
    return fgets(line, sizeof line, stdin) || fails(d, "whoever drives this went away");
}

/* check soft: transactions that nobody can read past are ended, the others stay open; who keeps a database locked for itself closes it.
 * check locked: the latter stays, too. check hard: all close. */
static bool step_check(struct director *d, const char *how)
{
    bool all = strcmp(how, "hard") == 0, locked = strcmp(how, "locked") == 0;
    for (int i = 0; i < ACTORS; i++) {
        struct actor *a = &d->actors[i];
        bool done;
        if (!a->pid)
            continue;
        if (all || (a->state.exclusive && !locked)) {
            if (!close_actor(d, a))
                return false;
        } else if (a->state.in_transaction && (a->state.non_wal || a->state.exclusive)) {
            if (!to_actor(d, a, "rollback 0", &done))
                return false;
        }
    }
    d->checks++;
    for (int i = 0; i < FILES_DATABASES; i++) {
        struct actor *owner = NULL;
        for (int k = 0; k < ACTORS; k++)
            if (d->actors[k].pid && d->actors[k].database == i && d->actors[k].state.exclusive)
                owner = &d->actors[k];
        if (!check_database(&d->files, i, owner, d->error, sizeof d->error))
            return false;
    }
    start_watching(d);
    return true;
}

static bool watcher_well(struct director *d)
{
    int status;
    if (d->watcher <= 0 || waitpid(d->watcher, &status, WNOHANG) == 0)
        return true;
    d->watcher = -1;
    return fails(d, "a reader on the replica saw what was never committed, or an error (its line says which)");
}

static int number(const char *word, int below)
{
    return word ? atoi(word) % below : 0;
}

static bool step_of_files(struct director *d, int n, char **word, bool *known)
{
    const char *verb = word[0];
    int database = number(word[1], FILES_DATABASES);
    unsigned seed = n > 2 ? (unsigned)strtoul(word[2], NULL, 10) : 0;
    bool watched = strcmp(word[n - 1], "watched") == 0;
    *known = true;
    if ((strcmp(verb, "copyin") == 0 || strcmp(verb, "replace") == 0 || strcmp(verb, "remove") == 0 || strcmp(verb, "move") == 0) && !watched)
        stop_watching(d);
    if (strcmp(verb, "copyin") == 0)
        return evict(d, database) && files_copy_in(&d->files, database, seed, false, d->error, sizeof d->error);
    if (strcmp(verb, "replace") == 0)
        return evict(d, database) && files_copy_in(&d->files, database, seed, true, d->error, sizeof d->error);
    if (strcmp(verb, "remove") == 0)
        return evict(d, database) && files_remove(&d->files, database, d->error, sizeof d->error);
    if (strcmp(verb, "move") == 0)
        return evict(d, database) && files_move(&d->files, database, d->error, sizeof d->error);
    if (strcmp(verb, "nodekill") == 0 && n == 3)
        return step_nodekill(d, word[1], word[2]);
    if (strcmp(verb, "check") == 0)
        return step_check(d, n > 1 ? word[1] : "soft");
    *known = false;
    return true;
}

/* The text behind the k-th word. */
static const char *behind(const char *line, int k)
{
    for (; k > 0; k--) {
        line += strcspn(line, " ");
        line += strspn(line, " ");
    }
    return line;
}

static bool step_of_actor(struct director *d, int n, char **word, const char *line)
{
    const char *verb = word[0];
    bool done;
    int c = number(n > 1 ? word[1] : NULL, ACTORS);
    struct actor *a = &d->actors[c];
    if (strcmp(verb, "open") == 0)
        return step_open(d, c, number(word[2], FILES_DATABASES));
    if (!a->pid)
        return true; /* a step was left out that would have opened it */
    if (strcmp(verb, "close") == 0)
        return close_actor(d, a);
    if (strcmp(verb, "kill") == 0) {
        if (!(a->state.in_transaction && a->state.fragile))
            kill_actor(d, a);
        return true;
    }
    if (strcmp(verb, "attach") == 0)
        return step_attach(d, a, number(word[2], FILES_DATABASES));
    if (strcmp(verb, "backup") == 0)
        return step_backup(d, a, (unsigned)strtoul(word[2], NULL, 10));
    if (strcmp(verb, "crash") == 0)
        return step_crash(d, a, (useconds_t)number(word[2], 1000000), behind(line, 3));
    if (!to_actor(d, a, line, &done))
        return false;
    if (done && strcmp(verb, "detach") == 0)
        a->attached = -1;
    return true;
}

bool director_step(struct director *d, const char *line)
{
    char copy[1000];
    char *word[STATEMENT_WORDS] = {0};
    (void)snprintf(copy, sizeof copy, "%s", line);
    int n = statement_split(copy, word);
    if (n == 0 || *word[0] == '#')
        return true;
    d->steps++;
    if (d->trace) {
        (void)fprintf(d->trace, "%ld %s\n", d->steps, line);
        (void)fflush(d->trace);
    }
    bool known;
    if (!step_of_files(d, n, word, &known))
        return false;
    if (!known && !step_of_actor(d, n, word, line))
        return false;
    return watcher_well(d);
}

const char *director_error(const struct director *d)
{
    return d->error;
}

void director_numbers(const struct director *d, long *steps, long *checks, long *retries)
{
    *steps = d->steps;
    *checks = d->checks;
    *retries = d->retries + d->files.retries;
}

struct director *director_new(const char *primary, const char *replica, const char *model, FILE *trace, unsigned seed)
{
    struct director *d = calloc(1, sizeof *d);
    if (!d)
        abort();
    files_init(&d->files, primary, replica, model);
    d->trace = trace;
    for (int i = 0; i < ACTORS; i++)
        d->actors[i].database = d->actors[i].attached = -1;
    d->seed = seed;
    start_watching(d);
    return d;
}

void director_free(struct director *d)
{
    for (int i = 0; i < ACTORS; i++)
        if (d->actors[i].pid)
            kill_actor(d, &d->actors[i]);
    stop_watching(d);
    free(d);
}
