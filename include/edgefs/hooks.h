/* The hook protocol: edgefs-fs (listens on <data>/run/hooks.sock) and edgefs-replicator (connects).
 *
 * A SOCK_SEQPACKET Unix socket; one message per packet, host byte order (both ends run on one machine): struct hook_msg,
 * then path_len bytes of path, then text_len bytes of text, neither NUL-terminated. Paths are relative to the root of the
 * mount, without a leading slash; at most LAYOUT_NAME_MAX plus a suffix.
 *
 * Conversation:
 *   replicator: HELLO{value=HOOKS_VERSION}             (edgefs-fs knows its pid from SO_PEERCRED and from then on treats
 *                                                       that process, all its threads, as the replicator)
 *   fs:         HELLO{value=HOOKS_VERSION, flags=1 if passthrough is on}
 *   fs:         OPENED{path} for each database file that applications have open now
 *   fs:         UNSEEN{path, value=1 if it was emptied} for each file that changed in a way that asks for a hook while no replicator was connected
 *   fs:         SYNCED
 *   then, at any time:
 *   fs:         asynchronous events (id = 0): CREATED, REMOVED, RENAMED{path=old, text=new}, EXCHANGED{path, text}, LAST_CLOSE,
 *               OPENED, MODIFIED, DIR_CREATED, AT_REST
 *   fs:         synchronous hooks (id != 0), each answered by exactly one ANSWER with the same id, in any order:
 *               WAL_TRUNCATE, WAL_UNLINK, CHECKPOINT, JOURNAL_END, OPENING, QUERY_POS, QUERY_LAG, DB_REMOVE, EMPTIED
 *   replicator: ANSWER{id, value = 0 or an errno for the application's call, text = contents for the queries}
 *   replicator: ROLE{value = enum hooks_role, text = name of the primary}   at first contact and on each change
 *   fs:         ROLE{text = "replica" or "primary"}: the role is in force (an event)
 *
 * Where sync-replicas is set, WAL_SYNC and JOURNAL_END wait for replicas. The replicator then decides after sync-timeout, and edgefs-fs by
 * itself if there is no answer HOOKS_TIMEOUT_MS later: by policy, EIO or go on. A WAL_SYNC that is answered with an error has in its text the number
 * of the first frame that is not published: edgefs-fs makes that frame invalid, durably, before the application sees the error, so that no recovery finds it.
 *
 * The application's call waits for the answer, at most HOOKS_TIMEOUT_MS; then, or when no replicator is connected, edgefs-fs
 * goes on as if it had been answered 0 and marks the file unseen. OPENING is the exception: without an answer on a replica
 * a read-write open fails with EAGAIN after the time-out (a replica without a fence must not be opened for writing), and on a primary with sync-policy refuse any open.
 *
 * While a hook is unanswered the kernel may hold the lock of the directory or the inode that the application's call works
 * on. So the replicator answers WAL_*, DB_REMOVE, EMPTIED and JOURNAL_END without any call into the mount: from the backing files
 * and from mappings that it already has. (CHECKPOINT holds only the lock of NAME itself.)
 *
 * No hook and no event is sent for what the replicator itself does. */
#ifndef EDGEFS_HOOKS_H
#define EDGEFS_HOOKS_H

#include <stdint.h>

#define HOOKS_VERSION 2
#define HOOKS_TIMEOUT_MS 10000
#define HOOKS_PACKET_MAX 8192
#define HOOKS_JOURNAL_ZEROED 1
#define HOOKS_JOURNAL_TEXT 56 /* two for each of the 28 bytes */

enum hooks_kind {
    HOOK_HELLO = 1,
    HOOK_SYNCED,
    HOOK_UNSEEN,
    /* asynchronous events */
    HOOK_CREATED,    /* a regular file (any name but the private ones) now exists; also the target of a rename. Not told of NAME-journal while
                      * an application has NAME open */
    HOOK_REMOVED,    /* a file, or a directory, is gone; for files that DB_REMOVE and WAL_UNLINK announced, too, not for those of JOURNAL_END */
    HOOK_RENAMED,    /* path is now called text; directories too */
    HOOK_OPENED,     /* applications went from 0 to 1 open descriptions of a file that may be a database */
    HOOK_LAST_CLOSE, /* … and from 1 to 0 */
    HOOK_MODIFIED,   /* the file was truncated, or (fallback mode) written through a mapping, without another hook saying so */
    HOOK_DIR_CREATED,
    HOOK_EXCHANGED, /* path and text have changed places (renameat2, RENAME_EXCHANGE); directories too */
    HOOK_AT_REST,   /* NAME, beside which neither a WAL nor a valid journal lies, was synced, or truncated: if what it held before was a committed state it is one now.
                     * text: inode, then size and modification time (ns) before and now, decimal, five numbers; before = now when it was synced: then it is
                     * one in any case, if it is value (thread id) who has it locked (fs/atrest.h). Comes before the application's call returns */
    /* synchronous hooks */
    HOOK_WAL_TRUNCATE = 32, /* NAME-wal is about to be truncated to value bytes */
    HOOK_WAL_UNLINK,        /* NAME-wal is about to be unlinked or renamed over */
    HOOK_CHECKPOINT,        /* primary: NAME is about to be truncated (usually to the size it has) while NAME-wal exists: SQLite does
                             * so, whatever PRAGMA synchronous says, when a checkpoint has copied the last frame and before it
                             * says so in the wal-index (wal.c, walCheckpoint). Only then may a writer restart the WAL */
    HOOK_JOURNAL_END,       /* NAME-journal is about to be unlinked, truncated, or have its header zeroed; with value HOOKS_JOURNAL_ZEROED: its header has
                             * been zeroed, and this fsync follows; text: the header as it was, HOOKS_JOURNAL_TEXT hexadecimal digits, or nothing if
                             * edgefs-fs does not know */
    HOOK_OPENING,           /* the first open of database NAME by an application: on a replica it waits for its fence; on a primary, if commits of NAME wait for replicas and it
                             * has a WAL, until they have what may be recovered from it */
    HOOK_DB_REMOVE,         /* database NAME is about to be unlinked or renamed over */
    HOOK_EMPTIED,           /* database NAME is about to be truncated to 0 bytes. SQLite does not do that to a database with pages (cp and shells do, O_TRUNC):
                             * what follows is another database. With a WAL beside it HOOK_CHECKPOINT with value 0 says the same */
    HOOK_WAL_SYNC,          /* NAME-wal is being synced, on behalf of an application, and sync-replicas is set for NAME: answered 0 when what is in the
                             * WAL and not published yet is durable on that many replicas (or the policy says so), EIO when it shall not be committed */
    HOOK_QUERY_POS = 48,    /* contents of NAME-pos are wanted; value ENOENT if NAME is not a database */
    HOOK_QUERY_LAG,         /* contents of .lag */
    /* replicator to fs */
    HOOK_ANSWER = 64,
    HOOK_ROLE, /* both ways */
};

enum hooks_role {
    HOOKS_ROLE_UNKNOWN = 0, /* as replica: until the replicator says otherwise */
    HOOKS_ROLE_REPLICA = 1,
    HOOKS_ROLE_PRIMARY = 2,
};

struct hook_msg {
    uint32_t kind; /* enum hooks_kind */
    uint32_t flags;
    uint64_t id;    /* pairs a hook with its answer; 0 for events */
    uint64_t value; /* see enum */
    uint16_t path_len;
    uint16_t text_len;
    uint32_t reserved; /* 0 */
};

#endif
