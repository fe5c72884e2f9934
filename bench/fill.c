/* Makes a database of a given size, quickly and without replication: what readers read and what is copied.
 *
 *   fill DB --mb N
 *
 * Table r (id INTEGER PRIMARY KEY, k INTEGER, pad TEXT) with an index on k; rows of about 400 bytes, half random letters and half words
 * that repeat, so that pages compress about as well as those of an ordinary application. WAL mode, checkpointed, closed. */
#include "bench/bench.h"

#define ROWS_PER_TX 20000

static const char *const WORDS[] = {"order", "customer", "shipped", "pending", "invoice", "amount", "street", "created",
                                    "updated", "session", "message", "subject", "payload", "comment", "article", "version"};

/* 400 bytes of JSON-like text. */
static size_t make_row(char *buf, size_t size, uint64_t *state)
{
    size_t n = 0;
    while (n + 40 < size) {
        const char *word = WORDS[rnd(state) % ARRAY_SIZE(WORDS)];
        n += (size_t)snprintf(buf + n, size - n, "\"%s\": \"", word);
        for (int i = 0; i < 14; i++)
            buf[n++] = (char)('a' + rnd(state) % 26);
        buf[n++] = '"';
        buf[n++] = ',';
    }
    return n;
}

int main(int argc, char **argv)
{
    double mb = option_number(argc, argv, "--mb", 0);
    if (argc < 2 || mb <= 0)
        die("usage: fill DB --mb N");
    sqlite3 *db = db_open(argv[1]);
    db_exec(db, "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536;"
                "CREATE TABLE r (id INTEGER PRIMARY KEY, k INTEGER, pad TEXT)");
    sqlite3_stmt *insert = db_prepare(db, "INSERT INTO r (k, pad) VALUES (?1, ?2)");
    sqlite3_stmt *pages = db_prepare(db, "PRAGMA page_count");
    uint64_t state = 2463534242ul;
    /* The index made afterwards takes about a thirtieth of the table. */
    double want = mb * 1e6 / 4096 * 0.965, have = 0;
    while (have < want) {
        db_exec(db, "BEGIN");
        for (int i = 0; i < ROWS_PER_TX && (mb > 20 || i < ROWS_PER_TX / 20); i++) {
            char pad[420];
            size_t n = make_row(pad, sizeof pad, &state);
            sqlite3_bind_int64(insert, 1, (int64_t)(rnd(&state) >> 40));
            sqlite3_bind_text(insert, 2, pad, (int)n, SQLITE_STATIC);
            db_run(insert);
        }
        db_exec(db, "COMMIT");
        if (sqlite3_step(pages) != SQLITE_ROW)
            die("page_count: %s", sqlite3_errmsg(db));
        have = (double)sqlite3_column_int64(pages, 0);
        sqlite3_reset(pages);
    }
    sqlite3_finalize(insert);
    sqlite3_finalize(pages);
    db_exec(db, "CREATE INDEX r_k ON r (k)");
    int64_t rows = db_int(db, "SELECT max(id) FROM r");
    int64_t bytes = db_int(db, "PRAGMA page_count") * db_int(db, "PRAGMA page_size");
    db_exec(db, "PRAGMA journal_mode = WAL");
    sqlite3_close(db);
    printf("{\"rows\": %lld, \"bytes\": %lld}\n", (long long)rows, (long long)bytes);
    return 0;
}
