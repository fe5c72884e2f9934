/* What the benchmark drivers share: failing loudly, SQLite calls that must succeed, a generator of pseudo-random numbers, statistics,
 * options. Header only: each driver is one C file with its own main. No threads. */
#ifndef EDGEFS_BENCH_H
#define EDGEFS_BENCH_H

#include "lib/util.h"
#include <errno.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

/* Prints "bench: message" to standard error and exits 1: a benchmark that met an error has no result. */
__attribute__((format(printf, 1, 2), noreturn)) static inline void die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("bench: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

/* Opens the database (created if it is not there) for one thread, with a busy time-out of 10 s. The caller closes it. */
static inline sqlite3 *db_open(const char *path)
{
    sqlite3 *db;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        die("%s: %s", path, sqlite3_errmsg(db));
    sqlite3_busy_timeout(db, 10000);
    return db;
}

/* Runs printf-formatted SQL (no text from strangers: nothing is quoted). */
__attribute__((format(printf, 2, 3))) static inline void db_exec(sqlite3 *db, const char *fmt, ...)
{
    char sql[1024], *why = NULL;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(sql, sizeof sql, fmt, ap);
    va_end(ap);
    if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK)
        die("%s: %s", sql, why ? why : sqlite3_errmsg(db));
}

/* A statement to be stepped many times. The caller finalizes it. */
static inline sqlite3_stmt *db_prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *s;
    if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &s, NULL) != SQLITE_OK)
        die("%s: %s", sql, sqlite3_errmsg(db));
    return s;
}

/* First column of the first row, as an integer; 0 if there is no row. */
static inline int64_t db_int(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *s = db_prepare(db, sql);
    int rc = sqlite3_step(s);
    int64_t v = rc == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        die("%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_finalize(s);
    return v;
}

/* Steps a statement that returns no rows, and resets it. */
static inline void db_run(sqlite3_stmt *s)
{
    if (sqlite3_step(s) != SQLITE_DONE || sqlite3_reset(s) != SQLITE_OK)
        die("%s: %s", sqlite3_sql(s), sqlite3_errmsg(sqlite3_db_handle(s)));
}

/* xorshift64*: the same numbers in every run. *state must not be 0. */
static inline uint64_t rnd(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dul;
}

static inline int compare_i64(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* Sleeps until that instant of now_ns(). */
static inline void sleep_until(uint64_t ns)
{
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

/* The value of option NAME among argv ("--name value" pairs after `first` positional arguments), or fallback. */
static inline const char *option(int argc, char **argv, const char *name, const char *fallback)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    return fallback;
}

static inline double option_number(int argc, char **argv, const char *name, double fallback)
{
    const char *text = option(argc, argv, name, NULL);
    if (!text)
        return fallback;
    char *end;
    double v = strtod(text, &end);
    if (*end || end == text || v < 0)
        die("%s %s: not a number", name, text);
    return v;
}

#endif
