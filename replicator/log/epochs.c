#include "replicator/log/epochs.h"

#include "lib/durable.h"
#include "lib/util.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>

#define FORMAT_LINE "edgefs-epochs 1"
#define LINE_MAX_BYTES 40 /* two numbers of up to 19 digits, space, newline */
#define FILE_MAX_BYTES (sizeof FORMAT_LINE + (size_t)EPOCHS_MAX * LINE_MAX_BYTES)

struct epochs {
    int dirfd; /* constant */
    pthread_mutex_t lock;
    struct epoch_entry *list; /* ascending */
    size_t n;
};

/* NULL, or what keeps entry from coming after before (NULL: it is the first). */
static const char *entry_problem(const struct epoch_entry *before, const struct epoch_entry *entry)
{
    if (entry->epoch < 1 || entry->epoch > INT64_MAX)
        return "the epoch must be from 1 to 9223372036854775807";
    if (entry->first_lsn < 1 || entry->first_lsn > INT64_MAX)
        return "the LSN must be from 1 to 9223372036854775807";
    if (before && entry->epoch <= before->epoch)
        return "the epoch is not above the one before it";
    if (before && entry->first_lsn < before->first_lsn)
        return "the LSN is below that of the epoch before it";
    return NULL;
}

/* ---- file ---- */

/* A decimal number at *p, moved behind it. False: there is none, it has a leading zero, or it is above
 * INT64_MAX. */
static bool parse_number(const char **p, uint64_t *v)
{
    const char *start = *p;
    uint64_t sum = 0;
    for (; **p >= '0' && **p <= '9'; (*p)++) {
        sum = sum * 10 + (uint64_t)(**p - '0');
        if (sum > INT64_MAX || *p - start >= 19)
            return false;
    }
    *v = sum;
    return *p > start && (*start != '0' || *p == start + 1);
}

static int bad_line(struct err *e, size_t line, const char *how)
{
    return err_set(e, ERR_CORRUPT, EPOCHS_FILE ":%zu: %s", line, how);
}

static int parse(const char *text, size_t size, struct epoch_entry **list, size_t *n, struct err *e)
{
    const char *p = text, *const end = text + size;
    size_t line = 1, lines = 0;
    if (size < sizeof FORMAT_LINE || memcmp(p, FORMAT_LINE "\n", sizeof FORMAT_LINE) != 0)
        return bad_line(e, 1, "the first line is not \"" FORMAT_LINE "\"");
    p += sizeof FORMAT_LINE;
    for (const char *q = p; q < end; q++)
        lines += *q == '\n';
    if (lines > EPOCHS_MAX)
        return bad_line(e, 2 + EPOCHS_MAX, "too many epochs");
    *list = calloc(lines + 1, sizeof **list);
    if (!*list)
        return err_errno(e, ENOMEM, EPOCHS_FILE);
    for (*n = 0; p < end; (*n)++) {
        struct epoch_entry *entry = &(*list)[*n];
        line++;
        if (!memchr(p, '\n', (size_t)(end - p)))
            return bad_line(e, line, "the line has no end");
        if (!parse_number(&p, &entry->epoch) || *p++ != ' ' || !parse_number(&p, &entry->first_lsn) ||
            *p++ != '\n')
            return bad_line(e, line, "not two decimal numbers \"EPOCH FIRST_LSN\"");
        const char *problem = entry_problem(*n ? entry - 1 : NULL, entry);
        if (problem)
            return bad_line(e, line, problem);
    }
    return 0;
}

/* Makes list[0..n) the history, on disk first. On success list (malloc'ed) is h's. `lock` held. */
static int store(struct epochs *h, struct epoch_entry *list, size_t n, struct err *e)
{
    size_t size = sizeof FORMAT_LINE + n * LINE_MAX_BYTES + 1;
    _cleanup_free_ char *text = malloc(size);
    if (!text)
        return err_errno(e, ENOMEM, EPOCHS_FILE);
    size_t at = (size_t)snprintf(text, size, FORMAT_LINE "\n");
    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(text + at, size - at, "%" PRIu64 " %" PRIu64 "\n", list[i].epoch,
                               list[i].first_lsn);
    int rc = durable_replace(h->dirfd, EPOCHS_FILE, text, at, 0600, e);
    if (rc < 0)
        return rc;
    free(h->list);
    h->list = list;
    h->n = n;
    return 0;
}

static void free_history(struct epochs *h)
{
    cleanup_fd(&h->dirfd);
    free(h->list);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

int epochs_open(int dirfd, struct epochs **out, struct err *e)
{
    _cleanup_free_ char *text = NULL;
    size_t size = 0;
    struct epochs *h = calloc(1, sizeof *h);
    if (!h)
        return err_errno(e, ENOMEM, EPOCHS_FILE);
    pthread_mutex_init(&h->lock, NULL);
    h->dirfd = fcntl(dirfd, F_DUPFD_CLOEXEC, 0);
    int rc = h->dirfd < 0 ? err_errno(e, errno, EPOCHS_FILE) : 0;
    if (rc == 0) {
        rc = durable_read(h->dirfd, EPOCHS_FILE, FILE_MAX_BYTES, &text, &size, e);
        rc = rc == -ENOENT ? 0 : rc == 0 ? parse(text, size, &h->list, &h->n, e) : rc;
    }
    if (rc < 0) {
        free_history(h);
        return rc;
    }
    *out = h;
    return 0;
}

void epochs_close(struct epochs *h)
{
    if (h)
        free_history(h);
}

/* ---- changes ---- */

static int append(struct epochs *h, const struct epoch_entry *entry, struct err *e)
{
    const struct epoch_entry *newest = h->n ? &h->list[h->n - 1] : NULL;
    if (newest && newest->epoch == entry->epoch && newest->first_lsn == entry->first_lsn)
        return 0;
    const char *problem = entry_problem(newest, entry);
    if (problem)
        return err_set(e, -EINVAL,
                       "epoch %" PRIu64 " cannot begin with LSN %" PRIu64 " after epoch %" PRIu64
                       " with %" PRIu64 ": %s",
                       entry->epoch, entry->first_lsn, newest ? newest->epoch : 0,
                       newest ? newest->first_lsn : 0, problem);
    size_t forget = h->n < EPOCHS_MAX ? 0 : h->n - EPOCHS_MAX + 1, keep = h->n - forget;
    struct epoch_entry *list = calloc(keep + 1, sizeof *list);
    if (!list)
        return err_errno(e, ENOMEM, EPOCHS_FILE);
    if (keep > 0)
        memcpy(list, h->list + forget, keep * sizeof *list);
    list[keep] = *entry;
    int rc = store(h, list, keep + 1, e);
    if (rc < 0)
        free(list);
    return rc;
}

int epochs_begin(struct epochs *h, uint64_t epoch, uint64_t first_lsn, struct err *e)
{
    const struct epoch_entry entry = {.epoch = epoch, .first_lsn = first_lsn};
    pthread_mutex_lock(&h->lock);
    int rc = append(h, &entry, e);
    pthread_mutex_unlock(&h->lock);
    return rc;
}

int epochs_replace(struct epochs *h, const struct epoch_entry *list, size_t n, struct err *e)
{
    if (n > EPOCHS_MAX) {
        list += n - EPOCHS_MAX;
        n = EPOCHS_MAX;
    }
    for (size_t i = 0; i < n; i++) {
        const char *problem = entry_problem(i ? &list[i - 1] : NULL, &list[i]);
        if (problem)
            return err_set(e, -EINVAL, "history of epochs: [%" PRIu64 ", %" PRIu64 "]: %s", list[i].epoch,
                           list[i].first_lsn, problem);
    }
    struct epoch_entry *copy = calloc(n + 1, sizeof *copy);
    if (!copy)
        return err_errno(e, ENOMEM, EPOCHS_FILE);
    if (n > 0)
        memcpy(copy, list, n * sizeof *copy);
    pthread_mutex_lock(&h->lock);
    int rc = store(h, copy, n, e);
    pthread_mutex_unlock(&h->lock);
    if (rc < 0)
        free(copy);
    return rc;
}

/* ---- questions ---- */

struct epoch_entry epochs_current(struct epochs *h)
{
    pthread_mutex_lock(&h->lock);
    struct epoch_entry entry = h->n ? h->list[h->n - 1] : (struct epoch_entry){0, 0};
    pthread_mutex_unlock(&h->lock);
    return entry;
}

/* First and last LSN of an epoch; false if it is not in the history. */
static bool range_of(struct epochs *h, uint64_t epoch, uint64_t *first, uint64_t *last)
{
    pthread_mutex_lock(&h->lock);
    size_t low = 0, high = h->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (h->list[middle].epoch < epoch)
            low = middle + 1;
        else
            high = middle;
    }
    bool known = low < h->n && h->list[low].epoch == epoch;
    if (known) {
        *first = h->list[low].first_lsn;
        *last = low + 1 < h->n ? h->list[low + 1].first_lsn - 1 : UINT64_MAX;
    }
    pthread_mutex_unlock(&h->lock);
    return known;
}

size_t epochs_newest(struct epochs *h, struct epoch_entry *list, size_t max)
{
    pthread_mutex_lock(&h->lock);
    size_t n = MIN(h->n, max);
    if (n)
        memcpy(list, h->list + (h->n - n), n * sizeof *list);
    pthread_mutex_unlock(&h->lock);
    return n;
}

uint64_t epochs_end_of(struct epochs *h, uint64_t epoch)
{
    uint64_t first, last;
    return range_of(h, epoch, &first, &last) ? last : 0;
}

bool epochs_contains(struct epochs *h, struct position p, uint64_t last_lsn)
{
    uint64_t first, last;
    if (p.epoch == 0)
        return p.lsn == 0;
    return p.lsn <= last_lsn && range_of(h, p.epoch, &first, &last) && p.lsn >= first && p.lsn <= last;
}

/* ---- JSON ---- */

json_t *epochs_to_json(struct epochs *h)
{
    json_t *array = json_array();
    pthread_mutex_lock(&h->lock);
    for (size_t i = 0; array && i < h->n; i++) {
        json_t *pair = json_pack("[I,I]", (json_int_t)h->list[i].epoch, (json_int_t)h->list[i].first_lsn);
        if (!pair || json_array_append_new(array, pair) < 0) {
            json_decref(array);
            array = NULL;
        }
    }
    pthread_mutex_unlock(&h->lock);
    return array;
}

int epochs_from_json(const json_t *json, struct epoch_entry **list, size_t *n, struct err *e)
{
    size_t count = json_array_size(json); /* 0 for what is no array */
    if (!json_is_array(json))
        return err_set(e, -EINVAL, "history of epochs: not an array");
    if (count > EPOCHS_MAX)
        return err_set(e, -EINVAL, "history of epochs: %zu entries are more than %u", count, EPOCHS_MAX);
    _cleanup_free_ struct epoch_entry *entries = calloc(count + 1, sizeof *entries);
    if (!entries)
        return err_errno(e, ENOMEM, "history of epochs");
    for (size_t i = 0; i < count; i++) {
        const json_t *pair = json_array_get(json, i);
        const json_t *epoch = json_array_get(pair, 0), *first = json_array_get(pair, 1);
        if (json_array_size(pair) != 2 || !json_is_integer(epoch) || !json_is_integer(first))
            return err_set(e, -EINVAL, "history of epochs: entry %zu is not [epoch, first LSN]", i);
        /* negative numbers become too large ones */
        entries[i].epoch = (uint64_t)json_integer_value(epoch);
        entries[i].first_lsn = (uint64_t)json_integer_value(first);
        const char *problem = entry_problem(i ? &entries[i - 1] : NULL, &entries[i]);
        if (problem)
            return err_set(e, -EINVAL, "history of epochs: entry %zu: %s", i, problem);
    }
    *list = steal_ptr(&entries);
    *n = count;
    return 0;
}
