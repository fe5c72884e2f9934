/* The state that a database with a hot journal stands for: what it will be once the next one to open it has rolled the journal back. Read without a
 * lock and without libsqlite3, and nothing is changed: on a primary the files are the application's. It may be in the middle of copying them to
 * their places, may want them as they are, and whoever opens the database without a busy time-out must not find it locked by us. SQLite file
 * format §3.1; pager.c, pager_playback. */
#ifndef EDGEFS_LEFTOVER_H
#define EDGEFS_LEFTOVER_H

#include "lib/err.h"
#include "replicator/node.h"

struct leftover;

/* Reads NAME-journal, of which the caller knows that no transaction is using it. 0 and *out, or *out NULL: nothing will be rolled back (no
 * valid header, or its super-journal is gone: then the transaction is committed and the file is the state). -errno. Reads the whole
 * journal; may call into the mount (for the super-journal). */
int leftover_journal(const struct node *n, const char *name, struct leftover **out, struct err *e);
void leftover_close(struct leftover *l); /* NULL is allowed */

uint32_t leftover_page_size(const struct leftover *l);  /* bytes */
uint32_t leftover_page_count(const struct leftover *l); /* size of the database in pages, after the rollback */
/* 1 and the page, of leftover_page_size bytes, in buf; 0: the page is as the database file has it; -errno. */
int leftover_page(const struct leftover *l, uint32_t pgno, void *buf, struct err *e);
/* Calls fn for each page that it holds, in ascending order, each once. fn's result, if it is not 0, ends it. */
int leftover_each(const struct leftover *l, int (*fn)(void *ctx, uint32_t pgno, const void *page), void *ctx, struct err *e);
/* How long ago the journal was written, by its modification time; negative if the clock was set back since. */
int64_t leftover_age_us(const struct leftover *h);
/* True while the file that was read is still there and unchanged. */
bool leftover_unchanged(const struct leftover *l);

#endif
