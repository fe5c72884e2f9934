/* The command line of edgefs. No state. */
#ifndef EDGEFS_LAUNCHER_ARGS_H
#define EDGEFS_LAUNCHER_ARGS_H

#include "lib/config.h"

enum launcher_verb { LAUNCHER_MOUNT, LAUNCHER_UPGRADE, LAUNCHER_STOP, LAUNCHER_VERSION, LAUNCHER_HELP };

struct launcher_args {
    enum launcher_verb verb;
    struct config_args config;
    char **app; /* the application and its arguments, NULL-terminated, inside argv; NULL: none */
};

/* Takes the command line apart; argv is reordered, strings point into it. 0, or -EINVAL with a message for the user (who then
 * should see launcher_usage). */
int launcher_args_parse(int argc, char **argv, struct launcher_args *args, struct err *e);

/* What edgefs can be asked to do; several lines. */
extern const char launcher_usage[];

#endif
