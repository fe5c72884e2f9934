#include "fs/files.h"

#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define SHARDS 64u

struct file {
    int fd_plus_1; /* 0: none */
    uint32_t users;
};

struct files {
    struct file *of; /* by inode number; guarded by shard[ino % SHARDS] */
    pthread_mutex_t shard[SHARDS];
    unsigned limit;
    unsigned kept; /* atomic */
};

struct files *files_new(unsigned limit)
{
    struct files *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->of = calloc(SHARED_INODES, sizeof *f->of); /* untouched pages cost nothing */
    if (!f->of) {
        free(f);
        return NULL;
    }
    f->limit = limit;
    for (unsigned i = 0; i < SHARDS; i++)
        pthread_mutex_init(&f->shard[i], NULL);
    return f;
}

void files_close(struct files *f)
{
    for (uint32_t i = 0; i < SHARED_INODES; i++)
        if (f->of[i].fd_plus_1)
            close(f->of[i].fd_plus_1 - 1);
    for (unsigned i = 0; i < SHARDS; i++)
        pthread_mutex_destroy(&f->shard[i]);
    free(f->of);
    free(f);
}

void files_orphan_name(struct table *t, uint32_t ino, char *buf)
{
    const struct shared_inode *i = &table_shared(t)->inodes[ino];
    snprintf(buf, 48, "%u-%llu", ino, (unsigned long long)i->generation);
}

int files_where(struct fs *fs, uint64_t ino, struct where *w)
{
    int rc = 0;
    w->dirfd = fs->db_fd;
    table_lock(fs->table);
    const struct shared_inode *i = table_inode(fs->table, ino);
    if (!i)
        rc = -ESTALE;
    else if (i->flags & INODE_ORPHAN) {
        w->dirfd = fs->orphans_fd;
        files_orphan_name(fs->table, (uint32_t)ino, w->path);
    } else if (ino == TABLE_ROOT)
        memcpy(w->path, ".", 2);
    else
        rc = table_path(fs->table, (uint32_t)ino, w->path, sizeof w->path);
    table_unlock(fs->table);
    return rc < 0 ? rc : 0;
}

int files_where_child(struct fs *fs, uint64_t parent, const char *name, struct where *w)
{
    w->dirfd = fs->db_fd;
    table_lock(fs->table);
    int rc = table_inode(fs->table, parent)
                 ? table_child_path(fs->table, (uint32_t)parent, name, w->path, sizeof w->path)
                 : -ESTALE;
    table_unlock(fs->table);
    return rc < 0 ? rc : 0;
}

static int open_backing(const struct where *w)
{
    int fd = openat(w->dirfd, w->path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 && (errno == EACCES || errno == EPERM || errno == EROFS || errno == ETXTBSY))
        fd = openat(w->dirfd, w->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ESTALE : -errno;
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        close(fd);
        return -ESTALE;
    }
    return fd;
}

static bool is_open(struct fs *fs, uint64_t ino)
{
    const struct shared_inode *i = &table_shared(fs->table)->inodes[ino];
    return __atomic_load_n(&i->opens_app, __ATOMIC_RELAXED) || __atomic_load_n(&i->opens_repl, __ATOMIC_RELAXED);
}

int files_get(struct fs *fs, uint64_t ino, bool ns_held)
{
    struct files *f = fs->files;
    if (ino >= SHARED_INODES)
        return -ESTALE;
    pthread_mutex_t *m = &f->shard[ino % SHARDS];
    struct file *of = &f->of[ino];
    pthread_mutex_lock(m);
    if (of->fd_plus_1) {
        of->users++;
        int have = of->fd_plus_1 - 1;
        pthread_mutex_unlock(m);
        return have;
    }
    pthread_mutex_unlock(m);

    struct where w;
    if (!ns_held)
        pthread_rwlock_rdlock(&fs->ns);
    int fd = files_where(fs, ino, &w);
    if (fd == 0)
        fd = open_backing(&w);
    if (!ns_held)
        pthread_rwlock_unlock(&fs->ns);
    if (fd < 0)
        return fd;

    pthread_mutex_lock(m);
    if (of->fd_plus_1)
        close(fd); /* another thread was quicker */
    else {
        of->fd_plus_1 = fd + 1;
        __atomic_fetch_add(&f->kept, 1, __ATOMIC_RELAXED);
    }
    of->users++;
    fd = of->fd_plus_1 - 1;
    pthread_mutex_unlock(m);
    return fd;
}

/* Shard mutex held. */
static void drop(struct files *f, struct file *of)
{
    close(of->fd_plus_1 - 1);
    of->fd_plus_1 = 0;
    __atomic_fetch_sub(&f->kept, 1, __ATOMIC_RELAXED);
}

void files_put(struct fs *fs, uint64_t ino)
{
    struct files *f = fs->files;
    struct file *of = &f->of[ino];
    pthread_mutex_lock(&f->shard[ino % SHARDS]);
    if (--of->users == 0 && (!is_open(fs, ino) || __atomic_load_n(&f->kept, __ATOMIC_RELAXED) > f->limit))
        drop(f, of);
    pthread_mutex_unlock(&f->shard[ino % SHARDS]);
}

void files_adopt(struct fs *fs, uint64_t ino, int fd)
{
    struct files *f = fs->files;
    struct file *of = &f->of[ino];
    pthread_mutex_lock(&f->shard[ino % SHARDS]);
    if (of->fd_plus_1 || !is_open(fs, ino))
        close(fd);
    else {
        of->fd_plus_1 = fd + 1;
        __atomic_fetch_add(&f->kept, 1, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&f->shard[ino % SHARDS]);
}

void files_trim(struct fs *fs, uint64_t ino)
{
    struct files *f = fs->files;
    struct file *of = &f->of[ino];
    pthread_mutex_lock(&f->shard[ino % SHARDS]);
    if (of->fd_plus_1 && of->users == 0 && !is_open(fs, ino))
        drop(f, of);
    pthread_mutex_unlock(&f->shard[ino % SHARDS]);
}

int files_stat(struct fs *fs, uint64_t ino, struct stat *st)
{
    struct files *f = fs->files;
    if (ino >= SHARED_INODES)
        return -ESTALE;
    pthread_mutex_lock(&f->shard[ino % SHARDS]);
    if (f->of[ino].fd_plus_1) {
        int rc = fstat(f->of[ino].fd_plus_1 - 1, st) ? -errno : 0;
        pthread_mutex_unlock(&f->shard[ino % SHARDS]);
        return rc;
    }
    pthread_mutex_unlock(&f->shard[ino % SHARDS]);

    struct where w;
    pthread_rwlock_rdlock(&fs->ns);
    int rc = files_where(fs, ino, &w);
    if (rc == 0 && fstatat(w.dirfd, w.path, st, AT_SYMLINK_NOFOLLOW))
        rc = errno == ENOENT ? -ESTALE : -errno;
    pthread_rwlock_unlock(&fs->ns);
    return rc;
}
