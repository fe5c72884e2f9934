#include "lib/config_load.h"
#include <errno.h>
#include <stdlib.h>

static int add(struct config_list *list, char *item, struct err *e)
{
    char **more = realloc(list->items, (size_t)(list->n + 1) * sizeof *more);
    if (!more)
        return err_errno(e, ENOMEM, "configuration");
    list->items = more;
    more[list->n++] = item;
    return 0;
}

int config_load_list(struct loader *l, const char *path, int most, int (*parse)(const char *text, char **copy, struct err *e), struct config_list *list)
{
    for (;;) {
        yaml_event_t ev;
        struct err *e = l->e;
        char *item = NULL;
        int rc = config_next_event(l, &ev);
        if (rc)
            return rc;
        int line = config_event_line(&ev);
        bool end = ev.type == YAML_SEQUENCE_END_EVENT;
        const char *text = end ? NULL : config_scalar_text(l, &ev, path);
        if (!end && !text)
            rc = ERR_CONFIG;
        else if (!end && list->n >= most)
            rc = err_set(e, ERR_CONFIG, "%s: more than %d", path, most);
        else if (!end && (rc = parse(text, &item, e)))
            err_wrap(e, "%s", path);
        if (item && (rc = add(list, item, e)))
            free(item);
        yaml_event_delete(&ev);
        if (end)
            return 0;
        if (rc)
            return config_at_line(l, line, rc);
    }
}

void config_free_list(struct config_list *list)
{
    for (int i = 0; i < list->n; i++)
        free(list->items[i]);
    free(list->items);
    *list = (struct config_list){0};
}
