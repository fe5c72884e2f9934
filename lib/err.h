/* Errors: an int (0, or a negative errno, or a negative code of the table below) plus a message that is wrapped on its way up.
 * The caller owns the struct err (usually on its stack) and may pass NULL where it wants no message. Thread-safe. */
#ifndef EDGEFS_ERR_H
#define EDGEFS_ERR_H

#define ERR_TEXT_MAX 512

/* Codes beyond errno. code, number, what it means to a person. */
#define ERR_TABLE(X)                                                                                                       \
    X(ERR_CORRUPT, 10001, "damaged data")                                                                                  \
    X(ERR_CONFIG, 10002, "bad configuration")                                                                              \
    X(ERR_GONE, 10003, "no longer kept")                                                                                   \
    X(ERR_CHECKSUM, 10004, "checksums differ")                                                                             \
    X(ERR_AGAIN_LATER, 10005, "not now, try again")                                                                        \
    X(ERR_NOT_DATABASE, 10006, "not an SQLite database")                                                                   \
    X(ERR_ROLE, 10007, "this node does not have the role for that")                                                        \
    X(ERR_REMOTE, 10008, "the other node answered with an error")

enum err_code {
#define X(name, number, text) name = -(number),
    ERR_TABLE(X)
#undef X
};

struct err {
    int code;                /* what the function returned */
    char text[ERR_TEXT_MAX]; /* never empty after err_set; truncated with "…" if too long */
};

/* Sets code and text, and returns code. e may be NULL. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Like err_set with ": strerror(errnum)" appended; returns -errnum. errnum is positive. */
int err_errno(struct err *e, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "fmt: " before the text that is there, keeps and returns the code. */
int err_wrap(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Text for a code of either kind, sign ignored. Never NULL; static or thread-local storage. */
const char *err_name(int code);

#endif
