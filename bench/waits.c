/* How soon a read that waits at a replica's proxy for a position goes on once that position is there.
 *
 *   waits PROXY_PORT LISTEN_PORT FEED DATABASE --n N
 *
 * This one thread is the client of the proxy, the application behind it (on LISTEN_PORT), a second subscriber of the replica's position feed
 * (FEED: <data>/run/position.sock), and who commits on the primary's mount (DATABASE). Each turn asks for the position after the present one,
 * makes sure that the read is held, commits one row, and takes the time between the feed's message that the position is applied and the request's arrival
 * at the application. Prints {"n", "p50_us", "p99_us", "commit_p50_us", "early"}; commit_p50_us: from COMMIT's return to the arrival; early: turns that
 * were left out because something else moved the position first. */
#include "bench/bench.h"
#include "edgefs/position_feed.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

struct bench {
    int feed, listener, app, client; /* app: the proxy's connection to us; -1: none yet */
    uint64_t epoch, applied;
    uint64_t want, arrived_ns, continued_ns; /* of this turn; 0: not yet */
};

static struct sockaddr_in loopback(const char *port)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int open_feed(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (strlen(path) >= sizeof at.sun_path)
        die("%s: too long", path);
    strcpy(at.sun_path, path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof at) != 0)
        die("%s: %m", path);
    return fd;
}

static void open_all(struct bench *b, char **argv)
{
    struct sockaddr_in at = loopback(argv[2]), proxy = loopback(argv[1]);
    int on = 1;
    b->feed = open_feed(argv[3]);
    b->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(b->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(b->listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(b->listener, 16) != 0)
        die("listen on %s: %m", argv[2]);
    b->client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(b->client, (struct sockaddr *)&proxy, sizeof proxy) != 0)
        die("connect to %s: %m", argv[1]);
    setsockopt(b->client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    b->app = -1;
}

static void take_feed(struct bench *b)
{
    static union {
        struct position_feed_msg m;
        char bytes[POSITION_FEED_PACKET_MAX];
    } u;
    ssize_t n = recv(b->feed, u.bytes, sizeof u.bytes, 0);
    uint64_t now = now_ns();
    if (n < (ssize_t)sizeof u.m)
        die("the position feed ended: %m");
    b->epoch = u.m.now.applied.epoch;
    b->applied = u.m.now.applied.lsn;
    if (b->want && b->applied >= b->want && !b->arrived_ns)
        b->arrived_ns = now;
}

static void take_request(struct bench *b)
{
    static char buf[16384];
    ssize_t n = recv(b->app, buf, sizeof buf, 0);
    uint64_t now = now_ns();
    if (n <= 0) {
        close(b->app);
        b->app = -1;
        return;
    }
    if (n < 4 || memcmp(buf + n - 4, "\r\n\r\n", 4) != 0)
        die("a request came in pieces");
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    if (send(b->app, answer, sizeof answer - 1, MSG_NOSIGNAL) != sizeof answer - 1)
        die("answer: %m");
    b->continued_ns = now;
}

/* Takes whatever comes within the time. Ends early once the read went on and its position was seen. */
static void look(struct bench *b, int ms)
{
    uint64_t end = now_ns() + (uint64_t)ms * 1000000u;
    for (;;) {
        if (b->continued_ns && b->arrived_ns)
            return;
        int64_t left = ((int64_t)end - (int64_t)now_ns() + 999999) / 1000000;
        struct pollfd fds[] = {{.fd = b->feed, .events = POLLIN}, {.fd = b->app >= 0 ? b->app : b->listener, .events = POLLIN}};
        if (left <= 0 || poll(fds, 2, (int)left) <= 0)
            return;
        if (fds[1].revents && b->app >= 0)
            take_request(b);
        else if (fds[1].revents)
            b->app = accept4(b->listener, NULL, NULL, SOCK_CLOEXEC);
        if (fds[0].revents)
            take_feed(b);
    }
}

static void ask(struct bench *b)
{
    char text[256];
    b->want = b->applied + 1;
    b->arrived_ns = b->continued_ns = 0;
    int n = snprintf(text, sizeof text, "GET /read HTTP/1.1\r\nHost: bench\r\nX-Read-After-Position: %lu-%lu\r\n\r\n", b->epoch, b->want);
    if (send(b->client, text, (size_t)n, MSG_NOSIGNAL) != n)
        die("request: %m");
}

static void take_answer(struct bench *b)
{
    char buf[4096];
    size_t n = 0;
    do {
        ssize_t got = recv(b->client, buf + n, sizeof buf - n, 0);
        if (got <= 0)
            die("the proxy closed the connection");
        n += (size_t)got;
    } while (n < 6 || memcmp(buf + n - 6, "\r\n\r\nok", 6) != 0);
    if (memcmp(buf, "HTTP/1.1 200", 12) != 0)
        die("answer: %.*s", (int)n, buf);
}

int main(int argc, char **argv)
{
    if (argc < 5)
        die("usage: waits PROXY_PORT LISTEN_PORT FEED DATABASE --n N");
    struct bench b = {0};
    size_t n = (size_t)option_number(argc, argv, "--n", 500), got = 0, early = 0;
    int64_t *wait = calloc(n, sizeof *wait), *commit = calloc(n, sizeof *commit);
    sqlite3 *db = db_open(argv[4]);
    db_exec(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; CREATE TABLE IF NOT EXISTS w (x)");
    sqlite3_stmt *insert = db_prepare(db, "INSERT INTO w VALUES (1)");
    if (!wait || !commit)
        die("no memory");
    open_all(&b, argv);
    for (int i = 0; i < 20; i++, look(&b, 20)) /* the database gets to the replica; the read transactions warm up */
        db_run(insert);
    while (got < n && early <= n) {
        look(&b, 3);
        ask(&b);
        look(&b, 4);
        bool held = !b.continued_ns && !b.arrived_ns;
        db_run(insert);
        uint64_t committed = now_ns();
        look(&b, 4000);
        if (!b.continued_ns || !b.arrived_ns)
            die("the read did not go on within 4 s (position %s)", b.arrived_ns ? "there" : "not there");
        take_answer(&b);
        b.want = 0;
        if (!held) {
            early++;
            continue;
        }
        wait[got] = (int64_t)b.continued_ns - (int64_t)b.arrived_ns;
        commit[got++] = (int64_t)b.continued_ns - (int64_t)committed;
    }
    if (got < n)
        die("something else moves the position all the time");
    qsort(wait, n, sizeof *wait, compare_i64);
    qsort(commit, n, sizeof *commit, compare_i64);
    printf("{\"n\": %zu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"commit_p50_us\": %.1f, \"early\": %zu}\n", n, (double)wait[n / 2] / 1000,
           (double)wait[n * 99 / 100] / 1000, (double)commit[n / 2] / 1000, early);
    sqlite3_finalize(insert);
    sqlite3_close(db);
    free(wait);
    free(commit);
    return 0;
}
