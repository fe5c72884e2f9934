/* Records that belong together (RECORD_MORE) on their way into the log of who receives them: kept as they came until the last one is there. Not thread-safe. */
#ifndef EDGEFS_GROUP_H
#define EDGEFS_GROUP_H

#include "edgefs/record.h"
#include "lib/err.h"
#include <stdbool.h>

struct group { /* zeroed: empty */
    uint8_t *bytes; /* heads and payloads */
    size_t len, size;
    unsigned records;
};

/* True if a record that comes now belongs to a group: it says so, or the one before did. */
bool group_takes(const struct group *g, const struct record_head *h);
/* … and does not make it longer than RECORD_GROUP_MAX. */
bool group_has_room(const struct group *g, const struct record_head *h);
/* Appends it. ERR_CORRUPT: the payload is not what the head says; -ENOMEM. */
int group_add(struct group *g, const struct record_head *h, const uint8_t *payload, struct err *e);
/* Empties it; the memory stays. */
void group_forget(struct group *g);
void group_free(struct group *g);

#endif
