#include "ctl/options.h"

#include "lib/config_value.h"
#include <inttypes.h>
#include <string.h>

bool options_number(const char *text, uint64_t *out)
{
    uint64_t v = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return false;
        if (__builtin_mul_overflow(v, UINT64_C(10), &v) || __builtin_add_overflow(v, (uint64_t)(*text - '0'), &v))
            return false;
    }
    *out = v;
    return true;
}

static int set_value(const struct command *cmd, const struct option *o, const char *text)
{
    struct err e;
    uint64_t number;
    switch (o->kind) {
    case OPTION_FLAG:
        *(bool *)o->value = true;
        return 0;
    case OPTION_NUMBER:
        if (!options_number(text, &number) || number < o->low || number > o->high)
            return ctl_fail(CTL_USAGE, "%s: %s \"%s\" must be a number from %" PRIu64 " to %" PRIu64, cmd->name, o->name, text,
                            o->low, o->high);
        *(uint64_t *)o->value = number;
        return 0;
    case OPTION_DURATION:
        if (config_parse_duration(text, o->low, o->high, o->value, &e))
            return ctl_fail(CTL_USAGE, "%s: %s: %s", cmd->name, o->name, e.text);
        return 0;
    case OPTION_TEXT:
        *(const char **)o->value = text;
        return 0;
    }
    return 0;
}

/* The option that arg names, with *value behind its '=' (or NULL); NULL: none. */
static const struct option *find(const struct option *options, int n, const char *arg, const char **value)
{
    for (int i = 0; i < n; i++) {
        size_t len = strlen(options[i].name);
        if (strncmp(arg, options[i].name, len) || (arg[len] && arg[len] != '='))
            continue;
        *value = arg[len] ? arg + len + 1 : NULL;
        return &options[i];
    }
    return NULL;
}

static int usage(const struct command *cmd, const char *what)
{
    return ctl_fail(CTL_USAGE, "%s: %s; usage: %s %s%s%s", cmd->name, what, CTL_PROGRAM, cmd->name, *cmd->usage ? " " : "",
                    cmd->usage);
}

int options_parse(const struct command *cmd, const struct option *options, int n, int argc, char **argv, int min, int max,
                  int *n_args)
{
    int kept = 0;
    bool ended = false;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *value;
        if (ended || arg[0] != '-' || !arg[1]) {
            argv[++kept] = argv[i];
            continue;
        }
        if (!strcmp(arg, "--")) {
            ended = true;
            continue;
        }
        const struct option *o = find(options, n, arg, &value);
        if (!o)
            return ctl_fail(CTL_USAGE, "%s: unknown option \"%s\"; `%s help %s` lists them", cmd->name, arg, CTL_PROGRAM,
                            cmd->name);
        if (o->kind == OPTION_FLAG) {
            if (value)
                return ctl_fail(CTL_USAGE, "%s: %s takes no value", cmd->name, o->name);
        } else if (!value && i + 1 < argc) {
            value = argv[++i];
        }
        if (o->kind != OPTION_FLAG && (!value || !*value))
            return ctl_fail(CTL_USAGE, "%s: %s needs a value", cmd->name, o->name);
        int rc = set_value(cmd, o, value);
        if (rc)
            return rc;
    }
    if (kept < min)
        return usage(cmd, "something is missing");
    if (kept > max)
        return usage(cmd, "too many arguments");
    *n_args = kept;
    return 0;
}
