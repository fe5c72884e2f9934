/* The memory file that outlives edgefs-fs: everything that the kernel refers to by number, so that a successor can go on where
 * a process that died at any instruction stopped. The launcher keeps the descriptor; nothing but edgefs-fs maps it.
 *
 * Why it is consistent after kill -9. A killed process loses its registers, never its stores: what it wrote to this mapping
 * before the kill is there, in program order (one process, one page cache; the compiler is held back by release stores). So
 * the only danger is a change of several words of which some were made. Changes therefore go through a redo log in the file
 * itself: under the table's mutex the new bytes of all words are written to `redo.data`, then `redo.committed` is set to their
 * length (one aligned release store: this is the moment at which the change has happened), then they are copied to their
 * places, then `committed` is set to 0. A successor that finds `committed` not 0 copies again: copying is idempotent and
 * nothing else can have been changed meanwhile, for the mutex admits one change at a time. There is no undo and no lock in
 * the file: mutexes are private to each process and die with it.
 *
 * A slot belongs to one request (see slots.h) and reaches DONE in the same transaction as the change that the request asked
 * for, which makes "was it carried out?" a question with one answer.
 *
 * Index and free list are private to the process and rebuilt from the inodes at take-over. The file is sparse: untouched
 * inodes cost nothing. */
#ifndef EDGEFS_FS_SHARED_H
#define EDGEFS_FS_SHARED_H

#include <stdint.h>

#define SHARED_MAGIC 0x4564676546537462ull /* "EdgeFStb" */
#define SHARED_VERSION 1u                  /* +1 with each change of the layout; a successor refuses another version */
#define SHARED_INODES (1u << 20)
#define SHARED_SLOTS 256u
#define SHARED_REDO_MAX 4096u
#define SHARED_INIT_MAX 4096u
#define SHARED_NAME_MAX 255u
#define SHARED_PRIMARY_MAX 255u

enum shared_inode_flags {
    INODE_USED = 1,
    INODE_DIR = 2,
    INODE_UNSEEN = 4,      /* changed while nobody was there to be told: to be diffed. Pins the inode */
    INODE_UNSEEN_SENT = 8, /* … and on its way to the replicator */
    INODE_ORPHAN = 16,     /* has no name any more but is open: lies in <data>/orphans. Pins the inode */
    INODE_NAMELESS = 32,   /* has no name any more, the kernel still knows its number */
    INODE_VIRTUAL = 64,    /* a file that exists only here: .primary, .lag, NAME-pos */
    INODE_SYNCS = 128,     /* a database whose rollback journals are synced: they may be passed through (journals.h) */
    INODE_EMPTIED = 256,   /* with INODE_UNSEEN: it was truncated to 0 bytes */
};

struct shared_inode {
    uint64_t nlookup;     /* references that the kernel holds (FUSE lookup count) */
    uint64_t backing_ino; /* st_ino of the backing file; also what stat shows */
    uint64_t generation;  /* of this use of the inode number */
    uint32_t flags;       /* 0: free */
    uint32_t parent;      /* inode number; meaningless without a name */
    uint32_t opens_app;   /* open descriptions, applications' … */
    uint32_t opens_repl;  /* … and the replicator's */
    int32_t backing_id;   /* of FUSE passthrough while open; 0: none */
    uint32_t name_hash;
    uint16_t name_len;
    char name[SHARED_NAME_MAX + 1];
    uint8_t pad[14];
};
_Static_assert(sizeof(struct shared_inode) == 320, "layout of the memory file");

enum shared_slot_state {
    SLOT_FREE = 0,
    SLOT_TAKEN,   /* belongs to a request that changed nothing yet */
    SLOT_STARTED, /* the backing directory may have been changed, the table not */
    SLOT_DONE,    /* both were changed; at most the reply is missing */
};

struct shared_slot {
    uint64_t unique; /* of the request, without the resend bit */
    uint64_t src_ino, dst_ino; /* st_ino of what the names stood for before a rename or an unlink */
    uint32_t state;            /* enum shared_slot_state */
    uint32_t opcode;
    uint32_t ino;       /* result: the inode that was looked up or created */
    int32_t backing_id; /* result of a release: the id that is to be given back */
};

enum shared_init_state {
    INIT_NONE = 0,
    INIT_RECEIVED, /* as kept below; the kernel may or may not have the answer */
    INIT_REPLIED,
};

struct shared_redo {
    uint32_t committed; /* bytes of data that are a committed change; 0: none */
    uint32_t pad;
    uint8_t data[SHARED_REDO_MAX]; /* entries: u32 offset in this file, u32 length, bytes, padded to 8 */
};

struct shared {
    uint64_t magic; /* written last */
    uint32_t version;
    uint32_t inode_size;
    uint32_t capacity; /* inodes */
    uint32_t high_water; /* inode numbers from here on were never used */
    uint64_t generation; /* last one given out */

    uint32_t init_state; /* enum shared_init_state */
    uint32_t init_len;
    uint8_t init[SHARED_INIT_MAX]; /* the INIT request as the kernel sent it */

    uint32_t role; /* enum hooks_role */
    char primary[SHARED_PRIMARY_MAX + 1];
    int32_t replicator_pid; /* connected to the hooks socket; 0: none */
    int32_t last_backing_id; /* highest passthrough id that was recorded in an inode */
    uint64_t replicator_start; /* its start time (proc(5), field 22), against reuse of the pid */

    struct shared_redo redo;
    struct shared_slot slots[SHARED_SLOTS];
    struct shared_inode inodes[] __attribute__((aligned(4096)));
};

#define SHARED_SIZE (sizeof(struct shared) + (uint64_t)SHARED_INODES * sizeof(struct shared_inode))

#endif
