#include "ctl/options.h"

#include <stdio.h>

static int run(struct cluster *c, int argc, char **argv)
{
    (void)c;
    int n, rc = options_parse(&cmd_version, NULL, 0, argc, argv, 0, 0, &n);
    if (rc)
        return rc;
    printf("%s %s\n", CTL_PROGRAM, EDGEFS_VERSION);
    return CTL_OK;
}

const struct command cmd_version = {
    .name = "version",
    .usage = "",
    .summary = "print the version of this program",
    .help = "The versions of the nodes are in `status --json`.\n",
    .run = run,
};
