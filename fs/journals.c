#include "fs/journals.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOTES 4096u /* more journals than that in use at a time share places, and one loses its note */

struct note {
    uint32_t ino; /* 0: none */
    bool synced;  /* since it was opened */
    bool valid;   /* header is that of the transaction under way */
    uint8_t header[JOURNAL_HEADER_SIZE];
};

struct journals {
    pthread_mutex_t mutex;
    struct note note[NOTES]; /* at index ino % NOTES */
};

struct journals *journals_new(void)
{
    struct journals *j = calloc(1, sizeof *j);
    if (j)
        pthread_mutex_init(&j->mutex, NULL);
    return j;
}

enum found { FOUND_VALID, FOUND_ZEROS, FOUND_OTHER };

static enum found read_header(int fd, uint8_t header[JOURNAL_HEADER_SIZE])
{
    static const uint8_t zeros[JOURNAL_HEADER_SIZE];
    struct journal_header h;
    if (pread(fd, header, JOURNAL_HEADER_SIZE, 0) != JOURNAL_HEADER_SIZE)
        return FOUND_OTHER; /* empty: truncated, or new */
    if (!memcmp(header, zeros, sizeof zeros))
        return FOUND_ZEROS;
    return journal_header_decode(header, JOURNAL_HEADER_SIZE, &h) ? FOUND_OTHER : FOUND_VALID;
}

static void take_note(struct note *n, const uint8_t header[JOURNAL_HEADER_SIZE])
{
    n->valid = true;
    memcpy(n->header, header, sizeof n->header);
}

void journals_opened(struct journals *j, uint32_t ino, int fd, bool first)
{
    uint8_t header[JOURNAL_HEADER_SIZE];
    struct note *n = &j->note[ino % NOTES];
    if (!first)
        return; /* there is a note, or it is not known any more what it was */
    enum found found = read_header(fd, header); /* valid: a hot journal */
    pthread_mutex_lock(&j->mutex);
    *n = (struct note){.ino = ino};
    if (found == FOUND_VALID)
        take_note(n, header);
    pthread_mutex_unlock(&j->mutex);
}

enum journals_sync journals_sync(struct journals *j, uint32_t ino, int fd, uint8_t header[JOURNAL_HEADER_SIZE], bool *known)
{
    enum journals_sync result = JOURNALS_GOES_ON;
    struct note *n = &j->note[ino % NOTES];
    enum found found = read_header(fd, header);
    pthread_mutex_lock(&j->mutex);
    bool ours = n->ino == ino;
    if (found == FOUND_ZEROS && (!ours || n->valid)) {
        result = JOURNALS_END;
        *known = ours;
        if (ours)
            memcpy(header, n->header, sizeof n->header);
    }
    if (!ours && found != FOUND_OTHER) /* OTHER: what came before the header that is being prepared is not known */
        *n = (struct note){.ino = ino};
    if (n->ino == ino) {
        n->synced = true;
        n->valid = false;
        if (found == FOUND_VALID)
            take_note(n, header);
    }
    pthread_mutex_unlock(&j->mutex);
    return result;
}

bool journals_closed(struct journals *j, uint32_t ino)
{
    struct note *n = &j->note[ino % NOTES];
    pthread_mutex_lock(&j->mutex);
    bool unsynced = n->ino == ino && !n->synced;
    if (n->ino == ino)
        *n = (struct note){0};
    pthread_mutex_unlock(&j->mutex);
    return unsynced;
}

bool journals_zeroed(int fd)
{
    uint8_t header[JOURNAL_HEADER_SIZE];
    return read_header(fd, header) == FOUND_ZEROS;
}

bool journals_valid(int fd)
{
    uint8_t header[JOURNAL_HEADER_SIZE];
    return read_header(fd, header) == FOUND_VALID;
}
