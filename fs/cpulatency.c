#include "fs/cpulatency.h"

#include "fs/spare.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>

#define DRIVER "/sys/devices/system/cpu/cpuidle/current_driver"
/* A guest's halt is one exit of 1 µs as far as its driver knows: only 0 keeps it from halting. On real hardware 2 µs leave it C1, which wakes up as quickly as matters here, sleeps, and
 * costs the core beside it nothing. */
#define GUEST_DRIVER "haltpoll"
#define GUEST_US 0
#define HARDWARE_US 2

struct cpulatency {
    int32_t us;
    pthread_mutex_t mutex; /* guards rule */
    pthread_cond_t wanted; /* rule.held has become true */
    struct cpulatency_rule rule;
};

bool cpulatency_rule_sync(struct cpulatency_rule *r, uint64_t now)
{
    if (!r->held && (r->syncs == 0 || now - r->since_ns > CPULATENCY_TAKE_NS))
        *r = (struct cpulatency_rule){.since_ns = now};
    r->syncs++;
    if (r->held || r->syncs < CPULATENCY_TAKE_SYNCS)
        return false;
    *r = (struct cpulatency_rule){.held = true};
    return true;
}

bool cpulatency_rule_look(struct cpulatency_rule *r)
{
    *r = (struct cpulatency_rule){.held = r->syncs >= CPULATENCY_KEEP_SYNCS};
    return r->held;
}

void cpulatency_sync(struct cpulatency *c)
{
    if (!c)
        return;
    uint64_t now = now_ns();
    pthread_mutex_lock(&c->mutex);
    if (cpulatency_rule_sync(&c->rule, now))
        pthread_cond_signal(&c->wanted);
    pthread_mutex_unlock(&c->mutex);
}

/* The descriptor that stands for the request, or -errno. */
static int take(int32_t us)
{
    int fd = open(CPULATENCY_DEVICE, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, &us, sizeof us) == sizeof us)
        return fd;
    int rc = errno ? -errno : -EIO;
    close(fd);
    return rc;
}

static void wait_until_wanted(struct cpulatency *c)
{
    pthread_mutex_lock(&c->mutex);
    while (!c->rule.held)
        pthread_cond_wait(&c->wanted, &c->mutex);
    pthread_mutex_unlock(&c->mutex);
}

static bool still_wanted(struct cpulatency *c)
{
    static const struct timespec pause = {.tv_nsec = CPULATENCY_LOOK_NS};
    (void)nanosleep(&pause, NULL); /* interrupted: this look comes early, nothing else */
    pthread_mutex_lock(&c->mutex);
    bool held = cpulatency_rule_look(&c->rule);
    pthread_mutex_unlock(&c->mutex);
    return held;
}

static void *keep(void *arg)
{
    struct cpulatency *c = arg;
    for (;;) {
        wait_until_wanted(c);
        int fd = take(c->us);
        if (fd < 0) /* it was there at the start; the next time it may be again */
            log_debug("cpulatency", "%s: %s", CPULATENCY_DEVICE, err_name(fd));
        else
            log_debug("cpulatency", "one sync follows another: idle processors shall wake up within %d µs", c->us);
        while (still_wanted(c))
            continue;
        if (fd < 0)
            continue;
        close(fd);
        log_debug("cpulatency", "given back");
    }
    return NULL;
}

/* The driver of the idle loop, or "". */
static void read_driver(char *driver, int size)
{
    *driver = 0;
    FILE *f = fopen(DRIVER, "re");
    if (f && fgets(driver, size, f))
        driver[strcspn(driver, "\n")] = 0;
    if (f)
        fclose(f);
}

int cpulatency_start(bool wanted, struct cpulatency **out, struct err *e)
{
    char driver[64];
    *out = NULL;
    if (!wanted)
        return 0;
    read_driver(driver, sizeof driver);
    if (!*driver || strcmp(driver, "none") == 0) {
        log_info("cpulatency", "idle processors wake up as they do: the kernel has no cpuidle driver that could be asked for more");
        return 0;
    }
    _cleanup_fd_ int fd = open(CPULATENCY_DEVICE, O_WRONLY | O_CLOEXEC); /* asks for nothing until something is written */
    if (fd < 0) {
        log_info("cpulatency", "idle processors wake up as they do: %s: %s", CPULATENCY_DEVICE, err_name(-errno));
        return 0;
    }
    struct cpulatency *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(e, -ENOMEM, "out of memory");
    c->us = strcmp(driver, GUEST_DRIVER) == 0 ? GUEST_US : HARDWARE_US;
    pthread_mutex_init(&c->mutex, NULL);
    pthread_cond_init(&c->wanted, NULL);
    *out = c;
    return spare_thread(keep, c, NULL, e);
}
