/* torture: the random tester's program. README.md says how it is used; `driver.py` gives it clusters.
 *
 *   torture generate SEED                                  prints the steps of a seed
 *   torture run [-v] PRIMARY REPLICA MODEL SEED < …        carries out the steps of the file named by the environment's TORTURE_STEPS, or of the
 *                                                          seed; PRIMARY and REPLICA are folders in two mounts, MODEL an ordinary one
 *
 * Exit status 0 and a line "OK steps N checks N retries N"; 1 and a line "FAIL step N (line): what"; 2: usage. */
#include "tests/torture/director.h"
#include "tests/torture/generate.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

static int run_steps(FILE *steps, char **folders, unsigned seed, bool verbose)
{
    struct director *d = director_new(folders[0], folders[1], folders[2], verbose ? stderr : NULL, seed);
    char line[1000];
    bool good = true;
    long number = 0, done, checks, retries;
    while (good && fgets(line, sizeof line, steps)) {
        line[strcspn(line, "\r\n")] = 0;
        number++;
        good = director_step(d, line);
        if (!good)
            (void)printf("FAIL step %ld (%s): %s\n", number, line, director_error(d));
    }
    director_numbers(d, &done, &checks, &retries);
    if (good)
        (void)printf("OK steps %ld checks %ld retries %ld\n", done, checks, retries);
    director_free(d);
    return good ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "generate") == 0) {
        generate((uint32_t)strtoul(argv[2], NULL, 10), stdout);
        return 0;
    }
    bool verbose = argc > 2 && strcmp(argv[2], "-v") == 0;
    char **arg = argv + 2 + verbose;
    if (argc - 2 - verbose != 4 || strcmp(argv[1], "run") != 0) {
        (void)fprintf(stderr, "usage: torture generate SEED | torture run [-v] PRIMARY REPLICA MODEL SEED\n");
        return 2;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)signal(SIGPIPE, SIG_IGN);
    unsigned seed = (unsigned)strtoul(arg[3], NULL, 10);
    const char *file = getenv("TORTURE_STEPS");
    FILE *steps = file ? fopen(file, "re") : tmpfile();
    if (!steps) {
        perror(file ? file : "tmpfile");
        return 2;
    }
    if (!file) {
        generate(seed, steps);
        rewind(steps);
    }
    return run_steps(steps, arg, seed, verbose);
}
