/* A replicator that is killed between two steps of a rename, every time at the same one: preloaded into the programs of a node (LD_PRELOAD). The file
 * $EDGEFS_TEST_KILL holds a number N and what new names end with ("N SUFFIX"); edgefs-replicator kills itself before its Nth renameat(2) to such a name, counted from when
 * the file was made, and takes the file away. "N SUFFIX after": when that has been done. No such file: nothing happens. */
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* 1: before, 2: after; 0: not now. */
static int due(const char *to)
{
    const char *path = getenv("EDGEFS_TEST_KILL");
    char list[256], when[16] = "";
    int n = 0;
    FILE *f = path && !strcmp(program_invocation_short_name, "edgefs-replicator") ? fopen(path, "r+") : NULL;
    if (!f)
        return 0;
    int fields = fscanf(f, "%d %255s %15s", &n, list, when);
    bool fits = false;
    for (char *save, *s = fields >= 2 ? strtok_r(list, ",", &save) : NULL; s && !fits; s = strtok_r(NULL, ",", &save))
        fits = strlen(to) >= strlen(s) && !strcmp(to + strlen(to) - strlen(s), s);
    if (fits && n > 1) {
        rewind(f);
        fprintf(f, "%d", n - 1);
    }
    fclose(f);
    if (!fits || n > 1)
        return 0;
    unlink(path);
    return *when ? 2 : 1;
}

EXPORT int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    static int (*real)(int, const char *, int, const char *);
    if (!real)
        real = (int (*)(int, const char *, int, const char *))dlsym(RTLD_NEXT, "renameat");
    int when = due(to);
    if (when == 1)
        kill(getpid(), SIGKILL);
    int rc = real(from_fd, from, to_fd, to);
    if (when == 2)
        kill(getpid(), SIGKILL);
    return rc;
}
