/* Point reads by primary key with a small page cache: each one goes to the file.
 *
 *   reads DB [--seconds S] [--cache PAGES]
 *
 * One prepared SELECT on table r of bench/fill, ids at random, each in a read transaction of its own (autocommit). mmap is off.
 * Prints {"reads":…, "seconds":…, "rate":…}. */
#include "bench/bench.h"

#define READS_PER_CLOCK 64

int main(int argc, char **argv)
{
    if (argc < 2)
        die("usage: reads DB [--seconds S] [--cache PAGES]");
    double seconds = option_number(argc, argv, "--seconds", 2);
    int cache = (int)option_number(argc, argv, "--cache", 64);

    sqlite3 *db = db_open(argv[1]);
    db_exec(db, "PRAGMA cache_size = %d; PRAGMA mmap_size = 0", cache);
    uint64_t rows = (uint64_t)db_int(db, "SELECT max(id) FROM r");
    if (rows == 0)
        die("%s: table r is empty", argv[1]);
    sqlite3_stmt *get = db_prepare(db, "SELECT pad FROM r WHERE id = ?1");

    uint64_t state = 88172645463325252ul, done = 0, bytes = 0, start = now_ns(), now = start;
    uint64_t end = start + (uint64_t)(seconds * 1e9);
    while (now < end) {
        for (int i = 0; i < READS_PER_CLOCK; i++) {
            sqlite3_bind_int64(get, 1, (int64_t)(rnd(&state) % rows) + 1);
            if (sqlite3_step(get) != SQLITE_ROW)
                die("read: %s", sqlite3_errmsg(db));
            bytes += (uint64_t)sqlite3_column_bytes(get, 0);
            sqlite3_reset(get);
        }
        done += READS_PER_CLOCK;
        now = now_ns();
    }
    if (bytes == 0)
        die("the rows are empty");
    double took = (double)(now - start) / 1e9;
    printf("{\"reads\": %llu, \"seconds\": %.6f, \"rate\": %.1f}\n", (unsigned long long)done, took, (double)done / took);
    sqlite3_finalize(get);
    sqlite3_close(db);
    return 0;
}
