#include "ctl/launcher/supervisor_private.h"

#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <stdio.h>

#define GRACE_NS (2 * SECOND)
#define READY_NS (60 * SECOND) /* then the client is told; the program goes on starting */

static const char *version_of(const char *text)
{
    return *text ? text : "version unknown";
}

static void finish(struct supervisor *s, char kind, const char *text)
{
    log_write(kind == '0' ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR, "launcher", "upgrade: %s", text);
    control_say(&s->control, s->upgrade.client, kind, "%s", text);
    s->upgrade.step = CHILDREN;
}

static void replace(struct supervisor *s, int which, uint64_t now)
{
    struct child *c = &s->children[which];
    s->upgrade.step = which;
    s->upgrade.old_pid = c->pid;
    s->upgrade.began = now;
    s->upgrade.due = now + GRACE_NS + READY_NS;
    memcpy(s->upgrade.old_version, c->version, sizeof s->upgrade.old_version);
    child_end(c, GRACE_NS, true);
}

void upgrade_begin(struct supervisor *s, uint64_t client)
{
    if (upgrade_running(s)) {
        control_say(&s->control, client, '!', "another upgrade is going on");
        return;
    }
    if (s->state != STATE_UP) {
        control_say(&s->control, client, '!', "the node is %s", s->state < STATE_UP ? "still starting" : "stopping");
        return;
    }
    for (int i = 0; i < CHILDREN; i++)
        if (supervisor_has(s, i) && access(s->paths[i], X_OK)) {
            control_say(&s->control, client, '!', "%s: %s", s->paths[i], strerror(errno));
            return;
        }
    s->upgrade.client = client;
    log_info("launcher", "upgrade: replacing the programs by those in %s", s->o->programs);
    if (s->can_hand_over) {
        replace(s, FS, now_ns());
        return;
    }
    control_say(&s->control, client, '+', "edgefs-fs stays: this kernel cannot hand a mount over (6.9 can); stop and start the node for that");
    replace(s, REPLICATOR, now_ns());
}

void upgrade_step(struct supervisor *s, uint64_t now)
{
    if (!upgrade_running(s))
        return;
    struct upgrade *u = &s->upgrade;
    const struct child *c = &s->children[u->step];
    char text[256];
    if (s->state != STATE_UP) {
        finish(s, '!', "the node is stopping");
    } else if (c->state == CHILD_READY && c->pid != u->old_pid) {
        char old[CHILD_VERSION_MAX + 32] = "was down";
        if (u->old_pid)
            snprintf(old, sizeof old, "%s (pid %d)", version_of(u->old_version), (int)u->old_pid);
        snprintf(text, sizeof text, "%s: %s -> %s (pid %d), ready after %llu ms", c->spec.name, old, version_of(c->version), (int)c->pid,
                 (unsigned long long)((now - u->began) / MS));
        log_info("launcher", "upgrade: %s", text);
        control_say(&s->control, u->client, '+', "%s", text);
        if (u->step == FS)
            replace(s, REPLICATOR, now);
        else if (u->step == REPLICATOR && supervisor_has(s, PROXY))
            replace(s, PROXY, now);
        else
            finish(s, '0', "done; edgefs itself stays " EDGEFS_VERSION " until the node is started anew");
    } else if (now >= u->due) {
        snprintf(text, sizeof text, "%s is not ready %llu s after its replacement; see the log", c->spec.name,
                 (unsigned long long)((GRACE_NS + READY_NS) / SECOND));
        finish(s, '!', text);
    }
}
