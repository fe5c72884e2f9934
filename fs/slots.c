#include "fs/slots.h"

#include "lib/log.h"
#include <stdbool.h>

static _Thread_local uint32_t hint;

struct shared_slot *slots_take(struct shared *sh, uint64_t unique, uint32_t opcode)
{
    for (uint32_t i = 0; i < SHARED_SLOTS; i++) {
        struct shared_slot *s = &sh->slots[(hint + i) % SHARED_SLOTS];
        uint32_t expected = SLOT_FREE;
        if (__atomic_load_n(&s->state, __ATOMIC_RELAXED) != SLOT_FREE ||
            !__atomic_compare_exchange_n(&s->state, &expected, SLOT_TAKEN, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            continue;
        hint = (hint + i) % SHARED_SLOTS; /* each thread settles on a slot of its own */
        s->unique = unique;
        s->opcode = opcode;
        s->src_ino = s->dst_ino = 0;
        s->ino = 0;
        s->backing_id = 0;
        return s;
    }
    log_error("slots", "all %u request slots are in use", SHARED_SLOTS);
    return NULL;
}

struct shared_slot *slots_find(struct shared *sh, uint64_t unique)
{
    for (uint32_t i = 0; i < SHARED_SLOTS; i++)
        if (__atomic_load_n(&sh->slots[i].state, __ATOMIC_ACQUIRE) != SLOT_FREE && sh->slots[i].unique == unique)
            return &sh->slots[i];
    return NULL;
}

void slots_start(struct shared_slot *slot, uint64_t src_ino, uint64_t dst_ino)
{
    if (!slot)
        return;
    slot->src_ino = src_ino;
    slot->dst_ino = dst_ino;
    __atomic_store_n(&slot->state, SLOT_STARTED, __ATOMIC_SEQ_CST);
}

void slots_free(struct shared_slot *slot)
{
    if (slot)
        __atomic_store_n(&slot->state, SLOT_FREE, __ATOMIC_SEQ_CST);
}

unsigned slots_free_stale(struct shared *sh, const uint64_t *uniques, size_t n)
{
    unsigned begun = 0;
    for (uint32_t i = 0; i < SHARED_SLOTS; i++) {
        struct shared_slot *s = &sh->slots[i];
        bool wanted = false;
        if (s->state == SLOT_FREE)
            continue;
        for (size_t k = 0; k < n && !wanted; k++)
            wanted = uniques[k] == s->unique;
        if (wanted)
            continue;
        begun += s->state != SLOT_TAKEN;
        slots_free(s);
    }
    return begun;
}
