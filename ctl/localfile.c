#include "ctl/localfile.h"

#include "ctl/interrupt.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define TEMPLATE ".edgefs-ctl-XXXXXX"

static size_t folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash + 1 - path) : 0;
}

int localfile_create(const char *path, struct localfile *f, struct err *e)
{
    *f = (struct localfile){.fd = -1};
    f->path = strdup(path);
    if (!f->path || asprintf(&f->temporary, "%.*s" TEMPLATE, (int)folder_length(path), path) < 0) {
        free(f->path);
        *f = (struct localfile){.fd = -1};
        return err_errno(e, ENOMEM, "%s", path);
    }
    f->fd = mkostemp(f->temporary, O_CLOEXEC);
    if (f->fd < 0) {
        int rc = err_errno(e, errno, "create a file beside %s", path);
        free(f->path);
        free(f->temporary);
        *f = (struct localfile){.fd = -1};
        return rc;
    }
    interrupt_temporary(f->temporary);
    return 0;
}

int localfile_write(struct localfile *f, const void *p, size_t n, struct err *e)
{
    const char *at = p;
    while (n) {
        ssize_t k = write(f->fd, at, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return err_errno(e, k < 0 ? errno : EIO, "write %s", f->path);
        at += k;
        n -= (size_t)k;
        f->size += (uint64_t)k;
    }
    return 0;
}

/* Not every file system knows RENAME_NOREPLACE; a hard link refuses just as well. */
static int rename_new(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    if (link(from, to))
        return -1;
    (void)unlink(from); /* a second name left over is no loss */
    return 0;
}

static int sync_folder(const char *path, struct err *e)
{
    size_t n = folder_length(path);
    _cleanup_free_ char *folder = n ? strndup(path, n) : strdup(".");
    if (!folder)
        return err_errno(e, ENOMEM, "%s", path);
    _cleanup_fd_ int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd))
        return err_errno(e, errno, "fsync %s", folder);
    return 0;
}

int localfile_commit(struct localfile *f, bool replace, bool durable, struct err *e)
{
    mode_t mask = umask(0);
    umask(mask);
    int rc = 0;
    if (fchmod(f->fd, 0666 & ~mask) || (durable && fsync(f->fd)))
        rc = err_errno(e, errno, "write %s", f->path);
    else if (replace ? rename(f->temporary, f->path) : rename_new(f->temporary, f->path))
        rc = err_errno(e, errno, "%s", f->path);
    else if (durable)
        rc = sync_folder(f->path, e);
    if (!rc) {
        free(f->temporary);
        f->temporary = NULL;
    }
    localfile_abort(f);
    return rc;
}

void localfile_abort(struct localfile *f)
{
    if (!f->path)
        return;
    if (f->temporary)
        (void)unlink(f->temporary); /* ENOENT after a rename whose folder could not be synced */
    interrupt_temporary(NULL);
    close(f->fd);
    free(f->path);
    free(f->temporary);
    *f = (struct localfile){.fd = -1};
}
