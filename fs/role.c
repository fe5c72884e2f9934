#include "fs/role.h"

#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

/* What was found out about a thread: tid in the high half, when (in half seconds) in the low, its lowest bit: yes or no. */
#define CACHE 256u
static uint64_t cache[CACHE]; /* atomic */

enum hooks_role role_get(struct fs *fs)
{
    return (enum hooks_role)__atomic_load_n(&table_shared(fs->table)->role, __ATOMIC_ACQUIRE);
}

void role_set(struct fs *fs, enum hooks_role role, const char *primary, size_t len)
{
    struct shared *sh = table_shared(fs->table);
    char name[SHARED_PRIMARY_MAX + 1] = {0};
    memcpy(name, primary, MIN(len, (size_t)SHARED_PRIMARY_MAX));
    table_lock(fs->table);
    table_set(fs->table, sh->role, (uint32_t)role);
    table_put(fs->table, sh->primary, name, sizeof name);
    table_commit(fs->table);
    table_unlock(fs->table);
}

void role_primary(struct fs *fs, char *buf)
{
    table_lock(fs->table);
    memcpy(buf, table_shared(fs->table)->primary, SHARED_PRIMARY_MAX + 1);
    table_unlock(fs->table);
    buf[SHARED_PRIMARY_MAX] = 0;
}

#define STAT_MAX 1024

/* A field of /proc/PID/stat (proc(5); 3 or later) as text within buf[STAT_MAX]; NULL if there is no such process. */
static const char *stat_field(pid_t pid, int which, char *buf)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    ssize_t n = read(fd, buf, STAT_MAX - 1);
    if (n <= 0)
        return NULL;
    buf[n] = 0;
    /* Field 2 is the name in parentheses and may hold anything; the fields after its last ')' are plain. */
    char *p = strrchr(buf, ')');
    for (int field = 2; p && field < which; field++)
        p = strchr(p + 1, ' ');
    return p ? p + 1 : NULL;
}

/* Start time of a process in clock ticks since boot, 0 if there is no such process. */
static uint64_t start_time(pid_t pid)
{
    char buf[STAT_MAX];
    const char *field = stat_field(pid, 22, buf);
    return field ? strtoull(field, NULL, 10) : 0;
}

void role_set_replicator(struct fs *fs, pid_t pid)
{
    struct shared *sh = table_shared(fs->table);
    table_set(fs->table, sh->replicator_pid, (int32_t)pid);
    table_set(fs->table, sh->replicator_start, pid ? start_time(pid) : 0);
    table_commit(fs->table);
    for (unsigned i = 0; i < CACHE; i++)
        __atomic_store_n(&cache[i], 0, __ATOMIC_RELAXED);
}

bool role_replicator_alive(struct fs *fs)
{
    const struct shared *sh = table_shared(fs->table);
    return sh->replicator_pid && sh->replicator_start && start_time(sh->replicator_pid) == sh->replicator_start;
}

bool role_replicator_dying(struct fs *fs)
{
    char buf[STAT_MAX];
    pid_t pid = table_shared(fs->table)->replicator_pid;
    const char *state = pid ? stat_field(pid, 3, buf) : NULL;
    return state && (*state == 'Z' || *state == 'X');
}

bool role_is_replicator(struct fs *fs, pid_t tid)
{
    pid_t pid = __atomic_load_n(&table_shared(fs->table)->replicator_pid, __ATOMIC_RELAXED);
    if (pid == 0 || tid == 0)
        return false;
    if (tid == pid)
        return true;
    uint32_t now = (uint32_t)(now_ns() / 500000000u) << 1;
    uint64_t *c = &cache[(uint32_t)tid % CACHE];
    uint64_t known = __atomic_load_n(c, __ATOMIC_RELAXED);
    if (known >> 32 == (uint32_t)tid && now - ((uint32_t)known & ~1u) <= 2)
        return known & 1;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d", pid, tid);
    bool yes = access(path, F_OK) == 0;
    __atomic_store_n(c, (uint64_t)(uint32_t)tid << 32 | now | yes, __ATOMIC_RELAXED);
    return yes;
}
