#include "fs/dirsync.h"

#include <linux/magic.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define NEW_FILES 256u /* at index ino % NEW_FILES; one that is pushed out is synced with its directory */
#define DIRS 64u

struct entry {
    uint32_t ino; /* 0: none */
    uint64_t generation;
    uint64_t covers;
};

struct dirsync {
    bool files_cover; /* an fsync of a new file on `device` covers its name */
    uint64_t device;
    uint64_t number;  /* atomic */
    uint64_t covered; /* atomic; everywhere, by fsyncs of new files */
    pthread_mutex_t mutex; /* guards what follows; `ino` of a file is also looked at without it */
    struct entry file[NEW_FILES], dir[DIRS];
};

struct dirsync *dirsync_new(int db_fd)
{
    struct statfs fs;
    struct stat st;
    struct dirsync *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->number = 1; /* what was before us is not known to be on the disk */
    d->files_cover = fstatfs(db_fd, &fs) == 0 && fs.f_type == EXT4_SUPER_MAGIC && fstat(db_fd, &st) == 0;
    d->device = d->files_cover ? st.st_dev : 0;
    pthread_mutex_init(&d->mutex, NULL);
    return d;
}

uint64_t dirsync_changed(struct dirsync *d)
{
    return __atomic_add_fetch(&d->number, 1, __ATOMIC_SEQ_CST);
}

uint64_t dirsync_now(const struct dirsync *d)
{
    return __atomic_load_n(&d->number, __ATOMIC_SEQ_CST);
}

void dirsync_made(struct dirsync *d, uint32_t ino, uint64_t generation, uint64_t device, uint64_t before, uint64_t number)
{
    if (!d->files_cover || device != d->device)
        return;
    struct entry *e = &d->file[ino % NEW_FILES];
    pthread_mutex_lock(&d->mutex);
    e->generation = generation;
    e->covers = number == before + 1 ? number : before;
    __atomic_store_n(&e->ino, ino, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&d->mutex);
}

void dirsync_file_synced(struct dirsync *d, uint32_t ino, uint64_t generation)
{
    struct entry *e = &d->file[ino % NEW_FILES];
    if (__atomic_load_n(&e->ino, __ATOMIC_RELAXED) != ino)
        return;
    pthread_mutex_lock(&d->mutex);
    if (e->ino == ino) {
        if (e->generation == generation && e->covers > d->covered)
            __atomic_store_n(&d->covered, e->covers, __ATOMIC_SEQ_CST);
        __atomic_store_n(&e->ino, 0, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&d->mutex);
}

void dirsync_synced(struct dirsync *d, uint32_t ino, uint64_t before)
{
    pthread_mutex_lock(&d->mutex);
    d->dir[ino % DIRS] = (struct entry){.ino = ino, .covers = before};
    pthread_mutex_unlock(&d->mutex);
}

bool dirsync_clean(struct dirsync *d, uint32_t ino, uint64_t device)
{
    uint64_t number = dirsync_now(d);
    if (device == d->device && __atomic_load_n(&d->covered, __ATOMIC_SEQ_CST) >= number)
        return true;
    const struct entry *e = &d->dir[ino % DIRS];
    pthread_mutex_lock(&d->mutex);
    bool clean = e->ino == ino && e->covers >= number;
    pthread_mutex_unlock(&d->mutex);
    return clean;
}
