#include "ctl/cluster.h"
#include "ctl/localfile.h"
#include "ctl/options.h"
#include "ctl/progress.h"
#include "ctl/text.h"
#include "lib/sqlitefile.h"
#include "lib/util.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#define SILENCE_MS 600000 /* the node makes a snapshot before the first byte; at the speed of a slow disk that can take minutes */

static int take(void *ctx, const void *p, size_t n, struct err *e)
{
    progress_add(n);
    return localfile_write(ctx, p, n, e);
}

static void begin(void *ctx, uint64_t total)
{
    (void)ctx;
    progress_total(total);
}

/* Before anything is fetched: may FILE be written? A -wal or -journal beside it belongs to what was there before, and SQLite would
 * play it into the new file: never. */
static int check_target(const char *file, bool force, struct err *e)
{
    static const char *const companions[] = {LAYOUT_WAL, LAYOUT_JOURNAL};
    struct stat st;
    for (size_t i = 0; i < ARRAY_SIZE(companions); i++) {
        _cleanup_free_ char *name = NULL;
        if (asprintf(&name, "%s%s", file, companions[i]) < 0) {
            name = NULL;
            return err_errno(e, ENOMEM, "%s", file);
        }
        if (stat(name, &st) == 0)
            return err_set(e, -EEXIST, "%s belongs to an older %s and would damage the new one: remove it, or choose another name", name,
                           file);
    }
    if (stat(file, &st))
        return errno == ENOENT ? 0 : err_errno(e, errno, "%s", file);
    if (S_ISDIR(st.st_mode))
        return err_set(e, -EISDIR, "%s is a directory; give the name of the new file", file);
    if (!force)
        return err_set(e, -EEXIST, "%s exists; --force replaces it", file);
    return 0;
}

/* A connection that breaks is noticed by the transfer itself; this finds what a proxy or a full disk on the other side may do. */
static int check_complete(const struct localfile *f, const struct download *d, uint32_t *pages, struct err *e)
{
    uint8_t head[DBFILE_HEADER_SIZE];
    struct dbfile_header h;
    *pages = 0;
    if (f->size == 0 && d->length_known)
        return 0; /* an empty database is an empty file */
    ssize_t n = pread(f->fd, head, sizeof head, 0);
    if (n < 0)
        return err_errno(e, errno, "read %s", f->path);
    if (dbfile_header_decode(head, (size_t)n, &h))
        return err_set(e, ERR_REMOTE, "what the node sent is not an SQLite database; nothing was written");
    *pages = (uint32_t)(f->size / h.page_size);
    if (f->size % h.page_size || (h.page_count_valid && h.page_count != *pages))
        return err_set(e, ERR_REMOTE, "the copy is incomplete: %" PRIu64 " bytes, but %u pages of %u bytes; nothing was written",
                       f->size, h.page_count, h.page_size);
    return 0;
}

static int fetch(struct cluster *c, const char *url, const char *name, const char *file, bool force, struct err *e)
{
    _cleanup_free_ char *escaped = cluster_escape(name);
    _cleanup_free_ char *path = escaped ? cluster_path("/v1/databases/%s/image?format=sqlite", escaped) : NULL;
    if (!path)
        return err_errno(e, ENOMEM, "export");
    struct localfile f;
    int status, rc = localfile_create(file, &f, e);
    if (rc)
        return rc;
    struct request r = {.url = url, .path = path, .timeout_ms = SILENCE_MS};
    struct download d = {.sink = take, .begin = begin, .ctx = &f};
    uint32_t pages = 0;
    uint64_t begun = now_ns();
    progress_begin(name, 0);
    rc = cluster_download(c, &r, &d, &status, e);
    progress_end();
    uint64_t size = f.size;
    if (!rc)
        rc = check_complete(&f, &d, &pages, e);
    if (rc) {
        localfile_abort(&f);
        return rc;
    }
    rc = localfile_commit(&f, force, true, e);
    if (!rc) {
        char bytes[TEXT_NUMBER_MAX], took[TEXT_NUMBER_MAX];
        _cleanup_free_ char *shown = text_printable(name);
        printf("%s: %s (%u pages) exported to %s in %s\n", shown ? shown : "?", text_size(size, bytes), pages, file,
               text_duration((now_ns() - begun) / 1000000, took));
    }
    return rc;
}

static int run(struct cluster *c, int argc, char **argv)
{
    bool force = false;
    const struct option options[] = {{"--force", OPTION_FLAG, &force, 0, 0}};
    int n, rc = options_parse(&cmd_export, options, ARRAY_SIZE(options), argc, argv, 2, 2, &n);
    if (rc)
        return rc;
    struct err e;
    _cleanup_free_ char *url = NULL;
    if (cluster_check_name(argv[1], &e) || check_target(argv[2], force, &e) || cluster_one(c, &url, &e) ||
        fetch(c, url, argv[1], argv[2], force, &e))
        return ctl_fail_err(&e);
    return CTL_OK;
}

const struct command cmd_export = {
    .name = "export",
    .usage = "NAME FILE [--force]",
    .summary = "a consistent copy of a live database",
    .help = "Copies database NAME of the node (--url) to FILE, an ordinary SQLite database as of one moment. Writers and readers are not\n"
            "held up. FILE appears whole or not at all.\n\n"
            "  --force  replace FILE if it exists\n",
    .run = run,
};
