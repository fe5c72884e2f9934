/* How long after COMMIT returned on one path a reader on another path sees the row.
 *
 *   lag WRITER-DB READER-DB [--n 2000] [--pause-us 2000] [--sync NORMAL] [--poll-us 0]
 *
 * Two processes. The writer inserts row after row (autocommit, WAL) and notes when each COMMIT returned; the reader runs
 * `SELECT max(id)` over and over, each in a read transaction of its own, and notes when it saw each row first. --poll-us: sleep that long
 * between two looks instead of looking without pause (which takes one core). A row that is seen before its COMMIT returned counts
 * as 0. Prints {"n":…, "p50_us":…, "p99_us":…, "max_us":…, "mean_us":…, "polls_per_row":…, "rate":…}. CLOCK_MONOTONIC. */
#include "bench/bench.h"
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define WAIT_NS 30000000000ul /* a row that did not come by then never will */
#define WARM_UP 100

struct shared {
    _Atomic int ready;      /* the reader has its first row */
    _Atomic uint64_t polls; /* looks that the reader took */
    uint64_t seen[];        /* when row i was seen; written by the reader alone, read after it ended */
};

static void read_loop(const char *path, int64_t base, int64_t n, uint64_t poll_ns, struct shared *s)
{
    sqlite3 *db = db_open(path);
    sqlite3_stmt *get = db_prepare(db, "SELECT max(id) FROM lag");
    int64_t have = base;
    uint64_t polls = 0, last = now_ns();
    while (have < base + n) {
        int rc = sqlite3_step(get);
        if (rc != SQLITE_ROW)
            die("reader: %s", sqlite3_errmsg(db));
        int64_t id = sqlite3_column_int64(get, 0);
        sqlite3_reset(get);
        uint64_t now = now_ns();
        if (!atomic_load_explicit(&s->ready, memory_order_relaxed) && id >= base)
            atomic_store(&s->ready, 1);
        for (; have < id && have < base + n; have++) {
            s->seen[have - base] = now;
            last = now;
        }
        polls++;
        if (now > last + WAIT_NS)
            die("reader: row %lld did not come within 30 s", (long long)(have + 1));
        if (poll_ns)
            sleep_until(now + poll_ns);
    }
    atomic_store(&s->polls, polls);
    sqlite3_finalize(get);
    sqlite3_close(db);
}

static void report(const struct shared *s, const uint64_t *done, int64_t n, double rate)
{
    int64_t *lag = calloc((size_t)n, sizeof *lag);
    int64_t count = 0, sum = 0;
    if (!lag)
        die("out of memory");
    for (int64_t i = WARM_UP; i < n; i++) {
        int64_t d = (int64_t)(s->seen[i] - done[i]);
        lag[count] = d > 0 ? d : 0;
        sum += lag[count++];
    }
    qsort(lag, (size_t)count, sizeof *lag, compare_i64);
    printf("{\"n\": %lld, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"mean_us\": %.1f, \"polls_per_row\": %.1f, "
           "\"rate\": %.1f}\n",
           (long long)count, (double)lag[count / 2] / 1e3, (double)lag[count * 99 / 100] / 1e3, (double)lag[count - 1] / 1e3,
           (double)sum / (double)count / 1e3, (double)atomic_load(&s->polls) / (double)n, rate);
    free(lag);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        die("usage: lag WRITER-DB READER-DB [--n N] [--pause-us US] [--sync MODE] [--poll-us US]");
    int64_t n = (int64_t)option_number(argc, argv, "--n", 2000) + WARM_UP;
    uint64_t pause_ns = (uint64_t)(option_number(argc, argv, "--pause-us", 2000) * 1e3);
    uint64_t poll_ns = (uint64_t)(option_number(argc, argv, "--poll-us", 0) * 1e3);
    prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul);
    size_t size = sizeof(struct shared) + (size_t)n * sizeof(uint64_t);
    struct shared *s = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t *done = calloc((size_t)n, sizeof *done);
    if (s == MAP_FAILED || !done)
        die("out of memory");

    sqlite3 *db = db_open(argv[1]);
    db_exec(db, "PRAGMA journal_mode = WAL");
    db_exec(db, "PRAGMA synchronous = %s", option(argc, argv, "--sync", "NORMAL"));
    db_exec(db, "CREATE TABLE IF NOT EXISTS lag (id INTEGER PRIMARY KEY, pad TEXT);"
                "INSERT INTO lag (pad) VALUES ('the first row: the reader starts when it has this one')");
    int64_t base = db_int(db, "SELECT max(id) FROM lag");
    sqlite3_close(db); /* an SQLite connection must not be carried across fork */

    fflush(stdout);
    pid_t child = fork();
    if (child < 0)
        die("fork: %m");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, 9ul, 0ul, 0ul, 0ul);
        uint64_t deadline = now_ns() + WAIT_NS;
        for (;;) { /* until the replica has the table */
            sqlite3 *look = NULL;
            sqlite3_stmt *st = NULL;
            bool there = sqlite3_open_v2(argv[2], &look, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK &&
                         sqlite3_prepare_v2(look, "SELECT max(id) FROM lag", -1, &st, NULL) == SQLITE_OK &&
                         sqlite3_step(st) == SQLITE_ROW && sqlite3_column_int64(st, 0) >= base;
            sqlite3_finalize(st);
            sqlite3_close(look);
            if (there)
                break;
            if (now_ns() > deadline)
                die("the reader's side never got the first row");
            sleep_until(now_ns() + 2000000);
        }
        read_loop(argv[2], base, n, poll_ns, s);
        _exit(0);
    }

    db = db_open(argv[1]);
    db_exec(db, "PRAGMA synchronous = %s", option(argc, argv, "--sync", "NORMAL"));
    sqlite3_stmt *insert = db_prepare(db, "INSERT INTO lag (pad) VALUES (?1)");
    char pad[100];
    memset(pad, 'x', sizeof pad);
    sqlite3_bind_text(insert, 1, pad, sizeof pad, SQLITE_STATIC);
    for (uint64_t t = now_ns(); !atomic_load(&s->ready); sleep_until(now_ns() + 1000000))
        if (now_ns() > t + WAIT_NS || waitpid(child, NULL, WNOHANG) == child)
            die("the reader did not start");
    uint64_t start = now_ns();
    for (int64_t i = 0; i < n; i++) {
        if (pause_ns)
            sleep_until(now_ns() + pause_ns);
        db_run(insert);
        done[i] = now_ns();
    }
    double rate = (double)n / ((double)(now_ns() - start) / 1e9);
    int status;
    if (waitpid(child, &status, 0) != child || status != 0)
        die("the reader failed");
    report(s, done, n, rate);
    sqlite3_finalize(insert);
    sqlite3_close(db);
    free(done);
    return 0;
}
