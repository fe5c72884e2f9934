#include "ctl/launcher/args.h"

#include "lib/util.h"
#include <errno.h>

const char launcher_usage[] =
    "usage: edgefs mount [-c FILE] [--dir DIR] [--data DIR] [--node NAME] [-- application [argument ...]]\n"
    "           mount DIR, replicate what is in it, run the application, stop when it ends\n"
    "       edgefs upgrade [-c FILE | --data DIR]\n"
    "           replace edgefs-fs and edgefs-replicator of the running node by the programs now installed\n"
    "       edgefs stop [-c FILE | --data DIR]\n"
    "           stop the running node: application, replication, mount\n"
    "       edgefs version\n"
    "       edgefs help\n"
    "FILE is described in docs/configuration.md. Exit status: the application's; without one 0 after a clean stop;\n"
    "1 when something failed, 2 for a bad command line or configuration.\n";

static const struct {
    const char *name;
    enum launcher_verb verb;
} verbs[] = {
    {"mount", LAUNCHER_MOUNT},       {"upgrade", LAUNCHER_UPGRADE}, {"stop", LAUNCHER_STOP}, {"version", LAUNCHER_VERSION},
    {"--version", LAUNCHER_VERSION}, {"help", LAUNCHER_HELP},       {"--help", LAUNCHER_HELP}, {"-h", LAUNCHER_HELP},
};

/* Whether the arguments before "--" ask for help: "edgefs mount --help". */
static int asks_for_help(int argc, char **argv)
{
    for (int i = 2; i < argc && strcmp(argv[i], "--"); i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return 1;
    return 0;
}

int launcher_args_parse(int argc, char **argv, struct launcher_args *args, struct err *e)
{
    *args = (struct launcher_args){0};
    if (argc < 2)
        return err_set(e, -EINVAL, "what should be done?");
    size_t v = 0;
    while (v < ARRAY_SIZE(verbs) && strcmp(argv[1], verbs[v].name))
        v++;
    if (v == ARRAY_SIZE(verbs))
        return err_set(e, -EINVAL, "\"%.64s\" is not a command", argv[1]);
    args->verb = asks_for_help(argc, argv) ? LAUNCHER_HELP : verbs[v].verb;
    if (args->verb == LAUNCHER_HELP)
        return 0;
    argc = config_take_args(argc, argv, &args->config, e);
    if (argc < 0)
        return argc;
    if (argc > 2 && strcmp(argv[2], "--"))
        return err_set(e, -EINVAL, "%s: unexpected \"%.64s\"%s", argv[1], argv[2],
                       args->verb == LAUNCHER_MOUNT ? "; the application stands after --" : "");
    if (argc > 2 && args->verb != LAUNCHER_MOUNT)
        return err_set(e, -EINVAL, "%s takes no application", argv[1]);
    if (argc == 3)
        return err_set(e, -EINVAL, "nothing stands after --");
    if (argc > 3)
        args->app = argv + 3;
    const struct config_args *c = &args->config;
    if (args->verb == LAUNCHER_VERSION && (c->file || c->dir || c->data || c->node))
        return err_set(e, -EINVAL, "version takes no options");
    if (args->verb == LAUNCHER_MOUNT && !c->file && !(c->dir && c->data))
        return err_set(e, -EINVAL, "mount needs -c FILE, or --dir DIR and --data DIR");
    if ((args->verb == LAUNCHER_UPGRADE || args->verb == LAUNCHER_STOP) && !c->file && !c->data)
        return err_set(e, -EINVAL, "%s needs -c FILE or --data DIR, to know which node", argv[1]);
    return 0;
}
