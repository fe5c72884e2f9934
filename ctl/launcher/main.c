#include "ctl/launcher/args.h"
#include "ctl/launcher/control.h"
#include "ctl/launcher/datadir.h"
#include "ctl/launcher/supervisor.h"
#include "edgefs/layout.h"
#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>

static int fail_config(int rc, const struct err *e)
{
    if (rc == ERR_CONFIG)
        config_die("edgefs", e);
    fprintf(stderr, "edgefs: %s\n", e->text);
    return 1;
}

/* The folder of this program, as it is now: an upgrade may replace the file, and then the kernel calls it "… (deleted)". */
static int programs_folder(char path[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
    if (n <= 0) {
        fprintf(stderr, "edgefs: /proc/self/exe: %s\n", strerror(n < 0 ? errno : EIO));
        return 1;
    }
    path[n] = 0;
    *strrchr(path, '/') = 0;
    return 0;
}

static int run_mount(const struct launcher_args *args)
{
    struct config *c;
    struct err e;
    char programs[PATH_MAX];
    int rc = config_load(&args->config, &c, &e);
    if (rc)
        return fail_config(rc, &e);
    log_init("edgefs", c->node, c->log_level);
    struct supervisor_options o = {.config = c, .args = &args->config, .programs = programs, .app = args->app};
    rc = programs_folder(programs) ? 1 : supervisor_run(&o);
    config_free(c);
    return rc;
}

/* upgrade and stop need the data directory only; a file need not be complete without --dir for that, but it must be good. */
static int run_request(const struct launcher_args *args, enum control_request request)
{
    struct config *c = NULL;
    struct err e;
    char path[PATH_MAX];
    const char *data = args->config.data;
    if (!data) {
        int rc = config_load(&args->config, &c, &e);
        if (rc)
            return fail_config(rc, &e);
        data = c->data;
    }
    int rc = control_ask(datadir_path(data, LAYOUT_LAUNCHER_SOCK, path), request);
    config_free(c);
    return rc;
}

int main(int argc, char **argv)
{
    struct launcher_args args;
    struct err e;
    if (launcher_args_parse(argc, argv, &args, &e)) {
        fprintf(stderr, "edgefs: %s\n%s", e.text, launcher_usage);
        return 2;
    }
    switch (args.verb) {
    case LAUNCHER_MOUNT:
        return run_mount(&args);
    case LAUNCHER_UPGRADE:
        return run_request(&args, CONTROL_UPGRADE);
    case LAUNCHER_STOP:
        return run_request(&args, CONTROL_STOP);
    case LAUNCHER_VERSION:
        return printf("edgefs %s\n", EDGEFS_VERSION) < 0 || fflush(stdout) ? 1 : 0;
    case LAUNCHER_HELP:
        return fputs(launcher_usage, stdout) < 0 || fflush(stdout) ? 1 : 0;
    }
    return 2;
}
