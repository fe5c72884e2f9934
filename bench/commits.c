/* Commits of one row each, as many as there is time for, or at a given rate.
 *
 *   commits DB [--sync FULL] [--seconds S] [--n N] [--rate R] [--warm N] [--index 1] [--journal WAL]
 *
 * In journal mode WAL, or the one that --journal names; the row has 100 bytes, the table one index of random keys (--index 0: none); one prepared INSERT, autocommit. Ends after N commits or S seconds,
 * whichever comes first (0: no such limit), or on SIGTERM. --warm: that many commits before the clock starts. Prints {"commits":…, "seconds":…, "rate":…, "late": …}; late: seconds
 * by which the last commit missed the schedule that --rate set. */
#include "bench/bench.h"
#include <signal.h>
#include <strings.h>
#include <sys/prctl.h>

static volatile sig_atomic_t stop;

static void on_term(int sig)
{
    (void)sig;
    stop = 1;
}

/* One row: 100 letters and a key at random. */
static void commit_row(sqlite3_stmt *insert, uint64_t *state)
{
    char pad[100];
    for (size_t i = 0; i < sizeof pad; i++)
        pad[i] = (char)('a' + rnd(state) % 26);
    sqlite3_bind_int64(insert, 1, (int64_t)(rnd(state) >> 24));
    sqlite3_bind_text(insert, 2, pad, sizeof pad, SQLITE_STATIC);
    db_run(insert);
}

static sqlite3_stmt *prepare_table(sqlite3 *db, const char *sync, const char *journal, bool with_index)
{
    if (strcasecmp(journal, "WAL") != 0 || db_int(db, "SELECT count(*) FROM pragma_journal_mode WHERE journal_mode = 'wal'") == 0)
        db_exec(db, "PRAGMA journal_mode = %s", journal);
    db_exec(db, "PRAGMA synchronous = %s", sync);
    db_exec(db, "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, k INTEGER, pad TEXT)");
    if (with_index)
        db_exec(db, "CREATE INDEX IF NOT EXISTS t_k ON t (k)");
    return db_prepare(db, "INSERT INTO t (k, pad) VALUES (?1, ?2)");
}

int main(int argc, char **argv)
{
    if (argc < 2)
        die("usage: commits DB [--sync MODE] [--seconds S] [--n N] [--rate R] [--warm N] [--index 0|1]");
    double seconds = option_number(argc, argv, "--seconds", 0);
    double rate = option_number(argc, argv, "--rate", 0);
    uint64_t n = (uint64_t)option_number(argc, argv, "--n", 0);
    if (seconds <= 0 && n == 0 && rate <= 0)
        die("one of --seconds, --n and --rate must be given");

    struct sigaction act = {.sa_handler = on_term};
    sigaction(SIGTERM, &act, NULL);
    prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul);

    sqlite3 *db = db_open(argv[1]);
    sqlite3_stmt *insert = prepare_table(db, option(argc, argv, "--sync", "FULL"), option(argc, argv, "--journal", "WAL"),
                                         option_number(argc, argv, "--index", 1) > 0);
    uint64_t state = 88172645463325252ul ^ (uint64_t)getpid();
    for (double i = option_number(argc, argv, "--warm", 0); i > 0; i--)
        commit_row(insert, &state);
    uint64_t done = 0, start = now_ns(), now = start, due = start;
    uint64_t step = rate > 0 ? (uint64_t)(1e9 / rate) : 0;
    uint64_t end = seconds > 0 ? start + (uint64_t)(seconds * 1e9) : UINT64_MAX;
    for (; !stop && (n == 0 || done < n) && now < end; done++) {
        if (step) {
            sleep_until(due);
            due += step;
        }
        commit_row(insert, &state);
        now = now_ns();
    }
    double took = (double)(now - start) / 1e9;
    printf("{\"commits\": %llu, \"seconds\": %.6f, \"rate\": %.1f, \"late\": %.6f}\n", (unsigned long long)done, took,
           took > 0 ? (double)done / took : 0, step && now > due ? (double)(now - due) / 1e9 : 0);
    sqlite3_finalize(insert);
    sqlite3_close(db);
    return 0;
}
