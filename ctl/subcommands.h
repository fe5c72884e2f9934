/* What the commands of edgefs-ctl and its main share: the only coupling between them. One file per command, ctl/NAME.c. */
#ifndef EDGEFS_CTL_SUBCOMMANDS_H
#define EDGEFS_CTL_SUBCOMMANDS_H

#include "lib/err.h"

#define CTL_PROGRAM "edgefs-ctl"

/* name, exit code, what it means; docs/edgefs-ctl.md and `help` are made from the same words. */
#define CTL_EXIT_TABLE(X)                                                                                     \
    X(CTL_OK, 0, "done, and the answer is yes")                                                               \
    X(CTL_NO, 1, "done, and the answer is no: differences found, not reached in time, promotion undone")      \
    X(CTL_USAGE, 2, "usage or configuration is wrong; nothing was done")                                      \
    X(CTL_UNREACHABLE, 3, "no node could be reached, or the connection broke")                                \
    X(CTL_REFUSED, 4, "the node refused, or answered with an error")                                          \
    X(CTL_LOCAL, 5, "a local file could not be read or written")

enum ctl_exit {
#define X(name, number, text) name = (number),
    CTL_EXIT_TABLE(X)
#undef X
};

struct cluster; /* ctl/cluster.h */

struct command {
    const char *name;
    const char *usage;   /* arguments, as after the name: "NODE [--timeout 10s]" */
    const char *summary; /* one line */
    const char *help;    /* what `help NAME` says below the usage; ends with a newline */
    /* argv[0] is the command's name; global options are gone already. Returns an exit code; an error has been printed by then (ctl_fail). */
    int (*run)(struct cluster *c, int argc, char **argv);
};

extern const struct command cmd_status, cmd_promote, cmd_databases, cmd_verify, cmd_log, cmd_import, cmd_export,
    cmd_quarantine, cmd_wait, cmd_version, cmd_help;

/* All of the above in the order in which help lists them; NULL ends it. ctl/main.c. */
extern const struct command *const ctl_commands[];

/* The command of that name or NULL. */
const struct command *ctl_command(const char *name);

/* Prints one line, "edgefs-ctl: message", to standard error (control characters replaced; a progress bar is removed first) and returns code. */
int ctl_fail(enum ctl_exit code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same for an error from lib or cluster: the exit code follows from e->code (main.c has the table). */
int ctl_fail_err(const struct err *e);

#endif
