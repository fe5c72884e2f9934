#include "ctl/options.h"

#include "ctl/cluster.h"
#include <stdio.h>

static void overview(void)
{
    printf("%s: look after the nodes of an EdgeFS cluster.\n\nUsage: %s [OPTIONS] COMMAND [ARGUMENTS]\n\nCommands:\n", CTL_PROGRAM,
           CTL_PROGRAM);
    for (const struct command *const *c = ctl_commands; *c; c++)
        printf("  %-10s %s\n", (*c)->name, (*c)->summary);
    printf("\nWhich node is asked (the first that answers; it knows the others):\n"
           "  --url URL            http://HOST:PORT; may be repeated\n"
           "  -c FILE              the URL and token file in a node's configuration\n"
           "  --dir DIR --data DIR the same for a node that runs without a file\n"
           "  otherwise            EDGEFS_URL from the environment, or " CLUSTER_DEFAULT_URL "\n"
           "\nOptions:\n"
           "  --token-file FILE    the file with the cluster's token (or EDGEFS_TOKEN_FILE)\n"
           "  -h, --help           this text, or that of a command\n"
           "\nExit codes:\n");
#define X(name, number, text) printf("  %d  %s\n", number, text);
    CTL_EXIT_TABLE(X)
#undef X
}

static int run(struct cluster *c, int argc, char **argv)
{
    (void)c;
    int n, rc = options_parse(&cmd_help, NULL, 0, argc, argv, 0, 1, &n);
    if (rc)
        return rc;
    if (n == 0) {
        overview();
        return CTL_OK;
    }
    const struct command *cmd = ctl_command(argv[1]);
    if (!cmd)
        return ctl_fail(CTL_USAGE, "unknown command \"%s\"; `%s help` lists them", argv[1], CTL_PROGRAM);
    printf("%s %s: %s\n\nUsage: %s %s%s%s\n\n%s", CTL_PROGRAM, cmd->name, cmd->summary, CTL_PROGRAM, cmd->name,
           *cmd->usage ? " " : "", cmd->usage, cmd->help);
    return CTL_OK;
}

const struct command cmd_help = {
    .name = "help",
    .usage = "[COMMAND]",
    .summary = "what there is, or one command in detail",
    .help = "",
    .run = run,
};
