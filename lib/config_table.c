#include "lib/config_table.h"

#include "lib/config_load.h"
#include "lib/util.h"
#include <errno.h>

static int set_text(struct config_mapping *m, void *field, char *text)
{
    if (!text)
        return err_errno(m->l->e, ENOMEM, "configuration");
    free(*(char **)field);
    *(char **)field = text;
    return 0;
}

static int set_choice(const struct config_key *k, void *field, const char *text, struct err *e)
{
    int index = 0, rc = config_parse_choice(text, k->choices, &index, e);
    if (!rc && k->type == CONFIG_TYPE_FLAG)
        *(bool *)field = index == 1;
    else if (!rc)
        memcpy(field, &index, sizeof index); /* an enum */
    return rc;
}

int config_set_scalar(struct config_mapping *m, int id, const char *text)
{
    const struct config_key *k = &m->table->keys[id];
    struct err *e = m->l->e;
    void *field = (char *)m->object + k->offset;
    char *string = NULL;
    int rc;
    switch (k->type) {
    case CONFIG_TYPE_NAME:
        rc = config_parse_name(text, e);
        return rc ? rc : set_text(m, field, strdup(text));
    case CONFIG_TYPE_PATH:
        rc = config_absolute_path(m->l, text, &string);
        return rc ? rc : set_text(m, field, string);
    case CONFIG_TYPE_URL:
        rc = config_parse_url(text, &string, e);
        return rc ? rc : set_text(m, field, string);
    case CONFIG_TYPE_UPSTREAM:
        rc = config_parse_upstream(text, &string, e);
        return rc ? rc : set_text(m, field, string);
    case CONFIG_TYPE_FLAG:
    case CONFIG_TYPE_INDEX:
        return set_choice(k, field, text, e);
    case CONFIG_TYPE_COUNT:
        return config_parse_count(text, k->lowest, k->highest, field, e);
    case CONFIG_TYPE_SIZE:
        return config_parse_size(text, k->lowest, k->highest, field, e);
    case CONFIG_TYPE_DURATION:
        return config_parse_duration(text, k->lowest, k->highest, field, e);
    default:
        return err_set(e, ERR_CONFIG, "not a single value");
    }
}

/* The value of section path, the first of whose keys is first. */
static int read_section(struct config_mapping *m, const char *path, int first, int key_line)
{
    if (m->section[first])
        return config_given_twice(m->l, path, key_line, m->section[first]);
    m->section[first] = key_line;
    yaml_event_t ev;
    int rc = config_next_event(m->l, &ev);
    if (rc)
        return rc;
    bool empty = config_is_null(&ev); /* "http:" with all its lines commented out */
    bool mapping = ev.type == YAML_MAPPING_START_EVENT;
    int line = config_event_line(&ev);
    if (!empty && !mapping)
        err_set(m->l->e, ERR_CONFIG, "%s\"%s\" must be a mapping, as in %s: {%s: …}, not %s", m->table->of, path, path,
                m->table->keys[first].path + strlen(path) + 1, config_event_kind(&ev));
    yaml_event_delete(&ev);
    if (empty)
        return 0;
    return mapping ? config_read_mapping(m, path) : config_at_line(m->l, line, ERR_CONFIG);
}

int config_read_mapping(struct config_mapping *m, const char *prefix)
{
    const struct config_table *t = m->table;
    for (;;) {
        char path[96];
        int line;
        int rc = config_next_key(m->l, prefix, path, sizeof path, &line);
        if (rc <= 0)
            return rc;
        size_t n = strlen(path);
        int leaf = -1, section = -1;
        for (int i = 0; i < t->n; i++) {
            if (!strcmp(t->keys[i].path, path) && (*prefix || !strchr(path, '.')))
                leaf = i;
            else if (section < 0 && !strncmp(t->keys[i].path, path, n) && t->keys[i].path[n] == '.')
                section = i;
        }
        if (leaf >= 0) {
            rc = m->value(m, leaf, line);
        } else if (section >= 0) {
            rc = read_section(m, path, section, line);
        } else {
            const char *paths[CONFIG_TABLE_MAX];
            for (int i = 0; i < t->n; i++)
                paths[i] = t->keys[i].path;
            rc = config_unknown_key(m->l, path, line, paths, t->n, t->page);
        }
        if (rc)
            return rc;
    }
}
