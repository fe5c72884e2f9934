/* N clients of GET /v1/stream that read all they get and forget it: what replicas cost the node that serves them.
 *
 *   streams HOST PORT --n N --epoch E --lsn L
 *
 * Runs until SIGTERM; then prints {"clients":…, "bytes":…, "least":…}: bytes received by all and by the one that got least. */
#include "bench/bench.h"
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#define CLIENTS_MAX 256

static volatile sig_atomic_t stop;

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

int main(int argc, char **argv)
{
    static char buf[65536];
    struct pollfd fds[CLIENTS_MAX];
    uint64_t bytes[CLIENTS_MAX] = {0};
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
        }
    }
    uint64_t sum = 0, least = UINT64_MAX;
    for (nfds_t i = 0; i < n; i++) {
        sum += bytes[i];
        least = MIN(least, bytes[i]);
        close(fds[i].fd);
    }
    printf("{\"clients\": %lu, \"bytes\": %lu, \"least\": %lu}\n", (unsigned long)n, (unsigned long)sum, (unsigned long)least);
    return 0;
}
