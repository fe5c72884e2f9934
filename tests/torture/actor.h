/* A connection as an application has it: a process of its own, which holds one SQLite connection to a database in the mount and the same one to
 * the model, and carries out each step on both. kill -9 ends both in the same place. */
#ifndef TORTURE_ACTOR_H
#define TORTURE_ACTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define ACTOR_REPLY 1000

struct actor_state { /* as of the last reply */
    bool in_transaction;
    bool non_wal;   /* main or x is not in WAL mode */
    bool fragile;   /* main or x has no journal on disk: to kill it inside a transaction may rightly destroy the database */
    bool exclusive; /* locking_mode=EXCLUSIVE was set */
};

struct actor {
    pid_t pid; /* 0: not running */
    int fd;
    int database, attached; /* numbers, -1 for none */
    struct actor_state state;
    long retries; /* how often the mount said busy where the model did not, and took it when asked again */
};

enum actor_side { ACTOR_BOTH, ACTOR_MODEL, ACTOR_MOUNT };

/* Starts a process with connections to `file` below both roots. False with a text in reply if it cannot. */
bool actor_start(struct actor *a, const char *model_root, const char *mount_root, const char *file, char reply[ACTOR_REPLY]);
/* Sends a line; actor_receive waits for its outcome. False: the two sides differ (reply says how), or the process is gone. */
bool actor_send(struct actor *a, enum actor_side side, const char *line);
bool actor_receive(struct actor *a, char reply[ACTOR_REPLY]);
/* Closes the connections (a transaction is rolled back; committed where there is no journal) and waits for the end of the process. */
bool actor_close(struct actor *a, char reply[ACTOR_REPLY]);
/* kill -9. */
void actor_kill(struct actor *a);

#endif
