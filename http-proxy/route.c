#include "http-proxy/route.h"

bool route_match(struct slice path, const char *pattern)
{
    size_t i = 0, back = 0;
    const char *star = NULL; /* behind the last '*' seen; what it stands for ends before `back` */
    while (i < path.n) {
        if (*pattern == '*') {
            star = ++pattern;
            back = i;
        } else if (*pattern && *pattern == path.p[i]) {
            pattern++;
            i++;
        } else if (star) { /* the last star takes one more; an earlier one would gain nothing */
            pattern = star;
            i = ++back;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return !*pattern;
}

bool route_match_any(struct slice path, char *const *patterns, int n)
{
    for (int i = 0; i < n; i++)
        if (route_match(path, patterns[i]))
            return true;
    return false;
}
