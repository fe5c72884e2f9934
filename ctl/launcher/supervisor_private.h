/* What supervisor.c (event loop, states), supervisor_start.c (everything before the loop) and supervisor_upgrade.c share. */
#ifndef EDGEFS_LAUNCHER_SUPERVISOR_PRIVATE_H
#define EDGEFS_LAUNCHER_SUPERVISOR_PRIVATE_H

#include "ctl/launcher/children.h"
#include "ctl/launcher/control.h"
#include "ctl/launcher/datadir.h"
#include "ctl/launcher/supervisor.h"
#include <limits.h>

#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)

enum state {
    STATE_FS,
    STATE_PROBE,
    STATE_REPLICATOR,
    STATE_UP,
    STATE_STOP_PROXY,
    STATE_STOP_APP,
    STATE_STOP_REPLICATOR,
    STATE_UNMOUNT,
    STATE_STOP_FS,
    STATE_DONE,
};

enum child_id { FS, REPLICATOR, PROXY, CHILDREN }; /* PROXY: only if `proxy` is configured */

struct upgrade {
    uint64_t client; /* who asked; it may be gone */
    int step;        /* an enum child_id: the one being replaced; CHILDREN: no upgrade is going on */
    pid_t old_pid;
    char old_version[CHILD_VERSION_MAX + 1];
    uint64_t began, due;
};

struct supervisor {
    const struct supervisor_options *o;
    struct inherited inherited;
    enum state state;
    uint64_t due;      /* of the state; CHILD_NEVER */
    uint64_t deadline; /* UNMOUNT: when to stop being polite */
    bool lazily;       /* UNMOUNT: politeness has ended */
    uint64_t began;    /* of the launcher */
    int status;        /* to exit with; -1: the application's, or 0 */
    bool said_busy;

    struct datadir data;
    char *mount_point;
    bool mounted;
    bool can_hand_over; /* a live mount to a new edgefs-fs */
    int fuse, table, hooks, mountinfo, signals;
    int mount_point_lock;
    struct control control;
    uint64_t stop_client; /* who asked to stop; 0: nobody */
    struct keeper *keeper;
    struct keeper *listeners; /* the proxy's listening sockets: while it is replaced, clients wait in their backlogs */

    char paths[CHILDREN][PATH_MAX]; /* of the programs */
    char *args[12];
    struct child children[CHILDREN];
    pid_t app;        /* 0: none */
    pid_t helper;     /* 0: none. A process that does for a state what could block: PROBE: stat; UNMOUNT: umount2 */
    int app_status;   /* exit status once it ended; -1 */
    struct upgrade upgrade;
};

/* Everything up to the mount, in the order of its numbers. 0; or -errno with a message, and supervisor_release() cleans up. */
int supervisor_prepare(struct supervisor *s, struct err *e);
/* Mounts with fresh descriptors; also after the mount was lost. 0 or -errno. */
int supervisor_mount(struct supervisor *s, struct err *e);
void supervisor_release(struct supervisor *s);

static inline bool supervisor_has(const struct supervisor *s, int child)
{
    return child != PROXY || s->o->config->n_proxies > 0;
}
static inline struct keeper *supervisor_keeper(struct supervisor *s, int child)
{
    return child == PROXY ? s->listeners : s->keeper;
}

/* An upgrade: begin it, look whether the next step is due. */
void upgrade_begin(struct supervisor *s, uint64_t client);
void upgrade_step(struct supervisor *s, uint64_t now);
static inline bool upgrade_running(const struct supervisor *s)
{
    return s->upgrade.step != CHILDREN;
}

#endif
