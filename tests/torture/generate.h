/* A seed becomes a list of steps. The same seed gives the same steps, for ever: what changes in here changes what all seeds mean. */
#ifndef TORTURE_GENERATE_H
#define TORTURE_GENERATE_H

#include <stdint.h>
#include <stdio.h>

/* Writes the steps of that seed, one a line. */
void generate(uint32_t seed, FILE *out);

#endif
