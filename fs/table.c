#include "fs/table.h"

#include "lib/log.h"
#include "lib/util.h"
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define BUCKETS (1u << 17)

struct table {
    struct shared *sh;
    pthread_mutex_t mutex;
    uint32_t redo_len; /* bytes noted since the last commit */
    /* The private index. next[] chains the inodes of one bucket, and the free inodes below the high-water mark. */
    uint32_t *buckets, *next, *children;
    uint32_t free_head;
    uint32_t count, unseen;
};

/* ---- transactions ---- */

struct redo_entry {
    uint32_t offset, len;
};

static size_t padded(size_t n)
{
    return (n + 7) & ~(size_t)7;
}

void table_put(struct table *t, void *dst, const void *src, size_t n)
{
    struct shared_redo *r = &t->sh->redo;
    uint64_t offset = (uint64_t)((uint8_t *)dst - (uint8_t *)t->sh);
    if (offset + n > SHARED_SIZE || t->redo_len + sizeof(struct redo_entry) + padded(n) > sizeof r->data)
        abort(); /* a bug of ours: no transaction comes near the size of the redo log */
    struct redo_entry entry = {(uint32_t)offset, (uint32_t)n};
    memcpy(r->data + t->redo_len, &entry, sizeof entry);
    memcpy(r->data + t->redo_len + sizeof entry, src, n);
    t->redo_len += (uint32_t)(sizeof entry + padded(n));
}

static int redo_apply(struct shared *sh, uint32_t len)
{
    for (uint32_t at = 0; at < len;) {
        struct redo_entry entry;
        if (len - at < sizeof entry)
            return -EBADMSG;
        memcpy(&entry, sh->redo.data + at, sizeof entry);
        at += (uint32_t)sizeof entry;
        if (entry.len > len - at || (uint64_t)entry.offset + entry.len > SHARED_SIZE)
            return -EBADMSG;
        memcpy((uint8_t *)sh + entry.offset, sh->redo.data + at, entry.len);
        at += (uint32_t)padded(entry.len);
    }
    return 0;
}

void table_commit(struct table *t)
{
    struct shared_redo *r = &t->sh->redo;
    if (!t->redo_len)
        return;
    /* The fences keep the compiler from moving the copies across either store; what a kill leaves is then program order. */
    __atomic_store_n(&r->committed, t->redo_len, __ATOMIC_SEQ_CST);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (redo_apply(t->sh, t->redo_len))
        abort();
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    __atomic_store_n(&r->committed, 0, __ATOMIC_SEQ_CST);
    t->redo_len = 0;
}

/* ---- the index ---- */

static uint32_t hash_name(uint32_t parent, const char *name, size_t len)
{
    uint32_t h = 2166136261u ^ (parent * 2654435761u); /* FNV-1a, seeded with the parent */
    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)name[i]) * 16777619u;
    return h ^ h >> 15;
}

static uint32_t *bucket_of(struct table *t, uint32_t hash)
{
    return &t->buckets[hash & (BUCKETS - 1)];
}

static bool named(const struct shared_inode *i)
{
    return (i->flags & INODE_USED) && !(i->flags & (INODE_ORPHAN | INODE_NAMELESS));
}

static void index_add(struct table *t, uint32_t ino, uint32_t hash, uint32_t parent)
{
    uint32_t *b = bucket_of(t, hash);
    t->next[ino] = *b;
    *b = ino;
    t->children[parent]++;
}

static void index_remove(struct table *t, uint32_t ino)
{
    struct shared_inode *i = &t->sh->inodes[ino];
    for (uint32_t *p = bucket_of(t, i->name_hash); *p; p = &t->next[*p])
        if (*p == ino) {
            *p = t->next[ino];
            t->next[ino] = 0;
            t->children[i->parent]--;
            return;
        }
}

struct shared_inode *table_inode(struct table *t, uint64_t ino)
{
    if (ino == 0 || ino >= t->sh->high_water || !(t->sh->inodes[ino].flags & INODE_USED))
        return NULL;
    return &t->sh->inodes[ino];
}

uint32_t table_find(struct table *t, uint32_t parent, const char *name, size_t len)
{
    uint32_t h = hash_name(parent, name, len);
    for (uint32_t n = *bucket_of(t, h); n; n = t->next[n]) {
        const struct shared_inode *i = &t->sh->inodes[n];
        if (i->name_hash == h && i->parent == parent && i->name_len == len && !memcmp(i->name, name, len))
            return n;
    }
    return 0;
}

uint32_t table_add(struct table *t, uint32_t parent, const char *name, size_t len, uint32_t flags)
{
    uint32_t ino = t->free_head;
    if (ino)
        t->free_head = t->next[ino];
    else if (t->sh->high_water < t->sh->capacity)
        ino = t->sh->high_water;
    else
        return 0;
    /* Free until `flags` is committed: these stores can be made at once. high_water too, since a free inode below it is harmless. */
    struct shared_inode *i = &t->sh->inodes[ino];
    memset(i, 0, sizeof *i);
    i->parent = parent;
    i->name_hash = hash_name(parent, name, len);
    i->name_len = (uint16_t)len;
    memcpy(i->name, name, len);
    i->generation = ++t->sh->generation;
    if (ino == t->sh->high_water)
        __atomic_store_n(&t->sh->high_water, ino + 1, __ATOMIC_RELEASE);
    table_set(t, i->flags, flags | INODE_USED);
    index_add(t, ino, i->name_hash, parent);
    t->count++;
    return ino;
}

void table_remove_name(struct table *t, uint32_t ino, uint32_t more_flags)
{
    struct shared_inode *i = &t->sh->inodes[ino];
    index_remove(t, ino);
    if (i->flags & INODE_UNSEEN)
        t->unseen--;
    table_set(t, i->flags, (i->flags & ~(uint32_t)(INODE_UNSEEN | INODE_UNSEEN_SENT | INODE_EMPTIED)) | more_flags);
}

void table_rename(struct table *t, uint32_t ino, uint32_t parent, const char *name, size_t len)
{
    struct shared_inode *i = &t->sh->inodes[ino];
    char full[SHARED_NAME_MAX + 1] = {0};
    memcpy(full, name, len);
    uint32_t hash = hash_name(parent, name, len);
    index_remove(t, ino);
    table_set(t, i->parent, parent);
    table_set(t, i->name_hash, hash);
    table_set(t, i->name_len, (uint16_t)len);
    table_put(t, i->name, full, sizeof full);
    index_add(t, ino, hash, parent);
}

void table_exchange(struct table *t, uint32_t a, uint32_t b)
{
    struct shared_inode *ia = &t->sh->inodes[a];
    char name[SHARED_NAME_MAX + 1];
    size_t len = ia->name_len;
    uint32_t parent = ia->parent;
    memcpy(name, ia->name, sizeof name);
    table_rename(t, a, t->sh->inodes[b].parent, t->sh->inodes[b].name, t->sh->inodes[b].name_len);
    table_rename(t, b, parent, name, len);
}

static bool held(const struct table *t, uint32_t ino)
{
    const struct shared_inode *i = &t->sh->inodes[ino];
    return ino == TABLE_ROOT || i->nlookup || i->opens_app || i->opens_repl || t->children[ino] ||
           (i->flags & (INODE_UNSEEN | INODE_ORPHAN));
}

void table_release(struct table *t, uint32_t ino)
{
    while (table_inode(t, ino) && !held(t, ino)) {
        struct shared_inode *i = &t->sh->inodes[ino];
        uint32_t parent = 0;
        if (named(i)) {
            parent = i->parent;
            index_remove(t, ino);
        }
        table_set(t, i->flags, 0u);
        table_commit(t);
        t->next[ino] = t->free_head;
        t->free_head = ino;
        t->count--;
        ino = parent;
    }
}

/* ---- paths ---- */

int table_path(struct table *t, uint32_t ino, char *buf, size_t size)
{
    /* Written backwards from the end of buf, then moved to its front. */
    size_t at = size;
    if (size == 0)
        return -ENAMETOOLONG;
    buf[--at] = 0;
    for (uint32_t n = ino; n != TABLE_ROOT;) {
        const struct shared_inode *i = table_inode(t, n);
        if (!i || !named(i))
            return -ESTALE;
        size_t need = i->name_len + (n == ino ? 0u : 1u);
        if (at < need)
            return -ENAMETOOLONG;
        if (n != ino)
            buf[--at] = '/';
        at -= i->name_len;
        memcpy(buf + at, i->name, i->name_len);
        n = i->parent;
    }
    memmove(buf, buf + at, size - at);
    return (int)(size - at - 1);
}

int table_child_path(struct table *t, uint32_t parent, const char *name, char *buf, size_t size)
{
    int n = table_path(t, parent, buf, size);
    if (n < 0)
        return n;
    size_t len = strlen(name), at = (size_t)n;
    if (at + len + 2 > size)
        return -ENAMETOOLONG;
    if (at)
        buf[at++] = '/';
    memcpy(buf + at, name, len + 1);
    return (int)(at + len);
}

/* ---- unseen marks ---- */

int table_mark_unseen(struct table *t, const char *path, size_t len, bool emptied)
{
    uint32_t at = TABLE_ROOT;
    const char *end = path + len;
    while (path < end) {
        const char *slash = memchr(path, '/', (size_t)(end - path));
        size_t n = slash ? (size_t)(slash - path) : (size_t)(end - path);
        if (n == 0 || n > SHARED_NAME_MAX)
            return -EINVAL;
        uint32_t child = table_find(t, at, path, n);
        if (!child) {
            if (t->unseen >= TABLE_UNSEEN_MAX)
                return -ENOSPC;
            /* A directory that is only part of the path is held by its child. */
            child = table_add(t, at, path, n, slash ? (uint32_t)INODE_DIR : 0u);
            if (!child)
                return -ENOSPC;
            table_commit(t);
        }
        at = child;
        path = slash ? slash + 1 : end;
    }
    if (at == TABLE_ROOT)
        return -EINVAL;
    struct shared_inode *i = &t->sh->inodes[at];
    if (!(i->flags & INODE_UNSEEN))
        t->unseen++;
    table_set(t, i->flags, (i->flags | INODE_UNSEEN | (emptied ? INODE_EMPTIED : 0u)) & ~(uint32_t)INODE_UNSEEN_SENT);
    table_commit(t);
    return 0;
}

static void clear_one(struct table *t, uint32_t ino, void *arg)
{
    (void)arg;
    struct shared_inode *i = &t->sh->inodes[ino];
    if (!(i->flags & INODE_UNSEEN_SENT))
        return;
    t->unseen--;
    table_set(t, i->flags, i->flags & ~(uint32_t)(INODE_UNSEEN | INODE_UNSEEN_SENT | INODE_EMPTIED));
    table_commit(t);
    table_release(t, ino);
}

void table_clear_unseen_sent(struct table *t)
{
    table_each(t, clear_one, NULL);
}

void table_each(struct table *t, void (*fn)(struct table *t, uint32_t ino, void *arg), void *arg)
{
    for (uint32_t n = TABLE_ROOT; n < t->sh->high_water; n++)
        if (t->sh->inodes[n].flags & INODE_USED)
            fn(t, n, arg);
}

uint32_t table_count(struct table *t)
{
    return t->count;
}

/* ---- opening ---- */

static void format(struct shared *sh)
{
    sh->version = SHARED_VERSION;
    sh->inode_size = sizeof(struct shared_inode);
    sh->capacity = SHARED_INODES;
    sh->high_water = TABLE_ROOT + 1;
    sh->inodes[TABLE_ROOT].flags = INODE_USED | INODE_DIR;
    sh->inodes[TABLE_ROOT].nlookup = 1;
    __atomic_store_n(&sh->magic, SHARED_MAGIC, __ATOMIC_SEQ_CST);
}

static int check(const struct shared *sh, struct err *e)
{
    if (sh->magic != SHARED_MAGIC)
        return err_set(e, -EPROTO, "the inode table is not one of edgefs");
    if (sh->version != SHARED_VERSION || sh->inode_size != sizeof(struct shared_inode) || sh->capacity != SHARED_INODES)
        return err_set(e, -EPROTO, "the inode table was written by another version of edgefs-fs (layout %u, this one has %u): "
                                   "unmount and mount again to upgrade", sh->version, SHARED_VERSION);
    return 0;
}

/* Rebuilds index, free list and counts, and frees what nothing holds (a transaction may have been the last thing that happened
 * before table_release). */
static int rebuild(struct table *t, struct err *e)
{
    struct shared *sh = t->sh;
    if (sh->high_water > sh->capacity || sh->high_water <= TABLE_ROOT)
        return err_set(e, -EPROTO, "the inode table is damaged (high-water mark %u)", sh->high_water);
    for (uint32_t n = sh->high_water; n-- > TABLE_ROOT;) {
        struct shared_inode *i = &sh->inodes[n];
        if (!(i->flags & INODE_USED)) {
            t->next[n] = t->free_head;
            t->free_head = n;
            continue;
        }
        t->count++;
        if (i->flags & INODE_UNSEEN) {
            t->unseen++;
            i->flags &= ~(uint32_t)INODE_UNSEEN_SENT; /* whether it arrived is not known: send it again */
        }
        if (n != TABLE_ROOT && named(i)) {
            if (i->parent >= sh->high_water || i->name_len > SHARED_NAME_MAX)
                return err_set(e, -EPROTO, "the inode table is damaged (inode %u)", n);
            index_add(t, n, i->name_hash, i->parent);
        }
    }
    for (uint32_t n = TABLE_ROOT + 1; n < sh->high_water; n++)
        table_release(t, n);
    return 0;
}

static int map_file(struct table *t, int fd, struct err *e)
{
    struct stat st;
    if (fstat(fd, &st))
        return err_errno(e, errno, "inode table");
    if (st.st_size != 0 && (uint64_t)st.st_size != SHARED_SIZE)
        return err_set(e, -EPROTO, "the inode table has %lld bytes, this version of edgefs-fs makes it %llu: unmount and mount again "
                                   "to upgrade", (long long)st.st_size, (unsigned long long)SHARED_SIZE);
    if (st.st_size == 0 && ftruncate(fd, (off_t)SHARED_SIZE))
        return err_errno(e, errno, "enlarge inode table");
    void *p = mmap(NULL, SHARED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (p == MAP_FAILED)
        return err_errno(e, errno, "map inode table");
    t->sh = p;
    return 0;
}

int table_open(int fd, struct table **out, bool *fresh, struct err *e)
{
    struct table *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(e, -ENOMEM, "inode table: out of memory");
    pthread_mutex_init(&t->mutex, NULL);
    t->buckets = calloc(BUCKETS, sizeof *t->buckets);
    t->next = calloc(SHARED_INODES, sizeof *t->next);
    t->children = calloc(SHARED_INODES, sizeof *t->children);
    int rc = !t->buckets || !t->next || !t->children ? err_set(e, -ENOMEM, "inode table: out of memory") : map_file(t, fd, e);
    if (rc)
        goto fail;
    if (t->sh->magic == 0)
        format(t->sh); /* new, or its maker died while making it */
    rc = check(t->sh, e);
    if (rc)
        goto fail;
    uint32_t committed = t->sh->redo.committed;
    if (committed > SHARED_REDO_MAX || redo_apply(t->sh, committed)) {
        rc = err_set(e, -EPROTO, "the inode table is damaged (redo log)");
        goto fail;
    }
    __atomic_store_n(&t->sh->redo.committed, 0, __ATOMIC_SEQ_CST);
    rc = rebuild(t, e);
    if (rc)
        goto fail;
    *fresh = t->sh->init_state == INIT_NONE;
    *out = t;
    return 0;
fail:
    table_close(t);
    return rc;
}

void table_close(struct table *t)
{
    if (t->sh)
        munmap(t->sh, SHARED_SIZE);
    free(t->buckets);
    free(t->next);
    free(t->children);
    pthread_mutex_destroy(&t->mutex);
    free(t);
}

void table_lock(struct table *t)
{
    pthread_mutex_lock(&t->mutex);
}

void table_unlock(struct table *t)
{
    pthread_mutex_unlock(&t->mutex);
}

struct shared *table_shared(struct table *t)
{
    return t->sh;
}
