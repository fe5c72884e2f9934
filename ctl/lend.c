#include "ctl/lend.h"

#include "ctl/field.h"
#include "lib/config_value.h"
#include "lib/localsock.h"
#include "lib/util.h"
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <sys/vfs.h>

#define ANSWER_MS 3000

/* The host part of http://HOST[:PORT], without brackets. */
static bool host_of(const char *url, char *host, size_t size)
{
    const char *p = strstr(url, "://");
    p = p ? p + 3 : url;
    bool brackets = *p == '[';
    p += brackets;
    size_t n = strcspn(p, brackets ? "]" : ":/");
    if (n >= size)
        return false;
    memcpy(host, p, n);
    host[n] = 0;
    return true;
}

static bool same_address(const struct sockaddr *a, const char *host)
{
    char text[INET6_ADDRSTRLEN];
    const void *address = a->sa_family == AF_INET    ? (const void *)&((const struct sockaddr_in *)(const void *)a)->sin_addr
                          : a->sa_family == AF_INET6 ? (const void *)&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr
                                                     : NULL;
    return address && inet_ntop(a->sa_family, address, text, sizeof text) && strcmp(text, host) == 0;
}

/* An address of this host: there is no other way by which its answer could name a socket here. (A tunnel's end looks the same; then the number is unknown there.) */
static bool is_here(const char *url)
{
    char host[256];
    struct ifaddrs *list, *a;
    if (!host_of(url, host, sizeof host))
        return false;
    if (config_host_is_loopback(host))
        return true;
    if (getifaddrs(&list))
        return false;
    for (a = list; a && !(a->ifa_addr && same_address(a->ifa_addr, host)); a = a->ifa_next)
        continue;
    freeifaddrs(list);
    return a != NULL;
}

/* A file in a mount of EdgeFS's would be opened by the replicator of that mount. */
static bool lendable(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 && fs.f_type != FUSE_SUPER_MAGIC;
}

static int ask_where(struct cluster *c, const char *url)
{
    struct request r = {.url = url, .path = "/v1/local", .timeout_ms = ANSWER_MS};
    struct err e;
    json_t *answer = NULL;
    int status, sock = -1;
    if (cluster_ask(c, &r, &status, &answer, &e) == 0) {
        const char *path = field_text(answer, "files");
        if (path && *path == '/')
            sock = localsock_connect(path, &e);
    }
    json_decref(answer);
    return sock;
}

bool lend_begin(struct cluster *c, const char *url, int fd, struct lend *l)
{
    if (!is_here(url) || !lendable(fd))
        return false;
    l->sock = ask_where(c, url);
    if (l->sock < 0)
        return false;
    struct pollfd p = {.fd = l->sock, .events = POLLIN};
    if (localsock_send(l->sock, LEND_HELLO, strlen(LEND_HELLO), NULL, 0, &fd, 1) == 0 && poll(&p, 1, ANSWER_MS) == 1 &&
        localsock_recv(l->sock, l->number, LEND_NUMBER_LEN, NULL, NULL) == LEND_NUMBER_LEN &&
        strspn(l->number, "0123456789abcdef") >= LEND_NUMBER_LEN) {
        l->number[LEND_NUMBER_LEN] = 0;
        return true;
    }
    lend_end(l);
    return false;
}

void lend_end(struct lend *l)
{
    close(l->sock);
    l->sock = -1;
}
