#include "ctl/interrupt.h"

#include "ctl/progress.h"
#include "lib/util.h"
#include <limits.h>
#include <signal.h>

static char temporary[PATH_MAX];
static volatile sig_atomic_t have_temporary, cursor_hidden;

/* Only what signal-safety(7) lists. */
static void handle(int sig)
{
    static const char wipe[] = "\r\033[K", show[] = "\033[?25h\n";
    if (have_temporary)
        unlink(temporary);
    ssize_t ignored = 0; /* a terminal that is gone needs no repair */
    if (progress_visible())
        ignored |= write(STDERR_FILENO, wipe, sizeof wipe - 1);
    if (cursor_hidden)
        ignored |= write(STDOUT_FILENO, show, sizeof show - 1);
    (void)ignored;
    raise(sig); /* SA_RESETHAND: by the default action, as soon as this handler returns */
}

void interrupt_install(void)
{
    struct sigaction a = {.sa_handler = handle, .sa_flags = (int)SA_RESETHAND};
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
        sigaddset(&a.sa_mask, signals[i]);
    for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
        struct sigaction old;
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN)
            continue; /* nohup, or a background job of a shell without job control */
        sigaction(signals[i], &a, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
}

void interrupt_temporary(const char *path)
{
    have_temporary = 0;
    if (!path || strlen(path) >= sizeof temporary)
        return;
    strcpy(temporary, path);
    have_temporary = 1;
}

void interrupt_cursor_hidden(bool hidden)
{
    cursor_hidden = hidden;
}
