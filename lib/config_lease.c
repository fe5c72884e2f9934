#include "lib/config_load.h"
#include "lib/config_value.h"
#include <errno.h>
#include <stdlib.h>

#define ENDPOINTS_MAX 16

static int add(struct loader *l, struct config_list *list, const char *text)
{
    struct err *e = config_loader_err(l);
    char *url = NULL;
    if (list->n >= ENDPOINTS_MAX)
        return err_set(e, ERR_CONFIG, "lease.endpoints: more than %d", ENDPOINTS_MAX);
    int rc = config_parse_proxy_url(text, &url, e);
    if (rc)
        return err_wrap(e, "lease.endpoints");
    char **more = realloc(list->items, (size_t)(list->n + 1) * sizeof *more);
    if (!more) {
        free(url);
        return err_errno(e, ENOMEM, "configuration");
    }
    list->items = more;
    more[list->n++] = url;
    return 0;
}

int config_load_endpoints(struct loader *l, struct config_list *list)
{
    for (;;) {
        yaml_event_t ev;
        int rc = config_next_event(l, &ev);
        if (rc)
            return rc;
        int line = config_event_line(&ev);
        bool end = ev.type == YAML_SEQUENCE_END_EVENT;
        const char *text = end ? NULL : config_scalar_text(l, &ev, "lease.endpoints");
        if (!end)
            rc = text ? add(l, list, text) : ERR_CONFIG;
        yaml_event_delete(&ev);
        if (end)
            return 0;
        if (rc)
            return config_at_line(l, line, rc);
    }
}
