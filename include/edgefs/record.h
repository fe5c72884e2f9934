/* A record: one entry of the log, on disk and on the wire alike. All integers big-endian (as in LTX and in SQLite's files).
 *
 *   offset size
 *        0    4  magic "EFR1"
 *        4    1  type, enum record_type
 *        5    1  flags, RECORD_*
 *        6    2  header length in bytes, the trailing CRC included: RECORD_HEAD_MIN + name length
 *        8    8  LSN
 *       16    8  epoch
 *       24    8  hybrid timestamp, µs: max(wall clock, previous + 1); never goes backwards
 *       32    4  payload length, bytes
 *       36    4  CRC-32C of the payload
 *       40    2  database name length n
 *       42    n  database name: its path inside the mount
 *     42+n    4  CRC-32C of the header up to here
 *   then the payload.
 *
 * The same form frames the stream (GET /v1/stream): log records have types below RECORD_CONTROL, and control frames, which
 * are never in a log, have types from there on; their LSN and epoch are the server's position unless the type says
 * otherwise. lib/record.c encodes and decodes. */
#ifndef EDGEFS_RECORD_H
#define EDGEFS_RECORD_H

#include "edgefs/layout.h"
#include "edgefs/position.h"
#include <stddef.h>
#include <stdint.h>

#define RECORD_MAGIC 0x45465231u /* "EFR1" */
#define RECORD_HEAD_MIN 46u
#define RECORD_HEAD_MAX (RECORD_HEAD_MIN + LAYOUT_NAME_MAX)

/* Flag: the next record belongs with this one. Such a run, up to the first record without the flag, is a *group*: what one look of capture found in several databases, no part of
 * which may be seen, or outlive a failover, without the others (capture_cut.c). A receiver takes a group into its log when it has all of it, and shows it at once. A log of a
 * primary may end within one, if its replicator was killed: whatever it writes next goes on with it. */
#define RECORD_MORE 1u
#define RECORD_GROUP_MAX (32u << 20) /* bytes of a group, heads included, that receivers keep in memory: one that is longer is taken as it comes */

enum record_type {
    RECORD_TX = 1,     /* payload: one LTX file image of one or more consecutive transactions of the database */
    RECORD_DROP = 2,   /* the database was removed; no payload */
    RECORD_RENAME = 3, /* payload: the new name */
    RECORD_EPOCH = 4,  /* a new epoch (the header's) begins at this LSN; payload: name of the primary */
    RECORD_NOOP = 5,
    RECORD_STATE = 6, /* the database has a new state whose pages are not in the log (an import, a first sight, a
                       * transaction too large for a record): payload struct record_state; receivers fetch an image */
    RECORD_PREPARE = 7, /* payload: as of the TX record that will follow if the transaction commits: the application waits until replicas
                         * have this one durable. Nobody applies it; the next record of that database supersedes it. A node that becomes primary
                         * commits those that nothing superseded: the application may have been told that it is committed */
    RECORD_ABORT = 8,   /* the transaction of the last PREPARE of that database did not happen; no payload */
    RECORD_CONTROL = 128,
    RECORD_HEARTBEAT = 128, /* each second, and at the start of a stream. Payload of the first: JSON {"epochs":[[epoch,first_lsn],…],
                             * "node":NAME,"role":ROLE,"primary":NAME,"primary_url":URL,"lag_ms":N|null}; of the others: none, or
                             * {"lag_ms":N} if the server itself is behind. A reader ignores members that it does not know */
    RECORD_RESET = 129,     /* what follows does not continue the client's position: the log restarts at LSN + 1 of this
                             * frame, and every database needs an image. Payload: JSON, as of the first HEARTBEAT, and
                             * "databases":[{"name":…},…] */
    RECORD_HANDOFF = 130,   /* payload: JSON {"primary":NAME,"url":URL,"epoch":N}: follow that node from now on */
    RECORD_INCOMING = 132,  /* an import is coming in: payload: JSON {"name":NAME,"id":16 hex digits,"size":N}. GET /v1/imports/ID has its bytes
                             * already; who does not want them gets an image after its STATE record */
    RECORD_GOODBYE = 131,   /* the server ends the stream; reconnect with back-off. Payload: JSON {"reason":TEXT}, for the log */
};

struct record_head {
    uint8_t type;
    uint8_t flags;
    struct position pos;
    uint64_t timestamp; /* hybrid, µs */
    uint32_t payload_len;
    uint32_t payload_crc;
    uint16_t name_len;
    char name[LAYOUT_NAME_MAX + 1]; /* NUL-terminated */
};

/* Payload of RECORD_STATE: 24 bytes, the fields in this order. */
struct record_state {
    uint32_t page_size; /* bytes */
    uint32_t commit;    /* size of the database in pages */
    uint64_t txid;
    uint64_t checksum; /* database checksum */
};
#define RECORD_STATE_SIZE 24u

/* Bytes that record_head_encode() writes for h. */
static inline size_t record_head_size(const struct record_head *h)
{
    return RECORD_HEAD_MIN + h->name_len;
}

/* Encodes h, CRC included, into buf (at least record_head_size(h) bytes, never more than RECORD_HEAD_MAX: name_len is at most
 * LAYOUT_NAME_MAX). Returns that size. Does not check the name: decode would refuse a bad one. */
size_t record_head_encode(const struct record_head *h, uint8_t *buf);

/* Decodes a header from the first bytes of buf[0..n). Returns its size in bytes; 0 if more bytes are needed; -EBADMSG if these
 * bytes cannot be a header (magic, lengths, CRC; name with NUL, or with a component that is empty, "." or "..", so no leading or
 * trailing slash; TX, DROP, RENAME, STATE, PREPARE or ABORT without a name), as soon as the bytes at hand show it. Other types may go unnamed, and unknown
 * types are the caller's to refuse, as is a payload length beyond its limit. Reads no byte past n, trusts nothing; *h is
 * written only on success. */
long record_head_decode(const uint8_t *buf, size_t n, struct record_head *h);

void record_state_encode(const struct record_state *s, uint8_t buf[RECORD_STATE_SIZE]);
/* 0 or -EBADMSG (length, page size not a power of two in 512..65536). */
int record_state_decode(const uint8_t *buf, size_t n, struct record_state *s);

#endif
