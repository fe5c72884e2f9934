/* Carries out a list of steps: connections, files, kills, and the comparisons of primary, replica and model. */
#ifndef TORTURE_DIRECTOR_H
#define TORTURE_DIRECTOR_H

#include <stdbool.h>
#include <stdio.h>

struct director;

/* Roots: existing folders of this run alone, in the primary's mount, in the replica's, and in an ordinary directory. trace: gets each step and
 * its outcome, or NULL. Kills of nodes' programs are asked for on standard output ("@kill NODE PROGRAM") and answered by a line on standard input. */
struct director *director_new(const char *primary, const char *replica, const char *model, FILE *trace, unsigned seed);
/* One step. False: something is wrong; director_error says what. */
bool director_step(struct director *d, const char *line);
const char *director_error(const struct director *d);
/* Numbers for people: steps, checks, times asked again. */
void director_numbers(const struct director *d, long *steps, long *checks, long *retries);
void director_free(struct director *d);

#endif
