#include "lib/filter.h"

#include "edgefs/layout.h"
#include "lib/durable.h"
#include "lib/util.h"
#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

static int join(const struct config_list *list, char *out)
{
    size_t n = 0;
    for (int i = 0; i < list->n; i++) {
        int k = snprintf(out + n, FILTER_MAX - n, "%s%s", i ? "," : "", list->items[i]);
        if (k < 0 || (n += (size_t)k) >= FILTER_MAX)
            return -ENAMETOOLONG;
    }
    out[n] = '\0';
    return 0;
}

int filter_of_config(const struct config *c, struct filter *f)
{
    int rc = join(&c->databases.include, f->include);
    return rc ? rc : join(&c->databases.exclude, f->exclude);
}

bool filter_everything(const struct filter *f)
{
    return (!*f->include || !strcmp(f->include, "*")) && !*f->exclude;
}

bool filter_same(const struct filter *a, const struct filter *b)
{
    return (filter_everything(a) && filter_everything(b)) || (!strcmp(a->include, b->include) && !strcmp(a->exclude, b->exclude));
}

static bool matches(const char *list, const char *name)
{
    char glob[FILTER_MAX];
    while (*list) {
        size_t n = strcspn(list, ",");
        memcpy(glob, list, n);
        glob[n] = '\0';
        if (fnmatch(glob, name, 0) == 0)
            return true;
        list += n + (list[n] == ',');
    }
    return false;
}

bool filter_wants(const struct filter *f, const char *name)
{
    return (!*f->include || matches(f->include, name)) && !matches(f->exclude, name);
}

static bool add(char *buf, size_t size, const char *key, const char *list)
{
    size_t n = strlen(buf);
    int k = snprintf(buf + n, size - n, "&%s=", key);
    if (k < 0 || (n += (size_t)k) >= size)
        return false;
    for (; *list && n + 4 < size; list++) {
        unsigned char c = (unsigned char)*list;
        bool plain = c < 0x80 && (isalnum(c) || strchr("-._~", c));
        n += (size_t)snprintf(buf + n, size - n, plain ? "%c" : "%%%02X", c);
    }
    return !*list;
}

bool filter_add_query(const struct filter *f, char *buf, size_t size)
{
    return (!*f->include || add(buf, size, "include", f->include)) && (!*f->exclude || add(buf, size, "exclude", f->exclude));
}

/* ---- what the data directory was made with ---- */

static int text_of(const struct filter *f, char *out, size_t size)
{
    return filter_everything(f) ? 0 : snprintf(out, size, "%s\n%s\n", f->include, f->exclude);
}

bool filter_unchanged(int data_fd, const struct filter *f)
{
    char want[2 * FILTER_MAX + 2] = "";
    _cleanup_free_ char *have = NULL;
    size_t n = 0, len = (size_t)text_of(f, want, sizeof want);
    int rc = durable_read(data_fd, LAYOUT_FILTER, sizeof want, &have, &n, NULL);
    if (rc == -ENOENT)
        return !len;
    return !rc && n == len && !memcmp(have, want, n);
}

int filter_save(int data_fd, const struct filter *f, struct err *e)
{
    char text[2 * FILTER_MAX + 2] = "";
    size_t n = (size_t)text_of(f, text, sizeof text);
    return durable_replace(data_fd, LAYOUT_FILTER, text, n, 0600, e);
}
