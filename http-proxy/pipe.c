#include "http-proxy/pipe.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define PIPES_MAX 1024u /* in use */

static struct {
    struct pipe *free;
    unsigned n_free, used, low; /* low: fewest free ones since the last tick */
} pool;

static struct pipe *make(void)
{
    int fd[2];
    struct pipe *p = malloc(sizeof *p);
    if (!p || pipe2(fd, O_NONBLOCK | O_CLOEXEC)) {
        free(p);
        return NULL;
    }
    (void)fcntl(fd[1], F_SETPIPE_SZ, (int)PIPE_BYTES); /* the default does, in smaller portions */
    *p = (struct pipe){.in = fd[1], .out = fd[0]};
    return p;
}

static void destroy(struct pipe *p)
{
    close(p->in);
    close(p->out);
    free(p);
}

struct pipe *pipe_get(void)
{
    struct pipe *p = pool.free;
    if (pool.used == PIPES_MAX)
        return NULL;
    if (p) {
        pool.free = p->next;
        if (--pool.n_free < pool.low)
            pool.low = pool.n_free;
    } else if (!(p = make())) {
        return NULL;
    }
    pool.used++;
    return p;
}

void pipe_put(struct pipe *p)
{
    if (!p)
        return;
    pool.used--;
    if (p->n) {
        destroy(p);
        return;
    }
    p->next = pool.free;
    pool.free = p;
    pool.n_free++;
}

void pipe_tick(void)
{
    for (; pool.low && pool.free; pool.low--) {
        struct pipe *p = pool.free;
        pool.free = p->next;
        pool.n_free--;
        destroy(p);
    }
    pool.low = pool.n_free;
}
