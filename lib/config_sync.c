#include "lib/config_load.h"
#include "lib/config_value.h"
#include "lib/util.h"
#include <errno.h>
#include <fnmatch.h>

unsigned config_sync_replicas(const struct config *c, const char *database)
{
    const struct config_list *l = &c->sync.databases;
    if (!config_sync_most(c))
        return 0;
    for (int i = 0; i < l->n; i++)
        if (fnmatch(l->items[i], database, 0) == 0)
            return (unsigned)(c->sync.numbers ? c->sync.numbers[i] : c->sync.replicas);
    return l->n && !c->sync.numbers ? 0 : (unsigned)c->sync.replicas;
}

unsigned config_sync_most(const struct config *c)
{
    uint64_t most = c->sync.replicas;
    for (int i = 0; c->sync.numbers && i < c->sync.databases.n; i++)
        most = MAX(most, c->sync.numbers[i]);
    return (unsigned)most;
}

unsigned config_sync_least(const struct config *c)
{
    uint64_t least = c->sync.replicas;
    for (int i = 0; c->sync.numbers && i < c->sync.databases.n; i++)
        if (c->sync.numbers[i] && (!least || c->sync.numbers[i] < least))
            least = c->sync.numbers[i];
    return (unsigned)least;
}

/* One "pattern: number". */
static int take(struct loader *l, const char *path, const char *pattern, const char *text)
{
    struct config *c = l->c;
    struct config_list *list = &c->sync.databases;
    struct err *e = l->e;
    uint64_t number, *numbers;
    char *copy = NULL, **items;
    int rc = config_parse_glob(pattern, &copy, e);
    if (rc || (rc = config_parse_count(text, 0, CONFIG_SYNC_MAX, &number, e))) {
        free(copy);
        return err_wrap(e, "%s", path);
    }
    items = realloc(list->items, (size_t)(list->n + 1) * sizeof *items);
    list->items = items ? items : list->items;
    numbers = items ? realloc(c->sync.numbers, (size_t)(list->n + 1) * sizeof *numbers) : NULL;
    if (!numbers) {
        free(copy);
        return err_errno(e, ENOMEM, "configuration");
    }
    c->sync.numbers = numbers;
    numbers[list->n] = number;
    list->items[list->n++] = copy;
    return 0;
}

int config_load_sync(struct loader *l, const char *path, int most)
{
    struct config *c = l->c;
    struct err *e = l->e;
    if (!(c->sync.numbers = malloc(sizeof *c->sync.numbers))) /* a mapping, even if nothing is in it */
        return err_errno(e, ENOMEM, "configuration");
    for (;;) {
        char pattern[CONFIG_GLOB_MAX + 2]; /* a longer one is cut, and still too long */
        int line, rc = config_next_key(l, "", pattern, sizeof pattern, &line);
        if (rc <= 0)
            return rc;
        if (c->sync.databases.n >= most)
            return config_at_line(l, line, err_set(e, ERR_CONFIG, "%s: more than %d", path, most));
        for (int i = 0; i < c->sync.databases.n; i++)
            if (!strcmp(c->sync.databases.items[i], pattern))
                return config_at_line(l, line, err_set(e, ERR_CONFIG, "%s: \"%s\" is given twice", path, pattern));
        yaml_event_t ev;
        if ((rc = config_next_event(l, &ev)))
            return rc;
        line = config_event_line(&ev);
        const char *text = config_scalar_text(l, &ev, path);
        rc = text ? take(l, path, pattern, text) : ERR_CONFIG;
        yaml_event_delete(&ev);
        if (rc)
            return config_at_line(l, line, rc);
    }
}
