/* An image on its way into its database: fetched by image_client.c, put in place by image_install.c. */
#ifndef EDGEFS_IMAGE_FETCH_H
#define EDGEFS_IMAGE_FETCH_H

#include "edgefs/layout.h"
#include "replicator/image/image.h"
#include "replicator/node.h"
#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>

struct image_client {
    struct node *node;
    pthread_t thread;
    struct http_client *http;
    pthread_mutex_t lock; /* guards kicked, stop */
    pthread_cond_t changed;
    bool kicked, stop;
    struct database *whole; /* the image's thread: of this one all pages are wanted, whatever is here */
    /* the thread's own */
    struct database *failed; /* the last one whose checksum did not come out right, and how often running */
    unsigned failures;
};

/* One image on its way. */
struct fetch {
    struct image_client *c;
    struct database *db;
    int fd;      /* private file, through the mount: what changes names, sizes and owners */
    int data_fd; /* the same, the backing file: what its bytes go to, past the mount */
    char temp[LAYOUT_NAME_MAX + 64];
    struct stat parent;
    uint64_t least; /* LSN: an older state cannot be brought up to date from our log, and a replica that is not there yet does not know what made us ask */
    struct image_header h;
    struct image_end end;
    bool have_header, have_end;
    struct image_chunk chunk;
    uint32_t chunk_done; /* pages of it that are written */
    uint32_t chunk_crc;
    bool in_chunk;
    uint8_t head[IMAGE_END_SIZE];
    size_t head_len;
    uint8_t *buf;
    size_t buf_len, buf_size; /* size: whole pages */
    uint64_t *sums;
    uint32_t sums_size;
    uint64_t *base; /* page checksums of the database as it is, if only what differs from it is to be fetched; NULL: all is fetched */
    uint32_t base_size;
    bool holes; /* where nothing was written to the private file, there is nothing */
    uint32_t pages; /* that came */
    struct err error;
};

/* True while db waits for an image. Takes db->lock. */
bool image_wanted(struct database *db);
/* The image is whole, and checked: the database becomes what it is, in place as one transaction or as a new file. Takes db->sqlite and db->lock; waits for readers for up to
 * 10 s. -ECANCELED: it is not wanted any more; ERR_AGAIN_LATER: readers are in the way, or all pages are wanted (c->whole); ERR_CORRUPT, -ENOSPC … */
int image_install(struct fetch *f, struct err *e);

#endif
