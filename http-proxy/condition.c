#include "http-proxy/condition.h"

#include "lib/util.h"

bool condition_any(const struct head *r)
{
    return head_find_name(r, "if-none-match") || head_find_name(r, "if-modified-since");
}

bool condition_simple(const struct head *r)
{
    return !head_find_name(r, "if-match") && !head_find_name(r, "if-unmodified-since") && !head_find_name(r, "if-range");
}

/* The value of a field among lines "name: value\r\n"; n = 0: it is not there. */
static struct slice stored_field(struct slice lines, struct slice name)
{
    while (lines.n) {
        const char *end = memmem(lines.p, lines.n, "\r\n", 2);
        size_t n = end ? (size_t)(end - lines.p) : lines.n;
        if (n > name.n + 2 && lines.p[name.n] == ':' && slice_equal_case((struct slice){lines.p, name.n}, name))
            return (struct slice){lines.p + name.n + 2, n - name.n - 2};
        n = MIN(n + 2, lines.n);
        lines.p += n;
        lines.n -= n;
    }
    return (struct slice){0};
}

static struct slice opaque(struct slice tag)
{
    if (tag.n > 2 && !memcmp(tag.p, "W/", 2))
        return (struct slice){tag.p + 2, tag.n - 2};
    return tag;
}

/* Whether an entity-tag is in a list of them (quoted strings, which may hold commas). */
static bool tag_listed(struct slice list, struct slice tag)
{
    for (size_t i = 0; i < list.n;) {
        size_t at = i;
        if (list.p[i] != '"') {
            i++;
            continue;
        }
        const char *end = memchr(list.p + i + 1, '"', list.n - i - 1);
        if (!end)
            return false;
        i = (size_t)(end - list.p) + 1;
        if (slice_equal((struct slice){list.p + at, i - at}, tag))
            return true;
    }
    return slice_equal(list, SLICE("*"));
}

bool condition_unmodified(const struct head *r, struct slice stored)
{
    const struct head_field *f = head_find_name(r, "if-none-match"), *since = head_find_name(r, "if-modified-since");
    struct slice tag = opaque(stored_field(stored, SLICE("ETag"))), last = stored_field(stored, SLICE("Last-Modified"));
    if (!f)
        return since && last.n && slice_equal(head_value(r, since), last);
    for (unsigned i = 0; i < r->n_fields; i++)
        if (slice_equal_case(head_name(r, &r->fields[i]), SLICE("if-none-match")) &&
            (tag.n ? tag_listed(head_value(r, &r->fields[i]), tag) : slice_equal(head_value(r, &r->fields[i]), SLICE("*"))))
            return true;
    return false;
}
