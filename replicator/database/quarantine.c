#include "replicator/database/quarantine.h"

#include "lib/log.h"
#include "lib/ltx.h"
#include "lib/util.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define NAME_BYTES_MAX 150
#define LIST_MAX 10000

static int open_folder(struct node *n, struct err *e)
{
    if (mkdirat(n->data_fd, LAYOUT_QUARANTINE, 0700) && errno != EEXIST)
        return err_errno(e, errno, "make %s", LAYOUT_QUARANTINE);
    int fd = openat(n->data_fd, LAYOUT_QUARANTINE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? err_errno(e, errno, "open %s", LAYOUT_QUARANTINE) : fd;
}

/* number: of a stray; 0: none. */
static void file_name(char buf[QUARANTINE_FILE_MAX + 1], struct position pos, unsigned number, const char *name, const char *suffix)
{
    char flat[NAME_BYTES_MAX + 1], *p = flat;
    for (; *name && p < flat + NAME_BYTES_MAX - 3; name++)
        if (*name == '/' || *name == '%')
            p = stpcpy(p, *name == '/' ? "%2F" : "%25");
        else
            *p++ = *name;
    *p = 0;
    char which[16] = "";
    if (number)
        snprintf(which, sizeof which, "~%u", number);
    snprintf(buf, QUARANTINE_FILE_MAX + 1, "%" PRIu64 "-%" PRIu64 "%s-%s%s", pos.epoch, pos.lsn, which, flat, suffix);
}

/* Bytes at..at+len of fd as a file of that name: complete and durable when it appears. One that is there already is from an earlier try. */
static int keep(int folder, const char *name, int fd, int64_t at, uint64_t len, struct err *e)
{
    char path[64];
    if (!faccessat(folder, name, F_OK, 0))
        return 0;
    _cleanup_fd_ int out = openat(folder, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    if (out < 0)
        return err_errno(e, errno, "quarantine: make a file");
    while (len) {
        ssize_t k = copy_file_range(fd, &at, out, NULL, len, 0);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return err_errno(e, k < 0 ? errno : EIO, "quarantine: write %s", name);
        len -= (uint64_t)k;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", out);
    if (fsync(out) || (linkat(AT_FDCWD, path, folder, name, AT_SYMLINK_FOLLOW) && errno != EEXIST) || fsync(folder))
        return err_errno(e, errno, "quarantine: keep %s", name);
    return 0;
}

uint64_t quarantine_fork(struct node *n, const struct epoch_entry *theirs, size_t n_theirs, uint64_t last_lsn)
{
    uint64_t last = rlog_last(n->rlog).lsn;
    if (!n_theirs)
        return last;
    /* The newest epoch that both have, begun at the same record: up to where it ends here or there, all is the same. */
    for (size_t i = n_theirs; i-- > 0;) {
        uint64_t end = i + 1 < n_theirs ? theirs[i + 1].first_lsn - 1 : last_lsn;
        uint64_t ours = epochs_end_of(n->epochs, theirs[i].epoch);
        if (ours && epochs_contains(n->epochs, (struct position){theirs[i].epoch, theirs[i].first_lsn}, last))
            return MIN(MIN(ours, end), last);
    }
    return 0;
}

/* A database that a record belongs to, for those who want to know which rows differ. The records hold what is needed to mend it by hand, so that there is no room
 * for this is no error. */
static int keep_whole(struct node *n, const char *name, struct err *e)
{
    struct stat st;
    struct statvfs fs;
    struct database *db = databases_find(n->databases, name);
    if (!db || fstatat(n->db_fd, name, &st, AT_SYMLINK_NOFOLLOW) || fstatvfs(n->data_fd, &fs))
        return 0;
    if ((uint64_t)st.st_size > QUARANTINE_WHOLE_MAX || (uint64_t)st.st_size > (uint64_t)fs.f_bavail * fs.f_frsize / 2) {
        log_warn("quarantine", "%s is not kept as a whole, only its records: no room for %" PRIu64 " bytes", name, (uint64_t)st.st_size);
        return 0;
    }
    pthread_mutex_lock(&db->sqlite);
    int rc = quarantine_database(n, db, e);
    pthread_mutex_unlock(&db->sqlite);
    if (rc == -ENOSPC || rc == -EDQUOT)
        log_warn("quarantine", "%s is not kept as a whole, only its records: %s", name, e->text);
    return rc == -ENOSPC || rc == -EDQUOT || rc == -ENOENT ? 0 : rc;
}

int quarantine_records(struct node *n, uint64_t fork, unsigned *kept, struct err *e)
{
    struct rlog_cursor c = {.fd = -1};
    struct record_head h;
    int64_t at;
    uint64_t last = rlog_last(n->rlog).lsn, from = MAX(fork + 1, rlog_first(n->rlog));
    char whole[LAYOUT_NAME_MAX + 1] = "";
    *kept = 0;
    if (from > last)
        return 0;
    _cleanup_fd_ int folder = open_folder(n, e);
    int rc = folder < 0 ? folder : rlog_seek(n->rlog, from, &c, e);
    while (!rc && (rc = rlog_next(n->rlog, &c, &h, &at, e)) > 0) {
        char name[QUARANTINE_FILE_MAX + 1];
        rc = 0;
        file_name(name, h.pos, 0, h.name, ".ltx");
        struct database *db = h.type == RECORD_STATE ? databases_find(n->databases, h.name) : NULL;
        if (h.type == RECORD_TX)
            rc = keep(folder, name, c.fd, at, h.payload_len, e);
        else if (db)
            rc = quarantine_database(n, db, e);
        else
            continue; /* drops, renames and epochs hold no data */
        if (rc == -ENOENT)
            rc = 0;
        *kept += !rc;
        if (!rc && h.type == RECORD_TX && strcmp(whole, h.name) != 0) { /* again for the same one does no harm: it has the same name */
            memcpy(whole, h.name, h.name_len + 1u);
            rc = keep_whole(n, whole, e);
        }
    }
    rlog_cursor_close(&c);
    return rc;
}

static const char *const suffixes[][2] = {{"", ".db"}, {LAYOUT_WAL, ".db-wal"}};

static int keep_database(struct node *n, int folder, const struct database *db, unsigned number, struct err *e)
{
    /* The WAL first: a crash in between leaves no database that looks whole. */
    for (size_t i = ARRAY_SIZE(suffixes); i-- > 0;) {
        char from[LAYOUT_NAME_MAX + 16], to[QUARANTINE_FILE_MAX + 1];
        struct stat st;
        snprintf(from, sizeof from, "%s%s", db->name, suffixes[i][0]);
        file_name(to, rlog_last(n->rlog), number, db->name, suffixes[i][1]);
        _cleanup_fd_ int fd = openat(n->db_fd, from, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 && errno == ENOENT && i)
            continue;
        if (fd < 0 || fstat(fd, &st))
            return err_errno(e, errno, "quarantine: %s", from);
        int rc = keep(folder, to, fd, 0, (uint64_t)st.st_size, e);
        if (rc)
            return rc;
    }
    return 0;
}

int quarantine_database(struct node *n, struct database *db, struct err *e)
{
    _cleanup_fd_ int folder = open_folder(n, e);
    return folder < 0 ? folder : keep_database(n, folder, db, 0, e);
}

int quarantine_stray(struct node *n, struct database *db, struct err *e)
{
    char name[QUARANTINE_FILE_MAX + 1];
    unsigned number = 0;
    _cleanup_fd_ int folder = open_folder(n, e);
    if (folder < 0)
        return folder;
    do
        file_name(name, rlog_last(n->rlog), ++number, db->name, suffixes[0][1]);
    while (!faccessat(folder, name, F_OK, 0));
    file_name(name, rlog_last(n->rlog), number, db->name, suffixes[1][1]);
    if (unlinkat(folder, name, 0) && errno != ENOENT) /* of a try that was killed in between: the database has changed since */
        return err_errno(e, errno, "quarantine: remove %s", name);
    return keep_database(n, folder, db, number, e);
}

/* ---- what is there ---- */

/* Takes "EPOCH-LSN-NAME.SUFFIX", or "EPOCH-LSN~K-NAME.SUFFIX", apart; name may be as long as file. Suffix: "ltx" or "db". */
static bool parse(const char *file, struct position *pos, char *name, const char **suffix)
{
    char *end;
    if (*file < '0' || *file > '9')
        return false;
    pos->epoch = strtoull(file, &end, 10);
    if (*end != '-' || end[1] < '0' || end[1] > '9')
        return false;
    pos->lsn = strtoull(end + 1, &end, 10);
    if (*end == '~')
        (void)strtoull(end + 1, &end, 10);
    const char *dot = strrchr(end, '.');
    if (*end != '-' || !dot || (strcmp(dot, ".ltx") && strcmp(dot, ".db")))
        return false;
    *suffix = dot + 1;
    for (const char *p = end + 1; p < dot; p++)
        if (!strncmp(p, "%2F", 3) || !strncmp(p, "%25", 3)) {
            *name++ = p[2] == 'F' ? '/' : '%';
            p += 2;
        } else {
            *name++ = *p;
        }
    *name = 0;
    return true;
}

static void describe_record(json_t *o, int folder, const char *file)
{
    uint8_t buf[LTX_HEADER_SIZE];
    struct ltx_header h;
    _cleanup_fd_ int fd = openat(folder, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || pread(fd, buf, sizeof buf, 0) != (ssize_t)sizeof buf || ltx_header_decode(buf, &h, NULL))
        return;
    json_object_set_new(o, "min_txid", json_integer((json_int_t)h.min_txid));
    json_object_set_new(o, "max_txid", json_integer((json_int_t)h.max_txid));
    json_object_set_new(o, "page_size", json_integer((json_int_t)h.page_size));
    json_object_set_new(o, "commit", json_integer((json_int_t)h.commit));
}

static json_t *describe(int folder, const char *file)
{
    char name[QUARANTINE_FILE_MAX + 1], when[32];
    const char *suffix;
    struct position pos;
    struct stat st;
    struct tm tm;
    if (!parse(file, &pos, name, &suffix) || fstatat(folder, file, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode))
        return NULL;
    gmtime_r(&st.st_mtime, &tm);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
    bool record = !strcmp(suffix, "ltx");
    json_t *o = json_pack("{s:s,s:s,s:s,s:I,s:I,s:I,s:s}", "file", file, "name", name, "kind", record ? "record" : "database", "epoch",
                          (json_int_t)pos.epoch, "lsn", (json_int_t)pos.lsn, "bytes", (json_int_t)st.st_size, "time", when);
    if (o && record)
        describe_record(o, folder, file);
    return o;
}

json_t *quarantine_list(struct node *n)
{
    json_t *list = json_array();
    int fd = openat(n->data_fd, LAYOUT_QUARANTINE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            close(fd);
        return list;
    }
    const struct dirent *entry;
    while ((entry = readdir(d)) && json_array_size(list) < LIST_MAX) {
        json_t *o = describe(fd, entry->d_name);
        if (o)
            json_array_append_new(list, o);
    }
    closedir(d);
    return list;
}

static bool possible(const char *file, char *name)
{
    struct position pos;
    const char *suffix;
    return strlen(file) <= QUARANTINE_FILE_MAX && !strchr(file, '/') && parse(file, &pos, name, &suffix);
}

int quarantine_open(struct node *n, const char *file, uint64_t *size, struct err *e)
{
    char name[QUARANTINE_FILE_MAX + 1], path[QUARANTINE_FILE_MAX + 32];
    struct stat st;
    size_t len = strlen(file);
    bool wal = len > 4 && len <= QUARANTINE_FILE_MAX && !strcmp(file + len - 4, "-wal"); /* of NAME.db: not listed, but wanted with it */
    char base[QUARANTINE_FILE_MAX + 1];
    snprintf(base, sizeof base, "%.*s", (int)(wal ? len - 4 : MIN(len, (size_t)QUARANTINE_FILE_MAX)), file);
    if (len > QUARANTINE_FILE_MAX || !possible(base, name))
        return err_set(e, -EINVAL, "\"%.100s\" is not the name of something in quarantine", file);
    snprintf(path, sizeof path, LAYOUT_QUARANTINE "/%s", file);
    int fd = openat(n->data_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st)) {
        int failed = errno;
        if (fd >= 0)
            close(fd);
        return err_errno(e, failed, "%s in quarantine", file);
    }
    *size = (uint64_t)st.st_size;
    return fd;
}

int quarantine_drop(struct node *n, const char *file, struct err *e)
{
    char name[QUARANTINE_FILE_MAX + 1], path[QUARANTINE_FILE_MAX + 32];
    if (!possible(file, name))
        return err_set(e, -EINVAL, "\"%.100s\" is not the name of something in quarantine", file);
    snprintf(path, sizeof path, LAYOUT_QUARANTINE "/%s-wal", file);
    if (unlinkat(n->data_fd, path, 0) && errno != ENOENT)
        return err_errno(e, errno, "remove %s-wal from quarantine", file);
    path[strlen(path) - 4] = 0;
    if (unlinkat(n->data_fd, path, 0))
        return err_errno(e, errno, "remove %s from quarantine", file);
    log_info("quarantine", "%s removed", file);
    return 0;
}
