#include "ctl/table.h"

#include "ctl/subcommands.h"
#include "ctl/text.h"
#include "lib/util.h"
#include <stdarg.h>

#define FIRST_COLUMN_MIN 12 /* it is not cut below that */

struct cell {
    char *text;
    enum table_style style;
};

struct table {
    bool colours;
    size_t n_columns;
    char *heads[TABLE_COLUMNS_MAX];
    bool right[TABLE_COLUMNS_MAX];
    struct cell *cells; /* row after row */
    size_t n_cells, room;
};

static void *must(void *p)
{
    if (!p)
        exit(ctl_fail(CTL_LOCAL, "out of memory"));
    return p;
}

struct table *table_new(bool colours)
{
    struct table *t = must(calloc(1, sizeof *t));
    t->colours = colours;
    return t;
}

void table_free(struct table *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->n_columns; i++)
        free(t->heads[i]);
    for (size_t i = 0; i < t->n_cells; i++)
        free(t->cells[i].text);
    free(t->cells);
    free(t);
}

void table_column(struct table *t, const char *head, bool right)
{
    if (t->n_columns == TABLE_COLUMNS_MAX)
        return;
    t->heads[t->n_columns] = must(text_printable(head));
    t->right[t->n_columns++] = right;
}

void table_cell(struct table *t, enum table_style style, const char *fmt, ...)
{
    if (t->n_cells == t->room) {
        t->room = t->room ? t->room * 2 : 64;
        t->cells = must(reallocarray(t->cells, t->room, sizeof *t->cells));
    }
    _cleanup_free_ char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        text = NULL;
    va_end(ap);
    t->cells[t->n_cells++] = (struct cell){must(text_printable(must(text))), style};
}

void table_end_row(struct table *t)
{
    while (t->n_columns && t->n_cells % t->n_columns)
        table_cell(t, TABLE_PLAIN, "%s", "");
}

const char *table_style_begin(enum table_style style, bool colours)
{
    static const char *const begin[] = {
        [TABLE_PLAIN] = "",        [TABLE_GOOD] = "\033[32m", [TABLE_WARN] = "\033[33m",
        [TABLE_BAD] = "\033[1;31m", [TABLE_DIM] = "\033[2m",   [TABLE_BOLD] = "\033[1m",
    };
    return colours ? begin[style] : "";
}

const char *table_style_end(enum table_style style, bool colours)
{
    return colours && style != TABLE_PLAIN ? "\033[0m" : "";
}

static void blanks(FILE *f, size_t n)
{
    while (n--)
        fputc(' ', f);
}

/* One cell; *pending blanks come before it, so that none are left at the end of a line. */
static void print_cell(const struct table *t, FILE *f, const char *text, enum table_style style, bool right, size_t width,
                       size_t *pending)
{
    size_t w = text_width(text), bytes = strlen(text);
    bool cut = w > width;
    if (cut) {
        bytes = text_prefix(text, width - 1);
        _cleanup_free_ char *prefix = must(strndup(text, bytes));
        w = text_width(prefix) + 1;
    }
    size_t gap = w < width ? width - w : 0;
    if (bytes) {
        blanks(f, *pending + (right ? gap : 0));
        *pending = right ? 0 : gap;
        fprintf(f, "%s%.*s%s%s", table_style_begin(style, t->colours), (int)bytes, text, cut ? "…" : "",
                table_style_end(style, t->colours));
    } else {
        *pending += gap;
    }
    *pending += 2;
}

void table_print(const struct table *t, FILE *f, unsigned width)
{
    size_t widths[TABLE_COLUMNS_MAX], total = 0;
    if (!t->n_columns)
        return;
    for (size_t i = 0; i < t->n_columns; i++) {
        widths[i] = text_width(t->heads[i]);
        for (size_t j = i; j < t->n_cells; j += t->n_columns)
            widths[i] = MAX(widths[i], text_width(t->cells[j].text));
        total += widths[i] + (i ? 2 : 0);
    }
    if (width && total > width && widths[0] > FIRST_COLUMN_MIN && total - widths[0] + FIRST_COLUMN_MIN <= width)
        widths[0] -= total - width;
    size_t pending = 0;
    for (size_t i = 0; i < t->n_columns; i++)
        print_cell(t, f, t->heads[i], TABLE_BOLD, t->right[i], widths[i], &pending);
    for (size_t i = 0; i < t->n_cells; i++) {
        size_t column = i % t->n_columns;
        if (column == 0) {
            fputc('\n', f);
            pending = 0;
        }
        print_cell(t, f, t->cells[i].text, t->cells[i].style, t->right[column], widths[column], &pending);
    }
    fputc('\n', f);
}
