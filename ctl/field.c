#include "ctl/field.h"

#include "ctl/subcommands.h"
#include <string.h>

const json_t *field_get(const json_t *j, const char *path)
{
    char name[64];
    for (;;) {
        size_t n = strcspn(path, ".");
        if (n >= sizeof name)
            return NULL;
        memcpy(name, path, n);
        name[n] = 0;
        j = json_object_get(j, name); /* NULL for whatever is no object */
        if (!j || !path[n])
            return j;
        path += n + 1;
    }
}

bool field_u64(const json_t *j, const char *path, uint64_t *v)
{
    const json_t *f = field_get(j, path);
    if (!json_is_integer(f) || json_integer_value(f) < 0)
        return false;
    *v = (uint64_t)json_integer_value(f);
    return true;
}

uint64_t field_u64_or(const json_t *j, const char *path, uint64_t def)
{
    (void)field_u64(j, path, &def); /* untouched when it is not there */
    return def;
}

const char *field_text(const json_t *j, const char *path)
{
    return json_string_value(field_get(j, path));
}

const char *field_text_or(const json_t *j, const char *path, const char *def)
{
    const char *s = field_text(j, path);
    return s ? s : def;
}

bool field_true(const json_t *j, const char *path)
{
    return json_is_true(field_get(j, path));
}

int field_print(json_t *j, bool one_line)
{
    char *text = j ? json_dumps(j, one_line ? JSON_COMPACT : JSON_INDENT(2)) : NULL;
    json_decref(j);
    if (!text)
        return ctl_fail(CTL_LOCAL, "out of memory");
    puts(text);
    free(text);
    return 0;
}
