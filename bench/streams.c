/* N clients of GET /v1/stream that read all they get and forget it: what replicas cost the node that serves them, and when they would have what was committed.
 *
 *   streams HOST PORT --n N --epoch E --lsn L [--discard MB]
 *
 * --discard: one client, which takes so many MB (10^6) a second, as over a network, and has the kernel throw them away uncopied and unseen: nearly nothing but what the server does is left
 * to be measured. The report then has "bytes" alone.
 *
 * Runs until SIGTERM; then prints {"clients":…, "bytes":…, "least":…, "records":…, "p50_us":…, "p99_us":…, "max_us":…}: bytes received by all and by the one that got
 * least; records received by all, and how long after its time stamp (taken on the primary when it was captured; same machine, same clock) each had arrived whole. */
#include "bench/bench.h"
#include "edgefs/record.h"
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#define CLIENTS_MAX 256

#define HEAD_MAX (RECORD_HEAD_MAX > 4096 ? RECORD_HEAD_MAX : 4096)
#define SAMPLES_MAX (1u << 22)

struct client {
    uint8_t head[HEAD_MAX]; /* of the answer, then of the record that comes */
    size_t have;
    bool body;              /* the answer's head is over */
    uint64_t skip;          /* payload of the record that is still to come */
    uint64_t sent_us;       /* of that record; 0: a control frame */
};

static volatile sig_atomic_t stop;
static uint32_t *lags;
static size_t n_lags;

static void arrived(const struct client *c)
{
    uint64_t now = wall_us();
    if (c->sent_us && n_lags < SAMPLES_MAX)
        lags[n_lags++] = (uint32_t)MIN(now > c->sent_us ? now - c->sent_us : 0, (uint64_t)UINT32_MAX);
}

/* Takes the stream apart as far as needed to see where records end. */
static void take(struct client *c, const uint8_t *p, size_t n)
{
    while (n) {
        if (c->skip) {
            size_t k = (size_t)MIN((uint64_t)n, c->skip);
            p += k;
            n -= k;
            if (!(c->skip -= k))
                arrived(c);
            continue;
        }
        if (c->have == sizeof c->head)
            die("what arrives is no stream");
        c->head[c->have++] = *p++;
        n--;
        if (!c->body) {
            c->body = c->have >= 4 && memcmp(c->head + c->have - 4, "\r\n\r\n", 4) == 0;
            if (c->body)
                c->have = 0;
            continue;
        }
        struct record_head h;
        long size = record_head_decode(c->head, c->have, &h);
        if (size < 0)
            die("what arrives is no record");
        if (!size)
            continue;
        c->have = 0;
        c->skip = h.payload_len;
        c->sent_us = h.type < RECORD_CONTROL ? h.timestamp : 0;
        if (!c->skip)
            arrived(c);
    }
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void on_term(int sig)
{
    (void)sig;
    stop = 1;
}

static int dial(const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
    int rc = getaddrinfo(host, port, &hints, &list);
    if (rc != 0)
        die("%s: %s", host, gai_strerror(rc));
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, list->ai_addr, list->ai_addrlen) != 0)
        die("connect to %s:%s: %m", host, port);
    freeaddrinfo(list);
    return fd;
}

/* Takes what has come by now at that rate; a millisecond's worth at a time. */
static uint64_t discard(int fd, double per_second)
{
    uint64_t bytes = 0, start = now_ns();
    while (!stop) {
        uint64_t due = (uint64_t)((double)(now_ns() - start) / 1e9 * per_second);
        ssize_t got = due > bytes ? recv(fd, NULL, (size_t)(due - bytes), MSG_TRUNC) : 0;
        if (got < 0 && errno != EINTR)
            die("recv: %m");
        if (got == 0 && due > bytes)
            die("the stream ended");
        bytes += got > 0 ? (uint64_t)got : 0;
        sleep_until(start + (uint64_t)((double)bytes / per_second * 1e9) + 1000000u);
    }
    return bytes;
}

int main(int argc, char **argv)
{
    static char buf[65536];
    struct pollfd fds[CLIENTS_MAX];
    uint64_t bytes[CLIENTS_MAX] = {0};
    struct client *clients = calloc(CLIENTS_MAX, sizeof *clients);
    lags = malloc(SAMPLES_MAX * sizeof *lags);
    if (!clients || !lags)
        die("no memory");
    if (argc < 3)
        die("usage: streams HOST PORT --n N --epoch E --lsn L");
    nfds_t n = (nfds_t)option_number(argc, argv, "--n", 10);
    if (n < 1 || n > CLIENTS_MAX)
        die("--n: 1 to %d", CLIENTS_MAX);
    struct sigaction act = {.sa_handler = on_term};
    sigaction(SIGTERM, &act, NULL);
    int len = snprintf(buf, sizeof buf, "GET /v1/stream?epoch=%s&lsn=%s HTTP/1.1\r\nHost: %s:%s\r\n\r\n",
                       option(argc, argv, "--epoch", "0"), option(argc, argv, "--lsn", "0"), argv[1], argv[2]);
    for (nfds_t i = 0; i < n; i++) {
        fds[i] = (struct pollfd){.fd = dial(argv[1], argv[2]), .events = POLLIN};
        if (write(fds[i].fd, buf, (size_t)len) != len)
            die("request: %m");
    }
    double rate = option_number(argc, argv, "--discard", 0) * 1e6;
    if (rate > 0) {
        printf("{\"bytes\": %lu}\n", (unsigned long)discard(fds[0].fd, rate));
        return 0;
    }
    while (!stop) {
        if (poll(fds, n, 1000) < 0 && errno != EINTR)
            die("poll: %m");
        for (nfds_t i = 0; i < n && !stop; i++) {
            if (!fds[i].revents)
                continue;
            ssize_t got = read(fds[i].fd, buf, sizeof buf);
            if (got <= 0)
                die("client %lu: the stream ended: %s", (unsigned long)i, got < 0 ? strerror(errno) : "end of file");
            if (bytes[i] == 0 && memcmp(buf, "HTTP/1.1 200", MIN((size_t)got, (size_t)12)) != 0)
                die("client %lu: %.*s", (unsigned long)i, (int)MIN(got, (ssize_t)200), buf);
            bytes[i] += (uint64_t)got;
            take(&clients[i], (const uint8_t *)buf, (size_t)got);
        }
    }
    uint64_t sum = 0, least = UINT64_MAX;
    for (nfds_t i = 0; i < n; i++) {
        sum += bytes[i];
        least = MIN(least, bytes[i]);
        close(fds[i].fd);
    }
    qsort(lags, n_lags, sizeof *lags, ascending);
    printf("{\"clients\": %lu, \"bytes\": %lu, \"least\": %lu, \"records\": %zu, \"p50_us\": %u, \"p99_us\": %u, \"max_us\": %u}\n", (unsigned long)n, (unsigned long)sum,
           (unsigned long)least, n_lags, n_lags ? lags[n_lags / 2] : 0, n_lags ? lags[n_lags * 99 / 100] : 0, n_lags ? lags[n_lags - 1] : 0);
    free(lags);
    free(clients);
    return 0;
}
