/* Whose word counts about who the client is: addresses of `trust`, and of the other nodes (docs/proxy.md). */
#include "http-proxy/engine.h"

#include <arpa/inet.h>

struct block {
    uint8_t address[16]; /* IPv4 as v4-mapped */
    uint8_t bits;
};

struct trust {
    int n;
    struct block blocks[];
};

static void add(struct trust *t, const char *text)
{
    char address[64];
    struct block *b = &t->blocks[t->n];
    size_t len = strcspn(text, "/");
    if (len >= sizeof address)
        return;
    memcpy(address, text, len);
    address[len] = 0;
    unsigned bits = text[len] ? (unsigned)strtoul(text + len + 1, NULL, 10) : 128;
    memset(b, 0, sizeof *b);
    if (inet_pton(AF_INET, address, b->address + 12) == 1) {
        b->address[10] = b->address[11] = 0xff;
        bits = text[len] ? bits + 96 : 128;
    } else if (inet_pton(AF_INET6, address, b->address) != 1) {
        return; /* a host name of a node: it is not looked up for this */
    }
    b->bits = (uint8_t)bits;
    t->n++;
}

static void add_url(struct trust *t, const char *url)
{
    char host[256];
    const char *p = url ? strstr(url, "://") : NULL, *colon = p ? strrchr(p + 3, ':') : NULL;
    if (!colon)
        return;
    p += 3;
    size_t n = (size_t)(colon - p);
    if (n > 2 && *p == '[') {
        p++;
        n -= 2;
    }
    if (n >= sizeof host)
        return;
    memcpy(host, p, n);
    host[n] = 0;
    add(t, host);
}

struct trust *trust_new(const struct config *c, const struct config_proxy *p)
{
    struct trust *t = calloc(1, sizeof *t + (size_t)(p->trust.n + p->n_peers + 2 * c->n_nodes) * sizeof t->blocks[0]);
    if (!t)
        return NULL;
    for (int i = 0; i < p->trust.n; i++)
        add(t, p->trust.items[i]);
    for (int i = 0; i < p->n_peers; i++)
        add_url(t, p->peers[i].url);
    for (int i = 0; i < c->n_nodes; i++) {
        if (!strcmp(c->nodes[i].name, c->node))
            continue; /* nobody forwards to himself; in tests all nodes share an address all the same */
        add_url(t, c->nodes[i].url);
        add_url(t, c->nodes[i].proxy);
    }
    return t;
}

void trust_free(struct trust *t)
{
    free(t);
}

bool trust_has(const struct trust *t, const struct sockaddr_storage *peer)
{
    uint8_t a[16] = {0};
    if (peer->ss_family == AF_INET) {
        a[10] = a[11] = 0xff;
        memcpy(a + 12, &((const struct sockaddr_in *)peer)->sin_addr, 4);
    } else if (peer->ss_family == AF_INET6) {
        memcpy(a, &((const struct sockaddr_in6 *)peer)->sin6_addr, 16);
    } else {
        return false;
    }
    for (int i = 0; i < t->n; i++) {
        const struct block *b = &t->blocks[i];
        unsigned whole = b->bits / 8, rest = b->bits % 8;
        if (!memcmp(a, b->address, whole) && (!rest || !((a[whole] ^ b->address[whole]) >> (8 - rest))))
            return true;
    }
    return false;
}
