/* A replica's end of imports that are still coming in at its upstream (import_feed.h): one at a time is fetched beside everything else, by a thread that lives
 * as long as that takes, into a private file, its page checksums taken as it comes. When the log's STATE record says that a database of that name has
 * exactly this state, the image thread takes the file instead of fetching an image.
 *
 *   IDLE ──announced──► COMING ──whole──► READY ──taken, too old, or another one announced──► IDLE
 *                          └──failed──► IDLE                                                          */
#ifndef EDGEFS_INCOMING_H
#define EDGEFS_INCOMING_H

#include "replicator/database/database.h"
#include "replicator/node.h"

#define INCOMING_MIN (8 << 20) /* bytes: a smaller one is not worth it */

struct incoming;

/* A fetched file: the taker's, who closes both descriptors, unlinks temp (in the mount) unless it was renamed, and frees sums. */
struct incoming_file {
    int fd, data_fd; /* through the mount, and the backing file */
    char temp[64];   /* path in the mount */
    uint32_t page_size, commit;
    uint64_t checksum;
    uint64_t *sums; /* of commit pages */
    uint64_t lsn, txid; /* of the STATE record that says so */
};

int incoming_open(struct node *n, struct err *e);
/* Ends the thread, and no other begins; when nobody else uses it any more: incoming_close. NULL n->incoming: nothing. */
void incoming_stop(struct node *n);
void incoming_close(struct node *n);

/* The upstream, at that URL, has an import of size bytes coming in. Nothing happens if one is being fetched already. The follower's thread; calls into the mount. */
void incoming_announced(struct node *n, const char *url, const char *name, uint64_t id, int64_t size);

/* Is the state that db waits for here, or coming? 1: *f is that; 0: no (what there was of that name is thrown away); ERR_AGAIN_LATER: a
 * file of that name and size is on its way, image_client_kick will be called at its end. The image thread; calls into the mount. */
int incoming_take(struct node *n, struct database *db, struct incoming_file *f);
/* Throws away what nobody has taken for a minute. The image thread, now and then. */
void incoming_trim(struct node *n);

#endif
