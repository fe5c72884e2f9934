#include "ctl/field.h"
#include "ctl/localfile.h"
#include "ctl/log.h"
#include "ctl/options.h"
#include "ctl/progress.h"
#include "ctl/text.h"
#include "lib/ltx.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

struct export {
    struct cluster *c;
    const char *url, *dir;
    struct ltx_decoder *decoder;
    uint64_t last;             /* LSN at which the export ends */
    uint64_t seen, seen_bytes; /* all records so far: for the estimate of the rest */
    uint64_t files, bytes, kept;
};

static int take(void *ctx, const void *p, size_t n, struct err *e)
{
    progress_add(n);
    return localfile_write(ctx, p, n, e);
}

/* The name of a database as one name of a folder: app.db, tenants%2Fa.db. The caller frees it; NULL: out of memory. */
static char *folder_name(const char *name)
{
    char *out = malloc(strlen(name) * 3 + 1), *p = out;
    if (!out)
        return NULL;
    for (; *name; name++) {
        if (*name == '/')
            p = stpcpy(p, "%2F");
        else if (*name == '%')
            p = stpcpy(p, "%25");
        else
            *p++ = *name;
    }
    *p = 0;
    return out;
}

static int make_folder(const char *path, struct err *e)
{
    struct stat st;
    if (mkdir(path, 0777) == 0)
        return 0;
    int failed = errno;
    if (failed == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return 0;
    return err_errno(e, failed == EEXIST ? ENOTDIR : failed, "create %s", path);
}

static long read_file(void *ctx, void *p, size_t n, struct err *e)
{
    const struct localfile *f = ctx;
    ssize_t k;
    do
        k = read(f->fd, p, n);
    while (k < 0 && errno == EINTR);
    return k < 0 ? err_errno(e, errno, "read %s", f->path) : k;
}

/* Whether what came is one whole LTX file of these transactions: its own checksum says so. */
static int check_file(struct export *x, struct localfile *f, uint64_t min, uint64_t max, struct err *e)
{
    struct ltx_header h;
    struct ltx_trailer t;
    uint32_t pgno;
    const uint8_t *page;
    if (lseek(f->fd, 0, SEEK_SET) < 0)
        return err_errno(e, errno, "read %s", f->path);
    int rc = ltx_decode_begin(x->decoder, read_file, f, &h, e);
    if (rc)
        return rc;
    if (h.min_txid != min || h.max_txid != max)
        return err_set(e, ERR_CORRUPT, "it holds transactions %" PRIu64 " to %" PRIu64, h.min_txid, h.max_txid);
    while ((rc = ltx_decode_page(x->decoder, &pgno, &page, e)) > 0)
        ;
    return rc ? rc : ltx_decode_end(x->decoder, &t, e);
}

static int fetch(struct export *x, uint64_t lsn, const char *path, uint64_t size, uint64_t min, uint64_t max, struct err *e)
{
    _cleanup_free_ char *from = cluster_path("/v1/log/%" PRIu64, lsn);
    struct localfile f;
    int status, rc = from ? localfile_create(path, &f, e) : err_errno(e, ENOMEM, "log export");
    if (rc)
        return rc;
    struct request r = {.url = x->url, .path = from};
    struct download d = {.sink = take, .ctx = &f};
    rc = cluster_download(x->c, &r, &d, &status, e);
    if (!rc && f.size != size)
        rc = err_set(e, ERR_REMOTE, "LSN %" PRIu64 ": %" PRIu64 " bytes came, %" PRIu64 " were announced", lsn, f.size, size);
    if (!rc && (rc = check_file(x, &f, min, max, e))) {
        err_wrap(e, "LSN %" PRIu64 ": what came is damaged", lsn);
        rc = rc == ERR_CORRUPT ? (e->code = ERR_REMOTE) : rc;
    }
    if (rc) {
        localfile_abort(&f);
        return rc;
    }
    return localfile_commit(&f, false, false, e);
}

static int export_record(struct export *x, const json_t *r, struct err *e)
{
    uint64_t lsn = field_u64_or(r, "lsn", 0), size, min, max;
    const char *name = field_text(r, "name");
    if (!name || !field_u64(r, "payload", &size) || !field_u64(r, "min_txid", &min) || !field_u64(r, "max_txid", &max))
        return err_set(e, ERR_REMOTE, "LSN %" PRIu64 ": /v1/log lacks its name, size or transactions", lsn);
    int rc = cluster_check_name(name, e); /* it becomes part of a path here */
    if (rc) {
        err_wrap(e, "LSN %" PRIu64, lsn);
        return e->code = ERR_REMOTE;
    }
    _cleanup_free_ char *folder = folder_name(name);
    if (!folder)
        return err_errno(e, ENOMEM, "log export");
    if (strlen(folder) > NAME_MAX)
        return err_set(e, -ENAMETOOLONG, "%.80s…: no folder can have so long a name", folder);
    _cleanup_free_ char *path = cluster_path("%s/%s/%016" PRIx64 "-%016" PRIx64 ".ltx", x->dir, folder, min, max);
    if (!path)
        return err_errno(e, ENOMEM, "log export");
    struct stat st;
    if (lstat(path, &st) == 0) {
        if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != size)
            return err_set(e, -EEXIST, "%s is there already and is another file (%lld bytes, not %" PRIu64 "); export to another folder",
                           path, (long long)st.st_size, size);
        x->kept++;
        progress_add(size);
        return 0;
    }
    char *slash = strrchr(path, '/');
    *slash = 0;
    rc = make_folder(path, e);
    *slash = '/';
    if (!rc)
        rc = fetch(x, lsn, path, size, min, max, e);
    if (!rc) {
        x->files++;
        x->bytes += size;
    }
    return rc;
}

/* The total is an estimate that gets better: this page, and the rest at the average so far. */
static int export_page(const json_t *records, void *ctx, struct err *e)
{
    struct export *x = ctx;
    size_t n = json_array_size(records);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(field_text_or(json_array_get(records, i), "type", ""), "tx"))
            x->seen_bytes += field_u64_or(json_array_get(records, i), "payload", 0);
    x->seen += n;
    uint64_t at = field_u64_or(json_array_get(records, n - 1), "lsn", 0);
    uint64_t left = at < x->last ? x->last - at : 0;
    progress_total(x->seen_bytes + (uint64_t)((double)x->seen_bytes / (double)x->seen * (double)left));
    for (size_t i = 0; i < n; i++) {
        const json_t *r = json_array_get(records, i);
        int rc = strcmp(field_text_or(r, "type", ""), "tx") ? 0 : export_record(x, r, e);
        if (rc)
            return rc;
    }
    return 0;
}

static int export_all(struct export *x, uint64_t from, struct err *e)
{
    int rc = make_folder(x->dir, e);
    if (rc)
        return rc;
    _cleanup_fd_ int fd = open(x->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, errno, "%s", x->dir);
    x->decoder = ltx_decoder_new();
    if (!x->decoder)
        return err_errno(e, ENOMEM, "log export");
    progress_begin("log export", 0);
    rc = log_each(x->c, x->url, from, x->last, export_page, x, e);
    progress_end();
    ltx_decoder_free(x->decoder);
    if (!rc && syncfs(fd))
        rc = err_errno(e, errno, "%s", x->dir);
    return rc;
}

int log_export(struct cluster *c, int argc, char **argv)
{
    uint64_t from = 0, to = UINT64_MAX;
    const struct option options[] = {
        {"--from", OPTION_NUMBER, &from, 1, INT64_MAX},
        {"--to", OPTION_NUMBER, &to, 1, INT64_MAX},
    };
    int n, rc = options_parse(&cmd_log, options, ARRAY_SIZE(options), argc, argv, 1, 1, &n);
    if (rc)
        return rc;
    if (from > to)
        return ctl_fail(CTL_USAGE, "log export: --from %" PRIu64 " is beyond --to %" PRIu64, from, to);
    struct err e;
    struct log_bounds b;
    _cleanup_free_ char *url = NULL;
    if (cluster_one(c, &url, &e) || log_bounds_get(c, url, &b, &e) || (from && log_check_from(&b, from, &e)))
        return ctl_fail_err(&e);
    struct export x = {.c = c, .url = url, .dir = argv[1], .last = MIN(to, b.last)};
    if (export_all(&x, from ? from : b.first, &e))
        return ctl_fail_err(&e);
    char bytes[TEXT_NUMBER_MAX];
    printf("%" PRIu64 " files, %s, exported to %s", x.files, text_size(x.bytes, bytes), x.dir);
    if (x.kept)
        printf("; %" PRIu64 " were there already", x.kept);
    putchar('\n');
    return CTL_OK;
}
