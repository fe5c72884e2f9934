#include "replicator/apply/linger.h"

#include "lib/busy.h"
#include "lib/log.h"
#include "lib/util.h"
#include "replicator/capture/hooks.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define LOOK_NS 50000000L
#define SEARCH_LOOKS 20u /* a search through /proc only with each so many looks */

static int is_open(void *ctx, struct database *db)
{
    const char **name = ctx;
    pthread_mutex_lock(&db->lock);
    bool open = db->apps_open;
    pthread_mutex_unlock(&db->lock);
    if (open)
        *name = db->name;
    return open;
}

/* Who has anything of the mount open, as /proc shows it. No call into the mount, which may be dead. */
static bool in_use(const struct node *n, char who[BUSY_TEXT_MAX])
{
    struct statx st;
    if (statx(n->mount_fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &st)) {
        log_warn("linger", "the mount's device is not known: %s", err_name(errno));
        return false;
    }
    struct busy_query q = {.on_device = true, .major = st.stx_dev_major, .minor = st.stx_dev_minor};
    return busy_name(&q, who) > 0;
}

void linger(struct node *n)
{
    bool said = false;
    for (unsigned look = 0;; look++) {
        const char *name = NULL;
        char who[BUSY_TEXT_MAX] = "";
        if (hooks_connected(n->hooks)) {
            if (!databases_each(n->databases, is_open, &name))
                return;
        } else if (look % SEARCH_LOOKS == 0 && !in_use(n, who)) {
            return;
        }
        if (!said)
            log_warn("linger", "%s is still used%s%s: keeping applications from writing until it is not", name ? name : n->config->dir, *who ? " by " : "", who);
        said = true;
        (void)nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL); /* waking early does no harm */
    }
}
