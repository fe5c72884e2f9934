#include "http-proxy/credit.h"

#include "lib/util.h"
#include <netinet/in.h>
#include <sys/random.h>

struct credit {
    uint64_t seed; /* nobody outside can aim at a bucket */
    struct {
        uint64_t since_ms; /* up to when credit has come back */
        uint32_t left;
        bool used;
    } buckets[CREDIT_BUCKETS];
};

struct credit *credit_open(void)
{
    struct credit *c = calloc(1, sizeof *c);
    if (c && getrandom(&c->seed, sizeof c->seed, 0) != sizeof c->seed)
        c->seed = now_ns();
    return c;
}

void credit_close(struct credit *c)
{
    free(c);
}

static unsigned bucket(const struct credit *c, uint64_t client)
{
    uint64_t x = client ^ c->seed; /* splitmix64 */
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (unsigned)((x ^ (x >> 31)) % CREDIT_BUCKETS);
}

bool credit_take(struct credit *c, uint64_t client, uint64_t now_ms)
{
    unsigned i = bucket(c, client);
    if (!c->buckets[i].used) {
        c->buckets[i].used = true;
        c->buckets[i].left = CREDIT_MAX;
        c->buckets[i].since_ms = now_ms;
    }
    uint64_t back = (now_ms - c->buckets[i].since_ms) * CREDIT_PER_S / 1000u;
    if (back) {
        c->buckets[i].left = (uint32_t)MIN(c->buckets[i].left + back, CREDIT_MAX);
        c->buckets[i].since_ms += back * 1000u / CREDIT_PER_S;
    }
    if (!c->buckets[i].left)
        return false;
    c->buckets[i].left--;
    return true;
}

void credit_give(struct credit *c, uint64_t client)
{
    unsigned i = bucket(c, client);
    c->buckets[i].left = MIN(c->buckets[i].left + 1, CREDIT_MAX);
}

uint64_t credit_client(const struct sockaddr *peer)
{
    uint64_t n = 0;
    if (peer && peer->sa_family == AF_INET)
        n = ((const struct sockaddr_in *)(const void *)peer)->sin_addr.s_addr;
    else if (peer && peer->sa_family == AF_INET6)
        memcpy(&n, ((const struct sockaddr_in6 *)(const void *)peer)->sin6_addr.s6_addr, sizeof n);
    return n;
}
