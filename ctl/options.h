/* Options and arguments of one command, from a table. Long options, `--name VALUE` or `--name=VALUE`, anywhere among the
 * arguments; "--" ends them. Pure functions. */
#ifndef EDGEFS_CTL_OPTIONS_H
#define EDGEFS_CTL_OPTIONS_H

#include "ctl/subcommands.h"
#include <stdbool.h>
#include <stdint.h>

enum option_kind {
    OPTION_FLAG,     /* bool * */
    OPTION_NUMBER,   /* uint64_t *: decimal, low..high */
    OPTION_DURATION, /* uint64_t * ms: "10s", low..high */
    OPTION_TEXT,     /* const char **, not empty */
};

struct option {
    const char *name; /* "--timeout" */
    enum option_kind kind;
    void *value; /* where it goes; untouched when not given */
    uint64_t low, high;
};

/* Takes options[0..n) out of argv[1..argc); what remains are the command's arguments, argv[1..*n_args], of which there must be min..max.
 * 0, or CTL_USAGE after an error was printed that names what is wrong and the command's usage. */
int options_parse(const struct command *cmd, const struct option *options, int n, int argc, char **argv, int min, int max,
                  int *n_args);

/* Decimal digits only, no sign, no overflow. */
bool options_number(const char *text, uint64_t *out);

#endif
