/* edgefs-ctl: what one person at a terminal, or a script, asks of a cluster. Options that all commands share are read here; the rest is
 * ctl/NAME.c, one file per command. */
#include "ctl/cluster.h"
#include "ctl/interrupt.h"
#include "ctl/progress.h"
#include "ctl/subcommands.h"
#include "ctl/text.h"
#include "lib/config.h"
#include "lib/util.h"
#include <errno.h>
#include <locale.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>

const struct command *const ctl_commands[] = {&cmd_status, &cmd_promote, &cmd_databases, &cmd_verify,  &cmd_log, &cmd_import,
                                              &cmd_export, &cmd_quarantine, &cmd_wait, &cmd_version, &cmd_help, NULL};

const struct command *ctl_command(const char *name)
{
    for (const struct command *const *c = ctl_commands; *c; c++)
        if (!strcmp((*c)->name, name))
            return *c;
    return NULL;
}

int ctl_fail(enum ctl_exit code, const char *fmt, ...)
{
    _cleanup_free_ char *text = NULL, *line = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        text = NULL;
    va_end(ap);
    line = text ? text_printable(text) : NULL;
    progress_end();
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", CTL_PROGRAM, line ? line : "out of memory");
    return (int)code;
}

/* Codes without an entry are errno values of local calls: everything from the network has been given one of these by cluster.c. */
int ctl_fail_err(const struct err *e)
{
    static const struct {
        int code;
        enum ctl_exit exit;
    } table[] = {
        {ERR_CONFIG, CTL_USAGE},        {-EINVAL, CTL_USAGE},    {-EHOSTUNREACH, CTL_UNREACHABLE},
        {ERR_REMOTE, CTL_REFUSED},      {ERR_ROLE, CTL_REFUSED}, {ERR_GONE, CTL_REFUSED},
        {ERR_AGAIN_LATER, CTL_REFUSED}, {ERR_CHECKSUM, CTL_NO},
    };
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        if (table[i].code == e->code)
            return ctl_fail(table[i].exit, "%s", e->text);
    return ctl_fail(CTL_LOCAL, "%s", e->text);
}

struct arguments {
    struct cluster_options cluster;
    bool help, version;
};

/* Takes --url, --token-file, -h, --help and --version out of argv, up to "--". 0 or CTL_USAGE. */
static int take_global(int *argc, char **argv, struct arguments *a)
{
    int kept = 1;
    bool ended = false;
    for (int i = 1; i < *argc; i++) {
        char *arg = argv[i];
        ended = ended || !strcmp(arg, "--");
        size_t n = strcspn(arg, "=");
        bool url = n == strlen("--url") && !strncmp(arg, "--url", n);
        bool token = n == strlen("--token-file") && !strncmp(arg, "--token-file", n);
        if (!ended && (!strcmp(arg, "-h") || !strcmp(arg, "--help"))) {
            a->help = true;
        } else if (!ended && !strcmp(arg, "--version")) {
            a->version = true;
        } else if (!ended && (url || token)) {
            const char *value = arg[n] ? arg + n + 1 : i + 1 < *argc ? argv[++i] : "";
            if (!*value)
                return ctl_fail(CTL_USAGE, "%.*s needs a value", (int)n, arg);
            if (token && a->cluster.token_file)
                return ctl_fail(CTL_USAGE, "--token-file is given twice");
            if (url && a->cluster.n_urls == CLUSTER_URLS_MAX)
                return ctl_fail(CTL_USAGE, "--url is given more than %d times", CLUSTER_URLS_MAX);
            if (token)
                a->cluster.token_file = value;
            else
                a->cluster.urls[a->cluster.n_urls++] = value;
        } else {
            argv[kept++] = arg;
        }
    }
    argv[kept] = NULL;
    *argc = kept;
    return 0;
}

/* What was printed is not done before it is written: a full disk behind `> file` is an error, a reader that went away (| head) is not. */
static int flush_output(int rc)
{
    int failed = fflush(stdout) ? errno : ferror(stdout) ? EIO : 0; /* of an earlier write errno is lost … */
    struct pollfd p = {.fd = STDOUT_FILENO};
    bool reader_gone = failed == EPIPE || (failed && poll(&p, 1, 0) == 1 && (p.revents & POLLERR)); /* … but a pipe remembers */
    if (!failed || reader_gone || rc)
        return rc;
    return ctl_fail(CTL_LOCAL, "standard output: %s", err_name(failed));
}

static int run(const struct command *cmd, const struct arguments *a, int argc, char **argv)
{
    struct cluster *c = NULL;
    struct err e;
    if (cmd != &cmd_help && cmd != &cmd_version && cluster_open(&a->cluster, &c, &e)) {
        return ctl_fail_err(&e);
    }
    int rc = cmd->run(c, argc, argv);
    progress_end();
    cluster_close(c);
    return rc;
}

int main(int argc, char **argv)
{
    struct arguments a = {0};
    struct err e;
    setlocale(LC_CTYPE, "");
    interrupt_install();
    argc = config_take_args(argc, argv, &a.cluster.config, &e);
    if (argc < 0)
        return ctl_fail(CTL_USAGE, "%s", e.text);
    if (take_global(&argc, argv, &a))
        return CTL_USAGE;
    const struct command *cmd = argc > 1 ? ctl_command(argv[1]) : NULL;
    if (a.help || (a.version && argc < 2)) {
        char *help[] = {(char[]){"help"}, argc > 1 ? argv[1] : NULL, NULL};
        return flush_output(a.help ? cmd_help.run(NULL, cmd ? 2 : 1, help) : cmd_version.run(NULL, 1, help));
    }
    if (argc < 2)
        return ctl_fail(CTL_USAGE, "say what to do; `%s help` lists the commands", CTL_PROGRAM);
    if (argv[1][0] == '-')
        return ctl_fail(CTL_USAGE, "unknown option \"%s\"; `%s help` lists them", argv[1], CTL_PROGRAM);
    if (!cmd)
        return ctl_fail(CTL_USAGE, "unknown command \"%s\"; `%s help` lists them", argv[1], CTL_PROGRAM);
    return flush_output(run(cmd, &a, argc - 1, argv + 1));
}
