#include "fs/names.h"

#include "lib/util.h"

static const struct {
    const char *suffix;
    size_t len;
    enum name_kind kind;
} suffixes[] = {
    {LAYOUT_WAL, sizeof LAYOUT_WAL - 1, NAME_WAL},
    {LAYOUT_SHM, sizeof LAYOUT_SHM - 1, NAME_SHM},
    {LAYOUT_JOURNAL, sizeof LAYOUT_JOURNAL - 1, NAME_JOURNAL},
    {LAYOUT_POS, sizeof LAYOUT_POS - 1, NAME_POS},
};

enum name_kind name_kind(const char *name, size_t len, size_t *base_len)
{
    static const char private_prefix[] = LAYOUT_PRIVATE_PREFIX;
    if (base_len)
        *base_len = len;
    if (len >= sizeof private_prefix - 1 && !memcmp(name, private_prefix, sizeof private_prefix - 1))
        return NAME_PRIVATE;
    for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
        size_t s = suffixes[i].len;
        if (len > s && !memcmp(name + len - s, suffixes[i].suffix, s)) {
            if (base_len)
                *base_len = len - s;
            return suffixes[i].kind;
        }
    }
    return NAME_PLAIN;
}
