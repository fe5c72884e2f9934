#include "replicator/database/walframes.h"

#include "lib/util.h"
#include <errno.h>

#define CHUNK_BYTES (1u << 20)

static void keep(struct walframes *at, uint32_t frame, const uint32_t cksum[2], uint32_t commit)
{
    at->frame = frame;
    memcpy(at->cksum, cksum, sizeof at->cksum);
    if (commit) {
        at->commit_frame = frame;
        at->page_count = commit;
    }
}

/* Where to begin: after the frame of st, or at the beginning. */
static void start(struct walview *v, struct walframes *at, const struct dbstate *st)
{
    uint8_t buf[WAL_FRAME_HEADER_SIZE];
    struct wal_frame_header fh;
    const struct wal_header *w = &v->header;
    *at = (struct walframes){.salt1 = w->salt1, .salt2 = w->salt2, .cksum = {w->cksum[0], w->cksum[1]}};
    if (!st->wal_frame || st->wal_salt1 != w->salt1 || st->wal_salt2 != w->salt2 || st->page_size != w->page_size)
        return;
    if (pread(v->wal_fd, buf, sizeof buf, wal_frame_offset(st->wal_frame, w->page_size)) != (ssize_t)sizeof buf)
        return;
    wal_frame_header_decode(buf, &fh);
    if (fh.salt1 == w->salt1 && fh.salt2 == w->salt2 && fh.commit)
        keep(at, st->wal_frame, fh.cksum, fh.commit);
}

/* 0 at the end of the chain, or -errno. */
static int follow(struct walview *v, struct walframes *at, uint8_t *chunk)
{
    const size_t stride = WAL_FRAME_HEADER_SIZE + (size_t)v->header.page_size;
    for (;;) {
        uint32_t cksum[2] = {at->cksum[0], at->cksum[1]};
        ssize_t got = pread(v->wal_fd, chunk, CHUNK_BYTES / stride * stride, wal_frame_offset(at->frame + 1, v->header.page_size));
        if (got < 0)
            return -errno;
        if ((size_t)got < stride)
            return 0;
        for (size_t i = 0; (i + 1) * stride <= (size_t)got; i++) {
            const uint8_t *f = chunk + i * stride;
            struct wal_frame_header fh;
            if (!wal_frame_check(&v->header, f, f + WAL_FRAME_HEADER_SIZE, cksum))
                return 0;
            wal_frame_header_decode(f, &fh);
            keep(at, at->frame + 1, cksum, fh.commit);
        }
    }
}

int walframes_read(struct walview *v, struct walframes *at, const struct dbstate *st, struct walindex_header *h)
{
    static _Thread_local uint8_t *chunk;
    if (!chunk && !(chunk = malloc(CHUNK_BYTES)))
        return -ENOMEM;
    if (walview_header(v))
        return ERR_AGAIN_LATER;
    const struct wal_header *w = &v->header;
    bool known = at->salt1 == w->salt1 && at->salt2 == w->salt2 && at->frame >= st->wal_frame && at->commit_frame >= st->wal_frame && at->frame;
    if (!known)
        start(v, at, st);
    uint32_t from = at->frame;
    int rc = follow(v, at, chunk);
    if (!rc && known && at->frame == from && at->frame > at->commit_frame) { /* the tail may have been rewritten: again from the last commit */
        start(v, at, st);
        rc = follow(v, at, chunk);
    }
    *h = (struct walindex_header){
        .version = 3007000,
        .initialized = true,
        .page_size = w->page_size,
        .salt1 = w->salt1,
        .salt2 = w->salt2,
        .max_frame = at->commit_frame,
        .page_count = at->page_count,
        .big_endian_cksum = w->big_endian,
    };
    return rc;
}
