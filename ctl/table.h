/* An aligned table on standard output: column heads, rows, two blanks between columns, no blanks at the ends of lines. */
#ifndef EDGEFS_CTL_TABLE_H
#define EDGEFS_CTL_TABLE_H

#include <stdbool.h>
#include <stdio.h>

#define TABLE_COLUMNS_MAX 280 /* `verify` has one per node (CONFIG_NODES_MAX) and some more */

enum table_style { TABLE_PLAIN, TABLE_GOOD, TABLE_WARN, TABLE_BAD, TABLE_DIM, TABLE_BOLD };

struct table;

/* colours: whether cells get their style (text_colours). Out of memory ends the program with CTL_LOCAL, here and below: there is no
 * half a table. */
struct table *table_new(bool colours);
void table_free(struct table *t);

/* Before the first row. right: numbers. The text is copied. */
void table_column(struct table *t, const char *head, bool right);

/* The next cell, filling rows from left to right; text is copied and made printable (text_printable). */
void table_cell(struct table *t, enum table_style style, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Fills the row up with empty cells. */
void table_end_row(struct table *t);

/* Writes it. width: columns of the terminal, 0 if there is none; the first column is cut ("…") if that makes all rows fit. */
void table_print(const struct table *t, FILE *f, unsigned width);

/* Escape sequences that begin and end a style; empty strings without colours. */
const char *table_style_begin(enum table_style style, bool colours);
const char *table_style_end(enum table_style style, bool colours);

#endif
