#include "tests/torture/generate.h"

#include "tests/torture/content.h"
#include <stdbool.h>
#include <string.h>

#define CONNECTIONS 3

enum profile { PROFILE_WAL, PROFILE_ROLLBACK, PROFILE_MIXED };

struct plan {
    uint64_t state;
    FILE *out;
    enum profile profile;
    int connections, databases;
    bool files, kills;              /* this seed also does things to files; kills programs of nodes */
    bool open[CONNECTIONS], in_transaction[CONNECTIONS], attached[CONNECTIONS];
};

static int pick(struct plan *p, int below)
{
    return (int)(content_random(&p->state) % (unsigned)below);
}

static bool chance(struct plan *p, int percent)
{
    return pick(p, 100) < percent;
}

#define CHOOSE(p, ...) ((const char *const[]){__VA_ARGS__}[pick(p, (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)))])

static const char *schema(struct plan *p, int c)
{
    return p->attached[c] && chance(p, 40) ? "x" : "main";
}

static const char *table(struct plan *p)
{
    return CHOOSE(p, "t0", "t0", "t0", "w", "w", "f", "t1", "t2", "t3");
}

static const char *journal_mode(struct plan *p)
{
    if (p->profile == PROFILE_WAL)
        return "wal";
    if (p->profile == PROFILE_ROLLBACK)
        return CHOOSE(p, "delete", "truncate", "persist", "delete", "truncate", "persist", "memory", "off");
    return CHOOSE(p, "wal", "wal", "wal", "delete", "truncate", "persist", "memory", "off");
}

/* Sizes of values: mostly small, some with overflow pages, a few large. */
static int value_size(struct plan *p)
{
    int r = pick(p, 20);
    return r < 12 ? pick(p, 200) : r < 18 ? 200 + pick(p, 5000) : 5000 + pick(p, 60000);
}

static int row_count(struct plan *p, int size)
{
    int most = size > 5000 ? 4 : size > 200 ? 30 : 150;
    return 1 + pick(p, most);
}

static void write_rows(struct plan *p, int c, const char *before)
{
    int size = value_size(p), r = pick(p, 100);
    const char *verb = r < 50 ? "insert" : r < 80 ? "update" : "delete";
    const char *where = *before ? "main" : schema(p, c), *what = table(p);
    int first = 1 + pick(p, 400), count = row_count(p, size);
    if (strcmp(verb, "delete") == 0)
        (void)fprintf(p->out, "%s%s %d %s %s %d %d\n", before, verb, c, where, what, first, 1 + pick(p, 120));
    else
        (void)fprintf(p->out, "%s%s %d %s %s %d %d %d %d\n", before, verb, c, where, what, first, count, size, 1 + pick(p, 1000000));
}

static void ddl(struct plan *p, int c)
{
    const char *where = schema(p, c), *t = CHOOSE(p, "t1", "t2", "t3");
    switch (pick(p, 5)) {
    case 0:
        (void)fprintf(p->out, "drop %d %s %s\n", c, where, t);
        break;
    case 1:
        (void)fprintf(p->out, "index %d %s %s\n", c, where, t);
        break;
    case 2:
        (void)fprintf(p->out, "dropindex %d %s %s\n", c, where, t);
        break;
    default:
        (void)fprintf(p->out, "create %d %s %s %s\n", c, where, t, CHOOSE(p, "rowid", "norowid", "auto", "rtree"));
    }
}

static void pragma(struct plan *p, int c)
{
    const char *where = schema(p, c);
    switch (pick(p, 12)) {
    case 0:
    case 1:
    case 2:
        (void)fprintf(p->out, "pragma %d %s journal_mode %s\n", c, where, journal_mode(p));
        break;
    case 3:
        (void)fprintf(p->out, "pragma %d %s synchronous %d\n", c, where, pick(p, 4));
        break;
    case 4:
        (void)fprintf(p->out, "pragma %d %s cache_size %d\n", c, where, chance(p, 60) ? 5 : 500);
        break;
    case 5:
        (void)fprintf(p->out, "pragma %d %s cache_spill %d\n", c, where, chance(p, 70) ? 1 : 0);
        break;
    case 6:
        (void)fprintf(p->out, "pragma %d %s auto_vacuum %d\n", c, where, pick(p, 3));
        break;
    case 7:
        (void)fprintf(p->out, "pragma %d %s page_size %d\n", c, where, 512 << pick(p, 8));
        break;
    case 8:
        (void)fprintf(p->out, "pragma %d %s mmap_size %d\n", c, where, chance(p, 50) ? 0 : 10000000);
        break;
    case 9:
        (void)fprintf(p->out, "pragma %d %s user_version %d\n", c, where, pick(p, 1000));
        break;
    case 10:
        (void)fprintf(p->out, "pragma %d %s %s\n", c, where, CHOOSE(p, "wal_autocheckpoint 1", "wal_autocheckpoint 10", "wal_autocheckpoint 1000",
                      "secure_delete 0", "secure_delete 1", "journal_size_limit 0", "journal_size_limit -1"));
        break;
    default:
        (void)fprintf(p->out, "pragma %d %s locking_mode %s\n", c, where, chance(p, 30) ? "exclusive" : "normal");
    }
}

static void transaction(struct plan *p, int c)
{
    if (!p->in_transaction[c]) {
        (void)fprintf(p->out, "begin %d %s\n", c, CHOOSE(p, "deferred", "immediate", "exclusive", "immediate"));
        p->in_transaction[c] = true;
        return;
    }
    int r = pick(p, 10);
    if (r < 6) {
        (void)fprintf(p->out, "%s %d\n", r < 4 ? "commit" : "rollback", c);
        p->in_transaction[c] = false;
    } else {
        (void)fprintf(p->out, "%s %d sp%d\n", r < 8 ? "savepoint" : r < 9 ? "rollbackto" : "release", c, pick(p, 2));
    }
}

static void upkeep(struct plan *p, int c)
{
    const char *where = schema(p, c);
    int r = pick(p, 10);
    if (r < 5)
        (void)fprintf(p->out, "checkpoint %d %s %s\n", c, where, CHOOSE(p, "passive", "full", "restart", "truncate"));
    else if (r < 7)
        (void)fprintf(p->out, "ivacuum %d %s %d\n", c, where, pick(p, 20));
    else
        (void)fprintf(p->out, "vacuum %d %s\n", c, where);
}

static void ended(struct plan *p, int c)
{
    p->open[c] = p->in_transaction[c] = p->attached[c] = false;
}

/* Many quick transactions, and often the connection's end right behind them: the last one to close takes the WAL away. */
static void burst(struct plan *p, int c)
{
    (void)fprintf(p->out, "burst %d %s %d %d %d\n", c, schema(p, c), 1 + pick(p, 300), chance(p, 20) ? 1 + pick(p, 4) : 20 + pick(p, 200), 1 + pick(p, 1000000));
    if (chance(p, 40)) {
        (void)fprintf(p->out, "close %d\n", c);
        ended(p, c);
    }
}

static void life(struct plan *p, int c)
{
    int r = pick(p, 10);
    if (r < 3) {
        (void)fprintf(p->out, "close %d\n", c);
        ended(p, c);
    } else if (r < 5) {
        (void)fprintf(p->out, "kill %d\n", c);
        ended(p, c);
    } else if (r < 8) {
        char before[40];
        (void)snprintf(before, sizeof before, "crash %d %d ", c, pick(p, 3) ? pick(p, 800) : pick(p, 8000));
        write_rows(p, c, before);
        ended(p, c);
    } else if (p->databases > 1) {
        if (p->attached[c])
            (void)fprintf(p->out, "detach %d\n", c);
        else
            (void)fprintf(p->out, "attach %d %d\n", c, pick(p, p->databases));
        p->attached[c] = !p->attached[c];
    }
}

static void file_step(struct plan *p)
{
    int d = pick(p, p->databases), seed = 1 + pick(p, 1000000);
    int r = pick(p, 10);
    if (r < 7)
        (void)fprintf(p->out, "%s %d %d\n", r < 3 ? "copyin" : "replace", d, seed);
    else
        (void)fprintf(p->out, "%s %d\n", r < 8 ? "remove" : "move", d);
    for (int c = 0; c < p->connections; c++)
        ended(p, c); /* perhaps; open again does no harm */
}

static void one(struct plan *p)
{
    int c = pick(p, p->connections);
    if (!p->open[c]) {
        (void)fprintf(p->out, "open %d %d\n", c, pick(p, p->databases));
        p->open[c] = true;
        if (p->profile != PROFILE_WAL && chance(p, 60)) /* a rollback mode is the connection's own */
            (void)fprintf(p->out, "pragma %d main journal_mode %s\n", c, journal_mode(p));
        return;
    }
    int r = pick(p, 100);
    if (r < 35)
        write_rows(p, c, "");
    else if (r < 42)
        burst(p, c);
    else if (r < 47)
        (void)fprintf(p->out, "blob %d %s t0 %d %d %d %d\n", c, schema(p, c), 1 + pick(p, 300), pick(p, 10000), 1 + pick(p, 9000), pick(p, 1000000));
    else if (r < 52)
        (void)fprintf(p->out, "read %d %s\n", c, schema(p, c));
    else if (r < 70)
        transaction(p, c);
    else if (r < 75)
        ddl(p, c);
    else if (r < 82)
        pragma(p, c);
    else if (r < 89)
        upkeep(p, c);
    else if (r < 96)
        life(p, c);
    else if (r < 97)
        (void)fprintf(p->out, "backup %d %d\n", c, 1 + pick(p, 1000000));
    else if (p->files)
        file_step(p);
}

void generate(uint32_t seed, FILE *out)
{
    struct plan p = {.state = seed * UINT64_C(0x2545f4914f6cdd1d) + 1, .out = out};
    p.profile = (enum profile)pick(&p, 3);
    p.connections = 1 + pick(&p, CONNECTIONS);
    p.databases = 1 + pick(&p, 3);
    p.files = chance(&p, 40);
    p.kills = chance(&p, 25);
    for (int d = 0; d < p.databases; d++) {
        (void)fprintf(out, "open 0 %d\npragma 0 main page_size %d\npragma 0 main auto_vacuum %d\npragma 0 main journal_mode %s\nsetup 0 main\n", d,
                      512 << pick(&p, 8), pick(&p, 3), journal_mode(&p));
        (void)fprintf(out, "insert 0 main t0 1 %d %d %d\n", pick(&p, 100), pick(&p, 400), pick(&p, 1000000));
    }
    p.open[0] = true;
    int steps = 25 + pick(&p, 40), until_check = 8 + pick(&p, 12);
    for (int i = 0; i < steps; i++) {
        one(&p);
        if (p.kills && chance(&p, 4))
            (void)fprintf(out, "nodekill %s %s\n", CHOOSE(&p, "a", "a", "b"), CHOOSE(&p, "fs", "replicator"));
        if (--until_check == 0) {
            bool hard = chance(&p, 30);
            (void)fprintf(out, "check %s\n", hard ? "hard" : "soft");
            until_check = 8 + pick(&p, 12);
            for (int c = 0; c < CONNECTIONS && hard; c++)
                ended(&p, c);
        }
    }
    (void)fprintf(out, "check soft\ncheck hard\n");
}
