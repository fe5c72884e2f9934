#include "ctl/launcher/app.h"

#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <sys/wait.h>

pid_t app_start(char **argv, const struct inherited *inherited)
{
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid > 0)
        return pid;
    inherited_restore(inherited);
    execvp(argv[0], argv);
    int failed = errno;
    log_error("launcher", "cannot run %s: %s", argv[0], strerror(failed));
    _exit(failed == ENOENT ? 127 : 126);
}

int app_exit_status(int wait_status)
{
    return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

bool app_got_it_too(pid_t app, int si_code)
{
    return si_code == SI_KERNEL && getpgid(app) == getpgrp();
}
